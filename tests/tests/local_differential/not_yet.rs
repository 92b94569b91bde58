//! Differences that are faults: each is here until it is mended, and fails the test when it is. None is in docs/protocols.md.

use super::Side;
use super::client::{After, Heard};
use super::differences::{Difference, absolute_to_origin};
use super::message::{End, Framing, Message};
use super::script::{Call, Ending, Exchange, Framing as Written, Protocol};

/// All that are known.
pub const NOT_YET: &[Difference] = &[
    // hyper's client, told once by an answer that its server is of version 1.0, writes all that follows on that connection as
    // HTTP/1.0, and a body in chunks not at all: whoever's request comes next loses it.
    Difference { text: "behind a kept HTTP/1.0 answer a request is of 1.0, without its chunks", apply: old_server },
    // The proxy's own answer has a body, also to HEAD, and nobody takes it off in HTTP/2: the client sees PROTOCOL_ERROR.
    Difference { text: "a HEAD over HTTP/2 that fails is answered with a body", apply: head_with_body },
    // The proxy at the application believes it of HTTP/1 in a tunnel too, which no proxy has looked at.
    Difference { text: "a client's own `x-remora-http` decides the version inside a tunnel", apply: spoofed_version },
    // The gate takes any `Upgrade` for one, where `Connection` does not name it too.
    Difference { text: "an `Upgrade` that is no upgrade ends its connection if an answer is owed", apply: no_upgrade },
    Difference { text: "a client's reset reaches an HTTP/1 origin as FIN", apply: reset_request },
    Difference { text: "an origin's reset reaches an HTTP/1.1 client as FIN", apply: reset_answer },
    Difference { text: "304 loses its Content-Length", apply: not_modified },
];

/// What a request becomes that is written for a server of version 1.0. One that is cut off becomes whole, and is answered.
fn as_old(message: &mut Message, heard: &mut Heard, answered: &Heard) {
    message.start = message.start.replace("HTTP/1.1", "HTTP/1.0");
    if matches!(message.framing, Framing::Chunked(_)) {
        message.framing = Framing::None;
        message.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding"));
        message.body.clear();
        message.trailers.clear();
        if message.end != End::Whole {
            message.end = End::Whole;
            heard.clone_from(answered);
        }
    }
}

fn old_server(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    let leaves_old = |call: &Call| {
        let words = call.answer.fields.iter().filter(|(name, _)| name == "Connection").map(|(_, value)| value.as_str());
        let kept = words.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case("keep-alive"));
        // A request of 1.0 itself has a connection that nobody uses again.
        let versions = (call.request.version, call.answer.version) == ("HTTP/1.1", "HTTP/1.0");
        versions
            && !says_version(exchange, call)
            && kept
            && call.answer.ending == Ending::Whole
            && call.answer.body.framing != Written::Close
    };
    let behind = exchange.calls.windows(2).map(|calls| leaves_old(&calls[0]));
    for (at, _) in behind.enumerate().filter(|(_, behind)| *behind).map(|(at, behind)| (at + 1, behind)) {
        if let (Some(heard), Some(answered)) = (direct.heard.get_mut(at), through.heard.get(at)) {
            direct.arrived[at].iter_mut().for_each(|message| as_old(message, heard, answered));
            // Another try has a connection of its own, and is whole again.
            through.arrived[at].truncate(1);
        }
    }
}

fn spoofed_version(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    let calls = exchange.calls.iter().zip(&mut direct.arrived).zip(direct.heard.iter_mut().zip(&through.heard));
    for ((_, arrived), (heard, answered)) in calls.filter(|((call, _), _)| says_version(exchange, call)) {
        for message in arrived {
            as_old(message, heard, answered);
            // The form of the target was never said.
            absolute_to_origin(message);
        }
        if heard.after == After::Kept {
            heard.after = answered.after;
        }
    }
}

fn says_version(exchange: &Exchange, call: &Call) -> bool {
    exchange.protocol == Protocol::Tunnel && call.request.fields.iter().any(|(name, _)| name == "x-remora-http")
}

fn head_with_body(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    const PROTOCOL_ERROR: u32 = 1;
    for (call, heard) in exchange.calls.iter().zip(&mut direct.heard) {
        let fails = call.request.method == "HEAD" && call.answer.ending.is_before();
        if let Some(message) = heard.messages.last_mut().filter(|_| fails && exchange.protocol == Protocol::Http2) {
            message.end = End::Stream(PROTOCOL_ERROR);
        }
    }
}

fn no_upgrade(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    let offers = |call: &Call| call.request.fields.iter().any(|(name, _)| name == "Upgrade");
    match exchange.protocol {
        Protocol::Http1 if exchange.pipelined && exchange.calls.iter().any(offers) => direct.clone_from(through),
        // The tunnel ends in a reset where its client ends it in order.
        Protocol::Tunnel => {
            let (mut offered, last) = (false, direct.heard.len() - 1);
            for (at, (call, heard)) in exchange.calls.iter().zip(&mut direct.heard).enumerate() {
                offered |= offers(call);
                if (heard.after != After::Kept || at == last) && std::mem::take(&mut offered) {
                    ends_in_reset(heard);
                }
            }
        }
        _ => {}
    }
}

/// What was to end in order, or to be kept, is reset.
fn ends_in_reset(heard: &mut Heard) {
    let Some(message) = heard.messages.last_mut().filter(|message| message.end == End::Whole) else { return };
    match (heard.after, &message.framing) {
        (After::Fin, Framing::Close) => message.end = End::Reset,
        (After::Fin | After::Kept, _) => heard.after = After::Reset,
        _ => {}
    }
}

fn reset_request(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for (call, arrived) in exchange.calls.iter().zip(&mut direct.arrived) {
        if matches!(call.request.ending, Ending::ResetAt(_)) {
            arrived.iter_mut().for_each(|message| message.end = End::Fin);
        }
    }
}

fn reset_answer(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for (call, heard) in exchange.calls.iter().zip(&mut direct.heard) {
        if let (Ending::ResetAt(_), Protocol::Http1, "HTTP/1.1", Some(message)) =
            (call.answer.ending, exchange.protocol, call.request.version, heard.messages.last_mut())
        {
            message.end = End::Fin;
        }
    }
}

fn not_modified(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for (call, heard) in exchange.calls.iter().zip(&mut direct.heard) {
        if call.request.method != "HEAD" && exchange.protocol != Protocol::Http2 {
            let not_modified = heard.messages.iter_mut().filter(|message| message.status() == 304);
            not_modified.for_each(|it| it.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length")));
        }
    }
}
