//! Small readings of what objects say.

use crate::objects::core::Pod;
use remora_api::convert::DURATION_MAX;
use remora_model::Protocol;
use std::{net::IpAddr, time::Duration};

/// All addresses of a pod that still runs.
pub(super) fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let texts = pod.status.pod_ips.iter().map(|ip| &ip.ip).chain(&pod.status.pod_ip);
    let mut ips: Vec<IpAddr> = texts.filter_map(|ip| ip.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    ips
}

/// What an `appProtocol` says. TLS stays with detection, which passes it through.
pub(super) fn protocol(app_protocol: Option<&str>) -> Protocol {
    match app_protocol {
        Some("http" | "ws" | "kubernetes.io/ws") => Protocol::Http1,
        Some("kubernetes.io/h2c" | "grpc" | "http2" | "h2c") => Protocol::Http2,
        Some("tcp" | "mysql" | "redis" | "postgres" | "postgresql" | "mongo") => Protocol::Opaque,
        _ => Protocol::Detect,
    }
}

/// A duration as GEP-2257 writes it: one to four of `h`, `m`, `s`, `ms`, each with up to five digits, in any order. One that
/// is longer than any message carries is as good as none, and is cut to that.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 10s or 1h30m");
    let (mut rest, mut total, mut units) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        units += 1;
        if digits == 0 || digits > 5 || units > 4 {
            return Err(wrong());
        }
        total += Duration::from_millis(number.parse::<u64>().map_err(|_| wrong())? * millis);
        rest = after;
    }
    if units == 0 { Err(wrong()) } else { Ok(total.min(DURATION_MAX)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_what_gep_2257_takes_and_never_longer_than_a_message_carries() {
        let millis = |text: &str| duration(text).ok().map(|time| time.as_millis());
        for (text, expected) in [
            ("10s30m1h", 5_410_000),
            ("100ms200ms300ms", 600),
            ("1h2h20m10m", 12_600_000),
            ("0h0m0s", 0),
            ("7230s", 7_230_000),
            ("00060m", 3_600_000),
            ("99999h", DURATION_MAX.as_millis()),
            ("99999h99999h99999h99999h", DURATION_MAX.as_millis()),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in ["", "1", "1 s", "1d", "-1s", "1.5s", "100000s", "1s1s1s1s1s", "s", "1S", "\u{661}s"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
