//! The demo's life after its start: shows, breaks, heals, ends.

use super::{
    Args,
    breaks::Break,
    children::Children,
    control,
    judge::{RETURN_MS, Trial},
    layout::{Layout, VICTIM},
    report::{self, Event, Report},
    screen::Screen,
    start::{self, Running},
    svg,
    view::{self, Frame},
    watch::{self as sight, Sight},
    web::{Tally, unix_ms},
};
use crate::{
    Look,
    output::Output,
    text::{self, Line},
};
use anyhow::{Context, bail};
use std::{fs, net::TcpListener, path::PathBuf, pin::Pin, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::unix::pipe,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

/// How long something stays broken, unless the demo is too short for it.
const BROKEN_FOR: Duration = Duration::from_secs(20);
/// A new frame on a terminal; elsewhere every fifth is printed.
const FRAME_PERIOD: Duration = Duration::from_secs(1);
const PLAIN_EVERY: u64 = 5;
/// The first one printed is the one that has some numbers in it.
const PLAIN_FIRST: u64 = 3;
/// A table that is not on a terminal is as wide as it needs to be.
const PLAIN_SIZE: (usize, usize) = (400, 400);
/// The width of a picture.
const PICTURE_SIZE: (usize, usize) = (112, 60);
/// Events kept for the report; a person has long stopped reading.
const EVENTS_MAX: usize = 1000;

/// Runs the demo until it is ended; whether all was well.
pub(super) fn run(args: Args, look: Look) -> anyhow::Result<bool> {
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
        let mut demo = Demo::new(&args, running, look)?;
        let outcome = demo.live(&server, ends).await;
        // The terminal is as it was before anybody reads how it ended.
        demo.screen = None;
        outcome?;
        demo.finish().await
    })
}

/// What ends a demo: Ctrl-C, a polite kill, its terminal's end, or its time.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    time: Option<Duration>,
}

impl Ends {
    fn new(time: Option<Duration>) -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        let (interrupt, terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: on(SignalKind::hangup())?, time })
    }

    /// Somebody asked us to end.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
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
    /// Failures of `web` that a break explains.
    excused: u64,
    sight: watch::Receiver<Sight>,
    events: Vec<Event>,
    /// When what is broken now (the last of the trials) will be healed.
    heal_at: Option<Instant>,
    /// When the last one was healed.
    healed: Option<Instant>,
    trials: Vec<Trial>,
    broken_for: Duration,
    /// What to break halfway.
    plan: Option<(Break, Instant)>,
    output: Output,
    look: Look,
    screen: Option<Screen>,
    frames: u64,
    /// Where a picture is wanted, and its lines so far.
    picture: Option<(PathBuf, Vec<Line>)>,
    /// The directory, which goes after the processes: fields are dropped in order.
    files: start::Files,
    _claim: TcpListener,
}

impl Demo {
    fn new(args: &Args, running: Running, look: Look) -> anyhow::Result<Self> {
        let Running { children, layout, web, files, claim } = running;
        let web = pipe::Receiver::from_owned_fd(web.into()).context("cannot read what web says")?;
        let (sender, sight) = watch::channel(Sight::new(layout));
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
            excused: 0,
            sight,
            events: Vec::new(),
            heal_at: None,
            healed: None,
            trials: Vec::new(),
            broken_for: third.map_or(BROKEN_FOR, |third| third.min(BROKEN_FOR)),
            plan: args.what.zip(third.map(|third| began + third)),
            output: args.output,
            look,
            screen: (args.output == Output::Text).then(|| Screen::take(look.coloured)).flatten(),
            frames: 0,
            picture: args.svg.clone().map(|path| (path, Vec::new())),
            files,
            _claim: claim,
        })
    }

    async fn live(&mut self, server: &control::Server, mut ends: Ends) -> anyhow::Result<()> {
        let mut frames = steady(FRAME_PERIOD);
        let mut child_ended = signal(SignalKind::child())?;
        let end = ends.time.map(|time| self.began + time);
        self.event(format!("all is up; files are in {}", self.files.root().display()))?;
        loop {
            tokio::select! {
                () = ends.asked() => return Ok(()),
                () = at(end) => return Ok(()),
                () = at(self.plan.map(|(_, when)| when)) => if let Some((what, _)) = self.plan.take() {
                    self.inflict(what)?;
                },
                () = at(self.heal_at) => self.heal()?,
                Some(wish) = server.next() => {
                    let outcome = self.consider(wish.what)?;
                    wish.answer(&outcome).await;
                }
                _ = child_ended.recv() => self.mourn()?,
                line = self.web.next_line() => self.hear(line.context("cannot read what web says")?)?,
                _ = frames.tick() => self.show()?,
            }
        }
    }

    /// Somebody asks for a break; not while another one lasts, else the effects could not be told apart.
    fn consider(&mut self, what: Break) -> anyhow::Result<Result<String, String>> {
        if let Some((old, left)) = self.broken() {
            return Ok(Err(format!("{old} is still broken, for {} s more", left.as_secs() + 1)));
        }
        self.inflict(what).map(Ok)
    }

    /// What is broken now, and for how long.
    fn broken(&self) -> Option<(&'static str, Duration)> {
        let (trial, until) = (self.trials.last()?, self.heal_at?);
        Some((trial.what.name(), until.saturating_duration_since(Instant::now())))
    }

    fn inflict(&mut self, what: Break) -> anyhow::Result<String> {
        let began_ms = unix_ms();
        let done = what.inflict(&mut self.children, &self.manifests)?;
        self.trials.push(Trial::new(what, began_ms, unix_ms()));
        self.heal_at = Some(Instant::now() + self.broken_for);
        let text = format!("{done}; healed in {} s", self.broken_for.as_secs());
        self.event(text.clone())?;
        Ok(text)
    }

    fn heal(&mut self) -> anyhow::Result<()> {
        self.heal_at = None;
        self.healed = Some(Instant::now());
        let Some(trial) = self.trials.last_mut() else { return Ok(()) };
        trial.heal(unix_ms());
        let text = trial.what.heal(&mut self.children, &self.manifests)?;
        self.event(text)
    }

    fn mourn(&mut self) -> anyhow::Result<()> {
        match self.children.unexpected_end() {
            Some((name, status)) => Err(self.children.obituary(&name, status)),
            None => Ok(()),
        }
    }

    fn hear(&mut self, line: Option<String>) -> anyhow::Result<()> {
        // SIGCHLD reports its end.
        let Some(mut tally) = line.and_then(|line| serde_json::from_str::<Tally>(&line).ok()) else { return Ok(()) };
        let failures = std::mem::take(&mut tally.recent);
        let explained =
            failures.iter().filter(|failure| self.trials.iter().any(|trial| trial.excuses(failure))).count();
        self.excused += u64::try_from(explained).unwrap_or_default();
        // Each must hear it.
        let returned = self.trials.iter_mut().filter_map(|trial| trial.hear(&tally).then_some(())).count() > 0;
        self.load = tally;
        if returned { self.event(format!("{VICTIM} answers again")) } else { Ok(()) }
    }

    fn event(&mut self, text: String) -> anyhow::Result<()> {
        let event = Event { at_s: self.began.elapsed().as_secs_f64(), text };
        if self.output == Output::Json {
            eprintln!("{}", view::event(&event).render(false));
        } else if self.screen.is_none() {
            text::print(&format!("{}\n", view::event(&event).render(self.look.coloured)))?;
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
        Ok(())
    }

    fn show(&mut self) -> anyhow::Result<()> {
        self.frames += 1;
        if self.picture.is_some() && (self.heal_at.is_some() || self.healed.is_none()) {
            let lines = self.lines(PICTURE_SIZE);
            self.picture = self.picture.take().map(|(path, _)| (path, lines));
        }
        match (&self.screen, self.output) {
            (Some(screen), _) => screen.draw(&self.lines(Screen::size())),
            (None, Output::Text) if self.frames % PLAIN_EVERY == PLAIN_FIRST => {
                text::print(&format!("\n{}\n", text::render(&self.lines(PLAIN_SIZE), self.look.coloured)))?;
            }
            (None, _) => {}
        }
        Ok(())
    }

    fn lines(&self, (width, height): (usize, usize)) -> Vec<Line> {
        let frame = Frame {
            ran: self.began.elapsed(),
            layout: self.layout,
            load: &self.load,
            sight: &self.sight.borrow(),
            events: &self.events,
            broken: self.broken(),
        };
        view::lines(&frame, width, height)
    }

    async fn finish(mut self) -> anyhow::Result<bool> {
        // One more look, so that the last second counts.
        tokio::time::timeout(FRAME_PERIOD * 2, self.sight.changed()).await.ok();
        if self.output == Output::Text {
            text::print(&format!("\n{}\n", text::render(&self.lines(PLAIN_SIZE), self.look.coloured)))?;
        }
        let restless = self.heal_at.is_some()
            || self.healed.is_some_and(|healed| healed.elapsed() < Duration::from_millis(RETURN_MS));
        let sight = self.sight.borrow().clone();
        let report = Report::new(report::Seen {
            ran: self.began.elapsed(),
            trials: self.trials,
            load: self.load,
            excused: self.excused,
            down: if restless { Vec::new() } else { sight.down() },
            sight,
            events: self.events,
        });
        if let Some((path, lines)) = &self.picture {
            fs::write(path, svg::picture(lines)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        text::print(&match self.output {
            Output::Json => serde_json::to_string_pretty(&report)? + "\n",
            Output::Text => text::render(&report.summary(), self.look.coloured),
        })?;
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
