//! Shares by weight. In: weights, and a random number. Out: whose turn it is. Pure.

/// What has a share each, by weight; 0 takes none.
#[derive(Debug)]
pub(super) struct Shares<T>(Vec<(u32, T)>);

impl<T> Shares<T> {
    /// In any order.
    pub(super) fn new(all: impl IntoIterator<Item = (u32, T)>) -> Self {
        Self(all.into_iter().collect())
    }

    /// One of them, by chance. `None`: none has a weight.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<&T> {
        if let [(weight, only)] = &self.0[..] {
            return (*weight > 0).then_some(only);
        }
        let total: u64 = self.0.iter().map(|(weight, _)| u64::from(*weight)).sum();
        if total == 0 {
            return None;
        }
        let mut ticket = rng.u64(..total);
        let drawn = self.0.iter().find(|(weight, _)| match ticket.checked_sub(u64::from(*weight)) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        drawn.map(|(_, share)| share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_drawn_by_its_weight_and_one_without_weight_never() {
        let mut rng = fastrand::Rng::with_seed(7);
        let shares = Shares::new([(90, 'a'), (0, 'b'), (10, 'c')]);
        let drawn: Vec<char> = (0..10_000).filter_map(|_| shares.draw(&mut rng).copied()).collect();
        let count = |of: char| drawn.iter().filter(|one| **one == of).count();
        assert_eq!((drawn.len(), count('b')), (10_000, 0));
        assert!((8_800..9_200).contains(&count('a')), "{}", count('a'));
        assert_eq!(Shares::new([(0, 'a')]).draw(&mut rng), None);
        assert_eq!(Shares::new([(0, 'a'), (0, 'b')]).draw(&mut rng), None);
        assert_eq!(Shares::<char>::new([]).draw(&mut rng), None);
        assert_eq!(Shares::new([(u32::MAX, 'a'), (u32::MAX, 'a')]).draw(&mut rng), Some(&'a'));
    }
}
