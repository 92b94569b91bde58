//! Fuzz target of what the injector tells of a pod's probes. In: the two settings. Out: nothing, or a panic.

use super::{Check, Probes, Token};
use axum::http::{Request, Uri};
use serde_json::{Map, Value};
use std::time::Duration;

/// A probe that is taken can be asked: it has a port, a path that a request can have, and a time; a token is itself alone.
pub fn probe_settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(token)) = Token::parse(&text) {
        assert!(token.is(&text) && !token.is(&text[1..]) && !token.is(&format!("{text}{text}")));
    }
    let probes = match Probes::parse(&text) {
        Ok(probes) => probes,
        Err(mistakes) => return assert!(!mistakes.is_empty()),
    };
    // Of two of one name the last counts, here as there.
    let keys: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    for key in keys.keys() {
        let probe = probes.get(key).expect("no probe is dropped without a word");
        assert_ne!(probe.check.port(), 0, "{key}");
        let patience = Duration::from_secs(1)..=Duration::from_secs(3600);
        assert!(patience.contains(&probe.patience), "{key}: {:?}", probe.patience);
        let Check::Http(get) = &probe.check else { continue };
        assert!(get.path.as_str().starts_with('/') && !get.path.as_str().contains('#'), "{}", get.path);
        let mut request = Request::get(Uri::from(get.path.clone()));
        for (name, value) in &get.headers {
            request = request.header(name, value);
        }
        let request = request.body(()).expect("what is taken can be asked");
        assert_eq!(request.headers().len(), get.headers.len());
    }
}
