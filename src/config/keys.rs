//! Every key there is. A key that is not here is an error wherever it is written, so that nothing is read and ignored.

/// The top level.
pub(super) const TOP: &[&str] =
    &["include", "runtime", "log", "admin", "dns", "tls", "acme", "timeouts", "listener", "route", "pool"];
/// `[runtime]`
pub(super) const RUNTIME: &[&str] = &["workers", "max_connections", "opening_memory"];
/// `[log]`
pub(super) const LOG: &[&str] = &["level", "access", "format"];
/// `[admin]`
pub(super) const ADMIN: &[&str] = &["socket", "http"];
/// `[dns]`
pub(super) const DNS: &[&str] = &["servers", "timeout"];
/// `[tls]`
pub(super) const TLS: &[&str] = &["ticket_keys"];
/// `[acme.NAME]`
pub(super) const ACME: &[&str] =
    &["directory", "ca", "contact", "terms_agreed", "storage", "challenge", "http_bind", "key", "eab"];
/// `[acme.NAME.eab]`
pub(super) const ACME_EAB: &[&str] = &["key_id", "hmac_file"];
/// `[timeouts]`
pub(super) const TIMEOUTS: &[&str] = &["open", "connect", "idle", "half_close", "drain"];
/// `[listener.NAME]`
pub(super) const LISTENER: &[&str] =
    &["bind", "protocol", "max_connections", "backlog", "defer_accept", "proxy_from", "timeouts"];
/// `[listener.NAME.timeouts]`
pub(super) const LISTENER_TIMEOUTS: &[&str] = &["open"];
/// `[route.NAME]`
pub(super) const ROUTE: &[&str] =
    &["listener", "sni", "alpn", "from", "allow_cleartext", "pool", "role", "fallback", "acme", "tls"];
/// `[route.NAME.tls]`
pub(super) const ROUTE_TLS: &[&str] = &["certificates", "default", "alpn", "min_version", "handshake", "client"];
/// `[route.NAME.tls.client]`
pub(super) const ROUTE_TLS_CLIENT: &[&str] = &["verify", "ca", "crl", "crl_check", "expired_crl"];
/// `[pool.NAME]`
pub(super) const POOL: &[&str] = &[
    "balance",
    "hash_key",
    "hash_prefix_ipv4",
    "hash_prefix_ipv6",
    "hash_balance_factor",
    "endpoints",
    "endpoints_file",
    "source",
    "transparent",
    "send_proxy",
    "send_proxy_tlvs",
    "refresh",
    "timeouts",
    "tls",
    "health",
    "outliers",
    "failback",
    "slow_start",
    "panic_percent",
    "single_writer",
    "no_endpoint",
    "hold",
    "max_connections_per_endpoint",
    "queue",
    "max_waiting",
    "sessions",
];
/// `[pool.NAME.tls]`
pub(super) const POOL_TLS: &[&str] =
    &["name", "alpn", "verify", "ca", "pins", "certificate", "key", "negotiation", "handshake"];
/// `[pool.NAME.sessions]`
pub(super) const SESSIONS: &[&str] = &[
    "on_down",
    "on_demotion",
    "on_drain",
    "on_removal",
    "on_recovery",
    "idle",
    "deadline",
    "max_age",
    "max_age_jitter",
    "max_age_per_minute",
];
/// `[pool.NAME.outliers]`
pub(super) const OUTLIERS: &[&str] = &["failures", "ejection", "longest", "most_percent"];
/// `[pool.NAME.health]`
pub(super) const HEALTH: &[&str] = &[
    "probe",
    "interval",
    "fast_interval",
    "jitter",
    "timeout",
    "rise",
    "fall",
    "address",
    "port",
    "source",
    "role",
    "max_lag",
    "user",
    "password_file",
    "database",
    "query",
    "value",
    "info",
    "master_name",
    "sentinels",
    "sentinel_user",
    "sentinel_password_file",
    "galera",
    "server_key_file",
    "tls",
    "http",
    "script",
    "agent",
];
/// `[pool.NAME.health.tls]`
pub(super) const HEALTH_TLS: &[&str] =
    &["negotiation", "name", "alpn", "verify", "ca", "pins", "certificate", "key", "warn_expiry"];
/// `[pool.NAME.health.http]`
pub(super) const HEALTH_HTTP: &[&str] = &["method", "path", "host", "headers", "status", "body"];
/// `[[pool.NAME.health.script]]`
pub(super) const HEALTH_STEP: &[&str] = &["send", "send_hex", "expect", "expect_hex"];
/// `[pool.NAME.health.agent]`
pub(super) const HEALTH_AGENT: &[&str] = &["port", "interval", "send"];
/// `[pool.NAME.timeouts]`
pub(super) const POOL_TIMEOUTS: &[&str] = &["connect", "idle", "half_close", "drain"];
/// An endpoint that is written as a table.
pub(super) const ENDPOINT: &[&str] = &["address", "srv", "name", "weight", "backup", "priority", "max_connections"];
/// The top level of a file of endpoints.
pub(super) const ENDPOINTS_FILE: &[&str] = &["endpoints"];
