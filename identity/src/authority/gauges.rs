//! The expiries that an operator must know of, in Prometheus' text format. They are not in the metrics recorder because it cannot
//! forget an anchor that went.

use super::Authority;
use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

impl Authority {
    /// Families of gauges.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let (state, local) = (self.state(), self.local());
        let mut text = String::new();
        let mut family = |name: &str, help: &str, samples: &[(String, SystemTime)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, at) in samples {
                let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let _ = writeln!(text, "{name}{labels} {seconds}");
            }
        };
        let signing = &local.record.issuer;
        family(
            "remora_identity_issuer_expiry_timestamp_seconds",
            "When the first certificate of the issuer's chain ends, in seconds since 1970.",
            &[(String::new(), signing.not_after)],
        );
        family(
            "remora_identity_issuer_waits_until_timestamp_seconds",
            "When a new issuer begins to sign, whose anchor is not known to all yet; 0 if none waits.",
            &[(String::new(), local.signs_at.unwrap_or(UNIX_EPOCH))],
        );
        let anchors = state.anchors().iter();
        let labelled = anchors.clone().map(|anchor| {
            let signs = anchor.der == signing.anchor;
            (format!("{{anchor=\"{}\",signing=\"{signs}\"}}", anchor.fingerprint), anchor.not_after)
        });
        family(
            "remora_identity_anchor_expiry_timestamp_seconds",
            "When a trust anchor ends, in seconds since 1970; signing is whether new certificates chain to it.",
            &labelled.collect::<Vec<_>>(),
        );
        let until = anchors.filter_map(|anchor| {
            let known = local.record.anchor(&anchor.der).filter(|known| known.leaves_until > UNIX_EPOCH)?;
            Some((format!("{{anchor=\"{}\"}}", anchor.fingerprint), known.leaves_until))
        });
        family(
            "remora_identity_anchor_leaves_until_timestamp_seconds",
            "Until when certificates may chain to a trust anchor, which is published until then whatever ca.crt says.",
            &until.collect::<Vec<_>>(),
        );
        text
    }
}
