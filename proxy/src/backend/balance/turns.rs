//! Round-robin, in proportion to weights. In: weights, and which endpoints may be chosen. Out: one after the other.
//!
//! Slots are walked round and round; in each round a slot is passed over that has had its share by then. So a slot with a third of the largest
//! weight has its turn in each third round, evenly spread, and slots of equal weights all have theirs in each: nothing is counted, drawn or
//! sorted. (gRPC's weighted round-robin schedules like this.)
//!
//! Each worker has turns of its own, which begin anywhere, so that not all clients begin with the same endpoint.

use std::cell::Cell;

/// The largest weight is scaled to this.
const WHOLE: u64 = u16::MAX as u64;

/// So many rounds are walked in proportion; where none of them has an eligible slot whose turn it is, the next eligible one has it.
const ROUNDS: usize = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    /// The place that is looked at next, in all rounds together.
    next: Cell<u64>,
    /// Of each slot, from 1 to [`WHOLE`].
    weights: Box<[u16]>,
}

/// Whose turn it is. Not taken, it stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) slot: usize,
    after: u64,
}

impl Turns {
    /// Of no slot, beginning anywhere.
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        Self { next: Cell::new(rng.u64(..u64::from(u32::MAX))), weights: Box::default() }
    }

    /// Takes in the slots. Turns go on where they are.
    pub(super) fn update(&mut self, weights: impl Iterator<Item = u32> + Clone) {
        let largest = weights.clone().max().map_or(1, u64::from);
        let scaled = |weight: u32| u16::try_from(u64::from(weight) * WHOLE / largest).unwrap_or(u16::MAX).max(1);
        self.weights = weights.map(scaled).collect();
    }

    /// The next of the eligible slots.
    pub(super) fn peek(&self, eligible: impl Fn(usize) -> bool) -> Option<Turn> {
        let count = self.weights.len();
        if count == 0 {
            return None;
        }
        let places = || {
            (self.next.get()..)
                .take((ROUNDS + 1) * count)
                .map(|place| (place, (place % count as u64) as usize, place / count as u64))
        };
        let due =
            places().take(ROUNDS * count).find(|(_, slot, round)| self.has_turn(*slot, *round) && eligible(*slot));
        let due = due.or_else(|| places().take(count).find(|(_, slot, _)| eligible(*slot)));
        due.map(|(place, slot, _)| Turn { slot, after: place.wrapping_add(1) })
    }

    /// The turn is over.
    pub(super) fn take(&self, turn: Turn) {
        self.next.set(turn.after);
    }

    /// Whether the sum of the slot's weight over the rounds passes a whole in this one. Slots of equal weights do in different
    /// rounds, by their place.
    fn has_turn(&self, slot: usize, round: u64) -> bool {
        let weight = u64::from(self.weights[slot]);
        let before = weight.wrapping_mul(round).wrapping_add(slot as u64 * (WHOLE / 2)) % WHOLE;
        before + weight >= WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32]) -> Turns {
        let mut turns = Turns::new(&mut fastrand::Rng::with_seed(1));
        turns.update(weights.iter().copied());
        turns
    }

    fn take(turns: &Turns, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = turns.peek(eligible)?;
        turns.take(turn);
        Some(turn.slot)
    }

    #[test]
    fn equal_slots_have_their_turn_in_each_round() {
        let turns = turns(&[7; 5]);
        let first = take(&turns, |_| true).unwrap();
        for round in 0..20 {
            for place in 0..5 {
                assert_eq!(take(&turns, |_| true), Some((first + 1 + place) % 5), "round {round}");
            }
        }
        assert_eq!(turns.peek(|_| true).map(|turn| turn.slot), turns.peek(|_| true).map(|turn| turn.slot));
    }

    #[test]
    fn turns_are_in_proportion_to_weights_and_evenly_spread() {
        for weights in [&[1, 3][..], &[1, 1, 10], &[5, 2, 3, 7, 100], &[1_000_000, 1]] {
            let turns = turns(weights);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0_u64; weights.len()];
            let all = 200_000;
            for _ in 0..all {
                counts[take(&turns, |_| true).unwrap()] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let share = all * u64::from(*weight) / sum;
                assert!(count.abs_diff(share) <= 4 + share / 100, "{weights:?}: {count} of {share}");
            }
        }
        let turns = turns(&[1, 3]);
        let taken: Vec<_> = (0..40).map(|_| take(&turns, |_| true).unwrap()).collect();
        assert!(taken.windows(5).all(|five| five.contains(&0) && five.contains(&1)), "{taken:?}");
    }

    #[test]
    fn who_may_not_be_chosen_is_passed_over_and_one_of_many_is_found() {
        let turns = turns(&[1, 1, 1, 1_000_000]);
        for _ in 0..100 {
            assert_eq!(take(&turns, |slot| slot == 1), Some(1));
        }
        assert_eq!(take(&turns, |_| false), None);
        assert_eq!(take(&self::turns(&[]), |_| true), None);
    }
}
