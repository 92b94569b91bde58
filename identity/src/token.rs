//! Who is asking: checks a projected service-account token offline, against a JWKS. Pure: text and `now` in,
//! a [`Workload`] or the broken rule out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use remora_model::identity::InvalidSpiffeId;
use remora_model::{SpiffeId, TrustDomain};
use serde::Deserialize;

/// The algorithms that Kubernetes signs with. `none` and HMAC are not among them, so no public key can pass as a secret.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::ES256, Algorithm::RS256];

/// Which rule a token breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No JWT.
    #[error("token is not a JWT")]
    Malformed,
    /// Signed in a way that is not allowed.
    #[error("token is signed with {0:?}; only ES256 and RS256 are accepted")]
    Algorithm(Algorithm),
    /// The key is not in our set.
    #[error("token names no key of the JWKS")]
    UnknownKey,
    /// The signature is wrong.
    #[error("token's signature is invalid")]
    Signature,
    /// For somebody else.
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
    /// The names make no SPIFFE ID.
    #[error("token's names make no identity: {0}")]
    Identity(InvalidSpiffeId),
}

impl TokenError {
    /// A short stable name for the metric label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm(_) => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Claims(_) => "token_claims",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Subject => "token_subject",
            Self::NoPod => "token_no_pod",
            Self::Identity(_) => "token_identity",
        }
    }
}

/// A proven workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Who it is.
    pub id: SpiffeId,
    /// Which pod of it, by uid.
    pub pod_uid: String,
}

/// What tokens are checked against.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The issuer's public keys.
    pub keys: &'a JwkSet,
    /// Must be among the token's audiences.
    pub audience: &'a str,
    /// Where identities live.
    pub trust_domain: &'a TrustDomain,
    /// How far clocks may be apart.
    pub skew: Duration,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl Rules<'_> {
    /// Checks `token` as of `now`.
    pub fn check(&self, token: &str, now: SystemTime) -> Result<Workload, TokenError> {
        let claims = self.claims(token)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if now >= Duration::from_secs(claims.exp).saturating_add(self.skew) {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| now.saturating_add(self.skew) < Duration::from_secs(nbf)) {
            return Err(TokenError::NotYetValid);
        }
        let Kubernetes { namespace, serviceaccount, pod } = claims.kubernetes;
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", serviceaccount.name) {
            return Err(TokenError::Subject);
        }
        let pod = pod.filter(|pod| !pod.uid.is_empty() && !pod.name.is_empty()).ok_or(TokenError::NoPod)?;
        let id =
            SpiffeId::workload(self.trust_domain, &namespace, &serviceaccount.name).map_err(TokenError::Identity)?;
        Ok(Workload { id, pod_uid: pod.uid })
    }

    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        use jsonwebtoken::errors::ErrorKind;
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(TokenError::Algorithm(header.alg));
        }
        let key = match (&header.kid, self.keys.keys.as_slice()) {
            (Some(kid), _) => self.keys.find(kid).ok_or(TokenError::UnknownKey)?,
            (None, [only]) => only,
            (None, _) => return Err(TokenError::UnknownKey),
        };
        let key = DecodingKey::from_jwk(key).map_err(|_| TokenError::UnknownKey)?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[self.audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        // Times are checked by the caller's clock, above.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let decoded = decode::<Claims>(token, &key, &validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Signature,
            ErrorKind::InvalidAudience => TokenError::Audience,
            ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => TokenError::Claims(error.to_string()),
            _ => TokenError::Malformed,
        })?;
        if decoded.claims.kubernetes.serviceaccount.uid.is_empty() {
            return Err(TokenError::Claims("kubernetes.io.serviceaccount.uid is empty".into()));
        }
        Ok(decoded.claims)
    }
}
