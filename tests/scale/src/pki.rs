//! Who is who: an issuer for `remora-identity`, its tokens, and certificates for the streams, signed by the same key.

use anyhow::{Context as _, Result};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use remora_model::TrustDomain;
use remora_runtime::tls::{Credentials, Svid, TrustBundle};
use serde_json::json;
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// No measurement lasts a day.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Writes the token of discovery and what checks it into `dir`.
pub(crate) fn tokens(dir: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).context("read our own key")?;
    let jwks = JwkSet { keys: vec![Jwk::from_encoding_key(&key, Algorithm::ES256)?] };
    fs::write(dir.join("jwks.json"), serde_json::to_vec(&jwks)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:remora:remora-discovery",
        "aud": ["identity.remora.dev"],
        "iat": now.as_secs(),
        "exp": (now + LIFETIME).as_secs(),
        "kubernetes.io": {
            "namespace": "remora",
            "serviceaccount": { "name": "remora-discovery", "uid": "a" },
            "pod": { "name": "remora-discovery", "uid": "b" }
        }
    });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key)?;
    fs::write(dir.join("token"), token).context("write the token")
}

/// The mesh's CA, which `remora-identity` made.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
}

impl Authority {
    pub(crate) fn read(issuer: &Path) -> Result<Self> {
        let read = |name: &str| fs::read_to_string(issuer.join(name)).with_context(|| format!("read {name}"));
        let key = KeyPair::from_pem(&read("tls.key")?)?;
        let bundle = TrustBundle::from_pem(TrustDomain::new("cluster.local")?, read("ca.crt")?.as_bytes())?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&read("tls.crt")?, key)?, bundle })
    }

    /// The certificate of a workload.
    pub(crate) fn credentials(&self, namespace: &str, account: &str) -> Result<Credentials> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + LIFETIME / 4).into();
        let leaf = params.signed_by(&key, &self.issuer)?;
        let svid = Svid::new([leaf.der().to_vec()], key.serialize_der())?;
        Ok(Credentials { svid, bundle: self.bundle.clone(), generation: 1 })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
