//! What is said of XMeshes that name us as their controller.

use super::{
    ObjectId,
    facts::Facts,
    status::{CONTROLLER, Condition, Judged, ObjectStatus},
};

/// What the conformance suite calls what we can do, in the order of the alphabet. `tests/conformance` asks for each of them.
const FEATURES: [&str; 19] = [
    "GRPCRoute",
    "GRPCRouteRequestHeaderModifier",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

impl Facts {
    /// `None`: it is not there. Another mesh's has no status of ours.
    pub(super) fn judge_mesh(&self, id: &ObjectId) -> Option<Judged> {
        let mesh = self.meshes.get(id)?;
        if mesh.spec.controller_name != CONTROLLER {
            return Some((None, Vec::new()));
        }
        let accepted = if mesh.spec.parameters_ref.is_some() {
            let problem = "spec.parametersRef: this mesh has no parameters; leave it out".to_owned();
            Condition::new("Accepted", false, "InvalidParameters", problem)
        } else {
            Condition::new("Accepted", true, "Accepted", String::new())
        };
        let status = ObjectStatus::of_mesh(&mesh.clone().into(), vec![accepted], &FEATURES);
        Some((Some(status), Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        index::{Mesh, tests::Snapshot},
        objects::{Object, mesh::XMesh},
    };
    use serde_json::{Value, json};

    fn mesh(spec: Value, status: Value) -> Object {
        let metadata = json!({ "name": "m", "generation": 3 });
        let object = json!({ "metadata": metadata, "spec": spec, "status": status });
        serde_json::from_value::<XMesh>(object).expect("an XMesh").into()
    }

    fn written(object: Object) -> Option<Value> {
        let world = Snapshot::build(vec![object], &Mesh::default());
        world.statuses.first().and_then(|status| status.to_write("2026-01-01T00:00:00Z"))
    }

    #[test]
    fn our_mesh_is_accepted_and_told_its_features_in_order() {
        let status = written(mesh(json!({ "controllerName": CONTROLLER }), json!({}))).expect("a status");
        let accepted = &status["conditions"][0];
        assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));
        assert_eq!(accepted["observedGeneration"], 3);
        let names: Vec<_> =
            status["supportedFeatures"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        assert_eq!(names, FEATURES.iter().map(|name| json!(name)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        assert!(FEATURES.is_sorted() && FEATURES.len() <= 64);
        let again = written(mesh(json!({ "controllerName": CONTROLLER }), status));
        assert_eq!(again, None, "what is said is not said again");
    }

    #[test]
    fn parameters_are_refused_and_another_mesh_is_let_alone() {
        let with =
            json!({ "controllerName": CONTROLLER, "parametersRef": { "group": "", "kind": "ConfigMap", "name": "c" } });
        let status = written(mesh(with, json!({}))).expect("a status");
        assert_eq!(status["conditions"][0]["reason"], "InvalidParameters");
        assert_eq!(written(mesh(json!({ "controllerName": "example.com/mesh" }), json!({}))), None);
    }

    #[test]
    fn the_conformance_suite_is_asked_for_each_feature() {
        let run = include_str!("../../../tests/conformance/run");
        let asked: String = run.lines().filter(|line| line.contains("features")).collect();
        for feature in FEATURES {
            assert!(asked.contains(feature), "{feature}");
        }
    }
}
