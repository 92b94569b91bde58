//! The demo's life after its start: shows, breaks, heals, ends.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Args;
use super::breaks::Break;
use super::children::Children;
use super::control;
use super::layout::Layout;
use super::report::{Event, Report};
use super::start::{self, Running};
use super::view::{self, Frame};
use super::watch::{self as sight, Sight};
use super::web::Tally;
use crate::inspect::Output;
use crate::sys;

/// How long something stays broken, unless the demo is too short for it.
const BROKEN_FOR: Duration = Duration::from_secs(20);
/// A new frame on a terminal; elsewhere every fifth is printed.
const FRAME_PERIOD: Duration = Duration::from_secs(1);
const PLAIN_EVERY: u64 = 5;
/// A table that is not on a terminal is not cut.
const PLAIN_WIDTH: usize = 400;
/// Events kept for the report; a person has long stopped reading.
const EVENTS_MAX: usize = 1000;

/// Runs the demo until it is ended; whether all was well.
pub(super) fn run(args: Args) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start an async runtime")?;
    runtime.block_on(async {
        let mut ends = Ends::new(args.time)?;
        let server = control::Server::bind(args.runtime_dir.as_deref())?;
        if args.output == Output::Text {
            eprintln!("starting identity, discovery, and seven pods with their proxies …");
        }
        let running = tokio::select! {
            running = start::start(args.keep, args.rate, &args.log) => running?,
            () = ends.asked() => bail!("ended before it was ready"),
        };
        let demo = Demo::new(&args, running)?;
        demo.live(&server, ends).await
    })
}

/// What ends a demo: Ctrl-C, a polite kill, or its time.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    time: Option<Duration>,
}

impl Ends {
    fn new(time: Option<Duration>) -> anyhow::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, time })
    }

    /// Somebody asked us to end.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Demo {
    began: Instant,
    children: Children,
    layout: Layout,
    manifests: PathBuf,
    web: Lines<BufReader<pipe::Receiver>>,
    load: Tally,
    sight: watch::Receiver<Sight>,
    events: Vec<Event>,
    /// What is broken now, and when it is healed.
    broken: Option<(Break, Instant)>,
    /// What was broken at any time.
    history: Vec<Break>,
    broken_for: Duration,
    /// What to break halfway.
    plan: Option<(Break, Instant)>,
    output: Output,
    frames: u64,
    /// The directory, which goes after the processes: fields are dropped in order.
    files: start::Files,
}

impl Demo {
    fn new(args: &Args, running: Running) -> anyhow::Result<Self> {
        let Running { children, layout, web, files } = running;
        let web = pipe::Receiver::from_owned_fd(web.into()).context("cannot read what web says")?;
        let (sender, sight) = watch::channel(Sight::new());
        // Ends by itself when the receiver, which we hold, is gone.
        tokio::spawn(sight::look(layout, sender));
        let began = Instant::now();
        let third = args.time.map(|time| time / 3);
        Ok(Self {
            began,
            children,
            layout,
            manifests: files.manifests(),
            web: BufReader::new(web).lines(),
            load: Tally::default(),
            sight,
            events: Vec::new(),
            broken: None,
            history: Vec::new(),
            broken_for: third.map_or(BROKEN_FOR, |third| third.min(BROKEN_FOR)),
            plan: args.what.zip(third.map(|third| began + third)),
            output: args.output,
            frames: 0,
            files,
        })
    }

    async fn live(mut self, server: &control::Server, mut ends: Ends) -> anyhow::Result<bool> {
        let mut frames = steady(FRAME_PERIOD);
        let mut child_ended = signal(SignalKind::child())?;
        let end = ends.time.map(|time| self.began + time);
        self.event(format!("all is up; files are in {}", self.files.root().display()));
        loop {
            tokio::select! {
                () = ends.asked() => break,
                () = at(end) => break,
                () = at(self.plan.map(|(_, when)| when)) => if let Some((what, _)) = self.plan.take() {
                    self.inflict(what)?;
                },
                () = at(self.broken.map(|(_, when)| when)) => self.heal()?,
                Some(wish) = server.next() => {
                    let outcome = self.consider(wish.what)?;
                    wish.answer(&outcome).await;
                }
                _ = child_ended.recv() => self.mourn()?,
                line = self.web.next_line() => self.hear(line.context("cannot read what web says")?),
                _ = frames.tick() => self.show()?,
            }
        }
        self.finish().await
    }

    /// Somebody asks for a break; not while another one lasts, else nobody could tell what caused what.
    fn consider(&mut self, what: Break) -> anyhow::Result<Result<String, String>> {
        if let Some((old, until)) = self.broken {
            let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
            return Ok(Err(format!("{} is still broken, for {left} s more", old.name())));
        }
        self.inflict(what).map(Ok)
    }

    fn inflict(&mut self, what: Break) -> anyhow::Result<String> {
        let done = what.inflict(&mut self.children, &self.manifests)?;
        self.broken = Some((what, Instant::now() + self.broken_for));
        self.history.push(what);
        let text = format!("{done}; healed in {} s", self.broken_for.as_secs());
        self.event(text.clone());
        Ok(text)
    }

    fn heal(&mut self) -> anyhow::Result<()> {
        let Some((what, _)) = self.broken.take() else { return Ok(()) };
        let text = what.heal(&mut self.children, &self.manifests)?;
        self.event(text);
        Ok(())
    }

    fn mourn(&mut self) -> anyhow::Result<()> {
        match self.children.unexpected_end() {
            Some((name, status)) => {
                bail!("{name} ended by itself ({status}): {}", self.children.log_tail(&name))
            }
            None => Ok(()),
        }
    }

    fn hear(&mut self, line: Option<String>) {
        // Its end is told by the signal for ended children.
        if let Some(tally) = line.and_then(|line| serde_json::from_str(&line).ok()) {
            self.load = tally;
        }
    }

    fn event(&mut self, text: String) {
        let at_s = self.began.elapsed().as_secs_f64();
        if self.output == Output::Json {
            eprintln!("{at_s:>5.1}s  {text}");
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push(Event { at_s, text });
        }
    }

    fn show(&mut self) -> anyhow::Result<()> {
        self.frames += 1;
        if self.output == Output::Json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let size = out.is_terminal().then(sys::terminal_size).flatten();
        if size.is_none() && self.frames % PLAIN_EVERY != 3 {
            return Ok(());
        }
        let sight = self.sight.borrow();
        let frame = Frame {
            ran: self.began.elapsed(),
            layout: self.layout,
            load: &self.load,
            hops: &sight::hops(&sight),
            sight: &sight,
            events: &self.events,
            broken: self.broken.map(|(what, until)| (what.name(), until.saturating_duration_since(Instant::now()))),
        };
        let text = match size {
            Some((columns, rows)) => {
                let lines = view::lines(&frame, columns.into());
                let shown: Vec<_> = lines.into_iter().take(rows.saturating_sub(1).into()).collect();
                // Home, each line with its old rest erased, then all below: no flicker.
                format!("\x1b[H{}\x1b[K\n\x1b[J", shown.join("\x1b[K\n"))
            }
            None => format!("{}\n\n", view::lines(&frame, PLAIN_WIDTH).join("\n")),
        };
        // A reader that went away (`| head`) is no reason to fail.
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<bool> {
        // One more look, so that the last second counts.
        tokio::time::timeout(FRAME_PERIOD * 2, self.sight.changed()).await.ok();
        let hops = sight::hops(&self.sight.borrow());
        let report = Report::new(self.began.elapsed(), &self.history, self.load, hops, self.events);
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
            Output::Text => println!("\n{}", report.summary()),
        }
        Ok(report.good)
    }
}

fn steady(period: Duration) -> Interval {
    let mut every = interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    every
}

/// Waits for a time, or for ever.
fn at(when: Option<Instant>) -> Pin<Box<dyn Future<Output = ()>>> {
    match when {
        Some(when) => Box::pin(tokio::time::sleep_until(when)),
        None => Box::pin(std::future::pending()),
    }
}
