//! What injection costs: the wait for an opt-in, the creation of a pod, its way to Ready.

use super::dry::{created, has_sidecar};
use anyhow::{bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::wait::await_condition};
use remora_kube::names;
use remora_tests::cluster::{Cluster, POD_PATIENCE, Scope};
use serde_json::json;
use std::time::{Duration, Instant};

/// What a sidecar may add from a pod's creation to its readiness: the kubelet takes a second for the init container, and
/// another for the sidecar.
const READY_LATER: Duration = Duration::from_millis(2200);

pub(super) fn soon(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.bare_scope("soon")?;
    let mut waits = Vec::new();
    for _ in 0..5 {
        scope.opt(Some(names::ENABLED))?;
        let began = Instant::now();
        // Refused in between, never let in bare.
        while !created(&scope, &json!({})).is_ok_and(|pod| has_sidecar(&pod)) {
            ensure!(began.elapsed() < POD_PATIENCE, "the injector does not take up the namespace");
        }
        waits.push(began.elapsed());
        scope.opt(None)?;
        let began = Instant::now();
        while created(&scope, &json!({})).map_or(true, |pod| has_sidecar(&pod)) {
            ensure!(began.elapsed() < POD_PATIENCE, "the injector does not leave the namespace");
        }
    }
    waits.sort();
    println!("    from annotation to the first sidecar: {waits:?}");
    ensure!(waits[2] < Duration::from_secs(1), "{waits:?}");
    Ok(())
}

/// Creations of pods (dry runs) one after the other: how long they took together.
fn creations(scope: &Scope<'_>, count: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for _ in 0..count {
        created(scope, &json!({}))?;
    }
    Ok(began.elapsed())
}

/// Median and 99th percentile.
fn percentiles(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Single creations.
pub(super) fn measured(scope: &Scope<'_>, count: usize) -> anyhow::Result<(Duration, Duration)> {
    Ok(percentiles((0..count).map(|_| creations(scope, 1)).collect::<anyhow::Result<_>>()?))
}

/// What the injector adds to the creation of a pod, at the median and at the 99th percentile.
///
/// The API server collects garbage a few times a second, for 20 ms or so, and what takes longer is hit more often: 99 of
/// 100 bare creations may get by, and 98 of 100 opted in. That is no wait for the injector. So the tail is compared with
/// that of as many bare creations in a row as take as long, made in turns with those that are opted in.
fn added(inside: &Scope<'_>, outside: &Scope<'_>) -> anyhow::Result<(Duration, Duration)> {
    const COUNT: usize = 200;
    let ((bare, _), (opted_in, _)) = (measured(outside, 20)?, measured(inside, 20)?);
    let in_a_row = opted_in.div_duration_f64(bare).round().max(1.0) as u32;
    let (mut single, mut as_long, mut opted_in) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..COUNT {
        opted_in.push(creations(inside, 1)?);
        as_long.push(creations(outside, in_a_row)?);
        single.push(creations(outside, 1)?);
    }
    let ((bare, _), (control, control_p99), (p50, p99)) =
        (percentiles(single), percentiles(as_long), percentiles(opted_in));
    println!(
        "    p50 {bare:.1?} bare, {p50:.1?} opted in; p99 {p99:.1?} opted in, {control_p99:.1?} for {in_a_row} bare in a row (p50 {control:.1?})"
    );
    let median = p50.saturating_sub(bare);
    Ok((median, median + (p99 - p50).saturating_sub(control_p99 - control)))
}

pub(super) fn latency(cluster: &Cluster) -> anyhow::Result<()> {
    let (inside, outside) = (cluster.scope("inside")?, cluster.bare_scope("outside")?);
    let (mut median, mut tail) = (Duration::MAX, Duration::MAX);
    // A busy machine adds to a round what is not the injector's; what it adds is in every one of them.
    for _ in 0..5 {
        let round = added(&inside, &outside)?;
        (median, tail) = (median.min(round.0), tail.min(round.1));
        if median <= Duration::from_millis(5) && tail <= Duration::from_millis(10) {
            return Ok(());
        }
    }
    bail!("adds {median:.1?} at the median, {tail:.1?} at the 99th percentile")
}

/// How long pods take, one after the other, from creation to Ready: the median.
fn made_ready(scope: &Scope<'_>, round: usize) -> anyhow::Result<Duration> {
    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: $NAME}
spec: {containers: [{name: echo, image: $IMAGE}]}";
    let is_ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
    };
    let mut took = Vec::new();
    for number in 0..5 {
        let name = format!("timed-{round}-{number}");
        let began = Instant::now();
        scope.apply(POD, &[("NAME", &name)])?;
        // Watched, as looking now and then would add to what is measured.
        let pods: Api<Pod> = Api::namespaced(scope.cluster.client(), &scope.namespace);
        scope.cluster.ask(await_condition(pods, &name, is_ready))?;
        took.push(began.elapsed());
        scope.cluster.delete(&scope.namespace, "v1/pods", &name)?;
    }
    took.sort();
    Ok(took[took.len() / 2])
}

pub(super) fn ready_later(cluster: &Cluster) -> anyhow::Result<()> {
    let (inside, outside) = (cluster.scope("inside")?, cluster.bare_scope("outside")?);
    let mut later = Duration::MAX;
    // As above: a busy machine costs a round a whole step of the kubelet's.
    for round in 0..3 {
        let (bare, meshed) = (made_ready(&outside, round)?, made_ready(&inside, round)?);
        println!("    created to Ready: {bare:.1?} bare, {meshed:.1?} with a sidecar");
        later = later.min(meshed.saturating_sub(bare));
        if later <= READY_LATER {
            return Ok(());
        }
    }
    bail!("ready {later:.1?} later")
}
