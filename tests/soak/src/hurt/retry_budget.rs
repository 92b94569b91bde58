//! Every backend answers 503 and the route asks for three retries: what arrives must stay within the budget, a fifth of
//! the requests and ten a second. It is kept over ten seconds, so that ten seconds' worth of the latter may be saved.

use super::{
    at_least, at_most, pause,
    shop::{AUTHORITY, Shop},
    steady::Load,
    tell,
};
use crate::report::Report;
use anyhow::ensure;
use remora_tests::{local::NAMESPACE, patience::until};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
/// How long a request pays for retries, and how long what is not used is kept.
const WINDOW: Duration = Duration::from_secs(10);

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open(3, logs)?;
    shop.mesh.manifest(
        "route-api",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: api, namespace: {NAMESPACE} }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api }}]
  rules:
    - retry: {{ codes: [503], attempts: 3, backoff: 5ms }}
      backendRefs: [{{ name: api, port: 80 }}]
"
        ),
    )?;
    until("the route is in effect", || {
        shop.web.get(AUTHORITY, "/")?;
        let routes = shop.web.routes()?;
        Ok(routes.to_string().contains("HTTPRoute/").then_some(()))
    })?;
    for pod in &shop.pods {
        pod.behave(0, 503)?;
    }
    let arrived = || shop.pods.iter().map(super::shop::Pod::count).sum::<anyhow::Result<u64>>();
    // What was asked so far pays for retries no more.
    pause(WINDOW + Duration::from_secs(1));
    let before = arrived()?;
    let begun = Instant::now();
    let load = Load::start(shop.web.outbound, AUTHORITY, PER_SECOND);
    pause(time);
    let samples = load.stop(report)?;
    let took = begun.elapsed() + WINDOW;
    let requests = samples.len() as f64;
    let retries = (arrived()? - before) as f64 - requests;
    ensure!(
        samples.iter().all(|sample| sample.status == 503),
        "something was answered otherwise: {:?}",
        samples.last()
    );
    let allowed = 0.2 * requests + 10.0 * took.as_secs_f64();
    tell(report, "requests, all of which fail", requests, "");
    at_most(report, "retries that arrived", retries, allowed, "");
    at_least(report, "retries that arrived", retries, allowed / 2.0, "");
    Ok(())
}
