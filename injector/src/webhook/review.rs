//! AdmissionReview v1 on the wire. Not kube's types: these would read the pod into typed fields and so lose what they do
//! not know, and write the patch as a list of numbers.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The question.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) operation: String,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) resource: Resource,
    #[serde(default)]
    pub(super) sub_resource: String,
    #[serde(default)]
    pub(super) object: Value,
}

/// Of what kind it is.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Resource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resource: String,
}

impl Request {
    /// Whether a pod is to be created, which is all that we have a say in.
    pub(super) fn creates_a_pod(&self) -> bool {
        let resource = (self.resource.group.as_str(), self.resource.resource.as_str());
        resource == ("", "pods") && self.sub_resource.is_empty() && self.operation == "CREATE"
    }
}

impl Review {
    /// Reads a question.
    pub(super) fn parse(body: &[u8]) -> Result<Request, String> {
        let review: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if review.kind != KIND || review.api_version != API_VERSION {
            return Err(format!("this is {} {}, not {API_VERSION} {KIND}", review.api_version, review.kind));
        }
        review.request.ok_or_else(|| "this review has no request".to_owned())
    }
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

/// What is answered.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    fn new(response: Response) -> Self {
        Self { api_version: API_VERSION, kind: KIND, response }
    }

    /// The pod is as it should be.
    pub(super) fn allowed(uid: String) -> Self {
        Self::new(Response { uid, allowed: true, ..Response::default() })
    }

    /// As it is, with a warning to its creator.
    pub(super) fn warned(uid: String, warning: String) -> Self {
        Self::new(Response { uid, allowed: true, warnings: vec![warning], ..Response::default() })
    }

    /// The pod after `patch`.
    pub(super) fn patched(uid: String, patch: &json_patch::Patch) -> Result<Self, serde_json::Error> {
        let patch = Some(ByteString(serde_json::to_vec(patch)?));
        Ok(Self::new(Response { uid, allowed: true, patch_type: Some("JSONPatch"), patch, ..Response::default() }))
    }

    /// Not this pod.
    pub(super) fn denied(uid: String, message: String) -> Self {
        let status = Some(Status { code: 422, reason: "Invalid", message });
        Self::new(Response { uid, status, ..Response::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_review_is_said_to_be_none() {
        for (body, expected) in [
            ("", "EOF"),
            ("{}", "not admission.k8s.io/v1 AdmissionReview"),
            (r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#, "v1beta1"),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, "no request"),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#, "uid"),
        ] {
            let error = Review::parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn answers_have_the_form_that_the_api_server_reads() {
        let patch = serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}])).unwrap();
        let answer = serde_json::to_value(Answer::patched("u".into(), &patch).unwrap()).unwrap();
        assert_eq!(
            answer,
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {
                "uid": "u", "allowed": true, "patchType": "JSONPatch",
                "patch": "W3sib3AiOiJhZGQiLCJwYXRoIjoiL2EiLCJ2YWx1ZSI6MX1d",
            }})
        );
        let answer = serde_json::to_value(Answer::denied("u".into(), "no".into())).unwrap();
        assert_eq!(answer["response"]["status"], json!({"code": 422, "reason": "Invalid", "message": "no"}));
    }

    #[test]
    fn only_new_pods_are_ours() {
        let request = |resource: &str, sub: &str, operation: &str| -> Request {
            let resource = json!({"group": "", "version": "v1", "resource": resource});
            let of = json!({"uid": "u", "operation": operation, "subResource": sub, "resource": resource});
            serde_json::from_value(of).unwrap()
        };
        assert!(request("pods", "", "CREATE").creates_a_pod());
        for (resource, sub, operation) in
            [("pods", "eviction", "CREATE"), ("services", "", "CREATE"), ("pods", "", "UPDATE")]
        {
            assert!(!request(resource, sub, operation).creates_a_pod(), "{resource} {sub} {operation}");
        }
    }
}
