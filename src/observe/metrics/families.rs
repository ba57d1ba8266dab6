//! The families of metrics: what each is called, is and means.

/// One line of the table in [`super`].
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) meaning: &'static str,
}

/// What a family counts.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! families {
    ($($constant:ident $kind:ident $name:literal $meaning:literal;)*) => {
        $(pub(super) const $constant: Family = Family { name: $name, kind: Kind::$kind, meaning: $meaning };)*
        pub(super) const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    ACCEPTED Counter "pointsman_listener_accepted_total" "Connections accepted.";
    LISTENER_ACTIVE Gauge "pointsman_listener_active_sessions" "Sessions that have not ended.";
    OUTCOMES Counter "pointsman_listener_outcomes_total" "Connections that have ended, by how.";
    OPENING Histogram "pointsman_listener_opening_seconds" "From accept until the route was known.";
    ROUTE_SESSIONS Counter "pointsman_route_sessions_total" "Sessions that took this route.";
    HANDSHAKE Histogram "pointsman_route_handshake_seconds"
        "How long handshakes took, with or without success, where TLS ends here.";
    HANDSHAKES Counter "pointsman_route_handshakes_total" "Handshakes that succeeded, by what was agreed on.";
    HANDSHAKE_FAILURES Counter "pointsman_route_handshake_failures_total" "Handshakes that failed, by why.";
    ROUTE_TLS_PROBLEMS Gauge "pointsman_route_tls_problems"
        "Files of TLS that cannot be used now; what was there before stays in use.";
    POOL_TLS_PROBLEMS Gauge "pointsman_pool_tls_problems"
        "Pools' or probes' files of TLS that cannot be used now; what was there before stays in use.";
    CRL_EXPIRY Gauge "pointsman_crl_expiry_timestamp_seconds"
        "When the first list of revoked certificates in this file ends, in Unix time; NaN: never.";
    CONNECT Histogram "pointsman_pool_connect_seconds"
        "From the first attempt to connect to the established connection.";
    POOL_HANDSHAKE Histogram "pointsman_pool_handshake_seconds"
        "How long handshakes with endpoints took, with or without success, where TLS begins here.";
    POOL_HANDSHAKES Counter "pointsman_pool_handshakes_total"
        "Handshakes with endpoints that succeeded, by what was agreed on.";
    POOL_HANDSHAKE_FAILURES Counter "pointsman_pool_handshake_failures_total"
        "Handshakes with endpoints that failed, by why.";
    DISCOVERY_FAILURES Counter "pointsman_pool_discovery_failures_total"
        "Look-ups of names of endpoints, and readings of files of them, that failed.";
    HELD Gauge "pointsman_pool_held_sessions" "Clients that wait because no endpoint can be chosen.";
    QUEUED Gauge "pointsman_pool_queued_sessions"
        "Clients that wait because every endpoint that can be chosen is full.";
    WAIT Histogram "pointsman_pool_wait_seconds" "How long clients waited for an endpoint; only those that did.";
    PANIC Gauge "pointsman_pool_panic" "1 while too few endpoints are fit and it is as if all were, else 0.";
    WRITERS Gauge "pointsman_pool_writers"
        "Endpoints that say that they are the primary; only of pools for the primary.";
    PICKS Counter "pointsman_endpoint_picks_total" "Times that it was chosen.";
    USABLE Gauge "pointsman_endpoint_usable" "1: it may be chosen, 0: it is down, left out or out of service.";
    WEIGHT Gauge "pointsman_endpoint_weight"
        "Its weight now: as configured or set, and as far as it has grown to it.";
    ENDPOINT_SESSIONS Counter "pointsman_endpoint_sessions_total" "Sessions that were connected to this endpoint.";
    ENDPOINT_ACTIVE Gauge "pointsman_endpoint_active_sessions" "Sessions that hold a lease on this endpoint.";
    CONNECT_FAILURES Counter "pointsman_endpoint_connect_failures_total" "Attempts that did not reach it, or that it ended without an answer.";
    ENDPOINT_UP Gauge "pointsman_endpoint_up"
        "1: probes and its agent find it well, 0: they do not, or have not yet. Only where there are any.";
    TRANSITIONS Counter "pointsman_endpoint_transitions_total" "Changes of what probes find: to up, to down.";
    LAST_TRANSITION Gauge "pointsman_endpoint_last_transition_timestamp_seconds"
        "When that last changed, in Unix time; 0: never.";
    PROBE Gauge "pointsman_endpoint_probe_seconds" "How long the last probe took.";
    BLIND Gauge "pointsman_endpoint_probe_blind" "1: the last probe could not find out more, what was known holds.";
    EJECTED Gauge "pointsman_endpoint_ejected" "1: left out for a while because sessions failed, else 0.";
    EJECTIONS Counter "pointsman_endpoint_ejections_total" "Times that it was left out because sessions failed.";
    BYTES Counter "pointsman_endpoint_bytes_total" "Bytes delivered: up to the endpoint, down to its clients.";
    CERTIFICATE_EXPIRY Gauge "pointsman_certificate_expiry_timestamp_seconds"
        "When the certificate in this file ends, in Unix time; 0: it is still to be obtained, NaN: it is gone.";
    ACME_ORDERS Counter "pointsman_acme_orders_total" "Attempts to obtain a certificate: issued, failed.";
    ACME_NEXT Gauge "pointsman_acme_next_renewal_timestamp_seconds"
        "When a certificate for the name is to be ordered next, in Unix time.";
    WORKER_ACTIVE Gauge "pointsman_worker_active_sessions" "Sessions in the worker's table.";
    WORKER_PIPES Gauge "pointsman_worker_pipes" "Pipes that the worker has open, in use and idle.";
    HANDED_OVER Counter "pointsman_worker_handed_over_total"
        "Connections accepted by this worker and given to another.";
    ACCEPT_ERRORS Counter "pointsman_worker_accept_errors_total" "Calls of accept that failed.";
    ACCESS_LOG_DROPPED Counter "pointsman_access_log_dropped_total"
        "Access log lines lost: the queue was full or they could not be written.";
    OPENING_MEMORY Gauge "pointsman_opening_memory_bytes" "Bytes of openings that no endpoint has answered yet.";
    DRAINING Gauge "pointsman_draining" "1 once the process was asked to stop, else 0.";
    BUILD_INFO Gauge "pointsman_build_info" "1.";
}
