//! The webhook: an AdmissionReview in, its answer out.
//!
//! [`review`] is the words of both (pure), [`decide`] what is answered, [`serve`] the HTTPS server, [`timely`] how long a
//! head may take, [`room`] who may stay connected, [`stats`] what is counted. Nothing on the way asks the API server: what a namespace says comes from the
//! watch, and that it is opted in from which path was called, which the API server chose by the namespace it knows. Events
//! go to a bounded queue.

mod decide;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod review;
mod room;
mod serve;
mod stats;
mod timely;

pub(crate) use decide::{Decider, SELF_CHECK};
pub(crate) use serve::serve;
pub(crate) use stats::Stats;

#[cfg(test)]
mod tests;
