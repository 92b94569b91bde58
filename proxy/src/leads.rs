//! Where the bytes of a connection lead, by what its client says first. In: the connection and its target's plan. Out: HTTP, or a
//! backend, with the connection to it if one was opened meanwhile.
//!
//! Where routes speak for the application's own TLS, its ClientHello is read and not ended: the name in it says which backend. An
//! upstream that was opened before, for a client that was silent, is then not its own, and is closed without a byte.

use crate::{
    backend::{Pool, endpoint::ByteStream},
    detect::client_hello::{Peek, peek},
    discover::Plan,
    first::{self, First, FirstError, Wait},
    io::Prefixed,
    telemetry::Reason,
};
use remora_model::Protocol;
use std::{cell::RefCell, rc::Rc};
use tokio::io::AsyncRead;

/// What a connection is.
#[derive(Debug)]
pub(crate) enum Lead {
    Http1,
    Http2,
    /// Bytes: where they go, or why nowhere; and the connection to there, if it is open.
    Bytes(Result<Rc<Pool>, Reason>, Option<Prefixed<ByteStream>>),
    /// There is nothing to serve: the client left.
    Nowhere,
}

/// What a connection is without a look at its bytes, if its target says so.
pub(crate) fn said(plan: &Plan, said: Protocol, rng: &RefCell<fastrand::Rng>) -> Option<Lead> {
    let opaque = said == Protocol::Opaque && !plan.routes_tls();
    opaque.then(|| Lead::Bytes(plan.bytes(&mut rng.borrow_mut()), None))
}

/// Finds it out. `open` makes the connection to a backend while the client is silent; `learn` is told what came.
///
/// # Errors
/// As of [`first::protocol`].
pub(crate) async fn find<S: AsyncRead + Unpin>(
    client: &mut Prefixed<S>,
    (plan, rng): (&Plan, &RefCell<fastrand::Rng>),
    wait: Wait,
    open: impl AsyncFn(&Pool) -> Result<ByteStream, Reason>,
    learn: impl FnOnce(&First<ByteStream>),
) -> Result<Lead, FirstError<Reason>> {
    let by_name = plan.routes_tls();
    let bytes = || plan.bytes(&mut rng.borrow_mut());
    let mut opening = None;
    let opened = async || open(opening.insert(bytes()?)).await;
    let wait = Wait { by_name, ..wait };
    let first = first::protocol(client, &wait, opened).await?;
    learn(&first);
    Ok(match first {
        First::Http1 => Lead::Http1,
        First::Http2 => Lead::Http2,
        First::Tls if by_name => Lead::Bytes(named(plan, client.prefix(), &mut rng.borrow_mut()), None),
        First::Opaque | First::Tls | First::Mesh => Lead::Bytes(bytes(), None),
        First::Opened(upstream) => Lead::Bytes(opening.ok_or(Reason::Internal), Some(upstream)),
        First::Closed | First::Undecided => Lead::Nowhere,
    })
}

fn named(plan: &Plan, hello: &[u8], rng: &mut fastrand::Rng) -> Result<Rc<Pool>, Reason> {
    let name = match peek(hello) {
        Peek::Hello(hello) => hello.sni,
        Peek::Incomplete | Peek::NotTls => None,
    };
    plan.tls(name.as_deref(), rng)
}
