//! Which route a connection takes: from a name, protocols and a source to one route of its listener.
//!
//! The rules, strongest first:
//! 1. A hello that offers `acme-tls/1` (RFC 8737) finds only routes that name it; other hellos never match on it.
//! 2. The most specific name decides alone: the exact one, else the wildcard with the longest suffix (`*.` before `**.`
//!    at the same suffix), else the routes without names, which take any name and none.
//! 3. Of its routes, those that take one of the protocols and the source: a named protocol before none, then the
//!    longest network (routes without networks last), then the client's own order of protocols.
//!    If none does, the connection is denied: a less specific name is never tried.
//!
//! Pure look-up: no sockets, no state. No answer depends on the order of the routes, because the configuration refuses
//! two routes of a listener with the same name, protocol and network.

mod group;
mod names;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::model::{Config, NamePattern, Route};
use crate::wire::name::Name;
use group::{Group, Member};
use names::Names;

/// The protocol that certificate authorities speak to validate a name (RFC 8737, section 3).
const ACME: &[u8] = b"acme-tls/1";

/// The routes of one listener, ready for look-ups.
#[derive(Debug)]
pub struct Router {
    acme: Table,
    others: Table,
}

/// Why no route was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No route has this name.
    #[error("no route has this name")]
    NoRoute,
    /// Routes have this name, but none takes these protocols from this source.
    #[error("the routes of this name refuse the protocol or the source")]
    Denied,
}

impl Router {
    /// The routes of the listener at `listener` in [`Config::listeners`].
    pub fn new(config: &Config, listener: usize) -> Router {
        Router::of(&config.routes, listener)
    }

    fn of(routes: &[Route], listener: usize) -> Router {
        let ours = || routes.iter().enumerate().filter(move |(_, route)| route.listener == listener);
        let acme = |route: &Route| route.alpn.iter().any(|protocol| **protocol == *ACME);
        let only_acme = |route: &Route| !route.alpn.is_empty() && route.alpn.iter().all(|protocol| **protocol == *ACME);
        Router {
            acme: Table::new(ours().filter(|(_, route)| acme(route)).map(|(index, route)| Member::any(index, route))),
            others: Table::new(
                ours().filter(|(_, route)| !only_acme(route)).map(|(index, route)| Member::without(index, route, ACME)),
            ),
        }
    }

    /// Index into [`Config::routes`] of the route for what a client said and where it is; `source` is `None` behind a
    /// unix socket, where only routes without networks match. Costs at most one probe of a hash table a label.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn find<'a>(
        &self,
        name: Option<&Name>,
        alpn: impl IntoIterator<Item = &'a [u8]> + Clone,
        source: Option<IpAddr>,
    ) -> Result<usize, Refusal> {
        let table = if alpn.clone().into_iter().any(|protocol| protocol == ACME) { &self.acme } else { &self.others };
        let group = table.group(name).ok_or(Refusal::NoRoute)?;
        group.find(alpn, source.map(|source| source.to_canonical())).ok_or(Refusal::Denied)
    }
}

/// From a name to the group of routes that have it.
#[derive(Debug)]
struct Table {
    names: Names,
    /// Bit n is set if a wildcard has a suffix of n labels: other suffixes are not looked up.
    depths: u128,
    nameless: GroupIndex,
    /// Each set of routes stands here once, however many names share it.
    groups: Vec<Group>,
}

/// Index into [`Table::groups`]: half the size of a reference, for tables of a million names.
type GroupIndex = u32;
/// No group: beyond any table.
const NONE: GroupIndex = GroupIndex::MAX;

/// The groups of one name as it stands and of the wildcards over it.
#[derive(Debug)]
struct Slot {
    exact: GroupIndex,
    one_label: GroupIndex,
    any_depth: GroupIndex,
}

impl Table {
    fn new<'a>(members: impl Iterator<Item = Member<'a>>) -> Table {
        let members: Vec<Member<'_>> = members.collect();
        let listed = by_pattern(&members);
        let names = Names::with_capacity(listed.chunk_by(|a, b| a.0 == b.0).count());
        let mut table = Table { names, depths: 0, nameless: NONE, groups: Vec::new() };
        let mut known: HashMap<Vec<usize>, GroupIndex> = HashMap::new();
        let mut same_name = Vec::new();
        for entries in listed.chunk_by(|a, b| a.0 == b.0) {
            same_name.clear();
            same_name.extend(entries.iter().map(|(_, member)| *member));
            same_name.dedup();
            let group = match known.get(&same_name) {
                Some(&group) => group,
                None => {
                    let group = table.add(Group::new(same_name.iter().filter_map(|&member| members.get(member))));
                    known.insert(same_name.clone(), group);
                    group
                }
            };
            if let Some((pattern, _)) = entries.first() {
                table.list(*pattern, group);
            }
        }
        table.groups.shrink_to_fit();
        table
    }

    fn add(&mut self, group: Group) -> GroupIndex {
        self.groups.push(group);
        GroupIndex::try_from(self.groups.len() - 1).unwrap_or(NONE)
    }

    fn list(&mut self, pattern: Option<&NamePattern>, group: GroupIndex) {
        let Some(pattern) = pattern else {
            self.nameless = group;
            return;
        };
        let (NamePattern::Exact(name) | NamePattern::OneLabel(name) | NamePattern::AnyDepth(name)) = pattern;
        let slot = self.names.entry(name.as_str());
        match pattern {
            NamePattern::Exact(_) => slot.exact = group,
            NamePattern::OneLabel(_) => slot.one_label = group,
            NamePattern::AnyDepth(_) => slot.any_depth = group,
        }
        if !matches!(pattern, NamePattern::Exact(_)) {
            self.depths |= depth_bit(labels(name.as_str()));
        }
    }

    /// The routes of the most specific name.
    fn group(&self, name: Option<&Name>) -> Option<&Group> {
        let named = name.and_then(|name| self.exact(name.as_str()).or_else(|| self.wildcard(name.as_str())));
        named.or_else(|| self.at(self.nameless))
    }

    fn exact(&self, name: &str) -> Option<&Group> {
        self.at(self.names.get(name)?.exact)
    }

    fn wildcard(&self, name: &str) -> Option<&Group> {
        let (mut suffix, mut depth) = (name, labels(name));
        while let Some(parent) = Name::parent(suffix) {
            let direct = suffix.len() == name.len();
            depth -= 1;
            if self.depths & depth_bit(depth) != 0
                && let Some(slot) = self.names.get(parent)
            {
                let one_label = if direct { self.at(slot.one_label) } else { None };
                if let Some(group) = one_label.or_else(|| self.at(slot.any_depth)) {
                    return Some(group);
                }
            }
            suffix = parent;
        }
        None
    }

    fn at(&self, group: GroupIndex) -> Option<&Group> {
        self.groups.get(group as usize)
    }
}

impl Slot {
    const EMPTY: Slot = Slot { exact: NONE, one_label: NONE, any_depth: NONE };
}

/// Every name with every member that lists it, equal names side by side; `None` for members without names.
fn by_pattern<'a>(members: &[Member<'a>]) -> Vec<(Option<&'a NamePattern>, usize)> {
    let mut listed = Vec::new();
    for (index, member) in members.iter().enumerate() {
        match member.route.sni.as_slice() {
            [] => listed.push((None, index)),
            patterns => listed.extend(patterns.iter().map(|pattern| (Some(pattern), index))),
        }
    }
    listed.sort_unstable();
    listed
}

fn labels(name: &str) -> u32 {
    name.bytes().fold(1, |labels, byte| labels + u32::from(byte == b'.'))
}

/// A name has at most 127 labels.
fn depth_bit(labels: u32) -> u128 {
    1_u128.checked_shl(labels).unwrap_or_default()
}
