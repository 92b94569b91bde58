//! Fuzz targets of detection. In: the first bytes of a connection. Out: nothing, or a panic. rustls and httparse are asked what
//! they see in the same bytes.

use super::{
    DETECT_BYTES_MAX, Detection, METHOD_BYTES_MAX,
    client_hello::{Hello, Peek, peek},
    detect,
};
use crate::fuzzing::drive::pieces;

/// Prefixes that are looked at one by one; behind them, where the pieces end.
const PREFIXES: usize = 300;

/// An answer never changes with more bytes, and what a lenient server takes for a request, by a target of one of the four forms
/// or near to it, is never opaque.
pub fn first_bytes(data: &[u8]) {
    let mut decided = Detection::Undecided;
    for end in ends(data) {
        let now = detect(&data[..end]);
        assert!(decided == Detection::Undecided || decided == now, "{decided:?}, then {now:?} at {end}");
        decided = now;
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let window = &data[..data.len().min(DETECT_BYTES_MAX)];
    if request.parse(window).is_ok_and(|status| status.is_complete())
        && request.method.is_some_and(|method| method.len() <= METHOD_BYTES_MAX)
        && request.path.is_some_and(|target| target.starts_with(is_target_start) && target.parse::<http::Uri>().is_ok())
    {
        assert_ne!(decided, Detection::Opaque, "hyper takes it for {request:?}");
    }
}

/// Neither an answer nor what is in it changes with more bytes or with how the message is cut into records, and what rustls
/// takes for a ClientHello is one here, with the same protocols and the same name.
pub fn client_hello(data: &[u8]) {
    let mut decided = Peek::Incomplete;
    for end in ends(data) {
        let now = peek(&data[..end]);
        assert!(decided == Peek::Incomplete || decided == now, "{decided:?}, then {now:?} at {end}");
        decided = now;
    }
    // rustls ignores the version of a record, as RFC 8446 §5.1 has it; here one that no version of TLS gives is none.
    if data.get(2).is_some_and(|minor| *minor > 4) {
        return;
    }
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = data;
    let accepted = loop {
        match (acceptor.read_tls(&mut rest), acceptor.accept()) {
            (Ok(1..), Ok(None)) => {}
            (_, Ok(accepted)) => break accepted,
            (_, Err(_)) => return,
        }
    };
    let Some(accepted) = accepted else { return };
    assert_eq!(detect(data), Detection::Tls, "rustls takes it");
    let Peek::Hello(hello) = decided else { panic!("rustls takes it, here it is {decided:?}") };
    let theirs = accepted.client_hello();
    let alpn: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
    assert!(
        hello.alpn.iter().map(|ours| &**ours).eq(alpn.iter().copied().take(hello.alpn.len())),
        "{alpn:?}, {hello:?}"
    );
    assert_eq!(hello.alpn.is_empty(), alpn.is_empty());
    if let Some(name) = theirs.server_name() {
        // The root's dot is none of a name's.
        let name = name.to_ascii_lowercase();
        assert_eq!(hello.sni.as_deref(), Some(name.strip_suffix('.').unwrap_or(&name)));
    }
    again_in_other_records(data, &hello);
}

/// The same message in records of other lengths.
fn again_in_other_records(data: &[u8], hello: &Hello) {
    let (mut rest, mut message) = (data, Vec::new());
    while let [0x16, _, _, high, low, behind @ ..] = rest
        && let Some((fragment, behind)) = behind.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
    {
        message.extend_from_slice(fragment);
        rest = behind;
    }
    for length in [message.len().div_ceil(60), 1000, 1 << 14] {
        let record = |part: &[u8]| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
        let bytes: Vec<u8> = message.chunks(length.max(1)).flat_map(record).collect();
        match peek(&bytes) {
            Peek::Hello(again) => assert_eq!(&again, hello, "in records of {length}"),
            // The last record of `data` may hold the message's last bytes and not be whole itself.
            other => assert_eq!(other, Peek::Incomplete, "in records of {length}"),
        }
    }
}

/// Ends of prefixes of `data`, in their order; the last is all of it.
fn ends(data: &[u8]) -> impl Iterator<Item = usize> {
    let mut end = 0;
    let cuts = pieces(data).map(move |piece| {
        end += piece.len();
        end
    });
    (0..data.len().min(PREFIXES)).chain(cuts.filter(|end| *end >= PREFIXES)).chain([data.len()])
}

/// What targets of the four forms of RFC 9112 §3.2 begin with.
fn is_target_start(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/*[".contains(c)
}
