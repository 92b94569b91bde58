//! RevokedIdentities in a folder of manifests, which may hold others too: the folder that discovery reads, without Kubernetes.

use super::Teller;
use crate::{limits::POLL, source::Changes};
use remora_kube::{
    revoked::{GROUP, KIND, Spec, VERSION, all},
    yaml,
};
use remora_model::Revocations;
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Between an event and the look: who writes a file is not done yet.
const SETTLE: Duration = Duration::from_millis(100);
/// A file larger than this holds no list of ours: as many as hold, by the longest names, are a tenth of it.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    /// The control plane's namespace; others' do not count.
    namespace: String,
}

impl Folder {
    /// The files of `dir`, without its folders.
    #[must_use]
    pub fn new(dir: PathBuf, namespace: String) -> Self {
        Self { dir, namespace }
    }

    /// What they say.
    ///
    /// # Errors
    /// The first file that cannot be read, and why.
    pub fn look(&self) -> Result<Revocations, String> {
        let unreadable = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let entries = fs::read_dir(&self.dir).map_err(|error| unreadable(&self.dir, error))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| {
            path.extension().and_then(OsStr::to_str).is_some_and(|it| ["yaml", "yml", "json"].contains(&it))
        });
        files.sort();
        let mut found = Vec::new();
        for path in files {
            if fs::metadata(&path).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
                return Err(format!("{}: is larger than {FILE_BYTES_MAX} bytes", path.display()));
            }
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            for document in yaml::read(&text) {
                let document = document.map_err(|mistake| format!("{}: {mistake}", path.display()))?;
                let line = document.line;
                self.read(document.into_json(), &mut found)
                    .map_err(|problem| format!("{}: line {line}: {problem}", path.display()))?;
            }
        }
        let (revocations, beyond) = all(found.iter().map(|(name, spec)| (None, &**name, spec)));
        if !beyond.is_empty() {
            tracing::warn!(beyond = beyond.len(), "there are more revocations than hold");
        }
        Ok(revocations)
    }

    fn read(&self, document: serde_json::Value, found: &mut Vec<(String, Spec)>) -> Result<(), String> {
        if document["kind"] == "List" {
            let items = document["items"].as_array().cloned().unwrap_or_default();
            return items.into_iter().try_for_each(|item| self.read(item, found));
        }
        let is_ours = document["kind"] == KIND && document["apiVersion"] == format!("{GROUP}/{VERSION}");
        let metadata = &document["metadata"];
        if !is_ours || metadata["namespace"] != *self.namespace {
            return Ok(());
        }
        let name = metadata["name"].as_str().ok_or("metadata.name: is missing")?;
        let spec = serde_json::from_value(document["spec"].clone()).map_err(|error| format!("spec: {error}"))?;
        found.push((name.to_owned(), spec));
        Ok(())
    }

    pub(super) async fn follow(&self, teller: &Teller) {
        let mut changes = Changes::of_files([&*self.dir]);
        let mut last = String::new();
        loop {
            match self.look() {
                Ok(revocations) => {
                    last.clear();
                    teller.tell(revocations);
                }
                Err(why) if why == last => {}
                Err(why) => {
                    teller.lost(&why);
                    last = why;
                }
            }
            changes.next(POLL).await;
            changes.settle(SETTLE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: { name: a, namespace: remora }\nspec: { serial: '4f' }\n";

    #[test]
    fn those_of_the_control_planes_namespace_count_and_what_cannot_be_read_is_told_with_its_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = Folder::new(dir.path().to_owned(), "remora".to_owned());
        assert_eq!(folder.look().unwrap().len(), 0);
        let elsewhere = ONE.replace("namespace: remora", "namespace: shop");
        fs::write(dir.path().join("all.yaml"), format!("{ONE}---\n{elsewhere}---\napiVersion: v1\nkind: Pod\n"))
            .unwrap();
        fs::write(dir.path().join("notes.txt"), "kind: [").unwrap();
        assert_eq!(folder.look().unwrap().iter().map(|one| one.name.to_string()).collect::<Vec<_>>(), ["a"]);
        fs::write(dir.path().join("b.yaml"), "kind: [").unwrap();
        assert!(folder.look().unwrap_err().contains("b.yaml: line 1"));
        fs::write(dir.path().join("b.yaml"), ONE.replace("'4f'", "[4]")).unwrap();
        assert!(folder.look().unwrap_err().contains("b.yaml: line 1: spec: "));
        let gone = Folder::new(dir.path().join("gone"), "remora".to_owned());
        assert!(gone.look().unwrap_err().contains("gone"));
    }
}
