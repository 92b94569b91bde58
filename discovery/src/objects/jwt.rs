//! The issuers of tokens that an AuthorizationPolicy names, and what its rules ask of tokens, as they are written.

use super::Unknown;
use serde::Deserialize;

/// An issuer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyJwtIssuer {
    #[serde(default)]
    pub issuer: String,
    /// `None`: a token for anybody is taken. Must not be empty.
    #[serde(default)]
    pub audiences: Option<Vec<String>>,
    #[serde(default)]
    pub jwks: PolicyJwks,
    /// `None`: `Authorization: Bearer`. Must not be empty.
    #[serde(default)]
    pub from: Option<Vec<PolicyTokenPlace>>,
    #[serde(default)]
    pub forward: bool,
    #[serde(default)]
    pub claim_headers: Vec<PolicyClaimHeader>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Its keys: one of both.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyJwks {
    /// A JWKS.
    #[serde(default)]
    pub inline: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Where a request has its token: one of these.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyTokenPlace {
    #[serde(default)]
    pub header: Option<PolicyHeaderPlace>,
    #[serde(default)]
    pub cookie: Option<String>,
    #[serde(default)]
    pub query: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyHeaderPlace {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub prefix: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyClaimHeader {
    #[serde(default)]
    pub claim: Vec<String>,
    #[serde(default)]
    pub header: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a source asks of the token of a request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyJwt {
    /// `None`: any that the policy names. Must not be empty.
    #[serde(default)]
    pub issuers: Option<Vec<String>>,
    #[serde(default)]
    pub claims: Vec<PolicyClaim>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyClaim {
    #[serde(default)]
    pub claim: Vec<String>,
    /// `None`: it is there. Must not be empty.
    #[serde(default)]
    pub values: Option<Vec<String>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
