//! From a directory of manifests to the hub: reads it when something changes, and reports errors.

use crate::{
    serve::{Applied, Hub},
    source::directory::{DEBOUNCE, Directory, POLL, Refreshed, SourceError, watch},
};
use anyhow::Context as _;
use remora_runtime::{admin, drain};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use tokio::time::Instant;

/// The condition of readiness.
pub(crate) const CONDITION: &str = "manifests";

/// A look at the manifests, and what their changes made of the world.
struct Look {
    directory: Directory,
    found: Refreshed,
    applied: Option<Result<Applied, SourceError>>,
}

/// Reading and indexing blocks, on a thread where it delays no stream.
async fn look(
    mut directory: Directory,
    only: Option<BTreeSet<PathBuf>>,
    hub: Hub,
    first: bool,
) -> anyhow::Result<Look> {
    let look = move || {
        let found = directory.refresh(only);
        let take = || {
            let mut applied = hub.apply(directory.changes()?);
            applied.reports.extend(hub.settle());
            Ok(applied)
        };
        let applied = ((found.changed || first) && !found.missing).then(take);
        Look { directory, found, applied }
    };
    tokio::task::spawn_blocking(look).await.context("reading the manifests ended badly")
}

/// Keeps reading the manifests of a directory and telling the hub what changed, until the drain.
pub(crate) async fn directory(
    manifests: &Path,
    hub: Hub,
    readiness: &admin::Readiness,
    draining: drain::Watch,
) -> anyhow::Result<()> {
    let (_watcher, told) = watch(manifests);
    let mut directory = Directory::new(manifests);
    let (mut first, mut refused, mut polled) = (true, String::new(), Instant::now());
    loop {
        // Between two polls only what was told of is looked at.
        let only = told.files().filter(|_| !first && polled.elapsed() < POLL);
        if only.is_none() {
            polled = Instant::now();
        }
        let look = look(directory, only, hub.clone(), first).await?;
        directory = look.directory;
        tell(&look.found, directory.broken());
        match look.applied {
            Some(Ok(applied)) => {
                announce(&applied);
                first = false;
                readiness.ready(CONDITION);
                refused.clear();
            }
            Some(Err(error)) => {
                let why = chain(&error);
                if first {
                    readiness.waiting(CONDITION, why.clone());
                }
                if why != refused {
                    tracing::error!(error = why, "manifests refused");
                    refused = why;
                }
            }
            None if first && look.found.missing => {
                readiness.waiting(CONDITION, format!("cannot list {}", manifests.display()));
            }
            None => {}
        }
        tokio::select! {
            () = draining.signaled() => return Ok(()),
            // Writers write more than once: what follows closely is read together.
            () = told.something() => tokio::time::sleep(DEBOUNCE).await,
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

fn announce(applied: &Applied) {
    for report in applied.reports.iter().chain(&applied.unseen) {
        tracing::warn!("{report}");
    }
    count(applied);
    let (services, pods, backends) = applied.counts;
    tracing::info!(services, pods, backends, "changes applied");
}

/// Counts what there is.
pub(crate) fn count(applied: &Applied) {
    let (services, pods, backends) = applied.counts;
    metrics::gauge!("remora_discovery_services").set(services as f64);
    metrics::gauge!("remora_discovery_pods").set(pods as f64);
    metrics::gauge!("remora_discovery_backends").set(backends as f64);
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
