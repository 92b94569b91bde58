//! Golden signals: what is counted, under which names, and how it is shown.

pub mod reason;

pub use reason::Reason;
