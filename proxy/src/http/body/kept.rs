//! A request that can be sent more than once: its head, and its body as long as that is small.

use super::{replay::Replayable, request::RequestBody};
use http::{Request, request::Parts};

/// A request that is kept: what it takes to send it another time.
#[derive(Debug)]
pub(crate) struct Kept {
    head: Parts,
    /// `None`: the request has no body.
    body: Option<Replayable>,
}

impl Kept {
    /// Keeps what is sent with `request`, whose body is a try of what is kept from now on.
    pub(crate) fn of(request: &mut Request<RequestBody>) -> Self {
        let body = match std::mem::replace(request.body_mut(), RequestBody::Empty) {
            RequestBody::Empty => None,
            RequestBody::Stream(source) => Some(Replayable::new(source)),
            RequestBody::Replay(replay) => {
                // Somebody keeps it already, further out: one copy serves both.
                let kept = replay.again();
                *request.body_mut() = RequestBody::Replay(replay);
                return Self { head: head_of(request), body: Some(kept) };
            }
        };
        if let Some(body) = &body {
            *request.body_mut() = RequestBody::Replay(body.body());
        }
        Self { head: head_of(request), body }
    }

    /// Whether another try would send the whole of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Replayable::is_whole)
    }

    /// Whether all of it came.
    pub(crate) fn is_complete(&self) -> bool {
        self.body.as_ref().is_none_or(Replayable::is_complete)
    }

    /// Another one.
    pub(crate) fn request(&self) -> Request<RequestBody> {
        let body = self.body.as_ref().map_or(RequestBody::Empty, |body| RequestBody::Replay(body.body()));
        Request::from_parts(self.head.clone(), body)
    }
}

/// A copy of the head. Not of its extensions: what the library keeps there belongs to one connection.
fn head_of<B>(request: &Request<B>) -> Parts {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head.into_parts().0
}
