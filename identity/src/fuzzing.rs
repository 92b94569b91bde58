//! Fuzz targets of what workloads hand in: one function per parser, which runs it and asserts what its module promises. In: any
//! bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus` and changes of it, and for `cargo fuzz` (which
//! sets `cfg(fuzzing)`) alone.

pub use crate::token::fuzzing::{key_sets, token_claims, tokens};

use crate::csr::{self, CSR_BYTES_MAX};
use remora_model::SpiffeId;

#[cfg(test)]
remora_replay::replays! {
    no_change_of_a_token_makes_it_anothers: tokens, 5_000;
    what_a_token_says_is_bounded_by_its_text: token_claims, 20_000;
    a_key_set_is_read_whole_or_refused: key_sets, 20_000;
    what_is_certified_is_what_was_signed_for: signing_requests, 5_000;
}

/// A request that is taken is within bounds, whole, and names no identity but the one that it gets.
pub fn signing_requests(data: &[u8]) {
    let Ok(asked) = csr::read(data) else { return };
    assert!(data.len() <= CSR_BYTES_MAX);
    assert!(csr::read(&[data, b"\0"].concat()).is_err(), "nothing may follow it");
    let names = |id: &str| data.windows(id.len()).any(|window| window == id.as_bytes());
    let other = SpiffeId::parse("spiffe://cluster.local/ns/other/sa/other").expect("an identity");
    // Not every name in it is one that is asked for, but an identity that is asked for is in it.
    assert!(asked.key_for(&other).is_ok() || names("spiffe:") || names("SPIFFE:"));
}
