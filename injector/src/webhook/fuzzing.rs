//! See [`crate::fuzzing`]: reviews, and pods by themselves.

use super::review::{Answer, Review};
use crate::pod::{Defaults, Namespace, Outcome, ProbeToken, Skip, inject};
use serde_json::Value;

/// A review is answered in its own words. The patch of a pod leads to the pod that is wanted, which needs no other patch; and
/// whatever was of the pod's own is still there.
pub fn admission_reviews(data: &[u8]) {
    let pod = match Review::parse(data) {
        Ok(request) => {
            let answer = serde_json::to_value(Answer::allowed(request.uid.clone())).expect("an answer");
            assert_eq!(answer["response"]["uid"], request.uid);
            request.object
        }
        Err(mistake) => {
            assert!(!mistake.is_empty());
            let Ok(pod) = serde_json::from_slice::<Value>(data) else { return };
            pod
        }
    };
    for live in [true, false] {
        let namespace = Namespace { name: "shop".to_owned(), opted_in: true, live, ..Namespace::default() };
        let token = ProbeToken::fixed();
        let defaults = Defaults::default();
        match inject(&pod, &namespace, &defaults, &token) {
            Outcome::Refuse(mistakes) => assert!(!mistakes.0.is_empty() && !mistakes.to_string().is_empty()),
            Outcome::Skip(skip) => assert!(!skip.to_string().is_empty()),
            Outcome::Inject(injection) => {
                let mut patched = pod.clone();
                json_patch::patch(&mut patched, &injection.patch).expect("the patch fits");
                assert_eq!(patched, injection.pod);
                assert_eq!(inject(&patched, &namespace, &defaults, &token), Outcome::Skip(Skip::AlreadyInjected));
                let names = |pod: &Value| -> Vec<Value> {
                    let all = pod["spec"]["containers"].as_array().into_iter().flatten();
                    all.map(|container| container["name"].clone()).collect()
                };
                assert_eq!(names(&pod), names(&patched), "the pod's own containers, in their order");
            }
        }
    }
}
