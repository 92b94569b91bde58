//! `/mesh/signals`: the signals of many proxies, a line each, as they come.
//!
//! In: a namespace and pods. Out: NDJSON. An answer is held no longer than until its line is taken: a reader that is slow asks slowly.

use super::State;
use crate::serve::{Body, Failure, Proxy, limits};
use axum::{
    body::Body as HttpBody,
    extract::{RawQuery, State as Of},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::de::IgnoredAny;
use serde_json::json;
use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Of which proxies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) namespace: Option<String>,
    pub(super) pods: BTreeSet<String>,
}

impl Wanted {
    /// Reads a query.
    pub(super) fn read(query: Option<&str>) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "namespace" if value.is_empty() => {}
                "namespace" => wanted.namespace = Some(value.into_owned()),
                "pod" => drop(wanted.pods.insert(value.into_owned())),
                _ => return Err(format!("{name:?} is not known; there are namespace=NAME and pod=NAME\n")),
            }
            if wanted.pods.len() > limits::PODS_NAMED_MAX {
                return Err(format!("more than {} pods are named; name none for all\n", limits::PODS_NAMED_MAX));
            }
        }
        Ok(wanted)
    }

    pub(super) fn takes(&self, namespace: &str, pod: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && (self.pods.is_empty() || self.pods.contains(pod))
    }
}

/// The handler.
pub(super) async fn signals(Of(state): Of<State>, RawQuery(query): RawQuery) -> Response {
    let wanted = match Wanted::read(query.as_deref()) {
        Ok(wanted) => wanted,
        Err(wrong) => return (StatusCode::BAD_REQUEST, wrong).into_response(),
    };
    let Ok(place) = state.readers.clone().try_acquire_owned() else {
        let full = format!("{} readers read signals already; end one of them\n", limits::SIGNALS_READERS_MAX);
        return (StatusCode::SERVICE_UNAVAILABLE, full).into_response();
    };
    let proxies = state.asking.proxies(|namespace, pod| wanted.takes(namespace, pod));
    let (asked, answered) = (proxies.len(), Arc::new(AtomicUsize::new(0)));
    let (asking, count) = (state.asking.clone(), answered.clone());
    let lines = stream::iter(proxies).map(move |proxy| {
        let (asking, count) = (asking.clone(), count.clone());
        async move {
            let answer = asking.ask_once(&proxy, "/signals?histograms=true").await;
            // So that no probe waits for it.
            let made = tokio::task::spawn_blocking(move || line(&proxy, answer)).await;
            let (line, good) = made.unwrap_or_default();
            count.fetch_add(usize::from(good), Relaxed);
            line
        }
    });
    let last = async move {
        drop(place);
        let answered = answered.load(Relaxed);
        format!("{}\n", json!({ "asked": asked, "answered": answered })).into_bytes()
    };
    let lines = lines.buffer_unordered(limits::ASKED_AT_ONCE_MAX).chain(stream::once(last));
    let body = HttpBody::from_stream(lines.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// A proxy's line, and whether it is its answer.
fn line(proxy: &Proxy, answer: Result<Arc<Body>, Failure>) -> (Vec<u8>, bool) {
    let Proxy { identity, namespace, pod, .. } = proxy;
    let signals = answer.map_err(|why| why.to_string()).and_then(|body| one_line(body.bytes()));
    match signals {
        Ok((signals, version)) => {
            let head = json!({ "namespace": namespace, "pod": pod, "identity": identity, "version": version });
            let mut line = head.to_string().into_bytes();
            line.pop();
            line.extend_from_slice(b",\"signals\":");
            line.extend_from_slice(&signals);
            line.extend_from_slice(b"}\n");
            (line, true)
        }
        Err(why) => (format!("{}\n", json!({ "namespace": namespace, "pod": pod, "error": why })).into_bytes(), false),
    }
}

/// An object of JSON on one line, and the version that it names.
fn one_line(bytes: &[u8]) -> Result<(Vec<u8>, String), String> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        version: String,
        #[serde(flatten)]
        _rest: std::collections::BTreeMap<String, IgnoredAny>,
    }
    let named: Named =
        serde_json::from_slice(bytes).map_err(|error| Failure::Unreadable(error.to_string()).to_string())?;
    // Between the values of JSON a line feed means nothing, and within them there is none.
    let line = bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    Ok((line.collect(), named.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_namespace_and_pods_and_nothing_else() {
        let wanted = Wanted::read(Some("namespace=shop&pod=web-1&pod=api%2D1")).unwrap();
        assert!(wanted.takes("shop", "api-1") && !wanted.takes("shop", "db-1") && !wanted.takes("else", "web-1"));
        for all in [None, Some(""), Some("namespace=")] {
            assert!(Wanted::read(all).unwrap().takes("any", "pod"));
        }
        assert!(Wanted::read(Some("pods=web-1")).unwrap_err().contains("pod=NAME"));
        let many = (0..=limits::PODS_NAMED_MAX).map(|pod| format!("pod={pod}&")).collect::<String>();
        assert!(Wanted::read(Some(&many)).unwrap_err().contains("name none"));
    }

    #[test]
    fn an_answer_is_one_line_whatever_a_proxy_sends() {
        let (line, version) = one_line(b"{\n\"version\":\r\n\"1\",\"a\":\"b\\n\"}").unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), "{ \"version\":  \"1\",\"a\":\"b\\n\"}");
        assert_eq!(version, "1");
        for bytes in [&b"{}\n{\"pod\":\"another\"}"[..], b"[]", b"1", b"", b"{\"a\":", b"{\"version\":1}"] {
            assert!(one_line(bytes).is_err(), "{bytes:?}");
        }
    }
}
