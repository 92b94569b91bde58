//! Who is compared.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// In the order of the table's columns.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    /// The application dials its backend directly.
    None,
    Envoy,
    Floor,
    /// Another build of Remora, say of the commit before: see `--before`.
    #[value(skip)]
    Before,
    Remora,
}

impl Contender {
    /// Those that need nothing from the command line.
    pub(crate) const USUAL: [Self; 4] = [Self::None, Self::Envoy, Self::Floor, Self::Remora];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::None => "no proxy",
            Self::Envoy => "Envoy",
            Self::Floor => "floor",
            Self::Before => "before",
            Self::Remora => "Remora",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Envoy => "envoy",
            Self::Floor => "floor",
            Self::Before => "before",
            Self::Remora => "remora",
        })
    }
}
