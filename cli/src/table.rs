//! Text tables for people: columns as wide as their content, numbers to the right.

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
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table; a row must have as many cells as there are columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Control characters, which could come from an admin port we know nothing of, are replaced.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The lines, headings first, none longer than `width` characters.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        all()
            .map(|row| {
                let cells = row.iter().zip(&self.columns).zip(&widths).map(|((cell, (_, align)), &wide)| match align {
                    Align::Left => format!("{cell:<wide$}"),
                    Align::Right => format!("{cell:>wide$}"),
                });
                let line = cells.collect::<Vec<_>>().join("  ");
                line.trim_end().chars().take(width).collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_content_and_lines_fit() {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["a-long-name".to_owned(), "7".to_owned()]);
        table.row(["b".to_owned(), "1234".to_owned()]);
        assert_eq!(table.lines(80), ["name            n", "a-long-name     7", "b            1234"]);
        assert!(table.lines(9).iter().all(|line| line.chars().count() <= 9));
    }

    #[test]
    fn control_characters_of_a_stranger_do_not_reach_the_terminal() {
        let mut table = Table::new(&[("x", Align::Left)]);
        table.row(["\x1b[2Jhi".to_owned()]);
        assert_eq!(table.lines(80), ["x", "?[2Jhi"]);
    }
}
