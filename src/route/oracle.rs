//! The rules once more, as a scan over all routes, to compare the tables with.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::tests::{name, protocols, route};
use super::*;

const NAMES: [&str; 7] = ["a", "b.a", "c.b.a", "d.c.b.a", "b.b.a", "c", "d.c"];
const PROTOCOLS: [&str; 4] = ["h2", "http/1.1", "acme-tls/1", "x"];
const NETWORKS: [&str; 6] = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.1/32", "::/0", "2001:db8::/32"];
const SOURCES: [&str; 5] = ["10.0.0.1", "10.200.0.1", "::ffff:10.0.0.1", "2001:db8::1", "192.0.2.1"];

fn any_route() -> impl Strategy<Value = Route> {
    let sni = prop::sample::subsequence(
        NAMES
            .iter()
            .flat_map(|name| [(*name).to_owned(), format!("*.{name}"), format!("**.{name}")])
            .collect::<Vec<_>>(),
        0..4,
    );
    let alpn = prop::sample::subsequence(PROTOCOLS.to_vec(), 0..3);
    let from = prop::sample::subsequence(NETWORKS.to_vec(), 0..3);
    (sni, alpn, from, any::<u32>())
        .prop_map(|(sni, alpn, from, id)| route(&format!("r{id}"), &sni.join(" "), &alpn.join(" "), &from.join(" ")))
}

type Key = (Option<NamePattern>, Option<Box<[u8]>>, Option<IpNet>);

/// Everything that two routes must not have in common, as the configuration demands.
fn keys(route: &Route) -> Vec<Key> {
    fn or_none<T: Clone>(list: &[T]) -> Vec<Option<T>> {
        if list.is_empty() { vec![None] } else { list.iter().cloned().map(Some).collect() }
    }
    let mut keys = Vec::new();
    for name in or_none(&route.sni) {
        for protocol in or_none(&route.alpn) {
            keys.extend(or_none(&route.from).into_iter().map(|from| (name.clone(), protocol.clone(), from)));
        }
    }
    keys
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    prop::collection::vec(any_route(), 0..12).prop_map(|mut routes| {
        let mut taken = HashSet::new();
        routes.retain(|route| {
            let keys = keys(route);
            let free = keys.iter().all(|key| !taken.contains(key));
            taken.extend(keys.into_iter().filter(|_| free));
            free
        });
        routes
    })
}

/// The rules, word for word, by looking at every route: the answer, or why not.
fn oracle(routes: &[Route], sni: Option<&str>, alpn: &[Box<[u8]>], source: Option<IpAddr>) -> Result<usize, Refusal> {
    let source = source.map(|source| source.to_canonical());
    let acme = alpn.iter().any(|protocol| **protocol == *b"acme-tls/1");
    // How specific a name is: labels in the suffix, and the kind.
    let specific = |pattern: &NamePattern| {
        let sni = sni?;
        let in_front = |suffix: &Name| Some(sni.strip_suffix(suffix.as_str())?.strip_suffix('.')?.split('.').count());
        match pattern {
            NamePattern::Exact(name) => (name.as_str() == sni).then_some((usize::MAX, 2)),
            NamePattern::OneLabel(name) => (in_front(name)? == 1).then_some((name.as_str().len(), 1)),
            NamePattern::AnyDepth(name) => (in_front(name)? >= 1).then_some((name.as_str().len(), 0)),
        }
    };
    let mut named = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let of_protocol: Vec<&[u8]> = route
            .alpn
            .iter()
            .map(|protocol| &**protocol)
            .filter(|protocol| (*protocol == b"acme-tls/1") == acme)
            .collect();
        if of_protocol.is_empty() && (acme || !route.alpn.is_empty()) {
            continue;
        }
        let specific = match route.sni.is_empty() {
            true => Some((0, 0)),
            false => route.sni.iter().filter_map(specific).max(),
        };
        named.extend(specific.map(|specific| (specific, index, of_protocol)));
    }
    let best_name = named.iter().map(|(specific, ..)| *specific).max().ok_or(Refusal::NoRoute)?;
    let mut accepting = Vec::new();
    for (_, index, protocols) in named.into_iter().filter(|(specific, ..)| *specific == best_name) {
        let route = &routes[index];
        let lengths: Vec<Option<u8>> = match route.from.is_empty() {
            true => vec![None],
            false => route
                .from
                .iter()
                .filter(|net| source.is_some_and(|s| net.contains(&s)))
                .map(|net| Some(net.prefix_len()))
                .collect(),
        };
        let places: Vec<Option<usize>> = match protocols.is_empty() {
            true => vec![None],
            false => (0..alpn.len()).filter(|&at| protocols.contains(&&*alpn[at])).map(Some).collect(),
        };
        for length in lengths {
            accepting.extend(places.iter().map(|place| (place.is_some(), length, std::cmp::Reverse(*place), index)));
        }
    }
    accepting.into_iter().max().map(|(.., index)| index).ok_or(Refusal::Denied)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_table_answers_like_a_scan_in_any_order(
        (routes, shuffled) in any_routes().prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle())),
        asked in prop::collection::vec((
            prop::option::of(prop::sample::select(NAMES.to_vec())),
            prop::sample::subsequence(PROTOCOLS.to_vec(), 0..4).prop_shuffle(),
            prop::option::of(prop::sample::select(SOURCES.to_vec())),
        ), 1..20),
    ) {
        let (router, other) = (Router::of(&routes, 0), Router::of(&shuffled, 0));
        for (sni, alpn, source) in asked {
            let (alpn, source) = (protocols(&alpn.join(" ")), source.map(|source| source.parse().unwrap()));
            let expected = oracle(&routes, sni, &alpn, source);
            let sni = sni.map(name);
            let answer = router.find(sni.as_ref(), alpn.iter().map(|protocol| &**protocol), source);
            prop_assert_eq!(answer, expected);
            let answer = answer.map(|route| &routes[route].name);
            prop_assert_eq!(other.find(sni.as_ref(), alpn.iter().map(|protocol| &**protocol), source).map(|route| &shuffled[route].name), answer);
        }
    }
}
