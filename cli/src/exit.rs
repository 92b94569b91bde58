//! How a command ends: what it prints, and its exit code. docs/cli.md promises the codes to scripts.

use crate::{
    admin, authz,
    cluster::{NoCluster, scope},
    lint,
    output::Output,
    revoke, text,
};
use remora_kube::client::CallError;
use std::process::ExitCode;

/// What is printed, and whether all was well.
pub(crate) type Outcome = anyhow::Result<(String, bool)>;

/// Every exit code. clap ends with 2 where it cannot read the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All is well.
    Good = 0,
    /// Something that was asked about is not as it should be: a check failed, a pod did not answer, something is odd.
    Wrong = 1,
    /// The command line cannot be meant so.
    Usage = 2,
    /// There is no cluster to ask, or it, or an address, does not answer.
    Unreachable = 3,
    /// The API server refuses: the user lacks a permission.
    Forbidden = 4,
    /// What was named is not there, or has no sidecar.
    Absent = 5,
}

impl Exit {
    /// Those that a script may meet, with what they mean.
    #[cfg(test)]
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Good, "all is well"),
        (
            Self::Wrong,
            "something that was asked about is wrong: a check failed, a pod did not answer, something is odd, the command failed",
        ),
        (Self::Usage, "the command line cannot be meant so; nothing was done"),
        (Self::Unreachable, "no cluster to ask: no kubeconfig, or the API server (or the HOST:PORT) does not answer"),
        (Self::Forbidden, "the API server refuses: a permission is missing, which the message names"),
        (Self::Absent, "what was named is not there, or has no sidecar"),
    ];

    /// Why a command failed, by its cause.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Wrong)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(call) = cause.downcast_ref::<CallError>() {
            return Some(Self::of_call(call));
        }
        if let Some(cluster) = cause.downcast_ref::<NoCluster>() {
            return Some(Self::of_cluster(cluster));
        }
        if let Some(address) = cause.downcast_ref::<admin::Error>() {
            return Some(Self::of_admin(address));
        }
        if cause.is::<lint::Absent>() || cause.is::<revoke::Absent>() || cause.is::<authz::Absent>() {
            return Some(Self::Absent);
        }
        cause.downcast_ref::<scope::Error>().map(Self::of_scope)
    }

    /// What to do about it, where the message does not say.
    fn remedy(error: &anyhow::Error) -> Option<&'static str> {
        let call = error.chain().find_map(|cause| match cause.downcast_ref::<scope::Error>() {
            Some(scope::Error::Call(call)) => Some(call),
            _ => cause.downcast_ref::<CallError>(),
        })?;
        match Self::of_call(call) {
            Self::Forbidden => Some("ask for that permission, or say -n NAMESPACE for where you have it"),
            Self::Unreachable => Some("does `kubectl get --raw /readyz` work with this kubeconfig?"),
            _ => None,
        }
    }

    fn of_cluster(error: &NoCluster) -> Self {
        match error {
            NoCluster::Context(_) => Self::Usage,
            NoCluster::Away(_) => Self::Unreachable,
        }
    }

    fn of_call(error: &CallError) -> Self {
        match error.code() {
            Some(401 | 403) => Self::Forbidden,
            Some(404) => Self::Absent,
            // A selector that the API server cannot read.
            Some(400) => Self::Usage,
            _ if error.is_away() => Self::Unreachable,
            _ => Self::Wrong,
        }
    }

    fn of_admin(error: &admin::Error) -> Self {
        match error {
            admin::Error::Refused { .. } => Self::Usage,
            admin::Error::Forward { source, .. } => source.call().map_or(Self::Wrong, Self::of_call),
            admin::Error::Connect { .. } | admin::Error::Timeout { .. } => Self::Unreachable,
            admin::Error::Http { .. }
            | admin::Error::Body { .. }
            | admin::Error::NotAProxy { .. }
            | admin::Error::Status { .. }
            | admin::Error::Shape { .. } => Self::Wrong,
        }
    }

    fn of_scope(error: &scope::Error) -> Self {
        match error {
            scope::Error::Cluster(error) => Self::of_cluster(error),
            scope::Error::Call(error) => Self::of_call(error),
            scope::Error::PodAndSelector(_) => Self::Usage,
            scope::Error::Absent { .. }
            | scope::Error::NotMeshed { .. }
            | scope::Error::NoneMeshed { .. }
            | scope::Error::NoneInNamespace(_)
            | scope::Error::NoneAtAll
            | scope::Error::NoneSelected { .. }
            | scope::Error::Selectorless(_) => Self::Absent,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints what came of a command, and says by the exit code whether all was well.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    finish_as(Output::Text, outcome)
}

/// The same for who may have asked for JSON: what failed is JSON then as well, on standard output beside the sentence on standard error.
pub(crate) fn finish_as(output: Output, outcome: Outcome) -> ExitCode {
    match outcome.and_then(|(text, good)| Ok(text::print(&text).map(|()| good)?)) {
        Ok(true) => Exit::Good.into(),
        Ok(false) => Exit::Wrong.into(),
        Err(error) => {
            let (exit, mut why) = (Exit::of(&error), chain(&*error));
            if let Some(remedy) = Exit::remedy(&error) {
                why = format!("{why}; {remedy}");
            }
            if output == Output::Json {
                // Standard output may be what failed; standard error has it all the same.
                text::print(&failure(exit, &why)).ok();
            }
            eprintln!("remora: {why}");
            exit.into()
        }
    }
}

fn failure(exit: Exit, why: &str) -> String {
    format!("{:#}\n", serde_json::json!({ "ok": false, "error": why, "exit_code": exit as u8 }))
}

/// An error and what caused it, on one line, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use kube::core::Status;

    fn refused(code: u16) -> CallError {
        CallError::Refused(Box::new(Status::failure("pods is forbidden", "Forbidden").with_code(code)))
    }

    #[test]
    fn each_way_to_fail_has_its_code() {
        let absent = scope::Error::Absent { what: "pod x".to_owned(), namespace: "shop".to_owned() };
        let cases = [
            (anyhow::Error::new(refused(403)), Exit::Forbidden),
            (scope::Error::from(refused(403)).into(), Exit::Forbidden),
            (refused(404).into(), Exit::Absent),
            (refused(400).into(), Exit::Usage),
            (refused(503).into(), Exit::Unreachable),
            (CallError::Timeout(std::time::Duration::from_secs(5)).into(), Exit::Unreachable),
            (scope::Error::Cluster(NoCluster::Context("x".to_owned())).into(), Exit::Usage),
            (absent.into(), Exit::Absent),
            (anyhow::anyhow!("a full disk"), Exit::Wrong),
        ];
        for (error, exit) in cases {
            assert_eq!(Exit::of(&error), exit, "{error}");
        }
        let within = Err::<(), _>(refused(403)).context("reading pods").unwrap_err();
        assert_eq!(Exit::of(&within), Exit::Forbidden, "the cause counts, wherever it stands");
        assert!(Exit::remedy(&within).is_some_and(|remedy| remedy.contains("permission")));
        assert!(
            Exit::remedy(&scope::Error::from(refused(503)).into()).is_some_and(|remedy| remedy.contains("/readyz"))
        );
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let inner = kube::Error::Service("connection refused".into());
        let told = chain(&CallError::Away(inner));
        assert_eq!(told.matches("connection refused").count(), 1, "{told}");
    }

    #[test]
    fn what_failed_is_json_for_who_asked_for_json() {
        let text = failure(Exit::Forbidden, "pods is \"forbidden\"");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({ "ok": false, "error": "pods is \"forbidden\"", "exit_code": 4 }));
    }
}
