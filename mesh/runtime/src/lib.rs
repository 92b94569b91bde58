//! What every deployed Remora binary needs, and nothing of what it does.
//!
//! | module | what it gives |
//! |--|--|
//! | [`tls`] | certificates, the SPIFFE verifiers, TLS configurations; the only module that names rustls and webpki |
//! | [`dated`] | connections that end with the certificates that made them |
//! | [`seldom`] | waits that cost nothing until they are over |
//! | [`certify`] | the workload's own certificate: asked for, renewed, swapped live |
//! | [`grpc`] | channels to and listeners of the control plane over that TLS |
//! | [`slots`] | how many connections may be open, in all and from one address |
//! | [`admin`] | the admin port: liveness, readiness, metrics, log filter |
//! | [`drain`] | stopping in good order |
//! | [`log`] | the process's log subscriber |
//! | [`process`] | from the command line to the exit code |
//! | [`idle`] | memory given back by a process that does nothing |
//! | [`accept`] | connections from a listener, bounded, until the drain |
//! | [`settings`] | text to values, all errors reported at once |

pub mod tls;
pub mod dated;
pub mod seldom;
pub mod slots;
pub mod grpc;
pub mod certify;
pub mod admin;
pub mod drain;
pub mod log;
pub mod settings;
pub mod process;
pub mod accept;
pub mod idle;
pub mod utc;
mod sys;

/// Of every program that this is linked into.
///
/// Not under Miri, to which an allocator is code like any other: `drop(Box)` forbids all pointers but its own to free what lies in the box,
/// and this one frees the block around it (rust-lang/miri#2686). Its tests call it by pointers, as Miri can judge it.
#[cfg_attr(not(miri), global_allocator)]
#[cfg_attr(miri, allow(dead_code, reason = "see above"))]
static ALLOCATOR: sys::Aligned = sys::Aligned;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

/// The exit code for a bad configuration (sysexits.h).
pub const EX_USAGE: u8 = 64;
