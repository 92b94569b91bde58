//! Fuzz targets of tokens and of the keys that they are checked with. In: any bytes. Out: nothing, or a panic.

use super::{Claims, Rules, jwks::prove, review};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use remora_jose::{JWKS_KEYS_MAX, KeySet, Profile, claims::Audience};
use remora_model::TrustDomain;
use std::time::{Duration, UNIX_EPOCH};

/// The keys that signed the tokens of the corpus.
const KEYS: &str = include_str!("../../../fuzz/corpus/key_sets/cluster.json");
const AUDIENCE: &str = "identity.remora.dev";
/// In January 2027, while the good token of the corpus holds.
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// Nothing but what was signed proves anything, whatever is changed of it, and it proves one workload.
pub fn tokens(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let keys = KeySet::parse(KEYS, Profile::SERVICE_ACCOUNTS).expect("the corpus's keys");
    let domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let rules = Rules { audience: AUDIENCE, trust_domain: &domain, skew: Duration::from_secs(60) };
    match prove(&keys, &text, rules, UNIX_EPOCH + NOW) {
        Ok(proven) => {
            assert_eq!(proven.subject, "system:serviceaccount:shop:web");
            let workload = proven.judge(&domain).expect("bound to a pod");
            assert_eq!(workload.id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
            let none = KeySet::parse(r#"{"keys":[]}"#, Profile::SERVICE_ACCOUNTS).expect("no keys");
            let other = Rules { audience: "another", ..rules };
            assert!(prove(&keys, &text, other, UNIX_EPOCH + NOW).is_err(), "for another audience");
            assert!(prove(&keys, &text, rules, UNIX_EPOCH + 10 * NOW).is_err(), "in three centuries");
            assert!(prove(&none, &text, rules, UNIX_EPOCH + NOW).is_err(), "without a key");
        }
        Err(error) => {
            assert!(!error.reason().is_empty() && error.to_string().len() < 2000, "{error}");
        }
    }
}

/// What is said is read alike by both sources of proof, and no date is beyond time.
pub fn token_claims(data: &[u8]) {
    let token = format!("{}.{}.{}", encoded(br#"{"alg":"ES256","typ":"JWT"}"#), encoded(data), encoded(&[1; 64]));
    let unverified = review::read(&token, AUDIENCE);
    let said = serde_json::from_slice::<Audience>(data);
    let claims = serde_json::from_slice::<Claims>(data);
    if let Ok(unverified) = &unverified {
        assert!(said.is_ok_and(|said| said.aud.holds(AUDIENCE)));
        assert_eq!(unverified.sub, claims.as_ref().expect("both read it").sub);
    }
    if let Ok(claims) = &claims {
        assert!(claims.ends() >= UNIX_EPOCH);
    }
    // Junk behind the right shape is still not signed by anybody.
    let keys = KeySet::parse(KEYS, Profile::SERVICE_ACCOUNTS).expect("the corpus's keys");
    assert!(keys.verified(&token).is_err());
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A set has no more keys than it lists, and none of a set that the corpus's issuer did not make takes its tokens.
pub fn key_sets(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match KeySet::parse(&text, Profile::SERVICE_ACCOUNTS) {
        Ok(keys) => {
            assert!(
                keys.len() <= JWKS_KEYS_MAX
                    && keys.len() <= text.matches("\"kty\"").count() + text.matches('\\').count()
            );
            for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"ES384","kid":"k1"}"#] {
                let token = format!("{}.{}.{}", encoded(header.as_bytes()), encoded(b"{}"), encoded(&[1; 64]));
                assert!(keys.verified(&token).is_err());
            }
        }
        Err(mistake) => assert!(!mistake.is_empty()),
    }
}
