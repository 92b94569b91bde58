//! A pod of a contender: the name of its network namespace.

use crate::contender::Contender;

/// A network namespace that stands for a pod. All contenders have their own, with the same addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod {
    pub(crate) of: Contender,
    pub(crate) side: Side,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    Server,
    /// Where Remora's control plane runs, out of the way of all redirection.
    Control,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Control => "control",
        }
    }
}

impl Pod {
    pub(crate) const fn client(of: Contender) -> Self {
        Self { of, side: Side::Client }
    }

    pub(crate) const fn server(of: Contender) -> Self {
        Self { of, side: Side::Server }
    }

    pub(crate) const fn control(of: Contender) -> Self {
        Self { of, side: Side::Control }
    }

    /// The namespace's name.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.of, self.side.name())
    }
}
