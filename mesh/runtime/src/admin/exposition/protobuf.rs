//! `io.prometheus.client.MetricFamily` (prometheus/client_model, `metrics.proto`), each behind its length: the form that has native histograms.
//!
//! Five messages of numbers and strings, written by hand: the fields stand beside their numbers below.

use super::{
    Detail, Exemplar, NATIVE_SCHEMA, Page,
    openmetrics::split_le,
    read::{Family, Kind, Sample, families, labels},
};

/// Below that a value counts as zero: Prometheus' own default.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

pub(super) fn write(page: &Page) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.text.len());
    for family in families(&page.text) {
        Message(&mut out).delimited(|message| write_family(&family, page, message));
    }
    out
}

fn write_family(family: &Family<'_>, page: &Page, message: &mut Message<'_>) {
    message.bytes(1, family.name.as_bytes());
    message.bytes(2, unescaped(family.help).as_bytes());
    message.number(
        3,
        match family.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            // None of ours has summaries; of one that had, the quantiles are told one by one.
            Kind::Summary | Kind::Unknown => 3,
            Kind::Histogram => 4,
        },
    );
    if family.kind != Kind::Histogram {
        for sample in &family.samples {
            message.message(4, |metric| {
                write_labels(sample.labels, metric);
                let value = |value: &mut Message<'_>| value.float(1, number(sample.value));
                match family.kind {
                    Kind::Counter => metric.message(3, value),
                    Kind::Gauge => metric.message(2, value),
                    _ => metric.message(5, value),
                }
            });
        }
        return;
    }
    let of = |sample: &Sample<'_>| {
        if sample.name.ends_with("_bucket") { split_le(sample.labels).0.len() } else { sample.labels.len() }
    };
    let same = |a: &Sample<'_>, b: &Sample<'_>| a.labels[..of(a)] == b.labels[..of(b)];
    for samples in family.samples.chunk_by(same) {
        let Some(labels) = samples.first().map(|first| &first.labels[..of(first)]) else { continue };
        let key = if labels.is_empty() { family.name.to_owned() } else { format!("{}{{{labels}}}", family.name) };
        message.message(4, |metric| {
            write_labels(labels, metric);
            metric.message(7, |histogram| write_histogram(samples, page.details.get(&key), histogram));
        });
    }
}

fn write_labels(text: &str, metric: &mut Message<'_>) {
    for (name, value) in labels(text) {
        metric.message(1, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.bytes(2, value.as_bytes());
        });
    }
}

fn write_histogram(samples: &[Sample<'_>], detail: Option<&Detail>, histogram: &mut Message<'_>) {
    let exemplars = detail.map(|detail| detail.exemplars.as_slice()).unwrap_or_default();
    let mut above = f64::NEG_INFINITY;
    for sample in samples {
        if sample.name.ends_with("_count") {
            histogram.number(1, sample.value.parse().unwrap_or(0));
        } else if sample.name.ends_with("_sum") {
            histogram.float(2, number(sample.value));
        } else {
            let bound = split_le(sample.labels).1.unwrap_or(f64::INFINITY);
            let exemplar = exemplars.iter().find(|exemplar| exemplar.value > above && exemplar.value <= bound);
            above = bound;
            histogram.message(3, |bucket| {
                bucket.number(1, sample.value.parse().unwrap_or(0));
                bucket.float(2, bound);
                if let Some(exemplar) = exemplar {
                    bucket.message(3, |message| write_exemplar(exemplar, message));
                }
            });
        }
    }
    let Some(detail) = detail else { return };
    histogram.number(5, zigzag(i64::from(NATIVE_SCHEMA)));
    histogram.float(6, ZERO_THRESHOLD);
    histogram.number(7, 0);
    write_native(&detail.native, histogram);
    for exemplar in exemplars {
        histogram.message(16, |message| write_exemplar(exemplar, message));
    }
}

/// Spans of buckets that follow each other, and of each bucket how many more it has than the one before.
fn write_native(native: &[(i32, u64)], histogram: &mut Message<'_>) {
    let mut end = 0;
    for span in native.chunk_by(|(before, _), (after, _)| before + 1 == *after) {
        let Some((first, _)) = span.first() else { continue };
        histogram.message(12, |message| {
            message.number(1, zigzag(i64::from(*first - end)));
            message.number(2, span.len() as u64);
        });
        // A span has at most as many buckets as there are.
        end = first + span.len() as i32;
    }
    if native.is_empty() {
        // A span of nothing says that this is a native histogram in which nothing was counted.
        histogram.message(12, |message| {
            message.number(1, 0);
            message.number(2, 0);
        });
    }
    let mut before = 0;
    for (_, count) in native {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        histogram.number(13, zigzag(count - before));
        before = count;
    }
}

fn write_exemplar(exemplar: &Exemplar, message: &mut Message<'_>) {
    message.message(1, |pair| {
        pair.bytes(1, b"trace_id");
        pair.bytes(2, exemplar.trace.as_bytes());
    });
    message.float(2, exemplar.value);
    message.message(3, |timestamp| {
        timestamp.number(1, exemplar.at as u64);
        timestamp.number(2, (exemplar.at.fract() * 1e9) as u64);
    });
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

fn unescaped(help: &str) -> String {
    help.replace("\\n", "\n").replace("\\\\", "\\")
}

/// A number of either sign as protobuf's `sint` writes it.
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// A message that is being written (protobuf.dev/programming-guides/encoding).
struct Message<'a>(&'a mut Vec<u8>);

impl Message<'_> {
    fn tag(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f64) {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Message<'_>)) {
        self.tag(field, 2);
        self.delimited(write);
    }

    fn delimited(&mut self, write: impl FnOnce(&mut Message<'_>)) {
        let mut inner = Vec::new();
        write(&mut Message(&mut inner));
        self.varint(inner.len() as u64);
        self.0.extend(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a message says, as one who knows no schema reads it.
    fn shown(bytes: &[u8], out: &mut Vec<String>, path: &str, strings: &[&str]) {
        let mut rest = bytes;
        let varint = |rest: &mut &[u8]| {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let (byte, after) = rest.split_first().unwrap();
                *rest = after;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return value;
                }
                shift += 7;
            }
        };
        while !rest.is_empty() {
            let tag = varint(&mut rest);
            let path = format!("{path}.{}", tag >> 3);
            match tag & 7 {
                0 => out.push(format!("{path}={}", varint(&mut rest))),
                1 => {
                    let (value, after) = rest.split_first_chunk().unwrap();
                    rest = after;
                    out.push(format!("{path}={}", f64::from_le_bytes(*value)));
                }
                2 => {
                    let length = varint(&mut rest) as usize;
                    let (value, after) = rest.split_at(length);
                    rest = after;
                    if strings.contains(&path.as_str()) {
                        out.push(format!("{path}={}", String::from_utf8_lossy(value)));
                    } else {
                        shown(value, out, &path, strings);
                    }
                }
                other => panic!("wire type {other}"),
            }
        }
    }

    fn families_of(page: &Page) -> Vec<Vec<String>> {
        let bytes = write(page);
        let (mut rest, mut all) = (bytes.as_slice(), Vec::new());
        while let Some((length, after)) = rest.split_first() {
            assert!(*length < 0x80, "tests have short families");
            let (family, after) = after.split_at(usize::from(*length));
            let mut out = Vec::new();
            let strings =
                ["f.1", "f.2", "f.4.1.1", "f.4.1.2", "f.4.7.16.1.1", "f.4.7.16.1.2", "f.4.7.3.3.1.1", "f.4.7.3.3.1.2"];
            shown(family, &mut out, "f", &strings);
            all.push(out);
            rest = after;
        }
        all
    }

    #[test]
    fn counters_and_gauges_have_their_labels_and_values() {
        let text = "# HELP r_total So\\nmany.\n# TYPE r_total counter\nr_total{a=\"b\\\"\"} 3\n# TYPE up gauge\nup 1.5\nodd 2\n";
        let all = families_of(&Page { text: text.to_owned(), ..Page::default() });
        assert_eq!(all[0], ["f.1=r_total", "f.2=So\nmany.", "f.3=0", "f.4.1.1=a", "f.4.1.2=b\"", "f.4.3.1=3"]);
        assert_eq!(all[1], ["f.1=up", "f.2=", "f.3=1", "f.4.2.1=1.5"]);
        assert_eq!(all[2], ["f.1=odd", "f.2=", "f.3=3", "f.4.5.1=2"]);
    }

    #[test]
    fn a_native_histogram_has_spans_and_differences() {
        let text = "# TYPE d histogram\nd_bucket{le=\"+Inf\"} 9\nd_sum 2\nd_count 9\n";
        let detail = Detail { native: vec![(-3, 2), (-2, 5), (4, 2)], exemplars: Vec::new() };
        let page = Page { text: text.to_owned(), details: [("d".to_owned(), detail)].into() };
        let all = families_of(&page);
        assert_eq!(
            all[0][3..],
            [
                "f.4.7.3.1=9",
                "f.4.7.3.2=inf",
                "f.4.7.2=2",
                "f.4.7.1=9",
                "f.4.7.5=6",
                "f.4.7.6=0.000000000000000000000000000000000000002938735877055719",
                "f.4.7.7=0",
                // Two buckets from -3 on (zigzag), and one after a gap of five.
                "f.4.7.12.1=5",
                "f.4.7.12.2=2",
                "f.4.7.12.1=10",
                "f.4.7.12.2=1",
                // 2, 3 more, 3 less.
                "f.4.7.13=4",
                "f.4.7.13=6",
                "f.4.7.13=5",
            ]
        );
    }

    #[test]
    fn an_exemplar_stands_with_its_bucket_and_with_its_histogram() {
        let text = "# TYPE d histogram\nd_bucket{a=\"b\",le=\"1\"} 0\nd_bucket{a=\"b\",le=\"+Inf\"} 1\n";
        let exemplar = Exemplar { trace: "4bf9".to_owned(), value: 2.0, at: 7.5 };
        let detail = Detail { native: Vec::new(), exemplars: vec![exemplar] };
        let page = Page { text: text.to_owned(), details: [("d{a=\"b\"}".to_owned(), detail)].into() };
        let bytes = write(&page);
        let mut out = Vec::new();
        // Two bytes of length.
        shown(
            &bytes[2..],
            &mut out,
            "f",
            &["f.1", "f.2", "f.4.1.1", "f.4.1.2", "f.4.7.16.1.1", "f.4.7.16.1.2", "f.4.7.3.3.1.1", "f.4.7.3.3.1.2"],
        );
        let at = |wanted: &str| {
            out.iter().position(|line| line == wanted).unwrap_or_else(|| panic!("no {wanted} in {out:?}"))
        };
        assert!(at("f.4.7.3.2=1") < at("f.4.7.3.3.1.2=4bf9"), "{out:?}");
        assert_eq!(out.iter().filter(|line| line.ends_with("=4bf9")).count(), 2);
        at("f.4.7.3.3.3.1=7");
        at("f.4.7.3.3.3.2=500000000");
        at("f.4.7.12.2=0");
    }

    #[test]
    fn a_histogram_of_several_labels_is_told_for_each_of_them() {
        let text = "# TYPE d histogram\nd_bucket{a=\"b\",le=\"+Inf\"} 1\nd_sum{a=\"b\"} 1\nd_bucket{a=\"bc\",le=\"+Inf\"} 2\nd_sum{a=\"bc\"} 3\n";
        let all = families_of(&Page { text: text.to_owned(), ..Page::default() });
        let sums: Vec<_> =
            all[0].iter().filter(|line| line.starts_with("f.4.7.2=") || line.starts_with("f.4.1.2=")).collect();
        assert_eq!(sums, ["f.4.1.2=b", "f.4.7.2=1", "f.4.1.2=bc", "f.4.7.2=3"]);
    }
}
