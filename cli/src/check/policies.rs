//! Does every policy hold as it was meant? What discovery says in their statuses.

use super::{report::Check, unanswered};
use crate::cluster::Cluster;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
};
use remora_discovery::objects::{
    kind::{OUR_GROUP, Registered},
    registry::kinds,
};
use remora_kube::client::{self, CallError};

const GROUP: &str = "control plane";
const NAME: &str = "policies";
/// So many are named.
const SHOWN_MAX: usize = 5;
/// Policies asked for at once.
const PAGE: u32 = 500;

/// What a policy's status says.
#[derive(Debug, PartialEq, Eq)]
enum Holds {
    /// All of it, or what other policies leave of it.
    Yes,
    /// What is wrong.
    No(String),
    /// Discovery has not said anything yet.
    Unsaid,
}

pub(super) async fn check(cluster: &Cluster) -> Check {
    let mut all = Vec::new();
    for kind in kinds().filter(|kind| kind.group == OUR_GROUP) {
        match found(cluster, kind).await {
            Ok(found) => all.extend(found),
            Err(error) => return unanswered(GROUP, NAME, &error),
        }
    }
    judge(&all)
}

/// The policies of a kind: their names, and whether they hold.
async fn found(cluster: &Cluster, kind: Registered) -> Result<Vec<(String, Holds)>, CallError> {
    let resource = ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: format!("{}/{}", kind.group, kind.version),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource);
    let (mut params, mut all) = (ListParams::default().limit(PAGE), Vec::new());
    loop {
        let page = match client::call(api.list(&params)).await {
            // Its CRD is another check's affair.
            Err(error) if error.is_not_found() => return Ok(all),
            page => page?,
        };
        all.extend(page.items.iter().map(|policy| {
            let name = format!("{} {}/{}", kind.kind, policy.namespace().unwrap_or_default(), policy.name_any());
            (name, holds(&policy.data["status"]))
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn holds(status: &serde_json::Value) -> Holds {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |kind: &str, status: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] == status);
    let wrong =
        is("Accepted", "False").or_else(|| is("PartiallyInvalid", "True")).or_else(|| is("Ineffective", "True"));
    match wrong {
        Some(wrong) => {
            let text = |field: &str| wrong[field].as_str().unwrap_or_default();
            Holds::No(format!("{}: {}", text("reason"), text("message")))
        }
        None if conditions.is_empty() => Holds::Unsaid,
        None => Holds::Yes,
    }
}

fn judge(all: &[(String, Holds)]) -> Check {
    let wrong: Vec<String> = all
        .iter()
        .filter_map(|(name, holds)| match holds {
            Holds::No(why) => Some(format!("{name}: {why}")),
            Holds::Yes | Holds::Unsaid => None,
        })
        .collect();
    let unsaid = all.iter().filter(|(_, holds)| *holds == Holds::Unsaid).count();
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(SHOWN_MAX);
        let mut shown: Vec<String> = wrong.into_iter().take(SHOWN_MAX).collect();
        shown.extend((more > 0).then(|| format!("and {more} more")));
        let remedy = "kubectl get remora -A -o wide shows all; docs/policies.md says what each reason means";
        return Check::warning(GROUP, NAME, shown.join("; "), remedy);
    }
    if unsaid > 0 {
        let detail = format!("discovery has not said yet what became of {unsaid} of {}", all.len());
        return Check::warning(
            GROUP,
            NAME,
            detail,
            "kubectl logs -n NAMESPACE deployment/remora-discovery says what keeps it",
        );
    }
    let count = if all.is_empty() { "there are none".to_owned() } else { format!("all {} hold", all.len()) };
    Check::ok(GROUP, NAME, count)
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};
    use serde_json::{Value, json};

    fn said(conditions: Value) -> Vec<(String, Holds)> {
        vec![("MeshTLSPolicy shop/p".to_owned(), holds(&json!({ "conditions": conditions })))]
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": "Because", "message": "spec.x: is wrong" })
    }

    #[test]
    fn a_policy_that_does_not_hold_as_it_was_meant_is_told_by_name_and_field() {
        let well = [condition("Accepted", "True"), condition("Programmed", "False"), condition("Overridden", "True")];
        let check = judge(&said(json!(well)));
        assert_eq!((check.status, check.detail.as_str()), (Status::Ok, "all 1 hold"));
        for wrong in
            [condition("Accepted", "False"), condition("PartiallyInvalid", "True"), condition("Ineffective", "True")]
        {
            let check = judge(&said(json!([wrong])));
            let told = "MeshTLSPolicy shop/p: Because: spec.x: is wrong";
            assert_eq!((check.status, check.detail.as_str()), (Status::Warning, told));
        }
        let unsaid = judge(&said(json!([])));
        assert!(unsaid.status == Status::Warning && unsaid.detail.contains("1 of 1"), "{unsaid:?}");
        assert_eq!(judge(&[]).status, Status::Ok);
        let many: Vec<_> = (0..9).flat_map(|_| said(json!([condition("Accepted", "False")]))).collect();
        assert!(judge(&many).detail.ends_with("; and 4 more"));
    }
}
