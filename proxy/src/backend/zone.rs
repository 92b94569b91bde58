//! Where this pod is.

use std::sync::Arc;
use tokio::sync::watch;

/// The topology zone of our pod: as configured, else as discovery says once, which knows the pod's node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zone(Arc<watch::Sender<Option<Arc<str>>>>);

impl Zone {
    /// Sets the zone. The first one counts, because a pod never moves; an empty one is ignored.
    pub(crate) fn tell(&self, zone: Arc<str>) {
        self.0.send_if_modified(|own| {
            let is_first = own.is_none() && !zone.is_empty();
            if is_first {
                *own = Some(zone);
            }
            is_first
        });
    }

    /// Whether `other` is our zone.
    pub(crate) fn is(&self, other: &str) -> bool {
        self.0.borrow().as_ref().is_some_and(|own| **own == *other)
    }

    /// Resolves when the zone becomes known after this call; never, if it is known already. Cancel safe.
    pub(crate) fn becomes_known(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.0.subscribe();
        let is_known = told.borrow_and_update().is_some();
        async move {
            if is_known || told.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn the_first_zone_counts_and_is_told_to_those_who_waited() {
        let zone = Zone::default();
        assert!(!zone.is(""), "nobody is in no zone");
        let mut before = std::pin::pin!(zone.becomes_known());
        zone.tell("".into());
        assert_eq!(before.as_mut().now_or_never(), None);
        zone.tell("a".into());
        zone.tell("b".into());
        assert!(zone.is("a") && !zone.is("b"));
        assert_eq!(before.as_mut().now_or_never(), Some(()));
        assert_eq!(zone.becomes_known().now_or_never(), None, "it does not become so again");
    }
}
