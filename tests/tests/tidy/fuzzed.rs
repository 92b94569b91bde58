//! Every fuzz target has all its parts.

use super::{is_fuzzing, sources, top};
use anyhow::ensure;
use std::{collections::BTreeSet, fs};

/// Replayed only, by the file that says so: libFuzzer cannot link a program.
const REPLAYED_ONLY: [&str; 1] = ["injected_manifests"];

/// The names in a folder, without an ending.
fn names(folder: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(top().join(folder))? {
        names.insert(entry?.file_name().to_string_lossy().trim_end_matches(".rs").to_owned());
    }
    Ok(names)
}

#[test]
fn every_fuzz_target_has_a_corpus_and_is_replayed_by_a_test() -> anyhow::Result<()> {
    let mut replayed = BTreeSet::new();
    for (name, text) in sources()?.iter().filter(|(name, _)| is_fuzzing(name)) {
        let Some((_, list)) = text.split_once("remora_replay::replays! {") else { continue };
        for line in list.split('}').next().unwrap_or_default().lines().filter(|line| line.contains(':')) {
            let target = line.split([':', ',']).nth(1).unwrap_or_default().trim().to_owned();
            ensure!(replayed.insert(target), "{name}: {line} is replayed twice");
        }
    }
    ensure!(replayed.len() > 20, "only {replayed:?} are replayed");
    let corpora = names("fuzz/corpus")?;
    ensure!(replayed == corpora, "replayed, or with a folder in fuzz/corpus, not both: {:?}", &replayed ^ &corpora);
    let only = REPLAYED_ONLY.map(str::to_owned).into();
    let targets = names("fuzz/fuzz_targets")?;
    ensure!(&replayed - &only == targets, "no file in fuzz/fuzz_targets: {:?}", &(&replayed - &only) ^ &targets);
    let manifest = fs::read_to_string(top().join("fuzz/Cargo.toml"))?;
    for target in targets {
        let text = fs::read_to_string(top().join(format!("fuzz/fuzz_targets/{target}.rs")))?;
        ensure!(
            text.contains(&format!("::fuzzing::{target}(data)")),
            "fuzz/fuzz_targets/{target}.rs runs another target"
        );
        ensure!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml has no [[bin]] {target}");
    }
    Ok(())
}
