//! Who is asking: a projected service-account token proves a workload.
//!
//! Two sources of proof, [`jwks`] (offline) and [`review`] (the API server), and one place that judges what they vouch
//! for: [`Proven::judge`]. Out: a [`Workload`], or a reason from a closed set that is the same for both.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod jwks;
mod memory;
pub mod review;

use self::{
    jwks::Keys,
    review::{ReviewError, Reviewer},
};
use remora_jose::{JoseError, claims::NumericDate};
use remora_model::{SpiffeId, TrustDomain, identity::InvalidSpiffeId};
use remora_runtime::admin::Readiness;
use serde::Deserialize;
use std::{
    fmt::Display,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What the API server puts before `NAMESPACE:NAME` of a service account.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// How much is logged of a text that a caller sent: the signature of a token may not be verified yet.
const TEXT_CHARS_MAX: usize = 200;

/// Which rule a token breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No JWT.
    #[error("token is not a JWT")]
    Malformed,
    /// Signed in a way that is not allowed.
    #[error("token is signed with {0:?}; only RS256, ES256, ES384 and ES512 are accepted")]
    Algorithm(String),
    /// RFC 7515 §4.1.11: extensions that must be understood.
    #[error("token demands that extensions are understood (crit), and none is")]
    Critical,
    /// The key is not in our set.
    #[error("token names no key that we know; is it another cluster's?")]
    UnknownKey,
    /// The signature is wrong.
    #[error("token's signature is invalid; is it another cluster's?")]
    Signature,
    /// For another audience.
    #[error("token is not for our audience")]
    Audience,
    /// A claim is missing or of the wrong type.
    #[error("token lacks a claim or holds it in another shape: {0}")]
    Claims(String),
    /// Too late.
    #[error("token has expired")]
    Expired,
    /// Too early.
    #[error("token is not valid yet; compare the clocks")]
    NotYetValid,
    /// `sub` and `kubernetes.io` disagree.
    #[error("token's subject is not system:serviceaccount:NAMESPACE:NAME of its own kubernetes.io claim")]
    Subject,
    /// Not bound to a pod: such a token outlives its workload.
    #[error("token is not bound to a pod")]
    NoPod,
    /// Bound to what is no more.
    #[error("token's pod or service account was deleted")]
    Gone,
    /// The API server does not say why in words that we know.
    #[error("token is not accepted by the API server: {0}")]
    Rejected(String),
    /// The names make no SPIFFE ID.
    #[error("token's names make no identity: {0}")]
    Identity(InvalidSpiffeId),
}

impl TokenError {
    /// A claim is not as it should be, by `error`, which may quote it.
    fn claims(error: &impl Display) -> Self {
        Self::Claims(cut(&error.to_string()))
    }

    /// A short stable name for the metric label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm(_) => "token_algorithm",
            Self::Critical => "token_critical",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Claims(_) => "token_claims",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Subject => "token_subject",
            Self::NoPod => "token_no_pod",
            Self::Gone => "token_gone",
            Self::Rejected(_) => "token_rejected",
            Self::Identity(_) => "token_identity",
        }
    }
}

impl From<JoseError> for TokenError {
    fn from(error: JoseError) -> Self {
        match error {
            JoseError::Malformed => Self::Malformed,
            JoseError::Algorithm(name) => Self::Algorithm(name),
            JoseError::Critical => Self::Critical,
            JoseError::UnknownKey => Self::UnknownKey,
            JoseError::Signature => Self::Signature,
        }
    }
}

/// `text` for a message.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// A proven workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Who it is.
    pub id: SpiffeId,
    /// Which pod of it.
    pub pod: Pod,
    /// By what.
    pub proven: Proven,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Unique in its namespace at any time.
    pub name: String,
    /// Unique for ever.
    pub uid: String,
}

/// What a source of proof vouches for: a token that is genuine, for our audience, and valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub subject: String,
    /// The pod, if the token is bound to one.
    pub pod: Option<Pod>,
    /// When the token ends.
    pub token_ends: SystemTime,
    /// Issued from cache: the API server is down, and had accepted the token before.
    pub recalled: bool,
}

impl Proven {
    /// The identity that follows.
    pub fn judge(self, trust_domain: &TrustDomain) -> Result<Workload, TokenError> {
        let names = self.subject.strip_prefix(SERVICE_ACCOUNT).and_then(|names| names.split_once(':'));
        let (namespace, name) = names.ok_or(TokenError::Subject)?;
        let pod = self.pod.clone().filter(|pod| !pod.uid.is_empty() && !pod.name.is_empty());
        let pod = pod.ok_or(TokenError::NoPod)?;
        let id = SpiffeId::workload(trust_domain, namespace, name).map_err(TokenError::Identity)?;
        Ok(Workload { id, pod, proven: self })
    }
}

/// How tokens are proven.
#[derive(Debug)]
pub enum Proofs {
    /// By keys on disk.
    Offline(Keys),
    /// By asking the API server.
    Review(Box<Reviewer>),
}

/// What every token is held against.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Must be among the token's audiences.
    pub audience: &'a str,
    /// Where identities live.
    pub trust_domain: &'a TrustDomain,
    /// How far clocks may be apart.
    pub skew: Duration,
}

impl Proofs {
    /// Checks `token` as of `now`. Cancel-safe.
    pub async fn check(&self, token: &str, rules: Rules<'_>, now: SystemTime) -> Result<Workload, ReviewError> {
        let proven = match self {
            Self::Offline(keys) => jwks::prove(&keys.current(), token, rules, now).map_err(ReviewError::Token)?,
            Self::Review(reviewer) => reviewer.prove(token, rules, now).await?,
        };
        proven.judge(rules.trust_domain).map_err(ReviewError::Token)
    }

    /// `token` proved `workload`, which has a certificate from `now` to `not_after`.
    pub fn certified(&self, token: &str, workload: &Workload, (now, not_after): (SystemTime, SystemTime)) {
        match self {
            Self::Offline(_) => {}
            Self::Review(reviewer) => reviewer.certified(token, &workload.proven, (now, not_after)),
        }
    }

    /// Keeps the keys or the right to review current, and updates `readiness` with whether there are any. Does not end.
    pub async fn follow(&self, readiness: &Readiness) {
        match self {
            Self::Offline(keys) => keys.follow(readiness).await,
            Self::Review(reviewer) => reviewer.follow(readiness).await,
        }
    }
}

/// What a token says of itself.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

impl Claims {
    fn ends(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.exp.0).unwrap_or(UNIX_EPOCH)
    }
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    uid: String,
}
