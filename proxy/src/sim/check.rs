//! What holds of every simulation, beside what its ends find out by themselves.

use super::{
    IDLE,
    ledger::{Outcome, Shared},
    mesh::Mesh,
    proxy::Proxy,
};
use crate::telemetry::Reason;
use std::{rc::Rc, time::Duration};
use tokio::time::sleep;

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How late a deadline's record may be.
const LATE: Duration = Duration::from_millis(200);

/// Where every rule has a bound, no request lasts longer, whoever reads or does not.
pub(super) async fn deadlines(shared: Rc<Shared>, mesh: Rc<Mesh>) {
    let bounds = shared.plan.rules.iter().map(|rule| rule.timeouts.request);
    let Some(bound) = bounds.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max()) else { return };
    let looks = (bound + LATE).as_millis().div_ceil(LOOK.as_millis()) as usize;
    let mut begun = std::collections::VecDeque::new();
    for _ in 0..200 {
        sleep(LOOK).await;
        begun.push_back(mesh.outbound.counted("requests"));
        if begun.len() > looks {
            let due = begun.pop_front().unwrap_or_default();
            let ended = mesh.outbound.ended();
            if ended < due {
                shared
                    .trace
                    .wrong(format_args!("{due} requests are older than {bound:?}, and only {ended} have ended"));
            }
        }
    }
}

/// When all clients have what they get.
pub(super) async fn at_the_end(shared: &Shared, mesh: &Mesh) {
    outcomes(shared, mesh);
    nothing_stays(shared, mesh).await;
    records(shared, mesh);
}

fn outcomes(shared: &Shared, mesh: &Mesh) {
    let (plan, ledger, trace) = (&shared.plan, &shared.ledger, &shared.trace);
    let mut repeated = 0;
    // What a GOAWAY leaves over is sent again, if the rule has a second try and the budget pays for it; that it does not is counted.
    let mut unpaid = mesh.outbound.counted("retry_overflow");
    for (client, ask) in plan.asks() {
        let (id, rule) = (ask.id, &plan.rules[ask.rule]);
        let Some(outcome) = ledger.outcome_of(id) else {
            trace.wrong(format_args!("request {id} has no outcome"));
            continue;
        };
        let left_over = matches!(&outcome, Outcome::Told { reason, .. } if reason == Reason::Draining.as_str());
        if plan.quiet && left_over && (rule.attempts() == 0 || unpaid > 0) {
            unpaid = unpaid.saturating_sub(u64::from(rule.attempts() > 0));
        } else if plan.quiet && !matches!(outcome, Outcome::Answered { .. }) {
            trace.wrong(format_args!("nothing broke, but request {id} came to {outcome:?}"));
        }
        if let Outcome::Answered { status, execution } = outcome {
            let sent = plan.reply(ask, execution).status;
            if status != sent.as_u16() {
                trace.wrong(format_args!("request {id} was answered with {sent}, and its client got {status}"));
            }
        }
        let executed = ledger.executed(id);
        let most = match client.outside || !rule.repeats(ask) {
            true => 1,
            false => 1 + rule.attempts() as usize,
        };
        if executed > most {
            trace.wrong(format_args!(
                "request {id} ({}) was executed {executed} times, at most {most} are allowed",
                ask.method
            ));
        }
        repeated += executed.saturating_sub(1);
        if ledger.copies(id) > usize::from(rule.mirrored && !client.outside) {
            trace.wrong(format_args!("request {id} was copied {} times", ledger.copies(id)));
        }
    }
    let asks = plan.asks().count() as f64;
    let seconds = trace.elapsed().as_secs_f64() + 10.0;
    let budget = f64::from(plan.settings.retry_ratio) * asks + f64::from(plan.settings.min_retries) * seconds;
    if repeated as f64 > budget {
        trace.wrong(format_args!("{repeated} retries were made, and the budget has {budget}"));
    }
}

/// Everything that was held for a request or a connection is given back.
pub(super) async fn nothing_stays(shared: &Shared, mesh: &Mesh) {
    let stays = || {
        let tasks = |proxy: &Proxy| proxy.world.resources.tasks.running();
        let held = |proxy: &Proxy| proxy.held();
        [
            ("ends of connections", shared.net.open()),
            ("tasks of the outbound proxy", tasks(&mesh.outbound)),
            ("tasks of the inbound proxy", tasks(&mesh.inbound)),
            ("bytes of the outbound proxy's account", held(&mesh.outbound)),
            ("bytes of the inbound proxy's account", held(&mesh.inbound)),
        ]
    };
    let mut waited = Duration::ZERO;
    while waited < IDLE && stays().iter().any(|(_, count)| *count > 0) {
        sleep(Duration::from_secs(1)).await;
        waited += Duration::from_secs(1);
    }
    shared.trace.say("end", format_args!("nothing is left after {waited:?}"));
    shared.net.describe();
    for (what, count) in stays().into_iter().filter(|(_, count)| *count > 0) {
        shared.trace.wrong(format_args!("{count} {what} stay"));
    }
}

/// Each request has one record at each proxy that it came to.
fn records(shared: &Shared, mesh: &Mesh) {
    let trace = &shared.trace;
    for (name, proxy) in [("outbound", &mesh.outbound), ("inbound", &mesh.inbound)] {
        let (begun, ended) = (proxy.counted("requests"), proxy.ended());
        if begun != ended {
            trace.wrong(format_args!("{name} has begun {begun} requests and ended {ended}"));
        }
        trace.say(name, format_args!("{begun} requests, {:?}", proxy.failures()));
    }
    let asked = shared.ledger.asked.get();
    let outside: u64 = shared.plan.clients.iter().filter(|it| it.outside).map(|it| it.asks.len() as u64).sum();
    let seen = mesh.outbound.counted("requests");
    if seen > asked || seen + outside > shared.plan.asks().count() as u64 {
        trace.wrong(format_args!("{asked} requests were made, and the outbound proxy has counted {seen}"));
    }
    for (reason, told) in shared.ledger.told() {
        let of = |proxy: &Proxy| proxy.failures().get(&reason).copied().unwrap_or(0);
        let counted = of(&mesh.outbound) + of(&mesh.inbound);
        if told > counted {
            trace.wrong(format_args!("{told} clients were told {reason}, and it was counted {counted} times"));
        }
    }
}
