//! What was seen, in lines that can be compared and read.

use super::{
    Side,
    message::{Framing, Message},
    script::{Answer, Body, Call, Ending, Exchange, latin},
};

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
    let pipelined = if exchange.pipelined { ", pipelined" } else { "" };
    let calls: Vec<_> = exchange.calls.iter().map(call).collect();
    format!("{:?}{pipelined}\n{}", exchange.protocol, calls.join("\n"))
}

fn call(call: &Call) -> String {
    let Call { request, answer, talk } = call;
    let head = latin(&request.head()).trim_end().replace("\r\n", "\n    ");
    let Answer { interim, version, status, reason, fields, early, .. } = answer;
    let talk = talk.as_ref().map(|talk| {
        let lengths = [&talk.client, &talk.server, &talk.late].map(Vec::len);
        format!("\n    then bytes of client, server, and late ones: {lengths:?}, {:?}", talk.end)
    });
    format!(
        "    {head}\n    {}, waits for 100: {}\n    → {interim:?} {version} {status}{reason} {fields:?}\n    {}, early: {early}{}",
        body(&request.body, request.ending),
        request.waits,
        body(&answer.body, answer.ending),
        talk.unwrap_or_default()
    )
}

fn body(body: &Body, ending: Ending) -> String {
    format!("body of {} bytes, {:?}, trailers {:?}, ending {ending:?}", body.bytes.len(), body.framing, body.trailers)
}
