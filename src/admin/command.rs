//! What can be asked over the admin socket: one JSON object a line, answered by one JSON object a line.
//!
//! A request has the key `command` and those of the command. An answer has either `error`, a text, or what was asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The longest request, in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;
/// Sessions that are listed unless more are asked for.
pub(crate) const LISTED: usize = 1000;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Command {
    /// Tells of listeners, pools and endpoints.
    Status {
        /// Only of this pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
    },
    /// Lists sessions.
    Sessions {
        /// Which ones.
        #[serde(default)]
        only: Filter,
        /// The most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Lists the sessions that an endpoint sees come from there.
    Who {
        /// Left out: any address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        port: u16,
    },
    /// No new sessions for an endpoint.
    Drain(Place),
    /// Takes an endpoint out of service.
    Maint(Place),
    /// Lets an endpoint serve again.
    Ready(Place),
    /// Sets the weight of an endpoint.
    Weight {
        /// Name of the pool.
        pool: String,
        /// Name of the endpoint.
        endpoint: String,
        /// 0 to 256; left out: the configured one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
    },
    /// Ends sessions.
    Kill {
        /// Which ones; not all of them.
        only: Filter,
    },
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// Name of the pool.
    pub(crate) pool: String,
    /// Name of the endpoint.
    pub(crate) endpoint: String,
}

/// Which sessions: those that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// The session's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
    /// Name of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<String>,
    /// Name of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    /// Name of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// Name of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    /// The network that the client is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<IpNet>,
}

impl Filter {
    /// Whether it picks every session.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// What is told of the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) state: String,
    pub(crate) workers: usize,
    pub(crate) sessions: usize,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) pools: Vec<PoolStatus>,
}

/// What is told of a listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) sessions: usize,
    /// It refuses connections because its pool has no endpoint.
    pub(crate) refuses: bool,
}

/// What is told of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    /// Priority of the endpoints that serve; `None`: nobody does.
    pub(crate) serving: Option<String>,
    /// It is as if all endpoints were fit.
    pub(crate) panic: bool,
    /// Endpoints that all say that they are the primary where only one may (`single_writer`): there are no new sessions.
    pub(crate) rivals: Vec<String>,
    /// Clients that wait for an endpoint, and for a place at one.
    pub(crate) held: usize,
    pub(crate) queued: usize,
    pub(crate) endpoints: Vec<EndpointStatus>,
}

/// What is told of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    pub(crate) name: String,
    pub(crate) address: String,
    /// `up`, `down`, `refused`, `unknown`, `ejected`, `full`, `drain`, `maint`, `removed`, or `absent`: only its
    /// name is known, because operators have said something of it.
    pub(crate) state: String,
    /// What operators said: `ready`, `drain` or `maint`.
    pub(crate) mode: String,
    /// A number, `backup`, or `fallback`: a primary that serves only while no replica can.
    pub(crate) priority: String,
    pub(crate) weight: u16,
    /// What the weight comes to now, where it is growing.
    pub(crate) share: f64,
    pub(crate) sessions: u32,
    pub(crate) max_connections: Option<u32>,
    /// What probes and agents found; only where there are any.
    pub(crate) health: Option<HealthStatus>,
}

/// What was found out about an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HealthStatus {
    /// Seconds since it came up or went down.
    pub(crate) since: u64,
    /// What the last probe has found, in words.
    pub(crate) last: Option<String>,
    /// Seconds since then.
    pub(crate) last_ago: Option<u64>,
    /// How long that probe took, in seconds.
    pub(crate) took: f64,
    /// `primary` or `replica`, if the endpoint has told the last probe.
    pub(crate) role: Option<String>,
    /// What the agent has said last.
    pub(crate) agent: Option<String>,
}

/// What is told of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    pub(crate) id: u64,
    pub(crate) listener: String,
    pub(crate) client: Option<String>,
    /// Who has spoken for the client in a PROXY header; only where one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// Where the endpoint sees it come from; only in answers to [`Command::Who`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// A connection to the endpoint stands.
    pub(crate) connected: bool,
    /// Seconds since it was accepted.
    pub(crate) age: u64,
    /// Seconds without a byte.
    pub(crate) idle: u32,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

/// An answer to [`Command::Sessions`] and [`Command::Who`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sessions {
    pub(crate) sessions: Vec<SessionStatus>,
    /// All that fit, listed or not.
    pub(crate) total: usize,
}

/// An answer to [`Command::Kill`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Killed {
    /// Sessions that were told to end.
    pub(crate) killed: usize,
}

/// An answer to commands that change an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// What it is now.
    pub(crate) endpoint: EndpointStatus,
}

/// An answer to what cannot be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_they_are_written() {
        let place = || Place { pool: "pg".into(), endpoint: "b".into() };
        let of_b = Filter { pool: Some("pg".into()), client: "10.0.0.0/8".parse().ok(), ..Filter::default() };
        for (written, command) in [
            (r#"{"command":"status"}"#, Command::Status { pool: None }),
            (r#"{"command":"drain","pool":"pg","endpoint":"b"}"#, Command::Drain(place())),
            (r#"{"command":"maint","pool":"pg","endpoint":"b"}"#, Command::Maint(place())),
            (r#"{"command":"ready","pool":"pg","endpoint":"b"}"#, Command::Ready(place())),
            (
                r#"{"command":"weight","pool":"pg","endpoint":"b","weight":3}"#,
                Command::Weight { pool: "pg".into(), endpoint: "b".into(), weight: Some(3) },
            ),
            (r#"{"command":"kill","only":{"pool":"pg","client":"10.0.0.0/8"}}"#, Command::Kill { only: of_b }),
            (r#"{"command":"who","port":4711}"#, Command::Who { address: None, port: 4711 }),
            (
                r#"{"command":"who","address":"fd00::1","port":4711}"#,
                Command::Who { address: "fd00::1".parse().ok(), port: 4711 },
            ),
            (r#"{"command":"sessions","only":{}}"#, Command::Sessions { only: Filter::default(), limit: None }),
        ] {
            assert_eq!(serde_json::from_str::<Command>(written).expect(written), command);
            assert_eq!(serde_json::to_string(&command).unwrap(), written);
        }
        for wrong in ["", "{}", r#"{"command":"stop"}"#, r#"{"command":"kill"}"#, r#"{"command":"drain","pool":"pg"}"#]
        {
            assert!(serde_json::from_str::<Command>(wrong).is_err(), "{wrong}");
        }
        for unknown in [r#"{"command":"kill","only":{"pol":"pg"}}"#, r#"{"command":"status","pol":"pg"}"#] {
            assert!(serde_json::from_str::<Command>(unknown).is_err(), "{unknown}");
        }
    }
}
