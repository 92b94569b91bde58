//! Where this pod is.

use std::sync::{Arc, OnceLock};

/// The topology zone of our pod: as configured, else as discovery says once, which knows the pod's node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zone(Arc<OnceLock<Arc<str>>>);

impl Zone {
    /// Sets the zone. The first one counts, because a pod never moves; an empty one is ignored.
    pub(crate) fn tell(&self, zone: Arc<str>) {
        if !zone.is_empty() {
            self.0.get_or_init(|| zone);
        }
    }

    /// Whether `other` is our zone.
    pub(crate) fn is(&self, other: &str) -> bool {
        self.0.get().is_some_and(|own| **own == *other)
    }
}
