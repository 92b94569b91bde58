//! What discovery says besides resources, and that counts at once: our zone, the settings.

use super::{
    tests::{World, address, id, outbound, run, until, world},
    *,
};
use crate::telemetry::Reason;
use remora_model::{Backend, BackendSettings, Endpoint, Locality, Parent, Protocol, Target, UnknownTargets};
use std::collections::BTreeSet;

#[test]
fn what_is_outside_is_refused_as_soon_as_discovery_says_so() {
    run(async {
        let World { directory, control, settings, .. } = world(|_| {});
        let foreign: Target = "192.0.2.1:80".parse().unwrap();
        control.borrow_mut().say(outbound(&foreign, Parent::Outside));
        assert!(matches!(directory.route(&foreign).await, Ok((_, Way::Pass))));
        settings.send_modify(|settings| settings.unknown = UnknownTargets::Deny);
        let refused = directory.route(&foreign).await.err().map(|refusal| refusal.reason);
        assert_eq!(refused, Some(Reason::UnknownTarget));
        settings.send_modify(|settings| settings.unknown = UnknownTargets::Pass);
        assert!(matches!(directory.route(&foreign).await, Ok((_, Way::Pass))));
    });
}

/// A backend whose endpoints, each in a zone of its own, are preferred by zone.
fn zoned(name: &str, zones: &[&str]) -> Resource {
    let endpoint = |(number, zone): (u8, &&str)| Endpoint {
        address: ([10, 1, 0, number], 80).into(),
        identity: None,
        proxy: None,
        weight: 1,
        zone: (*zone).into(),
        pod: "".into(),
        node: None,
    };
    let endpoints = (1..).zip(zones).map(endpoint).collect();
    let settings = BackendSettings { locality: Locality::Zone, ..BackendSettings::default() };
    Resource::Backend(Backend { id: id(name), protocol: Protocol::Detect, settings, endpoints })
}

#[test]
fn a_zone_that_is_told_late_counts_at_once() {
    run(async {
        let World { directory, control, zone, .. } = world(|_| {});
        let target = address(1);
        control.borrow_mut().say(zoned("api", &["a", "b", "b", "b"]));
        control.borrow_mut().say(outbound(&target, Parent::Backend(id("api"))));
        let Ok((_, Way::Mesh(plan))) = directory.route(&target).await else { panic!("no plan") };
        let mut rng = fastrand::Rng::with_seed(1);
        let mut zones = || -> BTreeSet<String> {
            let pick = |_| plan.parent.pick(Instant::now(), &mut rng, &[], None).ok();
            (0..50).filter_map(pick).map(|(upstream, _)| upstream.endpoint.zone.to_string()).collect()
        };
        assert_eq!(zones().len(), 2, "ours is not known");
        zone.tell("a".into());
        until("all requests stay in the zone", || zones() == BTreeSet::from(["a".to_owned()])).await;
    });
}
