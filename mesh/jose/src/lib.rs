//! Signed JSON Web Tokens: pure. [`KeySet`] says whether one of an issuer's keys signed a token, and what every token says of itself is
//! read by [`claims`]. Who may issue what, and what follows from it, is the users': the CA's ([service accounts' tokens]) and the proxy's
//! (tokens of users in requests).
//!
//! [service accounts' tokens]: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/

pub mod claims;
mod keys;

pub use keys::{JWKS_KEYS_MAX, JoseError, KeySet, Profile, decoded, trimmed};
