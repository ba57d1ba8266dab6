//! `[pool.NAME]` and its endpoints.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::node::{Node, Table};
use super::{
    Check, balance, discovery, health, keys, listeners, named, outgoing, proxy, routes, sessions, settings, useless,
};
use crate::config::address;
use crate::config::model::{
    Address, BACKUP, Balance, Bind, Endpoint, Health, MAX_PRIORITY, MAX_WEIGHT, NoEndpoint, Pool, Timeouts,
};
use crate::config::report::{At, quote};
use crate::config::value::Refused;

/// What an endpoint has to be.
pub(super) const ENDPOINTS: &str =
    "an address such as \"10.0.0.11:5432\", or a table with address, name, weight and backup";
/// The longest name of an endpoint, in bytes.
const LONGEST_NAME: usize = 255;
const DEFAULT_REFRESH: Duration = Duration::from_secs(30);
/// The greatest number of sessions of an endpoint that can be written.
const MOST_CONNECTIONS: u32 = 1_000_000_000;
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// Names of endpoints, and where they were written if that is known.
pub(super) type Names = HashMap<String, Option<At>>;

/// A pool as far as it could be read.
pub(super) struct Read {
    /// The resolved pool.
    pub(super) model: Pool,
    /// Where it was written.
    pub(super) at: At,
    /// Path of its table.
    pub(super) path: String,
    /// Where `no_endpoint` was written.
    no_endpoint: Option<At>,
    /// Where it is written that there is a single writer.
    pub(super) single_writer: Option<At>,
    /// How long clients wait for the single writer, where nothing else is written.
    pub(super) hold: Option<Duration>,
    /// Where `panic_percent` was written.
    pub(super) panic_percent: Option<At>,
    /// The health table, and the role in it.
    pub(super) health: Option<(At, Option<At>)>,
    /// Whether the health table is known.
    pub(super) health_known: bool,
    /// What says nothing unless routes fall back on the primary.
    pub(super) without_fallback: Option<useless::Useless>,
}

/// Reads all pools.
pub(super) fn read(top: &Table<'_>, timeouts: &Timeouts, check: &mut Check<'_>) -> Vec<Read> {
    let entries = named(top, "pool", check);
    entries.iter().map(|(name, node)| pool(name, node, timeouts, check)).collect()
}

/// Pools by name.
pub(super) fn by_name(pools: &[Read]) -> HashMap<&str, usize> {
    pools.iter().enumerate().map(|(index, pool)| (pool.model.name.as_str(), index)).collect()
}

fn pool(name: &str, node: &Node<'_>, timeouts: &Timeouts, check: &mut Check<'_>) -> Read {
    let table = node.table(keys::POOL, check.report);
    let balance = balance::read(&table, check);
    let before = check.report.count();
    let file = table.get("endpoints_file");
    let node = match &file {
        Some(_) => table.get("endpoints"),
        None => table.require("endpoints", &format!("a list, each {ENDPOINTS}"), check.complete, check.report),
    };
    let mut names = Names::new();
    let endpoints = node.map(|node| endpoints(&node, file.is_none(), &mut names, check));
    let known = endpoints.is_some() && file.is_none() && check.report.count() == before;
    let endpoints = endpoints.unwrap_or_default();
    let source = table.get("source").map(|node| source(&node, known.then_some(&endpoints), check));
    let transparent = proxy::transparent(&table, known.then_some(&endpoints), check);
    let refresh = table.get("refresh").and_then(|node| node.duration_within(REFRESH, "\"1s\" to \"1d\"", check.report));
    let most = table.get("max_connections_per_endpoint");
    let most = most.and_then(|node| node.number_unless("off", 1..=MOST_CONNECTIONS, check.report)).flatten();
    let fails_back = [("auto", true), ("never", false)];
    let fails_back = table.get("failback").and_then(|node| node.choice(&fails_back, check.report));
    let slow_start = table.get("slow_start").map(|node| slow_start(&node, balance, check));
    let panics = table.get("panic_percent").and_then(|node| node.number_unless("off", 1..=100, check.report));
    let tls = table.get("tls").map(|node| outgoing::pool(&node, &endpoints, check));
    let before_health = check.report.count();
    let health_node = table.get("health");
    let health = health_node.as_ref();
    let health = health.map(|node| health::read(node, tls.as_ref(), known.then_some(&endpoints), &endpoints, check));
    let health_known = check.report.count() == before_health;
    let verified = health.as_ref().is_some_and(Health::verifies_names_of_endpoints)
        || tls.as_ref().is_some_and(|tls| tls.outgoing.written().verifies_names_of_endpoints());
    let file = file.and_then(|node| discovery::file(&node, &mut names, verified, check));
    let single_writer =
        table.get("single_writer").and_then(|node| Some(node.truth(check.report)?.then_some(node.key_at)));
    let single_writer = single_writer.flatten();
    let (shortage, hold) = sessions::shortage(&table, single_writer.is_some(), check);
    let own = table.get("timeouts").map(|node| node.table(keys::POOL_TIMEOUTS, check.report));
    let model = Pool {
        name: name.to_owned(),
        written: name.to_owned(),
        part: None,
        balance,
        endpoints,
        endpoints_file: file,
        source: source.unwrap_or_default(),
        transparent,
        send_proxy: proxy::send(&table, check),
        refresh: refresh.unwrap_or(DEFAULT_REFRESH),
        timeouts: settings::pool_timeouts(own.as_ref(), &timeouts.pool, check),
        tls,
        health: health.map(Arc::new),
        outliers: health::outliers(table.get("outliers").as_ref(), check),
        fails_back: fails_back.unwrap_or(true),
        slow_start: slow_start.flatten(),
        panic_percent: panics.flatten(),
        single_writer: single_writer.is_some(),
        max_connections_per_endpoint: most,
        shortage,
        sessions: sessions::read(table.get("sessions").as_ref(), check),
    };
    // What is said of keys that were misread would only be noise.
    let sound = check.report.count() == before;
    let without_fallback = if sound { useless::report(&table, &model, known, check) } else { None };
    Read {
        model,
        at: table.at,
        path: table.path().to_owned(),
        no_endpoint: table.get("no_endpoint").map(|node| node.at),
        single_writer,
        hold,
        panic_percent: table.get("panic_percent").map(|node| node.key_at),
        health: health_node.map(|node| (node.key_at, role_at(&node, check))),
        health_known,
        without_fallback,
    }
}

/// Where the health table `node` says which role endpoints have to have.
fn role_at(node: &Node<'_>, check: &mut Check<'_>) -> Option<At> {
    let table = node.is_table().then(|| node.any_table(check.report))?;
    table.get("role").map(|role| role.key_at)
}

/// Refuses `no_endpoint = "refuse"` where a listener that refuses would turn away clients of other pools, or cannot.
pub(super) fn refusals(pools: &[Read], listeners: &[listeners::Read], routes: &[routes::Read], check: &mut Check<'_>) {
    for (index, pool) in pools.iter().enumerate() {
        if pool.model.shortage.no_endpoint != NoEndpoint::Refuse {
            continue;
        }
        let Some(at) = pool.no_endpoint else { continue };
        let path = format!("{}.no_endpoint", pool.path);
        for (number, listener) in listeners.iter().enumerate() {
            let here = |route: &&routes::Read| route.listener == Some(number);
            let own = |route: &&routes::Read| route.pool == Some(index);
            let Some(first) = routes.iter().filter(here).find(own) else { continue };
            let name = quote(&listener.model.name);
            let other = |route: &&routes::Read| (route.pool, route.part) != (first.pool, first.part);
            if let Some(other) = routes.iter().filter(here).find(other) {
                let message =
                    format!("listener {name} would refuse clients of {} too, which lead elsewhere", other.path);
                check.report.add(at, path.clone(), message).expected("a listener whose routes all lead to this pool");
            }
            let free = |bind: &Bind| matches!(bind, Bind::Tcp(address) if address.port() == 0);
            if let Some((_, socket, _)) = listener.bind.iter().find(|(bind, ..)| free(bind)) {
                let message = format!("listener {name} takes a free port, and would come back with another one");
                check.report.add(at, path.clone(), message).also(*socket);
            }
            if let Some((_, socket, _)) = listener.bind.iter().find(|(bind, ..)| matches!(bind, Bind::Unix(_))) {
                let message = format!("listener {name} listens on a unix socket, which cannot refuse for a while");
                check.report.add(at, path.clone(), message).also(*socket);
            }
        }
    }
}

fn slow_start(node: &Node<'_>, balance: Balance, check: &mut Check<'_>) -> Option<Duration> {
    let time = sessions::off_or_within(node, &SLOW_START, "\"1s\" to \"1h\"", check).flatten();
    if time.is_some() && matches!(balance, Balance::Maglev(_)) {
        let message = "with balance = \"maglev\" a share that grows would move clients from endpoint to endpoint";
        check.report.add(node.key_at, node.path(), message);
    }
    time
}

/// The endpoints of the configuration; `all` if there are no others.
fn endpoints(node: &Node<'_>, all: bool, names: &mut Names, check: &mut Check<'_>) -> Vec<Endpoint> {
    let elements = node.list(ENDPOINTS, "a pool without endpoints serves nothing", check.report);
    let endpoints = list(&elements, names, check);
    let all_read = all && endpoints.len() == elements.len() && !elements.is_empty();
    let backups_only = endpoints.iter().all(|endpoint| endpoint.priority == BACKUP);
    if all_read
        && endpoints.iter().all(|endpoint| endpoint.weight == 0 || (endpoint.priority == BACKUP && !backups_only))
    {
        let which =
            if endpoints.iter().any(|endpoint| endpoint.priority == BACKUP) { " that is no backup" } else { "" };
        let message = format!("every endpoint{which} has the weight 0, so none is ever chosen");
        check.report.add(node.at, node.path(), message);
    }
    if all_read && backups_only {
        check.report.add(node.at, node.path(), "every endpoint is a backup, so there is none that they stand in for");
    }
    endpoints
}

/// The endpoints that are written as `elements`, as far as they could be read, and whose names are none of `names`.
pub(super) fn list(elements: &[Node<'_>], names: &mut Names, check: &mut Check<'_>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for element in elements {
        let Some((endpoint, name_at)) = endpoint(element, check) else { continue };
        match names.get(&endpoint.name) {
            Some(first) => {
                let message = format!("two endpoints of the pool are called {}", quote(&endpoint.name));
                let found = check.report.add(name_at, element.path(), message);
                if let Some(first) = *first {
                    found.also(first);
                }
            }
            None => {
                names.insert(endpoint.name.clone(), Some(name_at));
            }
        }
        endpoints.push(endpoint);
    }
    endpoints
}

/// An endpoint and the place of its name. Nothing if its address or its name is not known.
fn endpoint(node: &Node<'_>, check: &mut Check<'_>) -> Option<(Endpoint, At)> {
    if !node.is_table() {
        let (text, address) = address(node, ENDPOINTS, check)?;
        return Some((
            Endpoint { name: text.to_owned(), address, weight: 1, priority: 0, max_connections: None },
            node.at,
        ));
    }
    let table = node.table(keys::ENDPOINT, check.report);
    let name = table.get("name");
    let name_at = name.as_ref().map_or(node.at, |name| name.at);
    let weight = table.get("weight").map(|node| node.number(0..=u32::from(MAX_WEIGHT), check.report));
    let weight = weight.map_or(Some(1), |weight| weight.and_then(|weight| u16::try_from(weight).ok()));
    let priority = priority(&table, check);
    let most = table.get("max_connections").map(|node| node.number(1..=MOST_CONNECTIONS, check.report));
    let name = name.map(|node| endpoint_name(&node, check));
    let (text, address) = match table.get("srv") {
        Some(node) => discovery::srv(&table, &node, check)?,
        None => {
            let node = table.require("address", address::ENDPOINT, check.complete, check.report);
            address(&node?, address::ENDPOINT, check)?
        }
    };
    let name = match name {
        Some(name) => name?,
        None => text,
    };
    let (weight, priority, max_connections) = (weight?, priority?, most.map_or(Some(None), |most| most.map(Some))?);
    Some((Endpoint { name: name.to_owned(), address, weight, priority, max_connections }, name_at))
}

/// The rank: by number, or as a backup.
fn priority(table: &Table<'_>, check: &mut Check<'_>) -> Option<u32> {
    let backup = table.get("backup").map_or(Some(false), |node| node.truth(check.report));
    let Some(node) = table.get("priority") else { return backup.map(|backup| if backup { BACKUP } else { 0 }) };
    if backup == Some(true) {
        check.report.add(node.key_at, node.path(), "a backup comes after every priority");
    }
    node.number(0..=MAX_PRIORITY, check.report)
}

fn address<'t>(node: &Node<'t>, expected: &str, check: &mut Check<'_>) -> Option<(&'t str, Address)> {
    node.parse(expected, check.report, |text| address::endpoint(text).map(|address| (text, address)))
}

fn endpoint_name<'t>(node: &Node<'t>, check: &mut Check<'_>) -> Option<&'t str> {
    node.parse("1 to 255 visible ASCII characters", check.report, |text| {
        let good = !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(text) } else { Err(Refused::misread(text, "cannot be the name of an endpoint")) }
    })
}

/// The local addresses; each must be of use for one of `endpoints`, if these are known.
pub(super) fn source(node: &Node<'_>, endpoints: Option<&Vec<Endpoint>>, check: &mut Check<'_>) -> Vec<IpAddr> {
    let empty = "an empty list says nothing; leave the key out to let the kernel choose";
    let elements = node.list(address::IP, empty, check.report);
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut first: [Option<At>; 2] = [None, None];
    for element in elements {
        let Some(address) = element.parse(address::IP, check.report, address::ip) else { continue };
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let usable = |endpoint: &Endpoint| match &endpoint.address {
            Address::Ip(endpoint) => endpoint.is_ipv4() == address.is_ipv4(),
            Address::Host { .. } | Address::Srv(_) => true,
            Address::Unix(_) => false,
        };
        let slot = &mut first[usize::from(address.is_ipv6())];
        if address.is_unspecified() || address.is_multicast() {
            let message = format!("{address} is not an address to connect from");
            check.report.add(element.at, element.path(), message).expected(address::IP);
        } else if let Some(first) = *slot {
            // Only the first of a family is ever used.
            let message = format!("a second {family} address is never used");
            check.report.add(element.at, element.path(), message).also(first);
        } else {
            *slot = Some(element.at);
            if endpoints.is_some_and(|endpoints| !endpoints.iter().any(usable)) {
                let message = format!("no endpoint of the pool is reached over {family}");
                check.report.add(element.at, element.path(), message);
            }
        }
        addresses.push(address);
    }
    addresses
}
