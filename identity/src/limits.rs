//! What bounds the service, and why.

use std::time::Duration;

/// The longest that an anchor is published before certificates are signed under it. Proxies that follow the bundle get it in
/// milliseconds; a replica whose watch lost the event looks within a quarter of this, and a stream that broke is back within 5 s.
pub(crate) const PUBLISH_MAX: Duration = Duration::from_secs(60);
/// And no longer than this part of a certificate's life: an issuer may have to wait so long while no other issuer can sign, and
/// a workload that renews then, at a third of the lifetime, has the rest of it.
pub(crate) const PUBLISH_PART: u32 = 4;
/// The state is looked at, and written, this often within that time: several looks may fail before a gap is presumed.
pub(crate) const LOOKS: u32 = 4;
/// Longest time between two looks at the issuer and the state, whatever events say: events get lost.
pub(crate) const POLL: Duration = Duration::from_secs(30);
/// How often a write of the state is tried again at once after another replica was faster. There are few replicas, and each that
/// wins has done our work.
pub(crate) const WRITES_TRIED: u32 = 5;
/// A state longer than this is not ours: 64 anchors and an issuer are a tenth of it. The API server takes 1 MiB.
pub(crate) const STATE_BYTES_MAX: u64 = 1024 * 1024;
/// The longest that certificates may live. So long a stolen key may be used that nobody revokes; and no anchor is
/// kept for longer, whatever a clock that jumped has written.
pub(crate) const LEAF_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Repairs in a row that are made at once: somebody's slip, or several. More is somebody who writes it too, and each further one waits
/// twice as long as the last.
pub(crate) const REPAIRS_AT_ONCE: u32 = 3;
/// The first of these waits, and the longest. A pod that starts meanwhile mounts what the other wrote.
pub(crate) const REPAIR_WAIT: Duration = Duration::from_millis(500);
pub(crate) const REPAIR_WAIT_MAX: Duration = Duration::from_secs(30);
/// Repairs that are further apart are not in a row.
pub(crate) const CALM: Duration = Duration::from_secs(120);
/// The least time between a write of the state and the next look, so that no slip of ours makes replicas write without pause. An anchor
/// that is published takes two writes.
pub(crate) const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about another writer of the state.
pub(crate) const CONTESTED_TOLD: Duration = Duration::from_secs(60);
/// The issuer signs only if a turn began or ended within this (or within the time that an anchor is published, if that is longer): even
/// while the API server answers nothing each of its two calls ends. A process that was stopped for longer looks first.
pub(crate) const TURN_MAX: Duration = Duration::from_secs(10);
