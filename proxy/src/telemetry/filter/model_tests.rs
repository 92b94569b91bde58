//! Random filters at random records, against an interpreter that knows neither the words nor the tree of the real one.

use super::{
    super::{Direction, Fault, Proto, Reason, Tls, record::Times, record::Told},
    *,
};
use crate::limits;
use std::collections::BTreeMap;

/// What a record says under each name; what it does not say is not there.
type Facts = BTreeMap<String, Fact>;

enum Fact {
    Number(f64),
    Text(String),
}

enum Tree {
    Alone(&'static str),
    Compare(&'static str, &'static str, String),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

const OPS: [&str; 7] = ["=", "!=", "<", "<=", ">", ">=", "~"];
const NUMBERS: [&str; 11] = [
    "status",
    "grpc",
    "tries",
    "at_ms",
    "ms",
    "before_ms",
    "connect_ms",
    "server_ms",
    "after_ms",
    "bytes_in",
    "bytes_out",
];
const TEXTS: [&str; 15] = [
    "direction",
    "parent",
    "route",
    "peer",
    "tls",
    "protocol",
    "method",
    "path",
    "outcome",
    "reason",
    "fault",
    "endpoint",
    "trace",
    "header.X-A",
    "header.traceparent",
];
const VALUES: [&str; 9] =
    ["", "a", "shop/api:80", "GET /a/:id", "say \"hi\" \\ (or)", "ä<ö", "and", "Z", "a=b and not c"];
const PEERS: [&str; 5] =
    ["", "several", "spiffe://one/ns/shop/sa/web", "spiffe://two/ns/shop/sa/web", "spiffe://one/ns/shop/sa/we"];
const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const COUNTS: [u16; 9] = [0, 1, 2, 7, 14, 200, 404, 503, 1009];

fn any<T: Copy>(random: &mut fastrand::Rng, of: &[T]) -> T {
    of[random.usize(..of.len())]
}

fn maybe<T>(random: &mut fastrand::Rng, value: T) -> Option<T> {
    (random.u8(..4) > 0).then_some(value)
}

fn record(random: &mut fastrand::Rng) -> (RouteKey, Entry, u64) {
    let time = |random: &mut fastrand::Rng| Duration::from_micros(500) * 2 * u32::from(any(random, &COUNTS));
    let key = RouteKey {
        direction: any(random, &[Direction::Inbound, Direction::Outbound]),
        parent: any(random, &VALUES).into(),
        route: any(random, &VALUES).into(),
        peer: any(random, &PEERS).into(),
        tls: any(random, &[Tls::Mtls, Tls::Plain, Tls::Passthrough, Tls::Mixed]),
        protocol: any(random, &[Proto::Http1, Proto::Http2, Proto::Grpc, Proto::Tcp]),
    };
    let mut fields = Vec::new();
    for (name, value) in [
        ("x-a", any(random, &VALUES).to_owned()),
        ("x-a", any(random, &VALUES).to_owned()),
        (":peer", any(random, &PEERS).to_owned()),
        ("traceparent", format!("00-{}-00f067aa0ba902b7-01", any(random, &[ID, "0000", "", &ID.to_uppercase()]))),
    ] {
        fields.extend(random.bool().then(|| (name.to_owned(), value)));
    }
    let status = any(random, &[200, 404, 503]);
    let code = any(random, &[0, 2, 14]);
    let reason = any(random, Reason::ALL);
    let fault = any(random, &Fault::ALL);
    let endpoint = any(random, &["10.1.2.3:8080", "[2001:db8::7]:443"]).parse().unwrap();
    let entry = Entry {
        series: 1,
        refused: false,
        ended: Duration::ZERO,
        latency: time(random),
        times: Times { before: time(random), connect: time(random), server: time(random), after: time(random) },
        bytes_in: any(random, &COUNTS).into(),
        bytes_out: any(random, &COUNTS).into(),
        status: maybe(random, status),
        grpc: maybe(random, code),
        outcome: any(random, &[Outcome::Success, Outcome::Failure, Outcome::ServerError, Outcome::Cancelled]),
        reason: maybe(random, reason),
        fault: maybe(random, fault),
        tries: any(random, &[0, 1, 2, 7]),
        endpoint: maybe(random, endpoint),
        span: None,
        head: Told { method: any(random, &VALUES).to_owned(), path: any(random, &VALUES).to_owned(), fields },
    };
    (key, entry, any(random, &[0, 7, 1_790_000_000_123]))
}

fn facts((key, entry, at_ms): &(RouteKey, Entry, u64)) -> Facts {
    let mut facts = Facts::new();
    let ms = |time: Duration| Some(time.as_nanos() as f64 / 1e6);
    let numbers = [
        ("status", entry.status.map(f64::from)),
        ("grpc", entry.grpc.map(f64::from)),
        ("tries", Some(f64::from(entry.tries))),
        ("at_ms", Some(*at_ms as f64)),
        ("ms", ms(entry.latency)),
        ("before_ms", ms(entry.times.before)),
        ("connect_ms", ms(entry.times.connect)),
        ("server_ms", ms(entry.times.server)),
        ("after_ms", ms(entry.times.after)),
        ("bytes_in", Some(entry.bytes_in as f64)),
        ("bytes_out", Some(entry.bytes_out as f64)),
    ];
    facts.extend(numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Fact::Number(value?)))));
    let mut say = |name: &str, value: &str| facts.insert(name.to_owned(), Fact::Text(value.to_owned()));
    say("direction", key.direction.as_str());
    say("parent", &key.parent);
    say("route", &key.route);
    say("peer", &key.peer);
    say("tls", key.tls.as_str());
    say("protocol", key.protocol.as_str());
    say("method", &entry.head.method);
    say("path", &entry.head.path);
    say("outcome", entry.outcome.as_str());
    entry.reason.map(|reason| say("reason", reason.as_str()));
    entry.fault.map(|fault| say("fault", fault.as_str()));
    entry.endpoint.map(|endpoint| say("endpoint", &endpoint.to_string()));
    // Of several of a name, the first.
    for (name, value) in entry.head.fields.iter().rev() {
        say(&format!("header.{name}"), value);
        if name == ":peer" {
            say("peer", value);
        }
        if value.contains(ID) && name == "traceparent" {
            say("trace", ID);
        }
    }
    facts
}

fn holds(tree: &Tree, facts: &Facts) -> bool {
    let says = |name: &str, value: &str| matches!(&facts[name], Fact::Text(text) if text == value);
    match tree {
        Tree::Alone("failed") => says("outcome", "failure") || says("outcome", "server_error"),
        Tree::Alone("cancelled") => says("outcome", "cancelled"),
        Tree::Alone(_) => matches!(facts["tries"], Fact::Number(tries) if tries > 1.0),
        Tree::Not(inner) => !holds(inner, facts),
        Tree::All(parts) => parts.iter().all(|part| holds(part, facts)),
        Tree::Any(parts) => parts.iter().any(|part| holds(part, facts)),
        Tree::Compare(name, op, value) => match facts.get(&name.to_lowercase()) {
            None => false,
            Some(Fact::Number(number)) => match value.strip_suffix("xx") {
                Some(class) => number_is((number / 100.0).floor(), op, class.parse().unwrap()),
                None => number_is(*number, op, value.parse().unwrap()),
            },
            Some(Fact::Text(text)) => text_is(name, text, op, value),
        },
    }
}

fn number_is(number: f64, op: &str, value: f64) -> bool {
    match op {
        "=" => number == value,
        "!=" => number != value,
        "<" => number < value,
        "<=" => number <= value,
        ">" => number > value,
        _ => number >= value,
    }
}

fn text_is(name: &str, text: &str, op: &str, value: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let account = match parts[..] {
        ["spiffe:", "", _, "ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => String::new(),
    };
    let by_account = name == "peer" && !value.is_empty() && !value.starts_with("spiffe://");
    let equal = if by_account { account == value } else { text == value };
    match op {
        "=" => equal,
        "!=" => !equal,
        "~" => text.contains(value),
        "<" => text.as_bytes() < value.as_bytes(),
        "<=" => text.as_bytes() <= value.as_bytes(),
        ">" => text.as_bytes() > value.as_bytes(),
        _ => text.as_bytes() >= value.as_bytes(),
    }
}

fn tree(random: &mut fastrand::Rng, depth: u8) -> Tree {
    if depth > 0 && random.u8(..3) > 0 {
        let mut parts: Vec<_> = (0..random.u8(2..=3)).map(|_| tree(random, depth - 1)).collect();
        return match random.u8(..5) {
            0 => Tree::Not(parts.remove(0).into()),
            1 | 2 => Tree::All(parts),
            _ => Tree::Any(parts),
        };
    }
    if random.u8(..6) == 0 {
        return Tree::Alone(any(random, &["failed", "retried", "cancelled"]));
    }
    if random.bool() {
        let name = any(random, &NUMBERS);
        let value = any(random, &["0", "1", "2.0", "+7", "14", "200", "250.5", "404", "503", "-1", "1e3", "1009"]);
        let value = if name == "status" && random.bool() { any(random, &["2xx", "4xx", "5xx"]) } else { value };
        return Tree::Compare(name, any(random, &OPS[..6]), value.to_owned());
    }
    let name = any(random, &TEXTS);
    let value = match name {
        "direction" => any(random, &["inbound", "outbound", "in"]),
        "peer" => any(random, &["shop/web", "shop/we", "shop", "several", PEERS[0], PEERS[2], PEERS[3]]),
        "tls" => any(random, &["mtls", "plain", "mixed", "m"]),
        "protocol" => any(random, &["http1", "grpc", "http"]),
        "outcome" => any(random, &["success", "failure", "cancelled", "er"]),
        "reason" => any(random, Reason::ALL).as_str(),
        "fault" => any(random, &Fault::ALL).as_str(),
        "endpoint" => any(random, &["10.1.2.3:8080", "[2001:db8::7]:443", ":"]),
        "trace" | "header.traceparent" => any(random, &[ID, "0", "00-4bf9"]),
        _ => any(random, &VALUES),
    };
    Tree::Compare(name, any(random, &OPS), value.to_owned())
}

/// In quotes where it has to be, and often where it need not.
fn value_token(random: &mut fastrand::Rng, value: &str) -> String {
    let plain = !value.is_empty() && !value.contains([' ', '(', ')', '"', '=', '~', '<', '>', '!']);
    if plain && random.bool() {
        return value.to_owned();
    }
    let escaped = |char: char| {
        let must = matches!(char, '"' | '\\');
        if must || random.u8(..9) == 0 { format!("\\{char}") } else { char.to_string() }
    };
    format!("\"{}\"", value.chars().map(escaped).collect::<String>())
}

/// The words of a filter that says `tree`, with parentheses where `around` binds more strongly, and some elsewhere.
fn words(random: &mut fastrand::Rng, tree: &Tree, around: u8, out: &mut Vec<String>) {
    let binds = match tree {
        Tree::Any(_) => 0,
        Tree::All(_) => 1,
        _ => 2,
    };
    let enclosed = binds < around || random.u8(..9) == 0;
    out.extend(enclosed.then(|| "(".to_owned()));
    match tree {
        Tree::Alone(word) => out.push((*word).to_owned()),
        Tree::Compare(name, op, value) => {
            let value = value_token(random, value);
            out.extend([(*name).to_owned(), (*op).to_owned(), value]);
        }
        Tree::Not(inner) => {
            out.push(any(random, &["not", "NOT"]).to_owned());
            words(random, inner, 2, out);
        }
        Tree::All(parts) | Tree::Any(parts) => {
            let between = if binds == 1 { ["and", "AND", "And"] } else { ["or", "OR", "oR"] };
            for (at, part) in parts.iter().enumerate() {
                out.extend((at > 0).then(|| any(random, &between).to_owned()));
                words(random, part, binds + 1, out);
            }
        }
    }
    out.extend(enclosed.then(|| ")".to_owned()));
}

/// With spaces where they have to be, and some elsewhere.
fn text(random: &mut fastrand::Rng, words: &[String]) -> String {
    let signs = |word: &String| word.starts_with(['(', ')', '"', '=', '~', '<', '>', '!']);
    let mut text = String::new();
    for (at, word) in words.iter().enumerate() {
        let apart = at > 0 && !signs(word) && !signs(&words[at - 1]);
        if apart || random.u8(..4) == 0 {
            text.push_str(any(random, &[" ", "\t", " \n ", "\r\n"]));
        }
        text.push_str(word);
    }
    text
}

#[test]
fn a_filter_takes_what_an_interpreter_of_its_meaning_takes() {
    let mut random = fastrand::Rng::with_seed(41);
    let records: Vec<_> = (0..400).map(|_| record(&mut random)).collect();
    let facts: Vec<_> = records.iter().map(facts).collect();
    let (mut cases, mut taken) = (0, 0);
    for _ in 0..5000 {
        let (tree, mut of) = (tree(&mut random, 3), Vec::new());
        words(&mut random, &tree, 0, &mut of);
        let text = text(&mut random, &of);
        if text.len() > limits::FILTER_BYTES_MAX {
            continue;
        }
        let filter = Filter::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for _ in 0..6 {
            let at = random.usize(..records.len());
            let (key, entry, at_ms) = &records[at];
            let takes = filter.takes(key, entry, *at_ms);
            assert_eq!(takes, holds(&tree, &facts[at]), "{text}\n{key:?}\n{entry:?}\n{at_ms}");
            (cases, taken) = (cases + 1, taken + u32::from(takes));
        }
    }
    assert!(cases > 20_000 && taken > cases / 4 && taken < cases * 3 / 4, "{taken} of {cases} say little");
}

#[test]
fn a_filter_that_lacks_any_one_of_its_words_but_a_not_is_refused() {
    let mut random = fastrand::Rng::with_seed(42);
    let mut refused = 0;
    for _ in 0..1000 {
        let (tree, mut of) = (tree(&mut random, 2), Vec::new());
        words(&mut random, &tree, 0, &mut of);
        let lacks = random.usize(..of.len());
        if of.len() == 1 || of[lacks].eq_ignore_ascii_case("not") {
            continue;
        }
        of.remove(lacks);
        let text = of.join(" ");
        if text.len() <= limits::FILTER_BYTES_MAX {
            let error = Filter::parse(&text).expect_err(&text);
            assert!(error.at <= text.chars().count(), "{text}: {error}");
            refused += 1;
        }
    }
    assert!(refused > 700, "{refused}");
}

#[test]
fn each_field_stands_to_less_same_and_more_as_each_operator_says() {
    let mut random = fastrand::Rng::with_seed(43);
    let records: Vec<_> = (0..200).map(|_| record(&mut random)).collect();
    let mut seen = BTreeMap::new();
    for of in &records {
        let takes = |text: &str| Filter::parse(text).unwrap().takes(&of.0, &of.1, of.2);
        for (name, fact) in facts(of) {
            let (less, same, more) = match &fact {
                Fact::Number(number) => (format!("{}", number - 0.5), number.to_string(), format!("{}", number + 0.5)),
                Fact::Text(text) if text.is_empty() => continue,
                Fact::Text(text) => {
                    let less: String = text.chars().take(text.chars().count() - 1).collect();
                    (less, text.clone(), format!("{text}a"))
                }
            };
            if name == "peer" && !(same.starts_with("spiffe://") && less.starts_with("spiffe://")) {
                continue;
            }
            for (op, expected) in [
                ("=", [false, true, false]),
                ("!=", [true, false, true]),
                ("<", [false, false, true]),
                ("<=", [false, true, true]),
                (">", [true, false, false]),
                (">=", [true, true, false]),
                ("~", [true, true, false]),
            ] {
                if op == "~" && matches!(fact, Fact::Number(_)) {
                    assert!(Filter::parse(&format!("{name}~{same}")).is_err());
                    continue;
                }
                let found = [&less, &same, &more]
                    .map(|value| takes(&format!("{name}{op}\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))));
                assert_eq!(found, expected, "{name} is {same}, {op}");
            }
            *seen.entry(name).or_insert(0) += 1;
        }
    }
    for name in NUMBERS.iter().chain(&TEXTS) {
        assert!(seen.get(&name.to_lowercase()).is_some_and(|times| *times > 10), "{name}: {seen:?}");
    }
}

#[test]
fn what_a_record_does_not_say_is_taken_by_no_comparison_and_by_the_denial_of_each() {
    let mut random = fastrand::Rng::with_seed(44);
    let (key, mut entry, at_ms) = record(&mut random);
    (entry.status, entry.grpc, entry.reason, entry.fault, entry.endpoint) = (None, None, None, None, None);
    entry.head.fields.clear();
    for name in ["status", "grpc", "reason", "fault", "endpoint", "trace", "header.x-a"] {
        let ops = if ["status", "grpc"].contains(&name) { &OPS[..6] } else { &OPS };
        for op in ops {
            let takes = |text: String| Filter::parse(&text).unwrap().takes(&key, &entry, at_ms);
            assert!(!takes(format!("{name}{op}0")) && takes(format!("not {name}{op}0")), "{name}{op}");
        }
    }
    let class = Filter::parse("status!=5xx or status<9 or status>=1xx").unwrap();
    assert!(!class.takes(&key, &entry, at_ms));
}

#[test]
fn a_time_of_whole_milliseconds_equals_its_number() {
    let (key, mut entry, at_ms) = record(&mut fastrand::Rng::with_seed(45));
    for ms in (0..70_000).step_by(7) {
        entry.latency = Duration::from_millis(ms);
        let filter = Filter::parse(&format!("ms={ms} and ms<={ms} and not ms>{ms}")).unwrap();
        assert!(filter.takes(&key, &entry, at_ms), "{ms}");
    }
}

#[test]
fn denials_of_a_denial_take_turns_as_deep_as_a_filter_goes() {
    let (key, mut entry, at_ms) = record(&mut fastrand::Rng::with_seed(46));
    entry.tries = 2;
    for levels in 0..=limits::FILTER_DEPTH_MAX {
        for text in [format!("{}retried", "not ".repeat(levels)), format!("{}tries=2 and ms>=0", "NOT ".repeat(levels))]
        {
            assert_eq!(Filter::parse(&text).unwrap().takes(&key, &entry, at_ms), levels % 2 == 0, "{text}");
        }
    }
}
