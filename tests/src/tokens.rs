//! Plays the API server that hands a pod its service-account token: one key, its JWKS, a token per workload.

use anyhow::Context as _;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

/// No test lasts a day.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const KEY_ID: &str = "test";

/// The key that signs; it stays in this process.
#[derive(Debug)]
pub(crate) struct TokenKey(EncodingKey);

impl TokenKey {
    /// Makes a key and writes what checks its tokens.
    pub(crate) fn new(jwks: &Path) -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        jwk.common.key_id = Some(KEY_ID.to_owned());
        fs::write(jwks, serde_json::to_vec(&JwkSet { keys: vec![jwk] })?)?;
        Ok(Self(key))
    }

    /// Writes the projected token of a pod, readable by its owner only.
    pub(crate) fn write(&self, path: &Path, namespace: &str, account: &str, pod: &str) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let claims = json!({
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": ["identity.remora.dev"],
            "iat": now.as_secs(),
            "exp": (now + LIFETIME).as_secs(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": account, "uid": account },
                "pod": { "name": pod, "uid": pod },
            },
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        // A new file each time: the old one may be unreadable or half read.
        let _ = fs::remove_file(path);
        fs::write(path, jsonwebtoken::encode(&header, &claims, &self.0)?)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o400))?)
    }
}
