//! Text tables for people: columns as wide as their content, numbers to the right, headings that span all columns.

use crate::text::{Line, Span, Style};

/// How a column is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<Span>),
    /// A line of its own, whatever the columns are.
    Across(Line),
}

impl Table {
    /// An empty table; a row must have as many cells as there are columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Span>) {
        self.rows.push(Row::Cells(cells.into_iter().collect()));
    }

    /// Adds a line that spans all columns and widens none.
    pub(crate) fn across(&mut self, line: Line) {
        self.rows.push(Row::Across(line));
    }

    /// The lines, headings first, none longer than `width` characters.
    pub(crate) fn lines(self, width: usize) -> Vec<Line> {
        let headings: Vec<Span> = self.columns.iter().map(|(name, _)| Span::new(Style::Faint, name)).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| match row {
                    Row::Cells(cells) => cells.get(at),
                    Row::Across(_) => None,
                });
                cells.chain(headings.get(at)).map(Span::width).max().unwrap_or(0)
            })
            .collect();
        let aligned = |cells: Vec<Span>| {
            let mut line = Line::default();
            for ((cell, (_, align)), wide) in cells.into_iter().zip(&self.columns).zip(&widths) {
                if !line.0.is_empty() {
                    line.0.push("  ".into());
                }
                let space = Span::from(" ".repeat(wide.saturating_sub(cell.width())));
                line.0.extend(match align {
                    Align::Left => [cell, space],
                    Align::Right => [space, cell],
                });
            }
            line
        };
        let mut lines = vec![aligned(headings).cut(width)];
        lines.extend(self.rows.into_iter().map(|row| match row {
            Row::Cells(cells) => aligned(cells).cut(width),
            Row::Across(line) => line.cut(width),
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(table: Table, width: usize) -> Vec<String> {
        table.lines(width).iter().map(|line| line.render(false)).collect()
    }

    fn table() -> Table {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["a-long-name".into(), "7".into()]);
        table.across(Line::of(Style::Strong, "a heading that is longer than any row of the table"));
        table.row(["b".into(), "1234".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_content_and_not_as_the_lines_between_them() {
        assert_eq!(
            shown(table(), 80),
            [
                "name            n",
                "a-long-name     7",
                "a heading that is longer than any row of the table",
                "b            1234"
            ]
        );
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        assert!(shown(table(), 9).iter().all(|line| line.chars().count() <= 9));
    }
}
