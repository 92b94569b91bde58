//! Proof by the API server: a TokenReview with our audience.
//!
//! The API server knows what no key can tell: that the pod the token is bound to still exists, under the same uid, and its
//! service account too (give or take the ten seconds for which it remembers its own verdicts). A token is never reviewed
//! without an audience: without one, the API server accepts tokens that were made for itself, which every pod and many
//! a tool holds. And while it answers no verdict is taken from anywhere else: a remembered one would give the token of a pod
//! that is gone a certificate for a day.
//!
//! What the token says of itself is read first, unverified, and only ever against it: what cannot be accepted is refused
//! without asking, so that junk costs the API server nothing. Bounded: reviews at once, and time. When
//! the API server is down the caller gets `Unavailable` and tries again, except for what [`super::memory`] allows.

use super::{Claims, Pod, Proven, Rules, TokenError, cut, memory::Memory};
use jsonwebtoken::dangerous::insecure_decode_claims;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use remora_jose::claims::{Audiences, NumericDate};
use remora_kube::client::{CALL_TIMEOUT, CallError, call, call_within};
use remora_runtime::admin::Readiness;
use serde::Deserialize;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;

/// Reviews at once. One takes a millisecond or two; more at once than this would only queue in the API server.
const REVIEWS_MAX: usize = 32;
/// What an API server answers that has too much to do.
const TOO_MANY_REQUESTS: u16 = 429;
/// Condition of `/ready`: we may review tokens.
pub(crate) const TOKEN_REVIEW: &str = "token review";
/// How often the service asks whether it may review tokens: until it may, and afterwards.
const RIGHTS_RETRY: Duration = Duration::from_millis(500);
const RIGHTS_POLL: Duration = Duration::from_secs(30);
/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why a token proves nothing, or not now.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It breaks a rule.
    #[error("{0}")]
    Token(#[source] TokenError),
    /// More tokens are waiting to be reviewed than the API server takes in time, or it says itself that it has too much to do.
    #[error("too many tokens are waiting to be reviewed")]
    Busy,
    /// The API server could not be reached.
    #[error("cannot review the token: {0}")]
    Away(#[source] CallError),
}

/// Asks the API server.
#[derive(Debug)]
pub struct Reviewer {
    reviews: Api<TokenReview>,
    rights: Api<SelfSubjectAccessReview>,
    slots: Semaphore,
    memory: Mutex<Memory>,
    /// How long a review may take, and how long one may wait for its turn.
    patience: Duration,
}

impl Reviewer {
    /// By `client`.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            rights: Api::all(client.clone()),
            slots: Semaphore::new(REVIEWS_MAX),
            memory: Mutex::default(),
            patience: CALL_TIMEOUT,
        }
    }

    /// Checks `token`. Cancel-safe.
    pub async fn prove(&self, token: &str, rules: Rules<'_>, now: SystemTime) -> Result<Proven, ReviewError> {
        let said = read(token, rules.audience).map_err(ReviewError::Token)?;
        match self.review(token, rules.audience).await? {
            Ok(status) => verdict(status, &said, rules, now).map_err(|error| {
                self.memory().refused(token);
                ReviewError::Token(error)
            }),
            // An overloaded API server is not down: a client that overloads it must not cause certificates from cache.
            Err(error) if error.code() == Some(TOO_MANY_REQUESTS) => Err(ReviewError::Busy),
            Err(error) if error.is_away() => self.memory().recall(token, now).ok_or(ReviewError::Away(error)),
            Err(error) => Err(ReviewError::Away(error)),
        }
    }

    /// `token`, which was `proven`, has a certificate from `now` to `not_after`.
    pub(super) fn certified(&self, token: &str, proven: &Proven, (now, not_after): (SystemTime, SystemTime)) {
        self.memory().certified(token, proven, (now, not_after));
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the API server says, or why it says nothing. Waiting for a turn is ours and says nothing of the API server.
    async fn review(&self, token: &str, audience: &str) -> Result<Result<TokenReviewStatus, CallError>, ReviewError> {
        let spec = TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        // Never closed, so there is a slot or no time left.
        let slot = tokio::time::timeout(self.patience, self.slots.acquire()).await;
        let _slot = slot.map_err(|_| ReviewError::Busy)?;
        let answer = call_within(self.patience, self.reviews.create(&PostParams::default(), &review)).await;
        Ok(answer.map(|review| review.status.unwrap_or_default()))
    }

    /// Tells `readiness` whether we may review tokens. An outage of the API server changes nothing: we would be no better
    /// off, and all replicas would leave their Service together.
    pub async fn follow(&self, readiness: &Readiness) {
        readiness.waiting(TOKEN_REVIEW, "the API server has not been asked yet");
        let mut known = false;
        loop {
            match self.allowed().await {
                Ok(true) => {
                    known = true;
                    readiness.ready(TOKEN_REVIEW);
                }
                Ok(false) => {
                    known = false;
                    readiness.waiting(TOKEN_REVIEW, "we may not create tokenreviews; see ClusterRole remora-identity");
                }
                Err(error) if !known => readiness.waiting(TOKEN_REVIEW, error.to_string()),
                Err(error) => tracing::debug!(%error, "cannot ask for our rights"),
            }
            tokio::time::sleep(if known { RIGHTS_POLL } else { RIGHTS_RETRY }).await;
        }
    }

    async fn allowed(&self) -> Result<bool, CallError> {
        let attributes = ResourceAttributes {
            group: Some("authentication.k8s.io".into()),
            resource: Some("tokenreviews".into()),
            verb: Some("create".into()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let question = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let answer = call(self.rights.create(&PostParams::default(), &question)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// What the token says of itself, if it could be accepted at all.
pub(super) fn read(token: &str, audience: &str) -> Result<Claims, TokenError> {
    #[derive(Deserialize)]
    struct Said {
        aud: Option<Audiences>,
    }
    let Said { aud } = insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
    if !aud.is_some_and(|aud| aud.holds(audience)) {
        return Err(TokenError::Audience);
    }
    let said = insecure_decode_claims::<Claims>(token).map_err(|error| TokenError::claims(&error))?;
    if said.kubernetes.pod.is_none() {
        return Err(TokenError::NoPod);
    }
    Ok(said)
}

/// What the API server's answer proves.
fn verdict(status: TokenReviewStatus, said: &Claims, rules: Rules<'_>, now: SystemTime) -> Result<Proven, TokenError> {
    if status.authenticated != Some(true) {
        return Err(rejected(status.error.as_deref().unwrap_or_default(), said, rules.skew, now));
    }
    // An API server that ignores audiences answers without any; its word is not for us then.
    if !status.audiences.is_some_and(|audiences| audiences.iter().any(|one| one == rules.audience)) {
        return Err(TokenError::Audience);
    }
    let user = status.user.unwrap_or_default();
    let mut extra = user.extra.unwrap_or_default();
    let mut only = |key: &str| match extra.remove(key)?.as_mut_slice() {
        [value] => Some(std::mem::take(value)),
        _ => None,
    };
    let pod = only(POD_NAME).zip(only(POD_UID)).map(|(name, uid)| Pod { name, uid });
    let subject = user.username.unwrap_or_default();
    Ok(Proven { subject, pod, token_ends: said.ends(), recalled: false })
}

/// Why it was rejected, by the API server's text (there is nothing better), else by what the token says of itself.
fn rejected(text: &str, said: &Claims, skew: Duration, now: SystemTime) -> TokenError {
    let says = |what: &str| text.contains(what);
    if says("has expired") {
        return TokenError::Expired;
    } else if says("not valid yet") {
        return TokenError::NotYetValid;
    } else if says("invalidated") || says("not found") {
        return TokenError::Gone;
    } else if says("target audiences") {
        return TokenError::Audience;
    } else if says("no keys found") {
        return TokenError::UnknownKey;
    } else if says("cryptographic primitive") {
        return TokenError::Signature;
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now >= said.exp.0 {
        TokenError::Expired
    } else if said.nbf.is_some_and(|NumericDate(nbf)| now.saturating_add(skew) < nbf) {
        TokenError::NotYetValid
    } else {
        TokenError::Rejected(cut(text))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;
    use remora_model::TrustDomain;
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::tokens::{AUDIENCE, Signer, claims};

    fn token(change: impl Fn(&mut Value)) -> String {
        let mut claims = claims("shop", "web");
        change(&mut claims);
        Signer::new().sign(&claims)
    }

    fn judged(status: TokenReviewStatus) -> Result<super::super::Workload, &'static str> {
        let trust_domain = TrustDomain::new("cluster.local").unwrap();
        let rules = Rules { audience: AUDIENCE, trust_domain: &trust_domain, skew: Duration::from_secs(60) };
        let said = read(&token(|_| ()), AUDIENCE).unwrap();
        let proven = verdict(status, &said, rules, SystemTime::now()).map_err(|error| error.reason())?;
        proven.judge(&trust_domain).map_err(|error| error.reason())
    }

    fn accepted() -> TokenReviewStatus {
        let extra = [(POD_NAME, "web-1"), (POD_UID, "u1")].map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.into()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                extra: Some(BTreeMap::from(extra)),
                username: Some("system:serviceaccount:shop:web".into()),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn what_the_api_server_vouches_for_becomes_an_identity() {
        let workload = judged(accepted()).unwrap();
        assert_eq!(workload.id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!((workload.pod.name.as_str(), workload.pod.uid.as_str()), ("web-1", "u1"));
    }

    #[test]
    fn each_thing_that_is_missing_from_the_answer_refuses() {
        let reason = |change: &dyn Fn(&mut TokenReviewStatus)| {
            let mut status = accepted();
            change(&mut status);
            judged(status).unwrap_err()
        };
        let extra = |status: &mut TokenReviewStatus, key: &str, values: &[&str]| {
            let extra = status.user.as_mut().unwrap().extra.as_mut().unwrap();
            extra.insert(key.into(), values.iter().map(|&value| value.into()).collect());
        };
        assert_eq!(reason(&|s| s.authenticated = Some(false)), "token_rejected");
        assert_eq!(reason(&|s| s.authenticated = None), "token_rejected");
        assert_eq!(reason(&|s| s.audiences = None), "token_audience");
        assert_eq!(reason(&|s| s.audiences = Some(vec!["other".into()])), "token_audience");
        assert_eq!(reason(&|s| s.user = None), "token_subject");
        assert_eq!(reason(&|s| s.user.as_mut().unwrap().username = Some("admin".into())), "token_subject");
        assert_eq!(reason(&|s| s.user.as_mut().unwrap().extra = None), "token_no_pod");
        assert_eq!(reason(&|s| extra(s, POD_UID, &[])), "token_no_pod");
        assert_eq!(reason(&|s| extra(s, POD_UID, &["a", "b"])), "token_no_pod");
        assert_eq!(reason(&|s| extra(s, POD_NAME, &[""])), "token_no_pod");
    }

    #[test]
    fn the_api_servers_words_become_our_reasons() {
        let reason = |text: &str| {
            let status = TokenReviewStatus { error: Some(text.into()), ..TokenReviewStatus::default() };
            judged(status).unwrap_err()
        };
        // As Kubernetes 1.35 says them; tests/tests/cluster_identity.rs has each from a real one.
        assert_eq!(reason("[invalid bearer token, service account token has expired]"), "token_expired");
        assert_eq!(reason("[invalid bearer token, service account token is not valid yet]"), "token_not_yet_valid");
        assert_eq!(reason("[invalid bearer token, service account token has been invalidated]"), "token_gone");
        assert_eq!(reason("[invalid bearer token, invalid signature, no keys found]"), "token_unknown_key");
        let signature = "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]";
        assert_eq!(reason(signature), "token_signature");
        let audience = r#"token audiences ["a"] is invalid for the target audiences ["identity.remora.dev"]]"#;
        assert_eq!(reason(audience), "token_audience");
        // Another issuer's: that is all it says.
        assert_eq!(reason("invalid bearer token"), "token_rejected");
    }

    #[test]
    fn what_cannot_be_accepted_is_refused_without_asking() {
        let reason = |token: &str| read(token, AUDIENCE).unwrap_err().reason();
        assert_eq!(reason("junk"), "token_malformed");
        assert_eq!(reason(""), "token_malformed");
        assert_eq!(reason(&token(|c| c["aud"] = json!(["https://kubernetes.default.svc"]))), "token_audience");
        assert_eq!(reason(&token(|c| c["aud"] = Value::Null)), "token_audience");
        assert_eq!(reason(&token(|c| c["kubernetes.io"] = Value::Null)), "token_claims");
        assert_eq!(reason(&token(|c| c["kubernetes.io"]["pod"] = Value::Null)), "token_no_pod");
        assert!(read(&token(|c| c["aud"] = json!(AUDIENCE)), AUDIENCE).is_ok());
    }

    #[test]
    fn no_message_quotes_much_of_a_token() {
        let long = "x".repeat(90_000);
        let wrong: [fn(&mut Value, &str); 3] = [
            |c, long| c["exp"] = json!(long),
            |c, long| c["kubernetes.io"] = json!(long),
            |c, long| c["kubernetes.io"]["pod"] = json!(long),
        ];
        for change in wrong {
            let refused = read(&token(|c| change(c, &long)), AUDIENCE).unwrap_err();
            assert_eq!(refused.reason(), "token_claims");
            assert!(refused.to_string().len() < 300, "{}", refused.to_string().len());
        }
    }

    #[test]
    fn a_rejected_token_that_says_it_is_old_is_called_expired() {
        let said = read(&token(|c| c["exp"] = json!(1)), AUDIENCE).unwrap();
        assert_eq!(rejected("", &said, Duration::ZERO, SystemTime::now()), TokenError::Expired);
    }

    /// An API server that says `code` to each review, or nothing.
    fn reviewer(code: Option<u16>) -> Reviewer {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
            let answer = match code {
                None => std::future::pending().await,
                Some(201) => {
                    serde_json::to_vec(&TokenReview { status: Some(accepted()), ..TokenReview::default() }).unwrap()
                }
                Some(code) => {
                    format!(r#"{{"kind":"Status","status":"Failure","message":"no","code":{code}}}"#).into_bytes()
                }
            };
            let body = kube::client::Body::from(answer);
            let answer = http::Response::builder().status(code.unwrap_or_default()).body(body).unwrap();
            Ok::<_, std::convert::Infallible>(answer)
        });
        Reviewer::new(&Client::new(service, "remora"))
    }

    /// What comes of a token that was certified half a certificate's life ago.
    async fn remembered(reviewer: &Reviewer) -> Result<bool, &'static str> {
        let trust_domain = TrustDomain::new("cluster.local").unwrap();
        let rules = Rules { audience: AUDIENCE, trust_domain: &trust_domain, skew: Duration::ZERO };
        let (token, now) = (token(|_| ()), SystemTime::now());
        let pod = Some(Pod { name: "web-1".into(), uid: "u1".into() });
        let subject = "system:serviceaccount:shop:web".to_owned();
        let proven = Proven { subject, pod, token_ends: now + Duration::from_secs(3600), recalled: false };
        let minute = Duration::from_secs(60);
        reviewer.certified(&token, &proven, (now - minute, now + minute));
        match reviewer.prove(&token, rules, now).await {
            Ok(proven) => Ok(proven.recalled),
            Err(ReviewError::Busy) => Err("busy"),
            Err(ReviewError::Away(_)) => Err("away"),
            Err(ReviewError::Token(_)) => Err("token"),
        }
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_lets_a_token_be_recalled_and_one_that_is_busy_does_not() {
        assert_eq!(remembered(&reviewer(Some(201))).await, Ok(false));
        assert_eq!(remembered(&reviewer(Some(500))).await, Ok(true));
        let silent = Reviewer { patience: Duration::from_millis(1), ..reviewer(None) };
        assert_eq!(remembered(&silent).await, Ok(true));
        assert_eq!(remembered(&reviewer(Some(429))).await, Err("busy"));
        assert_eq!(remembered(&reviewer(Some(403))).await, Err("away"), "an answer: nobody is recalled");
    }

    #[tokio::test]
    async fn whoever_fills_the_queue_of_reviews_makes_nobody_recalled() {
        // Were it asked, the API server would be away.
        let full = Reviewer { patience: Duration::from_millis(1), ..reviewer(Some(500)) };
        let all = full.slots.acquire_many(REVIEWS_MAX as u32).await.unwrap();
        assert_eq!(remembered(&full).await, Err("busy"));
        drop(all);
        assert_eq!(remembered(&full).await, Ok(true));
    }
}
