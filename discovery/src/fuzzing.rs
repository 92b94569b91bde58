//! Fuzz target of what users write: manifests, from their text to what proxies are told. In: any bytes. Out: nothing, or a
//! panic. Built for tests, which replay `fuzz/corpus` and changes of it, and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.

pub use crate::index::fuzzing::manifests;

#[cfg(test)]
remora_replay::replays! {
    whatever_is_written_proxies_can_read_what_they_are_told: manifests, 2_000;
}
