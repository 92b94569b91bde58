//! What may differ through the mesh: the list of docs/protocols.md, each entry with what it makes of what was seen directly.
//!
//! An entry says what the mesh will show, as narrowly as it can: it changes the record of the direct side into that, or takes off
//! the other side what it alone has. What no entry foretells is a mismatch.

use super::{
    Side, ends,
    generate::registered,
    message::{Framing, Message},
    script::{Exchange, Field, Protocol},
};

/// An entry.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// As docs/protocols.md begins it.
    pub text: &'static str,
    /// Makes of what was seen directly what is seen through the mesh.
    pub apply: fn(&Exchange, &mut Side, &mut Side),
}

/// All that docs/protocols.md lists.
pub const ALLOWED: &[Difference] = &[
    Difference { text: "Names of fields are in lower case", apply: names },
    Difference { text: "White space around a value is one space before it", apply: white_space },
    Difference { text: "Fields of one hop are the hop's own", apply: hop },
    Difference { text: "Names that begin with `x-remora-` are the proxies'", apply: reserved },
    Difference { text: "An absolute target to a proxy that its client knows becomes the origin form", apply: absolute },
    Difference { text: "`host` beside an HTTP/2 request's authority is left out", apply: host },
    Difference { text: "A reason phrase is the registered one of its code", apply: reason },
    Difference { text: "The version of an answer is its request's", apply: version },
    Difference { text: "An answer has a `date`", apply: date },
    Difference { text: "Chunks have other sizes and no extensions", apply: chunks },
    Difference { text: "Trailers in HTTP/1 arrive where they are announced and wanted", apply: trailers },
    Difference { text: "Interim answers but 101 are not passed on", apply: interim },
    Difference { text: "Whether a connection is kept, each hop decides", apply: ends::kept },
    Difference { text: "An answer that its connection ends is in chunks", apply: ends::in_chunks },
    Difference { text: "A request that is cut off is answered 400", apply: ends::cut_request },
    Difference { text: "An answer that never begins is a 502 or 503", apply: ends::no_answer },
    Difference {
        text: "A server's GOAWAY reaches the requests that it leaves out as REFUSED_STREAM",
        apply: ends::left_out,
    },
    Difference { text: "An answer that is cut off ends in a reset for HTTP/1.0 and in a tunnel", apply: ends::reset },
    Difference {
        text: "A reset in the middle of an HTTP/1.1 message arrives as the end of its connection",
        apply: ends::cut,
    },
    Difference { text: "A request without an answer is sent again where that is safe", apply: ends::again },
    Difference { text: "A stream that its client resets is reset with CANCEL", apply: ends::cancelled },
    Difference { text: "The end of an HTTP/2 connection resets its streams", apply: ends::connection },
    // Last, as the others append what they foretell.
    Difference { text: "Fields of different names change places", apply: order },
];

pub fn messages(side: &mut Side) -> impl Iterator<Item = &mut Message> {
    let heard = side.heard.iter_mut().flat_map(|heard| &mut heard.messages);
    side.arrived.iter_mut().flatten().chain(heard)
}

fn fields(side: &mut Side) -> impl Iterator<Item = &mut Vec<Field>> {
    messages(side).flat_map(|message| [&mut message.fields, &mut message.trailers])
}

fn names(_: &Exchange, direct: &mut Side, _: &mut Side) {
    fields(direct).flatten().for_each(|(name, _)| name.make_ascii_lowercase());
}

fn white_space(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    let before = if exchange.protocol == Protocol::Http2 { "" } else { " " };
    fields(direct).flatten().for_each(|(_, value)| *value = format!("{before}{}", value.trim_matches([' ', '\t'])));
}

fn order(_: &Exchange, direct: &mut Side, through: &mut Side) {
    for fields in fields(direct).chain(fields(through)) {
        fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    }
}

fn is(name: &str, names: &[&str]) -> bool {
    names.iter().any(|it| it.eq_ignore_ascii_case(name))
}

fn hop(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    let space = if exchange.protocol == Protocol::Http2 { "" } else { " " };
    for message in messages(direct) {
        let lines: Vec<String> = message.values("connection").map(str::to_owned).collect();
        let named: Vec<&str> = lines.iter().flat_map(|line| line.split(',')).map(str::trim).collect();
        let (trailers, leaves) = (message.lists("te", "trailers"), message.lists("upgrade", "websocket"));
        let demands = message.status() == 426;
        let ours = ["connection", "keep-alive", "proxy-connection"];
        message.fields.retain(|(name, _)| match name.to_ascii_lowercase().as_str() {
            "te" => trailers,
            "upgrade" => leaves || demands,
            name => !is(name, &ours) && !is(name, &named),
        });
        for (_, value) in message.fields.iter_mut().filter(|(name, _)| is(name, &["te"])) {
            *value = format!("{space}trailers");
        }
    }
    let words = ["close", "keep-alive", "upgrade"];
    for message in messages(through) {
        let ours = |value: &str| value.split(',').all(|word| is(word.trim(), &words));
        message.fields.retain(|(name, value)| !(name == "connection" && ours(value)));
    }
}

fn reserved(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for fields in fields(direct) {
        fields.retain(|(name, _)| !name.to_ascii_lowercase().replace('_', "-").starts_with("x-remora-"));
    }
    let caller = "spiffe://cluster.local/ns/test/sa/web";
    for message in through.arrived.iter_mut().flatten().filter(|it| it.framing != Framing::Bytes) {
        let known =
            message.fields.iter().position(|(name, value)| name == "x-remora-client-id" && value.trim() == caller);
        match known {
            Some(at) => drop(message.fields.remove(at)),
            None => message.fields.push(("(no caller)".into(), exchange.number.to_string())),
        }
    }
}

fn absolute(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    if exchange.protocol == Protocol::Http1 {
        direct.arrived.iter_mut().flatten().for_each(absolute_to_origin);
    }
}

/// Takes scheme and authority off a request's target.
pub fn absolute_to_origin(message: &mut Message) {
    if let Some((method, rest)) = message.start.split_once(" http://") {
        let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
        message.start = format!("{method} {}{path}", if path.starts_with('/') { "" } else { "/" });
    }
}

fn host(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    if exchange.protocol == Protocol::Http2 {
        fields(direct).for_each(|fields| fields.retain(|(name, _)| name != "host"));
    }
}

/// Of a code that has none it is `<none>`. Inside a tunnel it passes, if it is ASCII.
fn reason(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for message in direct.heard.iter_mut().flat_map(|heard| &mut heard.messages) {
        let (status, mut words) = (message.status(), message.start.splitn(3, ' '));
        let (version, sent) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        let phrase = match exchange.protocol {
            _ if status == 0 => continue,
            Protocol::Http1 => Some(registered(status)).filter(|phrase| !phrase.is_empty()).unwrap_or("<none>"),
            Protocol::Tunnel => Some(sent).filter(|phrase| phrase.is_ascii()).unwrap_or_default(),
            Protocol::Http2 | Protocol::Bytes => continue,
        };
        message.start = format!("{version} {status} {phrase}");
    }
}

fn version(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for (heard, call) in direct.heard.iter_mut().zip(&exchange.calls) {
        for message in heard.messages.iter_mut().filter(|message| message.start.starts_with("HTTP/1.")) {
            message.start.replace_range(..8, call.request.version);
        }
    }
}

fn date(_: &Exchange, direct: &mut Side, through: &mut Side) {
    for (heard, other) in direct.heard.iter().zip(&mut through.heard) {
        if !heard.messages.iter().any(|message| message.values("date").next().is_some()) {
            let fields = other.messages.iter_mut().map(|message| &mut message.fields);
            fields.for_each(|fields| fields.retain(|(name, value)| !(name == "date" && value.ends_with(" GMT"))));
        }
    }
}

fn chunks(_: &Exchange, direct: &mut Side, through: &mut Side) {
    for message in messages(direct).chain(messages(through)) {
        if let Framing::Chunked(lines) = &mut message.framing {
            lines.clear();
        }
    }
}

fn trailers(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    if exchange.protocol == Protocol::Http2 {
        return;
    }
    for (arrived, heard) in direct.arrived.iter_mut().zip(&mut direct.heard) {
        let wanted = arrived.last().is_some_and(|request| request.lists("te", "trailers"));
        for message in arrived.iter_mut().chain(heard.messages.iter_mut().filter(|_| wanted)) {
            if message.values("trailer").next().is_none() {
                message.trailers.clear();
            }
        }
        if !wanted {
            heard.messages.iter_mut().for_each(|message| message.trailers.clear());
        }
    }
}

/// A client that awaits 100 before it sends a body gets one, from its own side's proxy.
fn interim(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for (heard, call) in direct.heard.iter_mut().zip(&exchange.calls) {
        let mut asked = call.request.waits;
        heard.messages.retain(|message| !message.is_interim() || std::mem::take(&mut asked));
    }
}
