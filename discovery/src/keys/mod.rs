//! Keys of the issuers that policies name by URL: fetched here, once for all proxies, and pushed to them. No pod fetches anything, and no request
//! waits for a fetch.
//!
//! In: the URLs that policies name, of hosts that the operator allowed (a policy's author would otherwise send discovery to any address of the cluster).
//! Out: a JWKS for each, whenever it is another one. Refuses: everything but HTTPS, redirects, answers that are no JWKS with a key of use. What was
//! fetched last stays in force until something better is: keys are never taken away by an outage, and never guessed.

mod fetch;
mod schedule;

use crate::{objects::jwks::JwksUrl, serve::Hub};
use fetch::{Fetched, Fetcher};
use remora_runtime::drain;
use schedule::Schedule;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// URLs that are fetched; of more, the first in the order of the alphabet. Each costs a task and its last answer.
const URLS_MAX: usize = 64;

/// Fetches what policies name, until the drain. `authorities`: PEM, who may vouch for servers beside the web's, or nothing.
pub(crate) async fn run(hub: Hub, authorities: &[u8], draining: drain::Watch) -> anyhow::Result<()> {
    let fetcher = Arc::new(Fetcher::new(authorities)?);
    let (mut wanted, mut tasks) = (hub.wanted_keys(), JoinSet::new());
    let (mut following, mut left_out) = (BTreeMap::<JwksUrl, AbortHandle>::new(), BTreeSet::new());
    let mut changes = std::pin::pin!(async {
        loop {
            let mut urls: BTreeSet<JwksUrl> = wanted.borrow_and_update().clone();
            let beyond = urls.iter().nth(URLS_MAX).cloned().map_or_else(BTreeSet::new, |first| urls.split_off(&first));
            // What was aborted is not kept.
            while tasks.try_join_next().is_some() {}
            following.retain(|url, task| {
                let stays = urls.contains(url);
                if !stays {
                    task.abort();
                    hub.keys(url, None);
                }
                stays
            });
            left_out.difference(&beyond).for_each(|url| hub.keys(url, None));
            for url in &beyond {
                hub.keys(url, Some(Err(format!("policies name more than {URLS_MAX} URLs"))));
            }
            left_out = beyond;
            for url in &urls {
                let start = || Following::new(url.clone(), hub.clone(), fetcher.clone()).run();
                following.entry(url.clone()).or_insert_with(|| tasks.spawn(start()));
            }
            if wanted.changed().await.is_err() {
                break;
            }
        }
    });
    tokio::select! {
        () = &mut changes => Ok(()),
        () = draining.signaled() => Ok(()),
    }
}

/// Who fetches the keys of one URL again and again.
struct Following {
    url: JwksUrl,
    hub: Hub,
    fetcher: Arc<Fetcher>,
    schedule: Schedule,
    held: Option<Arc<str>>,
    /// The failure that was told last.
    told: String,
}

impl Following {
    fn new(url: JwksUrl, hub: Hub, fetcher: Arc<Fetcher>) -> Self {
        Self { url, hub, fetcher, schedule: Schedule::default(), held: None, told: String::new() }
    }

    async fn run(mut self) {
        loop {
            let wait = self.fetch().await;
            sleep(wait).await;
        }
    }

    /// Fetches once. When to do so again.
    async fn fetch(&mut self) -> Duration {
        let found = self.fetcher.fetch(&self.url).await;
        let result = if found.is_ok() { "ok" } else { "failed" };
        metrics::counter!("remora_discovery_jwks_fetches_total", "result" => result).increment(1);
        let wait = match found {
            Ok(Fetched { keys, fresh }) => {
                self.told.clear();
                if self.held.as_ref() != Some(&keys) {
                    tracing::info!(url = %self.url, "keys of an issuer fetched");
                    self.hub.keys(&self.url, Some(Ok(keys.clone())));
                    self.held = Some(keys);
                }
                self.schedule.good(fresh)
            }
            Err(error) => {
                self.tell(format!("{error:#}"));
                self.schedule.bad()
            }
        };
        spread(wait)
    }

    fn tell(&mut self, error: String) {
        if error == self.told {
            return;
        }
        let kept = if self.held.is_some() { "the last ones stay" } else { "tokens of its issuer are refused" };
        tracing::warn!(url = %self.url, error, kept, "keys of an issuer cannot be fetched");
        if self.held.is_none() {
            self.hub.keys(&self.url, Some(Err(error.clone())));
        }
        self.told = error;
    }
}

/// Replicas do not ask at the same moment.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + fastrand::f64() * 0.1)
}

#[cfg(test)]
mod tests;
