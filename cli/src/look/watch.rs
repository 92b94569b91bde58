//! The same anew, again and again: drawn over what stood there on a terminal, one behind the other anywhere else.

use crate::{
    Look, Outcome, sys,
    text::{self, Line, Style},
};
use remora_runtime::settings::duration_within;
use std::time::Duration;

/// Discovery asks its proxies no more often than this.
const INTERVAL: &str = "2s";
const INTERVAL_MIN: Duration = Duration::from_millis(500);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// To the upper left corner; to the end of a line; and to the end of the screen, erased.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\n";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Whether and how often.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Watch {
    /// Show it anew until it is interrupted: a terminal is drawn over, anything else gets one table behind the other
    #[arg(short, long)]
    pub(super) watch: bool,
    /// With --watch, how often
    #[arg(long, value_name = "DURATION", default_value = INTERVAL, value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_within(INTERVAL_MIN, INTERVAL_MAX)(text)
}

/// What is to be shown, and whether all was well.
pub(super) type Drawn = anyhow::Result<(Shown, bool)>;

/// Lines for people, or text that stays as it is.
pub(super) enum Shown {
    Lines(Vec<Line>),
    Text(String),
}

impl Shown {
    /// For people, or for a script.
    fn text(self, look: Look) -> String {
        match self {
            Self::Lines(lines) => text::render(&lines, look.coloured),
            Self::Text(text) => text,
        }
    }
}

/// JSON to show.
pub(super) fn json(value: &impl serde::Serialize, good: bool) -> Drawn {
    Ok((Shown::Text(serde_json::to_string_pretty(value)? + "\n"), good))
}

impl Watch {
    /// Draws once, or until it is interrupted.
    pub(super) async fn run(&self, look: Look, mut draw: impl AsyncFnMut() -> Drawn) -> Outcome {
        let (mut shown, good) = draw().await?;
        if !self.watch {
            return Ok((shown.text(look), good));
        }
        loop {
            let text = match sys::terminal_size() {
                Some(size) => screen(shown, size, look),
                None => shown.text(look),
            };
            text::print(&text)?;
            tokio::time::sleep(self.interval).await;
            // What did not work once may work the next time.
            shown = match draw().await {
                Ok((shown, _)) => shown,
                Err(error) => Shown::Lines(vec![Line::of(Style::Bad, format!("remora: {}", crate::chain(&*error)))]),
            };
        }
    }
}

/// A screen's worth, over what stood there.
fn screen(shown: Shown, (columns, rows): (u16, u16), look: Look) -> String {
    let lines: Vec<String> = match shown {
        Shown::Lines(lines) => lines.into_iter().map(|line| line.cut(columns.into()).render(look.coloured)).collect(),
        Shown::Text(text) => text.lines().map(str::to_owned).collect(),
    };
    let room = usize::from(rows.saturating_sub(1)).max(1);
    let hidden = lines.len().saturating_sub(room);
    let mut text = HOME.to_owned();
    for line in lines.iter().take(if hidden > 0 { room - 1 } else { room }) {
        text += line;
        text += REST_OF_LINE;
    }
    if hidden > 0 {
        text += &format!("… {} more lines{REST_OF_LINE}", hidden + 1);
    }
    text + REST_OF_SCREEN
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { coloured: false };

    #[test]
    fn a_screen_is_never_longer_or_wider_than_the_terminal() {
        let lines = || Shown::Lines((0..10).map(|n| Line::of(Style::Bad, format!("line {n} is long"))).collect());
        let text = screen(lines(), (6, 5), PLAIN);
        let shown: Vec<_> =
            text.trim_start_matches(HOME).trim_end_matches(REST_OF_SCREEN).split(REST_OF_LINE).collect();
        assert_eq!(shown, ["line 0", "line 1", "line 2", "… 7 more lines", ""]);
        let text = screen(lines(), (80, 50), PLAIN);
        assert!(text.contains("line 9 is long") && !text.contains("more lines"), "{text:?}");
    }

    #[tokio::test]
    async fn what_fails_once_does_not_end_the_watch_and_the_first_time_does() {
        let watch = Watch { watch: true, interval: Duration::from_millis(1) };
        let (drawn, mut draws) = (tokio::sync::Notify::new(), 0);
        let watching = watch.run(PLAIN, async || {
            draws += 1;
            if draws == 2 {
                anyhow::bail!("away");
            }
            if draws == 4 {
                drawn.notify_one();
            }
            Ok((Shown::Text(String::new()), true))
        });
        tokio::select! {
            ended = watching => panic!("it goes on: {:?}", ended.is_ok()),
            () = drawn.notified() => {}
        }
        let never = watch.run(PLAIN, async || anyhow::bail!("away")).await;
        assert!(never.is_err());
    }

    #[tokio::test]
    async fn once_is_once() {
        let watch = Watch { watch: false, interval: Duration::from_secs(2) };
        let (text, good) = watch.run(PLAIN, async || Ok((Shown::Text("a\n".to_owned()), false))).await.unwrap();
        assert_eq!((text.as_str(), good), ("a\n", false));
    }
}
