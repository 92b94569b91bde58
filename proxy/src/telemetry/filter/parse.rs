//! From the words of a filter to its tree.

use super::{
    Is, Node, Number, Op, Text,
    lex::{At, Token, tokens},
};
use crate::limits;

/// What is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, character {}: {what}", .at + 1)]
pub(crate) struct ParseError {
    /// Characters before it.
    pub at: usize,
    pub what: String,
}

const FIELDS: &str = "status, grpc, tries, at_ms, ms, before_ms, connect_ms, server_ms, after_ms, bytes_in, bytes_out, direction, \
                      parent, route, peer, tls, protocol, method, path, outcome, reason, fault, endpoint, trace, header.NAME; \
                      failed, retried and cancelled stand alone";

type Parsed<T> = Result<T, ParseError>;

struct Parser<'a> {
    tokens: Vec<At<'a>>,
    next: usize,
    /// Parentheses and `not`s around what is parsed now.
    depth: usize,
    end: usize,
}

/// The tree of a filter; none for an empty one.
pub(super) fn filter(text: &str) -> Parsed<Option<Node>> {
    // The parser counts bytes, people count characters.
    let characters =
        |error: ParseError| ParseError { at: text.get(..error.at).map_or(0, |before| before.chars().count()), ..error };
    tree(text).map_err(characters)
}

fn tree(text: &str) -> Parsed<Option<Node>> {
    if text.len() > limits::FILTER_BYTES_MAX {
        return Err(error(0, format!("it is longer than {} bytes", limits::FILTER_BYTES_MAX)));
    }
    let tokens = tokens(text).map_err(|at| error(at, "a quote that is not closed"))?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { tokens, next: 0, depth: 0, end: text.len() };
    let node = parser.any()?;
    match parser.tokens.get(parser.next) {
        None => Ok(Some(node)),
        Some((at, _)) => Err(error(*at, "expected `and`, `or` or the end")),
    }
}

fn error(at: usize, what: impl Into<String>) -> ParseError {
    ParseError { at, what: what.into() }
}

impl<'a> Parser<'a> {
    fn here(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn take(&mut self) -> Option<At<'a>> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.get(self.next), Some((_, Token::Word(is))) if is.eq_ignore_ascii_case(word));
        self.next += usize::from(is);
        is
    }

    fn any(&mut self) -> Parsed<Node> {
        let mut node = self.all()?;
        while self.word("or") {
            node = Node::Or(Box::new(node), Box::new(self.all()?));
        }
        Ok(node)
    }

    fn all(&mut self) -> Parsed<Node> {
        let mut node = self.one()?;
        while self.word("and") {
            node = Node::And(Box::new(node), Box::new(self.one()?));
        }
        Ok(node)
    }

    fn one(&mut self) -> Parsed<Node> {
        let at = self.here();
        if self.word("not") {
            return Ok(Node::Not(Box::new(self.inside(at, Self::one)?)));
        }
        match self.take() {
            Some((_, Token::Open)) => {
                let node = self.inside(at, Self::any)?;
                match self.take() {
                    Some((_, Token::Close)) => Ok(node),
                    _ => Err(error(at, "a parenthesis that is not closed")),
                }
            }
            Some((at, Token::Word(name))) => self.comparison(at, name),
            _ => Err(error(at, format!("expected a field: {FIELDS}"))),
        }
    }

    /// What is nested is bounded: it is walked by recursion.
    fn inside(&mut self, at: usize, parse: impl FnOnce(&mut Self) -> Parsed<Node>) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > limits::FILTER_DEPTH_MAX {
            return Err(error(at, format!("more than {} levels", limits::FILTER_DEPTH_MAX)));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn comparison(&mut self, at: usize, name: &str) -> Parsed<Node> {
        let alone = match name {
            "failed" => Some(Is::Failed),
            "retried" => Some(Is::Retried),
            "cancelled" => Some(Is::Cancelled),
            _ => None,
        };
        if let Some(is) = alone {
            return Ok(Node::Is(is));
        }
        let number = number(name);
        let text = if number.is_none() { text(name) } else { None };
        if number.is_none() && text.is_none() {
            return Err(error(at, format!("there is no field `{name}`; there are {FIELDS}")));
        }
        let op_at = self.here();
        let op = match self.take() {
            Some((_, Token::Op(op))) => op_of(op).ok_or_else(|| error(op_at, "expected = != < <= > >= or ~"))?,
            _ => return Err(error(op_at, format!("expected = != < <= > >= or ~ behind `{name}`"))),
        };
        let value_at = self.here();
        let value = match self.take() {
            Some((_, Token::Word(word))) => word.to_owned(),
            Some((_, Token::Quoted(value))) => value,
            _ => return Err(error(value_at, "expected a value; one with spaces or signs stands in double quotes")),
        };
        match (number, text) {
            (Some(number), _) => number_node(number, (op, op_at), (&value, value_at)),
            (None, Some(text)) => Ok(Node::Text(text, op, value)),
            (None, None) => Err(error(at, "no such field")),
        }
    }
}

fn number_node(number: Number, (op, op_at): (Op, usize), (value, at): (&str, usize)) -> Parsed<Node> {
    if op == Op::Contains {
        return Err(error(op_at, "~ compares text, and this is a number"));
    }
    if number == Number::Status
        && let Some(class @ b'1'..=b'5') = value.strip_suffix("xx").and_then(|class| class.bytes().next())
        && value.len() == 3
    {
        return Ok(Node::StatusClass(op, u16::from(class - b'0')));
    }
    match value.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Node::Number(number, op, value)),
        _ => Err(error(at, format!("`{value}` is not a number"))),
    }
}

fn op_of(text: &str) -> Option<Op> {
    Some(match text {
        "=" => Op::Equal,
        "!=" => Op::Unequal,
        "<" => Op::Less,
        "<=" => Op::AtMost,
        ">" => Op::More,
        ">=" => Op::AtLeast,
        "~" => Op::Contains,
        _ => return None,
    })
}

fn number(name: &str) -> Option<Number> {
    Some(match name {
        "status" => Number::Status,
        "grpc" => Number::Grpc,
        "tries" => Number::Tries,
        "at_ms" => Number::AtMs,
        "ms" => Number::Ms,
        "before_ms" => Number::BeforeMs,
        "connect_ms" => Number::ConnectMs,
        "server_ms" => Number::ServerMs,
        "after_ms" => Number::AfterMs,
        "bytes_in" => Number::BytesIn,
        "bytes_out" => Number::BytesOut,
        _ => return None,
    })
}

fn text(name: &str) -> Option<Text> {
    Some(match name {
        "direction" => Text::Direction,
        "parent" => Text::Parent,
        "route" => Text::Route,
        "peer" => Text::Peer,
        "tls" => Text::Tls,
        "protocol" => Text::Protocol,
        "method" => Text::Method,
        "path" => Text::Path,
        "outcome" => Text::Outcome,
        "reason" => Text::Reason,
        "fault" => Text::Fault,
        "endpoint" => Text::Endpoint,
        "trace" => Text::Trace,
        _ => {
            return name
                .strip_prefix("header.")
                .filter(|name| !name.is_empty())
                .map(|name| Text::Header(name.to_ascii_lowercase()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        filter(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, expected) in [
            ("stauts=500", "filter, character 1: there is no field `stauts`; there are status, "),
            ("status", "filter, character 7: expected = != < <= > >= or ~ behind `status`"),
            ("status=", "filter, character 8: expected a value"),
            ("status=abc", "filter, character 8: `abc` is not a number"),
            ("status=6xx", "filter, character 8: `6xx` is not a number"),
            ("ms=NaN", "filter, character 4: `NaN` is not a number"),
            ("ms~5", "filter, character 3: ~ compares text"),
            ("a=1", "filter, character 1: there is no field `a`"),
            ("failed failed", "filter, character 8: expected `and`, `or` or the end"),
            ("failed and", "filter, character 11: expected a field"),
            ("(failed", "filter, character 1: a parenthesis that is not closed"),
            ("path=\"/a", "filter, character 6: a quote that is not closed"),
            ("path!/a", "filter, character 5: expected = != < <= > >= or ~"),
            (")", "filter, character 1: expected a field"),
            ("header.=1", "filter, character 1: there is no field `header.`"),
            ("path=ä and ö=1", "filter, character 12: there is no field `ö`"),
        ] {
            let said = wrong(text);
            assert!(said.starts_with(expected), "{text}: {said}");
        }
    }

    #[test]
    fn a_filter_is_bounded_in_length_and_depth() {
        assert!(wrong(&"a".repeat(limits::FILTER_BYTES_MAX + 1)).contains("longer than"));
        let deep = |levels: usize| format!("{}failed{}", "(".repeat(levels), ")".repeat(levels));
        assert!(filter(&deep(limits::FILTER_DEPTH_MAX)).is_ok());
        assert!(wrong(&deep(limits::FILTER_DEPTH_MAX + 1)).contains("levels"));
        assert!(wrong(&"not ".repeat(100)).contains("levels"));
        // What is in a row is not nested, and is walked as deeply as it is long: its length is what bounds it.
        assert!(filter(&format!("failed{}", " or failed".repeat(80))).is_ok());
    }

    #[test]
    fn no_text_of_any_kind_makes_it_panic() {
        let mut random = fastrand::Rng::with_seed(11);
        let parts = [
            "status", "=", "!", "(", ")", "\"", "\\", "not", "and", "or", "5xx", "header.x", "~", " ", "ä", "<",
            "1e999",
        ];
        for _ in 0..20_000 {
            let text: String = (0..random.usize(0..12)).map(|_| parts[random.usize(0..parts.len())]).collect();
            drop(filter(&text));
        }
    }
}
