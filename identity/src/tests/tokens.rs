//! Every rule of a token, each broken once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use remora_model::TrustDomain;
use serde_json::{Value, json};

use crate::token::jwks::prove;
use crate::token::{Rules, TokenError, Workload};

pub(crate) const AUDIENCE: &str = "identity.remora.dev";

/// A token issuer: what the Kubernetes API server is in a cluster.
pub(crate) struct Signer {
    key: KeyPair,
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    pub(crate) fn jwks(&self) -> String {
        // Uncompressed point: 0x04, x, y.
        let point = self.key.public_key_raw();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": x, "y": y}]})
            .to_string()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k1".into());
        encode(&header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }
}

pub(crate) fn claims(namespace: &str, name: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "iss": "https://kubernetes.default.svc", "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": "sa-uid"},
            "pod": {"name": "web-1", "uid": "pod-uid"},
        },
    })
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut padded = [0_u8; 4];
        padded[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(padded);
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]));
        }
    }
    text
}

fn check(token: &str, signer: &Signer, now: SystemTime) -> Result<Workload, TokenError> {
    let keys: JwkSet = serde_json::from_str(&signer.jwks()).unwrap();
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let rules = Rules { audience: AUDIENCE, trust_domain: &trust_domain, skew: Duration::from_secs(60) };
    prove(&keys, token, rules, now)?.judge(&trust_domain)
}

#[test]
fn a_good_token_names_its_service_account_and_pod() {
    let signer = Signer::new();
    let workload = check(&signer.sign(&claims("shop", "web")), &signer, SystemTime::now()).unwrap();
    assert_eq!(workload.id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((workload.pod.name.as_str(), workload.pod.uid.as_str()), ("web-1", "pod-uid"));
}

#[test]
fn each_broken_rule_is_refused_by_name() {
    let signer = Signer::new();
    let reason = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims("shop", "web");
        change(&mut claims);
        check(&signer.sign(&claims), &signer, SystemTime::now()).unwrap_err().reason()
    };
    assert_eq!(reason(&|c| c["aud"] = json!(["other"])), "token_audience");
    assert_eq!(reason(&|c| c["aud"] = json!([])), "token_audience");
    assert_eq!(reason(&|c| c["exp"] = json!(1)), "token_expired");
    assert_eq!(reason(&|c| c["nbf"] = json!(u64::MAX)), "token_not_yet_valid");
    assert_eq!(reason(&|c| c["sub"] = json!("system:serviceaccount:shop:admin")), "token_subject");
    assert_eq!(reason(&|c| c["sub"] = json!("shop:web")), "token_subject");
    assert_eq!(reason(&|c| c["kubernetes.io"]["pod"] = Value::Null), "token_no_pod");
    assert_eq!(reason(&|c| c["kubernetes.io"]["pod"]["uid"] = json!("")), "token_no_pod");
    assert_eq!(reason(&|c| c["kubernetes.io"]["serviceaccount"]["uid"] = json!("")), "token_claims");
    assert_eq!(reason(&|c| c["kubernetes.io"] = Value::Null), "token_claims");
    let missing = |claim: &'static str| move |c: &mut Value| drop(c.as_object_mut().unwrap().remove(claim));
    assert_eq!(reason(&missing("exp")), "token_claims");
    assert_eq!(reason(&missing("sub")), "token_claims");
    assert_eq!(reason(&missing("aud")), "token_claims");
    let bad_name = |c: &mut Value| {
        c["sub"] = json!("system:serviceaccount:shop:..");
        c["kubernetes.io"]["serviceaccount"]["name"] = json!("..");
    };
    assert_eq!(reason(&bad_name), "token_identity");
}

#[test]
fn a_token_that_our_keys_did_not_sign_is_refused() {
    let (ours, other) = (Signer::new(), Signer::new());
    let now = SystemTime::now();
    assert_eq!(check(&other.sign(&claims("shop", "web")), &ours, now), Err(TokenError::Signature));
    assert_eq!(check("junk", &ours, now), Err(TokenError::Malformed));
    let hmac = encode(&Header::default(), &claims("shop", "web"), &EncodingKey::from_secret(b"x")).unwrap();
    assert_eq!(check(&hmac, &ours, now), Err(TokenError::Algorithm(Algorithm::HS256)));
}

#[test]
fn a_token_counts_by_the_given_time() {
    let signer = Signer::new();
    let token = signer.sign(&claims("shop", "web"));
    let now = SystemTime::now();
    assert!(check(&token, &signer, now + Duration::from_secs(3600 + 50)).is_ok(), "within the skew");
    assert_eq!(check(&token, &signer, now + Duration::from_secs(3600 + 62)), Err(TokenError::Expired));
    assert_eq!(check(&token, &signer, now - Duration::from_secs(120)), Err(TokenError::NotYetValid));
}
