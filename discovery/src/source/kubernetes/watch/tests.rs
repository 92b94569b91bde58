use super::*;
use crate::objects::{core::Service, policy::BackendPolicy};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

/// What an API server answers, in this order; and what it was asked. It is silent when it has no answer left.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    /// The queries of what was asked.
    asked: Vec<String>,
}

type Answer = (StatusCode, String);

impl Server {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self(Arc::new(Mutex::new(Script { answers: answers.into_iter().collect(), asked: Vec::new() })))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut server = server.0.lock().unwrap();
            server.asked.push(request.uri().query().unwrap_or_default().to_owned());
            let answer = server.answers.pop_front();
            async move {
                let Some((code, text)) = answer else { return std::future::pending().await };
                Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(text.into_bytes())).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }
}

fn service(name: &str, version: u32) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop", "resourceVersion": version.to_string() }, "spec": {} })
}

/// A watch that says this and ends.
fn events(all: &[(&str, Value)]) -> Answer {
    let line = |(kind, object): &(&str, Value)| format!("{}\n", json!({ "type": kind, "object": object }));
    (StatusCode::OK, all.iter().map(line).collect())
}

fn bookmark(version: u32, ends_list: bool) -> (&'static str, Value) {
    let annotations = if ends_list { json!({ LIST_END: "true" }) } else { json!({}) };
    let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
    ("BOOKMARK", json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata }))
}

fn list(version: u32, items: Vec<Value>, more: &str) -> Answer {
    let metadata = json!({ "resourceVersion": version.to_string(), "continue": more });
    (
        StatusCode::OK,
        json!({ "apiVersion": "v1", "kind": "ServiceList", "metadata": metadata, "items": items }).to_string(),
    )
}

fn refusal(code: u16) -> Answer {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "no", "message": "no", "code": code });
    (StatusCode::from_u16(code).unwrap(), status.to_string())
}

/// A whole list of a Service `a`, as of version 7.
fn listed() -> [(&'static str, Value); 2] {
    [("ADDED", service("a", 5)), bookmark(7, true)]
}

/// What the watch tells, in few words, for as many changes.
async fn told<T: Kind + Into<Object>>(server: &Server, count: usize) -> Vec<String> {
    let (changes, mut told) = mpsc::channel(64);
    let watching = tokio::spawn(watch::<T>(server.client(), changes));
    let mut words = Vec::new();
    while words.len() < count {
        let (_, change) = told.recv().await.unwrap();
        words.push(match change {
            Change::Applied(Ok(object)) => format!("applied {}", object.metadata().name),
            Change::Deleted((_, name)) => format!("deleted {name}"),
            Change::Listed(all) => format!("listed {}", all.len()),
            Change::Resumed => "resumed".to_owned(),
            Change::Absent => "absent".to_owned(),
            Change::Trouble(why) => format!("trouble: {why}"),
            Change::Away(why) => format!("away: {why}"),
            Change::Forbidden(why) => format!("forbidden: {why}"),
            Change::Applied(Err(unreadable)) => format!("unreadable: {}", unreadable.problem),
        });
    }
    watching.abort();
    words
}

const MUTE: &str = "trouble: the watch ended without a word";
const GONE: &str = "trouble: the API server no longer knows what changed since; it is listed anew";

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_goes_on_from_the_last_version_and_lists_nothing() {
    let mut first = listed().to_vec();
    first.extend([("MODIFIED", service("a", 9)), bookmark(12, false)]);
    let then = events(&[("DELETED", service("a", 14)), ("ADDED", service("b", 15))]);
    let server = Server::new([events(&first), refusal(503), list(13, Vec::new(), ""), then]);
    let words = told::<Service>(&server, 8).await;
    let expected = ["applied a", "listed 1", "applied a", MUTE, "trouble: no", "resumed", "deleted a", "applied b"];
    assert_eq!(words, expected);
    let asked = server.asked();
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(asked[1].contains("limit=1") && asked[2].contains("limit=1"), "{asked:?}");
    assert!(asked[3].contains("resourceVersion=12") && !asked[3].contains("sendInitialEvents"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_no_longer_knows_is_listed_anew_whether_it_says_so_in_the_watch_or_instead_of_it() {
    let in_watch = events(&[(
        "ERROR",
        json!({ "kind": "Status", "status": "Failure", "message": "too old", "code": 410, "reason": "Expired" }),
    )]);
    for gone in [in_watch, refusal(410)] {
        let server = Server::new([events(&listed()), list(7, Vec::new(), ""), gone, events(&[bookmark(20, true)])]);
        let mut words = told::<Service>(&server, 6).await;
        // In the answer itself it is no watch that went on.
        words.retain(|word| word != "resumed");
        assert_eq!(words[..5], ["applied a", "listed 1", MUTE, GONE, "listed 0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_behind_what_it_said_has_another_past_and_is_asked_for_everything() {
    for behind in [list(6, Vec::new(), ""), list(0, Vec::new(), "")] {
        let server = Server::new([events(&listed()), behind, events(&[("ADDED", service("b", 3)), bookmark(4, true)])]);
        let words = told::<Service>(&server, 6).await;
        let other = "trouble: the API server is behind what it said before; it is listed anew";
        assert_eq!(words, ["applied a", "listed 1", MUTE, other, "applied b", "listed 1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_five_minutes_away_everything_is_asked_for() {
    let server = Server::new([events(&listed())]);
    let (changes, mut told) = mpsc::channel(64);
    let began = Instant::now();
    let watching = tokio::spawn(watch::<Service>(server.client(), changes));
    let lists = || server.asked().iter().filter(|query| query.contains("sendInitialEvents")).count();
    while lists() < 2 {
        assert!(told.recv().await.is_some() && began.elapsed() < 2 * RESUME_MAX);
    }
    assert!(began.elapsed() > RESUME_MAX, "{:?}", began.elapsed());
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_streams_no_lists_is_read_page_by_page() {
    let server = Server::new([
        refusal(422),
        list(7, vec![service("a", 1)], "next"),
        list(7, vec![service("b", 2)], ""),
        events(&[("ADDED", service("c", 8))]),
    ]);
    let words = told::<Service>(&server, 4).await;
    assert_eq!(words, ["applied a", "applied b", "listed 2", "applied c"]);
    let asked = server.asked();
    assert!(asked[2].contains("continue=next") && asked[3].contains("resourceVersion=7"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_counts_only_if_the_list_went_through() {
    let broken = events(&[("ADDED", service("a", 5))]);
    let server = Server::new([broken, events(&listed())]);
    let words = told::<Service>(&server, 4).await;
    assert_eq!(words, ["applied a", "trouble: the list was not whole", "applied a", "listed 1"]);
}

#[test]
fn pauses_differ_by_chance_within_half_of_themselves() {
    let all: BTreeSet<Duration> = (0..100).map(|_| jittered(PAUSE_MAX)).collect();
    assert!(all.len() > 50 && all.iter().all(|pause| (PAUSE_MAX / 2..PAUSE_MAX * 3 / 2).contains(pause)));
}

#[test]
fn what_the_server_says_decides_how_it_is_asked_next() {
    let refused = |code: u16| Failure::from(Box::new(Status::failure("no", "no").with_code(code)));
    assert!(matches!(refused(404), Failure::Unknown) && matches!(refused(410), Failure::Gone));
    for code in [401, 422, 429, 500, 503] {
        assert!(matches!(refused(code), Failure::Refused(_)), "{code}");
    }
    let streams = |code: u16| no_streaming(CallError::Refused(Box::new(Status::failure("no", "no").with_code(code))));
    assert!(matches!(streams(422), Failure::NoStreaming) && matches!(streams(400), Failure::NoStreaming));
    let forbidden = Failure::from(Box::new(Status::failure("pods is forbidden", "Forbidden").with_code(403)));
    assert_eq!(forbidden.to_string(), "pods is forbidden", "in its own words, once");
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_absent_only_if_the_list_of_kinds_says_so_and_is_listed_once_it_is_there() {
    let kinds = |names: &[&str]| {
        let resource =
            |name: &&str| json!({ "name": name, "singularName": "", "namespaced": true, "kind": "X", "verbs": [] });
        let resources: Vec<Value> = names.iter().map(resource).collect();
        let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "remora.dev/v1alpha1", "resources": resources });
        (StatusCode::OK, list.to_string())
    };
    let plural = BackendPolicy::PLURAL;
    let then = events(&[bookmark(4, true)]);
    let server = Server::new([refusal(404), kinds(&[plural]), refusal(404), kinds(&["other"]), then]);
    let words = told::<BackendPolicy>(&server, 3).await;
    assert_eq!(words, ["trouble: the API server does not know it", "absent", "listed 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_never_changes_is_as_fresh_as_its_last_watch() {
    let server = Server::new([events(&[])]);
    let (changes, _told) = mpsc::channel(8);
    let (at, heard) = (Some("7".to_owned()), Instant::now());
    let mut watch = Watch { changes: &changes, kind: Service::KIND, at, heard, proven: true, listing: BTreeSet::new() };
    tokio::time::advance(2 * RESUME_MAX).await;
    watch.follow::<Service>(server.client(), true, &mut true).await.unwrap();
    assert_eq!((watch.heard.elapsed(), watch.at.as_deref()), (Duration::ZERO, Some("7")));
}
