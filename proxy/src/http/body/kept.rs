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
    /// Keeps what is sent with a request, whose body is a try of what is kept from now on. Where somebody keeps it already,
    /// further out, one copy of the body serves both.
    pub(crate) fn of(request: Request<RequestBody>) -> (Self, Request<RequestBody>) {
        let (head, body) = request.into_parts();
        let (kept, body) = match body {
            RequestBody::Empty => (None, RequestBody::Empty),
            RequestBody::Stream(source) => {
                let kept = Replayable::new(source);
                let body = RequestBody::Replay(kept.body());
                (Some(kept), body)
            }
            RequestBody::Replay(replay) => (Some(replay.again()), RequestBody::Replay(replay)),
        };
        (Self { head: head.clone(), body: kept }, Request::from_parts(head, body))
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
