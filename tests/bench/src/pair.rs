//! How each contender's pair of proxies starts, and when it is ready.

use crate::{
    build::Plan,
    contender::Contender,
    envoy, load, pki,
    pod::{Pod, Side},
    pods::{self, HTTP_PORT},
    process::{Memory, Process, Role, command},
    remora,
};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// A cold Envoy on a busy machine takes about a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a contender's proxies in both pods and waits until a request passes.
pub(crate) fn start(of: Contender, plan: &Plan) -> Result<Pair> {
    pods::direct(of)?;
    let (proxies, control_plane) = match of {
        Contender::None => (Vec::new(), Vec::new()),
        Contender::Envoy => (envoy::start(plan)?.into(), Vec::new()),
        Contender::Floor => (vec![floor(plan, Side::Client)?, floor(plan, Side::Server)?], Vec::new()),
        Contender::Before => remora::start(of, &plan.before)?,
        Contender::Remora => remora::start(of, &plan.remora)?,
    };
    let mut pair = Pair { of, proxies, control_plane };
    // Remora has brought its own rules.
    if matches!(of, Contender::Envoy | Contender::Floor) {
        pods::redirect(of)?;
    }
    pair.wait_until_ready().with_context(|| format!("start {}", of.title()))?;
    Ok(pair)
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
