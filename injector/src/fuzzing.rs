//! Fuzz target of what the API server asks. In: any bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus`
//! and changes of it, and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.

pub use crate::webhook::fuzzing::admission_reviews;

#[cfg(test)]
remora_replay::replays! {
    a_pod_that_is_injected_is_injected_once: admission_reviews, 5_000;
}
