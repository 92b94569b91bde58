//! Reads what the peer's proxy says of how a request came to it, and takes off all fields that only proxies may write.
//!
//! Stands outside of everything that looks at the request: nothing behind it sees a field that a client made up. Proxies add fields
//! to requests over HTTP/2; a request over HTTP/1 came on a connection of its own, as its client wrote it, or with a word that it was an extended
//! CONNECT.

use super::always_ready;
use crate::{
    backend::endpoint::Callers,
    http::{
        Wire,
        extended::Extended,
        form::Form,
        grpc, headers,
        request::{ClientConnection, Restored, Way},
    },
};
use http::Request;
use std::rc::Rc;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Makes [`Restore`] of one client connection.
#[derive(Debug, Clone)]
pub(crate) struct RestoreLayer {
    client: Rc<ClientConnection>,
}

impl RestoreLayer {
    /// The connection is `client`'s.
    pub(crate) fn of(client: &Rc<ClientConnection>) -> Self {
        Self { client: client.clone() }
    }
}

impl<S> Layer<S> for RestoreLayer {
    type Service = Restore<S>;

    fn layer(&self, inner: S) -> Restore<S> {
        Restore { inner, client: self.client.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Restore<S> {
    inner: S,
    client: Rc<ClientConnection>,
}

impl<B, S> Service<Request<B>> for Restore<S>
where
    S: Service<Restored<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let started = Instant::now();
        let fields = request.headers_mut();
        let believed = self.client.mesh && self.client.wire == Wire::Http2;
        let way = match believed {
            false => Way::Same { caller: 0 },
            true => match fields.remove(headers::RESTORE) {
                Some(form) => Way::Changed(Form::read(&form)),
                None => Way::Same { caller: Callers::number(fields.get(headers::CALLER)) },
            },
        };
        let tunnel = self.client.mesh && self.client.wire == Wire::Http1;
        let extended = if tunnel { fields.remove(headers::EXTENDED) } else { None };
        headers::strip_reserved(fields);
        let grpc = grpc::is_grpc(fields);
        if let Some(extended) = extended {
            request.extensions_mut().insert(Extended::read(&extended));
        }
        self.inner.call(Restored { request, started, grpc, client: self.client.clone(), way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::body::request::RequestBody, telemetry::Proto};
    use futures_util::FutureExt;
    use http::Version;
    use std::{convert::Infallible, future::ready};
    use tower::service_fn;

    /// How a request with these fields of proxies came, by protocol and way, and which fields are left.
    fn came(wire: Wire, mesh: bool, fields: &[(&str, &str)]) -> (Proto, Way, Vec<String>) {
        let client = Rc::new(ClientConnection::of_peer(wire, mesh, 1024));
        let inner = service_fn(|restored: Restored<RequestBody>| ready(Ok::<_, Infallible>(restored)));
        let request = fields.iter().fold(Request::get("http://api/"), |it, (name, value)| it.header(*name, *value));
        let request = request.body(RequestBody::Empty).unwrap();
        let Ok(restored) = RestoreLayer::of(&client).layer(inner).call(request).now_or_never().unwrap();
        let names = restored.request.headers().keys().map(|name| name.as_str().to_owned()).collect();
        (restored.proto(), restored.way, names)
    }

    #[test]
    fn what_proxies_add_is_believed_of_a_proxy_on_the_wire_on_which_it_is_added() {
        let fields = [("x-remora-http", "1.0"), ("x-remora-caller", "3"), ("x_remora_client_id", "x"), ("x-kept", "1")];
        for (wire, mesh, proto, restored) in [
            (Wire::Http2, true, Proto::Http1, true),
            (Wire::Http2, false, Proto::Http2, false),
            (Wire::Http1, true, Proto::Http1, false),
            (Wire::Http1, false, Proto::Http1, false),
        ] {
            let (seen, way, names) = came(wire, mesh, &fields);
            assert_eq!((seen, names), (proto, vec!["x-kept".to_owned()]), "{wire:?} {mesh}");
            match way {
                Way::Changed(form) => assert!(restored && form.version() == Version::HTTP_10),
                Way::Same { caller } => assert!(!restored && caller == 0, "{wire:?} {mesh}"),
            }
        }
        for (wire, mesh, believed) in
            [(Wire::Http1, true, true), (Wire::Http1, false, false), (Wire::Http2, true, false)]
        {
            let client = Rc::new(ClientConnection::of_peer(wire, mesh, 1024));
            let inner = service_fn(|restored: Restored<RequestBody>| ready(Ok::<_, Infallible>(restored)));
            let request = Request::get("/chat").header("x-remora-extended-connect", "https");
            let request = request.body(RequestBody::Empty).unwrap();
            let Ok(restored) = RestoreLayer::of(&client).layer(inner).call(request).now_or_never().unwrap();
            assert_eq!(restored.request.extensions().get::<Extended>().is_some(), believed, "{wire:?} {mesh}");
            assert!(restored.request.headers().is_empty());
        }
        let (_, way, _) = came(Wire::Http2, true, &fields[1..]);
        assert_eq!(way, Way::Same { caller: 3 });
        assert_eq!(came(Wire::Http2, true, &[("content-type", "application/grpc")]).0, Proto::Grpc);
    }
}
