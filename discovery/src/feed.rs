//! From a directory of manifests to snapshots: reads it when something changes, and reports errors.

use crate::{
    index::{Mesh, Snapshot},
    source::directory::{DEBOUNCE, Directory, POLL, Refreshed, SourceError, watch},
};
use anyhow::Context as _;
use remora_runtime::{admin, drain};
use std::{path::Path, sync::Arc};

/// A look at the manifests, and what they mean if that may have changed.
struct Look {
    directory: Directory,
    found: Refreshed,
    snapshot: Option<Result<Snapshot, SourceError>>,
}

/// Reading and indexing blocks, on a thread where it delays no stream.
async fn look(mut directory: Directory, mesh: Mesh, before: Option<Arc<Snapshot>>) -> anyhow::Result<Look> {
    let look = move || {
        let found = directory.refresh();
        let build = || directory.objects().map(|objects| Snapshot::build(objects, &mesh, before.as_deref()));
        let snapshot = ((found.changed || before.is_none()) && !found.missing).then(build);
        Look { directory, found, snapshot }
    };
    tokio::task::spawn_blocking(look).await.context("reading the manifests ended badly")
}

/// Keeps reading the manifests of a directory and publishing what they mean, until the drain.
pub(crate) async fn directory(
    manifests: &Path,
    mesh: Mesh,
    publish: tokio::sync::watch::Sender<Option<Arc<Snapshot>>>,
    readiness: &admin::Readiness,
    draining: drain::Watch,
) -> anyhow::Result<()> {
    readiness.waiting("manifests", "not read yet");
    let (_watcher, changed) = watch(manifests);
    let mut directory = Directory::new(manifests);
    let (mut reported, mut refused) = (Vec::new(), String::new());
    loop {
        let before = publish.borrow().clone();
        let first = before.is_none();
        let look = look(directory, mesh.clone(), before).await?;
        directory = look.directory;
        tell(&look.found, directory.broken());
        match look.snapshot {
            Some(Ok(snapshot)) => {
                announce(&snapshot, &mut reported);
                publish.send_replace(Some(Arc::new(snapshot)));
                readiness.ready("manifests");
                refused.clear();
            }
            Some(Err(error)) => {
                let why = chain(&error);
                if first {
                    readiness.waiting("manifests", why.clone());
                }
                if why != refused {
                    tracing::error!(error = why, "manifests refused");
                    refused = why;
                }
            }
            None if first && look.found.missing => {
                readiness.waiting("manifests", format!("cannot list {}", manifests.display()));
            }
            None => {}
        }
        tokio::select! {
            () = draining.signaled() => return Ok(()),
            // Writers write more than once: what follows closely is read together.
            () = changed.notified() => tokio::time::sleep(DEBOUNCE).await,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn tell(found: &Refreshed, broken: usize) {
    for error in &found.errors {
        tracing::error!(error = %chain(error), "invalid manifest; its last valid content stays in force");
    }
    for (file, kind, count) in &found.unused {
        tracing::info!(file = %file.display(), kind, count, "manifests of this kind have no effect here");
    }
    metrics::gauge!("remora_discovery_broken_files").set(broken as f64);
}

fn announce(snapshot: &Snapshot, reported: &mut Vec<String>) {
    let all: Vec<String> = snapshot.reports.iter().chain(&snapshot.unseen).cloned().collect();
    for report in all.iter().filter(|report| !reported.contains(report)) {
        tracing::warn!("{report}");
    }
    *reported = all;
    count(snapshot);
    let (services, pods, backends) = snapshot.counts();
    tracing::info!(services, pods, backends, "new snapshot");
}

/// Counts what a snapshot has.
pub(crate) fn count(snapshot: &Snapshot) {
    let (services, pods, backends) = snapshot.counts();
    metrics::gauge!("remora_discovery_services").set(services as f64);
    metrics::gauge!("remora_discovery_pods").set(pods as f64);
    metrics::gauge!("remora_discovery_backends").set(backends as f64);
    metrics::counter!("remora_discovery_snapshots_total").increment(1);
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
