//! What a client is told that is not served, in the words of what it speaks.

use crate::config::model::Protocol;
use crate::observe::outcome::Outcome;
use crate::wire::mysql_refusal;
use crate::wire::postgres::{self, SqlState};

/// How a client can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Not at all.
    Silent,
    /// By an alert of TLS.
    Alert,
    /// By an ErrorResponse.
    Postgres,
    /// By an ERR packet.
    Mysql,
}

impl Manner {
    /// How a client of this protocol is told before it has said anything.
    pub(crate) fn of(protocol: Protocol) -> Manner {
        match protocol {
            Protocol::Tls => Manner::Alert,
            Protocol::Tcp => Manner::Silent,
            Protocol::Postgres => Manner::Postgres,
            Protocol::Mysql => Manner::Mysql,
        }
    }

    /// How a client of this protocol is told whose TLS ends here.
    pub(crate) fn within_tls(protocol: Protocol) -> Manner {
        if protocol == Protocol::Postgres { Manner::Postgres } else { Manner::Silent }
    }

    /// What it is told of this outcome; nothing where there are no words for it.
    pub(crate) fn words(self, outcome: Outcome) -> Vec<u8> {
        let words = match self {
            Manner::Silent => None,
            Manner::Alert => outcome.alert().map(|alert| alert.record().to_vec()),
            Manner::Postgres => of_postgres(outcome).map(|(state, sentence)| postgres::fatal(state, sentence)),
            Manner::Mysql => of_mysql(outcome).map(|(code, sentence)| mysql_refusal::refusal(code, sentence)),
        };
        words.unwrap_or_default()
    }
}

const NO_SERVER: &str = "no server can be reached at the moment";
const TOO_MANY: &str = "too many connections";
const ENDED: &str = "the connection was ended by an administrator";

fn of_postgres(outcome: Outcome) -> Option<(SqlState, &'static str)> {
    Some(match outcome {
        Outcome::NoRoute => (SqlState::REJECTED, "nothing is served here without a name that is known"),
        Outcome::Denied => (SqlState::NOT_AUTHORIZED, "connections from this address are not accepted here"),
        Outcome::CleartextDenied => {
            (SqlState::NOT_AUTHORIZED, "connections without TLS are not accepted here (sslmode=require begins TLS)")
        }
        Outcome::HelloMalformed | Outcome::HelloTooLarge => {
            (SqlState::PROTOCOL_VIOLATION, "the first messages of the connection break the rules of the protocol")
        }
        Outcome::OpeningMemory => (SqlState::OUT_OF_MEMORY, "there is no memory for the connection"),
        Outcome::Full | Outcome::QueueFull | Outcome::QueueTimeout => (SqlState::TOO_MANY, TOO_MANY),
        Outcome::NoEndpoint
        | Outcome::ConnectFailed
        | Outcome::ConnectTimeout
        | Outcome::EndpointTlsFailed
        | Outcome::EndpointSilent => (SqlState::CANNOT_CONNECT_NOW, NO_SERVER),
        Outcome::Killed | Outcome::Shutdown => (SqlState::SHUTDOWN, ENDED),
        Outcome::Internal => (SqlState::INTERNAL, "the connection cannot be served"),
        _ => return None,
    })
}

/// Numbers are those of the MySQL manual, "Server Error Message Reference": clients take no others from a server.
fn of_mysql(outcome: Outcome) -> Option<(u16, &'static str)> {
    Some(match outcome {
        // ER_HOST_NOT_PRIVILEGED
        Outcome::NoRoute | Outcome::Denied => (1130, "connections from this address are not accepted here"),
        // ER_CON_COUNT_ERROR
        Outcome::Full | Outcome::QueueFull | Outcome::QueueTimeout => (1040, TOO_MANY),
        // ER_SERVER_ISNT_AVAILABLE
        Outcome::NoEndpoint | Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::EndpointSilent => {
            (3168, NO_SERVER)
        }
        // ER_SERVER_SHUTDOWN
        Outcome::Killed | Outcome::Shutdown => (1053, ENDED),
        // ER_UNKNOWN_ERROR
        Outcome::Internal => (1105, "the connection cannot be served"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_protocol() {
        for (protocol, outcome, words) in [
            (Protocol::Tls, Outcome::NoRoute, &b"\x15\x03\x03\0\x02\x02\x70"[..]),
            (Protocol::Tls, Outcome::NotTls, b""),
            (Protocol::Tcp, Outcome::NoEndpoint, b""),
            (Protocol::Postgres, Outcome::Full, b"E\0\0\0\x30SFATAL\0VFATAL\0C53300\0Mtoo many connections\0\0"),
            (Protocol::Postgres, Outcome::NotPostgres, b""),
            (Protocol::Mysql, Outcome::Full, b"\x17\0\0\0\xff\x10\x04too many connections"),
            (Protocol::Mysql, Outcome::ClientGone, b""),
        ] {
            let said = Manner::of(protocol).words(outcome);
            assert_eq!(said, words, "{protocol:?}, {outcome:?}: {:?}", String::from_utf8_lossy(&said));
        }
    }

    /// Whoever has to be told by an alert has to be told in other words too.
    #[test]
    fn no_refusal_is_left_without_words() {
        for outcome in Outcome::ALL {
            let alert = outcome.alert().is_some();
            let is_of_acme = outcome == Outcome::NoCertificate;
            assert!(!alert || is_of_acme || of_postgres(outcome).is_some(), "{outcome:?}");
        }
    }
}
