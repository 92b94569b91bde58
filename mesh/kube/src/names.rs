//! Names that several parts must agree on. Once released they are API: manifests and dashboards outlive releases.

/// The namespace of the control plane, unless it was installed elsewhere.
pub const NAMESPACE: &str = "remora";

/// Opt-in, on a namespace or a pod, as an annotation or a label of this name: [`ENABLED`] or [`DISABLED`]. The pod's
/// word wins over its namespace's, an annotation over a label.
pub const INJECT: &str = "remora.dev/inject";
/// Put a sidecar into the pods.
pub const ENABLED: &str = "enabled";
/// Do not, whatever the namespace says.
pub const DISABLED: &str = "disabled";
/// Label of a pod that has its sidecar, value `true`.
pub const INJECTED: &str = "remora.dev/injected";
/// Label on objects of the control plane: which part they belong to.
pub const PART: &str = "remora.dev/part";
/// Label on objects that parts of the control plane make themselves; its value is the part. Uninstall removes them by it.
pub const MADE_BY: &str = "remora.dev/made-by";
/// The value of [`MADE_BY`] on the namespace that `remora install` made.
pub const INSTALL: &str = "remora-install";
/// The field manager prefix of server-side apply; the part's name follows.
pub const MANAGER: &str = "remora-";

/// The identity service: Deployment, Service, ServiceAccount.
pub const IDENTITY: &str = "remora-identity";
/// The discovery service: Deployment, Service, ServiceAccount, Lease.
pub const DISCOVERY: &str = "remora-discovery";
/// The injector: Deployment, Service, ServiceAccount, Lease, webhook configuration, admission policy.
pub const INJECTOR: &str = "remora-injector";

/// The Secret with the issuer: `tls.crt`, `tls.key`, `ca.crt` (cert-manager's shape).
pub const ISSUER_SECRET: &str = "remora-issuer";
/// The Secret beside it that the replicas of the identity service agree by: which issuer signs, and which anchors still count.
pub const ISSUER_STATE_SECRET: &str = "remora-issuer-state";
/// Annotation `true` on the issuer's Secret: anchors may go although certificates still chain to them.
pub const FORCE_REMOVE: &str = "remora.dev/force-remove";
/// The Secret with the webhook's own CA and serving certificate.
pub const INJECTOR_SECRET: &str = "remora-injector-tls";
/// The ConfigMap with the trust anchors (`ca.crt`) in every meshed namespace.
pub const TRUST_ANCHORS: &str = "remora-trust-anchors";
/// Its key, and the issuer Secret's.
pub const CA_CRT: &str = "ca.crt";

/// The sidecar's container.
pub const PROXY_CONTAINER: &str = "remora-proxy";
/// The container that programs the redirect rules.
pub const INIT_CONTAINER: &str = "remora-init";
/// The projected volume with `token` and `ca.crt`.
pub const PROXY_VOLUME: &str = "remora-identity";
/// Where it is mounted.
pub const PROXY_MOUNT: &str = "/var/run/remora.dev";
/// The audience of the projected token.
pub const AUDIENCE: &str = "identity.remora.dev";
/// The proxy's user; its own connections are never redirected.
pub const PROXY_UID: u32 = 2102;
/// The proxy's listener for what leaves the pod.
pub const OUTBOUND_PORT: u16 = 4140;
/// The proxy's listener for what comes in.
pub const INBOUND_PORT: u16 = 4143;
/// The proxy's admin server.
pub const ADMIN_PORT: u16 = 4191;

/// Annotation of an injected pod: the kubelet's probes and hooks as they were, which the proxy carries out now.
pub const PROBES: &str = "remora.dev/probes";
/// Annotation of a pod or Service: ports without protocol detection (opaque bytes).
pub const OPAQUE_PORTS: &str = "remora.dev/opaque-ports";
/// Annotation of a pod or namespace: the log filter of the proxy, also while it runs.
pub const LOG_LEVEL: &str = "remora.dev/log-level";
/// Annotation of a pod or namespace: what the proxy does with unknown destinations, also while it runs.
pub const UNKNOWN: &str = "remora.dev/unknown";
/// Annotation of a pod or namespace: how long open requests may take when the pod shuts down, also while it runs.
pub const DRAIN_GRACE: &str = "remora.dev/drain-grace";
/// Annotation of a pod or namespace: what the proxy writes to its access log, also while it runs.
pub const ACCESS_LOG: &str = "remora.dev/access-log";
/// Annotation of a pod or namespace: who may call a port that no Allow policy selects.
pub const DEFAULT_INBOUND: &str = "remora.dev/default-inbound-policy";
/// Annotation of a pod or namespace: whether the proxy makes spans of requests, and who collects them, also while it runs.
pub const TRACING: &str = "remora.dev/tracing";
/// Annotation of a pod whose traffic nothing redirects: where its proxy takes connections.
pub const PROXY_ADDRESS: &str = "remora.dev/proxy-address";
/// Annotation of a route whose requests may be sent twice whatever their method.
pub const RETRY_ANY_METHOD: &str = "remora.dev/retry-any-method";

/// Annotations of a GRPCRoute, each named after the field that an HTTPRoute's rule has for it.
pub const RETRY_CODES: &str = "remora.dev/retry-codes";
/// See [`RETRY_CODES`].
pub const RETRY_ATTEMPTS: &str = "remora.dev/retry-attempts";
/// See [`RETRY_CODES`].
pub const RETRY_BACKOFF: &str = "remora.dev/retry-backoff";
/// See [`RETRY_CODES`].
pub const TIMEOUTS_REQUEST: &str = "remora.dev/timeouts-request";
/// See [`RETRY_CODES`].
pub const TIMEOUTS_BACKEND_REQUEST: &str = "remora.dev/timeouts-backend-request";

/// The proxy's admin port.
pub const PROXY_ADMIN_PORT: u16 = 4191;
/// The identity service's.
pub const IDENTITY_ADMIN_PORT: u16 = 4192;
/// The discovery service's.
pub const DISCOVERY_ADMIN_PORT: u16 = 4193;
/// The injector's.
pub const INJECTOR_ADMIN_PORT: u16 = 4194;
