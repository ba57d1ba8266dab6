#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::wire::name::Written;

pub(super) fn name(text: &str) -> Name {
    match Name::read(text.as_bytes()) {
        Ok(Written::Name(name)) => name,
        other => panic!("{text} is no name: {other:?}"),
    }
}

fn pattern(text: &str) -> NamePattern {
    match (text.strip_prefix("**."), text.strip_prefix("*.")) {
        (Some(suffix), _) => NamePattern::AnyDepth(name(suffix)),
        (_, Some(suffix)) => NamePattern::OneLabel(name(suffix)),
        _ => NamePattern::Exact(name(text)),
    }
}

/// A route of listener 0. The lists are written as in the file, separated by spaces.
pub(super) fn route(name: &str, sni: &str, alpn: &str, from: &str) -> Route {
    Route {
        name: name.to_owned(),
        listener: 0,
        sni: sni.split_whitespace().map(pattern).collect(),
        alpn: protocols(alpn),
        allow_cleartext: false,
        from: from.split_whitespace().map(|network| network.parse().unwrap()).collect(),
        tls: None,
        pool: 0,
        acme: None,
    }
}

pub(super) fn protocols(list: &str) -> Vec<Box<[u8]>> {
    list.split_whitespace().map(|protocol| protocol.as_bytes().into()).collect()
}

/// Name of the route found, or `no route`, or `denied`. An empty name or source is none.
fn found<'a>(routes: &'a [Route], router: &Router, sni: &str, alpn: &str, source: &str) -> &'a str {
    let sni = (!sni.is_empty()).then(|| name(sni));
    let source = (!source.is_empty()).then(|| source.parse().unwrap());
    match router.find(sni.as_ref(), protocols(alpn).iter().map(|protocol| &**protocol), source) {
        Ok(route) => &routes[route].name,
        Err(Refusal::NoRoute) => "no route",
        Err(Refusal::Denied) => "denied",
    }
}

/// Looks every case up, with the routes in both orders: name, protocols, source, expected.
fn check(mut routes: Vec<Route>, cases: &[(&str, &str, &str, &str)]) {
    for _ in 0..2 {
        let router = Router::of(&routes, 0);
        for &(sni, alpn, source, expected) in cases {
            let found = found(&routes, &router, sni, alpn, source);
            assert_eq!(found, expected, "{sni:?} offering {alpn:?} from {source:?}");
        }
        routes.reverse();
    }
}

#[test]
fn the_most_specific_name() {
    check(
        vec![
            route("exact", "a.b.example", "", ""),
            route("one", "*.b.example", "", ""),
            route("any", "**.b.example", "", ""),
            route("shorter any", "**.example", "", ""),
            route("shorter one", "*.example", "", ""),
            route("two names", "x.test *.y.test", "", ""),
        ],
        &[
            ("a.b.example", "", "", "exact"),
            ("A.B.Example.", "", "", "exact"),
            ("b.b.example", "", "", "one"),
            ("c.a.b.example", "", "", "any"),
            ("d.c.a.b.example", "", "", "any"),
            ("b.example", "", "", "shorter one"),
            ("a.c.example", "", "", "shorter any"),
            ("example", "", "", "no route"),
            ("x.test", "", "", "two names"),
            ("z.y.test", "", "", "two names"),
            ("y.test", "", "", "no route"),
            ("a.z.y.test", "", "", "no route"),
            ("xb.example.org", "", "", "no route"),
            ("", "", "", "no route"),
        ],
    );
}

#[test]
fn a_longer_suffix_beats_the_kind_of_wildcard() {
    check(
        vec![route("any", "**.b.example", "", ""), route("one", "*.example", "", "")],
        &[("a.b.example", "", "", "any"), ("b.example", "", "", "one"), ("a.c.example", "", "", "no route")],
    );
}

#[test]
fn routes_without_names_take_any_name_and_none() {
    check(
        vec![route("rest", "", "", ""), route("named", "a.example", "", "")],
        &[("", "", "", "rest"), ("b.example", "", "", "rest"), ("a.example", "", "", "named")],
    );
}

#[test]
fn a_refused_name_is_denied_and_not_tried_again() {
    check(
        vec![
            route("inner", "a.example", "", "10.0.0.0/8"),
            route("h2", "*.example", "h2", ""),
            route("rest", "", "", ""),
        ],
        &[
            ("a.example", "", "10.1.2.3", "inner"),
            ("a.example", "h2", "192.0.2.1", "denied"),
            ("a.example", "", "", "denied"),
            ("b.example", "h2", "", "h2"),
            ("b.example", "http/1.1", "", "denied"),
            ("b.example", "", "", "denied"),
            ("c.test", "http/1.1", "", "rest"),
        ],
    );
}

#[test]
fn protocol_then_network_then_the_order_of_the_client() {
    check(
        vec![
            route("h2", "a.example", "h2", ""),
            route("h2 near", "a.example", "h2", "10.0.0.0/8"),
            route("h1 nearer", "a.example", "http/1.1", "10.1.0.0/16"),
            route("h1", "a.example", "http/1.1", "192.0.2.0/24"),
            route("any", "a.example", "", ""),
            route("any nearest", "a.example", "", "10.1.1.1/32"),
            route("any v4", "a.example", "", "0.0.0.0/0"),
        ],
        &[
            ("a.example", "h2", "198.51.100.1", "h2"),
            ("a.example", "http/1.1 h2", "10.2.0.1", "h2 near"),
            ("a.example", "h2 http/1.1", "10.1.0.1", "h1 nearer"),
            ("a.example", "h2 http/1.1", "10.1.1.1", "h1 nearer"),
            ("a.example", "x y", "10.1.1.1", "any nearest"),
            ("a.example", "http/1.1", "198.51.100.1", "any v4"),
            ("a.example", "http/1.1", "2001:db8::1", "any"),
            ("a.example", "", "", "any"),
        ],
    );
    check(
        vec![route("h2", "", "h2", ""), route("h1", "", "http/1.1", "")],
        &[("", "h2 http/1.1", "", "h2"), ("", "http/1.1 h2", "", "h1"), ("", "x http/1.1", "", "h1")],
    );
}

#[test]
fn acme_has_a_table_of_its_own() {
    check(
        vec![
            route("solver", "", "acme-tls/1", ""),
            route("own solver", "*.b.example", "acme-tls/1 h2", "10.0.0.0/8"),
            route("web", "a.example", "", ""),
        ],
        &[
            ("a.example", "acme-tls/1", "", "solver"),
            ("a.example", "h2 acme-tls/1", "", "solver"),
            ("a.example", "h2", "", "web"),
            ("x.b.example", "acme-tls/1", "10.0.0.1", "own solver"),
            ("x.b.example", "acme-tls/1", "192.0.2.1", "denied"),
            ("x.b.example", "h2", "10.0.0.1", "own solver"),
            ("x.b.example", "", "10.0.0.1", "denied"),
            ("c.example", "h2", "", "no route"),
            ("", "", "", "no route"),
        ],
    );
    check(vec![route("web", "a.example", "", "")], &[("a.example", "acme-tls/1", "", "no route")]);
}

#[test]
fn mapped_addresses_are_ipv4() {
    check(
        vec![
            route("v4", "", "", "192.0.2.0/24"),
            route("mapped", "", "", "::ffff:198.51.100.0/120"),
            route("v6", "", "", "::/0"),
        ],
        &[
            ("", "", "::ffff:192.0.2.9", "v4"),
            ("", "", "192.0.2.9", "v4"),
            ("", "", "198.51.100.9", "mapped"),
            ("", "", "::ffff:198.51.100.9", "mapped"),
            ("", "", "::ffff:203.0.113.9", "denied"),
            ("", "", "2001:db8::1", "v6"),
        ],
    );
}

#[test]
fn other_listeners_have_routes_of_their_own() {
    let mut routes = vec![route("other", "a.example", "", ""), route("ours", "b.example", "", "")];
    routes[0].listener = 1;
    check(routes, &[("a.example", "", "", "no route"), ("b.example", "", "", "ours")]);
}

#[test]
fn names_share_their_group() {
    let many: String = (0..1000).map(|n| format!("n{n}.example *.n{n}.example ")).collect();
    let router = Router::of(&[route("r", &many, "h2", ""), route("s", "n1.example", "", "")], 0);
    assert_eq!((router.others.names.len(), router.others.groups.len()), (1000, 2));
    assert_eq!(router.acme.names.capacity(), 0);
}
