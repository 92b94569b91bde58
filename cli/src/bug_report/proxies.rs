//! Single pods in a report: the control plane's with their logs and metrics, and the sidecars of those that the report is about.

use super::{archive::Error, redact, report::Report};
use crate::{
    admin::{self, Place},
    cluster::{
        Cluster, FORWARDS_MAX,
        forward::PodPort,
        list,
        scope::{Found, Session},
    },
};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};
use remora_kube::{client, names, yaml};
use std::time::{Duration, Instant};

/// Sidecars in a report.
const SIDECARS_MAX: usize = 50;
/// The last lines of a log, and their bytes.
const LOG_LINES_MAX: i64 = 10_000;
const LOG_BYTES_MAX: i64 = 2 << 20;
/// A log may be long, and comes from a node.
const LOG_TIMEOUT: Duration = Duration::from_secs(20);
/// What a proxy is asked, and what the file is called.
const PAGES: [(&str, &str); 7] = [
    ("/config", "config.json"),
    ("/signals", "signals.json"),
    ("/routes", "routes.json"),
    ("/errors", "errors.json"),
    ("/certificate", "certificate.json"),
    ("/metrics", "metrics.txt"),
    ("/ready", "ready.txt"),
];

/// Files by name, each with its text or why there is none.
type Files = Vec<(String, Result<String, String>)>;

/// The pods of the control plane: logs, also of the container that ran before, readiness and metrics.
pub(super) async fn components(report: &mut Report, cluster: &Cluster, own: &str) -> Result<(), Error> {
    let parts = [
        (names::IDENTITY, names::IDENTITY_ADMIN_PORT),
        (names::DISCOVERY, names::DISCOVERY_ADMIN_PORT),
        (names::INJECTOR, names::INJECTOR_ADMIN_PORT),
    ];
    for (part, port) in parts {
        if !report.begin(&format!("logs and metrics of {part}")) {
            continue;
        }
        let pods = match pods(cluster, own, &format!("{}={part}", names::PART)).await {
            Ok(pods) => pods,
            Err(why) => {
                report.fail(&format!("control-plane/{part}"), &why);
                continue;
            }
        };
        for pod in pods {
            let folder = format!("control-plane/{}", pod.name_any());
            let mut files = logs(cluster, &pod, None).await;
            let place =
                PodPort { client: cluster.client.clone(), namespace: own.to_owned(), pod: pod.name_any(), port };
            files.extend(pages(&Place::Pod(place), &PAGES[PAGES.len() - 2..]).await);
            write(report, &folder, files)?;
        }
    }
    Ok(())
}

/// The sidecars of the pods that were named.
pub(super) async fn sidecars(report: &mut Report, session: &Session<'_>) -> Result<(), Error> {
    let scope = session.scope;
    let named =
        !scope.targets.is_empty() || scope.all_namespaces || scope.selector.is_some() || scope.namespace.is_some();
    if !named {
        report.leave_out("sidecars", "none was named: say deploy/NAME, -n NAMESPACE or -A");
        return Ok(());
    }
    let found = match session.find().await {
        Ok(found) => found,
        Err(error) => {
            report.fail("proxies", &crate::chain(&error));
            return Ok(());
        }
    };
    if found.len() > SIDECARS_MAX {
        let why = format!("only the first {SIDECARS_MAX} are in the report: name those it is about");
        report.leave_out(&format!("{} of {} sidecars", found.len() - SIDECARS_MAX, found.len()), &why);
    }
    let chosen: Vec<Found> = found.into_iter().take(SIDECARS_MAX).collect();
    let what = match chosen.len() {
        1 => "1 sidecar".to_owned(),
        count => format!("{count} sidecars"),
    };
    if !report.begin(&what) {
        return Ok(());
    }
    let until = report.until();
    let read = chosen.into_iter().map(|it| async move {
        let files = if Instant::now() < until { Some(sidecar(session, &it).await) } else { None };
        (it.name, files)
    });
    let mut read = stream::iter(read).buffered(FORWARDS_MAX);
    while let Some((name, files)) = read.next().await {
        match files {
            Some(files) => write(report, &format!("proxies/{name}"), files)?,
            None => report.leave_out(&format!("proxies/{name}"), "the time is over (--within)"),
        }
    }
    Ok(())
}

async fn sidecar(session: &Session<'_>, found: &Found) -> Files {
    let mut files = pages(&found.admin, &PAGES).await;
    if let (Some(cluster), Place::Pod(port)) = (&session.cluster, &found.admin) {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &port.namespace);
        match client::call(api.get(&port.pod)).await {
            Ok(pod) => {
                files.extend(logs(cluster, &pod, Some(names::PROXY_CONTAINER)).await);
                let object = serde_json::to_value(&pod).map(redact::object).map_err(|error| error.to_string());
                files.push(("pod.yaml".to_owned(), object.map(|it| yaml::write(&it))));
            }
            Err(error) => files.push(("pod.yaml".to_owned(), Err(crate::chain(&error)))),
        }
    }
    files
}

/// Pages of an admin port. What it answers is kept whatever the status: why it is not ready is worth reading.
async fn pages(place: &Place, pages: &[(&str, &str)]) -> Files {
    let mut files = Vec::new();
    for (path, name) in pages {
        let text = admin::get(place.clone(), path).await;
        let text = text.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        let lost = text.is_err();
        files.push(((*name).to_owned(), text.map_err(|error| crate::chain(&error))));
        // The others would say the same, each after its time.
        if lost {
            break;
        }
    }
    files
}

/// The log of one container or of all, and of the one before it where it was restarted.
async fn logs(cluster: &Cluster, pod: &Pod, only: Option<&str>) -> Files {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.namespace().unwrap_or_default());
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let restarted = |name: &str| {
        let mut all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        all.any(|it| it.name == name && it.restart_count > 0)
    };
    let mut files = Vec::new();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    for container in containers.map(|it| it.name.as_str()).filter(|name| only.is_none_or(|only| only == *name)) {
        for previous in [false, true] {
            if previous && !restarted(container) {
                continue;
            }
            let params = LogParams {
                container: Some(container.to_owned()),
                previous,
                tail_lines: Some(LOG_LINES_MAX),
                limit_bytes: Some(LOG_BYTES_MAX),
                timestamps: true,
                ..LogParams::default()
            };
            let text = client::call_within(LOG_TIMEOUT, api.logs(&pod.name_any(), &params)).await;
            let name = format!("{container}{}.log", if previous { ".previous" } else { "" });
            files.push((name, text.map_err(|error| crate::chain(&error))));
        }
    }
    files
}

fn write(report: &mut Report, folder: &str, files: Files) -> Result<(), Error> {
    for (name, text) in files {
        report.write_or_fail(&format!("{folder}/{name}"), text)?;
    }
    Ok(())
}

/// The pods of a namespace that have these labels.
async fn pods(cluster: &Cluster, namespace: &str, labels: &str) -> Result<Vec<Pod>, String> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    list::all(&api, ListParams::default().labels(labels)).await.map_err(|error| crate::chain(&error))
}
