//! `[route.NAME]`: what leads where, and what could never lead anywhere.

use std::collections::HashMap;

use ipnet::IpNet;

use super::node::{Node, Table};
use super::{Check, acme, databases, keys, listeners, named, parts, path_of, pools, tls};
use crate::config::address;
use crate::config::model::{Balance, Hash, HashKey, NamePattern, Part, Protocol, Route, RouteTls};
use crate::config::report::{At, quote};
use crate::config::value::Refused;

const ALPN: &str = "the name of a protocol such as \"postgresql\" or \"h2\", 1 to 255 bytes";
const EMPTY: &str = "nothing matches an empty list; leave the key out to match anything";

/// A route as far as it could be read.
pub(super) struct Read {
    /// The NAME.
    pub(super) name: String,
    /// Where it was written.
    pub(super) at: At,
    /// Path of its table.
    pub(super) path: String,
    /// Its listener, if there is such a one.
    pub(super) listener: Option<usize>,
    /// Its pool, if there is such a one.
    pub(super) pool: Option<usize>,
    /// The part of the pool that it leads to, if it says so, and where.
    pub(super) part: Option<Part>,
    pub(super) role_at: Option<At>,
    /// Its names.
    pub(super) sni: List<NamePattern>,
    /// Its protocols.
    pub(super) alpn: List<Box<[u8]>>,
    /// Its networks.
    pub(super) from: List<IpNet>,
    /// The account by which its certificates are obtained, if one is.
    pub(super) acme: Option<usize>,
    /// Whether clients may come without TLS.
    pub(super) allow_cleartext: bool,
    /// How TLS ends here, if it does.
    pub(super) tls: Option<RouteTls>,
    /// Whether all three lists are known and can match something.
    pub(super) sound: bool,
}

/// What a key lists, and where each of it was written.
pub(super) struct List<T> {
    /// The elements that could be read.
    pub(super) values: Vec<T>,
    /// Their places.
    pub(super) places: Vec<At>,
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List { values: Vec::new(), places: Vec::new() }
    }
}

impl Read {
    /// The resolved route, which leads to the pool at work of this index, if what it refers to exists.
    pub(super) fn resolved(self, pool: Option<usize>) -> Option<Route> {
        Some(Route {
            name: self.name,
            listener: self.listener?,
            sni: self.sni.values,
            alpn: self.alpn.values,
            from: self.from.values,
            pool: pool?,
            acme: self.acme,
            allow_cleartext: self.allow_cleartext,
            tls: self.tls,
        })
    }
}

/// Reads all routes. Reports listeners and pools that no route uses.
pub(super) fn read(
    top: &Table<'_>,
    listeners: &[listeners::Read],
    pools: &[pools::Read],
    accounts: &[acme::Read],
    check: &mut Check<'_>,
) -> Vec<Read> {
    let entries = named(top, "route", check);
    let mut listener_names = References::new("listener", listeners::by_name(listeners));
    let mut pool_names = References::new("pool", pools::by_name(pools));
    let mut accounts = acme::Accounts::new(accounts);
    let mut routes = Vec::new();
    for (name, node) in &entries {
        let table = node.table(keys::ROUTE, check.report);
        let listener = listener_names.resolve(&table, check);
        let pool = pool_names.resolve(&table, check);
        let (part, role_at) = parts::of_route(&table, check);
        let before = check.report.count();
        let sni = list(table.get("sni"), address::PATTERN, check, address::name_pattern);
        let alpn = list(table.get("alpn"), ALPN, check, protocol);
        let from = list(table.get("from"), address::NETWORK, check, address::network);
        let sound = check.report.count() == before;
        let acme = table.get("acme").and_then(|node| accounts.of_route(node, &table, &sni, check));
        let mut tls = table.get("tls").map(|node| tls::read(&node, &table, &sni, &alpn, acme.as_ref(), check));
        let allow_cleartext = table.get("allow_cleartext").map(|node| (node.truth(check.report), node));
        let is_clear = matches!(allow_cleartext, Some((Some(true), _)));
        let before = check.report.count();
        if let Some(listener) = listener {
            let listener = &listeners[listener];
            unreceived(&table, listener, &from, check);
            if let Some((_, node)) = &allow_cleartext {
                databases::cleartext(node, is_clear, &table, listener, check);
            }
            if let Some(pool) = pool {
                nameless(&table, listener, &pools[pool], check);
                twice(&table, is_clear, listener, &pools[pool], check);
                let clear = allow_cleartext.as_ref().map(|(_, node)| node).filter(|_| is_clear);
                databases::pool(&table, clear, part, listener, &pools[pool], check);
            }
            if let Some(tls) = tls.as_mut().filter(|_| listener.model.protocol == Protocol::Postgres) {
                databases::agree(tls);
            }
        }
        routes.push(Read {
            name: (*name).to_owned(),
            at: table.at,
            path: table.path().to_owned(),
            listener,
            pool,
            part,
            role_at,
            sni,
            alpn,
            from,
            acme: acme.map(|obtained| obtained.account),
            allow_cleartext: is_clear,
            tls,
            sound: sound && check.report.count() == before,
        });
    }
    // Without any route that has been said already.
    if !routes.is_empty() {
        listener_names.unused(listeners.iter().map(|each| (each.at, each.path.as_str())), "leads from", check);
        pool_names.unused(pools.iter().map(|each| (each.at, each.path.as_str())), "leads to", check);
    }
    accounts.unused(check);
    routes
}

/// Names that routes refer to.
struct References<'n> {
    section: &'static str,
    known: HashMap<&'n str, usize>,
    /// In the order of the names, so that a suggestion does not depend on chance.
    sorted: Vec<&'n str>,
    used: Vec<bool>,
    /// Whether every reference was understood; if not, one that was not may mean any of them.
    all_understood: bool,
}

impl<'n> References<'n> {
    fn new(section: &'static str, known: HashMap<&'n str, usize>) -> References<'n> {
        let mut sorted: Vec<&str> = known.keys().copied().collect();
        sorted.sort_unstable();
        References { section, used: vec![false; known.len()], known, sorted, all_understood: true }
    }

    fn resolve(&mut self, route: &Table<'_>, check: &mut Check<'_>) -> Option<usize> {
        let expected = format!("the name of a {}", self.section);
        let found = self.find(route, &expected, check);
        match found {
            Some(index) => self.used[index] = true,
            None => self.all_understood = false,
        }
        found
    }

    fn find(&self, route: &Table<'_>, expected: &str, check: &mut Check<'_>) -> Option<usize> {
        let node = route.require(self.section, expected, check.complete, check.report)?;
        let name = node.text(expected, check.report)?;
        let found = self.known.get(name).copied();
        // Without any, that has been said already.
        if found.is_none() && check.complete && !self.known.is_empty() {
            let nearest = check.report.nearest(name, self.sorted.iter().copied()).map(quote);
            let message = format!("there is no {} called {}", self.section, quote(name));
            check.report.add(node.at, node.path(), message).nearest(nearest);
        }
        found
    }

    fn unused<'p>(&self, places: impl Iterator<Item = (At, &'p str)>, leads: &str, check: &mut Check<'_>) {
        if !self.all_understood || !check.complete {
            return;
        }
        for ((at, path), used) in places.zip(&self.used) {
            if !used {
                check.report.add(at, path, format!("no route {leads} this {}", self.section));
            }
        }
    }
}

/// The elements of one list, none twice.
fn list<'t, T>(
    node: Option<Node<'t>>,
    expected: &str,
    check: &mut Check<'_>,
    read: impl Fn(&'t str) -> Result<T, Refused>,
) -> List<T> {
    let elements = node.map(|node| node.list(expected, EMPTY, check.report)).unwrap_or_default();
    let mut list = List { values: Vec::with_capacity(elements.len()), places: Vec::with_capacity(elements.len()) };
    for element in elements {
        if let Some(value) = element.parse(expected, check.report, &read) {
            list.values.push(value);
            list.places.push(element.at);
        }
    }
    list
}

pub(super) fn protocol(text: &str) -> Result<Box<[u8]>, Refused> {
    match text.len() {
        0 => Err(Refused::misread(text, "is not a protocol")),
        1..=255 => Ok(text.as_bytes().into()),
        length => Err(Refused::misread(text, &format!("has {length} bytes"))),
    }
}

/// Reports what the listener of a route never sees: names, protocols and certificates without TLS, addresses of
/// other families.
fn unreceived(route: &Table<'_>, listener: &listeners::Read, from: &List<IpNet>, check: &mut Check<'_>) {
    let name = quote(&listener.model.name);
    if let Some(word) = listener.unread() {
        for key in ["sni", "alpn", "acme", "tls"] {
            if let Some(node) = route.get(key) {
                let message = format!("the listener {name} is {word}: it reads nothing of what clients send");
                check.report.add(node.key_at, node.path(), message).also(listener.at);
            }
        }
    }
    let Some(node) = route.get("from").filter(|_| listener.bind_known) else { return };
    let families = listener.families();
    if !families.v4 && !families.v6 {
        let message = format!("the listener {name} has only unix addresses, so its clients have no network");
        check.report.add(node.key_at, node.path(), message).also(listener.at);
        return;
    }
    for (network, &at) in from.values.iter().zip(&from.places) {
        let (received, family) = match network {
            IpNet::V4(_) => (families.v4, "IPv4"),
            IpNet::V6(_) => (families.v6, "IPv6"),
        };
        if !received {
            let message = format!("the listener {name} has no {family} address, so nobody comes from {network}");
            check.report.add(at, node.path(), message).also(listener.at);
        }
    }
}

/// Reports a pool that goes by names behind a listener that reads none.
fn nameless(route: &Table<'_>, listener: &listeners::Read, pool: &pools::Read, check: &mut Check<'_>) {
    let by_name = matches!(pool.model.balance, Balance::Maglev(Hash { key: HashKey::Sni, .. }));
    if let Some(word) = listener.unread().filter(|_| by_name) {
        let (listener, pool_name) = (quote(&listener.model.name), quote(&pool.model.name));
        let message = format!(
            "the pool {pool_name} goes by names (hash_key), but the listener {listener} is {word} and reads none"
        );
        check.report.add(route.at, route.path(), message).also(pool.at);
    }
}

/// Reports a pool that would put the TLS of its clients, which passes through, into TLS of ours.
///
/// Where clients may come in clear, it is for those.
fn twice(route: &Table<'_>, is_clear: bool, listener: &listeners::Read, pool: &pools::Read, check: &mut Check<'_>) {
    let passes = listener.protocol_known && listener.model.protocol.reads_hellos() && route.get("tls").is_none();
    if passes && !is_clear && pool.model.tls.is_some() {
        let message = format!(
            "TLS of clients passes through here, but the pool {} would put it into TLS once more",
            quote(&pool.model.name)
        );
        let found = check.report.add(route.at, route.path(), message).also(pool.at);
        found.expected(format!("[{}.tls], or a pool without tls", route.path()));
    }
}

/// Path of a route by name.
pub(super) fn path(name: &str) -> String {
    path_of("route", name)
}
