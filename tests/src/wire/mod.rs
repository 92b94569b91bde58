//! Both ends of a wire, for tests that look at every byte. In: bytes. Out: what came back, and how it ended. Does not:
//! mend anything; what is sent is what was given.
//!
//! [`Line`] is a client's raw connection, plain or inside mesh TLS; [`Recorder`] an application that keeps every byte it
//! gets and answers with given bytes; [`Bystander`] a client that does everything right meanwhile; [`Scene`] all of them
//! around two proxies.

mod bystander;
pub mod http1;
pub mod http2;
mod line;
mod recorder;
pub mod rows;
mod scene;
pub mod servers;
mod workload;

pub use bystander::Bystander;
pub use line::{Ending, Heard, Line};
pub use recorder::{Recorder, Reply};
pub use scene::{Road, Scene};
pub use workload::{Workload, destination};
