use super::*;
use serde_json::{Value, json};

/// What the command prints, mistakes or not, and what it tells.
pub(super) fn printed(yaml: &str, manual: bool) -> (String, Told) {
    let args = <Only as clap::Parser>::parse_from(if manual { &["inject", "--manual"][..] } else { &["inject"] }).args;
    let mut told = Told::default();
    let mut documents = Vec::new();
    for document in yaml::read(yaml) {
        match document {
            Ok(node) => documents.push(Document { file: "it".to_owned(), node }),
            Err(wrong) => told.refuse("it", wrong.line, &wrong.problem),
        }
    }
    let text = changed(documents, &args, &mut told);
    (text, told)
}

/// The documents after the command, and what it tells.
fn done(yaml: &str, manual: bool) -> (Vec<Value>, Told) {
    let (text, told) = printed(yaml, manual);
    (yaml::read(&text).into_iter().map(|it| it.unwrap().into_json()).collect(), told)
}

#[derive(clap::Parser)]
struct Only {
    #[command(flatten)]
    args: Args,
}

/// A pod with this metadata and spec, in flow style.
fn pod(metadata: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, {metadata}}}\nspec: {{{spec}}}\n")
}

const APP: &str = "containers: [{name: app, image: a}]";

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
    let (list, told) = done(LIST, false);
    assert_eq!(told.lines, ["Deployment shop/web: opted in", "CronJob tidy: opted in"]);
    let word = |pointer: &str| list[0].pointer(&format!("{pointer}/metadata/annotations/remora.dev~1inject")).cloned();
    assert_eq!(word("/items/1/spec/template"), Some(json!("enabled")));
    assert_eq!(word("/items/2/spec/jobTemplate/spec/template"), Some(json!("enabled")));
    assert_eq!(list[0]["items"][0], json!({ "kind": "Service", "metadata": { "name": "web" } }));
}

#[test]
fn by_hand_it_is_what_the_injector_does_and_twice_is_once() {
    let (list, told) = done(LIST, true);
    assert!(told.lines.contains(&"Deployment shop/web: injected".to_owned()), "{told:?}");
    let inits = &list[0]["items"][1]["spec"]["template"]["spec"]["initContainers"];
    assert_eq!(inits[1]["name"], names::PROXY_CONTAINER);
    let (twice, told) = done(&yaml::write(&list[0]), true);
    assert_eq!(twice, list, "the probes' token is kept, too");
    assert!(told.lines[0].contains("has its sidecar already"), "{told:?}");
}

#[test]
fn items_of_a_typed_list_need_no_kind() {
    let (list, told) = done("kind: PodList\nitems: [{metadata: {name: a}, spec: {containers: []}}]", false);
    assert_eq!(told.lines, ["Pod a: opted in"]);
    assert_eq!(list[0]["items"][0]["metadata"]["annotations"], json!({ "remora.dev/inject": "enabled" }));
}

/// What the cluster would leave alone or refuse is left alone or refused here: the injector's function decides.
#[test]
fn opting_in_has_no_opinion_beside_the_injectors() {
    for (manifest, line) in [
        (pod("annotations: {remora.dev/inject: disabled}", APP), "the pod says"),
        (pod("labels: {remora.dev/inject: disabled}", APP), "the pod says"),
        (pod("", "hostNetwork: true"), "hostNetwork"),
        (pod("namespace: kube-system", APP), "kube-system"),
        (pod("namespace: remora", APP), "control plane"),
        (pod("", "os: {name: windows}"), "Windows"),
        (pod("", "containers: [{name: istio-proxy}]"), "Istio"),
        (pod("annotations: {kubernetes.io/config.mirror: x}", APP), "static pod"),
        (
            pod("namespace: shop", APP)
                + "---\nkind: Namespace\nmetadata: {name: shop, labels: {remora.dev/inject: disabled}}",
            "its namespace says",
        ),
    ] {
        for manual in [false, true] {
            let (after, told) = done(&manifest, manual);
            assert_eq!(told.mistakes, Vec::<String>::new(), "{manifest}");
            assert!(told.lines[0].contains("left alone") && told.lines[0].contains(line), "{manifest}: {told:?}");
            let before: Vec<_> = yaml::read(&manifest).into_iter().map(|it| it.unwrap().into_json()).collect();
            assert_eq!(after, before, "nothing changes");
        }
    }
}

#[test]
fn what_the_cluster_would_refuse_is_refused_with_its_line_and_all_at_once() {
    let wrong = [
        (pod("annotations: {remora.dev/inject: 'false'}", APP), "neither enabled nor disabled"),
        (pod("annotations: {remora.dev/inject: Disabled}", APP), "neither enabled nor disabled"),
        (pod("labels: {remora.dev/inject: ''}", APP), "neither enabled nor disabled"),
        (pod("annotations: {remora.dev/inject: false}", APP), "is false, which is no text"),
        (pod("annotations: {remora.dev/inject: no}", APP), "is false, which is no text"),
        (pod("labels: {remora.dev/inject: true}", APP), "is true, which is no text"),
        (pod("annotations: {remora.dev/skip-outbound-ports: 3306}", APP), "is 3306, which is no text"),
        (pod("annotations: {remora.dev/skip-outbound-ports: [1]}", APP), "is [1], which is no text"),
        (pod("annotations: {other.example/x: 0400}", APP), "is 256, which is no text"),
        (pod("annotations: [remora.dev/inject]", APP), "metadata.annotations is"),
        (
            pod("annotations: {remora.dev/skip-outbound-port: '1'}", APP),
            "the nearest is remora.dev/skip-outbound-ports",
        ),
        (pod("annotations: {remora.dev/unknown: drop}", APP), "pass, deny"),
        (pod("", "securityContext: {runAsUser: 2102}"), "user 2102"),
        (pod("", "securityContext: {runAsUser: 2.102e3}"), "user 2102"),
        (pod("", "securityContext: {runAsUser: 04066}"), "user 2102"),
        (
            pod("namespace: s", APP)
                + "---\nkind: Namespace\nmetadata: {name: s, annotations: {remora.dev/inject: true}}",
            "Namespace: ",
        ),
        ("kind: Deployment".to_owned(), "no pod template"),
        ("kind: Pod\nmetadata: [1]".to_owned(), "no metadata"),
        ("kind: Pod".to_owned(), "no spec"),
        ("a bare word".to_owned(), "a text"),
        ("- a\n- list".to_owned(), "a list"),
        ("kind: List\nitems: [word]".to_owned(), "a text"),
        ("12".to_owned(), "a number"),
        ("a: [".to_owned(), "no YAML"),
        ("a: 1\na: 2".to_owned(), "twice"),
        ("a: .nan".to_owned(), "no number that JSON has"),
    ];
    for manual in [false, true] {
        for (manifest, expected) in &wrong {
            let (_, told) = done(&format!("# first\n---\n{manifest}"), manual);
            assert!(!told.mistakes.is_empty(), "{manifest} is taken: {told:?}");
            assert!(
                told.mistakes[0].contains(expected) && told.mistakes[0].starts_with("it, line "),
                "{manifest}: {told:?}"
            );
        }
        let all: String = wrong.iter().map(|(manifest, _)| format!("---\n{manifest}\n")).collect();
        let (_, told) = done(&all, manual);
        assert_eq!(told.mistakes.len(), wrong.len(), "{:#?}", told.mistakes);
        assert!(told.to_tell().last().is_some_and(|line| line.contains("nothing is printed")));
        assert!(told.to_tell().iter().all(|line| !line.contains("opted in") && !line.contains(": injected")));
    }
}

#[test]
fn pods_of_a_kind_that_is_not_known_get_a_line() {
    let template = "{metadata: {}, spec: {containers: [{image: a}]}}";
    for (manifest, path) in [
        (format!("apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nspec: {{template: {template}}}"), "spec.template."),
        (format!("apiVersion: v1\nkind: PodTemplate\ntemplate: {template}"), "template."),
        (
            format!("apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nspec: {{tasks: [{{template: {template}}}]}}"),
            "spec.tasks.0.template.",
        ),
        (format!("apiVersion: x/v1\nkind: PodLike\n{}", "spec: {containers: [{image: a}]}"), "annotate metadata"),
        (format!("spec: {{template: {template}}}"), "no kind"),
    ] {
        let (after, told) = done(&manifest, false);
        assert!(told.lines.len() == 1 && told.lines[0].contains(path), "{manifest}: {told:?}");
        assert_eq!((after.len(), told.mistakes.len()), (1, 0), "it is printed as it was");
    }
    for silent in
        ["kind: ConfigMap\ndata: {a: b}", "kind: Service", "kind: List\nitems: []", "kind: CustomResourceDefinition"]
    {
        assert_eq!(done(silent, false).1, Told::default(), "{silent}");
    }
}

/// Every scalar that the two versions of YAML read differently is the same for `kubectl` after as before: `yaml::write`'s
/// own test has the round trip of each; here it goes through the command.
#[test]
fn no_value_changes_that_is_not_meant_to() {
    let manifest = "
kind: Deployment
metadata: { name: d, labels: { yes: 'yes', off: 'off', version: '1e3' } }
spec:
  template:
    spec:
      containers:
        - { name: app, image: a, securityContext: { runAsUser: 01750 }, args: [0400, '0400', 1_000, y, 'y', 0o17, \"08\", 08] }
      volumes:
        - { name: s, secret: { secretName: s, defaultMode: 0400 } }
        - { name: c, configMap: { name: c, defaultMode: 0644, items: [{ key: k, path: p, mode: -010 }] } }
";
    let before = yaml::read(manifest).remove(0).unwrap().into_json();
    for manual in [false, true] {
        let (after, _) = done(manifest, manual);
        let spec = &after[0]["spec"]["template"]["spec"];
        assert_eq!(spec["volumes"][0], before["spec"]["template"]["spec"]["volumes"][0]);
        assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o400);
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 0o644);
        assert_eq!(spec["volumes"][1]["configMap"]["items"][0]["mode"], -8);
        assert_eq!(spec["containers"][0]["securityContext"]["runAsUser"], 0o1750);
        assert_eq!(spec["containers"][0]["args"], json!([256, "0400", 1000, true, "y", 15, "08", 8]));
        assert_eq!(after[0]["metadata"], before["metadata"]);
    }
}

#[test]
fn many_documents_and_long_lists_are_read() {
    let one =
        "---\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: a, image: b}]}}}\n";
    let (documents, told) = done(&one.repeat(1100), false);
    assert_eq!((documents.len(), told.lines.len()), (1100, 1100));
    let item = "- {kind: Pod, metadata: {name: p, labels: {a: b, c: d, e: f}}, spec: {containers: [{name: a, image: b, args: [1, 2, 3]}]}}\n";
    let (documents, told) = done(&format!("kind: List\nitems:\n{}", item.repeat(7000)), false);
    assert_eq!((documents.len(), told.lines.len()), (1, 7000));
}
