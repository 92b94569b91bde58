//! Small texts to values: durations, headers.

use anyhow::{Context as _, bail};
use std::time::Duration;

/// `250ms`, `10s` or `3m`.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().context("no number; write 250ms, 10s or 3m")?;
    Ok(match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        unit => bail!("unit {unit:?} is none of ms, s, m"),
    })
}

/// `name:value`, as curl's `-H` takes it.
pub(crate) fn header(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once(':').context("a header is NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms").ok(), Some(Duration::from_millis(250)));
        assert_eq!(duration("3m").ok(), Some(Duration::from_secs(180)));
        assert!(duration("10").is_err() && duration("s").is_err() && duration("1h").is_err());
    }

    #[test]
    fn a_header_is_split_at_its_first_colon() {
        assert_eq!(header("a: b:c").ok(), Some(("a".into(), "b:c".into())));
        assert!(header("a").is_err());
    }
}
