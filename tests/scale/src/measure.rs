//! The measurement: phase after phase, each with what discovery used of the CPU and how `/live` fared.

use crate::{
    args::Args,
    control::Control,
    hold::since_1970,
    holders::Holders,
    live::Live,
    report::{Figures, Phase, Report},
    world::{Asked, Changing},
};
use anyhow::Result;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long nothing is done, to see what that costs.
const IDLE: Duration = Duration::from_secs(10);
/// After a change, before the next: each is one of its own, and not read together with another.
const PAUSE: Duration = Duration::from_millis(300);
/// Between changes that nobody asked for.
const UNASKED: Duration = Duration::from_millis(500);
/// Between replaced pods: 20 a second.
const ROLLOUT: Duration = Duration::from_millis(50);

struct Measurement {
    control: Control,
    live: Live,
    phases: Vec<Phase>,
    mark: u32,
}

/// Runs all phases.
pub(crate) fn run(args: &Args) -> Result<Report> {
    let shape = args.shape();
    eprintln!("remora-scale: {} pods, {} streams", shape.all_pods(), shape.streams);
    let control = Control::start(args, shape)?;
    let live = Live::start(control.admin);
    let mut measurement = Measurement { control, live, phases: Vec::new(), mark: 0 };
    let mut figures = Figures::default();
    (figures.start_s, figures.start_cpu_s) =
        (measurement.control.ready.0.as_secs_f64(), measurement.control.ready.1.as_secs_f64());
    let holders = measurement.connect(args, &mut figures)?;
    let quick = if args.quick { 4 } else { 1 };
    measurement.phase("idle", |_| {
        thread::park_timeout(IDLE / quick);
        Ok(1)
    })?;
    figures.delays_few = measurement.changes(args, &holders, Asked::Few, 40 / quick)?;
    figures.delays_all = measurement.changes(args, &holders, Asked::All, 20 / quick)?;
    measurement.unasked(args, 40 / quick, &mut figures)?;
    measurement.rollout(args, &holders, &mut figures)?;
    measurement.restart(&holders, &mut figures)?;
    figures.lost = holders.lost();
    let Measurement { mut control, phases, .. } = measurement;
    control.discovery.check()?;
    figures.rss_end_kb = control.discovery.resident_kb()?;
    Report::new(args, figures, phases)
}

impl Measurement {
    /// Runs a phase. `run` gives how many things it did.
    fn phase(&mut self, name: &'static str, run: impl FnOnce(&mut Self) -> Result<u32>) -> Result<()> {
        eprintln!("remora-scale: {name}");
        drop(self.live.take());
        let (cpu, sent, began) = (self.control.discovery.cpu()?, self.sent()?, Instant::now());
        let done = run(self)?;
        let seconds = began.elapsed().as_secs_f64();
        let cpu_s = (self.control.discovery.cpu()? - cpu).as_secs_f64();
        let sent = self.sent()? - sent;
        self.phases.push(Phase { name, done, seconds, cpu_s, sent, live_ms: self.live.take() });
        Ok(())
    }

    fn sent(&self) -> Result<f64> {
        self.control.metric("remora_discovery_sent_total")
    }

    fn connect(&mut self, args: &Args, figures: &mut Figures) -> Result<Holders> {
        figures.rss_bare_kb = self.control.discovery.resident_kb()?;
        let mut connected = None;
        self.phase("connections", |this| {
            connected = Some(Holders::connect(args, &this.control)?);
            Ok(args.streams)
        })?;
        let mut holders = connected.ok_or_else(|| anyhow::anyhow!("no helpers"))?;
        figures.rss_connected_kb = self.control.discovery.resident_kb()?;
        self.phase("streams", |_| holders.open().map(|()| args.streams))?;
        // What the first answers needed may go back to the system first.
        thread::park_timeout(Duration::from_secs(3));
        figures.rss_settled_kb = self.control.discovery.resident_kb()?;
        Ok(holders)
    }

    /// Changes one endpoint at a time. Gives the delays in milliseconds, of each change a list.
    fn changes(&mut self, args: &Args, holders: &Holders, of: Asked, count: u32) -> Result<Vec<Vec<f64>>> {
        let (mut delays, service) = (Vec::new(), Changing::new(args.shape(), of));
        let name = if of == Asked::Few { "changes for few" } else { "changes for all" };
        self.phase(name, |this| {
            for _ in 0..count {
                this.mark += 1;
                let began = u64::try_from(since_1970()?.as_micros())?;
                service.mark(&this.control.manifests, this.mark)?;
                let arrived = holders.arrived(of, this.mark)?;
                delays.push(arrived.into_iter().map(|at| at.saturating_sub(began) as f64 / 1000.0).collect());
                thread::park_timeout(PAUSE);
            }
            Ok(count)
        })?;
        Ok(delays)
    }

    /// Kills discovery and starts it again, for which all streams wait.
    fn restart(&mut self, holders: &Holders, figures: &mut Figures) -> Result<()> {
        eprintln!("remora-scale: restart");
        drop(self.live.take());
        let began = Instant::now();
        figures.restart_lost = holders.after(|| {
            figures.restart_ready_s = self.control.restart()?.as_secs_f64();
            Ok(())
        })?;
        let seconds = began.elapsed().as_secs_f64();
        figures.restart_settled_s = seconds;
        let (cpu_s, sent) = (self.control.discovery.cpu()?.as_secs_f64(), self.sent()?);
        self.phases.push(Phase { name: "restart", done: 1, seconds, cpu_s, sent, live_ms: self.live.take() });
        Ok(())
    }

    /// Changes what nobody asked for.
    fn unasked(&mut self, args: &Args, count: u32, figures: &mut Figures) -> Result<()> {
        let service = Changing::new(args.shape(), Asked::Nobody);
        let indexed = self.control.metric("remora_discovery_snapshots_total")?;
        self.phase("changes for nobody", |this| {
            for _ in 0..count {
                this.mark += 1;
                let next = Instant::now() + UNASKED;
                service.mark(&this.control.manifests, this.mark)?;
                thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
            Ok(count)
        })?;
        figures.unasked_indexed = self.control.metric("remora_discovery_snapshots_total")? - indexed;
        Ok(())
    }

    /// Replaces the pods of a Service one by one, and waits until the last change has arrived.
    fn rollout(&mut self, args: &Args, holders: &Holders, figures: &mut Figures) -> Result<()> {
        let mut service = Changing::new(args.shape(), args.rollout_of);
        let pods = args.shape().endpoints(args.rollout_of).min(if args.quick { 100 } else { u32::MAX });
        self.phase("rollout", |this| {
            let began = Instant::now();
            for at in 0..pods {
                service.replace(&this.control.manifests, at)?;
                thread::park_timeout((began + ROLLOUT * (at + 1)).saturating_duration_since(Instant::now()));
            }
            let ended = Instant::now();
            this.mark += 1;
            service.mark(&this.control.manifests, this.mark)?;
            if args.rollout_of != Asked::Nobody {
                holders.arrived(args.rollout_of, this.mark)?;
            }
            figures.rollout_settled_ms = ended.elapsed().as_secs_f64() * 1000.0;
            Ok(pods)
        })
    }
}
