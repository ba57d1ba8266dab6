//! The routes that share one name: which of them takes a protocol from a source.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use prefix_trie::joint::JointPrefixMap;

use crate::config::model::Route;

/// A route as it stands in one table.
pub(super) struct Member<'a> {
    index: usize,
    pub(super) route: &'a Route,
    /// Protocols it asks for; empty: any or none.
    protocols: Vec<&'a [u8]>,
}

impl<'a> Member<'a> {
    /// Whatever protocols the route names.
    pub(super) fn any(index: usize, route: &'a Route) -> Member<'a> {
        Member { index, route, protocols: Vec::new() }
    }

    /// All protocols that the route names but one.
    pub(super) fn without(index: usize, route: &'a Route, protocol: &[u8]) -> Member<'a> {
        let protocols = route.alpn.iter().map(|named| &**named).filter(|named| *named != protocol).collect();
        Member { index, route, protocols }
    }
}

/// The routes of one name.
#[derive(Debug)]
pub(super) enum Group {
    /// One route that takes everything: nearly every name there is.
    One(usize),
    /// Anything else.
    Rules(Box<Rules>),
}

/// Routes by protocol.
#[derive(Debug)]
pub(super) struct Rules {
    /// Sorted.
    named: Vec<(Box<[u8]>, Sources)>,
    any: Sources,
}

/// Routes by source.
#[derive(Debug, Default)]
struct Sources {
    networks: JointPrefixMap<IpNet, usize>,
    anywhere: Option<usize>,
}

impl Group {
    pub(super) fn new<'a>(members: impl Iterator<Item = &'a Member<'a>>) -> Group {
        let (mut named, mut any) = (BTreeMap::<&[u8], Sources>::new(), Sources::default());
        for member in members {
            if member.protocols.is_empty() {
                any.add(member);
            }
            for &protocol in &member.protocols {
                named.entry(protocol).or_default().add(member);
            }
        }
        match any.anywhere {
            Some(route) if named.is_empty() && any.networks.is_empty() => Group::One(route),
            _ => {
                let named = named.into_iter().map(|(protocol, sources)| (protocol.into(), sources)).collect();
                Group::Rules(Box::new(Rules { named, any }))
            }
        }
    }

    /// The route that takes one of the protocols from the source.
    pub(super) fn find<'a>(&self, alpn: impl IntoIterator<Item = &'a [u8]>, source: Option<IpAddr>) -> Option<usize> {
        match self {
            Group::One(route) => Some(*route),
            Group::Rules(rules) => rules.find(alpn, source),
        }
    }
}

impl Rules {
    fn find<'a>(&self, alpn: impl IntoIterator<Item = &'a [u8]>, source: Option<IpAddr>) -> Option<usize> {
        let mut best: Option<Found> = None;
        if !self.named.is_empty() {
            for protocol in alpn {
                let found = self.named(protocol).and_then(|sources| sources.find(source));
                // At equal length the protocol that the client put first stays.
                if let Some(found) = found
                    && best.as_ref().is_none_or(|best| found.length > best.length)
                {
                    best = Some(found);
                }
            }
        }
        best.or_else(|| self.any.find(source)).map(|found| found.route)
    }

    fn named(&self, protocol: &[u8]) -> Option<&Sources> {
        let at = self.named.binary_search_by(|(named, _)| (**named).cmp(protocol)).ok()?;
        self.named.get(at).map(|(_, sources)| sources)
    }
}

/// A route that takes the source.
struct Found {
    /// Length of the network that the source is in; `None`: the route asks for none.
    length: Option<u8>,
    route: usize,
}

impl Sources {
    fn add(&mut self, member: &Member<'_>) {
        if member.route.from.is_empty() {
            self.anywhere = Some(member.index);
        }
        for &network in &member.route.from {
            self.networks.insert(canonical(network), member.index);
        }
    }

    fn find(&self, source: Option<IpAddr>) -> Option<Found> {
        let network = source.and_then(|source| self.networks.get_lpm(&IpNet::from(source)));
        match network {
            Some((network, &route)) => Some(Found { length: Some(network.prefix_len()), route }),
            None => self.anywhere.map(|route| Found { length: None, route }),
        }
    }
}

/// A network of IPv4-mapped IPv6 addresses is an IPv4 network, as the addresses in it are IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}
