//! Two replicas over one place: no write is lost, and none waits for ever.

use super::*;
use crate::{
    authority::{Authority, TurnError},
    held::Held,
    issuer::Files,
    trust::{Offer, Rules, Signing, step},
};
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::{ByteString, api::core::v1::Secret as Object, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::client::Body;
use remora_model::TrustDomain;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

fn record() -> Record {
    let anchor = b"anchor".to_vec();
    let signing = Signing {
        files: Files::new(Vec::new(), Vec::new(), Vec::new()),
        anchor: anchor.clone(),
        not_after: SystemTime::now() + Duration::from_secs(3600),
    };
    let rules = Rules { lifetime: Duration::from_secs(60), skew: Duration::ZERO };
    let offer = Offer { signing, anchors: vec![anchor], force_remove: false };
    step(None, Some(&offer), "td", SystemTime::now(), rules).record.unwrap()
}

/// Counts one write more than is stored.
async fn count(store: &Store) -> Result<u64, StoreError> {
    let updated = store.update(|stored| {
        let mut record = stored.unwrap_or_else(record);
        record.revision += 1;
        (Some(record), true, ())
    });
    Ok(updated.await?.0.unwrap().revision)
}

async fn stored(store: &Store) -> Option<Record> {
    store.update(|stored| (stored, false, ())).await.unwrap().0
}

#[tokio::test]
async fn writes_of_two_processes_to_one_folder_are_all_there() {
    let dir = TempDir::new().unwrap();
    let stores = [(); 2].map(|()| Store::file(dir.path().join("state")));
    let all = stores.iter().cycle().take(20).map(count);
    for counted in futures_util::future::join_all(all).await {
        counted.unwrap();
    }
    assert_eq!(stored(&stores[0]).await.unwrap().revision, record().revision + 20);
}

#[tokio::test]
async fn a_process_that_stands_still_with_the_lock_stops_nobody_for_long() {
    let dir = TempDir::new().unwrap();
    let store = Store::file(dir.path().to_owned());
    count(&store).await.unwrap();
    let lock = std::fs::File::open(dir.path().join("issuer-state.lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(count(&store).await, Err(StoreError::Busy)));
    drop(lock);
    assert_eq!(count(&store).await.unwrap(), record().revision + 2);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    count(&Store::file(dir.path().to_owned())).await.unwrap();
    let mode = std::fs::metadata(dir.path().join("issuer-state.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// An API server that keeps one Secret, by resource version as the real one does.
#[derive(Default)]
struct Server {
    object: Option<Object>,
    version: u64,
    conflicts: u32,
    /// Somebody writes just before each of so many of our writes.
    disturbed: u32,
    away: bool,
}

impl Server {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let failure = |code: StatusCode, reason: &str| {
            let status = format!(
                r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"{reason}","reason":"{reason}","code":{}}}"#,
                code.as_u16()
            );
            (code, status.into_bytes())
        };
        if self.away {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        if *method == Method::GET {
            return match &self.object {
                Some(object) => (StatusCode::OK, serde_json::to_vec(object).unwrap()),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        let mut wanted: Object = serde_json::from_slice(body).unwrap();
        if let Some(left) = self.disturbed.checked_sub(1) {
            self.disturbed = left;
            self.version += 1;
            let version = self.version.to_string();
            self.object.get_or_insert_with(|| wanted.clone()).metadata.resource_version = Some(version);
        }
        let version = self.object.as_ref().and_then(|object| object.metadata.resource_version.clone());
        let made = *method == Method::POST;
        if made != self.object.is_none() || (!made && wanted.metadata.resource_version != version) {
            self.conflicts += 1;
            return failure(StatusCode::CONFLICT, if made { "AlreadyExists" } else { "Conflict" });
        }
        self.version += 1;
        wanted.metadata.resource_version = Some(self.version.to_string());
        self.object = Some(wanted.clone());
        (StatusCode::OK, serde_json::to_vec(&wanted).unwrap())
    }
}

fn served(server: &Arc<Mutex<Server>>) -> Store {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let (code, answer) = server.lock().unwrap().answer(&head.method, &body);
            Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(answer)).unwrap())
        }
    });
    Store::secret(Client::new(service, "remora"), "remora")
}

#[tokio::test]
async fn a_secret_that_somebody_else_wrote_meanwhile_is_read_again() {
    let server = Arc::new(Mutex::new(Server::default()));
    let store = served(&server);
    // Whoever makes it, and whoever replaces it, may be too late.
    for disturbed in [1, 0, 3] {
        server.lock().unwrap().disturbed = disturbed;
        count(&store).await.unwrap();
    }
    assert_eq!(server.lock().unwrap().conflicts, 4);
    // The first disturbance stored our own first record: one count more.
    assert_eq!(stored(&store).await.unwrap().revision, record().revision + 4);
    server.lock().unwrap().disturbed = u32::MAX;
    assert!(matches!(count(&store).await, Err(StoreError::Busy)));
}

#[tokio::test]
async fn what_others_wrote_on_the_secret_stays() {
    let server = Arc::new(Mutex::new(Server::default()));
    count(&served(&server)).await.unwrap();
    let theirs = BTreeMap::from([("backup.example/keep".to_owned(), "true".to_owned())]);
    let before = {
        let mut server = server.lock().unwrap();
        let metadata = &mut server.object.as_mut().unwrap().metadata;
        metadata.labels.as_mut().unwrap().extend(theirs.clone());
        (metadata.annotations, metadata.finalizers) = (Some(theirs), Some(vec!["backup.example/hold".to_owned()]));
        metadata.clone()
    };
    count(&served(&server)).await.unwrap();
    let after = server.lock().unwrap().object.clone().unwrap().metadata;
    assert_eq!(ObjectMeta { resource_version: before.resource_version.clone(), ..after }, before);
    assert_eq!(before.labels.unwrap().len(), 3, "and ours are there");
}

#[tokio::test]
async fn while_the_store_is_away_new_anchors_are_published_and_nobody_new_signs() {
    let (trust_domain, mut now) = (TrustDomain::new("cluster.local").unwrap(), SystemTime::now());
    let held = || Held { files: Files::make(&trust_domain, now).unwrap(), force_remove: false };
    let ([first, second], lives) = ([held(), held()], (Duration::from_secs(40), Duration::ZERO));
    let server = Arc::new(Mutex::new(Server::default()));
    let store = served(&server);
    let opened = Authority::open(Some(&first), &store, &trust_domain, lives, now).await.unwrap();
    let authority = opened.with(store);
    let signs = authority.issuer(now).unwrap().anchor().to_vec();
    server.lock().unwrap().away = true;
    for _ in 0..20 {
        now += Duration::from_secs(2);
        let turned = authority.turn(Some(&second), now).await;
        assert!(matches!(turned, Err(TurnError::Store(StoreError::Call(_)))), "{turned:?}");
    }
    assert_eq!(authority.state().bundle().anchors().len(), 2);
    assert_eq!(authority.issuer(now).unwrap().anchor(), signs);
    // It is back; the time that it was away counts for nothing.
    server.lock().unwrap().away = false;
    for (seconds, new) in [(0, false), (0, false), (8, false), (3, true)] {
        now += Duration::from_secs(seconds);
        authority.turn(Some(&second), now).await.unwrap();
        assert_eq!(authority.issuer(now).unwrap().anchor() != signs, new, "{seconds}");
    }
    assert_eq!(authority.state().bundle().anchors().len(), 2);
}

/// `record` as a later version may write it.
fn later(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(&record().encode()).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[tokio::test]
async fn what_a_later_version_wrote_in_another_format_is_left_as_it_is() {
    for content in
        [later(|value| value["format"] = 2.into()), br#"{"format": 7, "all": ["else", "is"], "new": 1}"#.to_vec()]
    {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("issuer-state.json");
        std::fs::write(&path, &content).unwrap();
        let store = Store::file(dir.path().to_owned());
        let refused = count(&store).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Later { .. }) && refused.to_string().contains("a later version"),
            "{refused}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), content);

        let server = Arc::new(Mutex::new(Server::default()));
        count(&served(&server)).await.unwrap();
        let data = BTreeMap::from([("state.json".to_owned(), ByteString(content.clone()))]);
        server.lock().unwrap().object.as_mut().unwrap().data = Some(data.clone());
        assert!(matches!(count(&served(&server)).await, Err(StoreError::Later { .. })));
        assert_eq!(server.lock().unwrap().object.as_ref().unwrap().data, Some(data));
    }
}

#[tokio::test]
async fn what_a_later_version_adds_to_this_format_is_no_reason_to_forget_the_rest() {
    let dir = TempDir::new().unwrap();
    let content = later(|value| {
        value["new"] = 1.into();
        value["anchors"][0]["new"] = 1.into();
        value["revision"] = 40.into();
    });
    std::fs::write(dir.path().join("issuer-state.json"), content).unwrap();
    assert_eq!(count(&Store::file(dir.path().to_owned())).await.unwrap(), 41);
}

#[tokio::test]
async fn beside_a_later_versions_state_the_issuer_in_force_goes_on_and_nobody_new_signs() {
    let (trust_domain, mut now) = (TrustDomain::new("cluster.local").unwrap(), SystemTime::now());
    let held = || Held { files: Files::make(&trust_domain, now).unwrap(), force_remove: false };
    let ([first, second], lives) = ([held(), held()], (Duration::from_secs(40), Duration::ZERO));
    let dir = TempDir::new().unwrap();
    let (path, store) = (dir.path().join("issuer-state.json"), Store::file(dir.path().to_owned()));
    let opened = Authority::open(Some(&first), &store, &trust_domain, lives, now).await.unwrap();
    let authority = opened.with(store);
    let signs = authority.issuer(now).unwrap().anchor().to_vec();
    std::fs::write(&path, r#"{"format":2}"#).unwrap();
    for _ in 0..20 {
        now += Duration::from_secs(2);
        let turned = authority.turn(Some(&second), now).await;
        assert!(matches!(turned, Err(TurnError::Store(StoreError::Later { .. }))), "{turned:?}");
    }
    assert_eq!(authority.state().bundle().anchors().len(), 2, "more anchors harm nobody");
    assert_eq!(authority.issuer(now).unwrap().anchor(), signs);
    let store = Store::file(dir.path().to_owned());
    let started = Authority::open(Some(&second), &store, &trust_domain, lives, now).await;
    assert!(matches!(started, Err(TurnError::Store(StoreError::Later { .. }))), "{started:?}");
    assert_eq!(std::fs::read(&path).unwrap(), br#"{"format":2}"#);
}
