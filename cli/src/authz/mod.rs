//! `remora authz`: what policy says of a call, and by which rule, without making it.
//!
//! In: objects, from files or from a cluster; who calls what. Out: the decision of the very function that proxies run (`remora-policy`), over what
//! discovery makes of these objects (its index), with the rule's place; or what would be needed. No proxy is asked: what holds in one is what discovery
//! has sent it last, which `remora check --proxies` and `/signals` say the age of.

mod explain;
mod list;
mod suggest;
mod world;

use crate::{
    Look, block_on,
    cluster::{self, ControlPlane, scope::Scope},
    finish_as,
    output::Output,
};
use http::{HeaderName, HeaderValue, Method, Uri};
use remora_model::{DefaultInbound, TrustDomain};
use serde_json::{Map, Value};
use std::{net::IpAddr, path::PathBuf, process::ExitCode};
pub(crate) use world::Absent;
use world::{From, To};

/// What follows `remora authz`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whether a call is allowed, and which rule decides
    Explain(ExplainArgs),
    /// Show the rules of a workload's port, in the order in which they decide: who may call it, and which rules never decide
    List(ListArgs),
    /// Write policies that allow what was seen, and nothing else: a dry run, to be tried before it holds
    Suggest(SuggestArgs),
}

/// Where the objects are.
#[derive(Debug, clap::Args)]
#[group(skip)]
struct Objects {
    /// Files and folders of manifests, instead of the cluster's objects; pods of Deployments and their like are taken to run
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// The mesh's trust domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// What holds where no policy and no annotation says anything: allow, authenticated, same-namespace or deny; else as discovery of the
    /// cluster was told, or allow
    #[arg(long, value_name = "WORD")]
    default_inbound_policy: Option<DefaultInbound>,
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    cluster: cluster::Args,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `remora authz explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora authz explain --from shop/web --to shop/api GET /orders/7\n  \
    remora authz explain -f k8s/ --from spiffe://cluster.local/ns/shop/sa/web --to shop/api:80 POST /orders\n  \
    remora authz explain --from none --to shop/db:5432 --bytes\n\n\
    The exit code is 0 if the call is allowed, and 1 if it is not.")]
pub(crate) struct ExplainArgs {
    /// Who calls: NAMESPACE/SERVICE-ACCOUNT, a SPIFFE ID, or `none` for a caller without a certificate
    #[arg(long, value_name = "WHO", value_parser = world::from)]
    from: From,
    /// Whom: NAMESPACE/NAME of a Service, a pod or a workload, with its port unless it has one alone
    #[arg(long, value_name = "WHOM", value_parser = world::to)]
    to: To,
    /// The caller's address, for rules that name ranges
    #[arg(long, value_name = "IP", default_value = "192.0.2.1")]
    address: IpAddr,
    /// Bytes of no protocol, instead of a request
    #[arg(long, conflicts_with_all = ["method", "path"])]
    bytes: bool,
    /// The request's host, with its port if it says one
    #[arg(long, value_name = "HOST", conflicts_with = "bytes")]
    host: Option<String>,
    /// A header of the request: NAME: VALUE
    #[arg(long, value_name = "HEADER", value_parser = header, conflicts_with = "bytes")]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The user's token (JWT). What it says is taken for true: neither its signature nor its times are checked
    #[arg(long, value_name = "TOKEN", value_parser = token, conflicts_with = "bytes")]
    token: Option<Claims>,
    #[command(flatten)]
    objects: Objects,
    /// The request's method
    #[arg(value_name = "METHOD", required_unless_present = "bytes", value_parser = method)]
    method: Option<Method>,
    /// Its path
    #[arg(value_name = "PATH", required_unless_present = "bytes", value_parser = path)]
    path: Option<String>,
}

/// `remora authz list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Whom: NAMESPACE/NAME of a Service, a pod or a workload, with its port unless it has one alone
    #[arg(value_name = "WHOM", value_parser = world::to)]
    to: To,
    #[command(flatten)]
    objects: Objects,
}

/// `remora authz suggest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora authz suggest -n shop > shop-policies.yaml\n\n\
    A policy for each Service that was called, from what the proxies behind it have counted since their start, with the counts as comments.\n\
    The exit code is 1 if a pod did not answer: what it has seen is missing.")]
pub(crate) struct SuggestArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// Policies that hold at once, not a dry run
    #[arg(long)]
    enforce: bool,
    /// How to print it; text is YAML
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| "is no method of HTTP".to_owned())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("is not of the form NAME: VALUE")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| "has no name of a header")?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|_| "has no value of a header")?))
}

/// What a token says.
type Claims = Map<String, Value>;

fn token(text: &str) -> Result<Claims, String> {
    let payload = text.split('.').nth(1).and_then(remora_jose::decoded).ok_or("is no token of three parts (JWT)")?;
    serde_json::from_slice(&payload).map_err(|error| format!("says nothing that can be read: {error}"))
}

/// As a request has it, query excluded.
fn path(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|error| format!("is no path: {error}"))?;
    if text.starts_with('/') || text == "*" { Ok(uri.path().to_owned()) } else { Err("begins with a slash".to_owned()) }
}

pub(crate) fn main(command: &Command, look: Look) -> ExitCode {
    match command {
        Command::Explain(args) => finish_as(args.objects.output, block_on(explain::explain(args, look))),
        Command::List(args) => finish_as(args.objects.output, block_on(list::list(args, look))),
        Command::Suggest(args) => finish_as(args.output, block_on(suggest::suggest(args))),
    }
}

#[cfg(test)]
mod tests;
