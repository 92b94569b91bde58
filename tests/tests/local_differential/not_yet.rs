//! Differences that are faults: each is here until it is mended, and fails the test when it is. None is in docs/protocols.md.

use super::Side;
use super::client::After;
use super::differences::Difference;
use super::message::{End, Framing};
use super::script::{Call, Ending, Exchange, Protocol};

/// All that are known.
pub const NOT_YET: &[Difference] = &[
    // hyper's client, told once by an answer that its server is of version 1.0, writes all that follows on that connection as
    // HTTP/1.0, and a body in chunks not at all: whoever's request comes next loses it.
    Difference { text: "behind a kept HTTP/1.0 answer a request is of 1.0, without its chunks", apply: old_server },
    // The proxy's own answer has a body, also to HEAD, and nobody takes it off in HTTP/2: the client sees PROTOCOL_ERROR.
    Difference { text: "a HEAD over HTTP/2 that fails is answered with a body", apply: head_with_body },
    // The gate takes any `Upgrade` for one, where `Connection` does not name it too.
    Difference { text: "an `Upgrade` that is no upgrade ends its connection if an answer is owed", apply: no_upgrade },
    Difference { text: "a client's reset reaches an HTTP/1 origin as FIN", apply: reset_request },
    Difference { text: "an origin's reset reaches an HTTP/1.1 client as FIN", apply: reset_answer },
    Difference { text: "304 loses its Content-Length", apply: not_modified },
];

fn old_server(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    let leaves_old = |call: &Call| {
        let words = call.answer.fields.iter().filter(|(name, _)| name == "Connection").map(|(_, value)| value.as_str());
        let kept = words.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case("keep-alive"));
        // A request of 1.0 itself has a connection that nobody uses again.
        (call.request.version, call.answer.version) == ("HTTP/1.1", "HTTP/1.0") && kept && call.answer.ending == Ending::Whole
    };
    let behind = exchange.calls.windows(2).map(|calls| leaves_old(&calls[0]));
    for (arrived, _) in direct.arrived.iter_mut().skip(1).zip(behind).filter(|(_, behind)| *behind) {
        for message in arrived {
            message.start = message.start.replace("HTTP/1.1", "HTTP/1.0");
            if matches!(message.framing, Framing::Chunked(_)) {
                message.framing = Framing::None;
                message.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding"));
                message.body.clear();
                message.trailers.clear();
            }
        }
    }
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
    if exchange.pipelined && exchange.calls[1..].iter().any(offers) {
        direct.clone_from(through);
    }
    // The tunnel ends in a reset where its client ends it in order.
    if exchange.protocol == Protocol::Tunnel
        && exchange.calls.last().is_some_and(offers)
        && let Some(heard) = direct.heard.last_mut().filter(|heard| heard.after == After::Kept)
    {
        heard.after = After::Reset;
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
