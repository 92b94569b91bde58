//! Differences that are faults: each is here until it is mended, and fails the test when it is. None is in docs/protocols.md.

use super::{
    Side,
    differences::Difference,
    message::End,
    script::{Ending, Exchange, Protocol},
};

/// All that are known.
pub const NOT_YET: &[Difference] = &[
    Difference { text: "a client's reset reaches an HTTP/1 origin as FIN", apply: reset_request },
    Difference { text: "an origin's reset reaches an HTTP/1.1 client as FIN", apply: reset_answer },
    Difference { text: "304 loses its Content-Length", apply: not_modified },
];

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
