//! An application of a simulation: a server that speaks whatever its client speaks, and answers as the plan says.

use super::{
    app1, app2,
    ledger::Shared,
    net::Incoming,
    plan::{Ask, Reply},
};
use crate::io::Prefixed;
use std::rc::Rc;

/// What an HTTP/2 connection begins with, as far as it has to be read.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// An application.
pub(super) struct App {
    pub name: String,
    /// It gets copies only.
    pub mirror: bool,
    pub shared: Rc<Shared>,
}

impl App {
    /// Writes down that a request is executed here: for the how manieth time, and how it is to be answered.
    pub(super) fn execute(&self, ask: &Ask) -> (usize, Reply) {
        let id = ask.id;
        let execution = self.shared.ledger.execute(id, self.mirror);
        let reply = self.shared.plan.reply(ask, execution);
        self.shared.trace.say(&self.name, format_args!("request {id}, execution {execution}: {reply}"));
        (execution, reply)
    }
}

/// Serves all connections.
pub(super) async fn serve(app: Rc<App>, mut incoming: Incoming) {
    while let Some((stream, _)) = incoming.recv().await {
        let app = app.clone();
        tokio::task::spawn_local(async move {
            let mut stream = Prefixed::new(stream);
            loop {
                let seen = stream.prefix();
                let same = seen.len().min(PREFACE.len());
                if seen[..same] != PREFACE[..same] {
                    return app1::serve(app, stream).await;
                }
                if same == PREFACE.len() {
                    return app2::serve(app, stream).await;
                }
                match stream.read_ahead(PREFACE.len()).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
        });
    }
}
