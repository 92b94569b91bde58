//! A directory of manifests as a source of objects.
//!
//! In: every `*.yaml`, `*.yml`, `*.json` right in the directory. Out: what changed of their objects, and every
//! mistake of every file. Watched by the system's notification and by a poll (network file systems and ConfigMap symlinks
//! tell nothing). It does not judge objects, nor descend into folders.
//!
//! **A broken file changes nothing**: what it said when it was last good stays. A file that was never good has nothing
//! to stay, and what it meant to forbid is unknown; so at the start [`Directory::changes`] gives nothing at all until
//! every file has been good once ([`SourceError::NeverGood`]). A file that comes later and is broken from its beginning
//! adds nothing, but removes nothing either: as long as it stands, policies of files that are gone stay in force,
//! for it may be one of them, renamed and spoilt in one step.

use super::parse::{ParseError, parse};
use crate::{index::Change, objects::Object};
use notify::Watcher;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;

/// The largest file that is read: Kubernetes itself takes no object above 1.5 MB.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most objects of all files together.
pub const OBJECTS_MAX: usize = 200_000;
/// How often the directory is read without a notification.
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
    #[error("{} is no regular file", path.display())]
    NoFile { path: PathBuf },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; split it", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Parse { path: PathBuf, source: ParseError },
    #[error("more than {OBJECTS_MAX} objects; the previous state is kept")]
    TooMany,
    #[error("{} never could be read since the start; nothing is served until all can", names(files))]
    NeverGood { files: Vec<PathBuf> },
}

fn names(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

/// Changes when the file does: modification time, length, inode (a file that is moved into place may keep the others).
type Stamp = (SystemTime, u64, u64);

#[derive(Debug, Default)]
struct File {
    seen: Option<Stamp>,
    objects: Vec<Object>,
    broken: bool,
    /// Was read without an error at least once.
    good: bool,
    /// The file was removed.
    gone: bool,
}

/// What a look at the directory found.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Whether the set of objects may have changed.
    pub changed: bool,
    /// Whether the directory could not be listed: then everything stays as it is.
    pub missing: bool,
    /// All errors of all files that changed.
    pub errors: Vec<SourceError>,
    /// Kinds that have no effect and were not named before: file, `apiVersion kind`, how many.
    pub unused: Vec<(PathBuf, String, usize)>,
}

/// The directory with what was last good of each file.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Whether every file has been good at the same time.
    started: bool,
    /// Kinds without effect that were logged.
    told: BTreeSet<String>,
    /// Why the directory could not be listed when it was looked at last.
    unlisted: Option<io::ErrorKind>,
    /// What was not taken yet.
    changes: Vec<Change>,
}

impl Directory {
    /// Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (files, told, changes) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { path: path.into(), files, started: false, told, unlisted: None, changes }
    }

    /// Reads what changed: of these files, or of all. Blocks on the file system.
    pub fn refresh(&mut self, only: Option<BTreeSet<PathBuf>>) -> Refreshed {
        let mut found = Refreshed::default();
        if let Some(only) = only.filter(|only| only.iter().all(|path| path.exists())) {
            only.iter().for_each(|path| self.look_at(path, &mut found));
            self.started |= self.never_good().is_empty();
            return found;
        }
        let names = match list(&self.path) {
            Ok(names) => names,
            Err(source) => {
                found.missing = true;
                if self.unlisted.replace(source.kind()) != Some(source.kind()) {
                    found.errors.push(SourceError::List { path: self.path.clone(), source });
                }
                return found;
            }
        };
        self.unlisted = None;
        for path in &names {
            self.look_at(path, &mut found);
        }
        self.forget(&names, &mut found);
        self.started |= self.never_good().is_empty();
        found
    }

    fn look_at(&mut self, path: &Path, found: &mut Refreshed) {
        let stamp = fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len(), meta.ino()))).ok();
        let file = self.files.entry(path.to_owned()).or_default();
        file.gone = false;
        if file.seen == stamp && (stamp.is_some() || file.broken) {
            return;
        }
        file.seen = stamp;
        let (objects, unused) = match read(path) {
            Ok(read) => read,
            Err(mut errors) => {
                file.broken = true;
                found.errors.append(&mut errors);
                return;
            }
        };
        found.changed |= objects != file.objects || !file.good;
        self.changes.extend(differences(&file.objects, &objects));
        (file.objects, file.broken, file.good) = (objects, false, true);
        let fresh = unused.into_iter().filter(|(kind, _)| self.told.insert(kind.clone()));
        found.unused.extend(fresh.map(|(kind, count)| (path.to_owned(), kind, count)));
    }

    /// Drops files that are gone; but not their policies while there is a file that was never valid.
    fn forget(&mut self, names: &[PathBuf], found: &mut Refreshed) {
        let there = |path: &PathBuf| names.binary_search(path).is_ok();
        let doubtful = self.files.iter().any(|(path, file)| !file.good && there(path));
        for (path, file) in &mut self.files {
            if there(path) {
                continue;
            }
            let before = file.objects.len();
            let stays = |object: &Object| doubtful && object.restricts();
            self.changes.extend(file.objects.iter().filter(|object| !stays(object)).cloned().map(Change::Gone));
            file.objects.retain(stays);
            file.gone = true;
            file.seen = None;
            found.changed |= file.objects.len() != before;
        }
        self.files.retain(|_, file| !file.gone || !file.objects.is_empty());
    }

    /// What changed since this was asked last. Nothing as long as, at the start, some file could not be read, or there are too
    /// many objects; it comes later then.
    pub fn changes(&mut self) -> Result<Vec<Change>, SourceError> {
        if !self.started {
            return Err(SourceError::NeverGood { files: self.never_good() });
        }
        let all: usize = self.files.values().map(|file| file.objects.len()).sum();
        if all > OBJECTS_MAX { Err(SourceError::TooMany) } else { Ok(std::mem::take(&mut self.changes)) }
    }

    /// Files that stand as they last were, because they are broken now.
    pub fn broken(&self) -> usize {
        self.files.values().filter(|file| file.broken).count()
    }

    fn never_good(&self) -> Vec<PathBuf> {
        self.files.iter().filter(|(_, file)| !file.good).map(|(path, _)| path.clone()).collect()
    }
}

/// What leads from what a file said to what it says. An object that stands elsewhere in it is another.
fn differences(before: &[Object], after: &[Object]) -> Vec<Change> {
    let name = |object: &Object| {
        let meta = object.metadata();
        (object.kind(), meta.namespace.clone(), meta.name.clone(), meta.origin.line)
    };
    let known: HashMap<_, &Object> = before.iter().map(|object| (name(object), object)).collect();
    let kept: HashSet<_> = after.iter().map(name).collect();
    let gone = before.iter().filter(|object| !kept.contains(&name(object))).cloned().map(Change::Gone);
    let put = after.iter().filter(|object| known.get(&name(object)) != Some(object)).cloned().map(Change::Put);
    gone.chain(put).collect()
}

fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        // A link that leads nowhere is a manifest that cannot be read, not one that is not there.
        if is_manifest(&path) && !path.is_dir() {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name is a manifest.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
}

type Read = (Vec<Object>, BTreeMap<String, usize>);

fn read(path: &Path) -> Result<Read, Vec<SourceError>> {
    let name = || path.to_owned();
    let one = |error| vec![error];
    let meta = fs::metadata(path).map_err(|source| one(SourceError::Read { path: name(), source }))?;
    if !meta.is_file() {
        return Err(one(SourceError::NoFile { path: name() }));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(one(SourceError::TooLarge { path: name() }));
    }
    let text = fs::read_to_string(path).map_err(|source| one(SourceError::Read { path: name(), source }))?;
    let mut parsed = parse(&text, &path.display().to_string());
    let unused = std::mem::take(&mut parsed.unused);
    let told = |mistakes: Vec<ParseError>| {
        mistakes.into_iter().map(|source| SourceError::Parse { path: name(), source }).collect::<Vec<_>>()
    };
    Ok((parsed.whole().map_err(told)?, unused))
}

/// What the system told of a directory.
#[derive(Debug, Default)]
pub struct Told {
    /// The manifests that may be others; `None`: any may be.
    files: Mutex<Option<BTreeSet<PathBuf>>>,
    something: Notify,
}

impl Told {
    /// Resolves when something was told. Cancel-safe.
    pub async fn something(&self) {
        self.something.notified().await;
    }

    /// The manifests that may be others since this was asked last; `None`: any may be.
    pub fn files(&self) -> Option<BTreeSet<PathBuf>> {
        self.lock().replace(BTreeSet::new())
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<PathBuf>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: &notify::Result<notify::Event>) {
        match concerns(event) {
            Some(files) if files.is_empty() => return,
            Some(files) => drop(self.lock().as_mut().map(|known| known.extend(files))),
            None => *self.lock() = None,
        }
        self.something.notify_one();
    }
}

/// Tells of changes in `path` until it is dropped. Without notification (no inotify left) only the poll remains.
pub fn watch(path: &Path) -> (Option<notify::RecommendedWatcher>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let tell = Arc::clone(&told);
    let watcher = notify::recommended_watcher(move |event| tell.tell(&event));
    let watcher = watcher.and_then(|mut watcher| {
        watcher.watch(path, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(%error, "cannot watch the manifests; they are polled every {POLL:?}");
    }
    (watcher.ok(), told)
}

/// The manifests that an event is of; `None`: any may be others. Our own reading makes events of access; to answer those would
/// never end. What is hidden by one dot is somebody's way to write; what begins with two is the kubelet's, through which all
/// files of a ConfigMap change without a word of their own.
fn concerns(event: &notify::Result<notify::Event>) -> Option<BTreeSet<PathBuf>> {
    let event = event.as_ref().ok().filter(|event| !event.need_rescan())?;
    if event.kind.is_access() {
        return Some(BTreeSet::new());
    }
    let name = |path: &PathBuf| path.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
    let any = event.paths.is_empty() || event.paths.iter().any(|path| name(path).starts_with(b".."));
    (!any).then(|| event.paths.iter().filter(|path| is_manifest(path)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: api }\nspec: { ports: [{ port: 80 }] }\n";
    const POLICY: &str =
        "apiVersion: remora.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: { name: strict }\nspec: { mode: Strict }\n";
    const BROKEN: &str =
        "apiVersion: remora.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: { name: strict }\nspec: { mode: Strikt }\n";

    struct Folder(tempfile::TempDir, Directory);

    impl Directory {
        fn objects(&self) -> Result<Vec<Object>, SourceError> {
            let never = || SourceError::NeverGood { files: self.never_good() };
            self.started.then(|| self.files.values().flat_map(|file| file.objects.clone()).collect()).ok_or_else(never)
        }
    }

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = Directory::new(dir.path());
            Self(dir, source)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn remove(&self, name: &str) {
            fs::remove_file(self.0.path().join(name)).unwrap();
        }

        fn refresh(&mut self) -> (bool, Vec<String>) {
            let found = self.1.refresh(None);
            (found.changed, found.errors.iter().map(ToString::to_string).collect())
        }

        fn kinds(&self) -> Vec<&'static str> {
            self.1.objects().unwrap().iter().map(Object::kind).collect()
        }
    }

    #[test]
    fn a_broken_file_is_reported_once_and_keeps_its_last_good_state() {
        let mut folder = Folder::new();
        folder.write("a.yaml", GOOD);
        assert!(folder.refresh().0);
        folder.write("a.yaml", &format!("{GOOD}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: []\n"));
        let (changed, errors) = folder.refresh();
        assert!(!changed);
        assert!(errors[0].contains("a.yaml: line 9: metadata.name:"), "{errors:?}");
        assert_eq!((folder.kinds(), folder.1.broken()), (vec!["Service"], 1));
        assert!(folder.refresh().1.is_empty());
        folder.remove("a.yaml");
        assert!(folder.refresh().0);
        assert!(folder.kinds().is_empty());
    }

    #[test]
    fn a_file_that_is_broken_at_the_start_holds_everything_back() {
        let mut folder = Folder::new();
        folder.write("a.yaml", GOOD);
        folder.write("b.yaml", BROKEN);
        folder.write("c.yaml", &BROKEN.replace("Strikt", "Permissif"));
        let (_, errors) = folder.refresh();
        assert_eq!(errors.len(), 2, "the mistakes of all files: {errors:?}");
        let refusal = folder.1.objects().unwrap_err().to_string();
        assert!(refusal.contains("b.yaml") && refusal.contains("c.yaml") && !refusal.contains("a.yaml"), "{refusal}");
        folder.write("b.yaml", POLICY);
        folder.refresh();
        assert!(folder.1.objects().is_err(), "one is still broken");
        folder.remove("c.yaml");
        folder.refresh();
        assert_eq!(folder.kinds(), ["Service", "MeshTLSPolicy"]);
    }

    #[test]
    fn changes_lead_to_what_the_files_say() {
        let mut folder = Folder::new();
        let two = format!("{GOOD}---\n{POLICY}");
        folder.write("a.yaml", &two);
        folder.refresh();
        assert_eq!(folder.1.changes().unwrap().len(), 2);
        folder.write("a.yaml", &two.replace("port: 80", "port: 81"));
        folder.refresh();
        assert!(matches!(folder.1.changes().unwrap()[..], [Change::Put(Object::Service(_))]));
        // The policy stands elsewhere, and the Service is no more.
        folder.write("a.yaml", POLICY);
        folder.refresh();
        let changes = folder.1.changes().unwrap();
        let gone = changes.iter().filter(|change| matches!(change, Change::Gone(_))).count();
        assert_eq!((gone, changes.len()), (2, 3), "{changes:?}");
        folder.remove("a.yaml");
        folder.refresh();
        assert!(matches!(folder.1.changes().unwrap()[..], [Change::Gone(Object::MeshTlsPolicy(_))]));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_broken_file() {
        let mut folder = Folder::new();
        std::os::unix::fs::symlink("nowhere", folder.0.path().join("a.yaml")).unwrap();
        assert!(folder.refresh().1[0].starts_with("cannot read "));
        assert!(folder.1.objects().is_err());
    }

    #[test]
    fn a_new_file_that_is_broken_adds_nothing_and_takes_nothing_away() {
        let mut folder = Folder::new();
        folder.write("a.yaml", GOOD);
        folder.write("b.yaml", POLICY);
        folder.refresh();
        folder.write("c.yaml", BROKEN);
        assert_eq!((folder.refresh().0, folder.kinds()), (false, vec!["Service", "MeshTLSPolicy"]));
    }

    #[test]
    fn a_policy_renamed_and_spoilt_in_one_step_stays_in_force() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &format!("{GOOD}---\n{POLICY}"));
        folder.refresh();
        folder.remove("a.yaml");
        folder.write("b.yaml", BROKEN);
        assert!(folder.refresh().0);
        assert_eq!(folder.kinds(), ["MeshTLSPolicy"], "the policy stays, the Service is gone");
        folder.write("b.yaml", GOOD);
        assert!(folder.refresh().0);
        assert_eq!(folder.kinds(), ["Service"]);
    }

    #[test]
    fn a_directory_that_is_missing_is_told_once_and_takes_nothing_away() {
        let mut folder = Folder::new();
        folder.write("a.yaml", GOOD);
        folder.refresh();
        let (path, away) = (folder.0.path().to_owned(), folder.0.path().with_extension("away"));
        fs::rename(&path, &away).unwrap();
        assert!(folder.refresh().1[0].starts_with("cannot list "));
        assert!(folder.refresh().1.is_empty(), "once");
        assert_eq!(folder.kinds(), ["Service"]);
        fs::rename(&away, &path).unwrap();
        assert_eq!(folder.refresh(), (false, vec![]));
    }

    #[test]
    fn of_all_events_those_of_manifests_count_and_our_own_reading_is_no_reason_to_read_again() {
        use notify::{
            Event, EventKind,
            event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RemoveKind},
        };
        let of = |kind, path: &str| concerns(&Ok(Event::new(kind).add_path(path.into())));
        let count = |kind, path| of(kind, path).map(|files| files.len());
        for kind in [AccessKind::Any, AccessKind::Read, AccessKind::Open(AccessMode::Any)] {
            assert_eq!(count(EventKind::Access(kind), "/m/a.yaml"), Some(0), "{kind:?}");
        }
        let (create, modify, remove) = (CreateKind::File, ModifyKind::Any, RemoveKind::File);
        for kind in [EventKind::Create(create), EventKind::Modify(modify), EventKind::Remove(remove), EventKind::Any] {
            let of = |path| count(kind, path);
            assert_eq!(
                [of("/m/a.yaml"), of("/m/.a.yaml"), of("/m/..data"), of("/m/a.txt")],
                [Some(1), Some(0), None, Some(0)]
            );
        }
        assert_eq!(concerns(&Err(notify::Error::generic("lost events"))), None);
        assert_eq!(concerns(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))), None);
        let told = Told::default();
        assert_eq!(told.files(), None, "at first nothing was read");
        told.tell(&Ok(Event::new(EventKind::Any).add_path("/m/a.yaml".into())));
        assert_eq!(told.files(), Some(["/m/a.yaml".into()].into()));
        assert_eq!(told.files(), Some(BTreeSet::new()));
    }

    #[test]
    fn a_file_that_was_told_of_is_looked_at_alone() {
        let mut folder = Folder::new();
        folder.write("a.yaml", GOOD);
        folder.refresh();
        folder.write("a.yaml", &GOOD.replace("80", "81"));
        folder.write("b.yaml", POLICY);
        let told = |name: &str| Some([folder.0.path().join(name)].into());
        assert!(folder.1.refresh(told("b.yaml")).changed && folder.1.changes().unwrap().len() == 2);
        folder.remove("b.yaml");
        assert!(folder.1.refresh(told("b.yaml")).changed, "one that is gone is a reason to look at all");
        assert_eq!(folder.1.changes().unwrap().len(), 2);
    }

    #[test]
    fn a_kind_without_effect_is_named_once() {
        let mut folder = Folder::new();
        let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a }\n";
        folder.write("a.yaml", deployment);
        let unused = folder.1.refresh(None).unused;
        assert!(unused.len() == 1 && unused[0].1 == "apps/v1 Deployment" && unused[0].2 == 1, "{unused:?}");
        folder.write("b.yaml", deployment);
        assert!(folder.1.refresh(None).unused.is_empty());
    }
}
