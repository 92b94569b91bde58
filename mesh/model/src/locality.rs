//! How near the endpoints of a backend must be to the client.

/// Which endpoints a client prefers by where they are, as a Service says it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Locality {
    /// Those of its zone, until they are overloaded.
    #[default]
    Spill,
    /// Those of its zone, whatever their load, as long as one is in rotation: `trafficDistribution: PreferSameZone`, or `PreferClose`.
    Zone,
    /// Those on its node, then those of its zone, in the same way: `trafficDistribution: PreferSameNode`.
    Node,
    /// Those on its node, and never others: `internalTrafficPolicy: Local`.
    NodeOnly,
}

impl Locality {
    /// Whether clients must know on which nodes the endpoints are.
    pub fn needs_nodes(self) -> bool {
        match self {
            Self::Spill | Self::Zone => false,
            Self::Node | Self::NodeOnly => true,
        }
    }
}
