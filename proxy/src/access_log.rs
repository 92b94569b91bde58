//! The access log: a line on standard output for each request and byte connection that ended, or for those that a filter takes.
//!
//! In: the workers' records, which are there anyway, and the setting, which may change while the proxy runs. Out: lines. It costs the data path
//! nothing: the control thread reads the records, a thread of its own writes. Neither waits for a reader that takes nothing; what is
//! left out is counted, and the log says how many lines are missing where they are.

use crate::{
    discover::InForce,
    limits,
    telemetry::{Filter, Follow, Routes},
};
use remora_model::settings::{AccessLog as Setting, AccessLogFormat as Format};
use remora_runtime::utc::Utc;
use serde::Serialize;
use serde_json::Value;
use std::{
    fmt::Write as _,
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// How often records are read.
const STEP: Duration = Duration::from_millis(50);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    routes: Arc<Routes>,
    setting: Setting,
    reads: Option<(Follow, Format)>,
    lines: Option<SyncSender<Vec<u8>>>,
    /// Lines that were left out and not told yet.
    missing: u64,
    /// Says that the writer has written all, by its end.
    written: Receiver<()>,
}

impl AccessLog {
    /// Writes to `out`, nothing yet.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn to(mut out: impl Write + Send + 'static, routes: &Arc<Routes>) -> std::io::Result<Self> {
        let (lines, taken) = sync_channel::<Vec<u8>>(limits::ACCESS_LOG_BATCHES);
        let (until_written, written) = channel();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let _until_written: Sender<()> = until_written;
            for batch in taken {
                // Nobody may be reading any more, which is no reason to end.
                drop(out.write_all(&batch).and_then(|()| out.flush()));
            }
        })?;
        let state = State {
            routes: routes.clone(),
            setting: Setting::Off,
            reads: None,
            lines: Some(lines),
            missing: 0,
            written,
        };
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Writes what ends, as the settings say. Never returns; cancel safe.
    pub(crate) async fn run(self, mut settings: watch::Receiver<InForce>) {
        loop {
            let setting = settings.borrow_and_update().access_log.clone();
            let off = setting == Setting::Off;
            self.state().set(setting);
            if off {
                // Without a sender there are no other settings ever.
                if settings.changed().await.is_err() {
                    return std::future::pending().await;
                }
            } else {
                tokio::select! {
                    _ = settings.changed() => {}
                    () = sleep(STEP) => self.state().step(),
                }
            }
        }
    }

    /// Writes what is left, and waits for that, for [`limits::ACCESS_LOG_LAST`] at most: its reader may take nothing.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        state.step();
        state.lines = None;
        // Either way it is over: the writer has ended, or it is left behind.
        let _ = state.written.recv_timeout(limits::ACCESS_LOG_LAST);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&mut self, setting: Setting) {
        if setting == self.setting {
            return;
        }
        // What ended until now is written as it was asked for until now.
        self.step();
        self.reads = match &setting {
            Setting::Off => None,
            // One that cannot be read is never in force.
            Setting::On { format, filter } => {
                Filter::parse(filter).ok().map(|filter| (self.routes.follow(filter), *format))
            }
        };
        self.setting = setting;
    }

    fn step(&mut self) {
        let (Some((follow, format)), Some(lines)) = (&mut self.reads, &self.lines) else { return };
        let mut batch = Vec::new();
        let (records, missed) = follow.each(limits::ACCESS_LOG_RECORDS, |record| line(*format, record, &mut batch));
        self.missing += missed;
        if self.missing > 0 {
            let mut told = told_missing(*format, self.missing).into_bytes();
            told.append(&mut batch);
            batch = told;
        }
        if batch.is_empty() {
            return;
        }
        match lines.try_send(batch) {
            Ok(()) => {
                metrics::counter!("remora_access_log_dropped_total").increment(self.missing);
                self.missing = 0;
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.missing += records,
        }
    }
}

/// Says how many lines are missing here.
fn told_missing(format: Format, missing: u64) -> String {
    match format {
        Format::Json => format!("{{\"missing\":{missing}}}\n"),
        Format::Logfmt => format!("missing={missing}\n"),
        Format::Apache => format!("# {missing} lines are missing here\n"),
    }
}

/// Appends one record.
fn line(format: Format, record: &impl Serialize, out: &mut Vec<u8>) {
    let mut text = String::new();
    // Neither writing to a vector nor to a string can fail, nor is there anything in a record that JSON has no word for.
    let _ = match format {
        Format::Json => serde_json::to_writer(&mut *out, record).map_err(|_| std::fmt::Error),
        Format::Logfmt => {
            serde_json::to_value(record).map_err(|_| std::fmt::Error).and_then(|record| logfmt(&record, &mut text))
        }
        Format::Apache => {
            serde_json::to_value(record).map_err(|_| std::fmt::Error).and_then(|record| apache(&record, &mut text))
        }
    };
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

fn logfmt(record: &Value, out: &mut String) -> std::fmt::Result {
    let mut first = true;
    for (name, value) in record.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null | Value::Object(_) => continue,
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
        // JSON's escapes are those of logfmt.
        let text = if plain { text } else { Value::String(text).to_string() };
        write!(out, "{}{name}={text}", if first { "" } else { " " })?;
        first = false;
    }
    Ok(())
}

/// The combined log format; the peer's identity stands where a user does. A byte connection has its protocol for a request.
fn apache(record: &Value, out: &mut String) -> std::fmt::Result {
    let word = |name: &str| record[name].as_str().unwrap_or_default();
    let quoted = |text: &str| text.chars().flat_map(char::escape_default).collect::<String>();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let at_ms = record["at_ms"].as_u64().unwrap_or_default();
    let request = match word("method") {
        "" => word("protocol").to_owned(),
        method => {
            format!("{method} {} {}", word("path"), if word("protocol") == "http1" { "HTTP/1.1" } else { "HTTP/2.0" })
        }
    };
    let header = |name: &str| or_dash(quoted(record["headers"][name].as_str().unwrap_or_default()));
    write!(
        out,
        "{} - {} [{}] \"{}\" {} {} \"{}\" \"{}\"",
        or_dash(word("endpoint").to_owned()),
        or_dash(quoted(word("peer")).replace(' ', "+")),
        clf_time(at_ms / 1000),
        quoted(&request),
        record["status"].as_u64().unwrap_or_default(),
        record["bytes_out"].as_u64().unwrap_or_default(),
        header("referer"),
        header("user-agent"),
    )
}

/// A time of day in UTC, as Apache writes it.
fn clf_time(seconds: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Utc { year, month, day, hour, minute, second } = Utc::of(seconds);
    // Months count from 1.
    let month = MONTHS[(month as usize + 11) % 12];
    format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Counters, Direction, Journal, Proto, Reason, Tls};
    use serde_json::json;
    use tokio::time::Instant;

    struct World {
        routes: Arc<Routes>,
        counters: Counters,
    }

    impl World {
        fn new() -> Self {
            let routes = Routes::new("shop/web-1".into());
            let counters = Counters::new(Journal::new(&routes), Direction::Inbound, "shop/api:80".into(), Vec::new());
            Self { routes, counters }
        }

        fn ask(&self, path: &str, fails: bool) {
            let request = http::Request::get(path).header("user-agent", "curl/8").body(()).unwrap();
            let now = Instant::now();
            let mut begun = self.counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), now);
            if fails { begun.failure(Reason::Timeout, now) } else { begun.success(now) }
        }
    }

    /// Standard output that a test reads.
    struct Out(Sender<String>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log(world: &World) -> (AccessLog, Receiver<String>) {
        let (tell, told) = channel();
        (AccessLog::to(Out(tell), &world.routes).unwrap(), told)
    }

    #[test]
    fn what_ends_is_written_as_the_setting_says_and_nothing_before_or_after_it_says_so() {
        let world = World::new();
        let (log, told) = log(&world);
        world.ask("/before", true);
        log.state().set("json failed".parse().unwrap());
        world.ask("/fine", false);
        world.ask("/failed", true);
        log.state().set(Setting::Off);
        world.ask("/after", true);
        log.finish();
        let text: String = told.iter().collect();
        let [line] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["path"], &line["reason"]), (&json!("/failed"), &json!("timeout")));
    }

    #[test]
    fn a_reader_that_takes_nothing_stops_nobody_and_hears_later_how_much_is_missing() {
        /// Takes nothing until it is let.
        struct Stuck(Receiver<()>, Out);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                // An end of the test lets it too.
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let world = World::new();
        let (tell, told) = channel();
        let (let_go, stuck) = channel();
        let log = AccessLog::to(Stuck(stuck, Out(tell)), &world.routes).unwrap();
        log.state().set("logfmt".parse().unwrap());
        let steps = limits::ACCESS_LOG_BATCHES + 5;
        for _ in 0..steps {
            world.ask("/a", false);
            log.state().step();
        }
        let missing = log.state().missing;
        assert!(missing >= 3, "{missing} of {steps}");
        drop(let_go);
        // The writer goes on by itself: there is room when the first batch is out.
        let first = told.recv().unwrap();
        assert!(first.contains("path=/a"), "{first}");
        loop {
            world.ask("/last", false);
            log.state().step();
            if log.state().missing == 0 {
                break;
            }
            told.recv().unwrap();
        }
        log.finish();
        let rest: String = told.iter().collect();
        assert!(rest.lines().any(|line| line.starts_with("missing=")), "{rest}");
    }

    #[test]
    fn an_end_does_not_wait_for_a_reader_that_takes_nothing() {
        /// Takes nothing, until the test has ended.
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let world = World::new();
        let (_until_then, stuck) = channel();
        let log = AccessLog::to(Stuck(stuck), &world.routes).unwrap();
        log.state().set("json".parse().unwrap());
        world.ask("/a", false);
        let (tell, told) = channel();
        thread::spawn(move || {
            log.finish();
            tell.send(())
        });
        assert_eq!(told.recv_timeout(10 * limits::ACCESS_LOG_LAST), Ok(()));
    }

    #[test]
    fn a_line_is_written_in_each_format() {
        let record = json!({
            "at_ms": 1_790_000_000_123_u64, "peer": "spiffe://a/ns/shop/sa/web", "protocol": "http2", "method": "GET", "path": "/a\"b",
            "status": 200, "bytes_out": 12, "endpoint": null, "reason": null, "headers": {"user-agent": "curl 8"},
        });
        let written = |format| {
            let mut out = Vec::new();
            line(format, &record, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(Format::Apache),
            "- - spiffe://a/ns/shop/sa/web [21/Sep/2026:14:13:20 +0000] \"GET /a\\\"b HTTP/2.0\" 200 12 \"-\" \"curl 8\"\n"
        );
        let logfmt = written(Format::Logfmt);
        assert!(
            logfmt.contains("path=\"/a\\\"b\"") && logfmt.contains("status=200") && !logfmt.contains("reason"),
            "{logfmt}"
        );
        assert_eq!(serde_json::from_str::<Value>(&written(Format::Json)).unwrap(), record);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(clf_time(0), "01/Jan/1970:00:00:00 +0000");
        assert_eq!(clf_time(951_782_400), "29/Feb/2000:00:00:00 +0000");
        assert_eq!(clf_time(1_735_689_599), "31/Dec/2024:23:59:59 +0000");
    }

    /// Text of what is hard to write down.
    fn text(rng: &mut fastrand::Rng) -> String {
        const HARD: [char; 20] = [
            'a', 'u', ' ', '"', '\\', '\'', '=', '\n', '\r', '\t', '\0', '\x1b', '\x7f', 'é', '\u{85}', '\u{2028}',
            '😀', '-', '{', ']',
        ];
        (0..rng.usize(..12)).map(|_| HARD[rng.usize(..HARD.len())]).collect()
    }

    fn record(rng: &mut fastrand::Rng) -> Value {
        let number = |rng: &mut fastrand::Rng| if rng.bool() { json!(rng.u32(..)) } else { Value::Null };
        json!({
            "at_ms": rng.u64(..4_000_000_000_000), "peer": text(rng), "protocol": "http1", "method": "GET", "path": text(rng),
            "status": number(rng), "bytes_out": rng.u32(..), "ms": f64::from(rng.u32(..4000)) / 8.0, "endpoint": null, "trace": text(rng),
            "headers": {"user-agent": text(rng), "referer": text(rng)},
        })
    }

    /// The record's line, without its end.
    fn written(format: Format, record: &Value) -> String {
        let mut out = Vec::new();
        line(format, record, &mut out);
        let mut out = String::from_utf8(out).unwrap();
        assert_eq!(out.pop(), Some('\n'));
        assert!(!out.contains(['\n', '\r', '\0', '\x1b', '\t']), "{out:?}");
        out
    }

    /// Names and values of a line of logfmt.
    fn of_logfmt(mut line: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        while !line.is_empty() {
            let (name, rest) = line.split_once('=').unwrap();
            let (value, len) = if rest.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                (values.next().unwrap().unwrap(), values.byte_offset())
            } else {
                let len = rest.find(' ').unwrap_or(rest.len());
                (rest[..len].to_owned(), len)
            };
            pairs.push((name.to_owned(), value));
            line = rest[len..].strip_prefix(' ').unwrap_or(&rest[len..]);
        }
        pairs
    }

    /// The text up to the quote that ends it, and what is behind that.
    fn of_quoted(text: &str) -> (String, &str) {
        let (mut out, mut chars) = (String::new(), text.chars());
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => match chars.next().unwrap() {
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    'u' => {
                        let code = chars.by_ref().skip(1).take_while(|char| *char != '}').collect::<String>();
                        out.push(char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap());
                    }
                    other => out.push(other),
                },
                other => out.push(other),
            }
        }
        (out, chars.as_str())
    }

    #[test]
    fn whatever_a_record_says_is_read_back_from_one_line_of_each_format() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let record = record(&mut rng);
            assert_eq!(serde_json::from_str::<Value>(&written(Format::Json, &record)).unwrap(), record);
            let expected = record.as_object().unwrap().iter().filter_map(|(name, value)| match value {
                Value::Null | Value::Object(_) => None,
                Value::String(text) => (!text.is_empty()).then(|| (name.clone(), text.clone())),
                other => Some((name.clone(), other.to_string())),
            });
            assert_eq!(of_logfmt(&written(Format::Logfmt, &record)), expected.collect::<Vec<_>>());
            let line = written(Format::Apache, &record);
            assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{line:?}");
            let (peer, rest) = line.strip_prefix("- - ").unwrap().split_once(" [").unwrap();
            let or_dash = |text: &Value| text.as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
            assert_eq!(of_quoted(peer).0.len(), or_dash(&record["peer"]).len(), "it is one word: {line}");
            let (request, rest) = of_quoted(rest.split_once(" +0000] \"").unwrap().1);
            assert_eq!(request, format!("GET {} HTTP/1.1", record["path"].as_str().unwrap()));
            let (status, rest) = rest.strip_prefix(' ').unwrap().split_once(' ').unwrap();
            assert_eq!(status, record["status"].as_u64().unwrap_or(0).to_string());
            let (bytes, rest) = rest.split_once(" \"").unwrap();
            assert_eq!(bytes, record["bytes_out"].to_string());
            let (referer, rest) = of_quoted(rest);
            let (agent, rest) = of_quoted(rest.strip_prefix(" \"").unwrap());
            let headers = &record["headers"];
            assert_eq!((referer, agent, rest), (or_dash(&headers["referer"]), or_dash(&headers["user-agent"]), ""));
        }
    }

    #[test]
    fn the_setting_changes_often_and_each_line_is_written_once_as_it_was_when_the_request_ended() {
        let world = World::new();
        let (log, told) = log(&world);
        let (mut rng, mut setting, mut expected, mut got) =
            (fastrand::Rng::with_seed(2), "off", Vec::new(), Vec::new());
        for number in 0..600 {
            match rng.u32(..3) {
                0 => setting = ["off", "json", "logfmt", "apache", "json failed", "logfmt failed"][rng.usize(..6)],
                1 => log.state().step(),
                _ => {
                    let (path, fails) = (format!("/n{number}"), rng.bool());
                    world.ask(&path, fails);
                    if setting != "off" && (fails || !setting.ends_with("failed")) {
                        expected.push(match setting.split(' ').next() {
                            Some("json") => format!("\"path\":\"{path}\""),
                            Some("logfmt") => format!(" path={path} "),
                            _ => format!("\"GET {path} HTTP/1.1\""),
                        });
                    }
                }
            }
            log.state().set(setting.parse().unwrap());
            // The writer keeps up: what was handed to it is waited for.
            let behind = log.state().reads.as_ref().is_none() && got.len() < expected.len();
            if behind || number % 8 == 0 {
                log.state().step();
                while got.len() < expected.len() {
                    got.extend(told.recv().unwrap().lines().map(str::to_owned).collect::<Vec<_>>());
                }
            }
        }
        log.finish();
        got.extend(told.iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(got.len(), expected.len());
        assert!(expected.len() > 80, "{}", expected.len());
        for (line, expected) in got.iter().zip(&expected) {
            assert!(line.contains(expected.as_str()), "no {expected} in {line}");
        }
    }

    #[test]
    fn what_is_missing_is_told_although_no_line_comes_after_it() {
        for (setting, expected) in [
            ("json failed", "{\"missing\":1976}"),
            ("logfmt failed", "missing=1976"),
            ("apache failed", "# 1976 lines are missing here"),
        ] {
            let world = World::new();
            let (log, told) = log(&world);
            log.state().set(setting.parse().unwrap());
            world.ask("/failed", true);
            log.state().step();
            (0..3000).for_each(|_| world.ask("/fine", false));
            log.finish();
            let text: String = told.iter().collect();
            let lines: Vec<_> = text.lines().collect();
            assert_eq!((lines.len(), lines[1]), (2, expected), "{text}");
            assert!(lines[0].contains("/failed"), "{text}");
        }
    }
}
