//! The settings of a proxy that change while it runs.

use super::{At, InvalidMessage, Problem, millis, text, to_millis};
use crate::v1;
use remora_model::{
    ProxySettings, Sample, Setting, Target, Tracing, UnknownTargets,
    settings::{ACCESS_LOG_FILTER_BYTES_MAX, AccessLog, AccessLogFormat, DRAIN_GRACE_MAX, LOG_FILTER_BYTES_MAX},
};

impl From<&ProxySettings> for v1::ProxySettings {
    fn from(settings: &ProxySettings) -> Self {
        let ProxySettings { log_filter, unknown_targets, drain_grace, access_log, tracing } = settings;
        let unreadable = [
            (*log_filter == Setting::Unreadable, v1::ProxySetting::LogFilter),
            (*unknown_targets == Setting::Unreadable, v1::ProxySetting::UnknownTargets),
            (*drain_grace == Setting::Unreadable, v1::ProxySetting::DrainGrace),
            (*access_log == Setting::Unreadable, v1::ProxySetting::AccessLog),
            (*tracing == Setting::Unreadable, v1::ProxySetting::Tracing),
        ];
        let unknown_targets = said(unknown_targets).map_or(v1::UnknownTargets::Unspecified, |said| match said {
            UnknownTargets::Pass => v1::UnknownTargets::Pass,
            UnknownTargets::Deny => v1::UnknownTargets::Deny,
        });
        Self {
            log_filter: said(log_filter).map(ToString::to_string).unwrap_or_default(),
            unknown_targets: unknown_targets.into(),
            drain_grace_ms: said(drain_grace).map(|grace| to_millis(*grace)),
            access_log: said(access_log).map(Into::into),
            tracing: said(tracing).map(Into::into),
            unreadable: unreadable.into_iter().filter(|(is, _)| *is).map(|(_, setting)| setting.into()).collect(),
        }
    }
}

fn said<T>(setting: &Setting<T>) -> Option<&T> {
    if let Setting::Said(value) = setting { Some(value) } else { None }
}

impl TryFrom<v1::ProxySettings> for ProxySettings {
    type Error = InvalidMessage;

    fn try_from(message: v1::ProxySettings) -> Result<Self, InvalidMessage> {
        let filter = Some(message.log_filter).filter(|filter| !filter.is_empty());
        if filter.as_ref().is_some_and(|filter| filter.len() > LOG_FILTER_BYTES_MAX) {
            return Err(Problem::OutOfRange.at("log_filter"));
        }
        let unknown = v1::UnknownTargets::try_from(message.unknown_targets).map_err(|_| Problem::UnknownVariant);
        let unknown = match unknown.at("unknown_targets")? {
            v1::UnknownTargets::Unspecified => None,
            v1::UnknownTargets::Pass => Some(UnknownTargets::Pass),
            v1::UnknownTargets::Deny => Some(UnknownTargets::Deny),
        };
        let grace = message.drain_grace_ms.map(millis).transpose().at("drain_grace_ms")?;
        if grace.is_some_and(|grace| grace > DRAIN_GRACE_MAX) {
            return Err(Problem::OutOfRange.at("drain_grace_ms"));
        }
        let mut settings = Self {
            log_filter: setting(filter.map(text).transpose().at("log_filter")?),
            unknown_targets: setting(unknown),
            drain_grace: setting(grace),
            access_log: setting(message.access_log.map(AccessLog::try_from).transpose().at("access_log")?),
            tracing: setting(message.tracing.map(Tracing::try_from).transpose().at("tracing")?),
        };
        for unreadable in message.unreadable {
            let unreadable = v1::ProxySetting::try_from(unreadable).map_err(|_| Problem::UnknownVariant);
            match unreadable.at("unreadable")? {
                v1::ProxySetting::Unspecified => return Err(Problem::UnknownVariant.at("unreadable")),
                v1::ProxySetting::LogFilter => set_unreadable(&mut settings.log_filter)?,
                v1::ProxySetting::UnknownTargets => set_unreadable(&mut settings.unknown_targets)?,
                v1::ProxySetting::DrainGrace => set_unreadable(&mut settings.drain_grace)?,
                v1::ProxySetting::AccessLog => set_unreadable(&mut settings.access_log)?,
                v1::ProxySetting::Tracing => set_unreadable(&mut settings.tracing)?,
            }
        }
        Ok(settings)
    }
}

impl From<&AccessLog> for v1::AccessLog {
    fn from(log: &AccessLog) -> Self {
        let (format, filter) = match log {
            AccessLog::Off => (v1::AccessLogFormat::Unspecified, String::new()),
            AccessLog::On { format, filter } => {
                let format = match format {
                    AccessLogFormat::Json => v1::AccessLogFormat::Json,
                    AccessLogFormat::Logfmt => v1::AccessLogFormat::Logfmt,
                    AccessLogFormat::Apache => v1::AccessLogFormat::Apache,
                };
                (format, filter.to_string())
            }
        };
        Self { format: format.into(), filter }
    }
}

impl TryFrom<v1::AccessLog> for AccessLog {
    type Error = InvalidMessage;

    fn try_from(message: v1::AccessLog) -> Result<Self, InvalidMessage> {
        let format = v1::AccessLogFormat::try_from(message.format).map_err(|_| Problem::UnknownVariant);
        let format = match format.at("format")? {
            v1::AccessLogFormat::Unspecified => return Ok(Self::Off),
            v1::AccessLogFormat::Json => AccessLogFormat::Json,
            v1::AccessLogFormat::Logfmt => AccessLogFormat::Logfmt,
            v1::AccessLogFormat::Apache => AccessLogFormat::Apache,
        };
        if message.filter.len() > ACCESS_LOG_FILTER_BYTES_MAX {
            return Err(Problem::OutOfRange.at("filter"));
        }
        Ok(Self::On { format, filter: text(message.filter).at("filter")? })
    }
}

impl From<&Tracing> for v1::Tracing {
    fn from(tracing: &Tracing) -> Self {
        match tracing {
            Tracing::Off => Self::default(),
            Tracing::On { collector, sample } => {
                Self { collector: collector.to_string(), sample_millionths: sample.millionths() }
            }
        }
    }
}

impl TryFrom<v1::Tracing> for Tracing {
    type Error = InvalidMessage;

    fn try_from(message: v1::Tracing) -> Result<Self, InvalidMessage> {
        let sample = Sample::of_millionths(message.sample_millionths).ok_or(Problem::OutOfRange);
        let sample = sample.at("sample_millionths")?;
        if message.collector.is_empty() {
            return Ok(Self::Off);
        }
        // Written with its port always.
        let collector = message.collector.parse::<Target>().map_err(Problem::Target).at("collector")?;
        Ok(Self::On { collector, sample })
    }
}

fn setting<T>(value: Option<T>) -> Setting<T> {
    value.map_or(Setting::AsStarted, Setting::Said)
}

/// Not twice, and not of a setting with a value. So their number is bounded too.
fn set_unreadable<T: PartialEq>(setting: &mut Setting<T>) -> Result<(), InvalidMessage> {
    if *setting != Setting::AsStarted {
        return Err(Problem::Excludes("the value of that setting").at("unreadable"));
    }
    *setting = Setting::Unreadable;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let said = ProxySettings {
            log_filter: Setting::Said("info,remora_proxy=debug".into()),
            unknown_targets: Setting::Said(UnknownTargets::Deny),
            drain_grace: Setting::Said(Duration::ZERO),
            access_log: Setting::Said("apache ms>200".parse().unwrap()),
            tracing: Setting::Said("otel.observability:4317 sample=0.5%".parse().unwrap()),
        };
        let unreadable = ProxySettings {
            log_filter: Setting::Unreadable,
            unknown_targets: Setting::Unreadable,
            drain_grace: Setting::Unreadable,
            access_log: Setting::Unreadable,
            tracing: Setting::Unreadable,
        };
        for settings in [ProxySettings::default(), said, unreadable] {
            assert_eq!(ProxySettings::try_from(v1::ProxySettings::from(&settings)), Ok(settings));
        }
    }

    fn with_tracing(collector: &str, sample_millionths: u32) -> v1::ProxySettings {
        let tracing = v1::Tracing { collector: collector.to_owned(), sample_millionths };
        v1::ProxySettings { tracing: Some(tracing), ..Default::default() }
    }

    #[test]
    fn what_is_out_of_bounds_or_said_twice_is_refused_by_field() {
        let filter = v1::ProxySetting::LogFilter.into();
        for (message, field) in [
            (v1::ProxySettings { log_filter: "x".repeat(1025), ..Default::default() }, "log_filter: "),
            (v1::ProxySettings { unknown_targets: 3, ..Default::default() }, "unknown_targets: "),
            (v1::ProxySettings { drain_grace_ms: Some(3_600_001), ..Default::default() }, "drain_grace_ms: "),
            (with_tracing("otel:4317", 1_000_001), "tracing.sample_millionths: "),
            (with_tracing("http://otel:4317", 1), "tracing.collector: "),
            (v1::ProxySettings { unreadable: vec![0], ..Default::default() }, "unreadable: "),
            (v1::ProxySettings { unreadable: vec![filter, filter], ..Default::default() }, "unreadable: "),
            (
                v1::ProxySettings { log_filter: "x".into(), unreadable: vec![filter], ..Default::default() },
                "unreadable: ",
            ),
        ] {
            let error = ProxySettings::try_from(message).expect_err("refused").to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
