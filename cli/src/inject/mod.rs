//! `remora inject`: manifests in, manifests out that are in the mesh; for pipelines, without a cluster.
//!
//! In: YAML or JSON as `kubectl` reads it, many documents, Lists; objects of any kind. Out: the same objects, those with
//! pods opted in by annotation (so that the cluster's injector decides, with the cluster's defaults), or with `--manual` with
//! the sidecar in them. What was done with each goes to standard error. Comments of the YAML are lost.
//!
//! It has no opinion of its own about pods: in both ways the very function that the injector calls decides ([`change`]).
//! Where anything is refused or cannot be read, *nothing* is printed: what is in a pipe behind it must not get a pod bare
//! that was to have a sidecar. All errors are reported at once.

mod change;

use crate::finish;
use change::{Changer, Told};
use remora_injector::pod::{self, Defaults};
use remora_kube::{names, yaml};
use remora_model::TrustDomain;
use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// More than any manifest that the API server would take, times many. Of one document, `yaml::NODES_MAX` values.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// `remora inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "  kubectl get deploy web -o yaml | remora inject | kubectl apply -f -\n  \
    remora inject --manual k8s/*.yaml > meshed.yaml\n\n\
    If anything is refused, nothing is printed, and the exit code is 1. At most 64 MiB a file.")]
pub(crate) struct Args {
    /// Manifests; standard input if none, or -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Put the sidecar in here, instead of asking the cluster's injector for it by an annotation
    #[arg(long)]
    manual: bool,
    /// The control plane's namespace
    #[arg(long, value_name = "NAME", default_value = names::NAMESPACE)]
    control_plane_namespace: String,
    /// With --manual: the sidecar's image [default: this version's]
    #[arg(long, value_name = "NAME", requires = "manual")]
    image: Option<String>,
    /// With --manual: the mesh's trust domain
    #[arg(long, value_name = "NAME", requires = "manual")]
    trust_domain: Option<TrustDomain>,
    /// With --manual: the suffix of the cluster's own DNS names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN", requires = "manual")]
    cluster_domain: Option<String>,
    /// With --manual: the networks of the cluster's Services and pods [default: found by discovery]
    #[arg(long, value_name = "CIDR,CIDR", requires = "manual", value_parser = pod::cluster_networks)]
    cluster_networks: Option<String>,
}

impl Args {
    /// What pods get by default.
    fn defaults(&self) -> Defaults {
        let mut defaults = Defaults { control_namespace: self.control_plane_namespace.clone(), ..Defaults::default() };
        for (into, given) in [
            (&mut defaults.image, &self.image),
            (&mut defaults.cluster_domain, &self.cluster_domain),
            (&mut defaults.cluster_networks, &self.cluster_networks),
        ] {
            if let Some(given) = given {
                into.clone_from(given);
            }
        }
        if let Some(domain) = &self.trust_domain {
            domain.as_str().clone_into(&mut defaults.trust_domain);
        }
        defaults
    }
}

/// A document and where it stands.
struct Document {
    file: String,
    node: yaml::Node,
}

/// Reads, changes, prints.
pub(crate) fn main(args: &Args) -> ExitCode {
    let mut told = Told::default();
    if let Err(mistakes) = args.defaults().check() {
        mistakes.0.into_iter().for_each(|mistake| told.mistakes.push(mistake));
    }
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin } else { args.files.as_slice() };
    let documents: Vec<Document> = files.iter().flat_map(|file| read(file, &mut told)).collect();
    let text = changed(documents, args, &mut told);
    told.to_tell().iter().for_each(|line| eprintln!("remora: {line}"));
    let good = told.mistakes.is_empty();
    finish(Ok((if good { text } else { String::new() }, good)))
}

/// The documents as they are wanted.
fn changed(documents: Vec<Document>, args: &Args, told: &mut Told) -> String {
    let mut changer = Changer::new(args.defaults(), args.manual);
    documents.iter().for_each(|document| changer.note_namespaces(document, told));
    let mut text = String::new();
    for Document { file, node } in documents {
        let lines = node.clone();
        let mut value = node.into_json();
        changer.change(&mut value, &lines, &file, told);
        text += "---\n";
        text += &yaml::write(&value);
    }
    text
}

/// The documents of a file. Reports what cannot be read.
fn read(file: &Path, told: &mut Told) -> Vec<Document> {
    let file_name = if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() };
    let text = match text(file) {
        Ok(text) => text,
        Err(problem) => {
            told.mistakes.push(format!("{file_name}: {problem}"));
            return Vec::new();
        }
    };
    let mut documents = Vec::new();
    for document in yaml::read(&text) {
        match document {
            Ok(node) => documents.push(Document { file: file_name.clone(), node }),
            Err(yaml::Mistake { line, problem }) => told.refuse(&file_name, line, &problem),
        }
    }
    documents
}

fn text(file: &Path) -> Result<String, String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let input: Box<dyn io::Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).map_err(unread)?),
    };
    let mut text = String::new();
    input.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(format!("holds more than {} MiB: split it", INPUT_BYTES_MAX >> 20));
    }
    Ok(text)
}

#[cfg(test)]
mod fuzzing;
#[cfg(test)]
mod tests;
