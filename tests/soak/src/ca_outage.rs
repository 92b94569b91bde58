//! The CA is killed for half of a certificate's life, and comes back; nobody is to notice.

use crate::{
    report::Report,
    scene::{LIFE, Scene},
};
use remora_tests::local::Mesh;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often it is killed
    #[arg(long, default_value_t = 5)]
    times: u32,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("ca-outage");
    let scene = Scene::start(Mesh::builder(std::env::current_exe()?))?;
    // Away from the start, where everybody's certificate is new at once.
    scene.wait(LIFE)?;
    let mut renewed = Vec::new();
    for _ in 0..args.times {
        scene.mesh.identity.kill()?;
        let before = scene.renewals()?;
        scene.wait(LIFE / 2)?;
        let during = scene.renewals()?;
        scene.mesh.identity.restart()?;
        // Not a whole multiple of a renewal, so that each outage meets certificates of another age.
        scene.wait(LIFE.mul_f64(0.9))?;
        let after = scene.renewals()?;
        renewed.push(before == during && during.iter().zip(&after).all(|(during, after)| after > during));
    }
    let outages = format!("{} of {:.0} s", args.times, (LIFE / 2).as_secs_f64());
    report.note("outages of the CA", outages);
    let all = renewed.iter().all(|renewed| *renewed);
    let seen = format!("{} of {}", renewed.iter().filter(|renewed| **renewed).count(), args.times);
    report.check("no renewal during it, each proxy's after it", seen, "all", all);
    scene.finish(&mut report)?;
    Ok(report)
}
