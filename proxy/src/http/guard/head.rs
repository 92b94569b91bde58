//! The lines of a head, judged one by one, and what they say together.

use super::{HEAD_FIELDS_MAX, Refusal};
use crate::{
    detect::is_token,
    http::headers::{self, is_http_again},
};

/// What the lines so far said. Buffers are kept from message to message.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) fields: usize,
    old_version: bool,
    connect: bool,
    /// Whether `upgrade` offers anything but HTTP again.
    offers: bool,
    /// Whether `connection` names `upgrade`, without which nothing is offered (RFC 9110 §7.8).
    nominated: bool,
    chunked: bool,
    content_length: Option<u64>,
    hosts: usize,
    host: Vec<u8>,
    /// Of an absolute-form target; empty for the other forms.
    authority: Vec<u8>,
    default_port: &'static [u8],
}

/// Whether the library behind the gate takes this target. It is asked about few: letters, digits and most punctuation have no
/// place in which it would not.
fn is_read_alike(target: &[u8]) -> bool {
    let odd = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..);
    (target.starts_with(b"/") && !target.iter().any(odd)) || http::Uri::try_from(target).is_ok()
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
    Unknown,
}

impl Head {
    pub(super) fn restart(&mut self) {
        let (mut host, mut authority) = (std::mem::take(&mut self.host), std::mem::take(&mut self.authority));
        host.clear();
        authority.clear();
        *self = Self { host, authority, ..Self::default() };
    }

    pub(super) fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(if plain(line) { Refusal::RequestLine } else { Refusal::ControlCharacter });
        };
        if method.is_empty() || !method.iter().copied().all(is_token) {
            return Err(Refusal::RequestLine);
        }
        self.connect = method == b"CONNECT";
        self.version(version)?;
        self.target(method, target)
    }

    fn version(&mut self, version: &[u8]) -> Result<(), Refusal> {
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => self.old_version = true,
            _ => return Err(Refusal::Version),
        }
        Ok(())
    }

    /// The four forms of RFC 9112 §3.2.
    fn target(&mut self, method: &[u8], target: &[u8]) -> Result<(), Refusal> {
        if target.iter().any(|byte| matches!(byte, 0..=0x20 | 0x7f)) {
            return Err(Refusal::ControlCharacter);
        }
        let ok = if method == b"CONNECT" {
            let port = target.iter().rposition(|byte| *byte == b':').and_then(|colon| target.get(colon + 1..));
            is_host(target) && port.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
        } else if target == b"*" {
            method == b"OPTIONS"
        } else {
            (target.starts_with(b"/") || self.absolute(target)) && !target.contains(&b'#')
        };
        if ok && is_read_alike(target) { Ok(()) } else { Err(Refusal::Target) }
    }

    fn absolute(&mut self, target: &[u8]) -> bool {
        let schemes: [(&[u8], &'static [u8]); 2] = [(b"http://", b":80"), (b"https://", b":443")];
        let found = schemes
            .iter()
            .find(|(scheme, _)| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
        let Some((scheme, port)) = found else { return false };
        let rest = target.get(scheme.len()..).unwrap_or_default();
        let authority = rest.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next().unwrap_or_default();
        self.authority.extend_from_slice(authority);
        self.default_port = port;
        !authority.is_empty() && is_host(authority)
    }

    pub(super) fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = self.split(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Refusal::ContentLength)?;
            if self.content_length.replace(length).is_some_and(|before| before != length) {
                return Err(Refusal::ContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            self.host.extend_from_slice(value);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            let mut offers = value.split(|byte| *byte == b',').filter(|offer| !trim(offer).is_empty());
            self.offers |= offers.any(|offer| !is_http_again(offer));
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.nominated |= headers::nominates(value, b"upgrade");
        }
        Ok(())
    }

    /// Whether the request may make the connection one of bytes: who offers that does not send more before it knows.
    pub(super) fn may_leave(&self) -> bool {
        self.connect || (self.offers && self.nominated && !self.old_version)
    }

    pub(super) fn trailer(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, _) = self.split(line)?;
        if !headers::may_be_trailer(name) {
            return Err(Refusal::ForbiddenTrailer);
        }
        Ok(())
    }

    /// Name and trimmed value of a field line.
    fn split<'a>(&mut self, line: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
        self.fields += 1;
        if self.fields > HEAD_FIELDS_MAX {
            return Err(Refusal::TooManyFields);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::Fold);
        }
        if !plain(line) {
            return Err(Refusal::ControlCharacter);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::FieldName)?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Refusal::FieldName);
        }
        Ok((name, trim(value.get(1..).unwrap_or_default())))
    }

    /// How the body ends (RFC 9112 §6.3).
    pub(super) fn length(&self) -> Result<Length, Refusal> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(Refusal::TwoLengths),
            (true, None) if self.old_version => Err(Refusal::TransferEncodingInOldVersion),
            (true, None) => Ok(Length::Chunked),
            (false, Some(length)) => Ok(Length::Known(length)),
            (false, None) => Ok(Length::Unknown),
        }
    }

    /// Whether the request names exactly one authority (RFC 9112 §3.2; HTTP/1.0 may name none).
    pub(super) fn check_host(&self) -> Result<(), Refusal> {
        let missing = self.hosts == 0 && !self.old_version;
        if missing || self.hosts > 1 || !(self.host.is_empty() || is_host(&self.host)) {
            return Err(Refusal::Host);
        }
        let bare = |host: &[u8]| host.strip_suffix(self.default_port).unwrap_or(host).to_ascii_lowercase();
        if self.hosts == 1 && !self.authority.is_empty() && bare(&self.host) != bare(&self.authority) {
            return Err(Refusal::HostMismatch);
        }
        Ok(())
    }
}

/// No control characters but TAB.
pub(super) fn plain(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127))
}

/// Without the optional white space of RFC 9110 §5.6.3 around it.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().filter(|length| *length <= i64::MAX as u64)
}

/// `host [":" port]`: a name or IPv4 address, or an IPv6 address in brackets. No user, list, path or zone.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, after) = rest.split_at(end);
            let hex = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if address.is_empty() || !address.iter().all(hex) {
                return false;
            }
            (&b"v6"[..], after.get(1..).unwrap_or_default())
        }
        _ => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !name.is_empty() && name.iter().all(letter) && port_is_good
}
