//! A report while it is made: what is written went through [`redact`], what fails is noted, and all of it ends in time.

use super::{
    archive::{Archive, Error, Made},
    redact,
};
use kube::api::DynamicObject;
use remora_kube::{client::CallError, yaml};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Objects of a kind that are written.
const OBJECTS_MAX: usize = 2000;

/// The archive, and when it must be done.
pub(super) struct Report {
    archive: Archive,
    until: Instant,
}

impl Report {
    pub(super) fn new(archive: Archive, within: Duration) -> Self {
        Self { archive, until: Instant::now() + within }
    }

    /// Closes the file.
    pub(super) fn finish(self) -> Result<Made, Error> {
        self.archive.finish()
    }

    /// Says what is done, and whether there is time for it.
    pub(super) fn begin(&mut self, what: &str) -> bool {
        if Instant::now() >= self.until {
            self.archive.leave_out(what, "the time is over (--within)");
            return false;
        }
        eprintln!("remora: {what}");
        true
    }

    /// When it must be done.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Writes text, without credentials.
    pub(super) fn write(&mut self, name: &str, text: &str) -> Result<(), Error> {
        self.archive.add(name, &redact::text(text))
    }

    /// Writes what could be read, or notes why it could not.
    pub(super) fn write_or_fail(&mut self, name: &str, text: Result<String, String>) -> Result<(), Error> {
        match text {
            Ok(text) => self.write(name, &text),
            Err(why) => {
                self.fail(name, &why);
                Ok(())
            }
        }
    }

    pub(super) fn fail(&mut self, what: &str, why: &str) {
        self.archive.fail(what, &redact::text(why));
    }

    pub(super) fn leave_out(&mut self, what: &str, why: &str) {
        self.archive.leave_out(what, why);
    }

    /// The objects of a kind, in one file, without what is their owner's alone.
    pub(super) fn objects(
        &mut self,
        name: &str,
        found: Result<Vec<DynamicObject>, CallError>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(), Error> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.fail(name, &crate::chain(&error));
                return Ok(());
            }
        };
        let values = found.into_iter().filter_map(|it| serde_json::to_value(it).ok()).filter(wanted);
        let values: Vec<Value> = values.take(OBJECTS_MAX + 1).collect();
        if values.len() > OBJECTS_MAX {
            self.leave_out(name, &format!("only the first {OBJECTS_MAX} objects are in the report"));
        }
        let text: String = values
            .into_iter()
            .take(OBJECTS_MAX)
            .map(|it| format!("---\n{}", yaml::write(&redact::object(it))))
            .collect();
        if text.is_empty() {
            return Ok(());
        }
        // Every string of it went through the same already.
        self.archive.add(name, &text)
    }
}
