//! The delays as a picture: the share of streams that has a change, over the time since it was written. Pure.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 4] = ["#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e"];
/// Milliseconds at the ends of the axis, which is logarithmic.
const RANGE_MS: (f64, f64) = (10.0, 20_000.0);

/// An SVG of each curve, by its name.
pub(crate) fn draw(title: &str, curves: &[(String, Vec<f64>)]) -> String {
    let x = |ms: f64| {
        let share = (ms.max(RANGE_MS.0) / RANGE_MS.0).ln() / (RANGE_MS.1 / RANGE_MS.0).ln();
        LEFT + share.min(1.0) * (WIDTH - LEFT - 20.0)
    };
    let y = |share: f64| HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 30.0);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="18" font-size="14">{title}: share of streams that has one endpoint's change, over ms</text>
"#
    );
    for ms in [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0] {
        let (at, bottom) = (x(ms), HEIGHT - BOTTOM);
        let _ = writeln!(svg, r##"<path d="M{at:.1} {bottom}V30" stroke="#dee2e6"/>"##);
        let _ = writeln!(svg, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{ms}</text>"#, bottom + 16.0);
    }
    for share in [0.0, 0.5, 0.99] {
        let at = y(share);
        let _ = writeln!(svg, r##"<path d="M{LEFT} {at:.1}H{}" stroke="#dee2e6"/>"##, WIDTH - 20.0);
        let _ = writeln!(svg, r#"<text x="{}" y="{at:.1}" text-anchor="end">{} %</text>"#, LEFT - 6.0, share * 100.0);
    }
    for (at, ((name, delays), colour)) in curves.iter().zip(COLOURS).enumerate() {
        let mut sorted = delays.clone();
        sorted.sort_by(f64::total_cmp);
        let steps =
            (0..=200).filter_map(|step| Some((f64::from(step) / 200.0, quantile(&sorted, f64::from(step) / 200.0)?)));
        let points: Vec<String> = steps.map(|(share, ms)| format!("{:.1},{:.1}", x(ms), y(share))).collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            points.join(" ")
        );
        let line = 48 + 16 * at;
        let _ = writeln!(svg, r#"<text x="{}" y="{line}" fill="{colour}">{name}</text>"#, LEFT + 10.0);
    }
    svg + "</svg>\n"
}

/// Of sorted values the smallest that is not less than a share of them.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}
