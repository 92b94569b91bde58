//! Asks policy whether a request may come in: as who its peer is, at this port, for its method and path. Refuses before that what
//! two readers could read in two ways: more than one authority, or a head beyond the bounds.
//!
//! Stands outside of [`Signals`](super::Signals): what is refused must not use up the room for the signals of what is let in, and
//! goes on as a refusal, to be counted and answered there. Inside, nothing but what was permitted goes anywhere.

use super::always_ready;
use crate::{
    http::{
        Wire,
        headers::{self, LastHost},
        request::{Entering, Failed, Judged, Refused, Restored},
        visit::Visit,
    },
    jwt::{Issuers, Shown},
    policy::{self, Act, Denial, Permitted, Policy},
    telemetry::Reason,
};
use http::{HeaderMap, Method, Request, Uri, header::UPGRADE, uri::Authority};
use std::{
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tower::{Layer, Service};

/// Makes [`Judge`] of one visit.
#[derive(Debug, Clone)]
pub(crate) struct JudgeLayer {
    visit: Rc<Visit>,
}

impl JudgeLayer {
    /// Requests are the peer's of `visit`.
    pub(crate) fn at(visit: &Rc<Visit>) -> Self {
        Self { visit: visit.clone() }
    }
}

impl<S> Layer<S> for JudgeLayer {
    type Service = Judge<S>;

    fn layer(&self, inner: S) -> Judge<S> {
        Judge { inner, visit: self.visit.clone(), host: LastHost::default() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge<S> {
    inner: S,
    visit: Rc<Visit>,
    host: LastHost,
}

impl<B, S> Service<Restored<B>> for Judge<S>
where
    S: Service<Judged<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    always_ready!();

    fn call(&mut self, restored: Restored<B>) -> S::Future {
        let judged = judge(&self.visit, &self.host, restored);
        self.inner.call(judged)
    }
}

fn judge<B>(visit: &Visit, host: &LastHost, mut restored: Restored<B>) -> Judged<B> {
    let refused = |restored, why| Err(Refused { restored: Box::new(restored), why });
    let request = &restored.request;
    if restored.client.wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return refused(restored, Failed::new(Reason::HeaderTooLarge));
    }
    let authority = match headers::authority(request, host) {
        Ok(authority) => authority,
        Err(reason) => return refused(restored, Failed::refused(reason, "the request names no single authority")),
    };
    let policy = visit.port.policy();
    let now = wall_clock(&policy);
    let shown = match policy.issuers().map_or(Ok(None), |issuers| issuers.check(head(request), now)) {
        Ok(shown) => shown,
        Err(refusal) => {
            let reason = if refusal.is_ours() { Reason::TokenKeysUnknown } else { Reason::TokenRefused };
            tell(visit, request, reason, &refusal);
            return refused(restored, Failed::new(reason));
        }
    };
    let (method, path) = (request.method(), request.uri().path());
    let host = authority.as_ref().map(Authority::as_str);
    let tried = policy.tried_issuers().and_then(|issuers| issuers.check(head(request), now).ok().flatten());
    let tokens = [&shown, &tried].map(|shown| shown.as_ref().map(|shown| &shown.verified.token));
    match visit.judge_by(&policy, Act::Request { method, path, host, headers: request.headers(), tokens }) {
        Ok(permit) => {
            if let Some(issuers) = policy.issuers() {
                hand_on(issuers, shown.as_ref(), &mut restored.request);
            }
            Ok(Permitted::of(permit, Entering { restored, authority }))
        }
        Err(denial) => {
            let why = match denial {
                Denial::Ambiguous(_) => Failed::refused(Reason::ProtocolError, denial.to_string()),
                _ => Failed::new(Reason::Denied),
            };
            tell(visit, request, why.reason, &denial);
            refused(restored, why)
        }
    }
}

/// The time by which tokens are judged, since 1970. Where no policy names an issuer, nobody asks for it.
fn wall_clock(policy: &Policy) -> Duration {
    let asked = policy.issuers().or(policy.tried_issuers()).is_some();
    if asked { SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() } else { Duration::ZERO }
}

fn head<B>(request: &Request<B>) -> (&HeaderMap, &Uri) {
    (request.headers(), request.uri())
}

/// Makes of what the client sent what the application gets. What may leave HTTP is judged again when policy changes, by the same token.
fn hand_on<B>(issuers: &Issuers, shown: Option<&Shown>, request: &mut Request<B>) {
    let may_leave = *request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
    if let Some(shown) = shown.filter(|_| may_leave) {
        request.extensions_mut().insert(shown.verified.clone());
    }
    let (mut fields, mut uri) = (std::mem::take(request.headers_mut()), std::mem::take(request.uri_mut()));
    issuers.hand_on(shown, &mut fields, &mut uri);
    (*request.headers_mut(), *request.uri_mut()) = (fields, uri);
}

fn tell<B>(visit: &Visit, request: &Request<B>, reason: Reason, denial: &dyn std::fmt::Display) {
    let (method, path) = (policy::logged(request.method().as_str()), policy::logged(request.uri().path()));
    remora_runtime::limited!(info by reason.as_str(), peer = %visit.peer_name, address = %visit.peer.address,
        parent = %visit.port.inbound().parent, method, path, reason = reason.as_str(), %denial, "request denied");
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Visited, address, open_port},
        *,
    };
    use crate::{
        http::{
            body::request::RequestBody,
            request::{ClientConnection, Way},
        },
        jwt::tests::{issuer_of_tests, token_of_tests},
        limits,
    };
    use futures_util::FutureExt;
    use http::{Request, request::Builder};
    use remora_model::{
        Action, AuthorizationRule, ClaimHeader, Inbound, JwtCondition, JwtIssuer, Operation, PathPattern, Source,
        TokenPlace,
    };
    use std::{convert::Infallible, future::ready};
    use tokio::time::Instant;
    use tower::service_fn;

    /// The authority of a request that is let in, or why it is not with what its caller may know.
    fn ask(inbound: Inbound, wire: Wire, request: Builder) -> Result<String, (Reason, String)> {
        let visited = Visited::new(inbound, false, address(1));
        let inner = service_fn(|judged: Judged<RequestBody>| ready(Ok::<_, Infallible>(judged)));
        let (client, request) =
            (Rc::new(ClientConnection::of_peer(wire, false, 1024)), request.body(RequestBody::Empty).unwrap());
        let way = Way::Same { caller: 0 };
        let restored = Restored { request, started: Instant::now(), grpc: false, client, way };
        let Ok(judged) = JudgeLayer::at(&visited.visit).layer(inner).call(restored).now_or_never().unwrap();
        match judged {
            Ok(permitted) => Ok(permitted.open().1.authority.unwrap().to_string()),
            Err(Refused { why, .. }) => Err((why.reason, why.detail.into_owned())),
        }
    }

    /// Nobody may ask for anything below `/admin`.
    fn guarded() -> Inbound {
        let to = vec![Operation { paths: vec![PathPattern::parse("/admin/*").unwrap()], ..Operation::default() }];
        let rule = AuthorizationRule { to, ..AuthorizationRule::deny_everything("shop/closed rule 1".into()) };
        Inbound { rules: vec![rule], ..open_port() }
    }

    #[test]
    fn a_request_comes_in_as_policy_says_and_its_caller_is_told_no_more_than_that() {
        let ask = |path: &str| ask(guarded(), Wire::Http1, Request::get(path).header("host", "api:80"));
        assert_eq!(ask("/a"), Ok("api:80".to_owned()));
        assert_eq!(ask("/admin/a"), Err((Reason::Denied, String::new())));
        let (reason, told) = ask("/a/..%2fadmin/a").unwrap_err();
        assert_eq!(reason, Reason::ProtocolError);
        assert!(told.starts_with("policy judges paths here, and "), "{told}");
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused_before_policy_is_asked() {
        let two = || Request::get("http://a/admin/a").header("host", "b");
        let told = "the request names no single authority".to_owned();
        assert_eq!(ask(guarded(), Wire::Http1, two()), Err((Reason::ProtocolError, told)));
        let large = "x".repeat(limits::HEADER_BYTES_MAX + limits::RESERVED_BYTES_MAX);
        let large = || Request::get("http://api/").header("x-large", &large);
        assert_eq!(ask(open_port(), Wire::Http2, large()), Err((Reason::HeaderTooLarge, String::new())));
        assert_eq!(ask(open_port(), Wire::Http1, large()), Ok("api".to_owned()), "the gate has looked at it");
    }

    /// Nobody comes in without a token of the test issuer.
    fn asks_for_a_token() -> Inbound {
        let issuer = issuer_of_tests();
        let jwt = Some(JwtCondition { issuers: vec![issuer.name.clone()], claims: Vec::new() });
        let from = vec![Source { jwt, ..Source::default() }];
        let rule = AuthorizationRule { from, ..AuthorizationRule::of("shop/users rule 0".into(), Action::Allow) };
        Inbound { rules: vec![rule], default_deny: true, issuers: vec![issuer], ..open_port() }
    }

    #[test]
    fn a_token_lets_its_request_in_and_a_bad_one_is_told_from_none() {
        let ask_of = |inbound: Inbound, token: Option<&str>| {
            let bearer = token.map(|token| ("authorization", format!("Bearer {token}")));
            comes(inbound, &[("x-user", "forged".to_owned())].into_iter().chain(bearer).collect::<Vec<_>>())
        };
        let ask = |token| ask_of(asks_for_a_token(), token);
        let good = token_of_tests(None);
        let headers = ask(Some(&good)).unwrap();
        assert_eq!((headers["x-user"].to_str().unwrap(), headers.contains_key("authorization")), ("ann", false));
        assert_eq!(ask(None).unwrap_err(), Reason::Denied);
        assert_eq!(ask(Some("x.y.z")).unwrap_err(), Reason::TokenRefused);
        assert_eq!(ask(Some(&format!("{good}x"))).unwrap_err(), Reason::TokenRefused);
        let mut unknown = asks_for_a_token();
        unknown.issuers[0].name = "shop/new issuer 0".into();
        unknown.issuers[0].keys = None;
        assert_eq!(ask_of(unknown, Some(&good)).unwrap_err(), Reason::TokenKeysUnknown);
        let answer = crate::http::respond::failure(Reason::TokenRefused, false, "");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    }

    /// What comes of a request with these fields: why it is refused, or what the application gets of them.
    fn comes(inbound: Inbound, fields: &[(&str, String)]) -> Result<HeaderMap, Reason> {
        let visited = Visited::new(inbound, false, address(1));
        let inner = service_fn(|judged: Judged<RequestBody>| ready(Ok::<_, Infallible>(judged)));
        let client = Rc::new(ClientConnection::of_peer(Wire::Http1, false, 1024));
        let bare = Request::get("/a").header("host", "api");
        let request = fields.iter().fold(bare, |request, (name, value)| request.header(*name, value));
        let (request, way) = (request.body(RequestBody::Empty).unwrap(), Way::Same { caller: 0 });
        let restored = Restored { request, started: Instant::now(), grpc: false, client, way };
        let Ok(judged) = JudgeLayer::at(&visited.visit).layer(inner).call(restored).now_or_never().unwrap();
        judged.map(|it| it.open().1.restored.request.headers().clone()).map_err(|refused| refused.why.reason)
    }

    #[test]
    fn an_issuer_in_dry_run_changes_nothing_for_any_request() {
        let told = ClaimHeader { claim: vec!["sub".into()], header: "x-try".parse().unwrap() };
        let from = vec![TokenPlace::bearer(), TokenPlace::Cookie("s".into())];
        let (name, issuer) = ("shop/try issuer 0".into(), "two".into());
        let tried = JwtIssuer { name, issuer, from, claim_headers: vec![told], dry_run: true, ..issuer_of_tests() };
        let (good, of_tried) = (token_of_tests(None), token_of_tests(Some("two")));
        let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
        let cookie = |token: &str| ("cookie", format!("s={token}"));
        let requests = [
            vec![],
            vec![bearer(&good)],
            vec![bearer(&of_tried)],
            vec![bearer("x.y.z")],
            vec![bearer(&good), cookie(&of_tried)],
            vec![bearer(&good), cookie("x.y.z"), ("x-try", "kept".to_owned())],
            vec![cookie(&of_tried), ("x-try", "kept".to_owned())],
            vec![cookie("x.y.z")],
        ];
        let mut refused = 0;
        for (base, fields) in
            [asks_for_a_token(), open_port()].iter().flat_map(|base| requests.iter().map(move |it| (base, it)))
        {
            let with = Inbound { issuers: [&base.issuers[..], std::slice::from_ref(&tried)].concat(), ..base.clone() };
            let (before, now) = (comes(base.clone(), fields), comes(with, fields));
            assert_eq!(now, before, "{fields:?}");
            refused += usize::from(now.is_err());
        }
        assert_eq!(refused, 5, "each of the others comes in, with all that it had");
    }
}
