//! The issuers of tokens that an AuthorizationPolicy names, and which of them its rules mean.
//!
//! An issuer that cannot be read closes its policy, whatever that does: it denies everything. Without the issuer, expired tokens would pass for none, and
//! clients could set the fields in which the application is told of claims.

use crate::{
    index::derived::ReadIssuer,
    objects::{
        Metadata, Unknown,
        jwks::{self, AllowedHost, JwksUrl},
        jwt::{PolicyClaimHeader, PolicyJwks, PolicyJwt, PolicyJwtIssuer, PolicyTokenPlace},
    },
};
use http::HeaderName;
use remora_api::convert::jwt::{CLAIM_DEPTH_MAX, CLAIM_VALUES_MAX, CLAIMS_MAX, ISSUERS_MAX, PLACES_MAX};
use remora_model::{ClaimCondition, ClaimHeader, ClaimPath, JwtCondition, JwtIssuer, TokenPlace};
use std::sync::Arc;

/// Bytes of an issuer, an audience, a name or value of a claim, as in the CRD.
const TEXT_BYTES_MAX: usize = 2048;

/// Reads the issuers of a policy. Errors begin with the field: `spec.jwt[0].issuer: is missing`.
pub(super) fn issuers(
    meta: &Metadata,
    given: &[PolicyJwtIssuer],
    (hosts, dry_run): (&[AllowedHost], bool),
) -> Result<Vec<ReadIssuer>, String> {
    if given.len() > ISSUERS_MAX {
        return Err(format!("spec.jwt: has {} entries, more than the {ISSUERS_MAX} allowed", given.len()));
    }
    let mut all: Vec<ReadIssuer> = Vec::new();
    for (at, one) in given.iter().enumerate() {
        let name = format!("{}/{} issuer {at}", meta.namespace, meta.name).into();
        let read = issuer(name, one, hosts, dry_run).map_err(|e| format!("spec.jwt[{at}]{e}"))?;
        if all.iter().any(|other| other.issuer.issuer == read.issuer.issuer) {
            return Err(format!("spec.jwt[{at}].issuer: {:?} is named twice", one.issuer));
        }
        all.push(read);
    }
    Ok(all)
}

fn issuer(name: Arc<str>, given: &PolicyJwtIssuer, hosts: &[AllowedHost], dry_run: bool) -> Result<ReadIssuer, String> {
    known(&given.unknown)?;
    let (keys, url) = keys(&given.jwks, hosts).map_err(|e| format!(".jwks{e}"))?;
    let issuer = JwtIssuer {
        name,
        issuer: text(&given.issuer).map_err(|e| format!(".issuer: {e}"))?,
        audiences: some("audiences", CLAIMS_MAX, given.audiences.as_deref(), text)?,
        keys,
        from: match &given.from {
            None => vec![TokenPlace::bearer()],
            from => some_of("from", PLACES_MAX, from.as_deref(), place)?,
        },
        forward: given.forward,
        claim_headers: list("claimHeaders", CLAIMS_MAX, &given.claim_headers, claim_header)?,
        dry_run,
    };
    let mut told: Vec<_> = issuer.claim_headers.iter().map(|told| told.header.as_str()).collect();
    told.sort_unstable();
    match told.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!(".claimHeaders: {:?} is named twice", twice[0])),
        None => Ok(ReadIssuer { issuer, url }),
    }
}

fn keys(given: &PolicyJwks, hosts: &[AllowedHost]) -> Result<(Option<Arc<str>>, Option<JwksUrl>), String> {
    known(&given.unknown)?;
    match (&given.inline, &given.url) {
        (Some(inline), None) => Ok((Some(jwks::useful(inline).map_err(|e| format!(".inline: {e}"))?), None)),
        (None, Some(url)) => {
            let read = JwksUrl::parse(url).map_err(|e| format!(".url: {url:?} {e}"))?;
            if !hosts.iter().any(|host| host.allows(&read)) {
                let flag = "policy.jwks.hosts of the chart (--jwks-hosts)";
                return Err(format!(
                    ".url: {:?} is no host that keys may be fetched from; add it to {flag}",
                    read.authority()
                ));
            }
            Ok((None, Some(read)))
        }
        (Some(_), Some(_)) => Err(": has inline and url; it is one of both".to_owned()),
        (None, None) => Err(": has neither inline nor url".to_owned()),
    }
}

fn place(given: &PolicyTokenPlace) -> Result<TokenPlace, String> {
    known(&given.unknown)?;
    match (&given.header, &given.cookie, &given.query) {
        (Some(header), None, None) => {
            known(&header.unknown).map_err(|e| format!(".header{e}"))?;
            let name = field(&header.name).map_err(|e| format!(".header.name: {e}"))?;
            // A cookie's name has no `=`; as a header it would be one big token.
            if name == http::header::COOKIE {
                return Err(".header.name: say `cookie` and the name of the cookie".to_owned());
            }
            if header.prefix.len() > TEXT_BYTES_MAX || !header.prefix.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                return Err(".header.prefix: is no text that a field can begin with".to_owned());
            }
            Ok(TokenPlace::Header { name, prefix: header.prefix.as_str().into() })
        }
        (None, Some(cookie), None) => {
            let is_token = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b);
            let is_name = !cookie.is_empty() && cookie.len() <= TEXT_BYTES_MAX && cookie.bytes().all(is_token);
            let name = is_name.then(|| cookie.as_str().into());
            name.map(TokenPlace::Cookie).ok_or_else(|| format!(".cookie: {cookie:?} is no name of a cookie"))
        }
        (None, None, Some(query)) => text(query).map(TokenPlace::Query).map_err(|e| format!(".query: {e}")),
        _ => Err(": is one of header, cookie and query".to_owned()),
    }
}

fn claim_header(given: &PolicyClaimHeader) -> Result<ClaimHeader, String> {
    known(&given.unknown)?;
    let header = field(&given.header).map_err(|e| format!(".header: {e}"))?;
    if is_reserved(&header) {
        return Err(format!(".header: {:?} has a meaning of its own", given.header));
    }
    Ok(ClaimHeader { claim: claim(&given.claim)?, header })
}

/// Fields by which a message is framed, routed or vouched for: a claim in one of these would be a way to write them.
fn is_reserved(name: &HeaderName) -> bool {
    use http::header as h;
    let framing = [h::HOST, h::CONNECTION, h::CONTENT_LENGTH, h::TRANSFER_ENCODING, h::TE, h::TRAILER, h::UPGRADE];
    framing.contains(name)
        || [h::AUTHORIZATION, h::COOKIE].contains(name)
        || name.as_str().starts_with("x-remora-")
        || matches!(name.as_str(), "l5d-client-id" | "x-forwarded-client-cert")
}

/// Reads what a source asks of tokens: issuers as they are written, which [`resolve`] makes names of.
pub(super) fn condition(given: &PolicyJwt) -> Result<JwtCondition, String> {
    known(&given.unknown)?;
    Ok(JwtCondition {
        issuers: some("issuers", CLAIMS_MAX, given.issuers.as_deref(), text)?,
        claims: list("claims", CLAIMS_MAX, &given.claims, |one| {
            known(&one.unknown)?;
            let values = some("values", CLAIM_VALUES_MAX, one.values.as_deref(), |value| match value.len() {
                0..=TEXT_BYTES_MAX => Ok(value.into()),
                _ => Err(format!("is longer than {TEXT_BYTES_MAX} bytes")),
            })?;
            Ok(ClaimCondition { claim: claim(&one.claim)?, values })
        })?,
    })
}

/// Makes of the issuers that a rule names those that are meant: of its own policy, or where that names none of this name of the mesh's policies. Those of
/// a policy in dry run are there for its own rules alone: no rule that decides may rest on them.
pub(super) fn resolve(asked: &mut JwtCondition, own: &[ReadIssuer], of_mesh: &[ReadIssuer]) -> Result<(), String> {
    let named = |text: &str, all: &[ReadIssuer]| -> Vec<Arc<str>> {
        let meant = all.iter().filter(|one| *one.issuer.issuer == *text);
        meant.map(|one| one.issuer.name.clone()).collect()
    };
    let mut names = Vec::new();
    if asked.issuers.is_empty() {
        let all = if own.is_empty() { of_mesh } else { own };
        names.extend(all.iter().map(|one| one.issuer.name.clone()));
        if names.is_empty() {
            return Err(": no issuer is named in spec.jwt, nor by a policy of the mesh".to_owned());
        }
    }
    for (at, text) in asked.issuers.iter().enumerate() {
        let meant = Some(named(text, own)).filter(|own| !own.is_empty()).unwrap_or_else(|| named(text, of_mesh));
        if meant.is_empty() {
            return Err(format!(".issuers[{at}]: {text:?} is named neither in spec.jwt nor by a policy of the mesh"));
        }
        names.extend(meant);
    }
    if names.len() > CLAIMS_MAX {
        return Err(format!(".issuers: {} are meant, more than the {CLAIMS_MAX} allowed", names.len()));
    }
    asked.issuers = names;
    Ok(())
}

fn known(unknown: &Unknown) -> Result<(), String> {
    unknown.none().map_err(|e| format!(".{e}"))
}

fn text(given: &str) -> Result<Arc<str>, String> {
    match given.len() {
        0 => Err("is empty".to_owned()),
        1..=TEXT_BYTES_MAX => Ok(given.into()),
        _ => Err(format!("is longer than {TEXT_BYTES_MAX} bytes")),
    }
}

fn field(given: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(given.as_bytes()).map_err(|_| format!("{given:?} is no name of a field"))
}

fn claim(names: &[String]) -> Result<ClaimPath, String> {
    if names.is_empty() {
        return Err(".claim: is empty; it is the names to go down by, as in [realm_access, roles]".to_owned());
    }
    list("claim", CLAIM_DEPTH_MAX, names, |name| text(name).map_err(|e| format!(": {e}")))
}

fn list<T, U>(name: &str, most: usize, given: &[T], read: impl Fn(&T) -> Result<U, String>) -> Result<Vec<U>, String> {
    if given.len() > most {
        return Err(format!(".{name}: has {} entries, more than the {most} allowed", given.len()));
    }
    given.iter().enumerate().map(|(at, one)| read(one).map_err(|e| format!(".{name}[{at}]{e}"))).collect()
}

/// A list that must not be empty where it is given.
fn some_of<T, U>(
    name: &str,
    most: usize,
    given: Option<&[T]>,
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    match given {
        None => Ok(Vec::new()),
        Some([]) => Err(format!(".{name}: is empty; leave it out to mean that")),
        Some(given) => list(name, most, given, read),
    }
}

fn some<U>(
    name: &str,
    most: usize,
    given: Option<&[String]>,
    read: impl Fn(&str) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    some_of(name, most, given, |one: &String| read(one).map_err(|e| format!(": {e}")))
}
