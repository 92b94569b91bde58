//! A backend as one worker sees it: its endpoints with their health and load ([`balance`]), the connections to them
//! ([`endpoint`]), and how often something may be tried again ([`budget`], [`backoff`]). In: what discovery says of it, and
//! requests with a permit. Out: answers, or why there is none.
//!
//! What it does not do: know routes, or decide whether a request is safe to repeat.

mod backoff;
pub(crate) mod balance;
mod budget;
pub(crate) mod endpoint;
pub(crate) mod outcome;
mod pool;
pub(crate) mod view;
mod zone;

pub(crate) use backoff::backoff;
pub(crate) use balance::{InFlight, Outcome};
pub(crate) use pool::{Entered, Pool};
pub(crate) use zone::Zone;

#[cfg(test)]
mod pool_tests;
