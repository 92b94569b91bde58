//! The exchanges of a seed. Everything here is legal HTTP, but for messages that are cut off.

use super::{
    client::greeting,
    pools::{self, owned},
    random::Random,
    script::{Answer, Body, Call, Ending, Exchange, Field, Framing, NUMBER, Protocol, Request, Talk, TalkEnd},
};

/// So many exchanges of this seed.
pub fn exchanges(seed: u64, count: usize) -> Vec<Exchange> {
    (0..count).map(|number| exchange(&mut Random::new(seed, number as u64), number)).collect()
}

fn exchange(random: &mut Random, number: usize) -> Exchange {
    let protocol = match number % 10 {
        0..=5 => Protocol::Http1,
        6 => Protocol::Tunnel,
        7 | 8 => Protocol::Http2,
        _ => Protocol::Bytes,
    };
    let mut calls = Vec::new();
    // Every other one of bytes begins as HTTP/1.
    let upgrade = protocol == Protocol::Bytes && (number / 10).is_multiple_of(2);
    let protocol = if upgrade { Protocol::Http1 } else { protocol };
    let pipelined = protocol == Protocol::Http1 && !upgrade && random.once_in(8);
    let count = if pipelined { 3 } else { *random.of(&[1, 1, 2, 3]) };
    for at in 0..count {
        let key = (number, at);
        if protocol == Protocol::Bytes || upgrade {
            calls.push(talking(random, key, upgrade));
            break;
        }
        let request = super::requests::request(random, protocol, pipelined, key);
        let cut = request.ending != Ending::Whole;
        let answer = answer(random, protocol, &request, pipelined);
        calls.push(Call { request, answer, talk: None });
        if cut {
            break;
        }
    }
    Exchange { number, protocol, pipelined, calls }
}

/// A body of any length, small ones often.
pub fn some_bytes(random: &mut Random, protocol: Protocol) -> Vec<u8> {
    let most = if protocol == Protocol::Http2 { 6000 } else { 40_000 };
    let length = match random.below(6) {
        0 => 0,
        1 => 1,
        2..=4 => random.below(300),
        _ => random.below(most),
    };
    random.bytes(length)
}

pub fn chunked(random: &mut Random) -> Framing {
    let sizes: Vec<_> =
        (0..1 + random.below(4)).map(|_| *random.of(&[1, 2, 7, 15, 16, 100, 255, 4096, 20_000])).collect();
    // Of extensions there may be 16 KiB.
    let extension =
        if sizes.iter().any(|size| *size < 16) { "" } else { *random.of(&["", "", ";a=b", ";c", ";d=\"e;f\""]) };
    Framing::Chunked(sizes, extension.to_owned())
}

/// Some of these fields, in their order.
pub fn some(random: &mut Random, pool: &[(&str, &str)], one_in: usize) -> Vec<Field> {
    pool.iter().filter(|_| random.once_in(one_in)).map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// Fields as HTTP/2 has them: names in lower case, and nothing of one hop.
pub fn for_http2(fields: Vec<Field>) -> Vec<Field> {
    let trim = |value: &str| value.trim_matches([' ', '\t']).to_owned();
    fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), trim(&value))).collect()
}

fn answer(random: &mut Random, protocol: Protocol, request: &Request, pipelined: bool) -> Answer {
    let http1 = protocol != Protocol::Http2;
    let old = http1 && !pipelined && (random.once_in(12) || (request.version == "HTTP/1.0" && random.once_in(2)));
    let status = *random.of(&pools::STATUSES);
    let mut fields = some(random, &pools::END_TO_END, 12);
    fields.extend(some(random, &pools::OF_ANSWERS, 5));
    if status == 426 {
        fields.extend(owned(&[("Upgrade", " foo/2"), ("Connection", " upgrade")]));
    } else if http1 && random.once_in(4) {
        fields.extend(owned(pools::HOP[random.below(4)]));
    }
    if http1 && !pipelined && random.once_in(8) {
        fields.extend(owned(&[("Connection", " close")]));
    } else if old && random.once_in(2) {
        fields.extend(owned(&[("Connection", " Keep-Alive")]));
    }
    if random.once_in(15) {
        fields.extend(owned(&[*random.of(&pools::RESERVED)]));
    }
    let may_chunk = http1 && !old && request.version == "HTTP/1.1";
    let mut body = answer_body(random, protocol, request, status, may_chunk);
    if pipelined && body.framing == Framing::Close {
        body.framing = Framing::Length;
    }
    let trailers = matches!(body.framing, Framing::Chunked(..)) || (!http1 && !body.bytes.is_empty());
    if trailers && random.once_in(3) {
        body.trailers = owned(&[("X-Checksum", " 1"), ("grpc-status", " 0"), ("x-checksum", "")]);
        if random.once_in(2) {
            fields.extend(owned(&[("Trailer", " x-checksum, grpc-status")]));
        }
    }
    let new = request.version != "HTTP/1.0";
    let early = !pipelined
        && !request.waits
        && request.ending == Ending::Whole
        && !request.body.bytes.is_empty()
        && random.once_in(6);
    let ending = if pipelined || early { Ending::Whole } else { answer_ending(random, protocol, request, &body) };
    let interim = if new && ending == Ending::Whole && random.once_in(6) { interim(random) } else { Vec::new() };
    let reason = match random.of(&pools::REASONS) {
        Some(reason) => (*reason).to_owned(),
        None => format!(" {}", registered(status)),
    };
    let mut answer = Answer {
        interim,
        version: if old { "HTTP/1.0" } else { "HTTP/1.1" },
        status,
        reason,
        fields,
        body,
        early,
        ending,
    };
    if !http1 {
        answer.fields = for_http2(answer.fields);
        answer.fields.retain(|(name, _)| name != "connection" && name != "upgrade");
        answer.body.trailers = for_http2(answer.body.trailers);
        answer.interim.iter_mut().for_each(|(_, fields)| *fields = for_http2(std::mem::take(fields)));
    }
    answer
}

/// The registered phrase, as the `http` crate knows it.
pub fn registered(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}

fn interim(random: &mut Random) -> Vec<(u16, Vec<Field>)> {
    let link = owned(&[("Link", " </style.css>; rel=preload")]);
    let all = [(100, Vec::new()), (102, Vec::new()), (103, link.clone()), (103, link)];
    (0..1 + random.below(2)).map(|_| random.of(&all).clone()).collect()
}

fn answer_body(random: &mut Random, protocol: Protocol, request: &Request, status: u16, may_chunk: bool) -> Body {
    let length = random.below(1000);
    let bare = |framing| Body { framing, ..Body::default() };
    match (request.method.as_str(), status) {
        (_, 204) => return Body::default(),
        (_, 304) | ("HEAD", _) if random.once_in(2) => return bare(Framing::LengthOnly(length)),
        (_, 304) | ("HEAD", _) => return Body::default(),
        (_, 205) => return bare(Framing::Length),
        _ => {}
    }
    let bytes = some_bytes(random, protocol);
    let framing = match random.below(5) {
        0 | 1 => Framing::Length,
        2 | 3 if may_chunk => chunked(random),
        _ if protocol == Protocol::Http2 => Framing::None,
        2 | 3 => Framing::Length,
        _ => Framing::Close,
    };
    Body { bytes, framing, trailers: Vec::new() }
}

fn answer_ending(random: &mut Random, protocol: Protocol, request: &Request, body: &Body) -> Ending {
    if !random.once_in(if protocol == Protocol::Http2 { 2 } else { 4 }) || request.ending != Ending::Whole {
        return Ending::Whole;
    }
    let (at, code) = (random.below(body.bytes.len().max(1)), *random.of(&pools::CODES));
    if protocol == Protocol::Http2 {
        let at_all = [
            Ending::StreamAt(at, code),
            Ending::StreamAt(at, code),
            Ending::StreamAt(body.bytes.len(), code),
            Ending::AwayAt(at, code),
            Ending::FinAt(at),
            Ending::ResetAt(at),
        ];
        let before = [
            Ending::StreamBefore(code),
            Ending::StreamBefore(code),
            Ending::AwayBefore,
            Ending::FinBefore,
            Ending::ResetBefore,
        ];
        let any = if body.bytes.is_empty() || random.once_in(2) { &before[..] } else { &at_all };
        return *random.of(any);
    }
    let before = [Ending::FinBefore, Ending::ResetBefore];
    match &body.framing {
        _ if body.bytes.is_empty() || random.once_in(3) => *random.of(&before),
        Framing::Chunked(..) => *random.of(&[Ending::FinAt(at), Ending::ResetAt(at), Ending::NoLastChunk]),
        Framing::Close => Ending::ResetAt(at),
        _ => *random.of(&[Ending::FinAt(at), Ending::ResetAt(at)]),
    }
}

/// Bytes both ways, behind a 101 or from the beginning.
fn talking(random: &mut Random, key: (usize, usize), upgrade: bool) -> Call {
    let (long, reply, late) = (random.below(5000), 1 + random.below(5000), 1 + random.below(500));
    let mut said = if upgrade { Vec::new() } else { greeting(key) };
    said.extend(random.bytes(1 + long));
    let end = *random.of(&[TalkEnd::ClientFin, TalkEnd::ServerFin, TalkEnd::ClientReset, TalkEnd::ServerReset]);
    let talk = Talk { client: said, server: random.bytes(reply), late: random.bytes(late), end };
    let upgrade = owned(&[("Connection", " Upgrade"), ("Upgrade", " websocket")]);
    let mut fields = owned(&[("Host", " api:80")]);
    fields.push((NUMBER.into(), format!(" {}.{}", key.0, key.1)));
    fields.extend(upgrade.clone());
    fields.extend(some(random, &pools::END_TO_END, 12));
    let request = Request {
        method: "GET".into(),
        target: "/chat".into(),
        version: "HTTP/1.1",
        fields,
        body: Body::default(),
        waits: false,
        ending: Ending::Whole,
    };
    let answer = Answer {
        interim: Vec::new(),
        version: "HTTP/1.1",
        status: 101,
        reason: " Switching Protocols".into(),
        fields: [upgrade, some(random, &pools::OF_ANSWERS, 5)].concat(),
        body: Body::default(),
        early: false,
        ending: Ending::Whole,
    };
    Call { request, answer, talk: Some(talk) }
}
