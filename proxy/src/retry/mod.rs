//! How often and how soon a request may be tried again: pure arithmetic over a time that is passed in.
//!
//! What it does not do: decide whether a request is *safe* to repeat, or keep its body.

pub(crate) mod backoff;
pub(crate) mod budget;

pub(crate) use backoff::backoff;
pub(crate) use budget::Budget;
