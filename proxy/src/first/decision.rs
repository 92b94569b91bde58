//! What the first bytes of a connection are, given what is declared of its port. Pure.

use super::{First, Wait};
use crate::{
    detect::{
        self, Detection,
        client_hello::{Peek, peek},
    },
    tls::Alpn,
};
use remora_model::Protocol;

/// What other proxies offer in their ClientHello.
const MESH: [Alpn; 3] = [Alpn::MeshHttp, Alpn::MeshHttp1, Alpn::MeshTcp];

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Http1,
    Http2,
    Mesh,
    Tls,
    Opaque,
}

impl Decision {
    /// `None`: more bytes decide.
    pub(super) fn of(bytes: &[u8], wait: &Wait) -> Option<Self> {
        let detection = detect::detect(bytes);
        match detection {
            Detection::Tls if wait.mesh => match peek(bytes) {
                Peek::Hello(hello) if MESH.iter().any(|alpn| hello.offers(alpn.as_bytes())) => return Some(Self::Mesh),
                Peek::Hello(_) | Peek::NotTls => {}
                Peek::Incomplete => return None,
            },
            Detection::Tls if wait.by_name => {
                return if peek(bytes) == Peek::Incomplete { None } else { Some(Self::Tls) };
            }
            Detection::Undecided if wait.reads_hello() && bytes.first() == Some(&detect::TLS_HANDSHAKE) => return None,
            _ => {}
        }
        match detection {
            _ if wait.said == Protocol::Opaque => Some(Self::Opaque),
            Detection::Tls => Some(Self::Tls),
            Detection::Http1 => Some(Self::Http1),
            Detection::Http2 => Some(Self::Http2),
            Detection::Undecided => None,
            Detection::Opaque => wait.declared().or(Some(Self::Opaque)),
        }
    }

    /// Whether an upstream that was opened before has use for what was decided.
    pub(super) fn is_bytes(self, wait: &Wait) -> bool {
        self == Self::Opaque || (self == Self::Tls && !wait.by_name)
    }

    pub(super) fn first<U>(self) -> First<U> {
        match self {
            Self::Http1 => First::Http1,
            Self::Http2 => First::Http2,
            Self::Mesh => First::Mesh,
            Self::Tls => First::Tls,
            Self::Opaque => First::Opaque,
        }
    }
}

impl Wait {
    /// What the bytes are taken for as long as they leave it open.
    pub(super) fn declared(&self) -> Option<Decision> {
        match self.said {
            Protocol::Detect => None,
            Protocol::Http1 => Some(Decision::Http1),
            Protocol::Http2 => Some(Decision::Http2),
            Protocol::Opaque => Some(Decision::Opaque),
        }
    }

    pub(super) fn is_http_declared(&self) -> bool {
        matches!(self.said, Protocol::Http1 | Protocol::Http2)
    }
}
