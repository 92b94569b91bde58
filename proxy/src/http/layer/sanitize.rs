//! Reads what a request asks for, and refuses what two readers could read in two ways: more than one authority, or a head beyond
//! the bounds. Takes off the fields that only proxies may write.
//!
//! Stands outermost in a connection's stack: nothing behind it sees a field that the client made up.

use super::always_ready;
use crate::{
    http::{
        Wire,
        body::response::ResponseBody,
        grpc,
        headers::{self, LastHost},
        request::{Arrived, ClientConnection},
        respond,
    },
    telemetry::{Direction, Reason},
};
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use std::{convert::Infallible, rc::Rc};
use tokio::time::Instant;
use tower::{Layer, Service};

/// Makes [`Sanitize`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct SanitizeLayer {
    client: Rc<ClientConnection>,
}

impl SanitizeLayer {
    /// The connection is `client`'s.
    pub(crate) fn outbound(client: &Rc<ClientConnection>) -> Self {
        Self { client: client.clone() }
    }
}

impl<S> Layer<S> for SanitizeLayer {
    type Service = Sanitize<S>;

    fn layer(&self, inner: S) -> Sanitize<S> {
        Sanitize { inner, client: self.client.clone(), host: LastHost::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sanitize<S> {
    inner: S,
    client: Rc<ClientConnection>,
    host: LastHost,
}

impl<B, S> Service<Request<B>> for Sanitize<S>
where
    S: Service<Arrived<B>, Response = Response<ResponseBody>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<S::Response, Infallible>>, S::Future>;

    always_ready!();

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let started = Instant::now();
        let grpc = grpc::is_grpc(request.headers());
        let refusal =
            |reason, detail| Either::Left(ready(Ok(respond::refusal(Direction::Outbound, reason, grpc, detail))));
        if self.client.wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
            return refusal(Reason::HeaderTooLarge, "");
        }
        match headers::authority(&request, &self.host) {
            Err(reason) => refusal(reason, "the request names no single authority"),
            Ok(authority) => {
                headers::strip_reserved(request.headers_mut());
                let client = self.client.clone();
                Either::Right(self.inner.call(Arrived { request, started, grpc, authority, client }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::test::real, *};
    use crate::{http::body::request::RequestBody, limits};
    use http::{Method, StatusCode, Version};
    use std::{cell::RefCell, future::ready};
    use tower::service_fn;

    /// The status of what is refused, or what arrives.
    async fn ask(wire: Wire, request: Request<RequestBody>) -> Result<Arrived<RequestBody>, StatusCode> {
        let seen = Rc::new(RefCell::new(None));
        let kept = seen.clone();
        let inner = service_fn(move |arrived: Arrived<RequestBody>| {
            *kept.borrow_mut() = Some(arrived);
            ready(Ok::<_, Infallible>(respond::empty(StatusCode::OK)))
        });
        let Ok(answer) =
            SanitizeLayer::outbound(&ClientConnection::of_application(wire, true)).layer(inner).call(request).await;
        seen.take().ok_or(answer.status())
    }

    fn get(version: Version, uri: &str, fields: &[(&str, &str)]) -> Request<RequestBody> {
        let request = Request::get(uri).version(version);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(RequestBody::Empty).unwrap()
    }

    #[test]
    fn a_request_names_one_authority_or_goes_nowhere() {
        real(async {
            let h1 = Version::HTTP_11;
            for (uri, fields, expected) in [
                ("/", &[("host", "api")][..], Ok("api")),
                ("http://api/", &[], Ok("api")),
                ("http://api/", &[("host", "API:80")], Ok("api")),
                ("http://api/", &[("host", "other")], Err(400)),
                ("/", &[("host", "a"), ("host", "a")], Err(400)),
                ("/", &[("host", "user@api")], Err(400)),
                ("/", &[("host", "a b")], Err(400)),
            ] {
                let arrived = ask(Wire::Http1, get(h1, uri, fields)).await;
                let seen = arrived.map(|arrived| arrived.authority.unwrap().to_string()).map_err(|it| it.as_u16());
                assert_eq!(seen, expected.map(str::to_owned), "{uri} {fields:?}");
            }
            let mut star = get(h1, "*", &[("host", "api")]);
            assert_eq!(ask(Wire::Http1, star).await.unwrap_err(), 400);
            star = get(h1, "*", &[("host", "api")]);
            *star.method_mut() = Method::OPTIONS;
            assert!(ask(Wire::Http1, star).await.is_ok());
        });
    }

    #[test]
    fn what_only_proxies_may_write_does_not_arrive() {
        real(async {
            let fields = [("host", "api"), ("x-remora-http", "1.0"), ("x_remora_client_id", "x"), ("x-kept", "1")];
            let arrived = ask(Wire::Http1, get(Version::HTTP_11, "/", &fields)).await.unwrap();
            let names: Vec<_> = arrived.request.headers().keys().map(http::HeaderName::as_str).collect();
            assert_eq!(names, ["host", "x-kept"]);
        });
    }

    #[test]
    fn an_http2_head_has_bounds_that_the_gate_has_for_http1() {
        real(async {
            let value = "x".repeat(limits::HEADER_BYTES_MAX + limits::RESERVED_BYTES_MAX);
            let fields = [("x-large", value.as_str())];
            let refused = ask(Wire::Http2, get(Version::HTTP_2, "http://api/", &fields)).await.unwrap_err();
            assert_eq!(refused, 431);
        });
    }
}
