//! The mesh of every run: `web` calls `api`, each behind its proxy, with certificates of short life.

use crate::{
    ages::{self, Watch},
    app,
    load::{Load, Spec},
    report::Report,
    tunnels::{self, Tunnels},
};
use anyhow::Context as _;
use remora_tests::{
    local::{Builder, Mesh, Proxy},
    patience::until,
};
use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// How long certificates live.
pub(crate) const LIFE: Duration = Duration::from_secs(20);
/// Quick requests, by these many clients, each this often: 100 per second.
const CLIENTS: u32 = 8;
const EVERY: Duration = Duration::from_millis(80);
/// Clients whose requests take [`app::SLOW`], so that some are always under way.
const SLOW_CLIENTS: u32 = 4;
const TUNNELS: u32 = 4;

/// A mesh at work.
#[derive(Debug)]
pub(crate) struct Scene {
    // Fields end in their order: the load before what it goes through.
    load: Load,
    slow: Load,
    tunnels: Tunnels,
    watch: Watch,
    pids: Vec<(String, u32)>,
    pub(crate) web: Proxy,
    pub(crate) api: Proxy,
    pub(crate) mesh: Mesh,
}

impl Scene {
    /// Starts the mesh, then the load once it answers.
    pub(crate) fn start(builder: Builder) -> anyhow::Result<Self> {
        let life = format!("{}s", LIFE.as_secs());
        let mesh = builder.identity("--leaf-lifetime", &life).start()?;
        let quiet = |name| mesh.proxy(name).env("LOG", "info").spawn();
        let (web, api) = (quiet("web")?, quiet("api")?);
        mesh.service("api", 80, None, &[app::http(api.ip)?])?;
        mesh.service("echo", 7000, None, &[app::echo(api.ip)?])?;
        let (web, api) = (web.ready()?, api.ready()?);
        until("api answers", || Ok((web.get("api:80", "/")?.status == 200).then_some(())))
            .with_context(|| web.program.log_end())?;
        until("echo is known", || tunnels::open(web.outbound, "echo:7000").map(Some))?;

        let spec = Spec { to: web.outbound, authority: "api", path: "/", clients: CLIENTS, every: EVERY };
        let slow = Spec { path: "/slow", clients: SLOW_CLIENTS, every: app::SLOW, ..spec.clone() };
        let mut ports = vec![web.inbound.port(), api.inbound.port()];
        for part in [&mesh.identity, &mesh.discovery] {
            ports.push(part.kept("--listen")?.port());
        }
        let mut scene = Self {
            tunnels: Tunnels::hold(web.outbound, "echo:7000", TUNNELS),
            load: Load::start(&spec),
            slow: Load::start(&slow),
            watch: Watch::start(ports),
            pids: Vec::new(),
            web,
            api,
            mesh,
        };
        scene.pids = scene.processes()?;
        Ok(scene)
    }

    /// Lets the load go on for `time`, or until something ends that should not.
    pub(crate) fn wait(&self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left.min(Duration::from_secs(1)));
            self.web.program.running().and_then(|()| self.api.program.running())?;
        }
        Ok(())
    }

    /// Both proxies.
    pub(crate) fn proxies(&self) -> [&Proxy; 2] {
        [&self.web, &self.api]
    }

    /// How often each proxy was certified.
    pub(crate) fn renewals(&self) -> anyhow::Result<Vec<f64>> {
        self.proxies().into_iter().map(|proxy| proxy.metric("remora_certificate_renewals_total", &[])).collect()
    }

    /// The processes of the mesh that should live through the run.
    fn processes(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let all = [&self.web.program, &self.api.program, &self.mesh.discovery];
        all.into_iter().map(|program| Ok((program.name(), program.pid()?))).collect()
    }

    /// Ends the load and tells of all that must hold in every run.
    pub(crate) fn finish(self, report: &mut Report) -> anyhow::Result<()> {
        let retries = self.web.metric("remora_retries_total", &[])?;
        let cut = self.web.metric("remora_connections_outlived_total", &[])?;
        let same = self.processes()? == self.pids;
        let seen = self.watch.seen();
        let (tally, took) = self.load.finish();
        report.took(took);
        for (what, tally) in [("quick requests", tally), ("slow requests", self.slow.finish().0)] {
            let (requests, failed) = (tally.requests.load(Relaxed), tally.failed.load(Relaxed));
            report.check(format!("{what}, failed"), format!("{requests}, {failed}"), "0 failed", failed == 0);
            report.note(format!("{what}, slowest"), format!("{:.0?}", tally.slowest()));
            report.failures(tally.told());
        }
        report.note("retries by the proxy", retries);
        let (tally, ages) = self.tunnels.finish();
        let (pings, failed) = (tally.requests.load(Relaxed), tally.failed.load(Relaxed));
        report.check("tunnels: pings, failed", format!("{pings}, {failed}"), "0 failed", failed == 0);
        report.failures(tally.told());
        if let (Some(youngest), Some(oldest)) = (ages.iter().min(), ages.iter().max()) {
            let seen = format!("{}, {:.1} s, {:.1} s", ages.len(), youngest.as_secs_f64(), oldest.as_secs_f64());
            report.note("tunnels ended by policy, youngest, oldest", seen);
        }
        report.note("connections cut off by web at their end", cut);
        report.note("connections between the mesh's processes", seen.connections);
        let bound = LIFE + 2 * ages::GLANCE;
        let oldest = format!("{:.1} s", seen.oldest.as_secs_f64());
        report.check("oldest connection", oldest, format!("at most {} s", LIFE.as_secs()), seen.oldest <= bound);
        report.check("proxies and discovery restarted", if same { "no" } else { "yes" }, "no", same);
        Ok(())
    }
}
