//! Does every policy hold as it was meant? What discovery says in their statuses.

use super::{report::Check, unanswered};
use crate::cluster::{
    Cluster,
    policies::{self, Holds},
};

const GROUP: &str = "control plane";
const NAME: &str = "policies";
/// So many are named.
const SHOWN_MAX: usize = 5;

pub(super) async fn check(cluster: &Cluster) -> Check {
    match policies::all(cluster, None).await {
        Ok(all) => judge(&all.into_iter().map(|it| (it.title, it.holds)).collect::<Vec<_>>()),
        Err(error) => unanswered(GROUP, NAME, &error),
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
        vec![("MeshTLSPolicy shop/p".to_owned(), policies::holds(&json!({ "conditions": conditions })))]
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
