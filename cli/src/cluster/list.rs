//! Objects of a kind, page by page, so that no answer is as large as a cluster.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, GroupVersionKind, ListParams, ObjectList, PartialObjectMeta},
};
use remora_kube::client::{self, CallError};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Objects asked for at once.
const PAGE: u32 = 500;
/// More than any cluster holds of a kind that is listed here; it ends a list whose server never ends it.
const PAGES_MAX: usize = 400;

/// A kind as the API is asked for it, by `apiVersion`, kind and plural.
pub(crate) fn resource((api_version, kind, plural): (&str, &str, &str)) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// All that `params` mean.
pub(crate) async fn all<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    pages(params, async |params| client::call(api.list(params)).await).await
}

/// The metadata of pods that have not ended.
pub(crate) async fn living(pods: &Api<Pod>, params: ListParams) -> Result<Vec<PartialObjectMeta<Pod>>, CallError> {
    let params = params.fields("status.phase!=Succeeded,status.phase!=Failed");
    pages(params, async |params| client::call(pods.list_metadata(params)).await).await
}

async fn pages<T: Clone>(
    params: ListParams,
    ask: impl AsyncFn(&ListParams) -> Result<ObjectList<T>, CallError>,
) -> Result<Vec<T>, CallError> {
    let (mut params, mut all) = (params.limit(PAGE), Vec::new());
    for _ in 0..PAGES_MAX {
        let page = ask(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    Ok(all)
}
