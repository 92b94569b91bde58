//! Small readings of what objects say.

use crate::objects::core::Pod;
use remora_model::Protocol;
use std::net::IpAddr;
use std::time::Duration;

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

/// Whether `3306,5000-5010` names `port`.
pub(super) fn names_port(list: Option<&String>, port: u16) -> bool {
    list.is_some_and(|list| {
        list.split(',').any(|one| match one.trim().split_once('-') {
            Some((from, to)) => {
                let bounds = from.parse::<u16>().ok().zip(to.parse::<u16>().ok());
                bounds.is_some_and(|(from, to)| (from..=to).contains(&port))
            }
            None => one.trim().parse() == Ok(port),
        })
    })
}

/// A duration as GEP-2257 writes it: one to four of `h`, `m`, `s`, `ms`, each with up to five digits, in this order.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 10s or 1h30m");
    let (mut rest, mut total, mut last) = (text, Duration::ZERO, 0);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (rank, millis) = match unit {
            "h" => (1, 3_600_000),
            "m" => (2, 60_000),
            "s" => (3, 1000),
            "ms" => (4, 1),
            _ => return Err(wrong()),
        };
        if digits == 0 || digits > 5 || rank <= last {
            return Err(wrong());
        }
        total += Duration::from_millis(number.parse::<u64>().map_err(|_| wrong())? * millis);
        (rest, last) = (after, rank);
    }
    Ok(total)
}
