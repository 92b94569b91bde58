//! A signed JWT and a set of keys, by RFC 7515 (JWS), 7517 (JWK), 7518 (algorithms), 8037 (EdDSA), 7519 (JWT) and 8725 (practice): pure.
//!
//! In: the compact text and the keys of a JWKS. Out: the claims' bytes, or the rule that is broken. Not here: what the claims mean.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

/// Keys of one JWKS that are read: an issuer has one, and two while it replaces it; the largest public ones have a dozen.
pub const JWKS_KEYS_MAX: usize = 64;
/// How much of an algorithm's name is shown.
const NAME_CHARS_MAX: usize = 16;

/// Which rule of a signed token is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoseError {
    /// No JWT of three parts.
    #[error("is no signed JWT")]
    Malformed,
    /// Signed in a way that is not allowed.
    #[error("is signed with {0:?}, which is not allowed")]
    Algorithm(String),
    /// RFC 7515 §4.1.11: extensions that must be understood.
    #[error("demands that extensions are understood (crit), and none is")]
    Critical,
    /// The key is not in the set.
    #[error("names no key of the set")]
    UnknownKey,
    /// The signature is wrong.
    #[error("has a signature that no key of the set made")]
    Signature,
}

/// What signs, by its `alg` (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// Every one that signs with a private key. `none` and HMAC are not among them: no public key can pass as a secret (RFC 8725 §3.1).
    const ALL: &'static [Self] = &[
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];
    const RSA: &'static [Self] = &[Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Ps384, Self::Ps512];

    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
    }
}

/// Whose tokens are meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    algorithms: &'static [Algorithm],
    /// What a header may have as its `typ`, in lower case (RFC 8725 §3.11); it may have none.
    types: &'static [&'static str],
}

impl Profile {
    /// Tokens of service accounts, as Kubernetes signs them.
    pub const SERVICE_ACCOUNTS: &'static Self = &Self {
        algorithms: &[Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::Es512],
        types: &["jwt"],
    };
    /// Tokens of users, as identity providers sign them; `at+jwt` is an access token's (RFC 9068 §2.1).
    pub const USERS: &'static Self =
        &Self { algorithms: Algorithm::ALL, types: &["jwt", "at+jwt", "application/at+jwt"] };
}

/// The header. What it may hold besides is ignored (RFC 7515 §4), but a name that comes twice is refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// RFC 7515 §4.1.11: extensions that must be understood. None is; and it is a list that is not empty, so whatever stands here, `null`
    /// too, is refused.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|IgnoredAny| true)
}

/// A key as its file has it. What is not known is ignored (RFC 7517 §4).
#[derive(Clone, Deserialize, Serialize)]
struct Jwk {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

/// What of a JWKS checks tokens of this profile: keys of other uses, chains of certificates and the like are left out, so that what is sent
/// about is small, and changes only with the keys.
pub fn trimmed(text: &str, profile: &'static Profile) -> Result<String, String> {
    let kept: Vec<Jwk> = read(text, profile)?.into_iter().map(|(jwk, _)| jwk).collect();
    Ok(serde_json::json!({ "keys": kept }).to_string())
}

/// The keys of use, as they are written and as they check.
fn read(text: &str, profile: &Profile) -> Result<Vec<(Jwk, Key)>, String> {
    let jwks: Jwks = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if jwks.keys.len() > JWKS_KEYS_MAX {
        return Err(format!("it holds {} keys; at most {JWKS_KEYS_MAX} are read", jwks.keys.len()));
    }
    let mut keys = Vec::new();
    for (index, value) in jwks.keys.into_iter().enumerate() {
        let say = |what: String| format!("key {}: {what}", index + 1);
        let jwk: Jwk = serde_json::from_value(value).map_err(|error| say(error.to_string()))?;
        let key = jwk.clone().key(profile).map_err(|what| say(what.to_owned()))?;
        keys.extend(key.map(|key| (jwk, key)));
    }
    Ok(keys)
}

/// A key that may check signatures.
#[derive(Debug, Clone)]
struct Key {
    kid: Option<String>,
    /// What it may check: one, unless it is an RSA key that does not say which (RFC 7517 §4.4).
    algorithms: Vec<Algorithm>,
    public: Public,
}

#[derive(Debug, Clone)]
enum Public {
    /// An uncompressed point, or the 32 bytes of an Ed25519 key.
    Point(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// The keys that tokens are checked with.
#[derive(Debug, Clone)]
pub struct KeySet {
    profile: &'static Profile,
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a JWKS, for tokens of this profile. Keys of other kinds, for other algorithms or uses are left
    /// out (RFC 7517 §5); a key of use that cannot be read is an error.
    pub fn parse(text: &str, profile: &'static Profile) -> Result<Self, String> {
        let keys = read(text, profile)?.into_iter().map(|(_, key)| key).collect();
        Ok(Self { profile, keys })
    }

    /// How many keys of use there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The claims of `token`, as JSON, if one of these keys signed it.
    pub fn verified(&self, token: &str) -> Result<Vec<u8>, JoseError> {
        let part = |text| decoded(text).ok_or(JoseError::Malformed);
        let (signed, signature) = token.rsplit_once('.').ok_or(JoseError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JoseError::Malformed)?;
        let header: Header = serde_json::from_slice(&part(header)?).map_err(|_| JoseError::Malformed)?;
        // RFC 8725 §3.11: a token of another type is not meant for us.
        if header.typ.is_some_and(|typ| !self.profile.types.contains(&&*typ.to_ascii_lowercase())) {
            return Err(JoseError::Malformed);
        }
        if header.crit {
            return Err(JoseError::Critical);
        }
        let algorithm = Algorithm::named(&header.alg)
            .filter(|algorithm| self.profile.algorithms.contains(algorithm))
            .ok_or_else(|| JoseError::Algorithm(header.alg.chars().take(NAME_CHARS_MAX).collect()))?;
        let signature = part(signature)?;
        let fits = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        // RFC 7517 §4.5: several keys may have one `kid` if they are of different types. Without one, only a single key can be meant.
        let fits: Vec<&Key> = match &header.kid {
            Some(kid) => fits.filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            None => Some(fits.collect::<Vec<_>>()).filter(|fits| fits.len() == 1).unwrap_or_default(),
        };
        if fits.is_empty() {
            return Err(JoseError::UnknownKey);
        }
        if !fits.iter().any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
            return Err(JoseError::Signature);
        }
        part(payload)
    }
}

impl Jwk {
    /// The key, if it may check tokens of this profile.
    fn key(self, profile: &Profile) -> Result<Option<Key>, &'static str> {
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        // RFC 7517 §4.3: as `use`, and both must agree.
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs || !verifies {
            return Ok(None);
        }
        let (fits, public): (&[Algorithm], Public) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(self.n.as_deref(), "n")?, bytes(self.e.as_deref(), "e")?);
                (Algorithm::RSA, Public::Rsa { n, e })
            }
            // RFC 7518 §3.4: each algorithm has its curve.
            ("EC", Some("P-256")) => (&[Algorithm::Es256], self.point(32)?),
            ("EC", Some("P-384")) => (&[Algorithm::Es384], self.point(48)?),
            ("EC", Some("P-521")) => (&[Algorithm::Es512], self.point(66)?),
            ("OKP", Some("Ed25519")) => (&[Algorithm::EdDsa], self.edwards()?),
            _ => return Ok(None),
        };
        // RFC 7517 §4.4: it is for this algorithm alone.
        let meant = |it: Algorithm| self.alg.as_deref().is_none_or(|name| name == it.name());
        let algorithms: Vec<_> =
            profile.algorithms.iter().copied().filter(|it| fits.contains(it) && meant(*it)).collect();
        Ok((!algorithms.is_empty()).then_some(Key { kid: self.kid, algorithms, public }))
    }

    /// RFC 8037 §2.
    fn edwards(&self) -> Result<Public, &'static str> {
        let x = bytes(self.x.as_deref(), "x")?;
        if x.len() == 32 { Ok(Public::Point(x)) } else { Err("x is not as long as an Ed25519 key") }
    }

    /// RFC 7518 §6.2.1.2: both coordinates have the curve's full length.
    fn point(&self, length: usize) -> Result<Public, &'static str> {
        let (x, y) = (bytes(self.x.as_deref(), "x")?, bytes(self.y.as_deref(), "y")?);
        if x.len() != length || y.len() != length {
            return Err("a coordinate is not as long as its curve's");
        }
        Ok(Public::Point([&[4], x.as_slice(), y.as_slice()].concat()))
    }
}

impl Key {
    fn verifies(&self, algorithm: Algorithm, signed: &[u8], given: &[u8]) -> bool {
        let ecdsa = |it: &'static EcdsaVerificationAlgorithm| self.of_point(it, signed, given);
        let rsa = |parameters: &'static RsaParameters| self.of_rsa(parameters, signed, given);
        // RSA keys of fewer than 2048 bits, or of so many that they cost too much, verify nothing.
        match algorithm {
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => ecdsa(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => ecdsa(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::Es512 => ecdsa(&signature::ECDSA_P521_SHA512_FIXED),
            Algorithm::EdDsa => self.of_point(&signature::ED25519, signed, given),
        }
    }

    fn of_point(&self, algorithm: &'static dyn VerificationAlgorithm, signed: &[u8], given: &[u8]) -> bool {
        let Public::Point(point) = &self.public else { return false };
        UnparsedPublicKey::new(algorithm, point).verify(signed, given).is_ok()
    }

    fn of_rsa(&self, parameters: &'static RsaParameters, signed: &[u8], given: &[u8]) -> bool {
        let Public::Rsa { n, e } = &self.public else { return false };
        RsaPublicKeyComponents { n, e }.verify(parameters, signed, given).is_ok()
    }
}

fn bytes(text: Option<&str>, name: &'static str) -> Result<Vec<u8>, &'static str> {
    match text.and_then(decoded) {
        Some(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(match name {
            "n" => "n is missing, or is not base64url",
            "e" => "e is missing, or is not base64url",
            "x" => "x is missing, or is not base64url",
            _ => "y is missing, or is not base64url",
        }),
    }
}

/// What base64url without padding stands for (RFC 7515 §2).
#[must_use]
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair as RsaKeyPair, KeySize},
        signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaEncoding},
    };
    use serde_json::json;

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn text(alg: &str) -> String {
        format!("{}.{}", encoded(json!({ "alg": alg, "kid": "k" }).to_string().as_bytes()), encoded(b"{}"))
    }

    fn rsa(key: &RsaKeyPair, alg: &str, padding: &'static dyn RsaEncoding) -> String {
        let (text, mut signature) = (text(alg), vec![0; key.public_modulus_len()]);
        key.sign(padding, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        format!("{text}.{}", encoded(&signature))
    }

    #[test]
    fn an_rsa_key_checks_what_it_says_or_any_algorithm_of_rsa_and_nothing_that_is_not_allowed() {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
        let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
        let jwk = json!({ "kty": "RSA", "kid": "k", "n": encoded(n), "e": encoded(e) });
        let set =
            |jwk: &serde_json::Value, allowed| KeySet::parse(&json!({ "keys": [jwk] }).to_string(), allowed).unwrap();
        let (pss, pkcs1) = (rsa(&key, "PS256", &RSA_PSS_SHA256), rsa(&key, "RS384", &RSA_PKCS1_SHA384));
        let any = set(&jwk, Profile::USERS);
        assert_eq!((any.verified(&pss).as_deref(), any.verified(&pkcs1).as_deref()), (Ok(&b"{}"[..]), Ok(&b"{}"[..])));
        let (mut bound, not_allowed) = (jwk.clone(), set(&jwk, Profile::SERVICE_ACCOUNTS));
        bound["alg"] = json!("PS256");
        let bound = set(&bound, Profile::USERS);
        assert_eq!(bound.verified(&pss).as_deref(), Ok(&b"{}"[..]));
        assert_eq!(bound.verified(&pkcs1), Err(JoseError::UnknownKey));
        assert_eq!(not_allowed.verified(&pss), Err(JoseError::Algorithm("PS256".to_owned())));
        // The padding is what the header says, and no other.
        let lied = pkcs1.replacen(&text("RS384"), &text("PS384"), 1);
        assert_eq!(any.verified(&lied), Err(JoseError::Signature));
    }

    #[test]
    fn an_ed25519_key_checks_eddsa() {
        let key = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encoded(key.public_key().as_ref()) });
        let text = text("EdDSA");
        let token = format!("{text}.{}", encoded(key.sign(text.as_bytes()).as_ref()));
        let set = json!({ "keys": [jwk] }).to_string();
        assert_eq!(KeySet::parse(&set, Profile::USERS).unwrap().verified(&token).as_deref(), Ok(&b"{}"[..]));
        assert!(KeySet::parse(&set, Profile::SERVICE_ACCOUNTS).unwrap().is_empty());
        let short = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }] }).to_string();
        assert!(KeySet::parse(&short, Profile::USERS).unwrap_err().contains("Ed25519"));
    }

    #[test]
    fn of_a_set_that_is_sent_about_only_what_checks_is_left() {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = encoded(key.public_key().as_ref());
        let whole = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x, "x5c": ["MIIC"], "use": "sig" },
            { "kty": "RSA", "use": "enc", "n": "AQ", "e": "AQ" },
            { "kty": "oct", "k": "c2VjcmV0" },
        ]});
        let left = trimmed(&whole.to_string(), Profile::USERS).unwrap();
        let expected = json!({ "keys": [{ "kty": "OKP", "kid": "k", "use": "sig", "crv": "Ed25519", "x": x }] });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&left).unwrap(), expected);
        assert_eq!(trimmed(&left, Profile::USERS).unwrap(), left);
        assert!(trimmed("junk", Profile::USERS).is_err());
    }
}
