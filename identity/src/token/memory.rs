//! The cache of callers that were certified, for outages of the API server: pure.
//!
//! Verdicts are cached for one purpose only: an outage of the API server that is longer than a certificate's lifetime. While the API server
//! answers, only its verdict counts. During a longer outage, workloads that it has accepted before must go on, or the outage
//! becomes one of the mesh. So a replica accepts the same token again if half the lifetime of the certificate that it issued for it
//! is over; the new certificate expires with the token. No new workload gets one.
//! The risk: a pod that is deleted during the outage keeps its identity for one certificate more.

use super::Proven;
use aws_lc_rs::digest::{SHA256, digest};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// Tokens remembered, two for each pod (kubelet replaces them at 80 % of their life); beyond it new ones are not, and renew only when the
/// API server is up. About 10 MB.
const TOKENS_MAX: usize = 32_768;
/// Between two searches for those whose certificates have ended, each of which looks at all.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What was proven, by the digest of its token. The token itself is not kept.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    tokens: HashMap<[u8; 32], Remembered>,
    swept: Option<SystemTime>,
}

#[derive(Debug)]
struct Remembered {
    proven: Proven,
    /// When its last certificate has run through half its life, and when it ends.
    half: SystemTime,
    ends: SystemTime,
}

impl Memory {
    /// `token`, which was proven, has got a certificate from `now` to `not_after`.
    pub(crate) fn certified(&mut self, token: &str, proven: &Proven, (now, not_after): (SystemTime, SystemTime)) {
        let swept = self.swept.and_then(|at| now.duration_since(at).ok()).is_some_and(|ago| ago < SWEEP_EVERY);
        if self.tokens.len() >= TOKENS_MAX && !swept {
            self.swept = Some(now);
            self.tokens.retain(|_, remembered| remembered.ends > now);
        }
        let key = key(token);
        if self.tokens.len() >= TOKENS_MAX && !self.tokens.contains_key(&key) {
            return;
        }
        let half = now + not_after.duration_since(now).unwrap_or_default() / 2;
        self.tokens.insert(key, Remembered { proven: proven.clone(), half, ends: not_after });
    }

    /// `token` is proven no more.
    pub(crate) fn refused(&mut self, token: &str) {
        self.tokens.remove(&key(token));
    }

    /// What `token` has proven, if it is due and not yet too late.
    pub(crate) fn recall(&self, token: &str, now: SystemTime) -> Option<Proven> {
        let remembered = self.tokens.get(&key(token))?;
        let due = remembered.half <= now && now < remembered.ends && now < remembered.proven.token_ends;
        due.then(|| Proven { recalled: true, ..remembered.proven.clone() })
    }
}

fn key(token: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Pod;

    fn proven(token_ends: SystemTime) -> Proven {
        let pod = Some(Pod { name: "web-1".into(), uid: "u1".into() });
        Proven { subject: "system:serviceaccount:shop:web".into(), pod, token_ends, recalled: false }
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn a_certified_token_is_recalled_in_the_second_half_of_its_certificates_life() {
        let (mut memory, now) = (Memory::default(), SystemTime::now());
        memory.certified("t", &proven(now + minutes(600)), (now, now + minutes(60)));
        assert_eq!(memory.recall("t", now + minutes(29)), None);
        assert!(memory.recall("t", now + minutes(30)).is_some_and(|proven| proven.recalled));
        assert_eq!(memory.recall("t", now + minutes(60)), None);
        assert_eq!(memory.recall("other", now + minutes(30)), None);
    }

    #[test]
    fn it_can_be_recalled_again_and_again_but_not_beyond_the_tokens_own_end() {
        let (mut memory, start) = (Memory::default(), SystemTime::now());
        let proven = proven(start + minutes(100));
        for n in 0..3 {
            let now = start + n * minutes(30);
            memory.certified("t", &proven, (now, now + minutes(60)));
            assert!(memory.recall("t", now + minutes(30)).is_some());
        }
        assert_eq!(memory.recall("t", start + minutes(100)), None);
    }

    #[test]
    fn a_token_that_was_refused_is_forgotten() {
        let (mut memory, now) = (Memory::default(), SystemTime::now());
        memory.certified("t", &proven(now + minutes(600)), (now, now + minutes(60)));
        memory.refused("t");
        assert_eq!(memory.recall("t", now + minutes(30)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_room() {
        let (mut memory, now) = (Memory::default(), SystemTime::now());
        let proven = proven(now + minutes(600));
        for n in 0..=TOKENS_MAX {
            memory.certified(&n.to_string(), &proven, (now, now + minutes(60)));
        }
        assert_eq!(memory.tokens.len(), TOKENS_MAX);
        assert_eq!(memory.recall(&TOKENS_MAX.to_string(), now + minutes(30)), None);
        let later = now + minutes(61);
        memory.certified("new", &proven, (later, later + minutes(60)));
        assert_eq!(memory.tokens.len(), 1);
    }
}
