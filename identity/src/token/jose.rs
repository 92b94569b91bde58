//! A signed JWT and a set of keys, by RFC 7515 (JWS), 7517 (JWK), 7518 (algorithms), 7519 (JWT) and 8725 (practice): pure.
//!
//! In: the compact text and the keys of a JWKS file. Out: the claims' bytes, or the rule that is broken. The algorithms are those that
//! Kubernetes signs with; `none` and HMAC are not among them, so no public key can pass as a secret (RFC 8725 §3.1). Not here: what the claims mean.

use super::TokenError;
use crate::limits::JWKS_KEYS_MAX;
use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// How much of an algorithm's name is shown.
const NAME_CHARS_MAX: usize = 16;

/// What signs, by its `alg` (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            _ => None,
        }
    }
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
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

/// A key that may check signatures.
#[derive(Debug, Clone)]
struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    public: Public,
}

#[derive(Debug, Clone)]
enum Public {
    /// An uncompressed point.
    Point(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// The keys that tokens are checked with.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWKS. Keys of other kinds, for other algorithms or uses are left out (RFC 7517 §5); a key of ours that cannot be read
    /// is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let jwks: Jwks = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if jwks.keys.len() > JWKS_KEYS_MAX {
            return Err(format!("it holds {} keys; at most {JWKS_KEYS_MAX} are read", jwks.keys.len()));
        }
        let mut keys = Vec::new();
        for (index, value) in jwks.keys.into_iter().enumerate() {
            let say = |what: String| format!("key {}: {what}", index + 1);
            let jwk: Jwk = serde_json::from_value(value).map_err(|error| say(error.to_string()))?;
            keys.extend(jwk.key().map_err(|what| say(what.to_owned()))?);
        }
        Ok(Self(keys))
    }

    /// How many keys of use there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claims of `token`, as JSON, if one of these keys signed it.
    pub(super) fn verified(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        let malformed = |()| TokenError::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header =
            serde_json::from_slice(&decoded(header).map_err(malformed)?).map_err(|_| TokenError::Malformed)?;
        // RFC 8725 §3.11: a token of another type is not meant for us.
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(TokenError::Malformed);
        }
        if header.crit {
            return Err(TokenError::Critical);
        }
        let algorithm = Algorithm::named(&header.alg)
            .ok_or_else(|| TokenError::Algorithm(header.alg.chars().take(NAME_CHARS_MAX).collect()))?;
        let signature = decoded(signature).map_err(malformed)?;
        let fits = self.0.iter().filter(|key| key.algorithm == algorithm);
        // RFC 7517 §4.5: several keys may have one `kid` if they are of different types. Without one, only a single key can be meant.
        let fits: Vec<&Key> = match &header.kid {
            Some(kid) => fits.filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            None => Some(fits.collect::<Vec<_>>()).filter(|fits| fits.len() == 1).unwrap_or_default(),
        };
        if fits.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        if !fits.iter().any(|key| key.verifies(signed.as_bytes(), &signature)) {
            return Err(TokenError::Signature);
        }
        decoded(payload).map_err(malformed)
    }
}

impl Jwk {
    /// The key, if it may check signatures of ours.
    fn key(self) -> Result<Option<Key>, &'static str> {
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        // RFC 7517 §4.3: as `use`, and both must agree.
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs || !verifies {
            return Ok(None);
        }
        let (algorithm, public) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(self.n.as_deref(), "n")?, bytes(self.e.as_deref(), "e")?);
                (Algorithm::Rs256, Public::Rsa { n, e })
            }
            // RFC 7518 §3.4: each algorithm has its curve.
            ("EC", Some("P-256")) => (Algorithm::Es256, self.point(32)?),
            ("EC", Some("P-384")) => (Algorithm::Es384, self.point(48)?),
            ("EC", Some("P-521")) => (Algorithm::Es512, self.point(66)?),
            _ => return Ok(None),
        };
        // RFC 7517 §4.4: it is for this algorithm alone.
        let meant = self.alg.as_deref().is_none_or(|name| Algorithm::named(name) == Some(algorithm));
        Ok(meant.then_some(Key { kid: self.kid, algorithm, public }))
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
    fn verifies(&self, signed: &[u8], given: &[u8]) -> bool {
        let of_point = |algorithm: &'static EcdsaVerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(algorithm, point).verify(signed, given).is_ok()
        };
        // Keys of fewer bits, or of so many that they cost too much, verify nothing.
        let rsa: &RsaParameters = &signature::RSA_PKCS1_2048_8192_SHA256;
        match (self.algorithm, &self.public) {
            (Algorithm::Rs256, Public::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(rsa, signed, given).is_ok()
            }
            (Algorithm::Es256, Public::Point(point)) => of_point(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Algorithm::Es384, Public::Point(point)) => of_point(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Algorithm::Es512, Public::Point(point)) => of_point(&signature::ECDSA_P521_SHA512_FIXED, point),
            _ => false,
        }
    }
}

fn bytes(text: Option<&str>, name: &'static str) -> Result<Vec<u8>, &'static str> {
    match text.map(decoded) {
        Some(Ok(bytes)) if !bytes.is_empty() => Ok(bytes),
        _ => Err(match name {
            "n" => "n is missing, or is not base64url",
            "e" => "e is missing, or is not base64url",
            "x" => "x is missing, or is not base64url",
            _ => "y is missing, or is not base64url",
        }),
    }
}

/// RFC 7515 §2: base64url without padding.
fn decoded(text: &str) -> Result<Vec<u8>, ()> {
    URL_SAFE_NO_PAD.decode(text).map_err(drop)
}
