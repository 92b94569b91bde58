//! Of the differences, those of how messages and connections end.

use super::{
    Side,
    client::{After, Heard},
    message::{End, Framing, Message},
    script::{Answer, Call, Ending, Exchange, Protocol},
};

/// What each client got, beside what it got through the mesh.
fn pairs<'a>(
    exchange: &'a Exchange,
    direct: &'a mut Side,
    through: &'a Side,
) -> impl Iterator<Item = (&'a Call, &'a mut Heard, &'a Heard)> {
    let both = direct.heard.iter_mut().zip(&through.heard);
    exchange.calls.iter().zip(both).map(|(call, (direct, through))| (call, direct, through))
}

const REFUSED_STREAM: u32 = 7;

/// The reason that a proxy gives with an answer of its own.
fn refusal(message: &Message) -> Option<&str> {
    message.values("x-remora-error").next()
}

pub fn kept(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (_, direct, through) in pairs(exchange, direct, through) {
        let whole = direct.messages.last().is_some_and(|message| message.end == End::Whole);
        if whole && direct.after == After::Fin && through.after == After::Kept {
            direct.after = After::Kept;
        }
    }
}

pub fn in_chunks(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (call, direct, _) in pairs(exchange, direct, through) {
        if let Some(message) = direct.messages.last_mut()
            && message.framing == Framing::Close
            && call.request.version == "HTTP/1.1"
        {
            message.framing = Framing::Chunked(Vec::new());
            message.fields.push(("transfer-encoding".into(), " chunked".into()));
        }
    }
}

/// Replaces the nothing that was heard directly by what a proxy says, if it says one of these.
fn told(direct: &mut Heard, through: &Heard, statuses: &[u16], reasons: &[&str]) {
    if let (Some(nothing), Some(said)) = (direct.messages.last_mut(), through.messages.last())
        && nothing.status() == 0
        && nothing.body.is_empty()
        && statuses.contains(&said.status())
        && refusal(said).is_some_and(|reason| reasons.contains(&reason))
    {
        *nothing = said.clone();
        direct.after = through.after;
    }
}

pub fn cut_request(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (call, direct, through) in pairs(exchange, direct, through) {
        if call.request.ending != Ending::Whole {
            told(direct, through, &[400], &["body_aborted", "protocol_error"]);
        }
    }
}

pub fn no_answer(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (call, direct, through) in pairs(exchange, direct, through) {
        if call.answer.ending.is_before() {
            told(direct, through, &[502, 503], &["upstream_reset", "refused_stream", "draining"]);
        }
    }
}

pub fn left_out(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (call, direct, _) in pairs(exchange, direct, through) {
        if let Some(message) = direct.messages.last_mut()
            && call.answer.ending == Ending::AwayBefore
            && matches!(message.end, End::Away(_))
        {
            message.end = End::Stream(REFUSED_STREAM);
        }
    }
}

pub fn reset(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    for (call, direct, _) in pairs(exchange, direct, through) {
        if let Some(message) = direct.messages.last_mut()
            && (call.request.version == "HTTP/1.0" || exchange.protocol == Protocol::Tunnel)
            && message.status() > 0
            && message.end == End::Fin
        {
            message.end = End::Reset;
        }
    }
}

pub fn cut(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    for ((call, arrived), heard) in exchange.calls.iter().zip(&mut direct.arrived).zip(&mut direct.heard) {
        if matches!(call.request.ending, Ending::ResetAt(_)) {
            arrived.iter_mut().for_each(|message| message.end = End::Fin);
        }
        if let (Ending::ResetAt(_), Protocol::Http1, "HTTP/1.1", Some(message)) =
            (call.answer.ending, exchange.protocol, call.request.version, heard.messages.last_mut())
        {
            message.end = End::Fin;
        }
    }
}

/// Whether the server says that it has not looked at a request.
fn unprocessed(answer: &Answer) -> bool {
    matches!(answer.ending, Ending::StreamBefore(REFUSED_STREAM) | Ending::AwayBefore)
}

pub fn again(exchange: &Exchange, _: &mut Side, through: &mut Side) {
    const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"];
    for (call, arrived) in exchange.calls.iter().zip(&mut through.arrived) {
        let safe = IDEMPOTENT.contains(&call.request.method.as_str()) || unprocessed(&call.answer);
        let framing = |name: &str| ["transfer-encoding", "content-length"].contains(&name);
        if safe && call.answer.ending.is_before() && (2..=3).contains(&arrived.len()) {
            arrived.dedup_by(|again, first| {
                let mut first = first.clone();
                // An empty body is no body, the second time.
                if first.body.is_empty() && again.framing == Framing::None {
                    first.framing = Framing::None;
                    first.fields.retain(|(name, _)| !framing(name));
                }
                *again == first
            });
        }
    }
}

pub fn cancelled(exchange: &Exchange, direct: &mut Side, _: &mut Side) {
    const CANCEL: u32 = 8;
    if exchange.protocol == Protocol::Http2 {
        for message in direct.arrived.iter_mut().flatten() {
            if let End::Stream(code) = &mut message.end {
                *code = CANCEL;
            }
        }
    }
}

pub fn connection(exchange: &Exchange, direct: &mut Side, through: &mut Side) {
    const INTERNAL_ERROR: u32 = 2;
    for (_, direct, _) in pairs(exchange, direct, through) {
        if let Some(message) = direct.messages.last_mut()
            && exchange.protocol == Protocol::Http2
            && message.status() > 0
            && matches!(message.end, End::Fin | End::Reset | End::Away(_))
        {
            message.end = End::Stream(INTERNAL_ERROR);
        }
    }
}
