//! Plays the part of Kubernetes that hands a pod its service-account token: one key, its JWKS, a token per workload.

use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::json;
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// Whom identity expects to be addressed.
const AUDIENCE: &str = "identity.remora.dev";
/// A demo outlives no day.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const KEY_ID: &str = "demo";

/// Why tokens could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make the demo's token key")]
    Key(#[source] rcgen::Error),
    #[error("cannot use the demo's token key")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("cannot write {path}")]
    Write { path: String, source: io::Error },
}

/// The key that signs; it stays in this process.
pub(crate) struct TokenKey {
    key: EncodingKey,
}

impl TokenKey {
    /// Makes a key.
    pub(crate) fn new() -> Result<Self, Error> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::Key)?;
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).map_err(Error::Sign)?;
        Ok(Self { key })
    }

    /// Writes what checks the tokens.
    pub(crate) fn write_jwks(&self, path: &Path) -> Result<(), Error> {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).map_err(Error::Sign)?;
        jwk.common.key_id = Some(KEY_ID.to_owned());
        let set = serde_json::to_vec_pretty(&JwkSet { keys: vec![jwk] }).map_err(io::Error::from);
        set.and_then(|set| fs::write(path, set)).map_err(|source| Error::write(path, source))
    }

    /// Writes the token of a pod, readable by its owner only.
    pub(crate) fn write_token(&self, path: &Path, namespace: &str, account: &str, pod: &str) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": [AUDIENCE],
            "iat": now.as_secs(),
            "exp": (now + LIFETIME).as_secs(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": account, "uid": format!("demo-{account}") },
                "pod": { "name": pod, "uid": format!("demo-{pod}") },
            },
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.key).map_err(Error::Sign)?;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| io::Write::write_all(&mut file, token.as_bytes()))
            .map_err(|source| Error::write(path, source))
    }
}

impl Error {
    fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.display().to_string(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn a_token_is_valid_under_the_published_keys() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (jwks, token) = (dir.path().join("jwks.json"), dir.path().join("token"));
        let key = TokenKey::new().expect("a key");
        key.write_jwks(&jwks).expect("written");
        key.write_token(&token, "shop", "api", "api-1").expect("written");

        let set: JwkSet = serde_json::from_slice(&fs::read(jwks).expect("readable")).expect("a key set");
        let check = DecodingKey::from_jwk(set.find(KEY_ID).expect("our key")).expect("a public key");
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        let text = fs::read_to_string(token).expect("readable");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&text, &check, &rules).expect("valid").claims;
        assert_eq!(claims["sub"], "system:serviceaccount:shop:api");
        assert_eq!(claims["kubernetes.io"]["pod"]["name"], "api-1");
    }
}
