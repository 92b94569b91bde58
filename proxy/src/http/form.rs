//! What a client wrote over HTTP/1 that HTTP/2 has no place for: which version, which form of the target, which `Host`. A proxy
//! sends it along ([`RESTORE`]), and the proxy at the application writes the request as it was.

use super::headers::{self, CALLER, RESTORE};
use crate::telemetry::Reason;
use http::{
    HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use remora_model::Protocol;

/// Stands for an authority that the request does not have: `http` cannot write a URI with a scheme and without one.
const NO_HOST: &str = "none.remora.invalid";

/// How a request is written over HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    old: bool,
    /// Its target has scheme and authority (RFC 9112 §3.2.2).
    absolute: bool,
    host: Host,
}

/// Its `Host` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// Says the authority.
    Authority,
    /// Is there and empty (RFC 9112 §3.2: there is no authority).
    Empty,
    /// HTTP/1.0 needs none.
    Absent,
}

impl Form {
    /// How `request` came, from a client that does not know of the proxy if `transparent`. One that does means the absolute form
    /// for the proxy (RFC 9112 §3.2.2), and the application gets the origin form.
    pub(crate) fn of<B>(request: &Request<B>, transparent: bool) -> Self {
        let absolute = request.uri().authority().is_some();
        let host = match request.headers().iter().find(|(name, _)| **name == HOST) {
            _ if absolute && !transparent => Host::Authority,
            None => Host::Absent,
            Some((_, value)) if value.is_empty() => Host::Empty,
            Some(_) => Host::Authority,
        };
        Self { old: request.version() == Version::HTTP_10, absolute: absolute && transparent, host }
    }

    /// The value of [`RESTORE`].
    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from_static(match (self.old, self.absolute, self.host) {
            (false, false, Host::Authority) => "1.1",
            (false, false, Host::Empty) => "1.1;empty-host",
            (false, false, Host::Absent) => "1.1;no-host",
            (false, true, Host::Authority) => "1.1;absolute",
            (false, true, Host::Empty) => "1.1;absolute;empty-host",
            (false, true, Host::Absent) => "1.1;absolute;no-host",
            (true, false, Host::Authority) => "1.0",
            (true, false, Host::Empty) => "1.0;empty-host",
            (true, false, Host::Absent) => "1.0;no-host",
            (true, true, Host::Authority) => "1.0;absolute",
            (true, true, Host::Empty) => "1.0;absolute;empty-host",
            (true, true, Host::Absent) => "1.0;absolute;no-host",
        })
    }

    /// What a value of [`RESTORE`] says. Words that a newer proxy may add are passed over.
    pub(crate) fn read(value: &HeaderValue) -> Self {
        let mut words = value.as_bytes().split(|byte| *byte == b';');
        let mut form = Self { old: words.next() == Some(b"1.0"), absolute: false, host: Host::Authority };
        for word in words {
            match word {
                b"absolute" => form.absolute = true,
                b"empty-host" => form.host = Host::Empty,
                b"no-host" => form.host = Host::Absent,
                _ => {}
            }
        }
        form
    }

    /// The version to write.
    pub(crate) fn version(self) -> Version {
        if self.old { Version::HTTP_10 } else { Version::HTTP_11 }
    }

    /// Takes off what HTTP/2 says otherwise: a `Host` that says the authority. One beside an absolute target stays if it is
    /// spelled otherwise.
    pub(crate) fn strip_host<B>(self, request: &mut Request<B>, authority: Option<&Authority>) {
        let spelled = |host: &HeaderValue, authority: &Authority| {
            *host != *authority.as_str()
                && Authority::try_from(host.as_bytes()).is_ok_and(|host| headers::same_authority(authority, &host))
        };
        let stays = self.absolute
            && self.host == Host::Authority
            && request.headers().get(HOST).zip(authority).is_some_and(|(host, authority)| spelled(host, authority));
        if !stays {
            request.headers_mut().remove(HOST);
        }
    }

    /// Writes the request, which came over HTTP/2, in this form.
    pub(crate) fn restore<B: http_body::Body>(self, request: &mut Request<B>) {
        if let Some(authority) = request.uri().authority().cloned() {
            if !self.absolute {
                // Of a target that is nothing but a fragment, `http` keeps a path that is empty and would be written so.
                let path = request.uri().path_and_query().cloned().map(Uri::from);
                let path = path.filter(|origin| !origin.path().is_empty());
                *request.uri_mut() = path.unwrap_or_else(|| Uri::from_static("/"));
            }
            let host = match self.host {
                // Told by older proxies in this way alone.
                Host::Authority if authority.as_str() == NO_HOST => None,
                Host::Authority => HeaderValue::from_str(authority.as_str()).ok(),
                Host::Empty => Some(HeaderValue::from_static("")),
                Host::Absent => None,
            };
            if let Some(host) = host
                && request.headers().get(HOST).is_none_or(HeaderValue::is_empty)
            {
                request.headers_mut().insert(HOST, host);
            }
        }
        frame(request, self.version());
    }
}

/// The URI that goes over HTTP/2, which has an authority always (RFC 9113 §8.3.1).
fn absolute_uri(uri: &Uri, authority: Option<&Authority>) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut parts = Parts::default();
    parts.scheme = Some(uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(authority.cloned().unwrap_or_else(|| Authority::from_static(NO_HOST)));
    parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts)
}

/// Turns the head into what HTTP/2 carries: an absolute URI, no `Host` but what `form` keeps of it.
pub(crate) fn to_http2<B>(
    request: &mut Request<B>,
    authority: Option<&Authority>,
    form: Option<Form>,
) -> Result<(), Reason> {
    if request.version() != Version::HTTP_2 || request.uri().authority().is_none() {
        *request.uri_mut() = absolute_uri(request.uri(), authority).map_err(|_| Reason::ProtocolError)?;
    }
    match form {
        Some(form) => form.strip_host(request, authority),
        None => drop(request.headers_mut().remove(HOST)),
    }
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Has the request go out as HTTP/1, its body framed as it must be.
pub(crate) fn frame<B: http_body::Body>(request: &mut Request<B>, version: Version) {
    // hyper takes it that these have no body, and drops one whose length it does not know.
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && version == Version::HTTP_11
        && !request.body().is_end_stream()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    *request.version_mut() = version;
}

/// What [`fit`] took off a request, to be put on again where that request goes to another endpoint.
#[derive(Debug)]
pub(crate) struct Unfit {
    uri: Uri,
    restore: Option<HeaderValue>,
    caller: Option<HeaderValue>,
    host: Option<HeaderValue>,
}

/// Gives an outgoing request, made for a peer in the mesh, the form that an endpoint outside of it takes: HTTP/1, if the second
/// value is true.
pub(crate) fn fit<B: http_body::Body>(request: &mut Request<B>, protocol: Protocol) -> (Unfit, bool) {
    let (uri, headers) = (request.uri().clone(), request.headers_mut());
    let (restore, caller, host) = (headers.remove(RESTORE), headers.remove(CALLER), headers.get(HOST).cloned());
    let form = restore.as_ref().filter(|_| protocol != Protocol::Http2).map(Form::read);
    match form {
        Some(form) => form.restore(request),
        None => drop(headers.remove(HOST)),
    }
    (Unfit { uri, restore, caller, host }, form.is_some())
}

impl Unfit {
    /// Gives the request the form again that it had before [`fit`].
    pub(crate) fn undo<B>(self, request: &mut Request<B>) {
        let headers = request.headers_mut();
        // Whatever the client said of it ended at its hop.
        headers.remove(TRANSFER_ENCODING);
        headers.remove(HOST);
        headers.extend(self.host.map(|value| (HOST, value)));
        headers.extend(self.restore.map(|value| (RESTORE, value)));
        headers.extend(self.caller.map(|value| (CALLER, value)));
        *request.uri_mut() = self.uri;
        *request.version_mut() = Version::HTTP_2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    /// What the application gets of `target` with `host`, over HTTP/2 between two proxies.
    fn crossed(version: Version, target: &str, host: Option<&str>, transparent: bool) -> (String, Option<String>) {
        let method = if target == "*" { Method::OPTIONS } else { Method::GET };
        let mut request = Request::builder().method(method).version(version).uri(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let mut request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let form = Form::of(&request, transparent);
        let authority = headers::authority(&request, &headers::LastHost::default()).unwrap();
        to_http2(&mut request, authority.as_ref(), Some(form)).unwrap();
        assert_eq!(request.version(), Version::HTTP_2);
        Form::read(&form.value()).restore(&mut request);
        assert_eq!(request.version(), version);
        let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
        (request.uri().to_string(), host)
    }

    #[test]
    fn a_target_that_is_nothing_but_a_fragment_is_the_root() {
        let path = PathAndQuery::try_from("#x").unwrap();
        let uri = Uri::builder().scheme("http").authority("api.shop").path_and_query(path).build().unwrap();
        let mut request = Request::new(Empty::<bytes::Bytes>::new());
        *request.uri_mut() = uri;
        Form::read(&HeaderValue::from_static("1.1")).restore(&mut request);
        assert_eq!(request.uri().to_string(), "/", "an empty one would be written as none");
    }

    #[test]
    fn a_request_arrives_as_it_left() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            for (target, host) in [
                ("/a?b=c", Some("api.shop")),
                ("/a?", Some("API.shop:8080")),
                ("/", Some("")),
                ("/", None),
                ("*", Some("api")),
                ("http://example.com/a?b=c", Some("example.com")),
                ("http://example.com/a", Some("example.com:80")),
                ("http://example.com:80/a", Some("Example.com")),
                ("https://example.com/", Some("example.com")),
                ("http://example.com/", Some("")),
                ("http://example.com/", None),
            ] {
                let expected = (target.to_owned(), host.map(str::to_owned));
                assert_eq!(crossed(version, target, host, true), expected, "{version:?}");
            }
        }
    }

    #[test]
    fn a_client_that_knows_of_the_proxy_means_the_absolute_form_for_it() {
        for host in [Some("example.com:80"), Some(""), None] {
            let arrived = crossed(Version::HTTP_11, "http://example.com/a", host, false);
            assert_eq!(arrived, ("/a".to_owned(), Some("example.com".to_owned())), "{host:?}");
        }
    }

    #[test]
    fn what_another_version_of_the_proxy_says_is_understood() {
        let read = |value| Form::read(&HeaderValue::from_static(value));
        assert_eq!(read("1.1;new;absolute"), Form { old: false, absolute: true, host: Host::Authority });
        assert_eq!(read("1.0"), Form { old: true, absolute: false, host: Host::Authority });
        assert_eq!(read(""), read("1.1"));
    }

    /// A request that was not sent goes to another endpoint, which may take another form.
    #[test]
    fn what_was_made_for_one_endpoint_is_undone_for_the_next() {
        for (method, body, version) in [("GET", "", "1.1"), ("GET", "x", "1.1"), ("POST", "x", "1.0")] {
            let mut request = Request::builder().method(method).uri("http://api.shop/a?b=c").version(Version::HTTP_2);
            for (name, value) in [(RESTORE, version), (CALLER, "7"), (http::header::ACCEPT, "*/*")] {
                request = request.header(name, value);
            }
            let mut request =
                request.body(http_body_util::Full::new(bytes::Bytes::from_static(body.as_bytes()))).unwrap();
            let before = (request.uri().clone(), request.version(), request.headers().clone());
            let (unfit, http1) = fit(&mut request, Protocol::Detect);
            assert!(http1 && request.headers()[HOST] == "api.shop" && request.uri() == "/a?b=c");
            assert!(!request.headers().keys().any(|name| headers::is_reserved(name.as_str())));
            unfit.undo(&mut request);
            let after = (request.uri().clone(), request.version(), request.headers().clone());
            assert_eq!(after, before, "{method} {body}");
            let (_, http1) = fit(&mut request, Protocol::Http2);
            assert!(!http1 && request.version() == Version::HTTP_2);
        }
    }
}
