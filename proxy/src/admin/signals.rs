//! `/signals` as text, written row by row: of thousands of rows there is never more than one as a tree of values, which takes ten times the room of
//! its text and would stay with the allocator.
//!
//! In: the rows, and for a reader that has heard some of them already what it was [told](Told). Out: JSON.

use super::AdminState;
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

/// Lists of `/signals`, and the field that tells their rows apart.
pub(super) const LISTS: [(&str, &str); 4] = [("routes", "id"), ("edges", "id"), ("peers", "id"), ("backends", "name")];

/// A JSON object that is being written.
pub(super) struct Object {
    out: String,
}

impl Object {
    /// With these fields, and those to come.
    pub(super) fn new(fields: &Map<String, Value>) -> Self {
        let mut object = Self { out: "{".to_owned() };
        fields.iter().for_each(|(name, value)| object.field(name, value));
        object
    }

    pub(super) fn field(&mut self, name: &str, value: &Value) {
        self.name(name);
        self.out.push_str(&value.to_string());
    }

    /// A list of those rows that `takes` says, which is given each and its text.
    pub(super) fn list(
        &mut self,
        name: &str,
        rows: impl Iterator<Item = Value>,
        mut takes: impl FnMut(&Value, &str) -> bool,
    ) {
        self.name(name);
        self.out.push('[');
        let mut first = true;
        for row in rows {
            let text = row.to_string();
            if takes(&row, &text) {
                if !std::mem::take(&mut first) {
                    self.out.push(',');
                }
                self.out.push_str(&text);
            }
        }
        self.out.push(']');
    }

    pub(super) fn end(mut self) -> String {
        self.out.push('}');
        self.out
    }

    fn name(&mut self, name: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        self.out.push_str(&json!(name).to_string());
        self.out.push(':');
    }
}

/// What a reader was told of each row: not the row, but what tells it from another.
#[derive(Default)]
pub(super) struct Told {
    hasher: RandomState,
    steps: u64,
    rows: [HashMap<Box<str>, Row>; LISTS.len()],
}

struct Row {
    hash: u64,
    /// The step that it was there at.
    step: u64,
    /// What it is called when it is gone; none where that is its name alone.
    gone: Option<Box<str>>,
}

impl Told {
    /// Whether it was told nothing yet.
    pub(super) fn is_new(&self) -> bool {
        self.steps == 0
    }

    /// Whether the row is not what it was; it is told then.
    fn takes(&mut self, list: usize, row: &Value, text: &str) -> bool {
        let (hash, step) = (self.hasher.hash_one(text), self.steps);
        let name = row[LISTS[list].1].to_string();
        match self.rows[list].get_mut(name.as_str()) {
            Some(known) => {
                known.step = step;
                std::mem::replace(&mut known.hash, hash) != hash
            }
            None => {
                // What an edge is called by others: they need not keep its number.
                let gone = (LISTS[list].0 == "edges").then(|| {
                    let fields =
                        ["id", "route", "peer", "tls", "protocol"].map(|field| (field.to_owned(), row[field].clone()));
                    Value::Object(Map::from_iter(fields)).to_string().into()
                });
                self.rows[list].insert(name.into(), Row { hash, step, gone });
                true
            }
        }
    }

    /// Ends a step: what was there before and is not now, as JSON.
    fn step(&mut self) -> String {
        let mut gone = "{".to_owned();
        for ((list, _), rows) in LISTS.into_iter().zip(&mut self.rows) {
            gone.push_str(if gone.len() > 1 { ",\"" } else { "\"" });
            gone.push_str(list);
            gone.push_str("\":[");
            let mut first = true;
            rows.retain(|name, row| {
                let stays = row.step == self.steps;
                if !stays {
                    if !std::mem::take(&mut first) {
                        gone.push(',');
                    }
                    gone.push_str(row.gone.as_deref().unwrap_or(name));
                }
                stays
            });
            gone.push(']');
        }
        self.steps += 1;
        gone.push('}');
        gone
    }
}

/// Everything that `/signals` shows; with the latencies of each window where those are asked for. Of a reader that was told some of it already, the
/// rows that are not what they were, and what is gone.
pub(super) async fn text(state: &AdminState, histograms: bool, told: Option<&mut Told>) -> String {
    let (backends, silent) = state.inspect.backends().await;
    let signals = state.routes.signals();
    let mut head = signals.head();
    head.insert("discovery".to_owned(), (state.discovery)());
    let mut saturation = state.saturation.json();
    saturation.insert("workers_silent".to_owned(), json!(silent));
    head.insert("saturation".to_owned(), Value::Object(saturation));
    let lists: [&mut dyn Iterator<Item = Value>; LISTS.len()] = [
        &mut signals.routes(histograms),
        &mut signals.edges(),
        &mut signals.peers(histograms),
        &mut backends.iter().map(|backend| json!(backend)),
    ];
    write(&head, lists, told)
}

fn write(
    head: &Map<String, Value>,
    lists: [&mut dyn Iterator<Item = Value>; LISTS.len()],
    mut told: Option<&mut Told>,
) -> String {
    let mut object = Object::new(head);
    for (at, rows) in lists.into_iter().enumerate() {
        object.list(LISTS[at].0, rows, |row, text| told.as_mut().is_none_or(|told| told.takes(at, row, text)));
    }
    if let Some(told) = told {
        let new = told.is_new();
        let gone = told.step();
        if !new {
            object.name("gone");
            object.out.push_str(&gone);
        }
    }
    object.end()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn rows(signals: &Map<String, Value>, list: &str) -> impl Iterator<Item = Value> {
        signals.get(list).and_then(Value::as_array).cloned().unwrap_or_default().into_iter()
    }

    /// What a reader is told of these signals.
    fn tell(signals: &Map<String, Value>, told: &mut Told) -> Map<String, Value> {
        let mut head = signals.clone();
        head.retain(|name, _| LISTS.iter().all(|(list, _)| list != name));
        let [a, b, c, d] = LISTS.map(|(list, _)| rows(signals, list));
        let (mut a, mut b, mut c, mut d) = (a, b, c, d);
        serde_json::from_str(&write(&head, [&mut a, &mut b, &mut c, &mut d], Some(told))).unwrap()
    }

    fn name(row: &Value, field: &str) -> String {
        row[field].to_string()
    }

    fn signals(routes: Value) -> Map<String, Value> {
        Map::from_iter([("at_ms".to_owned(), json!(1)), ("routes".to_owned(), routes)])
    }

    #[test]
    fn a_change_has_the_rows_that_are_not_what_they_were_and_the_names_of_those_that_are_gone() {
        let told = &mut Told::default();
        let all = tell(&signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 1}, {"id": 3, "n": 1}])), told);
        assert_eq!((all["routes"].as_array().unwrap().len(), all.get("gone")), (3, None));
        let changed = tell(&signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 4, "n": 1}])), told);
        assert_eq!(changed["routes"], json!([{"id": 2, "n": 2}, {"id": 4, "n": 1}]));
        assert_eq!(changed["gone"]["routes"], json!([3]));
        let again = tell(&signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 4, "n": 1}])), told);
        assert_eq!((&again["routes"], &again["gone"]["routes"]), (&json!([]), &json!([])));
    }

    /// Rows with random names of few, each once.
    fn random(rng: &mut fastrand::Rng, at_ms: u64) -> Map<String, Value> {
        let mut signals = Map::from_iter([("at_ms".to_owned(), json!(at_ms))]);
        for (list, field) in LISTS {
            let mut rows = Vec::new();
            for number in 0..12_u32 {
                if rng.bool() {
                    let id = if field == "id" { json!(number) } else { json!(format!("shop/\"{number}\":80")) };
                    let n = rng.u32(..3);
                    rows.push(json!({ field: id, "n": n, "route": number + 100, "peer": number + 200, "tls": "mtls", "protocol": "grpc" }));
                }
            }
            rng.shuffle(&mut rows);
            signals.insert(list.to_owned(), Value::Array(rows));
        }
        signals
    }

    /// What a reader has made of the events until now.
    #[derive(Default)]
    pub(in crate::admin) struct Replayed(HashMap<&'static str, HashMap<String, Value>>);

    impl Replayed {
        pub(in crate::admin) fn take(&mut self, event: &Map<String, Value>) {
            for (list, field) in LISTS {
                let rows = self.0.entry(list).or_default();
                for row in event[list].as_array().unwrap() {
                    rows.insert(name(row, field), row.clone());
                }
                for gone in event.get("gone").map_or(&Vec::new(), |gone| gone[list].as_array().unwrap()) {
                    let gone = if list == "edges" { &gone["id"] } else { gone };
                    assert!(rows.remove(&gone.to_string()).is_some(), "{list}: {gone} was never there");
                }
            }
        }

        pub(in crate::admin) fn check(&self, signals: &Map<String, Value>) {
            for (list, field) in LISTS {
                let rows = signals[list].as_array().unwrap().iter();
                let there: HashMap<_, _> = rows.map(|row| (name(row, field), row.clone())).collect();
                assert_eq!(self.0[list], there, "{list}");
            }
        }
    }

    #[test]
    fn a_reader_that_misses_steps_has_the_present_rows_after_each_event_that_it_gets() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let first = random(&mut rng, 0);
            let (mut told, mut reader) = (Told::default(), Replayed::default());
            reader.take(&tell(&first, &mut told));
            reader.check(&first);
            for at_ms in 1..30 {
                let mut now = random(&mut rng, at_ms);
                // It was slow: the world went on meanwhile.
                for _ in 0..rng.u32(..3) {
                    now = random(&mut rng, at_ms);
                }
                let event = tell(&now, &mut told);
                assert_eq!(event["at_ms"], at_ms, "what is no list of rows is always there");
                for (list, field) in LISTS {
                    for row in event[list].as_array().unwrap() {
                        let known = reader.0[list].get(&name(row, field));
                        assert_ne!(known, Some(row), "a row that is what it was is not told again");
                    }
                }
                reader.take(&event);
                reader.check(&now);
            }
        }
    }

    #[test]
    fn an_edge_that_is_gone_is_told_by_what_it_is_between_and_one_that_returns_is_told_whole() {
        let edge = json!({"id": 7, "route": 1, "peer": 2, "tls": "mtls", "protocol": "http2", "requests": 9});
        let world = |edges: Value| Map::from_iter([("edges".to_owned(), edges)]);
        let told = &mut Told::default();
        tell(&world(json!([edge])), told);
        let gone = tell(&world(json!([])), told);
        let name = json!({"id": 7, "route": 1, "peer": 2, "tls": "mtls", "protocol": "http2"});
        assert_eq!((&gone["edges"], &gone["gone"]["edges"]), (&json!([]), &json!([name])));
        let again = tell(&world(json!([edge])), told);
        assert_eq!((&again["edges"], &again["gone"]["edges"]), (&json!([edge]), &json!([])));
    }

    #[test]
    fn an_object_without_fields_or_rows_is_json_as_well() {
        let mut object = Object::new(&Map::new());
        object.list("a\"b", std::iter::empty(), |_, _| true);
        object.field("c", &json!(1));
        assert_eq!(object.end(), r#"{"a\"b":[],"c":1}"#);
        assert_eq!(Object::new(&Map::new()).end(), "{}");
    }
}
