//! Where keys of issuers are fetched from, and who may be asked: pure.

use super::Object;
use http::{Uri, uri::Scheme};
use remora_api::convert::jwt::KEYS_BYTES_MAX;
use remora_jose::{KeySet, Profile};
use std::{fmt, str::FromStr, sync::Arc};

/// Bytes of a URL, as in the CRD.
pub(crate) const URL_BYTES_MAX: usize = 2048;
/// Of HTTPS.
const PORT: u16 = 443;

/// The URL of a JWKS: HTTPS, a host, nothing secret in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JwksUrl {
    /// In lower case; of an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) target: String,
}

impl JwksUrl {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("is longer than {URL_BYTES_MAX} bytes"));
        }
        if text.contains('#') {
            return Err("has a fragment, which no server sees; leave it out".to_owned());
        }
        let uri: Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err("is not https: keys that anybody on the way can replace prove nothing".to_owned());
        }
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("has a user or password in it".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err("names no host".to_owned());
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { host, port: authority.port_u16().unwrap_or(PORT), target })
    }

    /// As the field `Host` has it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == PORT { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.target)
    }
}

/// What of a JWKS checks signatures, ready to be sent to proxies; or what is wrong with it, behind its name.
pub(crate) fn useful(text: &str) -> Result<Arc<str>, String> {
    let keys = remora_jose::trimmed(text, Profile::USERS).map_err(|why| format!("is no JWKS: {why}"))?;
    if keys.len() > KEYS_BYTES_MAX {
        return Err(format!(
            "has {} bytes of keys that check signatures; at most {KEYS_BYTES_MAX} are sent",
            keys.len()
        ));
    }
    match KeySet::parse(&keys, Profile::USERS) {
        Ok(set) if set.is_empty() => Err("has no key that checks signatures".to_owned()),
        read => read.map(|_| keys.into()),
    }
}

/// Whom keys may be fetched from: `idp.example`, `keycloak.auth.svc:8443`, and nobody below a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: u16,
}

impl AllowedHost {
    /// Whether it is that of `url`.
    pub fn allows(&self, url: &JwksUrl) -> bool {
        (&self.host, self.port) == (&url.host, url.port)
    }
}

/// The hosts of all URLs of keys that these objects name: for tools that judge objects without knowing what the operator allows.
pub fn hosts_of<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<AllowedHost> {
    let policies = objects.into_iter().filter_map(|object| match object {
        Object::AuthorizationPolicy(policy) => Some(policy),
        _ => None,
    });
    let urls = policies.flat_map(|policy| policy.spec.jwt.iter()).filter_map(|issuer| issuer.jwks.url.as_deref());
    urls.filter_map(|url| JwksUrl::parse(url).ok())
        .map(|JwksUrl { host, port, .. }| AllowedHost { host, port })
        .collect()
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['/', '*', '?']) {
            return Err(format!("{text:?} is no host and port: write idp.example, or idp.example:8443"));
        }
        let JwksUrl { host, port, .. } =
            JwksUrl::parse(&format!("https://{text}/")).map_err(|why| format!("{text:?} {why}"))?;
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_and_names_a_host_and_nothing_that_is_secret() {
        let read = |text: &str| JwksUrl::parse(text).map(|url| url.to_string());
        assert_eq!(read("https://IDP.example/keys?a=1").unwrap(), "https://idp.example/keys?a=1");
        assert_eq!(read("https://idp.example:443").unwrap(), "https://idp.example/");
        assert_eq!(read("https://[::1]:8443/k").unwrap(), "https://[::1]:8443/k");
        for (text, why) in [
            ("http://idp.example/keys", "is not https"),
            ("file:///etc/passwd", "is no"),
            ("gopher://idp.example/", "is not https"),
            ("idp.example/keys", "is no"),
            ("/keys", "is not https"),
            ("https://ann:secret@idp.example/", "has a user or password"),
            ("https://idp.example/#x", "has a fragment"),
            ("https:///keys", "is no"),
            ("https://idp.example/ x", "is no URL"),
            (&*format!("https://{}", "a".repeat(3000)), "is longer"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }

    #[test]
    fn only_the_host_and_port_that_are_allowed_are_asked() {
        let url = |text: &str| JwksUrl::parse(text).unwrap();
        let allowed: AllowedHost = "IDP.example".parse().unwrap();
        assert!(allowed.allows(&url("https://idp.example/keys")));
        for other in [
            "https://idp.example:8443/",
            "https://a.idp.example/",
            "https://idp.example.evil/",
            "https://169.254.169.254/",
        ] {
            assert!(!allowed.allows(&url(other)), "{other}");
        }
        let allowed: AllowedHost = "[fd00::1]:8443".parse().unwrap();
        assert!(allowed.allows(&url("https://[fd00::1]:8443/")));
        for wrong in ["https://idp.example", "*.example", "idp.example/keys", "a@b", ""] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }
}
