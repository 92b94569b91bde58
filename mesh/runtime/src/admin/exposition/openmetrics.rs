//! OpenMetrics 1.0.0 (the IETF draft-richih-opsawg-openmetrics): names of counters' families without `_total`, exemplars behind the buckets, `# EOF`.

use super::{
    Detail, Exemplar, Page,
    read::{Family, Kind, Sample, families, labels},
};
use std::fmt::Write as _;

pub(super) fn write(page: &Page) -> String {
    let mut out = String::with_capacity(page.text.len() + page.text.len() / 8);
    for family in families(&page.text) {
        head(&family, &mut out);
        let mut begun: Option<(&str, Bucket<'_>)> = None;
        for sample in &family.samples {
            if !sample.name.ends_with("_bucket") || family.kind != Kind::Histogram {
                begun = None;
                line(&mut out, format_args!("{}{} {}", sample.name, braces(sample.labels), sample.value));
                continue;
            }
            let (of, bound) = split_le(sample.labels);
            let bucket = match begun.take() {
                Some((known, bucket)) if known == of => bucket,
                _ => Bucket {
                    detail: page.details.get(&format!("{}{}", family.name, braces(of))),
                    above: f64::NEG_INFINITY,
                },
            };
            write_bucket(sample, (of, bound), &bucket, &mut out);
            begun = Some((of, Bucket { above: bound.unwrap_or(f64::INFINITY), ..bucket }));
        }
    }
    out.push_str("# EOF\n");
    out
}

/// Where the next bucket of a histogram begins, and what more is known of the histogram.
struct Bucket<'a> {
    detail: Option<&'a Detail>,
    above: f64,
}

fn head(family: &Family<'_>, out: &mut String) {
    let (name, kind) = match family.kind {
        // A counter's samples end with `_total`, and its family's name does not.
        Kind::Counter => match family.name.strip_suffix("_total") {
            Some(name) => (name, "counter"),
            None => (family.name, "unknown"),
        },
        Kind::Gauge => (family.name, "gauge"),
        Kind::Histogram => (family.name, "histogram"),
        Kind::Summary => (family.name, "summary"),
        Kind::Unknown => (family.name, "unknown"),
    };
    if !family.help.is_empty() {
        line(out, format_args!("# HELP {name} {}", family.help.replace('"', "\\\"")));
    }
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn write_bucket(sample: &Sample<'_>, (of, bound): (&str, Option<f64>), bucket: &Bucket<'_>, out: &mut String) {
    let comma = if of.is_empty() { "" } else { "," };
    let bound = bound.unwrap_or(f64::INFINITY);
    let bound_shown = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
    let _ = write!(out, "{}{{{of}{comma}le=\"{bound_shown}\"}} {}", sample.name, sample.value);
    let exemplars = bucket.detail.map(|detail| detail.exemplars.as_slice()).unwrap_or_default();
    if let Some(Exemplar { trace, value, at }) =
        exemplars.iter().find(|exemplar| exemplar.value > bucket.above && exemplar.value <= bound)
    {
        let _ = write!(out, " # {{trace_id=\"{trace}\"}} {value} {at:.3}");
    }
    out.push('\n');
}

/// The labels of a bucket but `le`, which is the last, and the value of that.
pub(super) fn split_le(text: &str) -> (&str, Option<f64>) {
    let at = text.rfind("le=\"").unwrap_or(text.len());
    let (of, le) = text.split_at(at);
    let bound = labels(le).first().and_then(|(_, value)| value.parse().ok());
    (of.trim_end_matches(','), bound)
}

fn braces(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_as_openmetrics_says() {
        let text = "# HELP r_total So \"many\".\n# TYPE r_total counter\nr_total{a=\"b\"} 3\n\n# TYPE up gauge\nup 1\n# TYPE odd counter\nodd 1\n\
                    # TYPE d histogram\nd_bucket{a=\"b\",le=\"0.5\"} 1\nd_bucket{a=\"b\",le=\"10\"} 3\nd_bucket{a=\"b\",le=\"+Inf\"} 3\n\
                    d_sum{a=\"b\"} 4.5\nd_count{a=\"b\"} 3\nd_bucket{a=\"c\",le=\"0.5\"} 0\n";
        let exemplar = |value| Exemplar { trace: "4bf9".to_owned(), value, at: 1_790_000_000.25 };
        let detail = Detail { exemplars: vec![exemplar(0.5), exemplar(11.0)], ..Detail::default() };
        let page = Page { text: text.to_owned(), details: [("d{a=\"b\"}".to_owned(), detail)].into() };
        assert_eq!(
            write(&page),
            "# HELP r So \\\"many\\\".\n# TYPE r counter\nr_total{a=\"b\"} 3\n# TYPE up gauge\nup 1\n# TYPE odd unknown\nodd 1\n\
             # TYPE d histogram\nd_bucket{a=\"b\",le=\"0.5\"} 1 # {trace_id=\"4bf9\"} 0.5 1790000000.250\n\
             d_bucket{a=\"b\",le=\"10.0\"} 3\nd_bucket{a=\"b\",le=\"+Inf\"} 3 # {trace_id=\"4bf9\"} 11 1790000000.250\n\
             d_sum{a=\"b\"} 4.5\nd_count{a=\"b\"} 3\nd_bucket{a=\"c\",le=\"0.5\"} 0\n# EOF\n"
        );
    }

    #[test]
    fn an_empty_page_ends() {
        assert_eq!(write(&Page::default()), "# EOF\n");
    }
}
