//! Every rule of a token, each broken once.

use crate::token::{Rules, TokenError, Workload, jwks::prove};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use remora_jose::{KeySet, Profile};
use remora_model::TrustDomain;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let keys = KeySet::parse(&signer.jwks(), Profile::SERVICE_ACCOUNTS).unwrap();
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
    assert_eq!(reason(&|c| c["exp"] = json!("1")), "token_claims");
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
    assert_eq!(check(&hmac, &ours, now), Err(TokenError::Algorithm("HS256".into())));
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

mod jose {
    //! RFC 7515, 7517, 7518, 7519 and 8725, rule by rule. Signed by hand, so that what no library writes can be written.

    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair as RsaKeyPair, KeySize},
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
            EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256,
        },
    };

    use super::*;

    enum Key {
        Ec(EcdsaKeyPair, &'static str),
        Rsa(Box<RsaKeyPair>),
    }

    impl Key {
        fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
            Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), curve)
        }

        fn rsa() -> Self {
            Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
        }

        fn jwk(&self, kid: &str) -> Value {
            match self {
                Self::Ec(key, curve) => {
                    let point = &key.public_key().as_ref()[1..];
                    let (x, y) = point.split_at(point.len() / 2);
                    json!({"kty": "EC", "crv": curve, "kid": kid, "x": base64url(x), "y": base64url(y)})
                }
                Self::Rsa(key) => {
                    let public = key.public_key();
                    let n = public.modulus().big_endian_without_leading_zero();
                    let e = public.exponent().big_endian_without_leading_zero();
                    json!({"kty": "RSA", "kid": kid, "n": base64url(n), "e": base64url(e)})
                }
            }
        }

        fn sign(&self, header: &Value, claims: &str) -> String {
            let text = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.as_bytes()));
            let signature = match self {
                Self::Ec(key, _) => key.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec(),
                Self::Rsa(key) => {
                    let mut signature = vec![0; key.public_modulus_len()];
                    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
                    signature
                }
            };
            format!("{text}.{}", base64url(&signature))
        }
    }

    fn with(mut value: Value, name: &str, to: Value) -> Value {
        value[name] = to;
        value
    }

    fn judged(keys: &[Value], token: &str) -> Result<(), &'static str> {
        let keys = KeySet::parse(&json!({ "keys": keys }).to_string(), Profile::SERVICE_ACCOUNTS).unwrap();
        let trust_domain = TrustDomain::new("cluster.local").unwrap();
        let rules = Rules { audience: AUDIENCE, trust_domain: &trust_domain, skew: Duration::from_secs(60) };
        prove(&keys, token, rules, SystemTime::now()).map(drop).map_err(|error| error.reason())
    }

    fn header(alg: &str, kid: &str) -> Value {
        json!({"alg": alg, "kid": kid})
    }

    fn good() -> String {
        claims("shop", "web").to_string()
    }

    #[test]
    fn all_that_kubernetes_signs_with_is_checked() {
        for (alg, key) in [
            ("RS256", Key::rsa()),
            ("ES256", Key::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")),
            ("ES384", Key::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")),
            ("ES512", Key::ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")),
        ] {
            let token = key.sign(&header(alg, "k"), &good());
            assert_eq!(judged(&[key.jwk("k")], &token), Ok(()), "{alg}");
            let altered = key.sign(&header(alg, "k"), &good()).replace('.', ".e30.").replacen(".e30.", ".", 1);
            assert!(judged(&[key.jwk("k")], &altered).is_err(), "{alg}");
            let (signed, _) = token.rsplit_once('.').unwrap();
            let other = key.sign(&header(alg, "k"), "{}");
            let (_, signature) = other.rsplit_once('.').unwrap();
            assert_eq!(judged(&[key.jwk("k")], &format!("{signed}.{signature}")), Err("token_signature"), "{alg}");
            assert_eq!(judged(&[key.jwk("k")], &format!("{signed}.")), Err("token_signature"), "{alg}");
        }
    }

    #[test]
    fn headers_are_read_as_rfc_7515_and_8725_say() {
        let (key, head) = (Key::rsa(), header("RS256", "k"));
        let judge = |header: Value| judged(&[key.jwk("k")], &key.sign(&header, &good()));
        assert_eq!(judge(with(head.clone(), "crit", json!(["x"]))), Err("token_critical"));
        assert_eq!(judge(with(with(head.clone(), "crit", json!(["b64"])), "b64", json!(false))), Err("token_critical"));
        // RFC 7515 §4.1.11: a list, and not an empty one.
        for wrong in [json!([]), json!(null), json!(false), json!({}), json!("")] {
            assert_eq!(judge(with(head.clone(), "crit", wrong)), Err("token_critical"));
        }
        assert_eq!(judge(with(head.clone(), "typ", json!("JWT"))), Ok(()));
        assert_eq!(judge(with(head.clone(), "typ", json!("dpop+jwt"))), Err("token_malformed"));
        assert_eq!(judge(with(head.clone(), "jwk", key.jwk("k"))), Ok(()), "ignored: a token brings no key of its own");
        for alg in ["none", "None", "HS256", "RS512", "PS256", "EdDSA", "rs256"] {
            assert_eq!(judge(header(alg, "k")), Err("token_algorithm"), "{alg}");
        }
        assert_eq!(judge(json!({"kid": "k"})), Err("token_malformed"));
        assert_eq!(judge(header("ES256", "k")), Err("token_unknown_key"), "a key of another type");
        let token = key.sign(&head, &good());
        for broken in [format!("{token}="), format!("{token}.x"), token.replace('.', ""), format!(" {token}")] {
            assert!(judged(&[key.jwk("k")], &broken).is_err());
        }
    }

    #[test]
    fn keys_are_taken_for_what_they_are_for() {
        let (rsa, ec) = (Key::rsa(), Key::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"));
        let jwk = rsa.jwk("k");
        let judge = |keys: &[Value]| judged(keys, &rsa.sign(&header("RS256", "k"), &good()));
        assert_eq!(judge(&[with(jwk.clone(), "use", json!("sig"))]), Ok(()));
        assert_eq!(judge(&[with(jwk.clone(), "use", json!("enc"))]), Err("token_unknown_key"));
        assert_eq!(judge(&[with(jwk.clone(), "alg", json!("RS256"))]), Ok(()));
        assert_eq!(judge(&[with(jwk.clone(), "alg", json!("RS512"))]), Err("token_unknown_key"));
        assert_eq!(judge(&[with(jwk.clone(), "key_ops", json!(["verify"]))]), Ok(()));
        assert_eq!(judge(&[with(jwk.clone(), "key_ops", json!(["encrypt"]))]), Err("token_unknown_key"));
        let oct = json!({"kty": "oct", "kid": "k", "k": "AQ"});
        assert_eq!(judge(&[oct, json!({"kty": "new"}), jwk.clone()]), Ok(()), "RFC 7517 §5: others are ignored");
        // RFC 7517 §4.5: one kid, two types.
        let both = [jwk.clone(), ec.jwk("k")];
        assert_eq!(judge(&both), Ok(()));
        assert_eq!(judged(&both, &ec.sign(&header("ES256", "k"), &good())), Ok(()));
        let twice = [Key::rsa().jwk("k"), jwk.clone()];
        assert_eq!(judge(&twice), Ok(()), "and of one type: whichever signed");
        let nameless = rsa.sign(&json!({"alg": "RS256"}), &good());
        assert_eq!(judged(&both, &nameless), Ok(()), "only one can be meant");
        assert_eq!(judged(&twice, &nameless), Err("token_unknown_key"));
        assert_eq!(judged(&[rsa.jwk("other")], &rsa.sign(&header("RS256", "k"), &good())), Err("token_unknown_key"));
        let broken = with(ec.jwk("k"), "x", json!("AQ"));
        assert!(
            KeySet::parse(&json!({"keys": [broken]}).to_string(), Profile::SERVICE_ACCOUNTS)
                .unwrap_err()
                .contains("key 1")
        );
        assert!(KeySet::parse("{}", Profile::SERVICE_ACCOUNTS).is_err());
        assert!(KeySet::parse("{\"keys\":[]}", Profile::SERVICE_ACCOUNTS).unwrap().is_empty());
    }

    #[test]
    fn times_are_numbers_with_or_without_a_fraction() {
        let (key, now) = (Key::rsa(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64());
        let judge = |name: &str, to: Value| {
            let claims = with(claims("shop", "web"), name, to).to_string();
            judged(&[key.jwk("k")], &key.sign(&header("RS256", "k"), &claims))
        };
        assert_eq!(judge("exp", json!(now + 3600.5)), Ok(()));
        assert_eq!(judge("exp", json!(1.79e9 + 1e8)), Ok(()));
        assert_eq!(judge("exp", json!(now - 61.5)), Err("token_expired"));
        assert_eq!(judge("exp", json!(-1)), Err("token_expired"));
        assert_eq!(judge("exp", json!(1e300)), Ok(()));
        assert_eq!(judge("nbf", json!(now + 61.5)), Err("token_not_yet_valid"));
        assert_eq!(judge("nbf", json!(now + 50.5)), Ok(()));
        assert_eq!(judge("exp", json!("soon")), Err("token_claims"));
        assert_eq!(judge("exp", Value::Null), Err("token_claims"));
    }
}
