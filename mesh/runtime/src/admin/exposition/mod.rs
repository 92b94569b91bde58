//! The forms in which `/metrics` is told: Prometheus' text, OpenMetrics with exemplars, and Prometheus' protobuf with native histograms.
//!
//! In: what a scraper accepts, the page as text 0.0.4, and of its histograms what that text has no room for ([`Details`]). Out: the page in the
//! form that the scraper likes best. The text is the one source of what is told; the other forms are made from it when they are asked for.

mod openmetrics;
mod protobuf;
mod read;

use std::collections::HashMap;

/// The schema of native histograms: 2^3 buckets for each power of two, each 9 % wider than the one before.
pub const NATIVE_SCHEMA: i32 = 3;

/// How a page of metrics is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Prometheus' text format 0.0.4: what everything understands.
    Text,
    /// OpenMetrics 1.0.0: text with exemplars.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, each behind its length: exemplars and native histograms.
    Protobuf,
}

/// More than text 0.0.4 says of histograms, by the histogram's name and labels as the text writes them: `name{label="value"}`.
pub type Details = HashMap<String, Detail>;

/// What text 0.0.4 has no room for, of one histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    /// How many values its native buckets have that are not empty, by the number of the bucket in ascending order: bucket `n` reaches from
    /// above 2^((n-1)/8) to 2^(n/8), in the unit of the histogram ([`NATIVE_SCHEMA`]).
    pub native: Vec<(i32, u64)>,
    /// At most one for each bucket of the text, in any order.
    pub exemplars: Vec<Exemplar>,
}

/// A request that stands for those of its bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The trace that it belongs to: 32 hexadecimal digits.
    pub trace: String,
    /// What was measured of it, in the unit of the histogram.
    pub value: f64,
    /// When it ended, in seconds since 1970.
    pub at: f64,
}

/// A page of metrics in text 0.0.4, and what that form has no room for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Families, each with its `HELP` and `TYPE` before its samples.
    pub text: String,
    /// Only asked for by the other forms.
    pub details: Details,
}

impl From<String> for Page {
    fn from(text: String) -> Self {
        Self { text, details: Details::new() }
    }
}

impl Form {
    /// The form that a scraper likes best of those that there are. `accept` is its `Accept` header (RFC 9110 §12.5.1); what cannot be read of it
    /// counts as not said.
    #[must_use]
    pub fn asked(accept: &str) -> Self {
        let mut best = (Self::Text, 0.0);
        for offer in accept.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let named = |name: &str| {
                let found = parameters.iter().find(|(known, _)| known.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let weight = named("q").map_or(Some(1.0), |q| q.parse::<f64>().ok()).filter(|q| (0.0..=1.0).contains(q));
            let form = match kind.to_ascii_lowercase().as_str() {
                "application/vnd.google.protobuf"
                    if named("proto") == Some("io.prometheus.client.MetricFamily")
                        && named("encoding") == Some("delimited") =>
                {
                    Self::Protobuf
                }
                "application/openmetrics-text" if named("version").is_none_or(|version| version == "1.0.0") => {
                    Self::OpenMetrics
                }
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => continue,
            };
            if let Some(weight) = weight.filter(|weight| *weight > best.1) {
                best = (form, weight);
            }
        }
        best.0
    }

    /// What an answer in this form says that it is.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The page in this form.
    #[must_use]
    pub fn write(self, page: Page) -> Vec<u8> {
        match self {
            Self::Text => page.text.into_bytes(),
            Self::OpenMetrics => openmetrics::write(&page).into_bytes(),
            Self::Protobuf => protobuf::write(&page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_that_it_likes_best() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let prometheus_2 = "application/openmetrics-text; version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, wanted) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/html,*/*;q=0.8", Form::Text),
            (prometheus_2, Form::OpenMetrics),
            (protobuf, Form::Protobuf),
            (&format!("{prometheus_2},{protobuf};q=0.4"), Form::OpenMetrics),
            (&format!("{protobuf},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"), Form::Protobuf),
            ("application/openmetrics-text", Form::OpenMetrics),
            ("APPLICATION/OpenMetrics-Text; Version=\"1.0.0\"", Form::OpenMetrics),
            ("application/openmetrics-text;version=2.0.0", Form::Text),
            ("application/openmetrics-text;q=0,text/plain", Form::Text),
            ("application/openmetrics-text;q=nine", Form::Text),
            ("application/openmetrics-text;q=NaN", Form::Text),
            ("application/vnd.google.protobuf", Form::Text),
            (",;,=;q", Form::Text),
        ] {
            assert_eq!(Form::asked(accept), wanted, "{accept}");
        }
    }
}
