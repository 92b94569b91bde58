//! `remora stat`, `top`, `endpoints`, `edges`, `tap` and `diagnose`: what pods do now, read from their proxies and added up.
//!
//! In: the pods that are meant. Discovery is asked for all of them at once, where that is allowed; else each is asked through the API server.
//! Out: tables for people, worst first, or JSON. Counts and latencies of several pods are added up bucket by bucket; quantiles are never
//! averaged. It changes nothing.
//!
//! | module | |
//! |--|--|
//! | [`ask`] | the signals of all pods that are meant |
//! | [`fan_in`] | the same of one place: discovery, that asks the proxies |
//! | [`model`] | what a proxy says |
//! | [`rows`] | signals added up: a row per route, workload, pod or namespace |
//! | [`mod@seen`] | who called what, for who writes policy from it |
//! | [`watch`] | the same anew, as a screen or one table behind the other |

mod ask;
mod diagnose;
mod edges;
mod endpoints;
mod fan_in;
mod model;
mod rows;
mod seen;
mod stat;
mod state;
mod tap;
mod watch;

pub(crate) use diagnose::{DiagnoseArgs, diagnose};
pub(crate) use edges::{EdgesArgs, edges};
pub(crate) use endpoints::{EndpointsArgs, endpoints};
pub(crate) use seen::{Seen, inbound as seen};
pub(crate) use stat::{StatArgs, stat};
pub(crate) use tap::{TapArgs, tap};

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

#[cfg(test)]
mod tests;
