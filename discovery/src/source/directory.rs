//! A directory of manifests as a source of objects.
//!
//! In: every `*.yaml`, `*.yml`, `*.json` right in the directory. Out: all objects, again after each change. A broken file
//! is reported once, and what it said when it was last good stays. Watched by the system's notification and by a poll
//! (network file systems and ConfigMap symlinks tell nothing). It does not judge objects, nor descend into folders.

use super::parse::{ParseError, parse};
use crate::objects::Object;
use notify::Watcher;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// The largest file that is read: Kubernetes itself takes no object above 1.5 MB.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most objects of all files together.
pub const OBJECTS_MAX: usize = 200_000;
/// How often the directory is looked at without being told.
pub const POLL: Duration = Duration::from_secs(2);
/// Changes this close together are read together.
pub const DEBOUNCE: Duration = Duration::from_millis(50);

/// Why a file or the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; split it", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Parse { path: PathBuf, source: ParseError },
    #[error("more than {OBJECTS_MAX} objects; the previous state is kept")]
    TooMany,
}

#[derive(Debug, Default)]
struct File {
    seen: Option<(SystemTime, u64)>,
    objects: Vec<Object>,
    broken: bool,
}

/// The directory with what was last good of each file.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

impl Directory {
    /// Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new() }
    }

    /// Reads what changed. Returns whether any object may have, and every new mistake.
    pub fn refresh(&mut self) -> (bool, Vec<SourceError>) {
        let names = match list(&self.path) {
            Ok(names) => names,
            Err(source) => return (false, vec![SourceError::List { path: self.path.clone(), source }]),
        };
        let before = self.files.len();
        self.files.retain(|path, _| names.contains(path));
        let (mut changed, mut errors) = (self.files.len() != before, Vec::new());
        for path in names {
            let stamp = fs::metadata(&path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
            let file = self.files.entry(path.clone()).or_default();
            if stamp.is_some() && file.seen == stamp {
                continue;
            }
            match read(&path) {
                Ok(objects) => {
                    changed |= objects != file.objects;
                    (file.objects, file.broken) = (objects, false);
                }
                Err(error) => {
                    file.broken = true;
                    errors.push(error);
                }
            }
            file.seen = stamp;
        }
        (changed, errors)
    }

    /// All objects, in the order of file names.
    pub fn objects(&self) -> Result<Vec<Object>, SourceError> {
        let all: Vec<Object> = self.files.values().flat_map(|file| file.objects.iter().cloned()).collect();
        if all.len() > OBJECTS_MAX { Err(SourceError::TooMany) } else { Ok(all) }
    }

    /// Files that stand as they last were, because they are broken now.
    pub fn broken(&self) -> usize {
        self.files.values().filter(|file| file.broken).count()
    }
}

fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        if manifest && !hidden && path.is_file() {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<Object>, SourceError> {
    let whole = |source| SourceError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(whole)?.len() > FILE_BYTES_MAX {
        return Err(SourceError::TooLarge { path: path.to_owned() });
    }
    let text = fs::read_to_string(path).map_err(whole)?;
    parse(&text).map_err(|source| SourceError::Parse { path: path.to_owned(), source })
}

/// Tells of changes in `path` until it is dropped. Without notification (no inotify left) only the poll remains.
pub fn watch(path: &Path) -> (Option<notify::RecommendedWatcher>, Arc<Notify>) {
    let changed = Arc::new(Notify::new());
    let tell = Arc::clone(&changed);
    let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| tell.notify_one());
    let watcher = watcher.and_then(|mut watcher| {
        watcher.watch(path, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(%error, "cannot watch the manifests; they are polled every {POLL:?}");
    }
    (watcher.ok(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: api }\nspec: { ports: [{ port: 80 }] }\n";

    #[test]
    fn a_broken_file_is_reported_once_and_keeps_its_last_good_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut source = Directory::new(dir.path());
        assert!(source.refresh().0);
        fs::write(&file, format!("{GOOD}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: []\n")).unwrap();
        let (changed, errors) = source.refresh();
        assert!(!changed);
        let text = errors[0].to_string();
        assert!(text.contains("a.yaml: line 9: metadata.name:"), "{text}");
        assert_eq!((source.objects().unwrap().len(), source.broken()), (1, 1));
        assert!(source.refresh().1.is_empty());
        fs::remove_file(&file).unwrap();
        assert!(source.refresh().0);
        assert!(source.objects().unwrap().is_empty());
    }
}
