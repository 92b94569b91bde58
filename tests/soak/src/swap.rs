//! The CA's signing certificate, and then its trust anchor, are replaced under load; nothing is restarted.

use crate::{
    pki::{Root, place},
    report::Report,
    scene::{LIFE, Scene},
};
use anyhow::{Context as _, ensure};
use remora_runtime::tls::{TrustBundle, verify_svid};
use remora_tests::{forge::presented, local::Mesh, patience::until_within};
use std::time::{Duration, Instant};

/// A third of a life and its jitter, and some tries.
const RENEWED: Duration = LIFE;
/// Until an anchor goes that nothing new chains to: a life, a part of it for which an issuer is published, and by how much clocks may be
/// apart.
const REMOVED: Duration = Duration::from_secs(2 * LIFE.as_secs() + 70);
/// Between two looks at what processes show.
const LOOK: Duration = Duration::from_millis(200);

/// A signing certificate of the same anchor.
pub(crate) fn issuer() -> anyhow::Result<Report> {
    let mut report = Report::new("issuer-swap");
    let root = Root::new("root")?;
    let (old, new) = (root.signer("signer 1")?, root.signer("signer 2")?);
    let scene = Scene::start(Mesh::builder(std::env::current_exe()?).issuer(old.files(&root.pem)))?;
    scene.wait(LIFE)?;
    for (name, chain) in chains(&scene)? {
        ensure!(chain.contains(&old.der), "{name} does not show the first signer");
    }
    new.install(&scene.mesh.dir().join("issuer"))?;
    let shown = |chain: &[Vec<u8>]| chain.contains(&new.der) && !chain.contains(&old.der);
    await_chains(&scene, &mut report, "a chain of the new signer", shown)?;
    scene.wait(2 * LIFE)?;
    scene.finish(&mut report)?;
    Ok(report)
}

/// Old, both, new.
pub(crate) fn anchor() -> anyhow::Result<Report> {
    let mut report = Report::new("anchor-swap");
    let (old, new) = (Root::new("root")?, Root::new("root")?);
    let signers = (old.signer("signer")?, new.signer("signer")?);
    let scene = Scene::start(Mesh::builder(std::env::current_exe()?).issuer(signers.0.files(&old.pem)))?;
    let folder = scene.mesh.dir().join("issuer");
    scene.wait(LIFE)?;
    let old_bundle = old.bundle()?;
    for (name, chain) in chains(&scene)? {
        ensure!(verifies(&chain, &old_bundle), "{name} does not chain to the first anchor");
    }

    place(&folder, "ca.crt", &format!("{}{}", old.pem, new.pem))?;
    await_anchors(&scene, &mut report, 2, RENEWED)?;
    scene.wait(LIFE / 4)?;

    signers.1.install(&folder)?;
    let new_bundle = new.bundle()?;
    await_chains(&scene, &mut report, "a chain to the new anchor", |chain| verifies(chain, &new_bundle))?;

    place(&folder, "ca.crt", &new.pem)?;
    let asked = Instant::now();
    await_anchors(&scene, &mut report, 1, REMOVED)?;
    let waited = asked.elapsed();
    let seen = format!("after {:.0} s", waited.as_secs_f64());
    let wanted = format!("after {} s or more", LIFE.as_secs());
    report.check("the old anchor goes by itself, and not while certificates chain to it", seen, wanted, waited >= LIFE);
    scene.wait(LIFE)?;
    scene.finish(&mut report)?;
    Ok(report)
}

type Chain = Vec<Vec<u8>>;

/// What each process of the mesh shows to whoever connects.
fn chains(scene: &Scene) -> anyhow::Result<Vec<(String, Chain)>> {
    let proxies = scene.proxies().map(|proxy| Ok((proxy.program.name(), proxy.inbound)));
    let control = [&scene.mesh.discovery, &scene.mesh.identity];
    let control = control.map(|program| anyhow::Ok((program.name(), program.kept("--listen")?)));
    let all = proxies.into_iter().chain(control).map(|part| {
        let (name, address) = part?;
        let chain = presented(address).with_context(|| format!("connecting to {name}"))?;
        Ok((name, chain.into_iter().map(|certificate| certificate.to_vec()).collect()))
    });
    all.collect()
}

fn verifies(chain: &[Vec<u8>], bundle: &TrustBundle) -> bool {
    let chain: Vec<_> = chain.iter().map(|certificate| certificate.as_slice().into()).collect();
    verify_svid(&chain, bundle, std::time::SystemTime::now()).is_ok()
}

/// Waits until every process shows such a chain, and tells how long that took.
fn await_chains(
    scene: &Scene,
    report: &mut Report,
    what: &str,
    wanted: impl Fn(&[Vec<u8>]) -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let outcome = until_within(RENEWED, what, || {
        // Each look costs four handshakes, which are not the load that is meant.
        std::thread::park_timeout(LOOK);
        Ok(chains(scene)?.iter().all(|(_, chain)| wanted(chain)).then_some(()))
    });
    let seen = format!("after {:.1} s", started.elapsed().as_secs_f64());
    report.check(format!("all four processes show {what}"), seen, "within a life", outcome.is_ok());
    outcome
}

/// Waits until every proxy trusts so many anchors, and tells how long that took.
fn await_anchors(scene: &Scene, report: &mut Report, count: u64, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let what = format!("both proxies trust {count}");
    let outcome = until_within(patience, &what, || {
        for proxy in scene.proxies() {
            let certificate: serde_json::Value = serde_json::from_str(&proxy.admin("/certificate")?)?;
            if certificate["anchors"] != count {
                std::thread::park_timeout(LOOK);
                return Ok(None);
            }
        }
        Ok(Some(()))
    });
    let seen = format!("after {:.1} s", started.elapsed().as_secs_f64());
    report.check(what, seen, format!("within {} s", patience.as_secs()), outcome.is_ok());
    outcome
}
