//! The webhook's own certificate authority and serving certificate, in the Secret `remora-injector-tls`.
//!
//! [`make`] makes a pair: an authority, a certificate that it signed, and no key of the authority, which signs nothing
//! else. [`state`] is what the Secret holds and what is to be done next (pure), [`keep`] does it. A rotation has no gap: the
//! next pair is made and its authority put into the webhook configuration beside the present one; only once that was
//! seen there for a while, the next pair is served; the old authority stays trusted until its end.

mod keep;
mod make;
mod state;

pub(crate) use keep::{Keeper, Serving};
