//! Backends and their endpoints.

use super::{
    At, ENDPOINTS_MAX, InvalidMessage, Problem, address, connection, list_of, load_balancer, millis,
    name::{protocol, to_protocol},
    required, share, text, to_millis,
};
use crate::v1;
use remora_model::{Accrual, Backend, BackendSettings, Endpoint, Locality, RetryIntervals, SpiffeId};
use std::time::Duration;

impl From<&Backend> for v1::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            id: Some((&backend.id).into()),
            protocol: to_protocol(backend.protocol),
            settings: Some((&backend.settings).into()),
            endpoints: backend.endpoints.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Backend> for Backend {
    type Error = InvalidMessage;

    fn try_from(message: v1::Backend) -> Result<Self, InvalidMessage> {
        let endpoints: Vec<Endpoint> = endpoints("endpoints", message.endpoints)?;
        if !endpoints.is_sorted_by(|a, b| a.address < b.address) {
            return Err(Problem::Order.at("endpoints"));
        }
        Ok(Self {
            id: required("id", message.id)?,
            protocol: protocol(message.protocol).at("protocol")?,
            settings: required("settings", message.settings)?,
            endpoints,
        })
    }
}

/// Converts a list of endpoints.
pub(crate) fn endpoints(field: &'static str, list: Vec<v1::Endpoint>) -> Result<Vec<Endpoint>, InvalidMessage> {
    list_of(field, ENDPOINTS_MAX, list, Endpoint::try_from)
}

/// Converts a list of endpoint addresses.
pub(crate) fn addresses(field: &'static str, list: Vec<String>) -> Result<Vec<std::net::SocketAddr>, InvalidMessage> {
    list_of(field, ENDPOINTS_MAX, list, |text| address(&text))
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            proxy: endpoint.proxy.map(|proxy| proxy.to_string()).unwrap_or_default(),
            weight: endpoint.weight,
            zone: endpoint.zone.to_string(),
            pod: endpoint.pod.to_string(),
            node: endpoint.node.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = InvalidMessage;

    fn try_from(message: v1::Endpoint) -> Result<Self, InvalidMessage> {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let identity = said(message.identity).map(|id| SpiffeId::parse(&id).map_err(Problem::from));
        let proxy = said(message.proxy).map(|proxy| address(&proxy));
        if message.weight == 0 {
            return Err(Problem::OutOfRange.at("weight"));
        }
        Ok(Self {
            address: address(&message.address).at("address")?,
            identity: identity.transpose().at("identity")?,
            proxy: proxy.transpose().at("proxy")?,
            weight: message.weight,
            zone: text(message.zone).at("zone")?,
            pod: text(message.pod).at("pod")?,
            node: Some(text(message.node).at("node")?).filter(|node| !node.is_empty()),
        })
    }
}

impl From<&BackendSettings> for v1::BackendSettings {
    fn from(settings: &BackendSettings) -> Self {
        let (session_affinity, load_balancer) = load_balancer::said(&settings.load_balancer);
        Self {
            accrual: Some((&settings.accrual).into()),
            retry_ratio: settings.retry_ratio,
            min_retries: settings.min_retries,
            pending_max: settings.pending_max,
            connect_timeout_ms: to_millis(settings.connect_timeout),
            session_affinity,
            load_balancer,
            connection: connection::said(&settings.connection),
            locality: to_locality(settings.locality),
            retry_intervals: to_retry_intervals(settings.retry_intervals),
        }
    }
}

impl TryFrom<v1::BackendSettings> for BackendSettings {
    type Error = InvalidMessage;

    fn try_from(message: v1::BackendSettings) -> Result<Self, InvalidMessage> {
        Ok(Self {
            accrual: required("accrual", message.accrual)?,
            retry_ratio: share(message.retry_ratio).at("retry_ratio")?,
            min_retries: message.min_retries,
            pending_max: message.pending_max,
            connect_timeout: millis(message.connect_timeout_ms).at("connect_timeout_ms")?,
            load_balancer: load_balancer::read(message.session_affinity, message.load_balancer)?,
            connection: message.connection.map(connection::read).transpose().at("connection")?.unwrap_or_default(),
            locality: locality(message.locality).at("locality")?,
            retry_intervals: message
                .retry_intervals
                .map(retry_intervals)
                .transpose()
                .at("retry_intervals")?
                .unwrap_or_default(),
        })
    }
}

fn to_retry_intervals(intervals: RetryIntervals) -> Option<v1::RetryIntervals> {
    let RetryIntervals { budget, rate } = intervals;
    let said = v1::RetryIntervals { budget_ms: to_millis(budget), rate_ms: to_millis(rate) };
    (intervals != RetryIntervals::default()).then_some(said)
}

fn retry_intervals(message: v1::RetryIntervals) -> Result<RetryIntervals, InvalidMessage> {
    let within = |value: u64| {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
        Some(Duration::from_millis(value)).filter(|time| bounds.contains(time)).ok_or(Problem::OutOfRange)
    };
    Ok(RetryIntervals {
        budget: within(message.budget_ms).at("budget_ms")?,
        rate: within(message.rate_ms).at("rate_ms")?,
    })
}

fn to_locality(locality: Locality) -> i32 {
    let locality = match locality {
        Locality::Spill => v1::Locality::Unspecified,
        Locality::Zone => v1::Locality::Zone,
        Locality::Node => v1::Locality::Node,
        Locality::NodeOnly => v1::Locality::NodeOnly,
    };
    locality.into()
}

fn locality(value: i32) -> Result<Locality, Problem> {
    match v1::Locality::try_from(value).map_err(|_| Problem::UnknownVariant)? {
        v1::Locality::Unspecified => Ok(Locality::Spill),
        v1::Locality::Zone => Ok(Locality::Zone),
        v1::Locality::Node => Ok(Locality::Node),
        v1::Locality::NodeOnly => Ok(Locality::NodeOnly),
    }
}

impl From<&Accrual> for v1::Accrual {
    fn from(accrual: &Accrual) -> Self {
        Self {
            consecutive: accrual.consecutive,
            success_rate: accrual.success_rate,
            minimum_requests: accrual.minimum_requests,
            backoff_min_ms: to_millis(accrual.backoff_min),
            backoff_max_ms: to_millis(accrual.backoff_max),
        }
    }
}

impl TryFrom<v1::Accrual> for Accrual {
    type Error = InvalidMessage;

    fn try_from(message: v1::Accrual) -> Result<Self, InvalidMessage> {
        if message.backoff_max_ms < message.backoff_min_ms {
            return Err(Problem::OutOfRange.at("backoff_max_ms"));
        }
        Ok(Self {
            consecutive: message.consecutive,
            success_rate: share(message.success_rate).at("success_rate")?,
            minimum_requests: message.minimum_requests,
            backoff_min: millis(message.backoff_min_ms).at("backoff_min_ms")?,
            backoff_max: millis(message.backoff_max_ms).at("backoff_max_ms")?,
        })
    }
}
