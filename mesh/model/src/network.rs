//! Address ranges as users and messages name them.

use ipnet::{IpNet, Ipv4Net};

/// Bits before the IPv4 address in an IPv4-mapped one (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Why a text is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    #[error("is no CIDR")]
    Syntax,
    #[error("is a part of IPv6 that IPv4 addresses are written in, and more: write the IPv4 range")]
    Mapped,
}

/// Reads a range. Peers' addresses are compared in their canonical form, in which no IPv4 address is written as IPv6; so an
/// IPv4-mapped range (`::ffff:10.0.0.0/104`) is the IPv4 range that it means (`10.0.0.0/8`), or it would match no address.
pub fn parse(text: &str) -> Result<IpNet, InvalidNetwork> {
    let net: IpNet = text.parse().map_err(|_| InvalidNetwork::Syntax)?;
    let IpNet::V6(six) = net else { return Ok(net) };
    let Some(address) = six.addr().to_ipv4_mapped() else { return Ok(net) };
    let bits = six.prefix_len().checked_sub(MAPPED_BITS).ok_or(InvalidNetwork::Mapped)?;
    Ipv4Net::new(address, bits).map(IpNet::V4).map_err(|_| InvalidNetwork::Mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_range_written_in_ipv6_is_the_ipv4_range() {
        let read = |text: &str| parse(text).map(|net| net.to_string());
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("::ffff:10.0.0.0/104", Ok("10.0.0.0/8")),
            ("::ffff:a00:7/128", Ok("10.0.0.7/32")),
            ("::ffff:0:0/96", Ok("0.0.0.0/0")),
            ("::ffff:10.0.0.0/95", Err(InvalidNetwork::Mapped)),
            ("::ffff:10.0.0.0/8", Err(InvalidNetwork::Mapped)),
            ("::/0", Ok("::/0")),
            ("fd00::/8", Ok("fd00::/8")),
            ("10.0.0.0", Err(InvalidNetwork::Syntax)),
            ("10.0.0.0/33", Err(InvalidNetwork::Syntax)),
            ("", Err(InvalidNetwork::Syntax)),
        ] {
            assert_eq!(read(text), expected.map(str::to_owned), "{text}");
        }
    }
}
