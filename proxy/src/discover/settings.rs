//! The settings that change while the proxy runs. In: what it was started with, and what discovery says. Out: the settings in
//! force, which workers read at each use. The log's filter is set at once.
//!
//! A version that is in force changes nothing, and a filter is set only where discovery says another than before: what a person
//! sets at the admin port's `/log-level` holds until then.

use crate::telemetry::Filter;
use remora_model::{ProxySettings, Tracing, UnknownTargets, settings::AccessLog};
use remora_runtime::log::LogError;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    /// The log's filter, unless a person has set another since.
    pub log: Arc<str>,
    /// What becomes of connections to destinations outside of the cluster's ranges that the mesh does not know.
    pub unknown: UnknownTargets,
    pub drain_grace: Duration,
    /// What is written to the access log; its filter can be read.
    pub access_log: AccessLog,
    /// Whether spans are made of requests, and who collects them.
    pub tracing: Tracing,
}

/// Sets the filter of the process's log.
pub(crate) type SetLog = Box<dyn Fn(&str) -> Result<(), LogError> + Send>;

/// Takes what discovery says of them.
pub(super) struct Settings {
    at_start: InForce,
    in_force: watch::Sender<InForce>,
    version: Option<u64>,
    set_log: SetLog,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("in_force", &*self.in_force.borrow()).finish_non_exhaustive()
    }
}

impl Settings {
    /// Those in force are as the proxy was started.
    pub(super) fn new(in_force: watch::Sender<InForce>, set_log: SetLog) -> Self {
        let at_start = in_force.borrow().clone();
        Self { at_start, in_force, version: None, set_log }
    }

    /// Takes what discovery says into use; what of it cannot be used, by field. The value in force stays there.
    pub(super) fn take(&mut self, version: u64, said: ProxySettings) -> Vec<String> {
        if self.version.replace(version) == Some(version) {
            return Vec::new();
        }
        let (start, before) = (self.at_start.clone(), self.in_force.borrow().clone());
        let mut next = InForce {
            log: said.log_filter.or(start.log, before.log.clone()),
            unknown: said.unknown_targets.or(start.unknown, before.unknown),
            drain_grace: said.drain_grace.or(start.drain_grace, before.drain_grace),
            access_log: said.access_log.or(start.access_log, before.access_log.clone()),
            tracing: said.tracing.or(start.tracing, before.tracing.clone()),
        };
        let mut unused = Vec::new();
        if next.log != before.log
            && let Err(error) = (self.set_log)(&next.log)
        {
            remora_runtime::limited!(warn, %error, in_force = %before.log, "discovery sent a log filter that cannot be used; the one in force stays");
            unused.push(format!("log_filter: {error}"));
            next.log = before.log.clone();
        }
        if let AccessLog::On { filter, .. } = &next.access_log
            && let Err(error) = Filter::parse(filter)
        {
            remora_runtime::limited!(warn, %error, in_force = %before.access_log, "discovery sent an access log whose filter cannot be read; the one in force stays");
            unused.push(format!("access_log: {error}"));
            next.access_log = before.access_log.clone();
        }
        if next != before {
            let InForce { log, unknown, drain_grace, access_log, tracing } = &next;
            tracing::info!(%log, %unknown, ?drain_grace, %access_log, %tracing, "settings changed");
            metrics::counter!("remora_settings_changes_total").increment(1);
            self.in_force.send_replace(next);
        }
        unused
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config;
    use remora_model::Setting;
    use remora_runtime::log;
    use std::sync::{Mutex, PoisonError};

    /// Settings at their start, what reads them, and each filter that was set.
    pub(in crate::discover) fn settings() -> (Settings, watch::Receiver<InForce>, Arc<Mutex<Vec<String>>>) {
        let (tell, in_force) = watch::channel(config::tests::least().settings());
        let set = Arc::<Mutex<Vec<String>>>::default();
        let filters = set.clone();
        let set_log: SetLog = Box::new(move |filter| {
            log::check(filter)?;
            filters.lock().unwrap_or_else(PoisonError::into_inner).push(filter.to_owned());
            Ok(())
        });
        (Settings::new(tell, set_log), in_force, set)
    }

    fn log(filter: &str) -> ProxySettings {
        ProxySettings { log_filter: Setting::Said(filter.into()), ..ProxySettings::default() }
    }

    #[test]
    fn what_is_said_no_more_is_as_at_the_start_and_what_cannot_be_read_stays() {
        let (mut settings, in_force, set) = settings();
        let start = in_force.borrow().clone();
        let all = ProxySettings {
            log_filter: Setting::Said("debug".into()),
            unknown_targets: Setting::Said(UnknownTargets::Deny),
            drain_grace: Setting::Said(Duration::from_secs(5)),
            access_log: Setting::Said("json failed".parse().unwrap()),
            tracing: Setting::Said("otel:4317 sample=5%".parse().unwrap()),
        };
        let said = InForce {
            log: "debug".into(),
            unknown: UnknownTargets::Deny,
            drain_grace: Duration::from_secs(5),
            access_log: "json failed".parse().unwrap(),
            tracing: "otel:4317 sample=5%".parse().unwrap(),
        };
        assert_eq!(settings.take(1, all), Vec::<String>::new());
        assert_eq!(*in_force.borrow(), said);
        let unreadable = ProxySettings {
            log_filter: Setting::Unreadable,
            unknown_targets: Setting::Unreadable,
            drain_grace: Setting::Unreadable,
            access_log: Setting::Unreadable,
            tracing: Setting::Unreadable,
        };
        settings.take(2, unreadable);
        assert_eq!(*in_force.borrow(), said);
        settings.take(3, ProxySettings::default());
        assert_eq!(*in_force.borrow(), start);
        assert_eq!(*set.lock().unwrap(), ["debug", "info"]);
    }

    #[test]
    fn a_filter_of_a_person_stays_until_discovery_says_another() {
        let (mut settings, in_force, set) = settings();
        settings.take(1, log("info"));
        settings.take(2, ProxySettings { drain_grace: Setting::Said(Duration::ZERO), ..log("info") });
        settings.take(2, log("debug"));
        assert!(set.lock().unwrap().is_empty(), "it is the one that was in force, and a version that is known");
        assert_eq!(in_force.borrow().drain_grace, Duration::ZERO);
        settings.take(3, log("debug"));
        assert_eq!(*set.lock().unwrap(), ["debug"]);
    }

    #[test]
    fn an_access_log_whose_filter_cannot_be_read_is_told_and_the_one_in_force_stays() {
        let (mut settings, in_force, _) = settings();
        let said =
            |text: &str| ProxySettings { access_log: Setting::Said(text.parse().unwrap()), ..ProxySettings::default() };
        assert_eq!(settings.take(1, said("logfmt failed")), Vec::<String>::new());
        let unused = settings.take(2, said("json stauts>=500"));
        assert!(unused.len() == 1 && unused[0].starts_with("access_log: filter, character 1"), "{unused:?}");
        assert_eq!(in_force.borrow().access_log.to_string(), "logfmt failed");
    }

    #[test]
    fn a_filter_that_cannot_be_used_is_told_and_the_rest_holds() {
        let (mut settings, in_force, _) = settings();
        let unused = settings.take(1, ProxySettings { drain_grace: Setting::Said(Duration::ZERO), ..log("=,=") });
        assert!(unused.len() == 1 && unused[0].starts_with("log_filter: "), "{unused:?}");
        assert_eq!((&*in_force.borrow().log, in_force.borrow().drain_grace), ("info", Duration::ZERO));
    }
}
