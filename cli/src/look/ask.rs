//! The signals of all pods that are meant: from discovery, which asks its proxies, and what it cannot give from the pods themselves.

use super::{
    fan_in::{self, Reply},
    model::Signals,
};
use crate::{
    admin,
    cluster::{
        ControlPlane, FORWARDS_MAX,
        scope::{Found, Scope, Session},
    },
    text::{Line, Style},
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// The latencies of windows too, which are what several proxies' quantiles are made of.
pub(super) const PATH: &str = "/signals?histograms=true";
/// So few pods are asked themselves: that is as fast, and needs no right in the control plane's namespace.
const FEW: usize = 3;
/// So many pods that discovery could not ask are asked themselves; the others are named.
const LEFT_MAX: usize = 64;

/// One that said nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Silent {
    pub(super) pod: String,
    pub(super) error: String,
}

impl Silent {
    pub(super) fn line(&self) -> Line {
        Line::of(Style::Strong, &self.pod).and(Style::Bad, format!("  {}", self.error))
    }
}

/// Asks the same pods again and again.
pub(super) struct Asking<'a> {
    session: Session<'a>,
    /// The control plane's namespace.
    own: &'a str,
    /// That discovery is not asked, and why, is said once.
    told: Cell<bool>,
}

impl<'a> Asking<'a> {
    pub(super) async fn of(scope: &'a Scope, control_plane: &'a ControlPlane) -> anyhow::Result<Self> {
        Ok(Self { session: scope.open().await?, own: &control_plane.namespace, told: Cell::new(false) })
    }

    /// Asks all once. `each` gets what every pod says, in no order; what is returned are those that said nothing, in the order of names.
    pub(super) async fn signals(&self, mut each: impl FnMut(&Found, Signals)) -> anyhow::Result<Vec<Silent>> {
        if let Some(address) = self.session.scope.address() {
            // Nothing else is worth saying than why it could not be asked.
            let signals = admin::page(address, PATH).await?;
            if let Some(found) = self.session.find().await?.first() {
                each(found, signals);
            }
            return Ok(Vec::new());
        }
        let found = self.session.find().await?;
        let mut left: BTreeMap<String, &Found> = found.iter().map(|it| (it.name.clone(), it)).collect();
        let mut why = BTreeMap::new();
        let mut left_max = usize::MAX;
        if found.len() > FEW && self.ask_discovery(&found, &mut left, &mut why, &mut each).await {
            left_max = LEFT_MAX;
        }
        let (asked, beyond): (Vec<_>, Vec<_>) =
            left.into_values().enumerate().partition(|(number, _)| *number < left_max);
        let mut silent: Vec<Silent> = beyond
            .into_iter()
            .map(|(_, it)| Silent {
                error: why.remove(&it.name).unwrap_or_else(|| "has no stream to discovery".to_owned()),
                pod: it.name.clone(),
            })
            .collect();
        let asked = asked.into_iter().map(|(_, it)| async move { (it, admin::page(it.admin.clone(), PATH).await) });
        let mut answers = stream::iter(asked).buffer_unordered(FORWARDS_MAX);
        while let Some((it, answer)) = answers.next().await {
            match answer {
                Ok(signals) => each(it, signals),
                Err(error) => {
                    let said =
                        why.remove(&it.name).map_or_else(String::new, |said| format!("discovery says: {said}; "));
                    silent.push(Silent { pod: it.name.clone(), error: format!("{said}{}", crate::chain(&error)) });
                }
            }
        }
        silent.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(silent)
    }

    /// Whether discovery could be asked. It takes what answered out of `left`.
    async fn ask_discovery(
        &self,
        found: &[Found],
        left: &mut BTreeMap<String, &Found>,
        why: &mut BTreeMap<String, String>,
        each: &mut impl FnMut(&Found, Signals),
    ) -> bool {
        let Some(cluster) = &self.session.cluster else { return false };
        let replies = RefCell::new((left, why, each));
        let take = |reply: Reply| {
            let (left, why, each) = &mut *replies.borrow_mut();
            match reply {
                Reply::Signals { pod, signals } => {
                    // Another replica may have said it already, or nobody asked for it.
                    if let Some(found) = left.remove(&pod) {
                        each(found, *signals);
                    }
                }
                Reply::Silent { pod, error } => {
                    why.insert(pod, error);
                }
            }
        };
        match fan_in::ask(cluster, self.own, &fan_in::queries(found), take).await {
            Ok(()) => true,
            Err(refused) => {
                if !self.told.replace(true) {
                    let pods = found.len();
                    eprintln!("remora: {refused}; asking {pods} pods one by one, {FORWARDS_MAX} at a time");
                }
                false
            }
        }
    }
}
