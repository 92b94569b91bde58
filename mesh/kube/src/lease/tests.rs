//! The election, decided step by step against an API server that is one variable.

use super::elector::{Elector, Next, Terms, Write};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use std::time::Duration;
use tokio::time::Instant;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn wall() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Accepts a write as the API server would: by resource version.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn write(&mut self, write: Write) -> Option<Lease> {
        let mut lease = match (write, &self.lease) {
            (Write::Create(lease), None) => lease,
            (Write::Replace(lease), Some(stored))
                if lease.metadata.resource_version == stored.metadata.resource_version =>
            {
                lease
            }
            _ => return None,
        };
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Some(lease)
    }

    /// Lets `elector` do what it wants at `now`; whether it wrote.
    fn turn(&mut self, elector: &mut Elector, now: Instant) -> bool {
        let wall = Timestamp::from_second(i64::try_from(self.version).unwrap()).unwrap();
        match elector.next(now, wall) {
            Next::Look | Next::Wait(_) => false,
            Next::Write(write) => match self.write(*write) {
                Some(stored) => {
                    elector.wrote(stored, now);
                    true
                }
                None => {
                    elector.believe(self.lease.clone(), now);
                    false
                }
            },
        }
    }

    fn show(&self, elector: &mut Elector, now: Instant) {
        elector.observe(self.lease.clone(), now);
    }
}

fn candidate(me: &str) -> Elector {
    Elector::new("part", me, Terms::default())
}

/// A server whose Lease `a` has just made, and both candidates know.
fn led_by_a() -> (Server, Elector, Elector, Instant) {
    let (mut server, mut a, mut b, now) = (Server::default(), candidate("a"), candidate("b"), Instant::now());
    server.show(&mut a, now);
    server.show(&mut b, now);
    assert!(server.turn(&mut a, now));
    server.show(&mut b, now);
    (server, a, b, now)
}

#[test]
fn nothing_is_written_before_the_lease_was_looked_at() {
    assert_eq!(candidate("a").next(Instant::now(), wall()), Next::Look);
}

#[test]
fn of_two_that_find_no_lease_one_leads() {
    let (mut server, now) = (Server::default(), Instant::now());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    server.show(&mut a, now);
    server.show(&mut b, now);
    server.turn(&mut a, now);
    server.turn(&mut b, now);
    assert_eq!((a.leads(now), b.leads(now)), (true, false));
    assert_eq!(b.next(now, wall()), Next::Wait(now + seconds(15)));
}

#[test]
fn a_leader_renews_and_others_wait_from_each_change() {
    let (mut server, mut a, mut b, now) = led_by_a();
    assert_eq!(a.next(now, wall()), Next::Wait(now + seconds(5)));
    assert!(server.turn(&mut a, now + seconds(5)));
    server.show(&mut b, now + seconds(6));
    assert_eq!(b.next(now + seconds(15), wall()), Next::Wait(now + seconds(21)));
    assert!(a.leads(now + seconds(14)));
}

#[test]
fn a_leader_that_cannot_renew_steps_down_before_anybody_may_take_over() {
    let (mut server, a, mut b, now) = led_by_a();
    let steps_down = a.leads_until().unwrap();
    assert!(!a.leads(steps_down));
    assert!(!server.turn(&mut b, now + seconds(15) - Duration::from_millis(1)));
    assert!(steps_down + seconds(5) <= now + seconds(15));
    assert!(server.turn(&mut b, now + seconds(15)));
    let spec = server.lease.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
}

#[test]
fn times_that_others_wrote_mean_nothing() {
    let (mut server, _, mut b, now) = led_by_a();
    // The holder's clock is a century off, in either direction: only that the Lease does not change counts.
    for year in [1970, 2170] {
        let at: Timestamp = format!("{year}-01-01T00:00:00Z").parse().unwrap();
        server.lease.as_mut().unwrap().spec.as_mut().unwrap().renew_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(at));
        server.show(&mut b, now);
        assert_eq!(b.next(now + seconds(1), wall()), Next::Wait(now + seconds(15)));
    }
}

#[test]
fn a_lease_seen_again_unchanged_is_not_younger() {
    let (server, _, mut b, now) = led_by_a();
    server.show(&mut b, now + seconds(10));
    assert_eq!(b.next(now + seconds(10), wall()), Next::Wait(now + seconds(15)));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let (mut server, a, mut b, now) = led_by_a();
    let released = a.released(wall()).unwrap();
    assert!(server.write(Write::Replace(released)).is_some());
    server.show(&mut b, now + seconds(1));
    assert!(server.turn(&mut b, now + seconds(1)));
    assert!(b.leads(now + seconds(1)));
    assert_eq!(a.released(wall()).unwrap().metadata.resource_version.as_deref(), Some("1"), "and is refused by then");
}

#[test]
fn whoever_does_not_hold_the_lease_has_nothing_to_release() {
    let (_, _, b, _) = led_by_a();
    assert_eq!(b.released(wall()), None);
}

#[test]
fn a_leader_that_sees_another_holder_stops_at_once() {
    let (mut server, mut a, mut b, now) = led_by_a();
    assert!(server.turn(&mut b, now + seconds(15)));
    a.wrote(
        a.released(wall())
            .map(|mut lease| {
                // As if its own renewal had been accepted late.
                lease.spec.get_or_insert_default().holder_identity = Some("a".into());
                lease
            })
            .unwrap(),
        now + seconds(14),
    );
    assert!(a.leads(now + seconds(15)));
    server.show(&mut a, now + seconds(15));
    assert!(!a.leads(now + seconds(15)));
}

#[test]
fn a_watch_that_lags_does_not_unseat_a_leader() {
    let (mut server, mut a, mut b, now) = led_by_a();
    let old = server.lease.clone();
    assert!(server.turn(&mut b, now + seconds(15)));
    b.observe(old, now + seconds(16));
    assert!(b.leads(now + seconds(16)));
    server.show(&mut a, now + seconds(16));
    assert!(!a.leads(now + seconds(16)));
}

#[test]
fn a_lease_that_somebody_deletes_is_made_anew() {
    let (mut server, mut a, _, now) = led_by_a();
    server.lease = None;
    server.show(&mut a, now + seconds(1));
    assert!(!a.leads(now + seconds(1)));
    assert!(server.turn(&mut a, now + seconds(1)));
    assert!(a.leads(now + seconds(1)));
}

#[test]
fn a_restarted_candidate_takes_its_own_lease_back_without_waiting() {
    let (mut server, _, _, now) = led_by_a();
    let mut again = candidate("a");
    server.show(&mut again, now + seconds(1));
    assert!(!again.leads(now + seconds(1)));
    assert!(server.turn(&mut again, now + seconds(1)));
    assert_eq!(server.lease.unwrap().spec.unwrap().lease_transitions, Some(0));
}

#[test]
fn a_lease_of_absurd_length_is_waited_for_five_minutes() {
    let (mut server, _, mut b, now) = led_by_a();
    server.lease.as_mut().unwrap().spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
    server.show(&mut b, now);
    assert_eq!(b.next(now, wall()), Next::Wait(now + seconds(300)));
}

/// Etcd as it was a hundred writes ago.
fn restored(server: &mut Server, lease: Option<Lease>) {
    server.version = 1;
    server.lease = lease.map(|mut lease| {
        lease.metadata.resource_version = Some("1".into());
        lease
    });
}

#[test]
fn after_a_restore_of_etcd_a_candidate_believes_the_answer_to_its_own_question() {
    let (mut server, _, mut b, now) = led_by_a();
    server.version = 100;
    let mut lease = server.lease.clone().unwrap();
    lease.metadata.resource_version = Some("100".into());
    b.observe(Some(lease.clone()), now);
    restored(&mut server, Some(lease.clone()));
    // The watch starts anew with what is older, which could as well lag.
    server.show(&mut b, now + seconds(16));
    assert!(!server.turn(&mut b, now + seconds(16)), "refused, and then asked");
    assert!(!b.leads(now + seconds(16)));
    assert!(server.turn(&mut b, now + seconds(16)), "the old holder has not renewed for its whole time");
    assert!(b.leads(now + seconds(16)));
}

#[test]
fn after_a_restore_a_leader_leads_again_or_yields_to_whom_the_lease_names() {
    for (holder, leads) in [("a", true), ("b", false)] {
        let (mut server, mut a, _, now) = led_by_a();
        for renewal in 1..50 {
            assert!(server.turn(&mut a, now + seconds(5 * renewal)));
        }
        let later = now + seconds(250);
        let mut lease = server.lease.clone().unwrap();
        lease.spec.get_or_insert_default().holder_identity = Some(holder.into());
        restored(&mut server, Some(lease));
        assert!(!server.turn(&mut a, later), "its renewal is a conflict");
        server.turn(&mut a, later);
        assert_eq!(a.leads(later), leads, "{holder}");
    }
}

#[test]
fn after_a_restore_to_before_the_lease_it_is_made_anew() {
    let (mut server, mut a, _, now) = led_by_a();
    restored(&mut server, None);
    assert!(!server.turn(&mut a, now + seconds(5)));
    assert!(server.turn(&mut a, now + seconds(5)));
    assert!(a.leads(now + seconds(5)));
}
