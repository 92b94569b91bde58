//! RevokedIdentities: one list for all proxies, and what is said of each object. Those of the control plane's namespace alone
//! count: who may write there decides about the whole mesh already.

use super::{
    ObjectId,
    derived::Unable,
    facts::Facts,
    report,
    status::{Condition, Judged, ObjectStatus},
};
use crate::objects::revoked::RevokedIdentity;
use remora_kube::revoked::{all, read};
use remora_model::{Revocations, revocation::REVOCATIONS_MAX};
use std::{collections::BTreeSet, sync::Arc};

/// Pods whose proxies cannot refuse the revoked and that statuses name; of the others they say how many there are.
const UNABLE_NAMED_MAX: usize = 5;

impl Facts {
    /// The list anew, after one of the objects changed. What makes no sense.
    pub(super) fn index_revocations(&mut self) -> Vec<String> {
        let counted = self.revoked.iter().filter(|(id, _)| self.is_counted(id));
        let objects = counted.map(|(_, object)| {
            let RevokedIdentity { metadata, spec, .. } = &**object;
            (metadata.creation_timestamp.as_deref(), &*metadata.name, spec)
        });
        let (revocations, beyond) = all(objects);
        let told = format!("revocations: there are {} beyond the {REVOCATIONS_MAX} that hold", beyond.len());
        let told = (!beyond.is_empty()).then_some(told);
        self.told_revocations.put((), Some(Arc::new(revocations)));
        self.revoked_beyond.put((), Some(beyond.into_iter().collect::<BTreeSet<String>>()));
        told.into_iter().collect()
    }

    /// Who is trusted no more.
    pub(super) fn revocations(&self) -> Arc<Revocations> {
        self.told_revocations.get(&()).cloned().unwrap_or_default()
    }

    fn is_counted(&self, id: &ObjectId) -> bool {
        id.key.0 == self.mesh.namespace
    }

    /// A pod's proxy that cannot refuse the revoked has a stream, or one fewer.
    pub(super) fn unable(&mut self, pod: &str, there: bool) {
        let streams = self.unable.entry(pod.to_owned()).or_default();
        *streams = if there { *streams + 1 } else { streams.saturating_sub(1) };
        if *streams == 0 {
            self.unable.remove(pod);
        }
        let first = self.unable.keys().take(UNABLE_NAMED_MAX).cloned().collect();
        self.told_unable.put((), Some(Unable { pods: self.unable.len(), first }));
    }

    /// `None`: it is not there.
    pub(super) fn judge_revoked(&self, id: &ObjectId) -> Option<Judged> {
        let object = self.revoked.get(id)?;
        let read = read(&object.metadata.name, &object.spec);
        let mut problems: Vec<String> = object.unreadable.iter().cloned().collect();
        // One that stands in for what cannot be read says nothing by itself.
        if read.revocation.is_some() || problems.is_empty() {
            problems.extend(read.problems);
        }
        let beyond = self.revoked_beyond.get(&()).is_some_and(|beyond| beyond.contains(&object.metadata.name));
        let refused = if !self.is_counted(id) {
            let of = &self.mesh.namespace;
            Some((
                "NotAllowed",
                format!(
                    "metadata.namespace: only those of {of}, the control plane's namespace, count; nothing is revoked"
                ),
            ))
        } else if read.revocation.is_none() {
            Some(("Invalid", problems.join("; ")))
        } else if beyond {
            let text =
                format!("is beyond the {REVOCATIONS_MAX} oldest, which alone hold; delete those that have ended");
            Some(("TooMany", text))
        } else {
            None
        };
        let conditions = match refused.clone() {
            Some((reason, problem)) => vec![Condition::new("Accepted", false, reason, problem)],
            None => self.programmed(&problems, object.spec.until.as_deref()),
        };
        let told = refused.map(|(_, problem)| problem).into_iter().chain(problems);
        let mut told: Vec<String> = told.map(|problem| report(&object.metadata, id.kind, problem)).collect();
        told.dedup();
        Some((Some(ObjectStatus::of_conditions(&Arc::clone(object).into(), conditions)), told))
    }

    fn programmed(&self, problems: &[String], until: Option<&str>) -> Vec<Condition> {
        let unable = self.told_unable.get(&()).filter(|unable| unable.pods > 0);
        let (reason, message) = match unable {
            None => ("Programmed", until.map(|until| format!("until {until}")).unwrap_or_default()),
            Some(Unable { pods, first }) => {
                let rest = pods - first.len();
                let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
                let effect = "are too old for it and refuse nobody: restart them; until then a Deny AuthorizationPolicy by identity holds there too";
                ("PartiallyProgrammed", format!("the proxies of {}{more} {effect}", first.join(", ")))
            }
        };
        let mut all = vec![
            Condition::new("Accepted", true, "Accepted", String::new()),
            Condition::new("Programmed", true, reason, message),
        ];
        if !problems.is_empty() {
            all.push(Condition::new("PartiallyInvalid", true, "Invalid", problems.join("; ")));
        }
        all
    }
}
