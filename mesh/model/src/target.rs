//! What a client wants to reach: the key under which a proxy subscribes to an outbound resource.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

/// The longest authority that is looked at, in bytes (a DNS name of 253, a colon and a port, with room to spare).
pub const AUTHORITY_BYTES_MAX: usize = 300;

/// `:65535`.
const PORT_BYTES_MAX: usize = 6;

/// An outbound destination as the client named it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Target {
    /// The original destination of a redirected connection.
    Address(SocketAddr),
    /// A host and port, lower case, without a trailing dot: the explicit mode's destination.
    Authority(Arc<str>, u16),
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Longer than [`AUTHORITY_BYTES_MAX`] bytes, or empty.
    #[error("an authority has 1 to {AUTHORITY_BYTES_MAX} bytes")]
    Length,
    /// A byte, or an empty label, that no host name, IPv4 or bracketed IPv6 address has.
    #[error("the host has a character or an empty part that no host name or address has")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Target {
    /// Reads `host:port`, `host` (with `default_port`), `ip:port` or `[ip6]:port`. Names are lower-cased and lose one
    /// trailing dot; addresses become [`Target::Address`]. User information is refused.
    pub fn parse(authority: &str, default_port: u16) -> Result<Self, TargetError> {
        if authority.is_empty() || authority.len() > AUTHORITY_BYTES_MAX {
            return Err(TargetError::Length);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, parse_port(port)?),
            _ => (authority, default_port),
        };
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let ip = inner.parse::<std::net::Ipv6Addr>().map_err(|_| TargetError::Host)?;
            return Ok(Self::Address(SocketAddr::new(ip.into(), port)));
        }
        // The dot goes first, or an address with one would be a name that is read as an address by whoever hears of it.
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Ok(ip) = host.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Address(SocketAddr::new(ip.into(), port)));
        }
        if host.len() + PORT_BYTES_MAX > AUTHORITY_BYTES_MAX {
            // Written with its port it would be too long.
            return Err(TargetError::Length);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // An empty label: of `a..` a reader of our text would take off another dot.
        if host.split('.').any(str::is_empty) || !host.bytes().all(allowed) {
            return Err(TargetError::Host);
        }
        Ok(Self::Authority(host.to_ascii_lowercase().into(), port))
    }

    /// The port asked for.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Authority(_, port) => *port,
        }
    }
}

fn parse_port(text: &str) -> Result<u16, TargetError> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(TargetError::Port),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Authority(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// [`Target::parse`] with port 80 as the default.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text, 80)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, TargetError>) {
        assert_eq!(Target::parse(text, 80).map(|t| t.to_string()), expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn an_authority_is_normalised_or_refused() {
        check("Api.Shop:8080", Ok("api.shop:8080"));
        check("api.shop.", Ok("api.shop:80"));
        check("10.0.0.1:9", Ok("10.0.0.1:9"));
        assert!(matches!(Target::parse("10.0.0.1.", 80), Ok(Target::Address(_))));
        check("[::1]:9", Ok("[::1]:9"));
        check("[::1]", Ok("[::1]:80"));
        check("", Err(TargetError::Length));
        check("user@api:80", Err(TargetError::Host));
        check("api:0", Err(TargetError::Port));
        check("api:+80", Err(TargetError::Port));
        check("api:65536", Err(TargetError::Port));
        check("[fe80::1%eth0]:80", Err(TargetError::Host));
        check("a b:80", Err(TargetError::Host));
        check("api.shop..", Err(TargetError::Host));
        check("api..shop", Err(TargetError::Host));
        check(".", Err(TargetError::Host));
        check(&"a".repeat(294), Ok(&format!("{}:80", "a".repeat(294))));
        check(&"a".repeat(295), Err(TargetError::Length));
    }
}
