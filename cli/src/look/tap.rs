//! `remora tap`: requests and connections that ended, whether anybody was looking or not, by a filter; and those that end from now on.

use crate::{
    Look, block_on, finish_as,
    inspect::{self, Admin},
    output::Output,
    signals::millis,
    text::{self, Line, Style},
};
use serde_json::Value;
use std::{collections::HashSet, process::ExitCode, time::Duration};

/// How often pods are asked for what ended since.
const FOLLOW_STEP: Duration = Duration::from_secs(1);

/// What `remora tap` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct TapArgs {
    #[command(flatten)]
    admin: Admin,
    /// Which, for example 'status>=500 and peer=shop/web and ms>200': docs/admin-api.md has the language
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// At most so many of each pod
    #[arg(long, default_value_t = 100, value_name = "N")]
    last: usize,
    /// Go on with those that end from now on, until it is interrupted
    #[arg(short, long)]
    follow: bool,
}

/// `remora tap`.
pub(crate) fn tap(args: &TapArgs, look: Look) -> ExitCode {
    finish_as(
        args.admin.output,
        block_on(async {
            let mut follow = Follow::default();
            loop {
                let (records, errors) = ask(args, follow.since).await?;
                errors.iter().for_each(|error| eprintln!("remora: {error}"));
                print(args, look, &follow.unseen(records))?;
                if !args.follow {
                    return Ok((String::new(), errors.is_empty()));
                }
                tokio::time::sleep(FOLLOW_STEP).await;
            }
        }),
    )
}

/// What was printed already.
#[derive(Debug, Default)]
struct Follow {
    /// The last moment that was seen, in milliseconds since 1970.
    since: u64,
    /// What ended in it.
    printed: HashSet<String>,
}

impl Follow {
    /// Those of `records`, the oldest first, that were not printed yet.
    fn unseen(&mut self, records: Vec<Value>) -> Vec<Value> {
        let mut new: Vec<Value> =
            records.into_iter().filter(|record| !self.printed.contains(&record.to_string())).collect();
        new.sort_by_key(|record| record["at_ms"].as_u64());
        if let Some(last) = new.iter().filter_map(|record| record["at_ms"].as_u64()).max() {
            if last > self.since {
                (self.since, self.printed) = (last, HashSet::new());
            }
            let of_last = new.iter().filter(|record| record["at_ms"].as_u64() == Some(self.since));
            self.printed.extend(of_last.map(Value::to_string));
        }
        new
    }
}

/// What all pods have that ended at `since` or later, and why some did not say.
async fn ask(args: &TapArgs, since: u64) -> anyhow::Result<(Vec<Value>, Vec<String>)> {
    let filter = match (since, args.filter.as_str()) {
        (0, filter) => filter.to_owned(),
        (since, "") => format!("at_ms>={since}"),
        (since, filter) => format!("({filter}) and at_ms>={since}"),
    };
    let last = if since == 0 { args.last } else { 2000 };
    let path = format!("/tap?last={last}&filter={}", percent(&filter));
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    for (pod, answer) in inspect::pages::<Value>(&args.admin.scope, &path).await? {
        match answer {
            Err(error) => errors.push(format!("{pod}: {error}")),
            Ok(mut found) => {
                let Some(Value::Array(of_pod)) = found.get_mut("records").map(Value::take) else { continue };
                records.extend(of_pod.into_iter().map(|mut record| {
                    record["pod"] = Value::String(pod.clone());
                    record
                }));
            }
        }
    }
    Ok((records, errors))
}

/// Text as the value of a query (RFC 3986 §2.1).
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn print(args: &TapArgs, look: Look, records: &[Value]) -> anyhow::Result<()> {
    let text = match args.admin.output {
        Output::Json => records.iter().map(|record| format!("{record}\n")).collect(),
        Output::Text => text::render(&records.iter().map(line).collect::<Vec<_>>(), look.coloured),
    };
    Ok(text::print(&text)?)
}

/// One record in a line: when, where, who asked for what, what came of it, and where the time went.
fn line(record: &Value) -> Line {
    let word = |name: &str| record[name].as_str().unwrap_or_default();
    let ms = |name: &str| record[name].as_f64().unwrap_or_default();
    let at = record["at_ms"].as_u64().unwrap_or_default();
    let (of_day, millisecond) = (at / 1000 % 86_400, at % 1000);
    let time = format!("{:02}:{:02}:{:02}.{millisecond:03}", of_day / 3600, of_day / 60 % 60, of_day % 60);
    let way = if word("direction") == "inbound" { "in " } else { "out" };
    let what = if word("method").is_empty() {
        word("protocol").to_owned()
    } else {
        format!("{} {}", word("method"), word("path"))
    };
    let outcome = match (word("outcome"), record["status"].as_u64(), record["grpc"].as_u64()) {
        ("cancelled", ..) => "cancelled by the client".to_owned(),
        (_, Some(status), Some(grpc)) => format!("{status} grpc {grpc}"),
        (_, Some(status), None) => status.to_string(),
        (outcome, None, _) => outcome.to_owned(),
    };
    let style = match word("outcome") {
        "success" => Style::Good,
        "cancelled" => Style::Warn,
        _ => Style::Bad,
    };
    let mut line = Line::of(Style::Faint, format!("{time} {way} "))
        .and(Style::Strong, word("pod"))
        .and(Style::Plain, format!(" {} {what} ", word("parent")))
        .and(style, outcome);
    if !word("reason").is_empty() {
        line = line.and(Style::Bad, format!(" {} ({})", word("reason"), word("fault")));
    }
    let peer = if word("peer").is_empty() { "-" } else { word("peer") };
    let parts = [("before", "before_ms"), ("connect", "connect_ms"), ("server", "server_ms"), ("after", "after_ms")];
    let parts = parts.map(|(name, field)| format!("{name} {}", millis(ms(field)))).join(", ");
    line =
        line.and(Style::Plain, format!(" {}", millis(ms("ms")))).and(Style::Faint, format!(" [{parts}] peer {peer}"));
    if record["tries"].as_u64() > Some(1) {
        line = line.and(Style::Warn, format!(" {} tries", record["tries"]));
    }
    if !word("endpoint").is_empty() {
        line = line.and(Style::Faint, format!(" at {}", word("endpoint")));
    }
    if !word("trace").is_empty() {
        line = line.and(Style::Faint, format!(" trace {}", word("trace")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_printed_once_however_often_it_is_read() {
        let mut follow = Follow::default();
        let record = |at_ms: u64, path: &str| json!({ "at_ms": at_ms, "path": path });
        let paths = |new: Vec<Value>| new.iter().map(|it| it["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(paths(follow.unseen(vec![record(2, "/b"), record(1, "/a")])), ["/a", "/b"]);
        assert_eq!(paths(follow.unseen(vec![record(3, "/d"), record(2, "/c"), record(2, "/b")])), ["/c", "/d"]);
        assert!(follow.unseen(vec![record(3, "/d")]).is_empty());
    }

    #[test]
    fn a_filter_is_a_querys_value_whatever_it_has() {
        assert_eq!(percent("status>=500 & \"ä\""), "status%3E%3D500%20%26%20%22%C3%A4%22");
    }

    #[test]
    fn a_line_says_who_asked_for_what_and_where_the_time_went() {
        let record = json!({
            "pod": "shop/api-1", "at_ms": 3_661_007, "direction": "inbound", "parent": "shop/api:80", "peer": "spiffe://a/ns/shop/sa/web",
            "protocol": "http1", "method": "GET", "path": "/a", "outcome": "failure", "status": 504, "grpc": null, "reason": "timeout",
            "fault": "application", "tries": 2, "endpoint": "10.0.0.1:80", "ms": 1000.0, "before_ms": 1.0, "connect_ms": 0.0,
            "server_ms": 999.0, "after_ms": 0.0, "trace": null,
        });
        let shown = line(&record).render(false);
        for expected in
            ["01:01:01.007 in  shop/api-1 shop/api:80 GET /a 504 timeout (application)", "2 tries at 10.0.0.1:80"]
        {
            assert!(shown.contains(expected), "no {expected:?} in {shown}");
        }
    }
}
