//! The requests of a seed.

use super::{
    generate::{chunked, for_http2, some, some_bytes},
    pools::{self, owned},
    random::Random,
    script::{Body, Ending, Field, Framing, Key, NUMBER, Protocol, Request},
};

/// A request, which ends well if it is one of several that are sent at once.
pub fn request(random: &mut Random, protocol: Protocol, pipelined: bool, key: Key) -> Request {
    let http1 = protocol != Protocol::Http2;
    let version = match protocol {
        Protocol::Http2 => "HTTP/2",
        _ if !pipelined && random.once_in(6) => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let old = version == "HTTP/1.0";
    let mut method = (*random.of(&pools::METHODS)).to_owned();
    let (mut target, host) = target(random, protocol, old);
    if http1 && random.once_in(25) {
        (method, target) = ("OPTIONS".into(), "*".into());
    }
    let mut fields = fields(random, protocol, old, host);
    fields.insert(random.below(fields.len() + 1), (NUMBER.into(), format!(" {}.{}", key.0, key.1)));
    if http1 && !pipelined && random.once_in(8) {
        fields.extend(owned(&[("Connection", if old { " keep-alive" } else { " close" })]));
    } else if old && random.once_in(2) {
        fields.extend(owned(&[("Connection", " Keep-Alive")]));
    }
    let body = body(random, protocol, &method, old, &mut fields);
    let waits = version == "HTTP/1.1" && !pipelined && !body.bytes.is_empty() && random.once_in(6);
    if waits {
        fields.extend(owned(&[("Expect", " 100-continue")]));
    }
    let ending = if pipelined || waits { Ending::Whole } else { ending(random, protocol, &body) };
    if !http1 {
        fields = for_http2(fields);
    }
    Request { method, target, version, fields, body, waits, ending }
}

fn target(random: &mut Random, protocol: Protocol, old: bool) -> (String, Option<&'static str>) {
    let mut path = (*random.of(&pools::PATHS)).to_owned();
    if random.once_in(20) {
        path = format!("/{}", "long/".repeat(1600));
    }
    match protocol {
        Protocol::Http2 => {
            let scheme = if random.once_in(6) { "https" } else { "http" };
            let host = random.of(&["api:80", "api:80", "API:80", "api.test:80"]);
            // The library's URI takes no others.
            let path = path.replace(['{', '}', '|', '^', '[', ']'], "");
            (format!("{scheme}://{host}{path}"), random.once_in(6).then_some(*host))
        }
        Protocol::Tunnel if old && random.once_in(2) => (path, None),
        Protocol::Tunnel | Protocol::Bytes => {
            let host = *random.of(&pools::ANY_HOSTS);
            let absolute = !host.is_empty() && random.once_in(3);
            (if absolute { format!("http://{host}{path}") } else { path }, Some(host))
        }
        Protocol::Http1 => {
            let host = *random.of(&pools::HOSTS);
            match random.below(8) {
                0 => (format!("http://{host}{path}"), Some(host)),
                1 => (format!("http://{host}?x=y"), Some(host)),
                _ => (path, Some(host)),
            }
        }
    }
}

fn fields(random: &mut Random, protocol: Protocol, old: bool, host: Option<&str>) -> Vec<Field> {
    let mut fields = some(random, &pools::END_TO_END, 8);
    fields.extend(some(random, &pools::OF_REQUESTS, 8));
    if random.once_in(20) {
        fields.extend((0..55).map(|number| (format!("X-Many-{number}"), format!(" {number}"))));
    }
    if random.once_in(20) {
        fields.push(("X-Long".into(), format!(" {}", "long ".repeat(1000))));
    }
    match random.below(8) {
        0 => fields.extend(owned(&[("Cookie", " a=1; b=2"), ("Cookie", " c=3")])),
        1 => fields.extend(owned(&[("Cookie", " a=1;b=\"2\"; c")])),
        _ => {}
    }
    if random.once_in(if protocol == Protocol::Tunnel { 6 } else { 15 }) {
        fields.extend(owned(&[*random.of(&pools::RESERVED)]));
    }
    if protocol == Protocol::Http2 {
        if random.once_in(4) {
            fields.extend(owned(&[("TE", " trailers")]));
        }
    } else if !old && random.once_in(4) {
        fields.extend(owned(pools::HOP[random.below(pools::HOP.len())]));
    }
    if let Some(host) = host {
        let host = ("Host".into(), format!(" {host}"));
        // First, as nearly always, or anywhere.
        let at = if random.once_in(4) { random.below(fields.len() + 1) } else { 0 };
        fields.insert(at, host);
    }
    fields
}

fn body(random: &mut Random, protocol: Protocol, method: &str, old: bool, fields: &mut Vec<Field>) -> Body {
    let usual = matches!(method, "POST" | "PUT" | "PATCH");
    if !(usual || random.once_in(5)) || (usual && random.once_in(8)) {
        return Body::default();
    }
    let (bytes, http1) = (some_bytes(random, protocol), protocol != Protocol::Http2);
    let framing = match random.below(2) {
        0 => Framing::Length,
        _ if old => Framing::Length,
        _ => chunked(random),
    };
    let mut body = Body { bytes, framing, trailers: Vec::new() };
    if matches!(body.framing, Framing::Chunked(..)) && (http1 || !body.bytes.is_empty()) && random.once_in(3) {
        body.trailers = owned(&[("X-Checksum", " 1"), ("x-other-trailer", " \u{e9}")]);
        if random.once_in(2) {
            fields.extend(owned(&[("Trailer", " x-checksum, x-other-trailer")]));
        }
        if !http1 {
            body.trailers = for_http2(body.trailers);
        }
    }
    body
}

fn ending(random: &mut Random, protocol: Protocol, body: &Body) -> Ending {
    if body.bytes.is_empty() || !random.once_in(6) {
        return Ending::Whole;
    }
    let at = random.below(body.bytes.len());
    match (protocol, &body.framing) {
        (Protocol::Http2, _) => Ending::StreamAt(at, *random.of(&pools::CODES)),
        (_, Framing::Chunked(..)) => *random.of(&[Ending::FinAt(at), Ending::ResetAt(at), Ending::NoLastChunk]),
        _ => *random.of(&[Ending::FinAt(at), Ending::ResetAt(at)]),
    }
}
