//! Who is compared: how each pair of proxies starts, and when it is ready.

use crate::build::Plan;
use crate::pods::{self, HTTP_PORT, Pod, Side};
use crate::process::{Memory, Process, Role, command};
use crate::{envoy, load, pki, remora};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// A cold Envoy on a busy machine takes about a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// In the order of the table's columns.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    /// The application dials its backend directly.
    None,
    Envoy,
    Floor,
    /// Another build of Remora, say of the commit before: see `--before`.
    #[value(skip)]
    Before,
    Remora,
}

impl Contender {
    /// Those that need nothing from the command line.
    pub(crate) const USUAL: [Self; 4] = [Self::None, Self::Envoy, Self::Floor, Self::Remora];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::None => "no proxy",
            Self::Envoy => "Envoy",
            Self::Floor => "floor",
            Self::Before => "before",
            Self::Remora => "Remora",
        }
    }

    /// Starts this contender's proxies in both pods and waits until a request passes.
    pub(crate) fn start(self, plan: &Plan) -> Result<Pair> {
        pods::direct(self)?;
        let (proxies, control_plane) = match self {
            Self::None => (Vec::new(), Vec::new()),
            Self::Envoy => (envoy::start(plan)?.into(), Vec::new()),
            Self::Floor => (vec![floor(plan, Side::Client)?, floor(plan, Side::Server)?], Vec::new()),
            Self::Before => remora::start(self, &plan.before)?,
            Self::Remora => remora::start(self, &plan.remora)?,
        };
        let mut pair = Pair { of: self, proxies, control_plane };
        // Remora has brought its own rules.
        if matches!(self, Self::Envoy | Self::Floor) {
            pods::redirect(self)?;
        }
        pair.wait_until_ready().with_context(|| format!("start {}", self.title()))?;
        Ok(pair)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Envoy => "envoy",
            Self::Floor => "floor",
            Self::Before => "before",
            Self::Remora => "remora",
        })
    }
}

fn floor(plan: &Plan, side: Side) -> Result<Process> {
    let pod = Pod { of: Contender::Floor, side };
    let mut floor = command(pod, Role::Proxy, &plan.floor);
    Process::start(&pod.name(), floor.args([side.name(), pki::PKI_DIR]))
}

/// The running proxies of one contender; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) of: Contender,
    /// The client's, then the server's; empty without a proxy.
    proxies: Vec<Process>,
    /// What the proxies need but what does not count as theirs.
    control_plane: Vec<Process>,
}

impl Pair {
    pub(crate) fn check(&mut self) -> Result<()> {
        self.proxies.iter_mut().chain(&mut self.control_plane).try_for_each(Process::check)
    }

    /// CPU time that the proxies have used so far; none without a proxy.
    pub(crate) fn cpu(&self) -> Result<Option<Duration>> {
        if self.proxies.is_empty() {
            return Ok(None);
        }
        self.proxies.iter().map(Process::cpu).sum::<Result<_>>().map(Some)
    }

    /// Memory of the client's and the server's proxy.
    pub(crate) fn memory(&self) -> Result<Vec<Memory>> {
        self.proxies.iter().map(Process::memory).collect()
    }

    /// What its processes said last.
    pub(crate) fn log_ends(&self) -> String {
        let logs: Vec<_> = self.proxies.iter().chain(&self.control_plane).map(Process::log_end).collect();
        format!("the logs end with:\n{}", logs.join("\n---\n"))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = load::probe(self.of, pods::server(HTTP_PORT)) {
            self.check()?;
            if Instant::now() > deadline {
                return Err(error.context(format!("no request passes; {}", self.log_ends())));
            }
        }
        Ok(())
    }
}
