//! Tokens of users that requests carry (RFC 7519): who issues them, where a request has them, and what rules ask of their claims.

use http::HeaderName;
use std::sync::Arc;

/// An issuer, as an AuthorizationPolicy names it.
#[derive(Clone, PartialEq, Debug)]
pub struct JwtIssuer {
    /// `namespace/name issuer N` of the policy that it stands in: what [`JwtCondition`] names it by, unique at a port. Two policies may name
    /// one issuer with different keys, and neither's rules take a token for the other's.
    pub name: Arc<str>,
    /// The claim `iss`, byte for byte.
    pub issuer: Arc<str>,
    /// One of these must be among the claim `aud`; empty: a token for anybody is taken.
    pub audiences: Vec<Arc<str>>,
    /// The JWKS (RFC 7517); `None`: not known yet, so that no token of it can be checked.
    pub keys: Option<Arc<str>>,
    /// Where requests have its tokens; never empty.
    pub from: Vec<TokenPlace>,
    /// Whether the application gets the token as well.
    pub forward: bool,
    /// What of it the application is told in fields of their own.
    pub claim_headers: Vec<ClaimHeader>,
    /// It decides nothing, but for rules that decide nothing either: a token of it that is not good is none, and the application gets what the client
    /// sent.
    pub dry_run: bool,
}

/// Where a request has a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenPlace {
    /// In this field, behind a prefix: `Authorization` and `Bearer `. The prefix is compared without regard to case, as schemes are
    /// (RFC 9110 §11.1); a field without it has no token.
    Header { name: HeaderName, prefix: Arc<str> },
    /// In the cookie of this name (RFC 6265 §4.2).
    Cookie(Arc<str>),
    /// In the parameter of this name (RFC 6750 §2.3).
    Query(Arc<str>),
}

impl TokenPlace {
    /// RFC 6750 §2.1.
    pub fn bearer() -> Self {
        Self::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into() }
    }
}

/// A claim: the names to go down by, from the outermost. `["realm_access", "roles"]`.
pub type ClaimPath = Vec<Arc<str>>;

/// A claim that the application is told.
#[derive(Clone, PartialEq, Debug)]
pub struct ClaimHeader {
    pub claim: ClaimPath,
    /// A client's own field of this name is taken off, whether the request has a token or not.
    pub header: HeaderName,
}

/// What a rule asks of the token of a request. A request without one, and whatever is no request, has none of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct JwtCondition {
    /// By their [`JwtIssuer::name`]: the token is of one of these.
    pub issuers: Vec<Arc<str>>,
    /// All of these hold.
    pub claims: Vec<ClaimCondition>,
}

/// What a rule asks of a claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClaimCondition {
    pub claim: ClaimPath,
    /// The claim is one of these, or is a list that has one of these; empty: it is there. `scope` and `scp` are lists whose entries are parted by
    /// spaces (RFC 8693 §4.2).
    pub values: Vec<Arc<str>>,
}
