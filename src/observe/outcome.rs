//! How a connection ended: one word, the same in the access log, the metrics and the documentation.

use crate::wire::alert::Alert;

/// The one way in which a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Both sides finished.
    Ok,
    /// The client reset the connection.
    ClientReset,
    /// The endpoint reset the connection.
    EndpointReset,
    /// The endpoint closed or reset before it answered the opening with a byte, and no other could be tried.
    EndpointSilent,
    /// The client left before its opening was complete, or while it waited for an endpoint.
    ClientGone,
    /// A client of `proxy_from` began with something else than a PROXY header.
    ProxyHeaderMissing,
    /// The PROXY header breaks the rules of the protocol, or is larger than allowed.
    ProxyHeaderMalformed,
    /// The opening, or the PROXY header in front of it, was not complete within `timeouts.open`.
    HelloTimeout,
    /// The opening is larger than allowed.
    HelloTooLarge,
    /// The opening starts like TLS but breaks its rules.
    HelloMalformed,
    /// The opening is not TLS.
    NotTls,
    /// The opening is not PostgreSQL.
    NotPostgres,
    /// The client and we could not agree on a handshake.
    HandshakeFailed,
    /// The handshake was not over in time.
    HandshakeTimeout,
    /// An authority was shown that a name is ours.
    AcmeChallenge,
    /// The certificate for the name is still to be obtained.
    NoCertificate,
    /// A side broke the rules of TLS after the handshake.
    TlsBroken,
    /// A session has sealed as much as the keys of TLS 1.2 allow.
    KeysUsedUp,
    /// All openings together hold `runtime.opening_memory` bytes.
    OpeningMemory,
    /// No route has this name.
    NoRoute,
    /// Routes have this name, but they refuse the protocol or the source.
    Denied,
    /// A client of PostgreSQL came without TLS, which its route does not allow.
    CleartextDenied,
    /// The request to cancel a query was passed on to every endpoint that it may have been meant for.
    Cancel,
    /// Not every endpoint was told that the request to cancel a query may have been meant for, or there is none.
    CancelFailed,
    /// `runtime.max_connections` or `listener.max_connections` is reached, or descriptors ran out.
    Full,
    /// The pool has no endpoint that could be tried.
    NoEndpoint,
    /// No endpoint that was tried could be reached.
    ConnectFailed,
    /// No endpoint that was tried could be agreed with on a handshake.
    EndpointTlsFailed,
    /// No endpoint that was tried answered within `timeouts.connect`.
    ConnectTimeout,
    /// No endpoint became free within `queue`.
    QueueTimeout,
    /// As many clients wait for an endpoint as `max_waiting` allows, or none may.
    QueueFull,
    /// No byte for `timeouts.idle`.
    Idle,
    /// One side had finished, and no byte came from the other for `timeouts.half_close`.
    HalfClose,
    /// A peer no longer acknowledges what it is sent, or no longer answers keepalive probes.
    PeerDead,
    /// The endpoint went down or into maintenance (`on_down`).
    KilledDown,
    /// The endpoint answered a probe that it should not serve (`on_demotion`).
    KilledDemotion,
    /// The endpoint was drained, or is too far behind its primary (`on_drain`).
    KilledDrain,
    /// The endpoint is no longer among those of its pool (`on_removal`).
    KilledRemoval,
    /// Endpoints of a better priority serve again (`on_recovery`).
    KilledRecovery,
    /// An operator ended it.
    Killed,
    /// It was older than `max_age` and idle.
    MaxAge,
    /// The process was asked to stop, and the time to drain was over.
    Shutdown,
    /// The system refused something that only our side is to blame for.
    Internal,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client.
    Client,
    /// The endpoint.
    Endpoint,
    /// This process: a fault or a limit of ours.
    Us,
    /// The configuration: routes, limits, timeouts.
    Policy,
}

impl Outcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Outcome; 43] = [
        Outcome::Ok,
        Outcome::ClientReset,
        Outcome::EndpointReset,
        Outcome::EndpointSilent,
        Outcome::ClientGone,
        Outcome::ProxyHeaderMissing,
        Outcome::ProxyHeaderMalformed,
        Outcome::HelloTimeout,
        Outcome::HelloTooLarge,
        Outcome::HelloMalformed,
        Outcome::NotTls,
        Outcome::NotPostgres,
        Outcome::HandshakeFailed,
        Outcome::HandshakeTimeout,
        Outcome::AcmeChallenge,
        Outcome::NoCertificate,
        Outcome::TlsBroken,
        Outcome::KeysUsedUp,
        Outcome::OpeningMemory,
        Outcome::NoRoute,
        Outcome::Denied,
        Outcome::CleartextDenied,
        Outcome::Cancel,
        Outcome::CancelFailed,
        Outcome::Full,
        Outcome::NoEndpoint,
        Outcome::ConnectFailed,
        Outcome::EndpointTlsFailed,
        Outcome::ConnectTimeout,
        Outcome::QueueTimeout,
        Outcome::QueueFull,
        Outcome::Idle,
        Outcome::HalfClose,
        Outcome::PeerDead,
        Outcome::KilledDown,
        Outcome::KilledDemotion,
        Outcome::KilledDrain,
        Outcome::KilledRemoval,
        Outcome::KilledRecovery,
        Outcome::Killed,
        Outcome::MaxAge,
        Outcome::Shutdown,
        Outcome::Internal,
    ];

    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientReset => "client_reset",
            Outcome::EndpointReset => "endpoint_reset",
            Outcome::EndpointSilent => "endpoint_silent",
            Outcome::ClientGone => "client_gone",
            Outcome::ProxyHeaderMissing => "proxy_header_missing",
            Outcome::ProxyHeaderMalformed => "proxy_header_malformed",
            Outcome::HelloTimeout => "hello_timeout",
            Outcome::HelloTooLarge => "hello_too_large",
            Outcome::HelloMalformed => "hello_malformed",
            Outcome::NotTls => "not_tls",
            Outcome::NotPostgres => "not_postgres",
            Outcome::HandshakeFailed => "handshake_failed",
            Outcome::HandshakeTimeout => "handshake_timeout",
            Outcome::AcmeChallenge => "acme_challenge",
            Outcome::NoCertificate => "no_certificate",
            Outcome::TlsBroken => "tls_broken",
            Outcome::KeysUsedUp => "keys_used_up",
            Outcome::OpeningMemory => "opening_memory",
            Outcome::NoRoute => "no_route",
            Outcome::Denied => "denied",
            Outcome::CleartextDenied => "cleartext_denied",
            Outcome::Cancel => "cancel",
            Outcome::CancelFailed => "cancel_failed",
            Outcome::Full => "full",
            Outcome::NoEndpoint => "no_endpoint",
            Outcome::ConnectFailed => "connect_failed",
            Outcome::EndpointTlsFailed => "endpoint_tls_failed",
            Outcome::ConnectTimeout => "connect_timeout",
            Outcome::QueueTimeout => "queue_timeout",
            Outcome::QueueFull => "queue_full",
            Outcome::Idle => "idle",
            Outcome::HalfClose => "half_close",
            Outcome::PeerDead => "peer_dead",
            Outcome::KilledDown => "killed_down",
            Outcome::KilledDemotion => "killed_demotion",
            Outcome::KilledDrain => "killed_drain",
            Outcome::KilledRemoval => "killed_removal",
            Outcome::KilledRecovery => "killed_recovery",
            Outcome::Killed => "killed",
            Outcome::MaxAge => "max_age",
            Outcome::Shutdown => "shutdown",
            Outcome::Internal => "internal",
        }
    }

    /// The alert that tells a TLS client, where one may still be sent (nothing of the endpoint has reached it).
    pub const fn alert(self) -> Option<Alert> {
        match self {
            Outcome::NoRoute => Some(Alert::UnrecognizedName),
            Outcome::Denied => Some(Alert::AccessDenied),
            Outcome::HelloMalformed | Outcome::HelloTooLarge => Some(Alert::DecodeError),
            Outcome::EndpointSilent
            | Outcome::OpeningMemory
            | Outcome::NoCertificate
            | Outcome::NoEndpoint
            | Outcome::QueueTimeout
            | Outcome::QueueFull
            | Outcome::ConnectFailed
            | Outcome::EndpointTlsFailed
            | Outcome::ConnectTimeout
            | Outcome::Shutdown
            | Outcome::Internal => Some(Alert::InternalError),
            _ => None,
        }
    }
}

impl Side {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Endpoint => "endpoint",
            Side::Us => "pointsman",
            Side::Policy => "policy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_to_one() {
        let words: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.word()).collect();
        assert_eq!(words.len(), Outcome::ALL.len());
        assert_eq!(Outcome::ALL[Outcome::Internal as usize], Outcome::Internal, "ALL is in declaration order");
    }
}
