//! Certificates that live 20 s are renewed all the time under load.

use crate::{
    report::Report,
    scene::{LIFE, Scene},
};
use remora_tests::local::Mesh;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the load lasts
    #[arg(long = "for", default_value = "10m", value_parser = crate::duration, value_name = "TIME")]
    time: Duration,
}

/// Certificates are renewed at a third of their life; half of it is the latest.
const RENEWAL: Duration = Duration::from_secs(LIFE.as_secs() / 2);

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("renewal");
    let scene = Scene::start(Mesh::builder(std::env::current_exe()?))?;
    scene.wait(args.time)?;
    let wanted = (args.time.as_secs() / RENEWAL.as_secs()) as f64;
    for (proxy, renewals) in scene.proxies().iter().zip(scene.renewals()?) {
        let what = format!("certificates of {}", proxy.program.name());
        report.check(what, renewals, format!("at least {wanted}"), renewals >= wanted);
    }
    scene.finish(&mut report)?;
    Ok(report)
}
