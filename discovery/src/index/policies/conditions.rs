//! What a rule of an AuthorizationPolicy asks for. What the CRD refuses is refused here too.
//!
//! Errors begin with the field, as a suffix to the path of what it stands in: `[0].cidrs[1]: "x" is no CIDR`.

use crate::objects::{
    names::is_label,
    policy::{ExceptOperation, ExceptSource, PolicyField, PolicyFieldMatch, PolicyGrpc, PolicyOperation, PolicySource},
};
use http::Method;
use remora_model::{
    FieldMatch, FieldRule, GrpcRule, HostRule, Operation, OperationExcept, PathPattern, ServiceAccount, Source,
    SourceExcept, SpiffeId, TrustDomain, network, policy,
};
use std::sync::Arc;

/// Entries of any list in a policy, as in the CRD.
pub(super) const LIST_MAX: usize = 64;
/// Headers of one operation, as in the CRD.
const HEADERS_MAX: usize = 16;
/// Bytes of a SPIFFE id (its standard), of a method, of a path, of a host, as in the CRD.
const ID_BYTES_MAX: usize = 2048;
const METHOD_BYTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1024;
const HOST_BYTES_MAX: usize = 262;

pub(super) fn list<T, U>(field: &str, given: &[T], read: impl Fn(&T) -> Result<U, String>) -> Result<Vec<U>, String> {
    if given.len() > LIST_MAX {
        return Err(format!(".{field}: has {} entries, more than the {LIST_MAX} allowed", given.len()));
    }
    given.iter().enumerate().map(|(i, one)| read(one).map_err(|e| format!(".{field}[{i}]{e}"))).collect()
}

/// A list that must not be empty where it is given: empty, it would match everything.
fn some<T, U>(field: &str, given: &Option<Vec<T>>, read: impl Fn(&T) -> Result<U, String>) -> Result<Vec<U>, String> {
    match given.as_deref() {
        None => Ok(Vec::new()),
        Some([]) => Err(format!(".{field}: is empty, which would match everything; leave it out to mean that")),
        Some(given) => list(field, given, read),
    }
}

/// The same of texts.
fn texts<U>(
    field: &str,
    given: &Option<Vec<String>>,
    read: impl Fn(&str) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    some(field, given, |text: &String| read(text).map_err(|e| format!(": {text:?} {e}")))
}

pub(super) fn source(source: &PolicySource) -> Result<Source, String> {
    source.unknown.none().map_err(|e| format!(".{e}"))?;
    let account = |text: &str| ServiceAccount::parse(text).map_err(|problem| problem.to_string());
    let domain = |text: &str| TrustDomain::new(text).map_err(|problem| format!("is no trust domain: {problem}"));
    let read = Source {
        identities: texts("identities", &source.identities, identity)?,
        namespaces: texts("namespaces", &source.namespaces, namespace)?,
        service_accounts: texts("serviceAccounts", &source.service_accounts, account)?,
        trust_domains: texts("trustDomains", &source.trust_domains, domain)?,
        authenticated: source.authenticated,
        cidrs: texts("cidrs", &source.cidrs, cidr)?,
        except: source
            .except
            .as_ref()
            .map_or(Ok(SourceExcept::default()), |one| except_source(one).map_err(|e| format!(".except{e}")))?,
    };
    let bare = Source { except: SourceExcept::default(), ..read.clone() } == Source::default();
    if bare && source.except.is_some() {
        return Err(".except: stands alone; say what it is an exception of, as authenticated: true".to_owned());
    }
    if bare {
        return Err(": is empty, which would match everybody; say `from: []` to mean that".to_owned());
    }
    if read.authenticated == Some(false) && (read.asks_identity() || read.excepts_identity()) {
        return Err(
            ".authenticated: is false beside fields that ask for an identity, so that nobody is meant".to_owned()
        );
    }
    Ok(read)
}

fn except_source(except: &ExceptSource) -> Result<SourceExcept, String> {
    except.unknown.none().map_err(|e| format!(".{e}"))?;
    let read = SourceExcept {
        identities: texts("identities", &except.identities, identity)?,
        namespaces: texts("namespaces", &except.namespaces, namespace)?,
        cidrs: texts("cidrs", &except.cidrs, cidr)?,
    };
    if read == SourceExcept::default() { Err(": is empty; leave it out to except nobody".to_owned()) } else { Ok(read) }
}

fn identity(id: &str) -> Result<SpiffeId, String> {
    match SpiffeId::parse(id) {
        _ if id.len() > ID_BYTES_MAX => Err(format!("is longer than {ID_BYTES_MAX} bytes")),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("is no SPIFFE id: {error}")),
    }
}

fn namespace(name: &str) -> Result<Arc<str>, String> {
    is_label(name).then(|| name.into()).ok_or_else(|| "is no namespace".to_owned())
}

fn cidr(cidr: &str) -> Result<ipnet::IpNet, String> {
    network::parse(cidr).map_err(|problem| problem.to_string())
}

pub(super) fn operation(operation: &PolicyOperation) -> Result<Operation, String> {
    operation.unknown.none().map_err(|e| format!(".{e}"))?;
    let host = |text: &str| match HostRule::parse(text) {
        _ if text.len() > HOST_BYTES_MAX => Err(format!("is longer than {HOST_BYTES_MAX} bytes")),
        read => read.map_err(|problem| problem.to_string()),
    };
    let port = |port: &u32| match u16::try_from(*port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!(": {port} is no port from 1 to 65535")),
    };
    if operation.headers.as_ref().is_some_and(|headers| headers.len() > HEADERS_MAX) {
        return Err(format!(".headers: has more entries than the {HEADERS_MAX} allowed"));
    }
    let read = Operation {
        methods: texts("methods", &operation.methods, method)?,
        paths: texts("paths", &operation.paths, path)?,
        hosts: texts("hosts", &operation.hosts, host)?,
        headers: some("headers", &operation.headers, header)?,
        grpc: some("grpc", &operation.grpc, grpc)?,
        ports: some("ports", &operation.ports, port)?,
        except: operation
            .except
            .as_ref()
            .map_or(Ok(OperationExcept::default()), |one| except_operation(one).map_err(|e| format!(".except{e}")))?,
    };
    let bare = Operation { except: OperationExcept::default(), ..read.clone() } == Operation::default();
    if bare && operation.except.is_some() {
        return Err(".except: stands alone; say what it is an exception of, as paths: [/*]".to_owned());
    }
    if bare {
        return Err(": is empty, which would match anything; say `to: []` to mean that".to_owned());
    }
    Ok(read)
}

fn except_operation(except: &ExceptOperation) -> Result<OperationExcept, String> {
    except.unknown.none().map_err(|e| format!(".{e}"))?;
    let read = OperationExcept {
        methods: texts("methods", &except.methods, method)?,
        paths: texts("paths", &except.paths, path)?,
    };
    let none = read == OperationExcept::default();
    if none { Err(": is empty; leave it out to except nothing".to_owned()) } else { Ok(read) }
}

fn method(text: &str) -> Result<Method, String> {
    match policy::method(text) {
        _ if text.len() > METHOD_BYTES_MAX => Err(format!("is longer than {METHOD_BYTES_MAX} bytes")),
        read => read.map_err(|problem| problem.to_string()),
    }
}

fn path(text: &str) -> Result<PathPattern, String> {
    match PathPattern::parse(text) {
        _ if text.len() > PATH_BYTES_MAX => Err(format!("is longer than {PATH_BYTES_MAX} bytes")),
        read => read.map_err(|problem| problem.to_string()),
    }
}

fn header(field: &PolicyField) -> Result<FieldRule, String> {
    field.unknown.none().map_err(|e| format!(".{e}"))?;
    if field.values.len() > LIST_MAX {
        return Err(format!(".values: has {} entries, more than the {LIST_MAX} allowed", field.values.len()));
    }
    let by = match field.by {
        PolicyFieldMatch::Exact => FieldMatch::Exact,
        PolicyFieldMatch::Prefix => FieldMatch::Prefix,
    };
    FieldRule::new(&field.name, by, &field.values).map_err(|problem| format!(": {:?} {problem}", field.name))
}

fn grpc(one: &PolicyGrpc) -> Result<GrpcRule, String> {
    one.unknown.none().map_err(|e| format!(".{e}"))?;
    GrpcRule::new(&one.service, one.method.as_deref()).map_err(|problem| format!(": {problem}"))
}
