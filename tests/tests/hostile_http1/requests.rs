//! Requests that can be read in two ways, or are more than we hold: the rows of [`remora_tests::wire::rows`].

use super::scene;
use anyhow::ensure;
use remora_tests::wire::{
    Road,
    rows::{Row, check, chunks, good_lengths, heads, lengths, sizes},
};

/// Sends every row on every road and checks its fate.
fn run(rows: &[Row]) -> anyhow::Result<()> {
    let scene = scene(&[])?;
    let mut wrong = Vec::new();
    for road in Road::ALL {
        for (number, (name, bytes, fate)) in rows.iter().enumerate() {
            let target = format!("/{road:?}/{number}");
            if let Err(error) = check(&scene.way(road), &target, bytes, *fate) {
                wrong.push(format!("{name} ({road:?}, {fate:?}): {error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len() * Road::ALL.len(), wrong.join("\n"));
    scene.close(|target| Road::ALL.iter().any(|road| target.starts_with(&format!("/{road:?}/"))))
}

#[test]
fn a_body_ends_in_one_place_or_the_request_is_refused() -> anyhow::Result<()> {
    run(&lengths())?;
    run(&good_lengths())
}

#[test]
fn a_head_has_one_meaning_or_the_request_is_refused() -> anyhow::Result<()> {
    run(&heads())
}

#[test]
fn what_is_too_large_is_refused_with_its_name() -> anyhow::Result<()> {
    run(&sizes())
}

#[test]
fn a_body_whose_chunks_are_wrong_never_becomes_whole() -> anyhow::Result<()> {
    run(&chunks())
}
