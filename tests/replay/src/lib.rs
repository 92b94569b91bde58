//! Fuzz targets as tests. In: the name of a target, its function, and how many cases. Out: nothing, or a panic that shows the
//! input. Every file of `fuzz/corpus/<target>/` is run as it is, then as many changes of them as asked for. The changes are
//! drawn from a fixed seed, so that what fails fails again. Does not: look for new paths through the code; that is the work
//! of libFuzzer (`fuzz/README.md`), whose finds become files of the corpus and so come here.

use fastrand::Rng;
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

/// Longer inputs find nothing that these do not, and cost the others their turn.
const CASE_BYTES_MAX: usize = 4096;
/// Changes of one input.
const CHANGES_MAX: usize = 6;
/// What parsers stumble over, beside the pieces of the corpus itself.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"/",
    b"..",
    b"%00",
    b"%2f",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"-1",
    b"65536",
    b"18446744073709551616",
    b"\xff\xff\xff\xff",
    b"\xc3\xbc",
];

/// Tests that replay targets: the claim that a target holds, its function, which has the target's name, and the number of
/// changed cases.
#[macro_export]
macro_rules! replays {
    ($($claim:ident: $target:ident, $cases:literal;)*) => {
        mod replays {
            $(
                #[test]
                fn $claim() {
                    $crate::replay(stringify!($target), super::$target, $cases);
                }
            )*
        }
    };
}

/// Runs `parse` over the corpus of `target`, then over `cases` changes of it.
///
/// # Panics
/// If `parse` does, or if there is no corpus.
pub fn replay(target: &str, parse: fn(&[u8]), cases: usize) {
    let corpus = corpus(target);
    for (file, bytes) in &corpus {
        let _shown = Shown { what: file.display().to_string(), bytes };
        parse(bytes);
    }
    let mut rng = Rng::with_seed(target.bytes().fold(17, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte)));
    for case in 0..cases {
        let bytes = changed(&corpus, &mut rng);
        let _shown = Shown { what: format!("{target}, case {case}"), bytes: &bytes };
        parse(&bytes);
    }
}

/// The committed inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no file: put a small input there for a start", folder.display());
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// One of the inputs, with a few changes.
fn changed(corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.usize(..corpus.len())].1.clone();
    for _ in 0..rng.usize(1..=CHANGES_MAX) {
        change(&mut bytes, corpus, rng);
    }
    bytes.truncate(CASE_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) {
    let at = rng.usize(..=bytes.len());
    let end = (at + rng.usize(..32)).min(bytes.len());
    match rng.u8(..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        1 if at < bytes.len() => bytes[at] = rng.u8(..),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        4 => drop(bytes.splice(at..end, WORDS[rng.usize(..WORDS.len())].iter().copied())),
        5 => drop(bytes.splice(at..at, WORDS[rng.usize(..WORDS.len())].iter().copied())),
        6 => bytes.truncate(at),
        _ => {
            let other = &corpus[rng.usize(..corpus.len())].1;
            let from = rng.usize(..=other.len());
            let to = (from + rng.usize(..256)).min(other.len());
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
    }
}

/// Shows the input if its parser panics.
struct Shown<'a> {
    what: String,
    bytes: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{} is what it failed at:\nb\"{}\"", self.what, self.bytes.escape_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_cases_and_they_differ() {
        let corpus = [("a".into(), b"GET / HTTP/1.1\r\n\r\n".to_vec()), ("b".into(), b"x: y\r\n".to_vec())];
        let draw = |seed| {
            let mut rng = Rng::with_seed(seed);
            (0..100).map(|_| changed(&corpus, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut cases = draw(1);
        cases.sort();
        cases.dedup();
        assert!(cases.len() > 90 && cases.iter().all(|case| case.len() <= CASE_BYTES_MAX), "{}", cases.len());
    }
}
