//! A frame as a picture, for the README: `remora demo --for 30s --break endpoint --svg docs/demo.svg`. In: the lines that
//! a terminal would show. Out: an SVG that needs no font but a fixed-width one. It draws what it is given.

use crate::text::{Line, Style};
use std::fmt::Write as _;

const CHAR_WIDTH: f64 = 7.8;
const LINE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 14.0;

/// The picture.
pub(super) fn picture(lines: &[Line]) -> String {
    let columns = lines.iter().map(width).max().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "a picture has no 2^53 lines")]
    let (wide, high) = (columns as f64 * CHAR_WIDTH + 2.0 * MARGIN, lines.len() as f64 * LINE_HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0} {high:.0}" width="{wide:.0}" height="{high:.0}" role="img">
<title>remora demo, as it ran</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d7dde4; white-space: pre; }}
.strong {{ font-weight: bold; fill: #ffffff; }} .faint {{ fill: #8a949e; }} .good {{ fill: #63c174; }}
.warn {{ fill: #e2b54c; }} .bad {{ fill: #ff7b72; font-weight: bold; }}
</style>
<rect width="100%" height="100%" rx="8" fill="#14181d"/>
"##
    );
    let mut below = MARGIN + LINE_HEIGHT * 0.75;
    for line in lines {
        let mut before = 0;
        for span in &line.0 {
            if !span.text.trim().is_empty() {
                #[allow(clippy::cast_precision_loss, reason = "a line has no 2^53 characters")]
                let (at, long) = (MARGIN + before as f64 * CHAR_WIDTH, span.width() as f64 * CHAR_WIDTH);
                let (class, text) = (class(span.style), escaped(&span.text));
                // The length is given, so that columns are straight whatever the font.
                let _ = writeln!(
                    svg,
                    r#"<text x="{at:.1}" y="{below:.1}" textLength="{long:.1}"{class} xml:space="preserve">{text}</text>"#
                );
            }
            before += span.width();
        }
        below += LINE_HEIGHT;
    }
    svg.push_str("</svg>\n");
    svg
}

fn width(line: &Line) -> usize {
    line.0.iter().map(|span| span.width()).sum()
}

const fn class(style: Style) -> &'static str {
    match style {
        Style::Plain => "",
        Style::Strong => r#" class="strong""#,
        Style::Faint => r#" class="faint""#,
        Style::Good => r#" class="good""#,
        Style::Warn => r#" class="warn""#,
        Style::Bad => r#" class="bad""#,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_the_text_and_no_markup_of_its_own() {
        let svg = picture(&[Line::of(Style::Good, "mTLS").and(Style::Plain, " <b>&"), Line::default()]);
        assert!(svg.contains(r#"class="good" xml:space="preserve">mTLS</text>"#));
        assert!(svg.contains("&lt;b&gt;&amp;") && !svg.contains("<b>"));
    }
}
