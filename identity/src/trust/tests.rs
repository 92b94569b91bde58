//! What is published and who signs, step by step at given times.

use super::*;

const LIFE: Duration = Duration::from_secs(3600);
const SKEW: Duration = Duration::from_secs(60);
const RULES: Rules = Rules { lifetime: LIFE, skew: SKEW };
const N: Duration = PUBLISH_MAX;

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The issuer `number` whose leaves chain to `anchor`, with `listed` in its `ca.crt`.
pub(super) fn offer(number: u8, anchor: u8, listed: &[u8]) -> Offer {
    Offer {
        signing: Signing {
            files: Files::new(vec![number], vec![number], listed.to_vec()),
            anchor: vec![anchor],
            not_after: start() + 10_000 * LIFE,
        },
        anchors: listed.iter().map(|der| vec![*der]).collect(),
        force_remove: false,
    }
}

/// One replica that looks in time, over a store that always answers.
struct Replica {
    record: Option<Record>,
    now: SystemTime,
    rules: Rules,
}

impl Replica {
    fn with(first: &Offer) -> Self {
        let mut replica = Self { record: None, now: start(), rules: RULES };
        replica.look(first);
        replica
    }

    /// Looks, and again at what it wrote, as a watch makes it do.
    fn look(&mut self, offer: &Offer) -> Stepped {
        let first = self.look_once(offer);
        if !first.write {
            return first;
        }
        let second = self.look_once(offer);
        Stepped { write: true, ..second }
    }

    fn look_once(&mut self, offer: &Offer) -> Stepped {
        let stepped = step(self.record.take(), Some(offer), "td", self.now, self.rules);
        self.record = stepped.record.clone();
        stepped
    }

    /// Looks as often as it must for `time`.
    fn run(&mut self, offer: &Offer, time: Duration) {
        let end = self.now + time;
        self.look(offer);
        while self.now < end {
            self.now = (self.now + self.rules.look_every()).min(end);
            self.look(offer);
        }
    }

    fn record(&self) -> &Record {
        self.record.as_ref().unwrap()
    }

    fn published(&self) -> Vec<u8> {
        self.record().anchors.iter().map(|known| known.der[0]).collect()
    }

    fn signs(&self) -> u8 {
        self.record().issuer.anchor[0]
    }
}

#[test]
fn a_first_start_signs_at_once() {
    let replica = Replica::with(&offer(1, 1, &[1]));
    assert_eq!((replica.published(), replica.signs()), (vec![1], 1));
}

#[test]
fn a_root_replaced_in_one_write_is_published_at_once_and_signs_later_and_the_old_stays_while_its_leaves_live() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    let new = offer(2, 2, &[2]);
    replica.run(&offer(1, 1, &[1]), N);
    let stepped = replica.look(&new);
    assert_eq!((replica.published(), replica.signs()), (vec![1, 2], 1));
    assert_eq!(stepped.signs_at, Some(replica.now + N));
    replica.run(&new, N - Duration::from_secs(1));
    assert_eq!(replica.signs(), 1);
    replica.run(&new, Duration::from_secs(1));
    assert_eq!((replica.published(), replica.signs()), (vec![1, 2], 2));
    replica.run(&new, LIFE + N);
    assert_eq!(replica.published(), vec![1, 2], "a peer's clock may be late");
    replica.run(&new, SKEW);
    assert_eq!(replica.published(), vec![2]);
}

#[test]
fn an_anchor_is_published_when_it_is_seen_to_be_stored_and_not_when_its_write_began() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    let new = offer(2, 2, &[2]);
    replica.look_once(&new);
    assert_eq!(replica.record().anchor(&[2]).unwrap().first_published, None);
    replica.now += N / 8;
    replica.look_once(&new);
    assert_eq!(replica.record().anchor(&[2]).unwrap().first_published, Some(replica.now));
}

#[test]
fn an_issuer_of_an_anchor_that_signs_already_signs_at_once() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.look(&offer(2, 1, &[1]));
    assert_eq!(replica.record().issuer.files, Files::new(vec![2], vec![2], vec![1]));
}

#[test]
fn an_anchor_that_was_published_long_enough_signs_at_once() {
    let mut replica = Replica::with(&offer(1, 1, &[1, 2]));
    replica.run(&offer(1, 1, &[1, 2]), N);
    replica.look(&offer(2, 2, &[2]));
    assert_eq!(replica.signs(), 2);
}

#[test]
fn what_was_signed_for_long_is_remembered_after_lives_are_shortened() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.run(&offer(1, 1, &[1]), N);
    replica.rules.lifetime = Duration::from_secs(20);
    replica.run(&offer(2, 2, &[2]), Duration::from_secs(300));
    assert_eq!((replica.published(), replica.signs()), (vec![1, 2], 2));
    replica.run(&offer(2, 2, &[2]), LIFE);
    assert_eq!(replica.published(), vec![2]);
}

#[test]
fn roots_that_are_replaced_faster_than_they_are_published_are_published_all_and_none_signs() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    for number in 2..6 {
        replica.run(&offer(number, number, &[number]), N / 2);
    }
    assert_eq!(replica.signs(), 1);
    assert!(replica.published().starts_with(&[1]) && replica.published().contains(&5));
    replica.run(&offer(5, 5, &[5]), N);
    assert_eq!((replica.published(), replica.signs()), (vec![1, 5], 5), "what never signed goes");
}

#[test]
fn an_operator_may_take_an_offer_back() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.run(&offer(2, 2, &[2]), N / 2);
    replica.run(&offer(1, 1, &[1]), 2 * N);
    assert_eq!((replica.published(), replica.signs()), (vec![1], 1));
}

#[test]
fn what_is_unusable_changes_nothing() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.run(&offer(2, 2, &[2]), N / 2);
    for _ in 0..100 {
        replica.now += RULES.look_every();
        replica.record = step(replica.record.take(), None, "td", replica.now, RULES).record;
    }
    assert_eq!((replica.published(), replica.signs()), (vec![1, 2], 1));
    assert!(step(None, None, "td", replica.now, RULES).record.is_none());
}

#[test]
fn force_remove_lets_the_old_go_as_soon_as_the_new_signs() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    let forced = Offer { force_remove: true, ..offer(2, 2, &[2]) };
    replica.run(&forced, N / 2);
    assert_eq!((replica.published(), replica.signs()), (vec![1, 2], 1));
    replica.run(&forced, N / 2 + 2 * RULES.look_every());
    assert_eq!((replica.published(), replica.signs()), (vec![2], 2));
}

#[test]
fn a_gap_counts_for_nothing() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.run(&offer(1, 1, &[1]), N);
    let new = offer(2, 2, &[2]);
    replica.run(&new, N / 2);
    // Nobody could look. Others may not have heard of the new anchor, and may have signed with the old to the last.
    replica.now += 10 * LIFE;
    replica.look(&new);
    assert_eq!(replica.signs(), 1);
    assert!(replica.record().anchor(&[1]).unwrap().leaves_until >= replica.now + LIFE);
    replica.run(&new, N);
    assert_eq!(replica.signs(), 2);
    // A root that was let go before the gap is not back, one that still counted counts as long as it would have.
    replica.run(&new, LIFE / 2);
    let left = replica.record().anchor(&[1]).unwrap().leaves_until.duration_since(replica.record().updated).unwrap();
    replica.now += 1000 * LIFE;
    replica.look(&new);
    assert_eq!(replica.record().anchor(&[1]).unwrap().leaves_until, replica.now + left);
}

#[test]
fn anchors_are_bounded_and_an_offer_without_room_is_refused() {
    let all: Vec<u8> = (1..=64).collect();
    let mut replica = Replica::with(&offer(1, 1, &all));
    let stepped = replica.look(&offer(2, 100, &[1, 100]));
    assert_eq!(stepped.refused, Some(Refused::TooMany(65)));
    assert_eq!((replica.published().len(), replica.signs()), (64, 1));
    replica.run(&offer(2, 100, &[1, 100]), LIFE + 2 * N + SKEW);
    assert!(replica.published().len() == 2 || replica.signs() == 100, "there is room once the others have ended");
}

#[test]
fn a_record_is_written_regularly_and_not_more_often() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.now += RULES.look_every() / 2;
    assert!(!replica.look(&offer(1, 1, &[1])).write);
    replica.now += RULES.look_every() / 2;
    assert!(replica.look(&offer(1, 1, &[1])).write);
    // A replica whose leaves live longer needs a longer promise before it signs.
    replica.rules.lifetime = 2 * LIFE;
    assert!(replica.look(&offer(1, 1, &[1])).write);
    assert!(replica.record().anchor(&[1]).unwrap().leaves_until >= replica.now + 2 * LIFE);
}

#[test]
fn clocks_that_jump_hold_nothing_up() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    replica.now += 365 * 24 * LIFE;
    replica.look(&offer(1, 1, &[1]));
    // And back: what was written then is in the future.
    replica.now = start() + N;
    let new = offer(2, 2, &[2]);
    replica.run(&new, 2 * N);
    assert_eq!(replica.signs(), 2);
    let until = replica.record().anchor(&[1]).unwrap().leaves_until;
    assert!(until <= replica.now + crate::limits::LEAF_LIFETIME_MAX + N, "bounded");
}

#[test]
fn a_store_that_was_put_back_or_emptied_does_not_unpublish_anything() {
    let mut replica = Replica::with(&offer(1, 1, &[1]));
    let early = replica.record().clone();
    let new = offer(2, 2, &[2]);
    replica.run(&new, 2 * N);
    let late = replica.record().clone();
    assert_eq!(late.issuer.anchor, [2]);
    assert_eq!(reconcile(None, Some(&late)), Some(late.clone()));
    assert_eq!(reconcile(Some(late.clone()), Some(&early)), Some(late.clone()));
    let merged = reconcile(Some(early), Some(&late)).unwrap();
    assert_eq!((merged.issuer.anchor[0], merged.anchors.len()), (2, 2));
    assert_eq!(reconcile(Some(late.clone()), None), Some(late));
}

#[test]
fn what_is_written_is_what_is_read_and_shows_no_key() {
    let replica = Replica::with(&offer(1, 1, &[1, 2]));
    let read = Record::decode(&replica.record().encode()).unwrap();
    assert_eq!(&read, replica.record());
    assert!(matches!(Record::decode(b"{}"), Err(RecordError::Content(_))));
    let other = String::from_utf8(replica.record().encode()).unwrap().replace("\"format\":1", "\"format\":2");
    assert!(matches!(Record::decode(other.as_bytes()), Err(RecordError::Format(2))));
    assert!(!format!("{:?}", replica.record()).contains("files"));
}
