//! What a client got for one request, and how two of them differ.
//!
//! A program in `programs/` prints a line for each: NUMBER STATUS VERSION LENGTH SHA256 TEXT HEAD TRAILERS ERROR, with tabs between
//! them; the last four are percent-encoded. TEXT is the body, if it has at most 4 KiB. HEAD is `name: value` lines.

use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;

/// Fields that belong to one hop (docs/protocols.md: "Fields of one hop are the hop's own").
const HOP: [&str; 3] = ["connection", "keep-alive", "proxy-connection"];
/// Fields that say how a body is framed, which depends on the version.
const FRAMING: [&str; 3] = ["transfer-encoding", "content-length", "te"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    version: String,
    length: usize,
    sum: String,
    text: String,
    head: Vec<String>,
    trailers: Vec<String>,
    error: String,
}

impl Answer {
    /// Why it is none, if it is none: what its client says, or the reason of a proxy.
    pub(crate) fn failure(&self) -> Option<String> {
        let refused = self.head.iter().find_map(|line| line.strip_prefix("x-remora-error: "));
        match refused {
            _ if !self.error.is_empty() || self.status == 0 => Some(self.error.clone()),
            Some(reason) => Some(format!("{} {reason}", self.status)),
            None => None,
        }
    }

    /// What differs from what came directly, but for what docs/protocols.md lists.
    pub(crate) fn differences(&self, direct: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut part = |what: &str, direct: &str, mesh: &str| {
            if direct != mesh {
                all.push(format!("{what}: directly {direct:?}, through the mesh {mesh:?}"));
            }
        };
        // `Upgrade: h2c` is taken off: an HTTP/2 that it would begin is HTTP/1.1 through the mesh.
        let same_version = self.version == direct.version;
        part("status", &direct.status.to_string(), &self.status.to_string());
        let text = |answer: &Self| {
            let framing = |line: &str| FRAMING.iter().any(|name| line.starts_with(&format!("{name}: ")));
            let lines = answer.text.lines().filter(|line| same_version || !framing(line));
            lines.collect::<Vec<_>>().join("\n")
        };
        // curl sends a POST again by itself, if a kept connection ends before an answer.
        let once = |text: String| text.replace("\ntimes: 2", "\ntimes: 1");
        let (before, after) = (once(text(direct)), text(self));
        part("body", &before, &after);
        if before.is_empty() {
            part("length of the body", &direct.length.to_string(), &self.length.to_string());
            part("sum of the body", &direct.sum, &self.sum);
        }
        part("head", &shown(&direct.head, same_version), &shown(&self.head, same_version));
        part("trailers", &shown(&direct.trailers, true), &shown(&self.trailers, true));
        all
    }
}

/// Its lines as they can be compared: of one hop none, of `date` that there is one, in order of their names.
fn shown(lines: &[String], same_version: bool) -> String {
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let kept = lines.iter().filter(|line| {
        let name = name(line);
        !HOP.contains(&name.as_str()) && (same_version || !FRAMING.contains(&name.as_str()))
    });
    let mut kept: Vec<_> = kept.map(|line| if name(line) == "date" { "date" } else { line }).collect();
    kept.sort_by_key(|line| name(line));
    kept.join("\n")
}

/// All that a program printed.
pub(crate) fn read(text: &str) -> anyhow::Result<BTreeMap<usize, Answer>> {
    text.lines().map(|line| one(line).with_context(|| format!("an answer: {line}"))).collect()
}

fn one(line: &str) -> anyhow::Result<(usize, Answer)> {
    let words: Vec<_> = line.split('\t').collect();
    ensure!(words.len() == 9, "{} words", words.len());
    let lines = |word: &str| {
        let text = decoded(word);
        let split = text.lines().filter_map(|line| line.split_once(':'));
        split.map(|(name, value)| format!("{}: {}", name.trim().to_ascii_lowercase(), value.trim())).collect()
    };
    let answer = Answer {
        status: words[1].parse()?,
        version: words[2].to_owned(),
        length: words[3].parse()?,
        sum: words[4].to_owned(),
        text: decoded(words[5]),
        head: lines(words[6]),
        trailers: lines(words[7]),
        error: decoded(words[8]),
    };
    Ok((words[0].parse()?, answer))
}

/// Undoes percent-encoding, as forms have it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &others[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = others;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: &str = "7\t200\th1\t5\tab\thello\tDate%3A%20x%0AConnection%3A+close%0AX-A%3A%201%0A\t\t";

    fn differ(mesh: &str) -> Vec<String> {
        let (direct, mesh) = (one(DIRECT).expect("an answer").1, one(mesh).expect("an answer").1);
        mesh.differences(&direct)
    }

    #[test]
    fn what_the_page_lists_is_no_difference_and_all_else_is() {
        assert_eq!(differ(&DIRECT.replace("Date%3A%20x", "date%3A%20y").replace("close", "keep-alive")), [""; 0]);
        for (from, to) in
            [("200", "201"), ("hello", "hullo"), ("X-A%3A%201", "X-A%3A%202"), ("X-A", "X-B"), ("Date", "X-Date")]
        {
            assert!(!differ(&DIRECT.replace(from, to)).is_empty(), "{from} {to}");
        }
        assert!(!differ(&DIRECT.replace("%0A\t\t", "%0A\tx-sum%3A%205\t")).is_empty());
    }

    #[test]
    fn a_refusal_by_a_proxy_is_a_failure() {
        let refused = DIRECT.replace("X-A%3A%201", "X-Remora-Error%3A%20upstream_reset").replace("200", "502");
        assert_eq!(one(&refused).expect("an answer").1.failure().as_deref(), Some("502 upstream_reset"));
        assert_eq!(one(DIRECT).expect("an answer").1.failure(), None);
    }
}
