//! The ways to break the running demo, and how each is undone. What each should do to callers is judged in `judge`.

use super::{
    app::SLOW_WORK,
    children::Children,
    layout::{LEAF_LIFETIME, VICTIM},
    manifests,
};
use crate::sys::Signal;
use std::path::Path;

/// What `--break` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Break {
    /// kill -9 the busiest replica of api, with its proxy
    Endpoint,
    /// kill -9 the CA
    Identity,
    /// kill -9 discovery
    Discovery,
    /// Make the busiest replica of api about twenty times slower
    Slow,
    /// Deny web to write to the cart
    Deny,
}

impl Break {
    /// The word that a person types.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Identity => "identity",
            Self::Discovery => "discovery",
            Self::Slow => "slow",
            Self::Deny => "deny",
        }
    }

    /// Breaks it; says what was done and what to expect.
    pub(super) fn inflict(self, children: &mut Children, manifests: &Path) -> anyhow::Result<String> {
        Ok(match self {
            Self::Endpoint => {
                children.kill(&app(VICTIM))?;
                children.kill(&proxy(VICTIM))?;
                format!("{VICTIM} was killed; its requests go to the other replicas")
            }
            Self::Identity => {
                children.kill("identity")?;
                let life = LEAF_LIFETIME.as_secs();
                format!("identity was killed; certificates live {life} s here, and those in hand stay good")
            }
            Self::Discovery => {
                children.kill("discovery")?;
                "discovery was killed; proxies go on with what they know".to_owned()
            }
            Self::Slow => {
                children.signal(&app(VICTIM), Signal::Slow)?;
                let ms = SLOW_WORK.as_millis();
                format!("{VICTIM} takes {ms} ms for each answer; it should get few requests")
            }
            Self::Deny => {
                manifests::deny(manifests)?;
                "web may not POST /cart; it should see 403 denied there, and nowhere else".to_owned()
            }
        })
    }

    /// Undoes it; says what was done.
    pub(super) fn heal(self, children: &mut Children, manifests: &Path) -> anyhow::Result<String> {
        Ok(match self {
            Self::Endpoint => {
                children.restart(&app(VICTIM))?;
                children.restart(&proxy(VICTIM))?;
                format!("{VICTIM} was started again")
            }
            Self::Identity | Self::Discovery => {
                children.restart(self.name())?;
                format!("{} was started again", self.name())
            }
            Self::Slow => {
                children.signal(&app(VICTIM), Signal::Usual)?;
                format!("{VICTIM} works as usual again")
            }
            Self::Deny => {
                manifests::undeny(manifests)?;
                "web may write to the cart again".to_owned()
            }
        })
    }
}

/// The name of a pod's application process.
pub(super) fn app(pod: &str) -> String {
    format!("{pod}.app")
}

/// The name of a pod's proxy process.
pub(super) fn proxy(pod: &str) -> String {
    format!("{pod}.proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_name_is_the_word_that_is_typed() {
        for &it in Break::value_variants() {
            assert_eq!(Break::from_str(it.name(), false), Ok(it));
        }
    }
}
