//! Which routes of a listener have equal keys, and which ones nothing can reach.
//!
//! A route stands in the table under every combination of its names, protocols and networks. The most specific name
//! decides alone, so routes meet only where they share a name; there a named protocol is its own table, and the
//! longest network wins. `acme-tls/1` is named like any other protocol as far as this goes.
//!
//! Lists may hold a million names: what is the same for many names (the set of routes that share them) is looked at
//! once.

// What is hashed here stands in the configuration, by the million: nobody has to be kept from choosing it badly.
use hashbrown::{HashMap, HashSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::listeners::{self, Families};
use super::routes::{List, Read};
use super::{Check, routes};
use crate::config::model::NamePattern;
use crate::config::report::{At, quote};

/// Checks the routes of every listener.
pub(super) fn check(listeners: &[listeners::Read], routes: &[Read], check: &mut Check<'_>) {
    for route in routes {
        repeated(route, check);
    }
    let mut by_listener: Vec<Vec<&Read>> = listeners.iter().map(|_| Vec::new()).collect();
    for route in routes.iter().filter(|route| route.sound) {
        if let Some(listener) = route.listener {
            by_listener[listener].push(route);
        }
    }
    for (listener, routes) in listeners.iter().zip(by_listener) {
        let mut table = Listener {
            routes: &routes,
            families: listener.families(),
            reached: vec![false; routes.len()],
            covering: vec![Vec::new(); routes.len()],
            equal: HashSet::new(),
        };
        for shared in shared_names(&routes) {
            table.look(&shared, check);
        }
        // An address that could not be read may be of the family that reaches a route.
        if listener.bind_known {
            table.unreached(check);
        }
    }
}

/// Reports what a route lists twice.
fn repeated(route: &Read, check: &mut Check<'_>) {
    twice(route, "sni", &route.sni, check);
    let alpn = List {
        values: route.alpn.values.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect(),
        places: route.alpn.places.clone(),
    };
    twice(route, "alpn", &alpn, check);
    twice(route, "from", &route.from, check);
}

fn twice<T: Eq + std::hash::Hash + std::fmt::Display>(route: &Read, key: &str, list: &List<T>, check: &mut Check<'_>) {
    let mut known: HashMap<&T, At> = HashMap::with_capacity(list.values.len());
    for (value, &at) in list.values.iter().zip(&list.places) {
        match known.get(value) {
            Some(&first) => {
                let message = format!("{} is listed twice", quote(&value.to_string()));
                check.report.add(at, format!("{}.{key}", route.path), message).also(first);
            }
            None => {
                known.insert(value, at);
            }
        }
    }
}

/// Routes that share one or more names, with the first of these names.
struct Shared<'r> {
    name: Option<&'r NamePattern>,
    /// Which route, and where it has the name.
    routes: Vec<(usize, At)>,
}

/// Every set of routes that share a name, once; in the order of the files.
fn shared_names<'r>(routes: &[&'r Read]) -> Vec<Shared<'r>> {
    let mut by_name: HashMap<Option<&NamePattern>, usize> = HashMap::new();
    let mut names: Vec<Shared<'r>> = Vec::new();
    let mut add = |name: Option<&'r NamePattern>, route: usize, at: At| {
        let index = *by_name.entry(name).or_insert_with(|| {
            names.push(Shared { name, routes: Vec::with_capacity(1) });
            names.len() - 1
        });
        let routes = &mut names[index].routes;
        if routes.last().is_none_or(|(last, _)| *last != route) {
            routes.push((route, at));
        }
    };
    for (index, route) in routes.iter().enumerate() {
        if route.sni.values.is_empty() {
            add(None, index, route.at);
        }
        for (name, &at) in route.sni.values.iter().zip(&route.sni.places) {
            add(Some(name), index, at);
        }
    }
    let mut seen: HashSet<Vec<usize>> = HashSet::new();
    names.retain(|shared| {
        let set: Vec<usize> = shared.routes.iter().map(|(route, _)| *route).collect();
        seen.insert(set)
    });
    names
}

/// One entry below a name and a protocol.
struct Entry {
    network: IpNet,
    /// Length of the network; -1 where the route names none, which is less than 0.0.0.0/0.
    length: i16,
    route: usize,
    at: At,
}

struct Listener<'r, 'l> {
    routes: &'l [&'r Read],
    families: Families,
    /// Whether something can reach the route.
    reached: Vec<bool>,
    /// Routes whose networks cover those of the route.
    covering: Vec<Vec<usize>>,
    /// Pairs of routes already reported as equal.
    equal: HashSet<(usize, usize)>,
}

impl Listener<'_, '_> {
    /// Looks at the routes that share one name.
    fn look(&mut self, shared: &Shared<'_>, check: &mut Check<'_>) {
        let mut protocols: Vec<Option<&[u8]>> = Vec::new();
        let mut by_protocol: HashMap<Option<&[u8]>, Vec<Entry>> = HashMap::new();
        for &(route, at) in &shared.routes {
            let alpn = &self.routes[route].alpn.values;
            let named = alpn.iter().map(|protocol| Some(&**protocol));
            for protocol in named.chain(alpn.is_empty().then_some(None)) {
                let entries = by_protocol.entry(protocol).or_insert_with(|| {
                    protocols.push(protocol);
                    Vec::new()
                });
                self.enter(route, at, entries);
            }
        }
        for protocol in protocols {
            if let Some(mut entries) = by_protocol.remove(&protocol) {
                entries.sort_by_key(|entry| (entry.network.network(), entry.length, entry.route));
                self.equal(&entries, shared.name, protocol, check);
                self.cover(&entries);
            }
        }
    }

    fn enter(&mut self, route: usize, at: At, entries: &mut Vec<Entry>) {
        let from = &self.routes[route].from.values;
        for &network in from {
            entries.push(Entry { network, length: i16::from(network.prefix_len()), route, at });
        }
        if from.is_empty() {
            // Clients of unix sockets have no network that another route could name.
            self.reached[route] |= self.families.unix;
            for (received, network) in
                [(self.families.v4, IpNet::V4(Ipv4Net::default())), (self.families.v6, IpNet::V6(Ipv6Net::default()))]
            {
                // With unix clients only, both stand for "anybody", so that equal keys are found.
                if received || !(self.families.v4 || self.families.v6) {
                    entries.push(Entry { network, length: -1, route, at });
                }
            }
        }
    }

    fn equal(&mut self, entries: &[Entry], name: Option<&NamePattern>, alpn: Option<&[u8]>, check: &mut Check<'_>) {
        for pair in entries.windows(2) {
            let [first, second] = pair else { continue };
            let same = (first.network, first.length) == (second.network, second.length);
            if !same || first.route == second.route {
                continue;
            }
            // One problem is enough for them.
            self.reached[first.route] = true;
            self.reached[second.route] = true;
            if !self.equal.insert((first.route, second.route)) {
                continue;
            }
            let (earlier, route) = (self.routes[first.route], self.routes[second.route]);
            let name = name.map_or("any name".to_owned(), |name| quote(&name.to_string()));
            let alpn = alpn.map_or("any protocol".to_owned(), |alpn| quote(&String::from_utf8_lossy(alpn)));
            let from = if first.length < 0 { "anywhere".to_owned() } else { first.network.to_string() };
            let earlier = routes::path(&earlier.name);
            let message = format!("has the same key as {earlier}: {name}, {alpn}, from {from}");
            check.report.add(second.at, &route.path, message).also(first.at);
        }
    }

    /// Marks the routes that something can reach: those with a network that longer ones of other routes leave a part
    /// of. The entries are sorted, so what lies within a network follows it.
    fn cover(&mut self, entries: &[Entry]) {
        for (index, entry) in entries.iter().enumerate() {
            if self.reached[entry.route] {
                continue;
            }
            let within = entries[index + 1..].iter().take_while(|other| entry.network.contains(&other.network));
            let longer: Vec<&Entry> =
                within.filter(|other| other.length > entry.length && other.route != entry.route).collect();
            let networks: Vec<IpNet> = longer.iter().map(|other| other.network).collect();
            if IpNet::aggregate(&networks).iter().any(|sum| sum.contains(&entry.network)) {
                let covering = &mut self.covering[entry.route];
                covering.extend(longer.iter().map(|other| other.route));
                covering.sort_unstable();
                covering.dedup();
            } else {
                self.reached[entry.route] = true;
            }
        }
    }

    fn unreached(&self, check: &mut Check<'_>) {
        /// Routes that the message names.
        const SHOWN: usize = 3;
        for (index, route) in self.routes.iter().enumerate() {
            let covering = &self.covering[index];
            if self.reached[index] || covering.is_empty() {
                continue;
            }
            let mut names: Vec<String> =
                covering.iter().take(SHOWN).map(|&other| routes::path(&self.routes[other].name)).collect();
            if covering.len() > SHOWN {
                names.push(format!("{} more", covering.len() - SHOWN));
            }
            let message = format!("nothing can reach it: longer networks take everything: {}", names.join(", "));
            check.report.add(route.at, &route.path, message).also(self.routes[covering[0]].at);
        }
    }
}
