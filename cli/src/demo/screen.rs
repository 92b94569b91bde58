//! The terminal while the demo runs: frames drawn over each other on the alternate screen, so that what was on the
//! terminal before is there again afterwards.

use crate::{sys, text::Line};
use std::io::{IsTerminal, Write};

/// Alternate screen; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Terminals that know it show nothing between the two, so that half a frame is never visible; others ignore it.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// A terminal that frames are drawn on. Dropping it gives the terminal back as it was.
#[derive(Debug)]
pub(super) struct Screen {
    coloured: bool,
}

impl Screen {
    /// Takes standard output, if that is a terminal.
    pub(super) fn take(coloured: bool) -> Option<Self> {
        std::io::stdout().is_terminal().then(|| {
            write(ENTER);
            Self { coloured }
        })
    }

    /// Columns and rows.
    pub(super) fn size() -> (usize, usize) {
        sys::terminal_size().map_or((80, 24), |(columns, rows)| (columns.into(), rows.into()))
    }

    /// Draws a frame over the last one. Nothing is erased before it is drawn again: no flicker.
    pub(super) fn draw(&self, lines: &[Line]) {
        let lines: Vec<_> = lines.iter().map(|line| line.render(self.coloured)).collect();
        write(&format!("{BEGIN}\x1b[H{}\x1b[K\x1b[J{END}", lines.join("\x1b[K\n")));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(LEAVE);
    }
}

/// If the terminal is closed, the process gets SIGHUP; this is not the place.
fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}
