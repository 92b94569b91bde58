//! Lines for people: words with a style, cut to a width, coloured if the reader wants that; and how they are printed.

use std::io::{self, Write};

/// What a word means to the reader; how that looks is decided by who renders it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    /// Headings.
    Strong,
    /// What matters less.
    Faint,
    /// As it should be.
    Good,
    /// Look at this.
    Warn,
    /// Not as it should be.
    Bad,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

/// Some characters of one style.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) text: String,
    pub(crate) style: Style,
}

impl Span {
    /// Control characters, which could come from an admin port we know nothing of, are replaced.
    pub(crate) fn new(style: Style, text: impl AsRef<str>) -> Self {
        let text = text.as_ref().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Self { text, style }
    }

    pub(crate) fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<String> for Span {
    fn from(text: String) -> Self {
        Self::new(Style::Plain, text)
    }
}

impl From<&str> for Span {
    fn from(text: &str) -> Self {
        Self::new(Style::Plain, text)
    }
}

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(pub(crate) Vec<Span>);

impl Line {
    /// One style throughout.
    pub(crate) fn of(style: Style, text: impl AsRef<str>) -> Self {
        Self(vec![Span::new(style, text)])
    }

    /// The same line with more behind it.
    #[must_use]
    pub(crate) fn and(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push(Span::new(style, text));
        self
    }

    /// The same line, at most `width` characters long, and without spaces at its end.
    #[must_use]
    pub(crate) fn cut(self, width: usize) -> Self {
        let mut left = width;
        let mut spans: Vec<Span> = self.0;
        for span in &mut spans {
            let kept: String = span.text.chars().take(left).collect();
            left -= kept.chars().count();
            span.text = kept;
        }
        while let Some(last) = spans.last_mut() {
            last.text.truncate(last.text.trim_end().len());
            if !last.text.is_empty() {
                break;
            }
            spans.pop();
        }
        Self(spans)
    }

    /// As a terminal (or a file) takes it.
    pub(crate) fn render(&self, coloured: bool) -> String {
        self.0.iter().fold(String::new(), |mut line, span| {
            if coloured && span.style != Style::Plain {
                line.extend([span.style.code(), &span.text, "\x1b[0m"]);
            } else {
                line.push_str(&span.text);
            }
            line
        })
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::of(Style::Plain, text)
    }
}

/// All lines, one below the other.
pub(crate) fn render(lines: &[Line], coloured: bool) -> String {
    lines.iter().map(|line| line.render(coloured) + "\n").collect()
}

/// Standard output takes no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct PrintError(#[source] io::Error);

/// Writes to standard output. A reader that closed the pipe (`| head`) is no failure; a full disk is.
pub(crate) fn print(text: &str) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(PrintError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_fits_and_keeps_its_colours() {
        let line = Line::of(Style::Good, "mTLS").and(Style::Plain, "  ").and(Style::Bad, "503 timeout");
        assert_eq!(line.clone().cut(9).render(false), "mTLS  503");
        assert_eq!(line.clone().cut(9).render(true), "\x1b[32mmTLS\x1b[0m  \x1b[1;31m503\x1b[0m");
        assert_eq!(line.cut(6).render(true), "\x1b[32mmTLS\x1b[0m", "no spaces at the end");
    }

    #[test]
    fn control_characters_of_a_stranger_do_not_reach_the_terminal() {
        assert_eq!(Line::of(Style::Plain, "\x1b[2Jhi").render(true), "?[2Jhi");
    }
}
