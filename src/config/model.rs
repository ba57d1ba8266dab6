//! The configuration as resolved values: every default filled in, every rule checked.
//!
//! A [`Config`] only comes out of [`super::load`], so whoever holds one needs no further checks. Lists keep the order
//! of the files, but no answer may depend on it.

mod acme;
mod health;
mod part;
mod proxy;
mod sessions;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use self::acme::{Acme, Challenge, Eab, KeyKind};
pub use self::health::*;
pub use self::part::Part;
pub use self::proxy::{ProxyFrom, SendProxy, SentTlvs};
pub use self::sessions::{Leave, MaxAge, NoEndpoint, Sessions, Shortage};
pub use self::tls::{
    ClientRules, Identity, MinVersion, Negotiation, OutgoingTls, PoolTls, RouteTls, Trust, WatchedTls,
};
use crate::wire::name::Name;

/// One complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[log]`
    pub log: Log,
    /// `[admin]`
    pub admin: Admin,
    /// `[dns]`
    pub dns: Dns,
    /// `[tls] ticket_keys`: a file of secrets that session tickets are made of; `None`: `"random"`.
    pub ticket_keys: Option<PathBuf>,
    /// `[acme.*]`: accounts with certificate authorities.
    pub acme: Vec<Acme>,
    /// `[timeouts]`: the defaults; listeners and pools hold their own, resolved values.
    pub timeouts: Timeouts,
    /// `[listener.*]`, at least one.
    pub listeners: Vec<Listener>,
    /// `[route.*]`, at least one a listener.
    pub routes: Vec<Route>,
    /// `[pool.*]`, at least one; one that routes lead to by role is there once for each role, one part behind the other.
    pub pools: Vec<Pool>,
    /// Environment variables that set something, by name, sorted.
    pub environment: Vec<String>,
}

impl Config {
    /// One part of each pool that is written.
    pub fn written_pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.chunk_by(|one, other| one.written == other.written).filter_map(<[Pool]>::first)
    }
}

/// `[runtime]`: what the process takes of its machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Data workers, 1 to 1024; `None` is `"auto"`, one per CPU that the process may use.
    pub workers: Option<NonZeroUsize>,
    /// Connections served at once; `None` is `"auto"`, worked out from RLIMIT_NOFILE.
    pub max_connections: Option<NonZeroUsize>,
    /// Bytes of openings that no endpoint has answered yet, held at once by the whole process.
    pub opening_memory: u64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least severe level of the program's own messages, which go to stderr.
    pub level: tracing::Level,
    /// Where the access log goes.
    pub access: AccessTarget,
    /// How access log lines and the program's own messages are written.
    pub format: LogFormat,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    /// `"stdout"`
    Stdout,
    /// `"stderr"`
    Stderr,
    /// `"off"`
    Off,
    /// A path, appended to.
    File(PathBuf),
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line of `key=value` pairs.
    Text,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address of the read-only HTTP pages; `None` is `"off"`.
    pub http: Option<SocketAddr>,
    /// Path of the unix socket for commands; `None` is `"off"`.
    pub socket: Option<PathBuf>,
}

/// `[dns]`: who is asked for the names of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Servers; empty: those of the system (resolv.conf(5)).
    pub servers: Vec<SocketAddr>,
    /// For one question to one server.
    pub timeout: Duration,
}

/// `[timeouts]`; `None` is `"off"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the end of the opening (a whole ClientHello): absolute. Never off.
    pub open: Duration,
    /// The part that pools may set for themselves.
    pub pool: PoolTimeouts,
}

/// The timeouts that `[pool.*.timeouts]` may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTimeouts {
    /// For one attempt to reach one endpoint. Never off.
    pub connect: Duration,
    /// Since the last byte in either direction; `None` is off.
    pub idle: Option<Duration>,
    /// Since the last byte, once one side has finished sending; `None` is off.
    pub half_close: Option<Duration>,
    /// How long sessions may live on once the process was asked to stop. Zero ends them at once.
    pub drain: Duration,
}

/// `[listener.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The NAME.
    pub name: String,
    /// Addresses to listen on, at least one, none twice.
    pub bind: Vec<Bind>,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Connections of this listener served at once; `None` is `"off"`: only `runtime.max_connections` holds.
    pub max_connections: Option<NonZeroUsize>,
    /// Length of the queue of connections not yet accepted, per socket.
    pub backlog: u32,
    /// Wake up for a client only once it has sent something (TCP_DEFER_ACCEPT 1).
    pub defer_accept: bool,
    /// Whose connections begin with a PROXY header; `None`: nobody's.
    pub proxy_from: Option<ProxyFrom>,
    /// `[listener.NAME.timeouts] open`, or the default.
    pub open: Duration,
}

/// An address to listen on. Port 0 takes a free port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bind {
    /// An IPv4 or IPv6 address; IPv6 sockets never take IPv4 connections.
    Tcp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
}

/// What the clients of a listener speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS: a ClientHello is read and routed by.
    Tls,
    /// Anything: routed without reading a byte.
    Tcp,
    /// PostgreSQL: in clear, or TLS that is asked for first or begins at once; routed by what its ClientHello says.
    Postgres,
    /// MySQL, where the server speaks first: routed without reading a byte.
    Mysql,
}

impl Protocol {
    /// Whether sessions end by a goodbye, after which neither side has anything to say.
    pub fn says_goodbye(self) -> bool {
        matches!(self, Protocol::Postgres | Protocol::Mysql)
    }

    /// Whether clients may speak TLS, and are read as far as that goes.
    pub fn reads_hellos(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Postgres)
    }
}

/// `[route.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The NAME.
    pub name: String,
    /// Index into [`Config::listeners`].
    pub listener: usize,
    /// Names that lead here; empty: any name or none.
    pub sni: Vec<NamePattern>,
    /// Protocols of which the client must offer one; empty: any or none.
    pub alpn: Vec<Box<[u8]>>,
    /// Networks the client must come from; empty: any.
    pub from: Vec<IpNet>,
    /// Whether clients of PostgreSQL may come without TLS.
    pub allow_cleartext: bool,
    /// Index into [`Config::pools`].
    pub pool: usize,
    /// Index into [`Config::acme`] of the account by which certificates for the exact names of `sni` are obtained.
    pub acme: Option<usize>,
    /// `[route.NAME.tls]`; `None`: what clients send is passed on as it is.
    pub tls: Option<RouteTls>,
}

/// One entry of `route.sni`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamePattern {
    /// `www.example.com`
    Exact(Name),
    /// `*.example.com`: exactly one label in front of the name held.
    OneLabel(Name),
    /// `**.example.com`: one or more labels in front of the name held.
    AnyDepth(Name),
}

/// `[pool.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The NAME; of a part, the NAME, a slash and what it is a part for, such as `pg/primary`.
    pub name: String,
    /// The NAME.
    pub written: String,
    /// Which part of the pool that is written it is; `None`: all of it.
    pub part: Option<Part>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Endpoints as written, no name twice; at least one if there is no file of them.
    pub endpoints: Vec<Endpoint>,
    /// Absolute path of a `.json` or `.toml` file of further endpoints, which may change at any time.
    pub endpoints_file: Option<PathBuf>,
    /// Local addresses to connect from; the first of the endpoint's family is used; empty: the kernel chooses.
    pub source: Vec<IpAddr>,
    /// Endpoints are connected to from the client's own address.
    pub transparent: bool,
    /// What endpoints are told of a client before anything else; `None`: nothing.
    pub send_proxy: Option<SendProxy>,
    /// The longest time from one look-up of a name to the next.
    pub refresh: Duration,
    /// `[pool.NAME.timeouts]`, or the defaults.
    pub timeouts: PoolTimeouts,
    /// `[pool.NAME.tls]`; `None`: endpoints are spoken to as clients speak.
    pub tls: Option<PoolTls>,
    /// `[pool.NAME.health]`; `None`: endpoints are not probed and count as up.
    pub health: Option<Arc<Health>>,
    /// `[pool.NAME.outliers]`, or the defaults; `None`: off.
    pub outliers: Option<Outliers>,
    /// Whether endpoints of a better priority serve again as soon as they can, or only once the others fail.
    pub fails_back: bool,
    /// How long an endpoint that comes up takes to get its whole share; `None`: no time.
    pub slow_start: Option<Duration>,
    /// Where fewer endpoints than so many percent are fit, it is as if all were, 1 to 100; `None`: never.
    pub panic_percent: Option<u32>,
    /// Sessions at once of an endpoint that has no limit of its own, at least 1; `None`: no limit.
    pub max_connections_per_endpoint: Option<u32>,
    /// While several endpoints say that they are the primary, none of them gets new sessions.
    pub single_writer: bool,
    /// What happens while no endpoint can take a client.
    pub shortage: Shortage,
    /// `[pool.NAME.sessions]`, or the defaults.
    pub sessions: Sessions,
}

/// `[pool.NAME.outliers]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row, without an answer in between, after which an endpoint is left out, at least 1.
    pub failures: u32,
    /// For how long the first time; twice as long each further time.
    pub ejection: Duration,
    /// The longest time, at least `ejection`.
    pub longest: Duration,
    /// The most endpoints of a pool that are left out at once, in percent, 1 to 100.
    pub most_percent: u32,
}

/// How a pool chooses an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The endpoint with the fewest sessions for its weight.
    LeastConnections,
    /// Each in turn, by weight.
    RoundRobin,
    /// Of two drawn by lot, the one with fewer sessions for its weight.
    RandomTwo,
    /// By a hash of what a client is known by, consistently.
    Maglev(Hash),
}

impl Balance {
    /// Whether an endpoint's share of all sessions of the pool is bounded.
    pub fn is_bounded(self) -> bool {
        matches!(self, Balance::Maglev(Hash { balance_factor: Some(_), .. }))
    }
}

/// What `maglev` goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What is hashed.
    pub key: HashKey,
    /// The most sessions of an endpoint, in percent of its share: 101 to [`MAX_BALANCE_FACTOR`]; `None`: no limit.
    pub balance_factor: Option<u32>,
}

/// The greatest `hash_balance_factor`.
pub const MAX_BALANCE_FACTOR: u32 = 10_000;

/// What a hash is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The network that the client is in.
    Source {
        /// Length of an IPv4 network, 0 to 32.
        ipv4: u8,
        /// Length of an IPv6 network, 0 to 128.
        ipv6: u8,
    },
    /// The name in the ClientHello; where there is none, the client's address.
    Sni,
}

/// One entry of `pool.endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `name`, else the address as written.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// Its share, 0 to [`MAX_WEIGHT`]; 0 gets nothing.
    pub weight: u16,
    /// Its rank: it serves only while no endpoint of a lower number can.
    pub priority: u32,
    /// Sessions at once, at least 1; `None`: no limit.
    pub max_connections: Option<u32>,
}

/// The priority of a backup: after all that can be written.
pub const BACKUP: u32 = u32::MAX - 1;
/// The rank of a primary that replicas fall back on: after everything else.
pub const FALLBACK: u32 = u32::MAX;
/// The greatest priority that can be written.
pub const MAX_PRIORITY: u32 = 65_535;

/// The greatest weight of an endpoint.
pub const MAX_WEIGHT: u16 = 256;

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `10.0.0.11:5432`, `[2001:db8::1]:5432`
    Ip(SocketAddr),
    /// `unix:/run/x.sock`
    Unix(PathBuf),
    /// `db.example.com:5432`: every address it resolves to is an endpoint, named `host#address`.
    Host {
        /// The host name.
        host: String,
        /// The port, 1 to 65535.
        port: u16,
    },
    /// `{ srv = "_postgresql._tcp.example.com" }`: every address of every record is an endpoint, named
    /// `name#address:port`; priority and weight are those of the record (RFC 2782).
    Srv(String),
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessTarget::Stdout => f.write_str("stdout"),
            AccessTarget::Stderr => f.write_str("stderr"),
            AccessTarget::Off => f.write_str("off"),
            AccessTarget::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => name.fmt(f),
            NamePattern::OneLabel(name) => write!(f, "*.{name}"),
            NamePattern::AnyDepth(name) => write!(f, "**.{name}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Host { host, port } => write!(f, "{host}:{port}"),
            Address::Srv(name) => f.write_str(name),
        }
    }
}
