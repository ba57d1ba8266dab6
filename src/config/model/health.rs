//! `[pool.NAME.health]`: how endpoints are probed, and what has to come of it.
//!
//! A [`Dialogue`] is what makes two probes the same: pools that have an equal one share their probes. What is made of the
//! answer (how many it takes, which HTTP status is good, which role, when a certificate is told of) is each pool's own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::{Negotiation, OutgoingTls, WatchedTls};

/// `[pool.NAME.health]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What endpoints are asked; `None`: only their agents are.
    pub dialogue: Option<Arc<Dialogue>>,
    /// What the answer has to be.
    pub expect: Expect,
    /// Whom to ask besides.
    pub agent: Option<Agent>,
    /// Where to probe, in place of the endpoint's own address; the agent is there too.
    pub address: Option<IpAddr>,
    /// The port to probe, in place of the endpoint's own.
    pub port: Option<u16>,
    /// Local addresses to probe from, in place of those of the pool; empty: the pool's.
    pub source: Vec<IpAddr>,
    /// From one probe to the next.
    pub interval: Duration,
    /// The same while the last answers speak against the standing; at most `interval`.
    pub fast_interval: Duration,
    /// By how much pauses differ, in percent of their length, 0 to [`MAX_JITTER`].
    pub jitter: u32,
    /// For one probe, and for asking an agent once.
    pub timeout: Duration,
    /// Passes in a row that bring an endpoint up, 1 to [`MOST_PROBES`].
    pub rise: u32,
    /// Probes without an answer in a row that take an endpoint down, 1 to [`MOST_PROBES`].
    pub fall: u32,
    /// How long before its end a certificate is warned of; `None`: never.
    pub warn_expiry: Option<Duration>,
}

impl Health {
    /// Whether certificates are verified by the names of endpoints, which therefore have to have some.
    pub(crate) fn verifies_names_of_endpoints(&self) -> bool {
        let tls = self.dialogue.as_ref().and_then(|dialogue| dialogue.tls.as_ref());
        tls.is_some_and(OutgoingTls::verifies_names_of_endpoints)
    }
}

/// The greatest `rise` and `fall`.
pub const MOST_PROBES: u32 = 100;
/// The greatest `jitter`.
pub const MAX_JITTER: u32 = 50;

/// What an answer has to be. Only what belongs to the probe counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// What one over HTTP has to be.
    pub http: HttpExpect,
    /// What the endpoint has to be; `None`: either.
    pub role: Option<Role>,
    /// The longest that a replica may be behind; `None`: any time.
    pub max_lag: Option<Duration>,
    /// What the query has to give; `None`: any row will do.
    pub value: Option<String>,
}

/// What a server of a database is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows another one.
    Replica,
}

impl Role {
    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

/// What is said to an endpoint, and under which cover.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dialogue {
    /// What it is asked.
    pub probe: Probe,
    /// The TLS that the probe runs in; `None`: in clear.
    pub tls: Option<OutgoingTls>,
    /// What is made of it, as its files may change.
    pub watched: Option<WatchedTls>,
    /// It is the TLS that sessions of the pool have, so that it asks for no more than they do.
    pub is_pools: bool,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// To take a connection and, with TLS, to complete the handshake.
    Tcp,
    /// To answer a request.
    Http(HttpProbe),
    /// To follow a script, which expects something at least once.
    Script(Vec<Step>),
    /// To take a login, in the protocol of PostgreSQL.
    Postgres(PostgresProbe),
    /// To say, as Patroni, what its PostgreSQL server is.
    Patroni(PatroniProbe),
    /// To say what it is, in the protocol of Redis.
    Redis(RedisProbe),
    /// To take a login, in the protocol of MySQL.
    Mysql(MysqlProbe),
}

impl Probe {
    /// Where the password is that it logs in with, if there is one.
    pub(crate) fn password(&self) -> Option<&SecretFile> {
        match self {
            Probe::Postgres(probe) => probe.login.as_ref()?.password.as_ref(),
            Probe::Redis(probe) => probe.password.as_ref(),
            Probe::Mysql(probe) => probe.login.password.as_ref(),
            Probe::Tcp | Probe::Http(_) | Probe::Script(_) | Probe::Patroni(_) => None,
        }
    }

    /// Those who are asked besides, if there are any.
    pub(crate) fn sentinels(&self) -> Option<&Sentinels> {
        match self {
            Probe::Redis(probe) => probe.sentinels.as_ref(),
            _ => None,
        }
    }

    /// The most connections that it takes at once.
    pub(crate) fn connections(&self) -> usize {
        1 + self.sentinels().map_or(0, |sentinels| sentinels.at.len())
    }
}

/// What a PostgreSQL server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PostgresProbe {
    /// Who logs in; `None`: nobody, and that the server would take a login is enough.
    pub login: Option<Login>,
    /// The database to log in to.
    pub database: String,
    /// How TLS begins, if the dialogue runs in it.
    pub negotiation: Negotiation,
    /// Whether a replica is asked how far it is behind.
    pub asks_lag: bool,
    /// What to ask besides.
    pub query: Option<String>,
}

/// What Patroni is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PatroniProbe {
    /// By how many bytes of its log a replica may be behind; `None`: by any number.
    pub max_lag: Option<u64>,
}

/// What a MySQL or MariaDB server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MysqlProbe {
    /// Who logs in.
    pub login: Login,
    /// The database to begin in; `None`: none.
    pub database: Option<String>,
    /// Whether a replica is asked how far it is behind.
    pub asks_lag: bool,
    /// What to ask besides.
    pub query: Option<String>,
    /// Whether it has to be a node of a Galera cluster that is ready.
    pub galera: bool,
    /// The file with the server's public RSA key, for a login without TLS in which it asks for the password itself.
    pub server_key: Option<PathBuf>,
}

/// Who logs in to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Where the password is; `None`: there is none.
    pub password: Option<SecretFile>,
}

/// What a Redis server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisProbe {
    /// Who logs in; `None`: the default user, if there is a password.
    pub user: Option<String>,
    /// Where the password is; `None`: nobody logs in.
    pub password: Option<SecretFile>,
    /// Whether a replica is asked how far it is behind.
    pub asks_lag: bool,
    /// Fields of INFO, and the values that they have to have.
    pub info: Vec<(String, String)>,
    /// Who has to agree that it is the master.
    pub sentinels: Option<Sentinels>,
}

/// Those who watch Redis servers and agree on a master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sentinels {
    /// What they call the master.
    pub master: String,
    /// Where all of them are, at least one, each once.
    pub at: Vec<SocketAddr>,
    /// Who logs in; `None`: the default user, if there is a password.
    pub user: Option<String>,
    /// Where the password is; `None`: nobody logs in.
    pub password: Option<SecretFile>,
}

/// Where a secret is. It is read anew each time, so that it can change at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretFile {
    /// In the file at this absolute path.
    Path(PathBuf),
    /// In the file of this name in the folder that `$CREDENTIALS_DIRECTORY` names (systemd.exec(5), LoadCredential=).
    Credential(String),
}

/// A request over HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    /// Its method.
    pub method: Method,
    /// Its target, such as `/healthz?full=1`.
    pub path: String,
    /// Its Host; `None`: what the endpoint is called, with its port.
    pub host: Option<String>,
    /// Further headers; values never show in Debug.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the body of the answer matters.
    pub reads_body: bool,
}

/// What an HTTP answer has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpExpect {
    /// Its status is in one of these ranges, of which there is at least one.
    pub status: Vec<RangeInclusive<u16>>,
    /// Its body begins with something that has this in it.
    pub body: Option<String>,
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Sends these bytes.
    Send(Secret),
    /// Waits until what comes has these bytes in it.
    Expect(Vec<u8>),
}

/// `[pool.NAME.health.agent]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its port, at the address that is probed.
    pub port: u16,
    /// From one question to the next.
    pub interval: Duration,
    /// What it is sent first; may be empty.
    pub send: Secret,
}

/// Bytes that nobody is to see in a log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}
