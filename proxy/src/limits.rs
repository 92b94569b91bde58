//! Every bound of the proxy, with the reason beside it. Nothing here is a library's default by accident.

use std::{ops::RangeInclusive, time::Duration};

/// The memory that this process may use, where neither its cgroup nor `REMORA_PROXY_MEMORY_LIMIT` says.
pub(crate) const MEMORY_DEFAULT_BYTES: u64 = 512 << 20;

/// What the proxy holds that no peer causes: its code and heap at rest (16 MiB), what discovery sent, signals (2048
/// series, 256 routes and as many peers: 8 MiB if all are busy; records of a worker: 1 MiB), and the log's queue.
pub(crate) const MEMORY_BASE_BYTES: u64 = 40 << 20;

/// What peers can make it hold, as charged to the [`account`](crate::account): three eighths of the process's limit, and less
/// where the limit is small. The rest is for [`MEMORY_BASE_BYTES`], for what the allocator cannot give back at once, and for
/// what a charge does not foresee.
pub(crate) const fn account_bytes(memory_limit: u64) -> usize {
    let part = memory_limit / 8 * 3;
    let beside_base = memory_limit.saturating_sub(MEMORY_BASE_BYTES);
    let bytes = if part < beside_base { part } else { beside_base };
    if bytes > 1 << 40 { 1 << 40 } else { bytes as usize }
}

/// How often it is looked whether peers have given memory back, …
pub(crate) const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// … and how much it must be for the allocator to be asked for it, which stops all threads' allocations for a moment.
pub(crate) const MEMORY_FREED_BYTES: usize = 8 << 20;

/// A connection that says nothing, or speaks HTTP/1: its task, hyper's buffers, its first bytes. Measured: 5 to 7 KB.
pub(crate) const CONNECTION_BYTES: usize = 8 * 1024;

/// What mesh TLS adds to a connection: rustls, what is read ahead at least, ciphertext that waits at least, and for
/// HTTP/2 its tables and buffers. Measured: 43 to 50 KB in all.
pub(crate) const MESH_CONNECTION_BYTES: usize = 40 * 1024;

/// What a relay adds: the buffers that its two ways always have.
pub(crate) const RELAY_BYTES: usize = 2 * RELAY_BYTES_MIN;

/// A request into the pod: its task, its connection to the application, and a piece of its answer that its caller does not
/// take. While much is held, such a piece is [`TIGHT_READ_BYTES`]; else up to the 72 KiB that hyper reads at once.
pub(crate) const REQUEST_BYTES: usize = 16 * 1024;

/// The same out of the pod: its task, its heads, and what its tries need.
pub(crate) const REQUEST_OUT_BYTES: usize = 4 * 1024;

/// What an HTTP/1 connection reads and writes ahead at most, each way, as hyper counts it: a head and some. It is held where
/// a message stands still, and charged then.
pub(crate) const HTTP1_BUFFER_BYTES: usize = HEADER_BYTES_MAX + 8 * 1024;

/// From this part of the account on, answers are read in smaller pieces, …
pub(crate) const TIGHT_SHARE: usize = 8;
/// … of at most so much.
pub(crate) const TIGHT_READ_BYTES: usize = 8 * 1024;

const _: () = {
    let limit: u64 = 128 << 20; // what the injector gives a sidecar
    let account = account_bytes(limit);
    assert!(
        account as u64 + MEMORY_BASE_BYTES + (40 << 20) <= limit,
        "what is charged, what is not, and 40 MiB to spare"
    );
    assert!(
        account / 2 / (CONNECTION_BYTES + MESH_CONNECTION_BYTES + RELAY_BYTES) >= 350,
        "byte connections of one peer"
    );
    assert!(account / 2 / CONNECTION_BYTES >= 3000, "plain connections of one peer");
    assert!(account / 2 / REQUEST_BYTES >= 1500, "requests of one peer");
    assert!(
        account / 2 / (REQUEST_BYTES + STREAM_WINDOW_BYTES as usize) >= MESH_STREAMS_MAX as usize,
        "uploads of one peer that all stand still, on its first connection"
    );
    assert!(account / 4 * 3 / REQUEST_OUT_BYTES >= 2 * REQUESTS_PER_BACKEND_MAX as usize, "requests of the pod itself");
    assert!(2 * RELAY_BYTES_MAX <= account / 64, "a stalled stream takes little of what there is");
};

/// Descriptors that no accepted connection may take, or half of all where there are few: connections that were taken
/// need others upstream, and the admin port and the control plane must be reached above all when there is trouble.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 1024;

/// Connections that wait in the kernel to be accepted.
pub(crate) const BACKLOG: i32 = 4096;

/// After `accept` fails for want of descriptors or memory, so that a full table is no busy loop.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// First bytes that are looked at to know the protocol: a request line's method, an HTTP/2 preface, or a ClientHello
/// with a post-quantum key share, which is below 2 KiB, and below 16 KiB for the strangest.
pub(crate) const DETECT_BYTES_MAX: usize = 17 * 1024;

/// How long a client may stay silent before the connection upstream is opened beside the wait for its first bytes.
/// Two proxies stand in a row and a server-first protocol waits for both: 1 ms keeps the pair under 5 ms, and is twenty
/// times what a client on the same machine needs to send what it has.
pub(crate) const DETECT_GRACE: Duration = Duration::from_millis(1);

/// How long a server's first word waits for a peer's ClientHello, which may be on its way still: a peer sends it as soon as its connection is
/// made, and a busy machine or the network delays it by a few milliseconds. Without mesh TLS a caller of such a server is late by this, once
/// a connection.
pub(crate) const HELLO_GRACE: Duration = Duration::from_millis(12);

/// [`DETECT_GRACE`] where earlier clients spoke first: a busy client may need longer, and a connection opened for nothing costs
/// both ends a handshake. A server that speaks first behind such an address is late once, by this.
pub(crate) const DETECT_GRACE_CLIENT_FIRST: Duration = Duration::from_millis(100);

/// How long a client that is silent still may take to begin after its upstream could not be opened. A request is answered with
/// the reason, a connection of bytes can only be closed: a client on a busy machine must not get the one for the other.
pub(crate) const UNOPENED_GRACE: Duration = Duration::from_millis(500);

/// From the first byte of a prefix that is no protocol yet to a decision, where the client may not send bytes. One that
/// sends `GE` and stops is no HTTP client of any kind, and is closed.
pub(crate) const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a worker may take to answer `/live`, below the second that a kubelet waits for a probe; …
pub(crate) const PULSE_TIMEOUT: Duration = Duration::from_millis(800);
/// … and for how long its answer counts, so that a client that asks all the time costs nothing.
pub(crate) const PULSE_KEPT: Duration = Duration::from_millis(200);
/// From the first bytes of a client that may send bytes, and whose prefix is no protocol yet, until the upstream gets what
/// there is: `ruok` and a wait for the answer is how some clients begin. A request line is one packet, so that a busy client's
/// is whole by then; should it become one after all, it is served as HTTP.
pub(crate) const UNDECIDED_GRACE: Duration = Duration::from_millis(100);

/// A TLS handshake between proxies takes two round trips; 5 s is a lost packet or two, not an attacker's patience.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes that are under way from one address on one worker. A peer needs few at a time, and others of its own wait behind
/// them; one that leaves them undone holds them for [`HANDSHAKE_TIMEOUT`]. There is no bound for all addresses together, which
/// sixteen silent ones would use up for all others: memory is charged, and the worker's time is given in turns.
pub(crate) const HANDSHAKES_PER_PEER_MAX: usize = 16;

/// What handshakes may take of a worker between two looks at other connections, and one step beyond it: a step with a
/// signature takes 0.1 ms.
pub(crate) const HANDSHAKE_TURN: Duration = Duration::from_micros(500);

/// From the first bytes of an HTTP/1 head to its end, unless `REMORA_PROXY_HEADER_TIMEOUT` says otherwise. A head is
/// a packet or two.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence within an HTTP/1 body, an answer of which the client takes nothing, and an HTTP/2 connection whose peer takes nothing, unless
/// `REMORA_PROXY_BODY_TIMEOUT` says otherwise. Applications pause; Envoy gives a stream as long. A stalled connection holds 200 KB.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// A server whose answer has come to its end, and that takes nothing of the rest of the request. Nothing depends on that any more but what holds
/// it: a connection, and the client's. nginx listens for as long (`lingering_time`).
pub(crate) const ANSWERED_UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has ended its side of an HTTP/1 connection and is owed an answer of which nothing comes. `nc` waits;
/// but most that ended their side are gone, and their requests should not be worked on for ever.
pub(crate) const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);

/// A kept HTTP/1 connection of a client, between requests, unless `REMORA_PROXY_IDLE_TIMEOUT` says otherwise. Longer than
/// any server's own, so that it is never our doing that a request meets a closing connection. It holds 5 KB.
pub(crate) const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Header section, both directions: twice what Linkerd's users found too small (16 KiB), the size of a large cookie jar.
pub(crate) const HEADER_BYTES_MAX: usize = 64 * 1024;

/// What proxies add to a head between them, at most.
pub(crate) const RESERVED_BYTES_MAX: usize = 512;

/// What is announced to clients as the bound of a header list over HTTP/2, which counts 32 bytes for each field beside its text (RFC
/// 9113 §6.5.2): a head within [`HEADER_BYTES_MAX`] passes whichever protocol it crosses by.
pub(crate) const HEADER_LIST_BYTES_MAX: usize =
    HEADER_BYTES_MAX + 2 * RESERVED_BYTES_MAX + 32 * (HEADER_COUNT_MAX + 16);

/// The same, announced to servers. It is larger than what is passed on, so that nearly all that is too large is seen to be: the
/// library refuses a larger head as a broken stream, and cuts larger trailers.
pub(crate) const ANSWER_LIST_BYTES_MAX: usize = 4 * HEADER_BYTES_MAX;

/// From an HTTP/1 request to the end of its answer's head, interim answers included: a head of [`HEADER_BYTES_MAX`], and
/// what may be read of the body behind it before the head is taken.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 256 * 1024;

/// Header fields: hyper's own bound for HTTP/1, held for HTTP/2 as well. hyper is not told: one that is set costs two arrays on the heap for each
/// head, cleared, where its own are on the stack.
pub(crate) const HEADER_COUNT_MAX: usize = 100;

/// Streams that an application may have open on one HTTP/2 connection.
pub(crate) const STREAMS_MAX: u32 = 250;

/// Requests under way to one backend, for each worker.
pub(crate) const REQUESTS_PER_BACKEND_MAX: u32 = 4096;

/// Streams on one connection between proxies: 512 HTTP/1 clients of one worker need two connections.
pub(crate) const MESH_STREAMS_MAX: u32 = 256;

/// Receive window of a stream: a 64 KiB body in flight without a stall.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same on the further connections of a peer that has as many streams as one connection takes: a quarter, since so
/// many streams keep any way between two pods busy with less, and all of them may stand still at once.
pub(crate) const STREAM_WINDOW_BYTES_FURTHER: u32 = 16 * 1024;

/// How many streams a connection may have, and the receive window of each: wide on the first to an address, or from a
/// peer, narrow on the others. At most 16 MiB of a connection can be unread, then 4 MiB of each further one, and no more than
/// its peer's share of the account.
pub(crate) const fn stream_share(first: bool) -> (u32, u32) {
    (MESH_STREAMS_MAX, if first { STREAM_WINDOW_BYTES } else { STREAM_WINDOW_BYTES_FURTHER })
}

/// Receive window of a connection: what its streams can have unread at once. If it were smaller, streams that
/// are not read could fill it and stop all others (hyperium/hyper#2899). It is a promise: what is read at once takes no memory.
pub(crate) const fn connection_window(streams: u32, stream_window: u32) -> u32 {
    streams * stream_window
}

/// HTTP/2 connections to one address, for those who share them: with 256 streams each as many as there may be requests
/// under way to a backend.
pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: usize = 16;

/// Connections that are being made to one address at once: enough that a limit of one stream per connection is worked
/// through, too few to be an attack.
pub(crate) const CONNECTING_MAX: u32 = 4;

/// Requests that wait for a stream to one address, after which the next one is refused (`queue_full`).
pub(crate) const STREAM_WAITERS_MAX: u32 = 1024;

/// How long a request waits for a stream where the server takes no more on any connection. Longer than most answers take,
/// shorter than most callers wait.
pub(crate) const STREAM_WAIT: Duration = Duration::from_secs(2);

/// Sets of HTTP/2 connections to applications that are kept apart for one connection: by the caller that a peer names, and
/// by address. More callers than that in one pod share some.
pub(crate) const CALLER_STREAMS_MAX: usize = 64;

/// HTTP/2 connections that one worker has to peers and applications: 50 kB each. Idle ones make room.
pub(crate) const MESH_CONNECTIONS_MAX: usize = 1024;

/// A connection between proxies that has no stream is closed after this time. A new one costs 0.3 ms of each side's
/// processor; an idle one holds 50 kB here and 43 kB there.
pub(crate) const MESH_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The same towards an application, where a new one costs 0.1 ms and the old one may be what it counts.
pub(crate) const APP_HTTP2_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP/2 connections that one proxy may have to one worker of another. One worker of ours needs
/// [`CONNECTIONS_PER_ADDRESS_MAX`] at most, and that only for 4 096 streams; a peer may have several workers.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 32;

/// Of these, how many have the wide windows of [`stream_share`]: one for each of a peer's workers, and its successor after a
/// renewal of credentials, which is made beside it. What they leave unread is charged to the peer.
pub(crate) const PEER_WIDE_CONNECTIONS: usize = 4;

/// Time over which connections are made anew after a renewal of credentials, each at a moment that it draws: 2 000
/// handshakes are 0.6 s of a processor.
pub(crate) const RENEWAL_SPREAD: Duration = Duration::from_secs(10);

/// Bytes that come on a connection between two looks at what its readers have left unread, which is then put together.
pub(crate) const UNREAD_SWEEP_BYTES: u64 = 256 * 1024;

/// What the frames of answers that wait for their readers may take beyond their bytes, 256 a frame, before the connection
/// is ended (h2's guard against tiny frames). Between two looks as many come as [`UNREAD_SWEEP_BYTES`] holds, or, in one go,
/// as the socket holds.
pub(crate) const DATA_FRAME_BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// A piece of a body that is smaller than this is sent together with what is there behind it: half of what a frame holds.
pub(crate) const SMALL_PIECE_BYTES: usize = 8 * 1024;

/// What one stream may buffer before its writer waits.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams reset by the peer before they were accepted (CVE-2023-44487), and resets that the peer made us send
/// (CVE-2025-8671), before the connection is closed with ENHANCE_YOUR_CALM.
pub(crate) const PENDING_RESETS_MAX: usize = 20;
/// The same from a peer of the mesh, whose connection carries what all its clients give up: as many as it may have
/// streams, four times over, so that no burst of time-outs ends the others' streams.
pub(crate) const MESH_PENDING_RESETS_MAX: usize = 4 * MESH_STREAMS_MAX as usize;
/// See [`PENDING_RESETS_MAX`].
pub(crate) const LOCAL_RESETS_MAX: usize = 128;

/// PING on idle HTTP/2 connections between proxies, and how long its answer may take: a black hole is noticed in 5 s.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(2000);
/// See [`KEEP_ALIVE_INTERVAL`].
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Looked at so long after it was due, the answer to a PING gets another [`KEEP_ALIVE_TIMEOUT`]: the machine or this process stood still.
pub(crate) const KEEP_ALIVE_LATE: Duration = Duration::from_millis(200);

/// TCP keep-alive, for what has no PING of its own: after so long without a word the peer is probed, …
pub(crate) const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// … and three times more, with a pause of so many seconds that each connection draws for itself; then it is gone.
///
/// After a pause of the machine all idle connections are probed at once, which is more than the kernel's backlog of packets
/// takes. With one pause for all, the same ones would be dropped every time, and connections die whose peers are well.
pub(crate) const TCP_KEEP_ALIVE_PAUSES: RangeInclusive<u64> = 10..=30;

/// A connection to the pod's own application. Where more connections wait than it accepts, the kernel drops the first packet and repeats it after
/// 1 s: a burst costs that second, as it would without the proxy. A queue that is full for longer is that of an application that
/// does not accept, and the peer tries another pod. (linkerd2-proxy gives 0.3 s, its chart 0.1 s: there a burst is a failure.)
pub(crate) const APP_CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Idle HTTP/1 connections kept to one address, and for how long: below the 5 s after which Node.js, the shortest of the
/// common servers, closes them.
pub(crate) const IDLE_CONNECTIONS_MAX: usize = 1024;
/// See [`IDLE_CONNECTIONS_MAX`].
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The request body kept for a retry.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The lifetime of a mirrored request, whose response no client waits for.
pub(crate) const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);

/// A kept HTTP/1 connection from outside the mesh, to a pod that is about to end, is closed after this time without a request.
pub(crate) const ENDING_IDLE: Duration = Duration::from_secs(1);

/// Tries beyond the first where the route does not say.
pub(crate) const DEFAULT_RETRIES: u32 = 2;

/// Endpoints that one request skips because they are unreachable, which is no retry: a Service scaled down from a
/// hundred pods to one has many of those until the news has come, and each costs about a millisecond.
pub(crate) const ENDPOINTS_PASSED_OVER_MAX: usize = 100;

/// How long a connection or request to a destination that may be in the cluster waits for discovery to say what it is, before
/// it is refused. A discovery that is rolled or elected anew is back within it; clients' own connect timeouts are longer.
pub(crate) const DISCOVERY_WAIT: Duration = Duration::from_secs(5);

/// The same where discovery said that it knows nothing there: a pod that has just been made is known within a second, and
/// a dead address should not hold its callers for long.
pub(crate) const UNKNOWN_TARGET_WAIT: Duration = Duration::from_secs(1);

/// How long a connection to a destination outside the cluster's ranges waits for discovery's first answer before it is passed
/// through, and one to a port of the pod before it is refused: a peer tries another pod then.
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_millis(1500);

/// Connections and requests of one worker that wait for discovery at once; the next one is refused as overloaded. Each
/// holds a connection of about 5 KB, so 10 MB in all. Inbound ones have a bound of their own, so that unknown clients
/// cannot use up what the application needs.
pub(crate) const WAITING_OUTBOUND_MAX: usize = 2048;
/// See [`WAITING_OUTBOUND_MAX`].
pub(crate) const WAITING_INBOUND_MAX: usize = 256;

/// How long after the start of the process connections are held while there is no certificate and no stream to discovery
/// yet, so that an application may start beside its proxy. An identity service that is rolled takes a few seconds;
/// after a minute the pod is not ready for another reason, and its application should hear of it.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(60);

/// The same for inbound connections: few clients wait for much longer than [`HANDSHAKE_TIMEOUT`], and a
/// peer that is refused goes to another pod.
pub(crate) const START_PATIENCE_INBOUND: Duration = Duration::from_secs(10);

/// Targets that are subscribed to; beyond them those longest unused make room, of which each worker keeps an equal share. Discovery
/// takes 4096 subscriptions of one proxy, and unknown clients can use up none of these: see [`PORTS_MAX`].
pub(crate) const TARGETS_MAX: usize = 3072;

/// Ports of the pod that are subscribed to: those that it declares, or that a Service or policy names. All others share one
/// subscription, so that connections to arbitrary ports cost nothing.
pub(crate) const PORTS_MAX: usize = 768;

/// Targets that make room at once, so that looking for the longest unused ones is rare.
pub(crate) const EVICTED_AT_ONCE: usize = 16;

/// Ports without a subscription of their own that one worker remembers while no connection uses them, with their connections
/// to the application.
pub(crate) const UNDECLARED_PORTS_IDLE_MAX: usize = 64;

/// Backends that are held: several for each target, where routes split.
pub(crate) const BACKENDS_MAX: usize = 8192;

/// Resources offered to discovery on reconnecting; the rest is sent anew. Discovery takes 8192.
pub(crate) const OFFERED_MAX: usize = 8000;

/// First and longest wait between connections to discovery; half of it is chance. The first is short, because endpoints
/// must be right within seconds of a single loss; the longest is what ten thousand proxies of an overloaded discovery need.
pub(crate) const DISCOVERY_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// See [`DISCOVERY_BACKOFF_MIN`].
pub(crate) const DISCOVERY_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The longest wait while a connection waits for discovery's answer, which is below [`DISCOVERY_WAIT`].
pub(crate) const DISCOVERY_BACKOFF_WANTED: Duration = Duration::from_secs(1);

/// Messages handed to the connection to discovery and not sent yet.
pub(crate) const DISCOVERY_QUEUE_MAX: usize = 256;
/// Messages to discovery that wait; with more, workers' wishes wait too. Acks may exceed it: they are as many as updates.
pub(crate) const OUTBOX_MAX: usize = 4096;
/// The largest update: a backend with the most endpoints there may be, with long names.
pub(crate) const UPDATE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream to discovery that lasted so long was not a failure.
pub(crate) const DISCOVERY_STEADY: Duration = Duration::from_secs(2);

/// First and longest time between two questions about one backend that cannot be reached; it is sent whole each time.
pub(crate) const DOUBT_MIN: Duration = Duration::from_secs(2);
/// See [`DOUBT_MIN`].
pub(crate) const DOUBT_MAX: Duration = Duration::from_secs(300);

/// What a byte relay reads at once: at first, while there is more, and at most, as far as the account has room. A way whose
/// writer is stalled holds what it read, and as much ciphertext.
pub(crate) const RELAY_BYTES_MIN: usize = 8 * 1024;
/// See [`RELAY_BYTES_MIN`].
pub(crate) const RELAY_BYTES_MORE: usize = 64 * 1024;
/// See [`RELAY_BYTES_MIN`].
pub(crate) const RELAY_BYTES_MAX: usize = 256 * 1024;

/// What byte relays that never end read, all of a worker together, before they let its other tasks go first: at 1 GB/s, a
/// quarter of a millisecond that a request has to wait for them.
pub(crate) const RELAY_TURN_BYTES: usize = 256 * 1024;

/// What each of many has of it at least: a few records, for which a write and a wake-up at the other end are worth while.
pub(crate) const RELAY_TURN_BYTES_MIN: usize = 32 * 1024;

/// What any task reads in one poll, before it is out of budget: hyper and rustls read in loops of their own.
pub(crate) const TASK_TURN_BYTES: usize = 1024 * 1024;

/// Relay buffers of each size that a worker keeps for the next one who needs one.
pub(crate) const RELAY_BUFFERS_SPARE: usize = 4;

/// Ciphertext that a byte connection between proxies may have waiting for its socket, beyond what is read at once: the
/// overhead of its records.
pub(crate) const TLS_OVERHEAD_BYTES: usize = 4096;

/// A PROXY protocol v2 header with addresses and no extensions to speak of.
pub(crate) const PROXY_HEADER_BYTES_MAX: usize = 256;

/// How often the kernel is asked whether the client of an HTTP/1 request under way, or a side of a relay that is not read, has reset its
/// connection.
pub(crate) const ABANDONED_LOOK: Duration = Duration::from_secs(1);

/// What is left of a relay whose sides have both ended in order is given up when it stands still for so long: a kernel gives a connection that its
/// program has closed, and whose peer takes nothing, about as long (`tcp_orphan_retries`).
pub(crate) const RELAY_LINGER: Duration = Duration::from_secs(300);

/// How long an HTTP/2 server has to say that it takes extended CONNECT, which it says first of all or never (RFC 8441 §3).
pub(crate) const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// PING to clients of an HTTP/2 listener, so that one that vanished does not hold its streams.
pub(crate) const SERVER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`SERVER_KEEP_ALIVE_INTERVAL`].
pub(crate) const SERVER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Path templates or gRPC methods learned per target and worker; the rest is `other`.
pub(crate) const TEMPLATES_MAX: usize = 100;

/// Templates, methods and series that were idle for so long give way to new ones when there is no room: two scrapes a minute
/// have seen their last state twenty times.
pub(crate) const SIGNALS_IDLE: Duration = Duration::from_secs(600);

/// How often room is looked for among them, which walks through all.
pub(crate) const SIGNALS_SWEEP: Duration = Duration::from_secs(10);

/// Counters found without asking the registry, per target and worker.
pub(crate) const SERIES_PER_TARGET_MAX: usize = 512;

/// After an anchor was taken out of the trust bundle, connections are judged again within this time: a check of a chain costs
/// 100 µs, and a worker may have thousands.
pub(crate) const TRUST_JITTER: Duration = Duration::from_secs(1);

/// Threads of the data path. More than this on one pod is an error in a setting.
pub(crate) const WORKERS_MAX: usize = 64;

/// Asks of discovery that wait for their answers; more are not answered, as no discovery has more under way.
pub(crate) const ASKED_MAX: usize = 4;
/// How long the control thread rests after it made an answer for discovery, as a multiple of what that took: a tenth of a core
/// at most is discovery's, however often it asks; …
pub(crate) const ANSWER_REST: u32 = 10;
/// … but so long at least, …
pub(crate) const ANSWER_REST_MIN: Duration = Duration::from_millis(100);
/// … and no longer, as a person waits.
pub(crate) const ANSWER_REST_MAX: Duration = Duration::from_secs(2);

/// Series: what one peer does at one route. 2048 of half a KiB are 1 MiB.
pub(crate) const SERIES_MAX: usize = 2048;
/// Routes, and peers, that have latencies and a history of their own: 10 KiB each where there is much to tell.
pub(crate) const TRACKS_MAX: usize = 256;

/// Records of requests that ended are kept in chunks of 32, of 16 KiB. A worker keeps so many of the last: 1024 records, …
pub(crate) const RECORD_CHUNKS_RECENT: usize = 32;
/// … and so many of failures, and of the slowest: 256 records each.
pub(crate) const RECORD_CHUNKS_KEPT: usize = 8;
/// … and of those that a span is made of, if tracing is on: 512 records, which are read 20 times a second.
pub(crate) const RECORD_CHUNKS_TRACED: usize = 16;
/// Failures that are kept a second, so that those of half a minute find room, …
pub(crate) const FAILURES_KEPT_A_SECOND: u32 = 8;
/// … and slow ones: of two minutes.
pub(crate) const SLOW_KEPT_A_SECOND: u32 = 2;
/// Records of a worker that wait for another request.
pub(crate) const SPARE_RECORDS_MAX: usize = 64;
/// Bytes of a filter of records, …
pub(crate) const FILTER_BYTES_MAX: usize = 1024;
/// … and how deep it is nested.
pub(crate) const FILTER_DEPTH_MAX: usize = 16;
/// Records that one answer of `/tap` has.
pub(crate) const TAP_MAX: usize = 2000;
/// Records a second that one reader of `/tap/live` gets.
pub(crate) const TAP_LIVE_MAX: usize = 500;
/// Readers of `/signals/live` and `/tap/live` at a time.
pub(crate) const LIVE_READERS_MAX: usize = 8;
/// Bytes of a request's path in its record, …
pub(crate) const RECORD_PATH_BYTES: usize = 160;
/// … and of a field's value: a record's head has 376 in all.
pub(crate) const RECORD_VALUE_BYTES: usize = 96;
/// Records that the access log takes at once, 20 times a second: more than a worker's ring holds.
pub(crate) const ACCESS_LOG_RECORDS: usize = 4096;
/// How long the process waits at its end for the access log to be written.
pub(crate) const ACCESS_LOG_LAST: Duration = Duration::from_secs(1);
/// Batches of lines that wait for the writer of the access log: one each 50 ms.
pub(crate) const ACCESS_LOG_BATCHES: usize = 16;
/// How often spans are read from the workers' records.
pub(crate) const TRACE_STEP: Duration = Duration::from_millis(50);
/// How long a span waits for others, so that one message has many, …
pub(crate) const TRACE_DELAY: Duration = Duration::from_secs(1);
/// … and how many go into one, …
pub(crate) const TRACE_BATCH_MAX: usize = 512;
/// … and bytes of them. A collector takes 4 MiB.
pub(crate) const TRACE_BATCH_BYTES: usize = 512 << 10;
/// Bytes of spans that wait while the collector takes none: some 1500 spans, beside the batch that is sent.
pub(crate) const TRACE_PENDING_BYTES: usize = 2 << 20;
/// How long one export may take, discovery and connection included.
pub(crate) const TRACE_EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Times that a batch is sent before it is given up for those that came later.
pub(crate) const TRACE_TRIES_MAX: u32 = 3;
/// Pause after an export that failed, doubled from one to the next, …
pub(crate) const TRACE_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// … up to this.
pub(crate) const TRACE_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Bytes of a collector's answer: a count, and a sentence why.
pub(crate) const TRACE_ANSWER_BYTES_MAX: usize = 16 << 10;
/// How long the process waits at its end for spans to be exported.
pub(crate) const TRACE_LAST: Duration = Duration::from_secs(1);
/// Failures that `/errors` shows.
pub(crate) const ERRORS_SHOWN: usize = 100;

/// Waits before a second and later retry: doubled from the one to the other.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// See [`BACKOFF_MIN`].
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// How long a stream to discovery may take to open: connection, handshake, and the first word of a discovery that has just
/// started.
pub(crate) const DISCOVERY_OPENS: Duration = Duration::from_secs(10);
/// The same at first while a connection waits for an answer: a replica that vanished takes no connection, and another one is
/// reached in time. Doubled with each failure.
pub(crate) const DISCOVERY_OPENS_WANTED: Duration = Duration::from_secs(2);

/// PING to discovery when it is silent: one that vanished is noticed, and another reached, before waiting connections are refused. Silence
/// itself is no sign: a discovery that is slow answers PINGs, and to be connected to anew would not make it faster.
pub(crate) const DISCOVERY_KEEP_ALIVE: remora_runtime::grpc::KeepAlive =
    remora_runtime::grpc::KeepAlive { interval: Duration::from_secs(2), timeout: Duration::from_millis(1500) };

/// Lines that one audit rule, or one rule in dry run, writes at once, …
pub(crate) const AUDIT_LINES_AT_ONCE: u32 = 32;
/// … and how often one more: of 600 bytes each, 6 KB/s, whatever clients send.
pub(crate) const AUDIT_LINE_EVERY: Duration = Duration::from_millis(100);
/// Audit rules that are counted by name in the life of a process, and rules in dry run; further ones are `other`.
pub(crate) const AUDIT_RULES_COUNTED: usize = 256;
/// Bytes of a request's path in a line of the log: paths may have 64 KiB.
pub(crate) const PATH_BYTES_LOGGED: usize = 256;
