//! What may be done with a target, by what discovery has said of it. Pure: no socket, no clock.
//!
//! Silence is not "outside": only what discovery *said* to be outside the mesh, or what lies outside the cluster's ranges,
//! is ever passed through in plaintext. All else waits, and is refused with its reason.

use super::Plan;
use crate::{limits, telemetry::Reason};
use ipnet::IpNet;
use remora_model::{Target, UnknownTargets};
use std::{fmt, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

/// The ranges of the cluster's Services and pods. None: not known, and everything may be the cluster's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Networks(Arc<[IpNet]>);

impl Networks {
    /// These ranges.
    pub(crate) fn new(ranges: Vec<IpNet>) -> Self {
        Self(ranges.into())
    }

    /// Whether `target` may be in the cluster: a name always, an address if it is in a range. While no range is known, all
    /// addresses are but those that no cluster routes: loopback and link-local.
    pub(crate) fn contain(&self, target: &Target) -> bool {
        let Target::Address(address) = target else { return true };
        let ip = address.ip().to_canonical();
        if self.0.is_empty() { !is_local(ip) } else { self.0.iter().any(|range| range.contains(&ip)) }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// What is known of a target.
#[derive(Debug, Clone, Default)]
pub(crate) enum Answer {
    /// Discovery has sent nothing yet: it is late, down or busy.
    #[default]
    Silent,
    /// It is in the mesh's care.
    Plan(Rc<Plan>),
    /// Discovery says that it is outside the mesh.
    Outside,
    /// Discovery says that it knows nothing there, and that the cluster may have it.
    Unknown,
    /// What discovery said could not be used: which object, and why.
    Unusable(Arc<str>),
    /// This proxy has no room for it.
    Full,
}

/// What may be done with a connection or request.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// It goes by this plan.
    Mesh(Rc<Plan>),
    /// It is passed through untouched, in plaintext for all we know.
    Pass,
}

/// Why a target cannot be reached for now.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// One of `discovery_silent`, `unknown_target`, `unusable_config`, `overloaded`.
    pub reason: Reason,
    /// What to look at.
    pub detail: Arc<str>,
}

impl Refusal {
    pub(super) fn new(reason: Reason, detail: impl Into<Arc<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What follows from an [`Answer`].
#[derive(Debug)]
pub(crate) enum Verdict {
    Go(Way),
    /// Another answer may come within this time.
    Wait(Duration),
    Refuse(Refusal),
}

impl Answer {
    /// Judges a connection to `target` that has waited for `waited`; `inside`: the cluster may have such a target.
    pub(crate) fn judge(&self, target: &Target, inside: bool, unknown: UnknownTargets, waited: Duration) -> Verdict {
        let closed = inside || unknown == UnknownTargets::Deny;
        let within = |most: Duration, then: Verdict| match most.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => Verdict::Wait(rest),
            _ => then,
        };
        let refuse = |reason, detail: String| Verdict::Refuse(Refusal::new(reason, detail));
        match self {
            Self::Plan(plan) => Verdict::Go(Way::Mesh(plan.clone())),
            Self::Outside if unknown == UnknownTargets::Pass => Verdict::Go(Way::Pass),
            Self::Outside => {
                refuse(Reason::UnknownTarget, format!("{target} is outside the mesh, which this pod denies"))
            }
            Self::Unusable(detail) => Verdict::Refuse(Refusal::new(Reason::UnusableConfig, detail.clone())),
            Self::Full => refuse(Reason::Overloaded, format!("no room for {target}: too many targets are in use")),
            Self::Unknown => within(
                limits::UNKNOWN_TARGET_WAIT,
                refuse(Reason::UnknownTarget, format!("discovery knows no Service or pod at {target}")),
            ),
            Self::Silent if closed => within(
                limits::DISCOVERY_WAIT,
                refuse(Reason::DiscoverySilent, format!("discovery has not said what {target} is")),
            ),
            Self::Silent => within(limits::DISCOVERY_TIMEOUT, Verdict::Go(Way::Pass)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(ranges: &[&str]) -> Networks {
        Networks::new(ranges.iter().map(|range| range.parse().unwrap()).collect())
    }

    #[test]
    fn a_target_is_inside_by_its_range_and_everything_is_while_none_is_known() {
        let inside = |ranges: &[&str], target: &str| networks(ranges).contain(&target.parse().unwrap());
        let ranges = ["10.96.0.0/12", "10.244.0.0/16", "fd00:10::/64"];
        for (target, with, without) in [
            ("10.96.0.10:53", true, true),
            ("10.244.255.255:80", true, true),
            ("[::ffff:10.96.0.10]:80", true, true),
            ("[fd00:10::7]:80", true, true),
            ("[fd00:11::7]:80", false, true),
            ("10.245.0.1:80", false, true),
            ("93.184.216.34:443", false, true),
            ("169.254.169.254:80", false, false),
            ("[fe80::1]:80", false, false),
            ("127.0.0.1:80", false, false),
            ("[::ffff:127.0.0.1]:80", false, false),
            ("[::1]:80", false, false),
            ("api:80", true, true),
            ("example.com:443", true, true),
        ] {
            assert_eq!((inside(&ranges, target), inside(&[], target)), (with, without), "{target}");
        }
    }

    #[test]
    fn nothing_is_taken_for_outside_that_discovery_holds_to_be_inside_nor_silence_within_the_ranges() {
        let target: Target = "10.96.0.1:80".parse().unwrap();
        let unusable = || Answer::Unusable("outbound 10.96.0.1:80: rules[0]".into());
        // Who waits, and what comes in the end: inside, outside, outside where unknown destinations are denied.
        let rows = [
            (Answer::Silent, ["wait discovery_silent", "wait pass", "wait discovery_silent"]),
            (Answer::Unknown, ["wait unknown_target", "wait unknown_target", "wait unknown_target"]),
            (Answer::Outside, ["pass", "pass", "unknown_target"]),
            (Answer::Full, ["overloaded", "overloaded", "overloaded"]),
            (unusable(), ["unusable_config", "unusable_config", "unusable_config"]),
        ];
        for (answer, expected) in rows {
            let cases = [(true, UnknownTargets::Pass), (false, UnknownTargets::Pass), (false, UnknownTargets::Deny)];
            for ((inside, unknown), expected) in cases.into_iter().zip(expected) {
                let says = |waited| match answer.judge(&target, inside, unknown, waited) {
                    Verdict::Go(Way::Pass) => "pass".to_owned(),
                    Verdict::Go(Way::Mesh(_)) => panic!("there is no plan"),
                    Verdict::Wait(_) => "wait".to_owned(),
                    Verdict::Refuse(refusal) => refusal.reason.as_str().to_owned(),
                };
                let (first, last) = (says(Duration::ZERO), says(limits::DISCOVERY_WAIT));
                let said = if first == "wait" { format!("wait {last}") } else { first };
                assert_eq!(said, expected, "{answer:?} inside={inside} {unknown:?}");
            }
        }
        let Verdict::Refuse(refusal) = unusable().judge(&target, true, UnknownTargets::Pass, Duration::ZERO) else {
            panic!()
        };
        assert!(refusal.detail.contains("10.96.0.1:80: rules[0]"), "it says which object: {refusal:?}");
    }

    #[test]
    fn no_answer_is_waited_for_longer_than_its_bound() {
        let target: Target = "api:80".parse().unwrap();
        let wait = |waited| Answer::Silent.judge(&target, true, UnknownTargets::Pass, waited);
        let Verdict::Wait(rest) = wait(Duration::from_secs(1)) else { panic!("the time is not over") };
        assert_eq!(rest, limits::DISCOVERY_WAIT - Duration::from_secs(1));
        assert!(matches!(wait(limits::DISCOVERY_WAIT), Verdict::Refuse(_)));
    }
}
