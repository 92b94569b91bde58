//! `remora inject`: manifests in, manifests out that are in the mesh; for pipelines, without a cluster.
//!
//! In: YAML or JSON, many documents, Lists; objects of any kind. Out: the same objects, those with pods opted in by
//! annotation (so that the cluster's injector decides, with the cluster's defaults), or with `--manual` with the sidecar
//! in them, by the very function that the injector calls. What was done with each goes to standard error. Comments of
//! the YAML are lost. It has no opinion of its own about pods.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use remora_injector::pod::{self, Defaults, Outcome};
use remora_kube::names;
use remora_model::TrustDomain;
use serde_json::{Map, Value, json};

use crate::finish;

/// More than any manifest that the API server would take, times many.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// `remora inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "  kubectl get deploy web -o yaml | remora inject | kubectl apply -f -\n  \
    remora inject --manual k8s/*.yaml > meshed.yaml")]
pub(crate) struct Args {
    /// Manifests; standard input if none, or -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Put the sidecar in here, instead of asking the cluster's injector for it by an annotation
    #[arg(long)]
    manual: bool,
    /// With --manual: the sidecar's image [default: this version's]
    #[arg(long, value_name = "NAME", requires = "manual")]
    image: Option<String>,
    /// With --manual: the control plane's namespace
    #[arg(long, value_name = "NAME", requires = "manual", default_value = names::NAMESPACE)]
    control_plane_namespace: String,
    /// With --manual: the mesh's trust domain
    #[arg(long, value_name = "NAME", requires = "manual")]
    trust_domain: Option<TrustDomain>,
}

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {name}")]
    Read { name: String, source: io::Error },
    #[error("{name} holds more than {} MiB", INPUT_BYTES_MAX >> 20)]
    TooLarge { name: String },
    #[error("{name} is no YAML")]
    Yaml { name: String, source: Box<serde_saphyr::Error> },
    #[error("cannot write YAML")]
    Write(#[source] serde_saphyr::ser::Error),
}

/// What was done, for people.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    lines: Vec<String>,
    /// Something was refused.
    refused: bool,
}

/// Reads, changes, prints.
pub(crate) fn main(args: &Args) -> ExitCode {
    let mut told = Told::default();
    let outcome = run(args, &mut told);
    told.lines.iter().for_each(|line| eprintln!("remora: {line}"));
    finish(outcome.map(|text| (text, !told.refused)).map_err(Into::into))
}

fn run(args: &Args, told: &mut Told) -> Result<String, Error> {
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin } else { args.files.as_slice() };
    let mut documents = Vec::new();
    for file in files {
        documents.append(&mut read(file)?);
    }
    let how = args.manual.then(|| {
        let mut defaults = Defaults { control_namespace: args.control_plane_namespace.clone(), ..Defaults::default() };
        if let Some(image) = &args.image {
            defaults.image.clone_from(image);
        }
        if let Some(domain) = &args.trust_domain {
            domain.as_str().clone_into(&mut defaults.trust_domain);
        }
        defaults
    });
    let mut text = String::new();
    for document in &mut documents {
        change(document, how.as_ref(), told);
        text += "---\n";
        text += &serde_saphyr::to_string(document).map_err(Error::Write)?;
    }
    Ok(text)
}

fn read(file: &PathBuf) -> Result<Vec<Value>, Error> {
    let name = if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() };
    let unread = |source| Error::Read { name: name.clone(), source };
    let input: Box<dyn io::Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).map_err(unread)?),
    };
    let mut text = String::new();
    input.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(Error::TooLarge { name });
    }
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|e| Error::Yaml { name, source: Box::new(e) })?;
    // What comments alone leave between two `---`.
    Ok(documents.into_iter().filter(|it| !it.is_null()).collect())
}

/// Changes an object, or each of a List.
fn change(object: &mut Value, how: Option<&Defaults>, told: &mut Told) {
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
    {
        items.iter_mut().for_each(|item| change(item, how, told));
        return;
    }
    let kind = object["kind"].as_str().unwrap_or("object").to_owned();
    let title = title(&kind, object);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let Some(template) = pod::template_pointer(&kind).and_then(|pointer| object.pointer_mut(pointer)) else {
        return;
    };
    match how {
        None => match opt_in(template) {
            Ok(true) => told.lines.push(format!("{title}: opted in")),
            Ok(false) => told.lines.push(format!("{title}: left alone, it says {}: disabled", names::INJECT)),
            Err(what) => told.refuse(format!("{title}: {what}")),
        },
        Some(defaults) => {
            // A template needs no metadata of its own.
            if let Some(template) = template.as_object_mut() {
                template.entry("metadata").or_insert_with(|| json!({}));
            }
            let namespace = pod::Namespace { name: namespace, opted_in: true, ..pod::Namespace::default() };
            match pod::inject(template, &namespace, defaults) {
                Outcome::Inject(injection) => {
                    *template = injection.pod;
                    told.lines.push(format!("{title}: injected"));
                }
                Outcome::Skip(skip) => told.lines.push(format!("{title}: left alone, {skip}")),
                Outcome::Refuse(mistakes) => told.refuse(format!("{title}: {mistakes}")),
            }
        }
    }
}

impl Told {
    fn refuse(&mut self, line: String) {
        self.lines.push(line);
        self.refused = true;
    }
}

/// Says on a pod template that it wants a sidecar, unless it says that it wants none.
fn opt_in(template: &mut Value) -> Result<bool, &'static str> {
    let template = template.as_object_mut().ok_or("its pod template is no object")?;
    let annotations = entry(entry(template, "metadata")?, "annotations")?;
    if annotations.get(names::INJECT).and_then(Value::as_str) == Some(names::DISABLED) {
        return Ok(false);
    }
    annotations.insert(names::INJECT.to_owned(), json!(names::ENABLED));
    Ok(true)
}

fn entry<'a>(map: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>, &'static str> {
    let value = map.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or("its metadata is not as Kubernetes has it")
}

fn title(kind: &str, object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().or(meta["generateName"].as_str()).unwrap_or("without a name");
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(yaml: &str, how: Option<&Defaults>) -> (Value, Told) {
        let mut told = Told::default();
        let mut value: Value = serde_saphyr::from_str(yaml).unwrap();
        change(&mut value, how, &mut told);
        (value, told)
    }

    const LIST: &str = "
kind: List
items:
  - kind: Service
    metadata: { name: web }
  - kind: Deployment
    metadata: { name: web, namespace: shop }
    spec: { template: { spec: { containers: [{ name: web, image: nginx }] } } }
  - kind: CronJob
    metadata: { name: tidy }
    spec: { jobTemplate: { spec: { template: { metadata: { annotations: }, spec: { containers: [] } } } } }
";

    #[test]
    fn whatever_has_pods_is_opted_in_wherever_its_template_is() {
        let (list, told) = changed(LIST, None);
        assert_eq!(told.lines, ["Deployment shop/web: opted in", "CronJob tidy: opted in"]);
        let word = |pointer: &str| list.pointer(&format!("{pointer}/metadata/annotations/remora.dev~1inject")).cloned();
        assert_eq!(word("/items/1/spec/template"), Some(json!("enabled")));
        assert_eq!(word("/items/2/spec/jobTemplate/spec/template"), Some(json!("enabled")));
        assert_eq!(list["items"][0], json!({ "kind": "Service", "metadata": { "name": "web" } }));
    }

    #[test]
    fn by_hand_it_is_what_the_injector_does_and_twice_is_once() {
        let defaults = Defaults::default();
        let (list, told) = changed(LIST, Some(&defaults));
        assert!(told.lines.contains(&"Deployment shop/web: injected".to_owned()), "{told:?}");
        let inits = &list["items"][1]["spec"]["template"]["spec"]["initContainers"];
        assert_eq!(inits[1]["name"], names::PROXY_CONTAINER);
        let again = serde_saphyr::to_string(&list).unwrap();
        let (twice, told) = changed(&again, Some(&defaults));
        assert_eq!(twice, list);
        assert!(told.lines[0].contains("has its sidecar already"), "{told:?}");
    }

    #[test]
    fn a_template_that_wants_none_stays_and_a_wrong_one_is_refused() {
        let pod = |word: &str| {
            format!("kind: Pod\nmetadata: {{ name: p, annotations: {{ remora.dev/inject: {word} }} }}\nspec: {{}}\n")
        };
        let (value, told) = changed(&pod("disabled"), None);
        assert_eq!(value["metadata"]["annotations"][names::INJECT], "disabled");
        assert!(!told.refused);
        let (_, told) = changed("kind: Pod\nmetadata: [1]\n", None);
        assert!(told.refused);
        let (_, told) = changed(&pod("maybe"), Some(&Defaults::default()));
        assert!(told.refused, "{told:?}");
    }

    #[test]
    fn words_that_an_old_yaml_reader_takes_for_others_stay_words() {
        let (value, _) = changed("kind: ConfigMap\ndata: { a: 'yes', b: '010', c: 'null', d: \"x\\ny\" }\n", None);
        let text = serde_saphyr::to_string(&value).unwrap();
        for bare in ["a: yes", "b: 010", "c: null"] {
            assert!(!text.contains(bare), "{text}");
        }
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value);
    }
}
