//! `remora stat`, `endpoints`, `edges`, `tap` and `diagnose`: what pods do now, read from their admin ports and added up.
//!
//! In: the pods that are meant, each asked through the API server, or one address. Out: tables for people, worst first, or JSON. Counts and
//! latencies of several pods are added up bucket by bucket; quantiles are never averaged. It changes nothing.

mod diagnose;
mod edges;
mod endpoints;
mod model;
mod stat;
mod tap;

pub(crate) use diagnose::diagnose;
pub(crate) use edges::edges;
pub(crate) use endpoints::endpoints;
pub(crate) use stat::{StatArgs, stat};
pub(crate) use tap::{TapArgs, tap};

use crate::{
    inspect::Admin,
    text::{Line, Style},
};
use model::Signals;

/// What each pod said, and a line for each that said nothing.
struct Asked {
    pods: Vec<Signals>,
    silent: Vec<Line>,
}

/// Asks all pods that are meant for their signals.
async fn ask(admin: &Admin) -> anyhow::Result<Asked> {
    let (mut pods, mut silent) = (Vec::new(), Vec::new());
    for (pod, answer) in admin.pages::<Signals>("/signals?histograms=true").await? {
        match answer {
            Ok(signals) => pods.push(signals),
            Err(error) => silent.push(Line::of(Style::Strong, pod).and(Style::Bad, format!("  {error}"))),
        }
    }
    Ok(Asked { pods, silent })
}

/// `namespace/account` of our own trust domain, the whole ID of any other, and a dash for nobody.
fn short(peer: &str, own: &str) -> String {
    let parts = |id: &str| {
        let (domain, path) = id.strip_prefix("spiffe://")?.split_once("/ns/")?;
        Some((domain.to_owned(), path.replacen("/sa/", "/", 1)))
    };
    match (parts(peer), parts(own)) {
        _ if peer.is_empty() => "-".to_owned(),
        (Some((domain, name)), Some((ours, _))) if domain == ours => name,
        _ => peer.to_owned(),
    }
}
