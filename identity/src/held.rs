//! What is held of an issuer: what a source reads and the authority judges.

use crate::issuer::Files;

/// What a source holds at a moment.
#[derive(Debug, Clone)]
pub struct Held {
    /// The issuer.
    pub files: Files,
    /// Anchors may go although leaves still chain to them.
    pub force_remove: bool,
}
