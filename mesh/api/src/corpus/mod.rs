//! Messages as they are kept in the repository (`mesh/api/corpus`), so that two releases go on to understand each other.
//!
//! `current/` has one for each kind of resource, of request, and of what a rule can say, with what is read of it beside it; this
//! version writes and reads them so. `previous/` has those of the release before, with its protocol: its proxies and its
//! discovery, as far as a test can play them. [`record`] writes `current/`; a release copies it, and `discovery.proto`, over
//! `previous/`.

mod newer;
mod play;
mod samples;

use crate::{Received, sync::Update, v1};
use prost::Message as _;
use samples::Sample;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// By name of the file, without its ending.
type Files = BTreeMap<String, Vec<u8>>;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

impl Sample {
    fn ending(&self) -> &'static str {
        if self.said { "said" } else { "asked" }
    }

    /// What is read of bytes like it, for people.
    fn read(&self, bytes: &[u8]) -> String {
        if self.said {
            format!("{:#?}\n", Update::try_from(Received::decode(bytes).unwrap()))
        } else {
            format!("{:#?}\n", v1::SyncRequest::decode(bytes).unwrap())
        }
    }
}

/// The files of a folder with an ending.
fn files(name: &str, ending: &str) -> Files {
    let all = std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
    let all = all.filter(|path| path.extension().is_some_and(|found| found == ending));
    all.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
}

/// Writes `current/` anew, for when what is on the wire is meant to be another, and the change is looked at.
fn record() {
    let folder = folder("current");
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    for sample in samples::all() {
        let file = |ending: &str| folder.join(format!("{}.{ending}", sample.name));
        std::fs::write(file("txt"), sample.read(&sample.bytes)).unwrap();
        std::fs::write(file(sample.ending()), sample.bytes).unwrap();
    }
}

const REMEDY: &str = "if that is meant, and proxies and discoveries of the last release can live with it, run \
                      `REMORA_WRITE_CORPUS=1 cargo test -p remora-api --lib every_message` and look at the difference";

#[test]
fn every_message_is_written_as_it_was() {
    if std::env::var_os("REMORA_WRITE_CORPUS").is_some() {
        record();
    }
    for ending in ["said", "asked"] {
        let mut kept = files("current", ending);
        for sample in samples::all().into_iter().filter(|sample| sample.ending() == ending) {
            let before = kept.remove(sample.name);
            assert!(
                before.is_some_and(|before| before == sample.bytes),
                "{}: other bytes go out; {REMEDY}",
                sample.name
            );
        }
        assert!(kept.is_empty(), "{:?}: no longer written; {REMEDY}", kept.keys());
    }
}

#[test]
fn every_message_is_read_as_it_was() {
    let mut said = files("current", "txt");
    let kept: Files = ["said", "asked"].into_iter().flat_map(|ending| files("current", ending)).collect();
    for sample in samples::all() {
        let text = said.remove(sample.name).unwrap_or_default();
        let read = kept.get(sample.name).map(|bytes| sample.read(bytes)).unwrap_or_default();
        assert_eq!(read, String::from_utf8(text).unwrap(), "{}: is read otherwise; {REMEDY}", sample.name);
    }
    assert!(said.is_empty(), "{:?}: no longer written; {REMEDY}", said.keys());
}
