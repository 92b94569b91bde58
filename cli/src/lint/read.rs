//! Files to objects: by the reader that discovery has for folders, and once more as trees with the line of every value.

use super::{Finding, Level};
use anyhow::Context as _;
use remora_discovery::{
    objects::Object,
    source::{
        directory::{FILE_BYTES_MAX, OBJECTS_MAX},
        parse::parse,
    },
};
use remora_kube::yaml;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Files of all folders together: more than anybody keeps as manifests, and an end to a folder that was not meant.
const FILES_MAX: usize = 100_000;
/// Folders within each other.
const DEPTH_MAX: usize = 32;

/// What was typed is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no file or folder {}", .0.display())]
pub(crate) struct Absent(PathBuf);

/// What the files say.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(super) files: usize,
    pub(crate) objects: Vec<Object>,
    /// Documents with the file of each.
    pub(crate) trees: Vec<(String, yaml::Node)>,
    /// What cannot be read.
    pub(super) mistakes: Vec<Finding>,
}

/// Reads all files.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut files = BTreeSet::new();
    let mut manifests = Manifests::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().take(FILE_BYTES_MAX + 1).read_to_string(&mut text).context("cannot read standard input")?;
            manifests.take("<stdin>", &text)?;
            continue;
        }
        let kind = fs::metadata(path).map_err(|_| Absent(path.clone()))?;
        if kind.is_dir() {
            within(path, DEPTH_MAX, &mut files)?;
        } else {
            files.insert(path.clone());
        }
    }
    for path in files {
        let bytes = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{} is larger than {FILE_BYTES_MAX} bytes; split it", path.display());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        manifests.take(&path.display().to_string(), &text)?;
    }
    Ok(manifests)
}

/// The manifests of a folder and of those within it; none that is hidden.
fn within(folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let reading = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            anyhow::ensure!(depth > 0, "{} lies more than {DEPTH_MAX} folders deep", path.display());
            within(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json") {
            anyhow::ensure!(
                files.len() < FILES_MAX,
                "there are more than {FILES_MAX} files; name the folders that are meant"
            );
            files.insert(path);
        }
    }
    Ok(())
}

impl Manifests {
    fn take(&mut self, file: &str, text: &str) -> anyhow::Result<()> {
        self.files += 1;
        let parsed = parse(text, file);
        self.objects.extend(parsed.objects);
        anyhow::ensure!(self.objects.len() <= OBJECTS_MAX, "there are more than {OBJECTS_MAX} objects");
        self.mistakes.extend(parsed.mistakes.into_iter().map(|mistake| Finding {
            file: file.to_owned(),
            line: mistake.line,
            level: Level::Error,
            object: String::new(),
            code: "Unreadable".to_owned(),
            message: format!("{}: {}", mistake.field, mistake.problem),
        }));
        self.trees.extend(yaml::read(text).into_iter().flatten().map(|node| (file.to_owned(), node)));
        Ok(())
    }
}
