//! Whether a proxy makes spans of requests, of how many, and who collects them.

use crate::Target;
use std::{fmt, str::FromStr};

/// Digits behind the point of a percentage: one in a million is the least share but none.
const DECIMALS_MAX: usize = 4;

/// Whether a proxy makes spans.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Tracing {
    /// It makes none, and touches no header.
    #[default]
    Off,
    /// It makes spans of requests whose caller is sampled, and of a share of those that come without a trace context.
    On {
        /// Who takes the spans, by OTLP over gRPC.
        collector: Target,
        /// The share of requests without a trace context that begin a trace.
        sample: Sample,
    },
}

/// A share, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample(u32);

impl Sample {
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// So many millionths, if that is a share.
    pub fn of_millionths(millionths: u32) -> Option<Self> {
        (millionths <= Self::ALL.0).then_some(Self(millionths))
    }

    /// How many millionths it is.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// A percentage with its sign: `1%`, `0.01%`, `100%`.
    fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
        let digits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 3) || !digits(decimals, DECIMALS_MAX) {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let decimals: u32 = format!("{decimals:0<DECIMALS_MAX$}").parse().ok()?;
        Self::of_millionths(whole * 10_000 + decimals)
    }
}

/// One in a hundred.
impl Default for Sample {
    fn default() -> Self {
        Self(10_000)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, self.0 % 10_000);
        match decimals {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{decimals:0DECIMALS_MAX$}").trim_end_matches('0')),
        }
    }
}

impl fmt::Display for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On { collector, sample } => write!(f, "{collector} sample={sample}"),
        }
    }
}

/// A text that names no [`Tracing`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is off, or host:port of a collector that takes OTLP over gRPC, and behind it sample= and a percentage if there is one, such as: \
     otel-collector.observability:4317 sample=1%"
)]
pub struct InvalidTracing;

impl FromStr for Tracing {
    type Err = InvalidTracing;

    fn from_str(text: &str) -> Result<Self, InvalidTracing> {
        let mut words = text.split_whitespace();
        let (collector, options) = (words.next().ok_or(InvalidTracing)?, words.collect::<Vec<_>>());
        let sample = match &options[..] {
            [] if collector == "off" => return Ok(Self::Off),
            [] => Sample::default(),
            [option] if collector != "off" => {
                option.strip_prefix("sample=").and_then(Sample::parse).ok_or(InvalidTracing)?
            }
            _ => return Err(InvalidTracing),
        };
        // A port must be named, so that `on` is no host.
        let collector = Target::parse(collector, 0).ok().filter(|target| target.port() > 0).ok_or(InvalidTracing)?;
        Ok(Self::On { collector, sample })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracing_is_read_as_it_is_written() {
        for (text, written) in [
            ("off", "off"),
            (" otel-collector.observability:4317 ", "otel-collector.observability:4317 sample=1%"),
            ("Otel.o11y:4317 sample=100%", "otel.o11y:4317 sample=100%"),
            ("10.0.0.1:4317\tsample=0.01%", "10.0.0.1:4317 sample=0.01%"),
            ("[fd00::1]:4317 sample=0%", "[fd00::1]:4317 sample=0%"),
            ("otel:4317 sample=33.3333%", "otel:4317 sample=33.3333%"),
            ("otel:4317 sample=012.50%", "otel:4317 sample=12.5%"),
        ] {
            let read: Tracing = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), written);
            assert_eq!(written.parse(), Ok(read));
        }
    }

    #[test]
    fn what_names_no_collector_or_no_share_is_refused() {
        for wrong in [
            "",
            " ",
            "on",
            "true sample=1%",
            "otel",
            "[fd00::1]",
            "off sample=1%",
            "otel:0",
            "otel:x",
            "http://otel:4317",
            "otel:4317 sample=1",
            "otel:4317 sample=101%",
            "otel:4317 sample=100.0001%",
            "otel:4317 sample=-1%",
            "otel:4317 sample=1.%",
            "otel:4317 sample=.5%",
            "otel:4317 sample=0.00001%",
            "otel:4317 sample=1% sample=1%",
            "otel:4317 rate=1%",
        ] {
            assert_eq!(wrong.parse::<Tracing>(), Err(InvalidTracing), "{wrong:?}");
        }
    }
}
