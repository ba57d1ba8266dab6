//! `[pool.NAME.health]` and `[pool.NAME.outliers]`

mod agent;
mod dialogue;
mod exposed;
mod mysql;
mod redis;
mod server;
mod tls;

pub(super) use tls::nameless;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::node::{Node, Table};
use super::{Check, keys, outgoing, pools};
use crate::config::address;
use crate::config::model::{
    Address, Dialogue, Endpoint, Expect, Health, MAX_JITTER, MOST_PROBES, Outliers, PatroniProbe, PoolTls,
    PostgresProbe, Probe, WatchedTls,
};
use crate::config::report::quote;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const EJECTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const MOST_FAILURES: u32 = 1000;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_FAST: Duration = Duration::from_millis(500);
const DEFAULT_JITTER: u32 = 10;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_DATABASE: &str = "postgres";
/// Where Patroni is, unless it is told to be elsewhere.
const PATRONI_PORT: u16 = 8008;

/// The value of `probe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Tcp,
    Tls,
    Http,
    Script,
    Postgres,
    Patroni,
    Redis,
    Mysql,
}

const WORDS: [(&str, Word); 8] = [
    ("tcp", Word::Tcp),
    ("tls", Word::Tls),
    ("http", Word::Http),
    ("script", Word::Script),
    ("postgres", Word::Postgres),
    ("patroni", Word::Patroni),
    ("redis", Word::Redis),
    ("mysql", Word::Mysql),
];

/// Those that find out the role of a server.
const ROLES: [Word; 4] = [Word::Postgres, Word::Patroni, Word::Mysql, Word::Redis];
/// Those of servers of databases, which take a login.
const SERVERS: [Word; 3] = [Word::Postgres, Word::Mysql, Word::Redis];
/// Those that take queries.
const SQL: [Word; 2] = [Word::Postgres, Word::Mysql];

/// What only makes sense with some probes: the key, the probes, and why not with others.
const PARTS: [(&str, &[Word], &str); 17] = [
    (
        "tls",
        &[Word::Tls, Word::Http, Word::Script, Word::Postgres, Word::Patroni, Word::Mysql, Word::Redis],
        "probe = \"tcp\" only takes a connection; \"tls\" makes a handshake",
    ),
    ("http", &[Word::Http], "only probe = \"http\" sends a request"),
    ("script", &[Word::Script], "only probe = \"script\" follows one"),
    ("role", &ROLES, "only probes of database servers find it out"),
    ("max_lag", &ROLES, "only probes of database servers find it out"),
    ("user", &SERVERS, "this probe does not log in"),
    ("password_file", &SERVERS, "this probe does not log in"),
    ("database", &SQL, "this probe does not log in"),
    ("query", &SQL, "this probe does not ask by queries"),
    ("value", &SQL, "this probe does not ask by queries"),
    ("galera", &[Word::Mysql], "only servers of MySQL are in such a cluster: probe = \"mysql\""),
    ("server_key_file", &[Word::Mysql], "only servers of MySQL have such a key: probe = \"mysql\""),
    ("info", &[Word::Redis], "only probe = \"redis\" asks for INFO"),
    ("master_name", &[Word::Redis], "only probe = \"redis\" asks Sentinels"),
    ("sentinels", &[Word::Redis], "only probe = \"redis\" asks Sentinels"),
    ("sentinel_user", &[Word::Redis], "only probe = \"redis\" asks Sentinels"),
    ("sentinel_password_file", &[Word::Redis], "only probe = \"redis\" asks Sentinels"),
];

/// What makes no sense where only agents are asked.
const PROBE_KEYS: [&str; 22] = [
    "interval",
    "fast_interval",
    "rise",
    "fall",
    "port",
    "tls",
    "http",
    "script",
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
];

/// Reads how the endpoints of a pool are probed: `own`, which are `endpoints` if it has no others and all are known. `pools`
/// is the TLS that sessions have with them.
pub(super) fn read(
    node: &Node<'_>,
    pools: Option<&PoolTls>,
    endpoints: Option<&Vec<Endpoint>>,
    own: &[Endpoint],
    check: &mut Check<'_>,
) -> Health {
    let table = node.table(keys::HEALTH, check.report);
    let word = word(&table, check);
    if let Some(word) = word {
        refuse_misplaced(&table, word, check);
    }
    let word = word.flatten();
    let http = dialogue::http(table.get("http").as_ref(), check);
    let script = dialogue::script(&table, word == Some(Word::Script), check);
    let server = server::read(&table, word, check);
    let over_tls = table.get("tls");
    let (mut tls, files, warn_expiry) = tls::read(over_tls.as_ref(), check);
    let negotiation = tls::negotiation(over_tls.as_ref(), word, &mut tls, check);
    let tls = (word == Some(Word::Tls) || over_tls.is_some()).then_some(tls);
    let is_moved = table.get("address").or(table.get("port")).is_some() || word == Some(Word::Patroni);
    let pools = pools.filter(|_| over_tls.is_none() && !is_moved && !matches!(word, None | Some(Word::Tcp)));
    let inherited = pools.map(|pools| tls::inherited(pools, word));
    // Servers that take TLS at once from sessions are asked no other way.
    let negotiation = pools.and_then(|pools| pools.negotiation).unwrap_or(negotiation);
    if let Some(tls) = &tls
        && inherited.is_none()
    {
        tls::fits(over_tls.as_ref().unwrap_or(node), tls, word, own, check);
    }
    let is_pools = inherited.is_some();
    let watched = match (inherited.as_ref().and(pools), &tls) {
        (Some(pools), _) => Some(WatchedTls(Arc::clone(&pools.outgoing))),
        (None, Some(tls)) => Some(WatchedTls(outgoing::shared(tls.clone(), files, check))),
        (None, None) => None,
    };
    let tls = inherited.or(tls);
    let (role, max_lag, value) = (server.role, server.max_lag, server.value.clone());
    let probe = word.map(|word| match word {
        Word::Tcp | Word::Tls => Probe::Tcp,
        Word::Http => Probe::Http(http.0),
        Word::Script => Probe::Script(script),
        Word::Postgres => Probe::Postgres(PostgresProbe {
            login: server.login(),
            database: server.database.unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            negotiation,
            asks_lag: server.max_lag.is_some(),
            query: server.query,
        }),
        Word::Patroni => Probe::Patroni(PatroniProbe { max_lag: server.max_lag_bytes }),
        Word::Redis => Probe::Redis(redis::read(&table, &server, own, check)),
        Word::Mysql => Probe::Mysql(mysql::read(&table, &server, check)),
    });
    let (interval, fast_interval) = intervals(&table, check);
    let timeout = table.get("timeout");
    let timeout = timeout.and_then(|node| node.duration_within(TIMEOUT, "\"10ms\" to \"1m\"", check.report));
    let mut number = |key, range, default| {
        let number = table.get(key).and_then(|node| node.number(range, check.report));
        number.unwrap_or(default)
    };
    let (rise, fall) = (number("rise", 1..=MOST_PROBES, DEFAULT_RISE), number("fall", 1..=MOST_PROBES, DEFAULT_FALL));
    let jitter = number("jitter", 0..=MAX_JITTER, DEFAULT_JITTER);
    let agent = table.get("agent").and_then(|node| agent::read(&node, check));
    let address = table.get("address").and_then(|node| ip(&node, check));
    let port = table.get("port").and_then(|node| port(&node, check));
    let port = port.or((word == Some(Word::Patroni)).then_some(PATRONI_PORT));
    refuse_portless(&table, word, endpoints, check);
    exposed::on_the_way(&table, word, tls.as_ref(), (own, address), check);
    Health {
        dialogue: probe.map(|probe| Arc::new(Dialogue { probe, tls, watched, is_pools })),
        expect: Expect { http: http.1, role, max_lag, value },
        agent,
        address,
        port,
        source: source(&table, address, endpoints, check),
        interval,
        fast_interval,
        jitter,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        rise,
        fall,
        warn_expiry,
    }
}

/// The probe, which may be left out where there is an agent. Nothing if it is not known.
fn word(table: &Table<'_>, check: &mut Check<'_>) -> Option<Option<Word>> {
    if table.get("agent").is_some() && table.get("probe").is_none() {
        return table.is_sound().then_some(None);
    }
    let all = WORDS.map(|(word, _)| format!("{word:?}")).join(", ");
    let node = table.require("probe", &format!("one of {all}"), check.complete, check.report);
    node.and_then(|node| node.choice(&WORDS, check.report)).map(Some)
}

fn refuse_misplaced(table: &Table<'_>, word: Option<Word>, check: &mut Check<'_>) {
    match word {
        None => {
            for node in PROBE_KEYS.iter().filter_map(|key| table.get(key)) {
                check.report.add(node.key_at, node.path(), "without a probe only the agent is asked");
            }
        }
        Some(word) => {
            for (key, words, why) in PARTS {
                if let Some(node) = table.get(key).filter(|_| !words.contains(&word)) {
                    check.report.add(node.key_at, node.path(), why);
                }
            }
        }
    }
}

/// The interval and the fast one, which is not the longer one.
fn intervals(table: &Table<'_>, check: &mut Check<'_>) -> (Duration, Duration) {
    let mut interval = |key| {
        let node = table.get(key)?;
        Some((node.duration_within(INTERVAL, "\"100ms\" to \"1h\"", check.report)?, node))
    };
    let (normal, fast) = (interval("interval"), interval("fast_interval"));
    let interval_read = normal.is_some();
    let normal = normal.map_or(DEFAULT_INTERVAL, |(normal, _)| normal);
    if let Some((fast, node)) = &fast
        && (interval_read || table.get("interval").is_none())
        && *fast > normal
    {
        let message = format!("{fast:?} is more than the interval of {normal:?}");
        check.report.add(node.at, node.path(), message);
    }
    (normal, fast.map_or(DEFAULT_FAST.min(normal), |(fast, _)| fast))
}

/// A port that one can connect to.
fn port(node: &Node<'_>, check: &mut Check<'_>) -> Option<u16> {
    node.number(1..=u32::from(u16::MAX), check.report).and_then(|port| u16::try_from(port).ok())
}

/// An address that one can connect to.
fn ip(node: &Node<'_>, check: &mut Check<'_>) -> Option<IpAddr> {
    let address = node.parse(address::IP, check.report, address::ip)?;
    if address.is_unspecified() || address.is_multicast() {
        let message = format!("{address} is not an address to connect to");
        check.report.add(node.at, node.path(), message).expected(address::IP);
        return None;
    }
    Some(address)
}

/// The local addresses; each must be of use for what is probed, if that is known.
fn source(
    table: &Table<'_>,
    address: Option<IpAddr>,
    endpoints: Option<&Vec<Endpoint>>,
    check: &mut Check<'_>,
) -> Vec<IpAddr> {
    let Some(node) = table.get("source") else { return Vec::new() };
    let probed = match address {
        Some(address) => Some(vec![Endpoint {
            name: String::new(),
            address: Address::Ip(SocketAddr::new(address, 1)),
            weight: 1,
            priority: 0,
            max_connections: None,
        }]),
        None if table.get("address").is_some() => None,
        None => endpoints.cloned(),
    };
    pools::source(&node, probed.as_ref(), check)
}

/// Refuses what a unix socket has not: a port of its own, and a place where its agent could be.
fn refuse_portless(table: &Table<'_>, word: Option<Word>, endpoints: Option<&Vec<Endpoint>>, check: &mut Check<'_>) {
    let unix = |endpoint: &&Endpoint| matches!(endpoint.address, Address::Unix(_));
    let Some(endpoint) = endpoints.and_then(|endpoints| endpoints.iter().find(unix)) else { return };
    let endpoint = format!("the endpoint {} is a unix socket", quote(&endpoint.name));
    match (table.get("address"), table.get("port")) {
        (None, None) if word == Some(Word::Patroni) => {
            let message = format!("{endpoint} and has no address where Patroni could be");
            check.report.add(table.at, table.path(), message).expected("address");
        }
        (Some(address), None) if table.get("probe").is_some() && word != Some(Word::Patroni) => {
            let message = format!("{endpoint} and has no port that could be probed there");
            check.report.add(address.key_at, address.path(), message).expected("port besides");
        }
        (None, Some(port)) => {
            check.report.add(port.key_at, port.path(), format!("{endpoint} and has no other port"));
        }
        _ => {}
    }
    if let (Some(agent), None) = (table.get("agent"), table.get("address")) {
        let message = format!("{endpoint} and has no address where an agent could be");
        check.report.add(agent.key_at, agent.path(), message);
    }
}

/// Reads when an endpoint is left out because clients cannot be served; nothing: never.
pub(super) fn outliers(node: Option<&Node<'_>>, check: &mut Check<'_>) -> Option<Outliers> {
    let default = Outliers {
        failures: 5,
        ejection: Duration::from_secs(10),
        longest: Duration::from_secs(300),
        most_percent: 50,
    };
    let Some(node) = node else { return Some(default) };
    let table = node.table(keys::OUTLIERS, check.report);
    let failures = table.get("failures");
    let failures = failures.map(|node| node.number_unless("off", 1..=MOST_FAILURES, check.report));
    let mut time = |key| {
        let node = table.get(key)?;
        Some((node.duration_within(EJECTION, "\"1s\" to \"1d\"", check.report)?, node))
    };
    let (ejection, longest) = (time("ejection"), time("longest"));
    let ejection_read = ejection.is_some();
    let ejection = ejection.map_or(default.ejection, |(ejection, _)| ejection);
    if let Some((longest, node)) = &longest
        && (ejection_read || table.get("ejection").is_none())
        && *longest < ejection
    {
        let message = format!("{longest:?} is less than the first time of {ejection:?}");
        check.report.add(node.at, node.path(), message);
    }
    let most = table.get("most_percent").and_then(|node| node.number(1..=100, check.report));
    let rules = Outliers {
        failures: default.failures,
        ejection,
        longest: longest.map_or(default.longest.max(ejection), |(longest, _)| longest),
        most_percent: most.unwrap_or(default.most_percent),
    };
    if matches!(failures, Some(Some(None))) {
        for node in ["ejection", "longest", "most_percent"].into_iter().filter_map(|key| table.get(key)) {
            check.report.add(node.key_at, node.path(), "with failures = \"off\" nobody is ever left out");
        }
    }
    match failures {
        Some(Some(None)) => None,
        Some(Some(Some(failures))) => Some(Outliers { failures, ..rules }),
        Some(None) | None => Some(rules),
    }
}
