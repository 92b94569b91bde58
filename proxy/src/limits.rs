//! Every bound of the proxy, with the reason beside it. Nothing here is a library's default by accident.

use std::{ops::RangeInclusive, time::Duration};

/// Connections that one worker holds in one direction; the next one is closed at once and counted as overloaded.
/// 20 000 idle ones cost about 100 MB, which is what a container limit of 256 MB leaves room for.
pub const CONNECTIONS_MAX: usize = 20_000;

/// Descriptors that no accepted connection may take, or half of all where there are few: connections that were taken
/// need others upstream, and the admin port and the control plane must be reached above all when there is trouble.
pub const DESCRIPTORS_RESERVED: u64 = 1024;

/// Connections that wait in the kernel to be accepted.
pub const BACKLOG: i32 = 4096;

/// After `accept` fails for want of descriptors or memory, so that a full table is no busy loop.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// First bytes that are looked at to know the protocol: a request line's method, an HTTP/2 preface, or a ClientHello
/// with a post-quantum key share, which is below 2 KiB, and below 16 KiB for the strangest.
pub const DETECT_BYTES_MAX: usize = 17 * 1024;

/// How long a client may stay silent before the connection upstream is opened beside the wait for its first bytes.
/// Two proxies stand in a row and a server-first protocol waits for both: 1 ms keeps the pair under 5 ms, and is twenty
/// times what a client on the same machine needs to send what it has.
pub const DETECT_GRACE: Duration = Duration::from_millis(1);

/// The same where earlier clients spoke first: a busy client may need longer, and a connection opened for nothing costs
/// both ends a handshake. A server that speaks first behind such an address is late once, by this.
pub const DETECT_GRACE_CLIENT_FIRST: Duration = Duration::from_millis(100);

/// From the first byte of a prefix that is no protocol yet to a decision. A client that sends `GE` and stops is no
/// HTTP client of any kind; the connection is closed, because as opaque bytes it would meet a more permissive policy.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A TLS handshake between proxies takes two round trips; 5 s is a lost packet or two, not an attacker's patience.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first bytes of an HTTP/1 head to its end, unless `REMORA_PROXY_HEADER_TIMEOUT` says otherwise. A head is
/// a packet or two.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence within an HTTP/1 body, and an answer of which the client takes nothing, unless `REMORA_PROXY_BODY_TIMEOUT`
/// says otherwise. Applications pause; Envoy gives a stream as long. A stalled connection holds 200 KB.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// A client that has ended its side of an HTTP/1 connection and is owed an answer of which nothing comes. `nc` waits;
/// but most that ended their side are gone, and their requests should not be worked on for ever.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);

/// A kept HTTP/1 connection of a client, between requests, unless `REMORA_PROXY_IDLE_TIMEOUT` says otherwise. Longer than
/// any server's own, so that it is never our doing that a request meets a closing connection. It holds 5 KB.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Header section, both directions: twice what Linkerd's users found too small (16 KiB), the size of a large cookie jar.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// From an HTTP/1 request to the end of its answer's head, interim answers included: a head of [`HEADER_BYTES_MAX`], and
/// what may be read of the body behind it before the head is taken.
pub const ANSWER_HEAD_BYTES_MAX: usize = 256 * 1024;

/// Header fields: hyper's own bound for HTTP/1, held for HTTP/2 as well.
pub const HEADER_COUNT_MAX: usize = 100;

/// Streams that an application may have open on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 250;

/// Streams on one connection between proxies, which carries what hundreds of HTTP/1 connections of one worker bring.
pub const MESH_STREAMS_MAX: u32 = 4096;

/// Receive window of a stream: a 64 KiB body in flight without a stall.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Receive window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What one stream may buffer before its writer waits.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams reset by the peer before they were accepted (CVE-2023-44487), and resets that the peer made us send
/// (CVE-2025-8671), before the connection is closed with ENHANCE_YOUR_CALM.
pub const PENDING_RESETS_MAX: usize = 20;
/// See [`PENDING_RESETS_MAX`].
pub const LOCAL_RESETS_MAX: usize = 128;

/// PING on idle HTTP/2 connections between proxies, and how long its answer may take: a black hole is noticed in 5 s.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(2000);
/// See [`KEEP_ALIVE_INTERVAL`].
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);

/// TCP keep-alive, for what has no PING of its own: after so long without a word the peer is probed, …
pub const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// … and three times more, with a pause of so many seconds that each connection draws for itself; then it is gone.
///
/// After a pause of the machine all idle connections are probed at once, which is more than the kernel's backlog of packets
/// takes. With one pause for all, the same ones would be dropped every time, and connections die whose peers are well.
pub const TCP_KEEP_ALIVE_PAUSES: RangeInclusive<u64> = 10..=30;

/// A connection to the pod's own application.
pub const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Idle HTTP/1 connections kept to one address, and for how long: below the 5 s after which Node.js, the shortest of the
/// common servers, closes them.
pub const IDLE_CONNECTIONS_MAX: usize = 1024;
/// See [`IDLE_CONNECTIONS_MAX`].
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The request body kept for a retry.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The life of a mirrored request, whose answer nobody waits for.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);

/// A kept HTTP/1 connection from outside the mesh, to a pod that is about to end, is closed after this time without a request.
pub const ENDING_IDLE: Duration = Duration::from_secs(1);

/// Tries beyond the first where the route does not say.
pub const DEFAULT_RETRIES: u32 = 2;

/// Endpoints that one request passes over because nobody is there, which is no retry: a Service scaled down from a
/// hundred pods to one has many of those until the news has come, and each costs about a millisecond.
pub const ENDPOINTS_PASSED_OVER_MAX: usize = 100;

/// How long a request waits for discovery's first answer on a new target before it is treated as unknown.
pub const DISCOVERY_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long after the start of the process connections are held while there is no certificate and no stream to discovery
/// yet, so that an application may start beside its proxy. An identity service that is rolled takes a few seconds;
/// after a minute the pod is not ready for another reason, and its application should hear of it.
pub const START_PATIENCE: Duration = Duration::from_secs(60);

/// The same for connections that come in: nobody who is not answered within [`HANDSHAKE_TIMEOUT`] waits much longer, and a
/// peer that is refused goes to another pod.
pub const START_PATIENCE_INBOUND: Duration = Duration::from_secs(10);

/// Targets that one worker keeps; beyond them the ones that nobody uses are dropped.
pub const TARGETS_MAX: usize = 4096;

/// What a byte relay reads at once: at first, and at most while there is always more. A way whose writer is stalled holds
/// the most.
pub const RELAY_BYTES_MIN: usize = 16 * 1024;
/// See [`RELAY_BYTES_MIN`].
pub const RELAY_BYTES_MAX: usize = 256 * 1024;

/// What a mesh connection reads at once, whatever rustls asks for. A connection whose reader is stalled holds one more relay
/// buffer for what it read so far.
pub const READ_AHEAD_BYTES: usize = RELAY_BYTES_MAX;

/// Relay buffers that a worker keeps for the next one who needs one.
pub const RELAY_BUFFERS_SPARE: usize = 4;

/// Ciphertext that a byte connection between proxies may have waiting for its socket: one relay buffer with the overhead
/// of its records.
pub const TLS_BUFFER_BYTES: usize = RELAY_BYTES_MAX + 4096;

/// A PROXY protocol v2 header with addresses and no extensions to speak of.
pub const PROXY_HEADER_BYTES_MAX: usize = 256;

/// PING to clients of an HTTP/2 listener, so that one that vanished does not hold its streams.
pub const SERVER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`SERVER_KEEP_ALIVE_INTERVAL`].
pub const SERVER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Path templates or gRPC methods learned per target and worker; the rest is `other`.
pub const TEMPLATES_MAX: usize = 100;

/// Counters found without asking the registry, per target and worker.
pub const SERIES_PER_TARGET_MAX: usize = 512;

/// Threads of the data path. More than this on one pod is a mistake in a setting.
pub const WORKERS_MAX: usize = 64;

/// Waits before a second and later retry.
pub const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
