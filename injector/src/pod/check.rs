//! What is wrong with the chart's values, before any pod is made by them.

use super::{Defaults, Mistakes, settings};

/// So that the names of our Services in it are no longer than DNS takes.
const DOMAIN_BYTES_MAX: usize = 150;

impl Defaults {
    /// All errors in them at once: a pod must not be refused because of an error in the chart's values.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Vec::new();
        if !["Always", "IfNotPresent", "Never"].contains(&self.image_pull_policy.as_str()) {
            mistakes
                .push(format!("imagePullPolicy {:?} is none of Always, IfNotPresent, Never", self.image_pull_policy));
        }
        if let Err(error) = remora_model::TrustDomain::new(&self.trust_domain) {
            mistakes.push(format!("trustDomain: {error}"));
        }
        if !is_domain(&self.cluster_domain) {
            mistakes.push(format!("clusterDomain {:?} is no domain such as cluster.local", self.cluster_domain));
        }
        settings::check_defaults(self, &mut mistakes);
        if mistakes.is_empty() { Ok(()) } else { Err(Mistakes(mistakes)) }
    }
}

/// Whether it is a DNS domain, without a dot at its end.
fn is_domain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(label)
}
