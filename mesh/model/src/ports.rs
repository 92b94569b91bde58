//! Lists of ports as annotations write them: `3306,5000-5010`. One parser for every part that uses or checks them.

use std::ops::RangeInclusive;

/// Why a text is no list of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    #[error("{0:?} is no port from 1 to 65535")]
    Port(String),
    #[error("{0:?} ends before it begins")]
    Backwards(String),
}

/// Reads ports and ranges, separated by commas, with or without blanks. An empty text names none.
pub fn read(text: &str) -> Result<Vec<RangeInclusive<u16>>, InvalidPorts> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(range).collect()
}

/// Whether a list names `port`. One that cannot be read names none.
pub fn name(text: &str, port: u16) -> bool {
    read(text).is_ok_and(|ranges| ranges.iter().any(|range| range.contains(&port)))
}

fn range(text: &str) -> Result<RangeInclusive<u16>, InvalidPorts> {
    let Some((from, to)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok(port..=port);
    };
    let range = port(from.trim())?..=port(to.trim())?;
    if range.is_empty() { Err(InvalidPorts::Backwards(text.to_owned())) } else { Ok(range) }
}

fn port(text: &str) -> Result<u16, InvalidPorts> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let read = text.parse().ok().filter(|port| digits && *port != 0);
    read.ok_or_else(|| InvalidPorts::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whole_or_refused_with_its_wrong_entry() {
        let ranges = |text: &str| read(text).map(|all| all.iter().map(|r| (*r.start(), *r.end())).collect::<Vec<_>>());
        assert_eq!(ranges("3306,5000-5010"), Ok(vec![(3306, 3306), (5000, 5010)]));
        assert_eq!(ranges(" 80 - 90 , 443 "), Ok(vec![(80, 90), (443, 443)]));
        assert_eq!(ranges(""), Ok(vec![]));
        for wrong in ["http", "70000", "0", "80;81", "-1", "80-", "+80", "80-90-100", "1,x"] {
            assert!(matches!(read(wrong), Err(InvalidPorts::Port(_))), "{wrong}");
        }
        assert_eq!(read("90-80"), Err(InvalidPorts::Backwards("90-80".to_owned())));
        assert!(name("80-90", 85) && !name("80-90", 91) && !name("85,x", 85));
    }
}
