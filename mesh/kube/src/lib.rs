//! What the parts of Remora that speak to the Kubernetes API share. The proxy does not: it never speaks to it.
//!
//! | module | what it gives |
//! |--|--|
//! | [`names`] | names that several parts must agree on |

pub mod names;
