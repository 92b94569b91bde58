use super::*;
use serde_json::json;

/// The only document of `text`, without lines.
fn one(text: &str) -> Json {
    let mut all = read(text);
    assert_eq!(all.len(), 1, "{text}: {all:?}");
    all.remove(0).unwrap_or_else(|mistake| panic!("{text}: {mistake}")).into_json()
}

fn mistake(text: &str) -> Mistake {
    read(text).into_iter().find_map(Result::err).unwrap_or_else(|| panic!("{text} is taken"))
}

/// What `kubectl` 1.35 reads (apimachinery 0.35.4 over `go.yaml.in/yaml/v2` 2.4): every form that YAML 1.1 and 1.2, or two
/// readers, take for different things.
const PLAIN: [(&str, &str); 96] = [
    // Octal, hexadecimal, binary; what only begins like them.
    ("0400", "256"),
    ("0644", "420"),
    ("01750", "1000"),
    ("-010", "-8"),
    ("+010", "8"),
    ("00", "0"),
    ("-0", "0"),
    ("0o400", "256"),
    ("0O17", "15"),
    ("0x1F", "31"),
    ("0XfF", "255"),
    ("-0x1f", "-31"),
    ("0b101", "5"),
    ("0B11", "3"),
    ("-0b11", "-3"),
    ("0b-101", "-5"),
    ("0b+1", "1"),
    ("08", "8"),
    ("0900", "900"),
    ("-08", "-8"),
    ("09.5", "9.5"),
    ("0_400", "256"),
    ("0o8", r#""0o8""#),
    ("0x", r#""0x""#),
    ("0xg", r#""0xg""#),
    ("0b2", r#""0b2""#),
    ("0x1.8p1", r#""0x1.8p1""#),
    // Underscores.
    ("1_000", "1000"),
    ("1__0", "10"),
    ("1_", "1"),
    ("_1", r#""_1""#),
    ("1_000.5", "1000.5"),
    ("0x_ff", "255"),
    ("+1_2", "12"),
    (".5_5", "0.55"),
    ("._5", r#""._5""#),
    (".5_", r#"".5_""#),
    // Floats; integral ones are integers in JSON.
    ("1.5", "1.5"),
    ("1.", "1"),
    (".5", "0.5"),
    ("+.5", "0.5"),
    ("-.5", "-0.5"),
    ("1e3", "1000"),
    ("1E+3", "1000"),
    ("1e-3", "0.001"),
    ("1.0", "1"),
    ("2102.0", "2102"),
    ("1493e89", "1.493e92"),
    ("1e999", r#""1e999""#),
    ("1e", r#""1e""#),
    ("1.2.3", r#""1.2.3""#),
    ("-a", r#""-a""#),
    (".", r#"".""#),
    ("..", r#""..""#),
    ("1e3.5", r#""1e3.5""#),
    ("e3", r#""e3""#),
    ("+", r#""+""#),
    ("9223372036854775807", "9223372036854775807"),
    ("18446744073709551615", "18446744073709551615"),
    ("-9223372036854775808", "-9223372036854775808"),
    ("18446744073709551616", "1.8446744073709552e19"),
    ("0777777777777777777777777", "7.777777777777778e23"),
    ("1e20", "1e20"),
    // Words.
    ("y", "true"),
    ("Y", "true"),
    ("yes", "true"),
    ("Yes", "true"),
    ("YES", "true"),
    ("yEs", r#""yEs""#),
    ("on", "true"),
    ("oN", r#""oN""#),
    ("true", "true"),
    ("tRUE", r#""tRUE""#),
    ("n", "false"),
    ("no", "false"),
    ("off", "false"),
    ("OFF", "false"),
    ("False", "false"),
    ("null", "null"),
    ("~", "null"),
    ("NULL", "null"),
    ("nUll", r#""nUll""#),
    ("nil", r#""nil""#),
    ("None", r#""None""#),
    // Numbers to the base 60, dates, and other text.
    ("12:30:45", r#""12:30:45""#),
    ("190:20:30.15", r#""190:20:30.15""#),
    ("2001-01-01", r#""2001-01-01""#),
    ("2001-12-14t21:59:43.10-05:00", r#""2001-12-14t21:59:43.10-05:00""#),
    ("10.0.0.0/16", r#""10.0.0.0/16""#),
    ("=", r#""=""#),
    ("0.1.0", r#""0.1.0""#),
    ("1,000", r#""1,000""#),
    ("0400m", r#""0400m""#),
    ("inf", r#""inf""#),
    ("NaN", r#""NaN""#),
    ("0777a", r#""0777a""#),
];

#[test]
fn plain_scalars_are_what_kubectl_reads() {
    for (text, expected) in PLAIN {
        let expected: Json = serde_json::from_str(expected).unwrap();
        assert_eq!(one(&format!("a: {text}")), json!({ "a": expected }), "{text}");
        if !text.contains(',') {
            assert_eq!(one(&format!("a: [{text}, x]"))["a"][0], expected, "{text} in a list");
        }
    }
}

#[test]
fn quotes_blocks_and_tags_say_what_it_is() {
    for (text, _) in PLAIN {
        for quoted in
            [format!("a: '{text}'"), format!("a: \"{text}\""), format!("a: !!str {text}"), format!("a: |-\n  {text}")]
        {
            assert_eq!(one(&quoted), json!({ "a": text }), "{quoted}");
        }
    }
    for (text, expected) in [
        ("!!int '0400'", json!(256)),
        ("!!float 1", json!(1)),
        ("!!bool 'yes'", json!(true)),
        ("!!null ''", json!(null)),
        ("!mine 0400", json!("0400")),
        ("! 0400", json!(256)),
        ("!!timestamp 2001-01-01", json!("2001-01-01")),
    ] {
        assert_eq!(one(&format!("a: {text}")), json!({ "a": expected }), "{text}");
    }
    for text in ["!!int a", "!!int 1.5", "!!bool 1", "!!null a", "!!binary aGk=", ".nan", "-.Inf", "+.INF"] {
        assert_eq!(mistake(&format!("b: 1\na: {text}")).line, 2, "{text}");
    }
}

#[test]
fn keys_are_read_as_scalars_are_and_written_as_text() {
    for (text, expected) in [
        ("0400", "256"),
        ("yes", "true"),
        ("y", "true"),
        ("No", "false"),
        ("1.5", "1.5"),
        ("1e3", "1000"),
        ("1e6", "1e+06"),
        ("1.0e-5", "1e-05"),
        ("1234567.5", "1.2345675e+06"),
        ("'0400'", "0400"),
        ("\"y\"", "y"),
        ("!!str 1", "1"),
        ("a b", "a b"),
        ("1_0", "10"),
    ] {
        assert_eq!(one(&format!("{text}: x")), json!({ expected: "x" }), "{text}");
    }
    for text in ["~: x", "null: x", "? [a]\n: x", "18446744073709551615: x", "? {a: b}\n: x"] {
        assert_eq!(mistake(text).line, 1, "{text}");
    }
}

#[test]
fn two_equal_keys_are_a_mistake_however_they_are_written() {
    for text in ["a: 1\nb: 2\na: 3", "8: 1\nb: 2\n010: 3", "yes: 1\nb: 2\n'true': 3"] {
        let wrong = mistake(text);
        assert_eq!((wrong.line, wrong.problem.contains("twice, first in line 1")), (3, true), "{text}: {wrong}");
    }
}

#[test]
fn anchors_and_merge_keys_stand_for_what_they_name() {
    let text = "a: &a {x: 0400, y: 1}\nb: *a\nc: {<<: *a, x: 2}\nd: {<<: [{x: 5}, *a]}\ne: {x: 9, <<: *a}";
    let a = json!({ "x": 256, "true": 1 });
    assert_eq!(
        one(text),
        json!({ "a": a, "b": a, "c": {"x": 2, "true": 1}, "d": {"x": 5, "true": 1}, "e": {"x": 256, "true": 1} })
    );
    assert_eq!(one("a: {'<<': 1}"), json!({ "a": { "<<": 1 } }));
    for text in ["a: &a [*a]", "a: *b", "a: {<<: 1}", "a: {<<: [1]}"] {
        assert_eq!(mistake(text).line, 1, "{text}");
    }
}

#[test]
fn aliases_cost_what_they_stand_for() {
    use std::fmt::Write as _;
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{before}]").unwrap();
    }
    let wrong = mistake(&text);
    assert!(wrong.problem.contains(&NODES_MAX.to_string()), "{wrong}");
    let deep = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&deep(DEPTH_MAX - 1))[0].is_ok());
    assert!(mistake(&deep(DEPTH_MAX)).problem.contains(&DEPTH_MAX.to_string()));
    // Neither do aliases go deeper.
    let half = "[".repeat(DEPTH_MAX / 2 + 1) + &"]".repeat(DEPTH_MAX / 2 + 1);
    let joined = format!("a: &a {half}\nb: {}*a{}", "[".repeat(DEPTH_MAX / 2), "]".repeat(DEPTH_MAX / 2));
    assert!(mistake(&joined).problem.contains(&DEPTH_MAX.to_string()));
}

#[test]
fn aliases_cost_the_text_that_they_stand_for() {
    let aliases =
        |bytes: usize, times: usize| format!("a: &a {}\nb: [{}]", "x".repeat(bytes), vec!["*a"; times].join(", "));
    let mebibyte = 1 << 20;
    assert!(read(&aliases(mebibyte, 15))[0].is_ok(), "and the anchor's own copy");
    let wrong = mistake(&aliases(mebibyte, 16));
    assert!(wrong.line == 2 && wrong.problem.contains(&ALIASED_BYTES_MAX.to_string()), "{wrong}");
    // Keys too, and anchors within anchors, of each of which a copy is kept.
    let key = "x".repeat(mebibyte);
    for text in [
        format!("? &a {key}\n: [{}]", vec!["*a"; 16].join(", ")),
        format!("a: &a {{? {key}\n : 1}}\nb: [{}]", vec!["*a"; 16].join(", ")),
    ] {
        assert!(mistake(&text).problem.contains(&ALIASED_BYTES_MAX.to_string()));
    }
    let nested: String = (0..17).map(|level| format!("&a{level} [")).collect();
    assert!(mistake(&format!("{nested}{key}{}", "]".repeat(17))).problem.contains(&ALIASED_BYTES_MAX.to_string()));
}

#[test]
fn documents_have_their_lines_and_a_broken_one_spoils_no_other() {
    let text = "# head\n---\nkind: A\n--- # more\n%\nkind: [\n---\n\n---\nkind: B\n...\n---\nfoo: 010\n";
    let all = read(text);
    let lines: Vec<_> = all.iter().map(|it| it.as_ref().map_or_else(|wrong| wrong.line, |node| node.line)).collect();
    assert_eq!((all.len(), lines[0], all[1].is_err(), lines[2], lines[3]), (4, 3, true, 10, 13), "{all:?}");
    assert_eq!(read("\u{feff}kind: A\r\n---\r\nkind: B\r\n").len(), 2);
    assert_eq!(read("a: |\n  text\n  ---\n  more\n---\nb: 1").len(), 2);
    assert!(read("---\n---\n# nothing\n").is_empty() && read("").is_empty());
    assert_eq!(mistake("a: 1\n--- {kind: Pod}\nb: 1").line, 2, "kubectl drops it, or refuses it");
}

#[test]
fn json_that_is_no_yaml_is_read_too() {
    let text = "{\n\t\"a\": \"\\ud83d\\ude00\\/\",\n\t\"b\": 1e3\n}\n{\"c\": 1}\n";
    let all: Vec<Json> = read(text).into_iter().map(|it| it.unwrap().into_json()).collect();
    assert_eq!(all, [json!({"a": "😀/", "b": 1000}), json!({"c": 1})]);
    assert_eq!(one("{\"a\": 1}\nnull\n"), json!({"a": 1}), "null is no document here either");
}

#[test]
fn json_has_the_bounds_of_yaml_and_no_key_twice() {
    // An object that follows another makes it no YAML.
    for (text, line) in [
        (r#"{"a": 1, "a": 2}"#, 1),
        ("{\"b\": 1}\n\n{\n\t\"a\": 1,\n\t\"a\": 2\n}", 5),
        ("---\n{}\n{\n\"b\": [{\"a\": 1, \"a\": 2}]\n}", 4),
    ] {
        let wrong = mistake(text);
        assert!(wrong.line == line && wrong.problem.contains("the key \"a\" is there twice"), "{text}: {wrong}");
    }
    let all = read("{\"c\": 1} {\"a\": 1, \"a\": 2}");
    assert!(all.len() == 2 && all[0].is_ok() && all[1].is_err(), "what comes before it stands: {all:?}");
    let many = format!("{{}} {{\"a\": [{}1]}}", "1,".repeat(NODES_MAX));
    assert!(mistake(&many).problem.contains(&NODES_MAX.to_string()));
    assert!(mistake("{} {\"a\": nope}").problem.contains("no YAML"));
}

/// Text that some reader takes for something else without quotes, or that ends its line, its block or its value.
const TEXTS: [&str; 34] = [
    "",
    " ",
    "a ",
    " a",
    "a: b",
    "a #b",
    "a:",
    "- a",
    "?",
    "!a",
    "&a",
    "*a",
    "%a",
    "@a",
    "`a",
    "{a}",
    "[a]",
    "\"",
    "'",
    "\\",
    "<<",
    "a\nb",
    "a\nb\n",
    "a\n\nb\n\n",
    "\na",
    " a\nb",
    "a\n b\n",
    "a \nb",
    "a\tb",
    "a\r\nb",
    "\u{2028}a\u{85}",
    "\0\u{7f}\u{feff}",
    "é😀\u{fffe}",
    "---",
];

#[test]
fn what_is_written_is_read_as_it_was() {
    let words: Vec<&str> = PLAIN.iter().map(|(text, _)| *text).chain(TEXTS).collect();
    let long = "k".repeat(2000);
    let keys: serde_json::Map<_, _> =
        words.iter().chain([&&*long]).map(|word| ((*word).to_owned(), json!(1))).collect();
    let value = json!({
        "list": words, "nested": [[words, []], [[{}]], {"a": [1]}], "keys": keys, "in": {"block": {"text": "a\n  b\nc"}},
        "numbers": [0, -1, u64::MAX, i64::MIN, 0.1, 1e-7, 1.5e300, -2.5], "other": [null, true, false, {}, []],
    });
    let text = write(&value);
    assert_eq!(one(&text), value, "{text}");
    for word in words {
        assert_eq!(one(&format!("a: {}", write(&json!([word])).trim_start_matches("- "))), json!({ "a": word }));
    }
}

#[test]
fn every_integral_float_is_written_as_kubernetes_takes_it() {
    assert_eq!(write(&one("runAsUser: 2.102e3")), "runAsUser: 2102\n");
}
