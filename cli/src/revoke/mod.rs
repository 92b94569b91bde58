//! `remora identity revoke`, `unrevoke` and `list`: who is trusted no more. It writes, removes and shows RevokedIdentities of the control plane's
//! namespace, and asks discovery which proxies have them in use.
//!
//! In: a SPIFFE ID, a certificate's serial or a pod. Out: the object, and when all proxies refused it; with `--dry-run` the manifest alone, for Git.

mod held;
mod list;
mod what;

use crate::{
    Look, Outcome, block_on,
    cluster::{self, Cluster, ControlPlane, target},
    finish_as,
    inspect::pretty,
    output::Output,
    text::{self, Line, Style},
};
use anyhow::Context as _;
use held::{Proxies, Waited};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
};
use remora_kube::{
    client::call,
    revoked::{GROUP, KIND, PLURAL, PodSpec, Spec, VERSION, read, seconds},
    yaml,
};
use remora_model::revocation::REASON_BYTES_MAX;
use remora_runtime::{settings::duration, utc::Utc};
use serde_json::{Value, json};
use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
pub(crate) use what::Absent;
use what::What;

/// The field manager that the API server remembers.
const MANAGER: &str = "remora-cli";
/// The longest that `--for` takes: an object that is to hold for longer says when it ends itself, or never does.
const FOR_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What follows `remora identity`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Trust an identity, a pod or a certificate no more: every proxy refuses it, cuts what it has open, and does not call it
    Revoke(RevokeArgs),
    /// Trust it again: remove what `revoke` wrote
    Unrevoke(UnrevokeArgs),
    /// Show who is revoked, until when, why, and how many proxies have it in use
    List(ListArgs),
}

/// `remora identity revoke`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "  remora identity revoke spiffe://cluster.local/ns/shop/sa/web --reason 'a key in a core dump' --for 24h\n  \
    remora identity revoke pod/web-1 -n shop\n  \
    remora identity revoke serial/4f:0a:7c:… --dry-run > revoked/web.yaml\n\n\
    The exit code is 0 once every proxy has it in use, and 1 if some have not within --wait, or are too old for it."
)]
pub(crate) struct RevokeArgs {
    /// A SPIFFE ID, pod/NAME, or serial/HEX of a certificate
    #[arg(value_name = "WHAT", value_parser = what::parse)]
    what: What,
    /// The namespace of the pod; the kubeconfig's if not given
    #[arg(short, long, value_name = "NAME", value_parser = target::name)]
    namespace: Option<String>,
    /// Of the pod: its unique id, or `any` for whatever pod has that name [default: that of the pod that is there]
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Why; proxies tell it in their logs
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// For how long: 30m, 24h; else until it is taken back
    #[arg(long = "for", value_name = "TIME", value_parser = span, conflicts_with = "until")]
    lasts: Option<Duration>,
    /// Until when: 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
    /// The name of the object [default: made of what is revoked]
    #[arg(long, value_name = "NAME", value_parser = target::name)]
    name: Option<String>,
    /// Print the manifest and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also if it is the control plane's own identity, which stops the mesh
    #[arg(long)]
    force: bool,
    /// How long to wait until all proxies have it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    wait: Duration,
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    cluster: cluster::Args,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `remora identity unrevoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnrevokeArgs {
    /// The names of objects, as `list` shows them; or what was revoked, as `revoke` takes it
    #[arg(value_name = "NAME", required_unless_present = "ended")]
    names: Vec<String>,
    /// The namespace of pods; the kubeconfig's if not given
    #[arg(short, long, value_name = "NAME", value_parser = target::name)]
    namespace: Option<String>,
    /// Those that have ended by themselves
    #[arg(long, conflicts_with = "names")]
    ended: bool,
    /// How long to wait until all proxies have it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    wait: Duration,
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    cluster: cluster::Args,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `remora identity list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    control_plane: ControlPlane,
    #[command(flatten)]
    cluster: cluster::Args,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn span(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|span| if span > FOR_MAX { Err("is at most 8784h".to_owned()) } else { Ok(span) })
}

fn moment(text: &str) -> Result<u64, String> {
    seconds(text).ok_or_else(|| "is a time such as 2026-12-01T08:00:00Z".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    let longest = format!("is longer than the {REASON_BYTES_MAX} bytes that proxies tell");
    if text.len() > REASON_BYTES_MAX { Err(longest) } else { Ok(text.to_owned()) }
}

pub(crate) fn main(command: &Command, look: Look) -> ExitCode {
    match command {
        Command::Revoke(args) => finish_as(args.output, block_on(revoke(args, look))),
        Command::Unrevoke(args) => finish_as(args.output, block_on(unrevoke(args, look))),
        Command::List(args) => finish_as(args.output, block_on(list::list(args, look))),
    }
}

/// The objects of the control plane's namespace.
fn api(cluster: &Cluster, control_plane: &ControlPlane) -> Api<DynamicObject> {
    let (group, version, kind, plural) = (GROUP.into(), VERSION.into(), KIND.into(), PLURAL.into());
    let resource = ApiResource { group, version, api_version: format!("{GROUP}/{VERSION}"), kind, plural };
    Api::namespaced_with(cluster.client.clone(), &control_plane.namespace, &resource)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the object is to say.
async fn spec(args: &RevokeArgs, cluster: Option<&Cluster>) -> anyhow::Result<Spec> {
    let until = args.until.or_else(|| args.lasts.map(|lasts| now() + lasts.as_secs()));
    let spec = Spec { reason: args.reason.clone(), until: until.map(|at| Utc::of(at).to_string()), ..Spec::default() };
    Ok(match &args.what {
        What::Identity(id) => {
            let own = id.namespace() == Some(&args.control_plane.namespace);
            anyhow::ensure!(
                !own || args.force,
                "{id} is of the control plane's namespace: without it proxies get no certificates or no configuration; say --force if that is meant"
            );
            Spec { identity: Some(id.to_string()), ..spec }
        }
        What::Serial(serial) => Spec { serial: Some(serial.to_string()), ..spec },
        What::Pod(name) => {
            let here = cluster.map(|cluster| cluster.namespace().to_owned());
            let namespace = args.namespace.clone().or(here).context("say the pod's namespace: -n NAME")?;
            let uid = match (args.uid.as_deref(), cluster) {
                (Some("any"), _) => None,
                (Some(uid), _) => Some(uid.to_owned()),
                (None, Some(cluster)) => Some(uid(cluster, &namespace, name).await?),
                (None, None) => {
                    anyhow::bail!("say --uid UID, or --uid any for every pod of that name: no cluster is asked")
                }
            };
            let pod = PodSpec { namespace, name: name.clone(), uid, ..PodSpec::default() };
            Spec { pod: Some(pod), ..spec }
        }
    })
}

async fn uid(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let pod = call(pods.get(name)).await.with_context(|| {
        format!("pod {namespace}/{name}: say --uid UID if it is gone (the audit log of the identity service has it), or --uid any")
    })?;
    pod.uid().context("the API server says no uid of the pod")
}

fn object(name: &str, namespace: &str, spec: &Spec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

async fn revoke(args: &RevokeArgs, look: Look) -> Outcome {
    // What needs no question to a cluster is printed without one.
    let needs_cluster = !args.dry_run || matches!((&args.what, &args.uid), (What::Pod(_), None));
    let cluster = if needs_cluster { Some(Cluster::connect(&args.cluster).await?) } else { None };
    let spec = spec(args, cluster.as_ref()).await?;
    let name = args.name.clone().unwrap_or_else(|| what::name(&spec));
    let object = object(&name, &args.control_plane.namespace, &spec);
    let problems = read(&name, &spec).problems;
    anyhow::ensure!(problems.is_empty(), "this cannot be revoked: {}", problems.join("; "));
    let (false, Some(cluster)) = (args.dry_run, cluster) else {
        return match args.output {
            Output::Json => pretty(&object, true),
            Output::Text => Ok((yaml::write(&object), true)),
        };
    };
    let api = api(&cluster, &args.control_plane);
    not_of_another(&api, &name, &spec).await?;
    let patch = Patch::Apply(&object);
    call(api.patch(&name, &PatchParams::apply(MANAGER).force(), &patch))
        .await
        .with_context(|| format!("{KIND} {name}"))?;
    let wanted = read(&name, &spec).revocation;
    let has = |shown: &held::Shown| shown.name == name && wanted.as_ref().is_some_and(|wanted| shown.says(wanted));
    let waited = held::wait(&cluster, &args.control_plane.namespace, args.wait, |all| all.iter().any(has)).await;
    let done = format!("{name}: {} is revoked{}", what::words(&spec), ends(spec.until.as_deref()));
    told(args.output, look, &done, &json!({ "object": object }), &waited)
}

/// An object of that name that revokes somebody else must not lose him.
async fn not_of_another(api: &Api<DynamicObject>, name: &str, spec: &Spec) -> anyhow::Result<()> {
    let Some(there) = call(api.get_opt(name)).await? else { return Ok(()) };
    let there: Spec = serde_json::from_value(there.data["spec"].clone()).unwrap_or_default();
    let same = (&there.identity, &there.serial, &there.pod) == (&spec.identity, &spec.serial, &spec.pod);
    let words = what::words(&there);
    anyhow::ensure!(same, "{KIND} {name} is there and revokes {words}, who would be trusted again: say another --name");
    Ok(())
}

fn ends(until: Option<&str>) -> String {
    until.map(|until| format!(" until {until}")).unwrap_or_default()
}

/// What was done, and which proxies have it.
fn told(output: Output, look: Look, done: &str, json: &Value, waited: &Waited) -> Outcome {
    let good = waited.all_have_it();
    if output == Output::Json {
        let mut json = json.clone();
        json["ok"] = good.into();
        json["proxies"] = waited.json();
        return pretty(&json, good);
    }
    let style = if good { Style::Good } else { Style::Bad };
    let mut lines = vec![Line::of(Style::Strong, done), Line::of(style, waited.words())];
    if let Waited::Asked { proxies: Proxies { unable, .. }, .. } = waited
        && unable.count > 0
    {
        let named = unable.first.join(", ");
        let what = "too old to refuse anybody: restart them; until then a Deny AuthorizationPolicy by identity holds there too";
        lines.push(Line::of(Style::Bad, format!("{} proxies are {what} ({named})", unable.count)));
    }
    Ok((text::render(&lines, look.coloured), good))
}

async fn unrevoke(args: &UnrevokeArgs, look: Look) -> Outcome {
    let cluster = Cluster::connect(&args.cluster).await?;
    let api = api(&cluster, &args.control_plane);
    let there = list::objects(&api).await?;
    let ended = |(_, spec): &&(String, Spec)| spec.until.as_deref().and_then(seconds).is_some_and(|end| end <= now());
    let names: Vec<String> = if args.ended {
        there.iter().filter(ended).map(|(name, _)| name.clone()).collect()
    } else {
        let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
        let found = args.names.iter().map(|given| what::meant(given, &namespace, &there));
        found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
    };
    for name in &names {
        match call(api.delete(name, &DeleteParams::default())).await {
            Err(error) if error.is_not_found() => {}
            deleted => drop(deleted.with_context(|| format!("{KIND} {name}"))?),
        }
    }
    let gone = |all: &[held::Shown]| all.iter().all(|shown| !names.contains(&shown.name));
    let waited = held::wait(&cluster, &args.control_plane.namespace, args.wait, gone).await;
    let done =
        if names.is_empty() { "nothing to take back".to_owned() } else { format!("taken back: {}", names.join(", ")) };
    told(args.output, look, &done, &json!({ "removed": names }), &waited)
}

#[cfg(test)]
mod tests;
