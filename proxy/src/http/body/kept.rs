//! A request that can be sent more than once: its head, and its body as long as that is small.

use super::{replay::Replayable, request::RequestBody};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};

/// A request that is kept: what it takes to send it another time.
#[derive(Debug)]
pub(crate) struct Kept {
    head: Head,
    body: KeptBody,
}

/// What it takes to send a body another time.
#[derive(Debug)]
enum KeptBody {
    None,
    Replayable(Replayable),
    /// Of a request of this proxy's own. Boxed, as such have few bodies, and all others pay for its room.
    Own(Box<Bytes>),
}

/// A head that is nearly never sent: its fields in a row, since what a map costs to be looked into would be paid by every request. Without
/// extensions, which are of one connection.
#[derive(Debug)]
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Head {
    fn of(parts: &Parts) -> Self {
        let Parts { method, uri, version, headers, .. } = parts;
        let fields = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { method: method.clone(), uri: uri.clone(), version: *version, fields }
    }

    fn request(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        for (name, value) in &self.fields {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
    }
}

impl Kept {
    /// Keeps what is sent with a request, whose body is a try of what is kept from now on. Where somebody keeps it already,
    /// further out, one copy of the body serves both.
    pub(crate) fn of(request: Request<RequestBody>) -> (Self, Request<RequestBody>) {
        let (head, body) = request.into_parts();
        let (kept, body) = match body {
            RequestBody::Empty | RequestBody::Own(None) => (KeptBody::None, RequestBody::Empty),
            RequestBody::Own(Some(bytes)) => (KeptBody::Own(Box::new(bytes.clone())), RequestBody::Own(Some(bytes))),
            RequestBody::Stream(source) => {
                let kept = Replayable::new(source);
                let body = RequestBody::Replay(kept.body());
                (KeptBody::Replayable(kept), body)
            }
            RequestBody::Replay(replay) => (KeptBody::Replayable(replay.again()), RequestBody::Replay(replay)),
        };
        (Self { head: Head::of(&head), body: kept }, Request::from_parts(head, body))
    }

    /// Whether another try would send the whole of it.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.body {
            KeptBody::Replayable(body) => body.is_whole(),
            KeptBody::None | KeptBody::Own(_) => true,
        }
    }

    /// Whether all of it came.
    pub(crate) fn is_complete(&self) -> bool {
        match &self.body {
            KeptBody::Replayable(body) => body.is_complete(),
            KeptBody::None | KeptBody::Own(_) => true,
        }
    }

    /// Another one.
    pub(crate) fn request(&self) -> Request<RequestBody> {
        let body = match &self.body {
            KeptBody::None => RequestBody::Empty,
            KeptBody::Replayable(body) => RequestBody::Replay(body.body()),
            KeptBody::Own(bytes) => RequestBody::Own(Some((**bytes).clone())),
        };
        self.head.request(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_head_is_sent_as_it_was() {
        let asked = Request::builder()
            .method("PURGE")
            .uri("http://api.shop/a?b=c")
            .version(Version::HTTP_2)
            .header("x-several", "1")
            .header("x-other", "a")
            .header("x-several", "2");
        let (kept, sent) = Kept::of(asked.body(RequestBody::Empty).unwrap());
        let of_own = Request::new(RequestBody::Own(Some(Bytes::from_static(b"all of it"))));
        let (own, _) = Kept::of(of_own);
        assert!(matches!(own.request().body(), RequestBody::Own(Some(bytes)) if bytes == "all of it"));
        for again in [kept.request(), kept.request()] {
            let (expected, again) = (&sent, &again);
            assert_eq!(
                (again.method(), again.uri(), again.version()),
                (expected.method(), expected.uri(), expected.version())
            );
            assert_eq!(again.headers(), expected.headers());
        }
        assert!(kept.is_whole() && kept.is_complete());
    }
}
