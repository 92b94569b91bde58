//! Stage 2 of 8: detect. In: the first bytes of a connection. Out: which protocol they begin. Refuses: nothing.
//!
//! [`detect`] is a pure function of the bytes read so far. It gives certain answers only: once it has answered
//! anything but [`Detection::Undecided`], more bytes never change the answer, so that a caller may ask again after every
//! read, however the bytes were cut into packets.
//!
//! Where a reading is doubtful it leans towards the *stricter* protocol. What a lenient HTTP server would take for a
//! request (an empty line first, tabs for spaces, a lower-case method) is `Http1` here, although [`crate::http::guard`]
//! will refuse it a moment later: opaque bytes would have met no HTTP policy at all.
//!
//! What it does not do: wait, read, or decide what silence means. A caller that holds a *non-empty* undecided prefix
//! must go on reading (the prefix still fits HTTP or TLS), whatever it does meanwhile ([`crate::first`]).
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub(crate) mod client_hello;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// What the first bytes of a connection begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Detection {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 client preface, all of it.
    Http2,
    /// A TLS record that carries a ClientHello.
    Tls,
    /// None of these.
    Opaque,
    /// Too few bytes to tell.
    Undecided,
}

/// How many bytes detection looks at. Beyond it a line that still reads like a request is HTTP/1 (the guard answers
/// 414), and anything else is opaque. It must be smaller than any buffer the caller peeks into.
pub(crate) const DETECT_BYTES_MAX: usize = 8 * 1024;

/// The HTTP/2 client preface (RFC 9113 §3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a TLS connection begins with: the record type of handshakes (RFC 8446 §5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// The first bytes of a handshake record: its type, and the major version that all versions of TLS give (RFC 8446 §5.1).
pub(crate) const TLS_RECORD: [u8; 2] = [TLS_HANDSHAKE, 3];

/// The longest method that is still taken for one. The longest registered today has 17 bytes.
pub(crate) const METHOD_BYTES_MAX: usize = 32;

/// Says what `bytes`, the beginning of a connection, begin. Costs one pass over the first line at worst, and no
/// allocation.
#[must_use]
pub(crate) fn detect(bytes: &[u8]) -> Detection {
    let Some(first) = bytes.first() else { return Detection::Undecided };
    if *first == TLS_HANDSHAKE {
        return tls(bytes);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Detection::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Detection::Undecided;
    }
    // A later byte must not undo an answer that was given with fewer, so exactly this window is judged, ever.
    let window = bytes.get(..DETECT_BYTES_MAX).unwrap_or(bytes);
    match http1(window) {
        Line::Request => Detection::Http1,
        Line::Other => Detection::Opaque,
        Line::Target if window.len() == DETECT_BYTES_MAX => Detection::Http1,
        Line::Blank | Line::Method if window.len() == DETECT_BYTES_MAX => Detection::Opaque,
        Line::Blank | Line::Method | Line::Target => Detection::Undecided,
    }
}

/// A TLS record header (RFC 8446 §5.1) followed by the handshake type ClientHello. A fragmented ClientHello starts the
/// same way, whatever the size of its first fragment.
fn tls(bytes: &[u8]) -> Detection {
    let fits = |at: usize, ok: &dyn Fn(u8) -> bool| bytes.get(at).is_none_or(|byte| ok(*byte));
    let length_fits = match (bytes.get(3), bytes.get(4)) {
        (Some(high), Some(low)) => (1..=1 << 14).contains(&u16::from_be_bytes([*high, *low])),
        (Some(high), None) => *high <= 0x40,
        _ => true,
    };
    if !(fits(1, &|major| major == 3) && fits(2, &|minor| minor <= 4) && length_fits && fits(5, &|kind| kind == 1)) {
        return Detection::Opaque;
    }
    if bytes.len() > 5 { Detection::Tls } else { Detection::Undecided }
}

/// How far into a request line the bytes reach.
enum Line {
    /// Only white space so far, which lenient servers skip.
    Blank,
    /// Within the method, or the space after it.
    Method,
    /// Within the target or the version.
    Target,
    /// Certainly a request line.
    Request,
    /// Certainly none.
    Other,
}

fn http1(bytes: &[u8]) -> Line {
    let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | b' ' | b'\t')) else {
        return Line::Blank;
    };
    let line = bytes.get(start..).unwrap_or_default();
    let method_len = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
    if method_len == 0 || method_len > METHOD_BYTES_MAX {
        return Line::Other;
    }
    let (method, rest) = line.split_at(method_len);
    match rest.first() {
        None => return Line::Method,
        Some(b' ' | b'\t') => {}
        Some(_) => return Line::Other,
    }
    let Some(target_at) = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')) else { return Line::Method };
    let target = rest.get(target_at..).unwrap_or_default();
    // `GET /`: nothing else begins so. Other methods and target forms are shared with text protocols (memcached's
    // `get key`, git's `0032git-upload-pack /repo`), and are certain only with the version at the end of the line.
    if target.starts_with(b"/") && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-') {
        return Line::Request;
    }
    versioned(target)
}

/// Whether `TARGET SP "HTTP/"` follows, the target being in any of the four forms of RFC 9112 §3.2.
fn versioned(target: &[u8]) -> Line {
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'*' | b'[' | b'?' | b':' | b'%');
    if !target.first().copied().is_some_and(plausible) {
        return Line::Other;
    }
    let Some(end) = target.iter().position(|byte| matches!(byte, 0..=0x20 | 0x7f)) else { return Line::Target };
    let version = target.get(end..).unwrap_or_default();
    let Some(at) = version.iter().position(|byte| !matches!(byte, b' ' | b'\t')) else { return Line::Target };
    let version = version.get(at..).unwrap_or_default();
    const NAME: &[u8] = b"HTTP/";
    if version.starts_with(NAME) {
        Line::Request
    } else if NAME.starts_with(version) {
        Line::Target
    } else {
        Line::Other
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&[u8], Detection)] = &[
        (b"", Detection::Undecided),
        (b"G", Detection::Undecided),
        (b"GET ", Detection::Undecided),
        (b"GET /", Detection::Http1),
        (b"M-SEARCH /x HTTP/1.1\r\n", Detection::Http1),
        (b"get / HTTP/1.1\r\n", Detection::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Detection::Http1),
        (b"CONNECT [::1]:80 HTTP/1.1\r\n", Detection::Http1),
        (b"GET http://a/b HTTP/1.0\r\n", Detection::Http1),
        (b"GET /0.9\r\n", Detection::Http1),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", Detection::Http1),
        (b" GET\t / HTTP/1.1\r\n", Detection::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Detection::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Detection::Http1),
        (b"PRI * HTTP/1.1\r\n\r\n", Detection::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Detection::Undecided),
        (b"\x16\x03\x01\x02\x00\x01\x00", Detection::Tls),
        (b"\x16\x03\x03\x00\x01\x01\x16\x03", Detection::Tls),
        (b"\x16\x03\x01\x02\x00", Detection::Undecided),
        (b"\x16\x03\x01\x00\x00\x01", Detection::Opaque),
        (b"\x16\x03\x01\x40\x01\x01", Detection::Opaque),
        (b"\x16\x03\x01\x02\x00\x02", Detection::Opaque),
        (b"\x16\x02", Detection::Opaque),
        (b"get key\r\n", Detection::Opaque),
        (b"set /key 0 0 5\r\nhello\r\n", Detection::Opaque),
        (b"0032git-upload-pack /project.git\0host=x\0", Detection::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Detection::Opaque),
        (b"EHLO mail.example\r\n", Detection::Opaque),
        (b"OPTIONS rtsp://a/b RTSP/1.0\r\n", Detection::Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Detection::Opaque),
        (b"SSH-2.0-OpenSSH_9\r\n", Detection::Opaque),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ", Detection::Opaque),
    ];

    #[test]
    fn known_beginnings_are_told_apart() {
        for (bytes, expected) in TABLE {
            assert_eq!(detect(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_answer_never_changes_with_more_bytes() {
        for (bytes, _) in TABLE {
            monotone(bytes);
        }
        let mut rng = fastrand::Rng::with_seed(7);
        let alphabet = b"GET /PRI*HTTP1.\r\n \t\x16\x03\x01\0ab";
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.usize(..40)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect();
            monotone(&bytes);
        }
    }

    #[test]
    fn an_endless_request_line_stays_http_and_endless_blanks_are_opaque() {
        let line = [&b"get /"[..], &vec![b'a'; 2 * DETECT_BYTES_MAX]].concat();
        assert_eq!(detect(&line), Detection::Http1);
        assert_eq!(detect(&line[..DETECT_BYTES_MAX - 1]), Detection::Undecided);
        monotone(&line);
        let blanks = vec![b'\n'; DETECT_BYTES_MAX];
        assert_eq!(detect(&blanks), Detection::Opaque);
        let late = [blanks.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(detect(&late), Detection::Opaque);
    }

    fn monotone(bytes: &[u8]) {
        let mut decided = Detection::Undecided;
        for end in 0..=bytes.len() {
            let now = detect(&bytes[..end]);
            assert!(decided == Detection::Undecided || decided == now, "{decided:?} -> {now:?} at {end} of {bytes:?}");
            decided = now;
        }
    }
}
