use super::*;
use crate::{
    index::{Change, Mesh, World},
    source::parse::parse,
};
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use remora_runtime::drain;
use serde_json::json;
use std::{
    convert::Infallible,
    sync::{Mutex, MutexGuard},
};

fn status(version: &str) -> ObjectStatus {
    let text = format!(
        "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: p, namespace: shop, resourceVersion: '{version}' }}
spec: {{ mode: Strict }}
"
    );
    let mut world = World::new(Mesh::default());
    world.apply(parse(&text, "").whole().unwrap().into_iter().map(Change::Put), &mut |_, _| {});
    world.settle();
    world.statuses().next().map(|status| ObjectStatus::clone(status)).unwrap()
}

#[test]
fn a_status_is_written_once_for_each_version_and_what_failed_not_before_its_pause_is_over() {
    let now = Instant::now();
    let mut written = HashMap::new();
    assert!(is_due(&status("7"), &written, now));
    let over = |said: &Value| Written::Over { version: "7".to_owned(), said: said.clone() };
    written.insert(name(&status("7")), over(status("7").ours()));
    assert!(!is_due(&status("7"), &written, now), "the index has not seen it yet");
    assert!(is_due(&status("8"), &written, now));
    written.insert(name(&status("7")), over(&json!({ "conditions": [{ "type": "Accepted", "status": "False" }] })));
    assert!(is_due(&status("7"), &written, now), "something else is to be said by now");
    let again = now + PAUSE_MIN;
    written.insert(name(&status("7")), Written::Failed { again, pause: PAUSE_MIN });
    assert!(!is_due(&status("8"), &written, now) && is_due(&status("8"), &written, again));
}

#[test]
fn what_somebody_wrote_in_the_meantime_is_looked_at_before_it_is_written_over() {
    let stale = status("7");
    let wanted = stale.to_write("2026-11-28T00:00:00Z").unwrap();
    let fresh = stale.over(&wanted, Some("9".to_owned()));
    assert_eq!((fresh.to_write("2026-11-29T00:00:00Z"), fresh.resource_version.as_deref()), (None, Some("9")));
    let other = stale.over(&json!({ "conditions": [] }), Some("9".to_owned()));
    assert!(other.to_write("2026-11-29T00:00:00Z").is_some());
}

/// An API server, as far as statuses and Events go.
#[derive(Default)]
struct Asked {
    /// What came: method, path, body.
    all: Vec<(Method, String, Value)>,
    /// Statuses whose first patch is refused, by the end of their path.
    refused: HashMap<&'static str, StatusCode>,
    /// What a GET answers.
    object: Value,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Asked>>);

impl Server {
    fn locked(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap()
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let (code, answer) = server.answer(head.method, head.uri.path(), &body);
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let mut asked = self.locked();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        asked.all.push((method.clone(), path.to_owned(), body.clone()));
        let refused = asked.refused.keys().copied().find(|end| path.ends_with(end));
        if let Some(code) = refused.and_then(|end| asked.refused.remove(end)) {
            let (kind, status) = ("Status", "Failure");
            return (code, json!({ "kind": kind, "apiVersion": "v1", "status": status, "code": code.as_u16() }));
        }
        let mut answer = if method == Method::GET { asked.object.clone() } else { body };
        for (field, value) in [("apiVersion", "remora.dev/v1alpha1"), ("kind", "MeshTLSPolicy")] {
            answer[field] = value.into();
        }
        answer["metadata"]["name"] = "p".into();
        (StatusCode::OK, answer)
    }

    /// The bodies of what was sent to paths that end so.
    fn sent(&self, method: &Method, end: &str) -> Vec<Value> {
        let asked = self.locked();
        let sent = asked.all.iter().filter(|(by, path, _)| by == method && path.ends_with(end));
        sent.map(|(_, _, body)| body.clone()).collect()
    }

    fn patches(&self, name: &str) -> Vec<Value> {
        self.sent(&Method::PATCH, &format!("/{name}/status"))
    }
}

/// What should be said of these policies of `shop`: name, targets, status.
fn statuses(policies: &[(&str, &str, Value)]) -> Vec<Arc<ObjectStatus>> {
    let text = policies.iter().map(|(name, targets, status)| {
        format!(
            "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{ name: {name}, namespace: shop, uid: u-{name}, resourceVersion: '7' }}
spec: {{ mode: Strict, targetRefs: [{targets}] }}
status: {status}
---
"
        )
    });
    let mut world = World::new(Mesh::default());
    let objects = parse(&text.collect::<String>(), "").whole().unwrap();
    world.apply(objects.into_iter().map(Change::Put), &mut |_, _| {});
    world.settle();
    world.statuses().cloned().collect()
}

const GONE: &str = "{ kind: Service, name: gone }";

/// Writes what is due. When something is to be tried again.
async fn wrote(
    server: &Server,
    leads: bool,
    statuses: &[Arc<ObjectStatus>],
    written: &mut HashMap<Name, Written>,
) -> Option<Instant> {
    let (client, (_stop, draining)) = (server.client(), drain::channel());
    let (events, telling) = Events::new(client.clone(), "remora-discovery", "discovery-1", draining);
    let (_lead, leads) = watch::channel(leads);
    let writing = async {
        let due = write_all((&client, &events), statuses, &leads, written).await;
        // Telling ends with the last who tells.
        drop(events);
        due
    };
    tokio::join!(writing, telling).0
}

#[tokio::test]
async fn only_the_leader_writes_and_only_what_is_another() {
    let server = Server::default();
    let policies = statuses(&[("a", "", json!({})), ("b", "", json!({}))]);
    wrote(&server, false, &policies, &mut HashMap::new()).await;
    assert!(server.locked().all.is_empty(), "it does not lead");
    let mut written = HashMap::new();
    wrote(&server, true, &policies, &mut written).await;
    wrote(&server, true, &policies, &mut written).await;
    let patches = server.patches("a");
    assert_eq!((patches.len(), server.patches("b").len()), (1, 1), "over the same version nothing is written twice");
    let later = statuses(&[("a", "", patches[0]["status"].clone()), ("b", GONE, json!({}))]);
    wrote(&server, true, &later, &mut HashMap::new()).await;
    assert_eq!(
        (server.patches("a").len(), server.patches("b").len()),
        (1, 2),
        "what stands there is not written again"
    );
}

#[tokio::test]
async fn what_becomes_a_problem_is_told_once_as_an_event_on_the_object() {
    let server = Server::default();
    let policies = statuses(&[("a", GONE, json!({})), ("b", "", json!({}))]);
    wrote(&server, true, &policies, &mut HashMap::new()).await;
    let events = server.sent(&Method::POST, "/events");
    let [event] = &events[..] else { panic!("{events:#?}") };
    let of = [&event["reason"], &event["type"], &event["regarding"]["uid"]];
    assert_eq!(of, ["TargetNotFound", "Warning", "u-a"]);
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("Accepted is False: spec.targetRefs[0]: Service shop/gone is not there"), "{note}");
    // The status says it now: whoever leads next tells it no more.
    let said = server.patches("a").remove(0)["status"].clone();
    wrote(&server, true, &statuses(&[("a", GONE, said)]), &mut HashMap::new()).await;
    assert_eq!(server.sent(&Method::POST, "/events").len(), 1);
}

#[tokio::test]
async fn what_fails_waits_by_itself_and_what_somebody_wrote_meanwhile_is_read_again() {
    let server = Server::default();
    server.locked().refused.insert("/a/status", StatusCode::INTERNAL_SERVER_ERROR);
    server.locked().refused.insert("/b/status", StatusCode::CONFLICT);
    server.locked().object = json!({ "metadata": { "namespace": "shop", "resourceVersion": "9" }, "status": {} });
    let policies = statuses(&[("a", "", json!({})), ("b", "", json!({})), ("c", "", json!({}))]);
    let mut written = HashMap::new();
    let again = wrote(&server, true, &policies, &mut written).await;
    assert!(again.is_some_and(|again| again > Instant::now()), "it comes again, after its pause");
    let over: Vec<Value> =
        server.patches("b").iter().map(|patch| patch["metadata"]["resourceVersion"].clone()).collect();
    assert_eq!(over, ["7", "9"]);
    wrote(&server, true, &policies, &mut written).await;
    assert_eq!((server.patches("a").len(), server.patches("c").len()), (1, 1), "nothing is due");
}
