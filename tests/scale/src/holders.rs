//! The helper processes, as one: what all of them say together.

use crate::{
    args::Args,
    control::Control,
    hold::{Event, Plan},
    world::Asked,
};
use anyhow::{Context as _, Result};
use std::{
    cell::Cell,
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long all helpers may take to anything: 10 000 handshakes on a shared machine take a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// All helpers.
#[derive(Debug)]
pub(crate) struct Holders {
    children: Vec<(Child, ChildStdin)>,
    events: mpsc::Receiver<Event>,
    /// How many helpers have a stream that asks for the Service.
    asking: HashMap<&'static str, usize>,
    lost: Cell<u32>,
}

impl Holders {
    /// Starts them, and waits until all their connections are open.
    pub(crate) fn connect(args: &Args, control: &Control) -> Result<Self> {
        let (tell, events) = mpsc::channel();
        let helpers = args.helpers.min(args.streams);
        let mut children = Vec::new();
        let shape = args.shape();
        for first in 0..helpers {
            let plan = Plan { shape, first, step: helpers, discovery: control.address, issuer: control.issuer.clone() };
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().context("start a helper")?;
            let mut input = child.stdin.take().context("no standard input")?;
            let output = BufReader::new(child.stdout.take().context("no standard output")?);
            writeln!(input, "{}", serde_json::to_string(&plan)?)?;
            children.push((child, input));
            let tell = tell.clone();
            let read = move || {
                let events = output.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
                for event in events {
                    if tell.send(event).is_err() {
                        return;
                    }
                }
                let why = "a helper has ended".to_owned();
                // Nobody listens any more at the end.
                let _ = tell.send(Event::Lost { why });
            };
            thread::spawn(read);
        }
        let few = usize::try_from(helpers.min(shape.few))?;
        let asking = HashMap::from([(Asked::All.service(), helpers as usize), (Asked::Few.service(), few)]);
        let holders = Self { children, events, asking, lost: Cell::default() };
        holders.all(|event| matches!(event, Event::Connected))?;
        Ok(holders)
    }

    /// Opens the streams, and waits until each has all that it asked for.
    pub(crate) fn open(&mut self) -> Result<()> {
        for (_, input) in &mut self.children {
            writeln!(input, "streams")?;
        }
        self.all(|event| matches!(event, Event::Settled))
    }

    /// Waits until each has everything again, once `restart` has lost all of them their streams. How many streams were lost to it, some of
    /// them more than once.
    pub(crate) fn after(&self, restart: impl FnOnce() -> Result<()>) -> Result<u32> {
        while self.events.try_recv().is_ok() {}
        let before = self.lost.get();
        restart()?;
        self.all(|event| matches!(event, Event::Settled))?;
        Ok(self.lost.replace(before) - before)
    }

    fn all(&self, wanted: impl Fn(&Event) -> bool) -> Result<()> {
        let (mut left, deadline) = (self.children.len(), Instant::now() + PATIENCE);
        while left > 0 {
            left -= usize::from(wanted(&self.next(deadline)?));
        }
        Ok(())
    }

    /// Waits until all who asked for the Service have the change. When each got it, in microseconds since 1970.
    pub(crate) fn arrived(&self, of: Asked, wanted: u32) -> Result<Vec<u64>> {
        let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        let mut left = self.asking.get(of.service()).copied().unwrap_or_default();
        while left > 0 {
            if let Event::Arrived { service, mark, at } = self.next(deadline)?
                && (service.as_str(), mark) == (of.service(), wanted)
            {
                all.extend(at);
                left -= 1;
            }
        }
        Ok(all)
    }

    fn next(&self, deadline: Instant) -> Result<Event> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left).with_context(|| format!("nothing came within {PATIENCE:?}"))? {
                Event::Lost { why } => {
                    if self.lost.replace(self.lost.get() + 1) == 0 {
                        eprintln!("remora-scale: a stream was lost: {why}");
                    }
                }
                event => return Ok(event),
            }
        }
    }

    /// How many streams were lost so far; each came back.
    pub(crate) fn lost(&self) -> u32 {
        self.lost.get()
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // It may have ended by itself; then there is nothing to stop.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
