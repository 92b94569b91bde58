//! Which namespaces get the anchors, and what they get.

use super::{
    WRITES_MAX, is_opted_in, pem,
    plan::{Action, Found, Kind, LINGER, Plan, RETRY, State},
    wake_at,
};
use crate::{
    authority::Authority,
    held::Held,
    issuer::Files,
    limits::{CALM, REPAIR_WAIT, REPAIR_WAIT_MAX, REPAIRS_AT_ONCE},
    store::Store,
};
use kube::core::ObjectMeta;
use remora_kube::names::INJECT;
use remora_model::TrustDomain;
use remora_runtime::tls::TrustBundle;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

const OPTED_IN: Option<State> = Some(State { opted_in: true, terminating: false });
const OPTED_OUT: Option<State> = Some(State { opted_in: false, terminating: false });
const CURRENT: Option<Found> = Some(Found { ours: true, current: true });

/// A plan that has heard everything there is: its own namespace, which is served.
fn plan() -> (Plan, Instant) {
    let (mut plan, now) = (Plan::new("remora"), Instant::now());
    assert_eq!(plan.next(now), Some(("remora".into(), Action::Write)), "at once, before anything is heard");
    plan.ended("remora", Action::Write, true, now);
    for kind in [Kind::Namespaces, Kind::Pods, Kind::ConfigMaps] {
        plan.begin(kind);
        plan.namespace("remora", OPTED_OUT);
        plan.config_map("remora", CURRENT);
        plan.done(kind);
    }
    assert_eq!(plan.next(now), None);
    (plan, now)
}

fn write(name: &str) -> Option<(String, Action)> {
    Some((name.into(), Action::Write))
}

#[test]
fn an_opted_in_namespace_gets_the_anchors_once() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    assert_eq!(plan.next(now), write("shop"));
    assert_eq!(plan.next(now), None, "it is on its way");
    plan.ended("shop", Action::Write, true, now);
    assert_eq!(plan.next(now), None);
    plan.config_map("shop", CURRENT);
    assert_eq!(plan.next(now), None);
}

#[test]
fn a_namespace_with_an_injected_pod_gets_them_too() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_OUT);
    assert_eq!(plan.next(now), None);
    plan.pod("shop", "web-1", true);
    assert_eq!(plan.next(now), write("shop"));
}

#[test]
fn what_was_edited_or_deleted_or_stripped_of_its_label_is_put_right() {
    let edited = Some(Found { ours: true, current: false });
    let stripped = Some(Found { ours: false, current: true });
    for found in [edited, stripped, None] {
        let (mut plan, now) = plan();
        plan.namespace("shop", OPTED_IN);
        plan.config_map("shop", CURRENT);
        assert_eq!(plan.next(now), None);
        plan.config_map("shop", found);
        assert_eq!(plan.next(now), write("shop"));
    }
}

#[test]
fn new_anchors_are_written_everywhere() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    plan.config_map("shop", CURRENT);
    assert_eq!(plan.next(now), None);
    plan.anchors_changed();
    assert_eq!((plan.next(now), plan.next(now), plan.next(now)), (write("remora"), write("shop"), None));
}

#[test]
fn anchors_that_change_during_a_write_are_written_after_it() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    assert_eq!(plan.next(now), write("shop"));
    plan.anchors_changed();
    assert_eq!((plan.next(now), plan.next(now)), (write("remora"), None));
    plan.ended("shop", Action::Write, true, now);
    assert_eq!(plan.next(now), write("shop"));
}

#[test]
fn a_namespace_that_is_being_deleted_gets_nothing() {
    let (mut plan, now) = plan();
    plan.namespace("shop", Some(State { opted_in: true, terminating: true }));
    plan.pod("shop", "web-1", true);
    assert_eq!(plan.next(now), None);
    plan.namespace("shop", None);
    plan.pod("shop", "web-1", false);
    assert_eq!(plan.next(now), None);
}

#[test]
fn nothing_goes_while_a_pod_may_mount_it_and_then_not_at_once() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_OUT);
    plan.pod("shop", "web-1", true);
    plan.config_map("shop", CURRENT);
    plan.wake(now + 2 * LINGER);
    assert_eq!(plan.next(now + 2 * LINGER), None);
    let ended = now + 3 * LINGER;
    plan.pod("shop", "web-1", false);
    assert_eq!(plan.next(ended), None);
    assert_eq!(plan.wake_at(), Some(ended + LINGER));
    plan.wake(ended + LINGER);
    assert_eq!(plan.next(ended + LINGER), Some(("shop".into(), Action::Remove)));
    plan.ended("shop", Action::Remove, true, ended + LINGER);
    assert_eq!((plan.next(ended + LINGER), plan.wake_at()), (None, None));
}

#[test]
fn whoever_comes_back_before_it_went_keeps_it() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_OUT);
    plan.config_map("shop", CURRENT);
    assert_eq!(plan.next(now), None);
    plan.namespace("shop", OPTED_IN);
    assert_eq!(plan.next(now + LINGER / 2), None);
    plan.wake(now + 2 * LINGER);
    assert_eq!(plan.next(now + 2 * LINGER), None);
}

#[test]
fn what_somebody_else_made_is_never_removed() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_OUT);
    plan.config_map("shop", Some(Found { ours: false, current: true }));
    assert_eq!((plan.next(now), plan.wake_at()), (None, None));
}

#[test]
fn nothing_is_removed_before_all_is_known() {
    let (mut plan, now) = (Plan::new("remora"), Instant::now());
    plan.namespace("shop", OPTED_OUT);
    plan.config_map("shop", CURRENT);
    assert_eq!((plan.next(now), plan.next(now)), (write("remora"), None));
    assert_eq!(plan.wake_at(), None);
}

#[test]
fn what_a_new_listing_leaves_out_is_gone() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    plan.config_map("shop", CURRENT);
    plan.pod("shop", "web-1", true);
    assert_eq!(plan.next(now), None);
    plan.begin(Kind::ConfigMaps);
    plan.config_map("remora", CURRENT);
    plan.done(Kind::ConfigMaps);
    assert_eq!(plan.next(now), write("shop"));
}

#[test]
fn a_failed_write_is_tried_again_after_a_pause() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    assert_eq!(plan.next(now), write("shop"));
    plan.ended("shop", Action::Write, false, now);
    assert_eq!(plan.next(now), None);
    assert_eq!(plan.wake_at(), Some(now + RETRY));
    plan.wake(now + RETRY);
    assert_eq!(plan.next(now + RETRY), write("shop"));
}

const FOREIGN: Option<Found> = Some(Found { ours: true, current: false });

#[test]
fn an_edit_that_comes_during_a_write_is_not_forgotten() {
    for edited in [FOREIGN, Some(Found { ours: false, current: true }), None] {
        let (mut plan, now) = plan();
        plan.namespace("shop", OPTED_IN);
        assert_eq!(plan.next(now), write("shop"));
        // After our write, before its answer.
        plan.config_map("shop", edited);
        assert_eq!(plan.next(now), None, "it is on its way");
        assert_eq!(plan.stale(), 1);
        plan.ended("shop", Action::Write, true, now);
        assert_eq!(plan.next(now), write("shop"), "{edited:?}");
        plan.ended("shop", Action::Write, true, now);
        assert_eq!((plan.next(now), plan.stale()), (None, 0), "nothing was said meanwhile: it is current");
    }
}

#[test]
fn our_own_writes_event_during_it_ends_it() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_IN);
    assert_eq!(plan.next(now), write("shop"));
    plan.config_map("shop", CURRENT);
    plan.ended("shop", Action::Write, true, now);
    assert_eq!(plan.next(now), None);
}

#[test]
fn another_writer_is_answered_less_and_less_often_and_told_of_once() {
    let (mut plan, start) = plan();
    plan.namespace("shop", OPTED_IN);
    let (mut now, mut writes, mut told) = (start, 0, 0);
    // It undoes each write at once, for ten minutes.
    while now < start + 5 * CALM {
        plan.wake(now);
        if plan.next(now) == write("shop") {
            writes += 1;
            told += u32::from(plan.ended("shop", Action::Write, true, now));
            plan.config_map("shop", FOREIGN);
        }
        now += REPAIR_WAIT / 2;
    }
    assert!((REPAIRS_AT_ONCE..40).contains(&writes), "{writes} writes in ten minutes");
    assert_eq!(told, 1);
    // It stops: the last word is ours.
    plan.wake(now + REPAIR_WAIT_MAX);
    assert_eq!(plan.next(now + REPAIR_WAIT_MAX), write("shop"));
    plan.ended("shop", Action::Write, true, now + REPAIR_WAIT_MAX);
    assert_eq!(plan.next(now + 2 * REPAIR_WAIT_MAX), None);
    // New anchors do not wait for the end of a quarrel.
    plan.config_map("shop", FOREIGN);
    assert_eq!(plan.next(now + REPAIR_WAIT_MAX), None);
    plan.anchors_changed();
    let both = [plan.next(now + REPAIR_WAIT_MAX), plan.next(now + REPAIR_WAIT_MAX)];
    assert!(both.contains(&write("shop")), "{both:?}");
}

#[test]
fn an_annotation_wins_over_a_label() {
    let meta = |annotation: Option<&str>, label: Option<&str>| {
        let word = |word: &str| [(INJECT.to_owned(), word.to_owned())].into();
        is_opted_in(&ObjectMeta { annotations: annotation.map(word), labels: label.map(word), ..ObjectMeta::default() })
    };
    assert!(meta(Some("enabled"), None) && meta(None, Some("enabled")) && meta(Some("enabled"), Some("disabled")));
    assert!(!meta(None, None) && !meta(Some("disabled"), Some("enabled")) && !meta(None, Some("true")));
}

#[tokio::test]
async fn the_copy_holds_the_anchors_and_nothing_else_of_the_file() {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let now = SystemTime::now();
    let (a, b) = (Files::make(&trust_domain, now).unwrap(), Files::make(&trust_domain, now).unwrap());
    let pasted = [b"a comment\n".as_slice(), a.anchors(), a.key(), b.anchors()].concat();
    let files = Files::new(a.certificate().to_vec(), a.key().to_vec(), pasted);
    let store = Store::memory();
    let held = Held { files, force_remove: false };
    let life = Duration::from_secs(3600);
    let opened = Authority::open(Some(&held), &store, &trust_domain, (life, Duration::ZERO), now).await.unwrap();
    let state = opened.with(store).state();
    let text = pem(&state);
    assert!(!text.contains("PRIVATE") && !text.contains("comment"));
    assert!(text.lines().all(|line| line.len() <= 64), "{text}");
    let read = TrustBundle::from_pem(trust_domain, text.as_bytes()).unwrap();
    assert_eq!(read.version(), state.bundle().version());
}

#[test]
fn what_is_due_wakes_nobody_while_there_is_no_room_for_it() {
    let (mut plan, now) = plan();
    plan.namespace("shop", OPTED_OUT);
    plan.config_map("shop", CURRENT);
    assert_eq!(plan.next(now), None);
    assert_eq!(wake_at(&plan, WRITES_MAX - 1), Some(now + LINGER));
    let late = now + 2 * LINGER;
    plan.wake(late);
    assert_eq!(wake_at(&plan, WRITES_MAX), None, "it would be at once, and again");
    assert_eq!(plan.next(late), Some(("shop".into(), Action::Remove)), "once a write has ended");
}
