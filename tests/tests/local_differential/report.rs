//! What was seen, in lines that can be compared and read.

use super::Side;
use super::message::{Framing, Message};
use super::script::{Exchange, latin};

/// Bytes of which the report shows this many at most.
const SHOWN: usize = 60;

/// One line for each fact.
pub fn lines(side: &Side) -> Vec<String> {
    let mut lines = Vec::new();
    for (call, arrived) in side.arrived.iter().enumerate() {
        lines.push(format!("{call} arrived {} times", arrived.len()));
        for message in arrived {
            of_message(message, &format!("{call} arrived"), &mut lines);
        }
    }
    for (call, heard) in side.heard.iter().enumerate() {
        for message in &heard.messages {
            of_message(message, &format!("{call} heard"), &mut lines);
        }
        lines.push(format!("{call} heard, then: {:?}", heard.after));
    }
    lines
}

fn of_message(message: &Message, place: &str, lines: &mut Vec<String>) {
    lines.push(format!("{place} start: {}", shortened(&message.start)));
    for (name, value) in &message.fields {
        lines.push(format!("{place} field: {name}:{}", shortened(value)));
    }
    lines.push(format!("{place} framing: {:?}", message.framing));
    if !message.body.is_empty() || message.framing == Framing::Bytes {
        lines.push(format!("{place} body: {} bytes: {}", message.body.len(), shortened(&latin(&message.body))));
    }
    for (name, value) in &message.trailers {
        lines.push(format!("{place} trailer: {name}:{value}"));
    }
    lines.push(format!("{place} end: {:?}", message.end));
}

fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if text.chars().count() > SHOWN {
        let sum = text.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        shown = format!("{shown}… ({} characters, sum {sum:08x})", text.chars().count());
    }
    shown.escape_debug().to_string()
}

/// The lines that only one side has: `-` directly, `+` through the mesh.
pub fn mismatches(direct: &Side, through: &Side) -> Vec<String> {
    let (mut left, mut right) = (lines(direct), lines(through));
    left.retain(|line| match right.iter().position(|other| other == line) {
        Some(at) => {
            right.remove(at);
            false
        }
        None => true,
    });
    let marked = left.iter().map(|line| format!("- {line}")).chain(right.iter().map(|line| format!("+ {line}")));
    let mut all: Vec<_> = marked.collect();
    if all.is_empty() && direct != through {
        all.push("- the same in another order".to_owned());
    }
    all
}

/// What kind of mismatch this is, for the summary: its lines without numbers and values.
pub fn kind(mismatches: &[String]) -> String {
    let mut words: Vec<_> = mismatches
        .iter()
        .map(|line| {
            let line: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
            let mut parts = line.splitn(3, ':');
            let (place, name) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default());
            if place.ends_with("field") || place.ends_with("end") || place.ends_with("then") {
                format!("{place}:{name}")
            } else {
                place
            }
        })
        .collect();
    words.dedup();
    words.join("; ")
}

/// An exchange, as somebody would write it down who wants to send it again.
pub fn exchange(exchange: &Exchange) -> String {
    let calls = exchange.calls.iter().map(|call| {
        let (request, answer) = (&call.request, &call.answer);
        let mut body = answer.body.clone();
        body.bytes.clear();
        format!(
            "    {}\n    body of {} bytes, {:?}, trailers {:?}, waits {}, ending {:?}\n    → {:?} {} {}{} {:?}\n    body of {} bytes, {:?}, trailers {:?}, early {}, ending {:?}{}",
            latin(&request.head()).replace("\r\n", "\n    ").trim_end(),
            request.body.bytes.len(),
            request.body.framing,
            request.body.trailers,
            request.waits,
            request.ending,
            answer.interim,
            answer.version,
            answer.status,
            answer.reason,
            answer.fields,
            answer.body.bytes.len(),
            answer.body.framing,
            answer.body.trailers,
            answer.early,
            answer.ending,
            call.talk.as_ref().map(|talk| format!("\n    then bytes: {} / {} / {} {:?}", talk.client.len(), talk.server.len(), talk.late.len(), talk.end)).unwrap_or_default(),
        )
    });
    let calls: Vec<_> = calls.collect();
    format!("{:?}{}\n{}", exchange.protocol, if exchange.pipelined { ", pipelined" } else { "" }, calls.join("\n"))
}
