//! The record in the Secret `remora-issuer-state`, as it holds the key of the issuer that signs. Rights, all but `create` limited to
//! that name: `get`, `list`, `watch`, `create`, `update`.

use super::{StoreError, decoded};
use crate::{limits::WRITES_TRIED, trust::Record};
use k8s_openapi::{ByteString, api::core::v1::Secret as Object};
use kube::{Api, Client, api::PostParams};
use remora_kube::{
    client::call,
    names::{IDENTITY, ISSUER_STATE_SECRET, MADE_BY, PART},
};
use std::collections::BTreeMap;

const KEY: &str = "state.json";

#[derive(Debug)]
pub(super) struct Secret {
    api: Api<Object>,
}

impl Secret {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    pub(super) async fn update<T>(
        &self,
        mut change: impl FnMut(Option<Record>) -> (Option<Record>, bool, T),
    ) -> Result<(Option<Record>, T), StoreError> {
        for _ in 0..WRITES_TRIED {
            let found = call(self.api.get_opt(ISSUER_STATE_SECRET)).await.map_err(StoreError::Call)?;
            let bytes = found.as_ref().and_then(|object| object.data.as_ref()?.get(KEY));
            let stored = bytes.map(|bytes| decoded(&bytes.0, ISSUER_STATE_SECRET)).transpose()?.flatten();
            let (record, write, rest) = change(stored);
            let Some(wanted) = record.as_ref().filter(|_| write) else {
                return Ok((record, rest));
            };
            let params = PostParams { field_manager: Some(IDENTITY.to_owned()), ..PostParams::default() };
            let exists = found.is_some();
            let object = holding(wanted, found);
            let written = match exists {
                true => call(self.api.replace(ISSUER_STATE_SECRET, &params, &object)).await,
                false => call(self.api.create(&params, &object)).await,
            };
            match written {
                Ok(_) => return Ok((record, rest)),
                // Another replica was faster, or it was deleted just now: look again.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(StoreError::Call(error)),
            }
        }
        Err(StoreError::Busy)
    }
}

/// What was found, or a new one, with `record` in it. Labels, annotations and the rest are others' too (a backup's, a policy's). The version that
/// was read goes along: whoever wrote since then is not overwritten.
fn holding(record: &Record, found: Option<Object>) -> Object {
    let mut object = found.unwrap_or_default();
    object.metadata.name = Some(ISSUER_STATE_SECRET.to_owned());
    // The API server keeps these, and would have them sent to it with each write.
    object.metadata.managed_fields = None;
    let labels = [(MADE_BY, IDENTITY), (PART, IDENTITY)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    object.metadata.labels.get_or_insert_default().extend(labels);
    object.type_.get_or_insert_with(|| "Opaque".to_owned());
    object.data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(record.encode()))]));
    object
}
