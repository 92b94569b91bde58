//! The file: a `.tar.gz` that never gets larger than its bound, with what was left out of it and what failed.
//!
//! In: parts as they are read. Out: one folder of files. A part that has no room is named, not cut without a word.

use flate2::{Compression, write::GzEncoder};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};
use tar::{Builder, Header};

/// All files together, before they are compressed: what a person can send, and what a machine unpacks without a thought.
pub(super) const TOTAL_BYTES_MAX: usize = 64 << 20;
/// One file: a proxy's answers have at most 8 MiB.
pub(super) const FILE_BYTES_MAX: usize = 8 << 20;
/// Kept free for what failed and what was left out.
const RESERVED_BYTES: usize = 1 << 20;
/// At the end of a file that was cut.
const CUT: &str = "\n[cut here: the file has more]\n";

/// Why it cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot create {path}: is the folder there, may you write to it, and is there no such file yet?")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// The archive while it is made.
pub(super) struct Archive {
    builder: Builder<GzEncoder<File>>,
    path: PathBuf,
    /// The folder that all files are in.
    folder: String,
    /// When it was begun, in seconds since 1970.
    time: u64,
    left: usize,
    files: usize,
    /// What is not in it, and why.
    left_out: Vec<String>,
    /// What could not be read, and why.
    failures: Vec<String>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) left_out: Vec<String>,
    pub(super) failures: Vec<String>,
}

impl Archive {
    /// Creates the file, for its owner alone. One that is there already is not touched.
    pub(super) fn create(path: &Path, folder: &str, time: u64) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| Error::Create { path: path.to_owned(), source })?;
        Ok(Self {
            builder: Builder::new(GzEncoder::new(file, Compression::default())),
            path: path.to_owned(),
            folder: folder.to_owned(),
            time,
            left: TOTAL_BYTES_MAX - RESERVED_BYTES,
            files: 0,
            left_out: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// Adds a file, if there is room for it.
    pub(super) fn add(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let (text, cut) = match text.len() > FILE_BYTES_MAX {
            true => (head(text, FILE_BYTES_MAX - CUT.len()), CUT),
            false => (text, ""),
        };
        let size = text.len() + cut.len();
        if size > self.left {
            self.leave_out(name, &format!("the report has {} MiB already", TOTAL_BYTES_MAX >> 20));
            return Ok(());
        }
        if !cut.is_empty() {
            self.leave_out(name, &format!("only its first {} MiB are in the report", FILE_BYTES_MAX >> 20));
        }
        self.left -= size;
        self.write(name, &[text, cut].concat())
    }

    /// Something is not in it on purpose.
    pub(super) fn leave_out(&mut self, what: &str, why: &str) {
        self.left_out.push(format!("{what}: {why}"));
    }

    /// Something could not be read.
    pub(super) fn fail(&mut self, what: &str, why: &str) {
        self.failures.push(format!("{what}: {why}"));
    }

    /// Writes what failed and what was left out, and closes the file.
    pub(super) fn finish(mut self) -> Result<Made, Error> {
        for (name, mut lines) in [("failures.txt", self.failures.clone()), ("left-out.txt", self.left_out.clone())] {
            if lines.is_empty() {
                lines.push("nothing".to_owned());
            }
            let text = lines.join("\n") + "\n";
            self.write(name, head(&text, RESERVED_BYTES / 2))?;
        }
        let path = self.path.clone();
        let lost = |source| Error::Write { path: path.clone(), source };
        let file = self.builder.into_inner().and_then(GzEncoder::finish).map_err(lost)?;
        file.sync_all().map_err(lost)?;
        let bytes = file.metadata().map_err(lost)?.len();
        Ok(Made { files: self.files, bytes, left_out: self.left_out, failures: self.failures })
    }

    fn write(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = format!("{}/{}", self.folder, safe(name));
        self.files += 1;
        let written = self.builder.append_data(&mut header, path, text.as_bytes());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// The first bytes of a text, at most so many, no character cut in two.
fn head(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A name that stays within the folder, whatever an object is called.
fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '_' };
    let parts = name.split('/').filter(|part| !part.is_empty() && !part.chars().all(|c| c == '.'));
    parts.map(|part| part.chars().map(plain).collect::<String>()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::{collections::BTreeMap, io::Read as _};

    fn files(path: &Path) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let file = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            let _: usize = entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(file).collect()
    }

    #[test]
    fn an_archive_is_never_larger_than_its_bound_and_names_what_has_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.tar.gz");
        let mut archive = Archive::create(&path, "r", 7).unwrap();
        let large = "ä".repeat(FILE_BYTES_MAX);
        for n in 0..9 {
            archive.add(&format!("log-{n}.txt"), &large).unwrap();
        }
        archive.add("small.txt", "it still has room").unwrap();
        archive.fail("proxies/shop/web-1", "no answer");
        let made = archive.finish().unwrap();
        let files = files(&path);
        assert!(files.values().map(String::len).sum::<usize>() <= TOTAL_BYTES_MAX);
        assert_eq!((files.len(), made.files), (10, 10), "seven logs, the small one, and two lists");
        assert!(files["r/log-0.txt"].ends_with(CUT) && files["r/log-0.txt"].len() <= FILE_BYTES_MAX);
        assert!(files["r/left-out.txt"].contains("log-8.txt: the report has 64 MiB already"));
        assert_eq!(files["r/failures.txt"], "proxies/shop/web-1: no answer\n");
        assert_eq!(made.bytes, path.metadata().unwrap().len());
    }

    #[test]
    fn no_name_leads_out_of_the_folder_and_no_file_is_overwritten() {
        assert_eq!(safe("../../etc/./passwd"), "etc/passwd");
        assert_eq!(safe("/a/b c\n.txt"), "a/b_c_.txt");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("there");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Archive::create(&path, "r", 7), Err(Error::Create { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
