//! The manifests that the chart renders to, and the few things that can be changed about them without Helm.
//!
//! In: [`Settings`]. Out: YAML, comments included. `charts/render` writes what is embedded here; `charts/test` proves
//! that for every setting the outcome is, byte for byte, what `helm template` prints for the same values.

use remora_injector::pod::Defaults;
use remora_kube::names;
use remora_model::TrustDomain;
use std::fmt::Write as _;

const DEFAULT: &str = include_str!("../../../charts/remora/rendered/default.yaml");
const HA: &str = include_str!("../../../charts/remora/rendered/ha.yaml");
/// The head of the document with the Namespace, which comes first.
const NAMESPACE_HEAD: &str = "---\n# Source: remora/templates/namespace.yaml\n";
/// As rendered.
const REPOSITORY: &str = "ghcr.io/remora-mesh/remora";
const TRUST_DOMAIN: &str = "cluster.local";
const CLUSTER_DOMAIN: &str = "cluster.local";
/// The image's tag is the version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a digest begins with.
const DIGEST: &str = "sha256:";

/// What can be chosen. Everything else is a value of the Helm chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) ha: bool,
    pub(super) namespace: String,
    /// Whether the Namespace itself is among the manifests.
    pub(super) create_namespace: bool,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) cluster_domain: Option<String>,
    /// As `pod::cluster_networks` gives it.
    pub(super) cluster_networks: Option<String>,
    pub(super) image: Option<String>,
    /// A tag, or a digest.
    pub(super) image_tag: Option<String>,
}

impl Settings {
    /// The manifests.
    pub(super) fn render(&self) -> String {
        let text = if self.ha { HA } else { DEFAULT };
        let text = if self.create_namespace { text } else { without_namespace(text) };
        let repository = self.image.as_deref().unwrap_or(REPOSITORY);
        let tag = self.image_tag.as_deref().unwrap_or(VERSION);
        let image = format!("{repository}{}{tag}", if is_digest(tag) { '@' } else { ':' });
        let trust_domain = self.trust_domain.as_ref().map_or(TRUST_DOMAIN, TrustDomain::as_str);
        let cluster_domain = self.cluster_domain.as_deref().unwrap_or(CLUSTER_DOMAIN);
        let mut rendered = String::with_capacity(text.len());
        for line in text.lines() {
            let line = line.replace(&format!("{REPOSITORY}:{VERSION}"), &image);
            let line = self.in_namespace(&line);
            let line = end(&line, "--trust-domain=", TRUST_DOMAIN, trust_domain).unwrap_or(line);
            let Some((before, _)) = line.split_once("--cluster-domain=") else {
                let _ = writeln!(rendered, "{line}");
                continue;
            };
            let _ = writeln!(rendered, "{before}--cluster-domain={cluster_domain}");
            if let Some(networks) = self.cluster_networks.as_deref().filter(|it| !it.is_empty()) {
                let _ = writeln!(rendered, "{before}--cluster-networks={networks}");
            }
        }
        rendered
    }

    fn in_namespace(&self, line: &str) -> String {
        let (from, to) = (names::NAMESPACE, self.namespace.as_str());
        // Nothing else than the Namespace itself is called so at this depth.
        if line.strip_prefix("  name: ") == Some(from) {
            return format!("  name: {to}");
        }
        for before in ["  namespace: ", "--namespace="] {
            if let Some(line) = end(line, before, from, to) {
                return line;
            }
        }
        // The Services' names, and what the admission policy says.
        [
            (".", ".svc"),
            ("kubectl -n ", " "),
            ("[kube-system, ", "]"),
            ("system:serviceaccount:", ":"),
            ("'kube-system', '", "'"),
            ("== '", "'"),
        ]
        .iter()
        .fold(line.to_owned(), |line, (before, after)| {
            line.replace(&format!("{before}{from}{after}"), &format!("{before}{to}{after}"))
        })
    }
}

/// The manifests behind the first.
fn without_namespace(text: &str) -> &str {
    let rest = text.strip_prefix(NAMESPACE_HEAD);
    rest.and_then(|rest| rest.find("---\n").map(|at| &rest[at..])).unwrap_or(text)
}

/// `line` with `to` instead of the `from` at its end, if it ends in `before` and that.
fn end(line: &str, before: &str, from: &str, to: &str) -> Option<String> {
    let rest = line.strip_suffix(from)?;
    rest.ends_with(before).then(|| format!("{rest}{to}"))
}

/// A name for the control plane's namespace that YAML takes as it stands.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(inner);
    if text == "default" || text.starts_with("kube-") {
        return Err("is the cluster's own; the control plane gets a namespace of its own".to_owned());
    }
    let word = matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    match (good, word) {
        (true, false) => Ok(text.to_owned()),
        (true, true) => Err("is a word with a meaning in YAML".to_owned()),
        (false, _) => Err("must be 63 lower-case letters, digits and dashes at most, a letter first".to_owned()),
    }
}

/// A DNS domain.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let defaults = Defaults { cluster_domain: text.to_owned(), ..Defaults::default() };
    defaults.check().map(|()| text.to_owned()).map_err(|mistakes| mistakes.to_string())
}

/// An image's tag, or its digest.
pub(super) fn image_tag(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let tag = text.len() <= 128 && !text.starts_with(['.', '-']) && text.chars().all(plain) && !text.is_empty();
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let digest = text.strip_prefix(DIGEST).is_some_and(|rest| rest.len() == 64 && rest.chars().all(hex));
    if tag || digest {
        return Ok(text.to_owned());
    }
    Err("must be a tag of letters, digits and `._-`, or a digest: sha256: and 64 hexadecimal digits".to_owned())
}

/// No tag has a colon.
fn is_digest(tag: &str) -> bool {
    tag.starts_with(DIGEST)
}

/// An image's repository: characters that need no quotes in YAML.
pub(super) fn image_part(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._/:-".contains(c);
    if text.is_empty() || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(good) {
        return Err("must be letters, digits and `._/:-`, a letter or digit first".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::objects;

    pub(in crate::install) fn settings() -> Settings {
        Settings {
            ha: false,
            namespace: names::NAMESPACE.to_owned(),
            create_namespace: true,
            trust_domain: None,
            cluster_domain: None,
            cluster_networks: None,
            image: None,
            image_tag: None,
        }
    }

    #[test]
    fn without_settings_it_is_what_the_chart_renders() {
        assert_eq!(settings().render(), DEFAULT);
        assert_eq!(Settings { ha: true, ..settings() }.render(), HA);
    }

    #[test]
    fn the_embedded_image_is_this_version() {
        for text in [DEFAULT, HA] {
            assert!(
                text.contains(&format!("image: {REPOSITORY}:{VERSION}\n")),
                "the chart's appVersion is another one"
            );
        }
    }

    #[test]
    fn no_old_name_is_left_behind() {
        let other = Settings {
            namespace: "mesh".to_owned(),
            trust_domain: Some("td.example".parse().unwrap()),
            cluster_domain: Some("k8s.example".to_owned()),
            cluster_networks: Some("10.0.0.0/8,fd00::/8".to_owned()),
            image: Some("registry.local:5000/mesh/remora".to_owned()),
            image_tag: Some("dev".to_owned()),
            ..settings()
        };
        let text = other.render();
        for old in [
            "namespace: remora\n",
            "--namespace=remora\n",
            ".remora.svc",
            REPOSITORY,
            "-domain=cluster.local\n",
            "'remora'",
            "serviceaccount:remora:",
            "-n remora ",
        ] {
            assert!(!text.contains(old), "{old}");
        }
        assert_eq!(text.matches("            - --cluster-networks=10.0.0.0/8,fd00::/8\n").count(), 2);
        assert_eq!(text.matches("            - --cluster-domain=k8s.example\n").count(), 2);
        assert_eq!(text.matches("image: registry.local:5000/mesh/remora:dev\n").count(), 3);
        let objects = objects::of_manifests(&text).unwrap();
        let named = |kind: &str| objects.iter().filter(|it| it.kind() == kind).map(|it| &*it.name).collect::<Vec<_>>();
        assert_eq!(named("Namespace"), ["mesh"]);
        assert!(objects.iter().all(|it| it.namespace.as_deref().is_none_or(|it| it == "mesh")));
    }

    #[test]
    fn a_digest_is_behind_an_at_sign_as_in_the_chart() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let text = Settings { image_tag: Some(image_tag(&digest).unwrap()), ..settings() }.render();
        assert_eq!(text.matches(&format!("image: {REPOSITORY}@{digest}\n")).count(), 3);
        assert!(!text.contains(&format!("{REPOSITORY}:")), "the sidecar's image too");
        for bad in
            ["", "a:b", "sha256:0a", "sha512:0a", ".a", "-a", &format!("sha256:{}", "0A".repeat(32)), &"a".repeat(129)]
        {
            assert!(image_tag(bad).is_err(), "{bad}");
        }
        assert!(image_tag("v1.2_3-rc.1").is_ok());
    }

    #[test]
    fn without_the_namespace_all_the_rest_is_there() {
        for ha in [false, true] {
            let all = Settings { ha, ..settings() }.render();
            let rest = Settings { ha, create_namespace: false, ..settings() }.render();
            assert!(all.ends_with(&rest) && rest.starts_with("---\n"));
            let [all, rest] = [all, rest].map(|text| objects::of_manifests(&text).unwrap());
            assert_eq!((all.len(), all[0].kind()), (rest.len() + 1, "Namespace"));
            assert!(rest.iter().all(|it| it.kind() != "Namespace"));
        }
    }

    #[test]
    fn uninstall_knows_every_kind_that_install_makes() {
        for text in [DEFAULT, HA] {
            let kinds = text.lines().filter(|line| line.starts_with("kind: ")).count();
            assert_eq!(objects::of_manifests(text).unwrap().len(), kinds);
        }
    }

    #[test]
    fn names_that_yaml_would_read_otherwise_are_refused() {
        for good in ["remora", "mesh-2"] {
            assert_eq!(namespace(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "1e3",
            "null",
            "Mesh",
            "a_b",
            "a-",
            &"a".repeat(64),
            "default",
            "kube-system",
            "kube-node-lease",
            "kube-x",
        ] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
        assert!(image_part("ghcr.io/a/b").is_ok() && image_part("a: b").is_err() && image_part("").is_err());
    }
}
