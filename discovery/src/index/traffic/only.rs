//! `match` of a limit or fault: the requests that it is for. Errors begin with the field, as a suffix to its path.

use super::LIST_MAX;
use crate::objects::{
    names::{is_label, is_subdomain},
    traffic::{HeaderSpec, MatchSpec},
};
use http::{HeaderName, HeaderValue};
use remora_model::{PathPattern, RequestMatch, SpiffeId, TrustDomain, policy};

/// Bytes of a SPIFFE id (its standard), of a method, of a path, of a header's name and value, as in the CRD.
const ID_BYTES_MAX: usize = 2048;
const METHOD_BYTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 4096;

pub(super) fn read(spec: &MatchSpec, trust_domain: &TrustDomain) -> Result<RequestMatch, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let MatchSpec { methods, paths, headers, identities, service_accounts, .. } = spec;
    if [methods, paths, identities, service_accounts].into_iter().all(Option::is_none) && headers.is_none() {
        return Err(": is empty; leave it out to mean every request".to_owned());
    }
    let method = |text: &String| match policy::method(text) {
        _ if text.len() > METHOD_BYTES_MAX => Err(format!(": is longer than {METHOD_BYTES_MAX} bytes")),
        read => read.map_err(|problem| format!(": {text:?} {problem}")),
    };
    let path = |text: &String| match PathPattern::parse(text) {
        _ if text.len() > PATH_BYTES_MAX => Err(format!(": is longer than {PATH_BYTES_MAX} bytes")),
        read => read.map_err(|problem| format!(": {text:?} {problem}")),
    };
    Ok(RequestMatch {
        methods: some("methods", methods, method)?,
        paths: some("paths", paths, path)?,
        headers: some("headers", headers, header)?,
        identities: callers(identities, service_accounts, trust_domain)?,
    })
}

/// The callers that two lists name, each as it is easier.
pub(super) fn callers(
    identities: &Option<Vec<String>>,
    accounts: &Option<Vec<String>>,
    trust_domain: &TrustDomain,
) -> Result<Vec<SpiffeId>, String> {
    let id = |text: &String| match SpiffeId::parse(text) {
        _ if text.len() > ID_BYTES_MAX => Err(format!(": is longer than {ID_BYTES_MAX} bytes")),
        read => read.map_err(|problem| format!(": {text:?} is no SPIFFE id: {problem}")),
    };
    let account = |text: &String| {
        let wrong = || format!(": {text:?} is not namespace/name of a ServiceAccount");
        let (namespace, name) = text.split_once('/').ok_or_else(wrong)?;
        let read = SpiffeId::workload(trust_domain, namespace, name).ok();
        read.filter(|_| is_label(namespace) && is_subdomain(name)).ok_or_else(wrong)
    };
    let mut all = some("identities", identities, id)?;
    all.extend(some("serviceAccounts", accounts, account)?);
    Ok(all)
}

fn header(header: &HeaderSpec) -> Result<(HeaderName, HeaderValue), String> {
    header.unknown.none().map_err(|e| format!(".{e}"))?;
    let name = header_name(&header.name).map_err(|e| format!(".name{e}"))?;
    let value = HeaderValue::from_str(&header.value).ok().filter(|_| header.value.len() <= VALUE_BYTES_MAX);
    let value = value.filter(|value| !value.is_empty());
    Ok((name, value.ok_or(".value: is no value of a header field that can be compared")?))
}

/// The name of a header field that a client may send.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= NAME_BYTES_MAX);
    name.ok_or_else(|| format!(": {text:?} is no name of a header field"))
}

/// A list that must not be empty where it is given: empty, it would match everything.
pub(super) fn some<T, U>(
    field: &str,
    given: &Option<Vec<T>>,
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    match given.as_deref() {
        None => Ok(Vec::new()),
        Some([]) => Err(format!(".{field}: is empty, which would match everything; leave it out to mean that")),
        Some(given) if given.len() > LIST_MAX => {
            Err(format!(".{field}: has {} entries, more than the {LIST_MAX} allowed", given.len()))
        }
        Some(given) => {
            given.iter().enumerate().map(|(i, one)| read(one).map_err(|e| format!(".{field}[{i}]{e}"))).collect()
        }
    }
}
