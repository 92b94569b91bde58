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

/// A new pair for `host`, as it is served.
#[cfg(test)]
pub(crate) fn serving_for_tests(host: &str) -> Serving {
    let pair = make::pair(host, std::time::SystemTime::now(), std::time::Duration::from_secs(3600)).unwrap();
    let tls = remora_runtime::tls::web::server_config(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    Serving { tls, bundle: pair.authority.into() }
}
