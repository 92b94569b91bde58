//! Reads server name and ALPN out of a TLS ClientHello without terminating it.
//!
//! In: the bytes of a connection from its first on. Out: [`Peek`]. A ClientHello may span several records and any
//! number of reads; [`peek`] is pure, so the caller asks again when it has more bytes. Post-quantum key shares make
//! two packets the normal case.
//!
//! What it does not do: verify anything. The answer only chooses between our own TLS (by ALPN) and passing the
//! connection through untouched (by server name); the code that terminates TLS judges the handshake.

/// The longest handshake message looked at; rustls draws the same line.
pub(crate) const CLIENT_HELLO_BYTES_MAX: usize = 64 * 1024;

/// Records a ClientHello may be cut into. A peer that needs more wants to be expensive.
const RECORDS_MAX: usize = 64;

/// Protocols remembered of the ALPN list.
const ALPN_MAX: usize = 32;

/// What the bytes hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    /// So far a ClientHello, not yet whole.
    Incomplete,
    /// Not a ClientHello, or a malformed or oversized one.
    NotTls,
    /// A whole ClientHello.
    Hello(Hello),
}

/// What a ClientHello asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The `host_name` of `server_name` (RFC 6066 §3), lower case, if it is a plausible DNS name.
    pub sni: Option<Box<str>>,
    /// The protocols of ALPN (RFC 7301), in the client's order.
    pub alpn: Vec<Box<[u8]>>,
}

impl Hello {
    /// Whether the client offers `protocol`.
    #[must_use]
    pub(crate) fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| **offered == *protocol)
    }
}

/// Reads the ClientHello that `bytes` begin with.
#[must_use]
pub(crate) fn peek(bytes: &[u8]) -> Peek {
    let message = match reassemble(bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return Peek::Incomplete,
        Err(Malformed) => return Peek::NotTls,
    };
    match hello(&message) {
        Ok(hello) => Peek::Hello(hello),
        Err(Malformed) => Peek::NotTls,
    }
}

/// The bytes cannot be a ClientHello.
struct Malformed;

/// Joins the fragments of the first handshake message and returns its body, or `None` while it is not whole.
fn reassemble(bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    for _ in 0..RECORDS_MAX {
        if let Some(body) = body(&message)? {
            return Ok(Some(body.to_vec()));
        }
        if super::detect(bytes) == super::Detection::Opaque {
            return Err(Malformed);
        }
        let Some(header) = records.take(5) else { return Ok(None) };
        let mut header = Reader(header);
        let (kind, version, length) = (header.u8(), header.u16(), header.u16().unwrap_or(0));
        if kind != Some(0x16) || version.is_none_or(|v| v >> 8 != 3) || length == 0 || length > 1 << 14 {
            return Err(Malformed);
        }
        match records.take(usize::from(length)) {
            Some(fragment) => message.extend_from_slice(fragment),
            None => {
                message.extend_from_slice(records.0);
                return body(&message).map(|body| body.map(<[u8]>::to_vec));
            }
        }
    }
    Err(Malformed)
}

/// The body of the handshake message at the start of `message`, if it is all there.
fn body(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut reader = Reader(message);
    if reader.u8().is_some_and(|kind| kind != 1) {
        return Err(Malformed);
    }
    let (Some(high), Some(low)) = (reader.u8(), reader.u16()) else { return Ok(None) };
    let length = usize::from(high) << 16 | usize::from(low);
    if length > CLIENT_HELLO_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(reader.take(length))
}

/// ClientHello of RFC 8446 §4.1.2.
fn hello(message: &[u8]) -> Result<Hello, Malformed> {
    let mut reader = Reader(message);
    reader.take(2 + 32).ok_or(Malformed)?; // legacy_version, random
    reader.prefixed_u8().ok_or(Malformed)?; // legacy_session_id
    reader.prefixed_u16().ok_or(Malformed)?; // cipher_suites
    reader.prefixed_u8().ok_or(Malformed)?; // legacy_compression_methods
    let mut hello = Hello::default();
    if reader.0.is_empty() {
        return Ok(hello); // TLS 1.2 allows no extensions at all
    }
    let mut extensions = Reader(reader.prefixed_u16().ok_or(Malformed)?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16().ok_or(Malformed)?;
        let data = extensions.prefixed_u16().ok_or(Malformed)?;
        match kind {
            0 if hello.sni.is_none() => hello.sni = server_name(data)?,
            16 if hello.alpn.is_empty() => hello.alpn = protocols(data)?,
            _ => {}
        }
    }
    Ok(hello)
}

fn server_name(data: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let mut names = Reader(Reader(data).prefixed_u16().ok_or(Malformed)?);
    while !names.0.is_empty() {
        let kind = names.u8().ok_or(Malformed)?;
        let name = names.prefixed_u16().ok_or(Malformed)?;
        if kind == 0 {
            return Ok(dns_name(name));
        }
    }
    Ok(None)
}

/// Letters, digits, `-`, `_` and `.`, at most 253 of them: nothing that could lie in a log line or break a label.
fn dns_name(name: &[u8]) -> Option<Box<str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plausible = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 253 || !name.iter().all(plausible) {
        return None;
    }
    std::str::from_utf8(name).ok().map(|name| name.to_ascii_lowercase().into())
}

fn protocols(data: &[u8]) -> Result<Vec<Box<[u8]>>, Malformed> {
    let mut list = Reader(Reader(data).prefixed_u16().ok_or(Malformed)?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.prefixed_u8().filter(|name| !name.is_empty()).ok_or(Malformed)?;
        if found.len() < ALPN_MAX {
            found.push(protocol.into());
        }
    }
    Ok(found)
}

/// A cursor that cannot run past its end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn prefixed_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn prefixed_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
    }

    /// A ClientHello message with the given extensions, without record headers.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let length = (body.len() as u32).to_be_bytes();
        [&[1, length[1], length[2], length[3]][..], &body].concat()
    }

    fn records(message: &[u8], fragment: usize) -> Vec<u8> {
        message
            .chunks(fragment)
            .flat_map(|part| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
            .collect()
    }

    fn sample() -> Vec<u8> {
        let sni = extension(0, b"\x00\x0e\x00\x00\x0bExample.ORG");
        let alpn = extension(16, b"\x00\x0e\x09remora/h2\x03h2c");
        message(&[sni, extension(43, &[2, 3, 4]), alpn].concat())
    }

    #[test]
    fn name_and_protocols_are_found_whatever_the_fragments() {
        let message = sample();
        for fragment in [2, 3, 7, 50, 10_000] {
            let bytes = records(&message, fragment);
            let Peek::Hello(hello) = peek(&bytes) else { panic!("fragments of {fragment}: {:?}", peek(&bytes)) };
            assert_eq!(hello.sni.as_deref(), Some("example.org"));
            assert!(hello.offers(b"remora/h2") && hello.offers(b"h2c") && !hello.offers(b"h2"));
        }
    }

    #[test]
    fn every_proper_prefix_is_incomplete() {
        for fragment in [3, 50, 10_000] {
            let bytes = records(&sample(), fragment);
            for end in 0..bytes.len() {
                assert_eq!(peek(&bytes[..end]), Peek::Incomplete, "{end} of {} in {fragment}s", bytes.len());
            }
        }
    }

    #[test]
    fn what_rustls_sends_is_read() {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"remora/tcp".to_vec()];
        let name = "api.shop".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let Peek::Hello(hello) = peek(&bytes) else { panic!("not read") };
        assert_eq!(hello.sni.as_deref(), Some("api.shop"));
        assert!(hello.offers(b"remora/tcp"));
    }

    #[test]
    fn names_that_are_no_dns_names_are_dropped() {
        for name in [&b"a b"[..], b"a\0b", b"", b"[::1]", &[b'a'; 300]] {
            let list = [&[0][..], &(name.len() as u16).to_be_bytes(), name].concat();
            let data = [&(list.len() as u16).to_be_bytes()[..], &list].concat();
            let bytes = records(&message(&extension(0, &data)), 10_000);
            assert_eq!(peek(&bytes), Peek::Hello(Hello::default()), "{name:?}");
        }
    }

    #[test]
    fn malformed_and_oversized_are_not_tls() {
        let mut huge = records(&[1, 0x7f, 0, 0], 100);
        assert_eq!(peek(&huge), Peek::NotTls);
        huge[5] = 2; // ServerHello
        assert_eq!(peek(&huge), Peek::NotTls);
        assert_eq!(peek(b"GET / HTTP/1.1\r\n"), Peek::NotTls);
        assert_eq!(peek(&records(&message(b"\x00\x00\x00\xff\x00"), 100)), Peek::NotTls);
        assert_eq!(peek(&records(&[&[1, 0, 1, 0][..], &[0; 256]].concat(), 1)), Peek::NotTls, "too many records");
    }

    #[test]
    fn noise_never_panics() {
        let mut rng = fastrand::Rng::with_seed(11);
        let clean = records(&sample(), 40);
        for _ in 0..20_000 {
            let mut bytes = clean.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let _ = peek(&bytes);
        }
    }
}
