//! Routes against each other: equal keys, and what nothing can reach.

use std::collections::{BTreeSet, HashSet};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{GOOD, replaced, with_good};

/// The case with each `@name key; key` written as a route of that name from the listener to the pool of [`GOOD`].
fn routes((name, text): (&'static str, &str)) -> (&'static str, String) {
    let mut parts = text.split('@');
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, keys) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
        let keys = keys.replace("; ", "\n");
        written += &format!("\n[route.{name}]\nlistener = 'edge'\npool = 'web'\n{keys}");
    }
    (name, written)
}

#[test]
fn equal_keys() {
    let cases = [
        ("names", "@b sni = ['x.example', 'WWW.example.com.']"),
        ("no name", "@b @c"),
        ("names and protocols", "@b sni = 'x'; alpn = ['a', 'b'] @c sni = ['y', 'x']; alpn = ['c', 'b']"),
        (
            "names and networks",
            "@b sni = 'x'; from = ['10.0.0.0/8', '10.1.0.0/16'] @c sni = 'x'; from = ['10.1.0.0/16', '10.1.1.1']",
        ),
        ("once for each pair", "@b sni = ['x', 'y', 'z'] @c sni = ['z', 'y', 'x']"),
        ("three", "@b sni = 'x' @c sni = 'x' @d sni = 'x'"),
        ("challenges", "@b sni = 'x'; alpn = 'acme-tls/1' @c sni = 'x'; alpn = 'acme-tls/1'"),
        ("different kinds of names", "@b sni = '*.x' @c sni = '**.x' @d sni = 'x'"),
        ("different protocols", "@b sni = 'x'; alpn = 'a' @c sni = 'x'; alpn = 'b' @d sni = 'x'"),
        ("different networks", "@b sni = 'x'; from = '10.0.0.0/8' @c sni = 'x'; from = '10.0.0.0/9' @d sni = 'x'"),
    ];
    assert_snapshot!(with_good(&cases.map(routes)), @r#"
    names
      main.toml:11:7: route.www: has the same key as route.b: "www.example.com", any protocol, from anywhere (see main.toml:5:21)
    no name
      main.toml:6:8: route.c: has the same key as route.b: any name, any protocol, from anywhere (see main.toml:2:8)
    names and protocols
      main.toml:10:13: route.c: has the same key as route.b: "x", "b", from anywhere (see main.toml:5:7)
    names and networks
      main.toml:10:7: route.c: has the same key as route.b: "x", any protocol, from 10.1.0.0/16 (see main.toml:5:7)
    once for each pair
      main.toml:9:18: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:5:8)
    three
      main.toml:9:7: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:5:7)
      main.toml:13:7: route.d: has the same key as route.c: "x", any protocol, from anywhere (see main.toml:9:7)
    challenges
      main.toml:10:7: route.c: has the same key as route.b: "x", "acme-tls/1", from anywhere (see main.toml:5:7)
    different kinds of names
      fine
    different protocols
      fine
    different networks
      fine
    "#);
}

#[test]
fn covered_networks() {
    let cases = [
        ("by two halves", "@b sni = 'x'; from = '10.0.0.0/8' @c sni = 'x'; from = ['10.0.0.0/9', '10.128.0.0/9']"),
        ("all there is", "@b sni = 'x' @c sni = 'x'; from = '0.0.0.0/1' @d sni = 'x'; from = '128.0.0.0/1'"),
        ("anywhere by everything", "@b sni = 'x' @c sni = 'x'; from = '0.0.0.0/0'"),
        ("not by a part", "@b sni = 'x'; from = '10.0.0.0/8' @c sni = 'x'; from = ['10.0.0.0/9', '10.128.0.0/10']"),
        (
            "not for another name",
            "@b sni = ['x', 'y']; from = '10.0.0.0/8' @c sni = 'x'; from = ['10.0.0.0/9', '10.128.0.0/9']",
        ),
        (
            "not for another protocol",
            "@b sni = 'x'; from = '10.0.0.0/8' @c sni = 'x'; alpn = 'a'; from = ['10.0.0.0/9', '10.128.0.0/9']",
        ),
        ("not by its own", "@b sni = 'x'; from = ['10.0.0.0/8', '10.0.0.0/9'] @c sni = 'x'; from = '10.128.0.0/9'"),
        (
            "not by what is its own further in",
            "@b sni = 'x'; from = ['10.0.0.0/8', '10.0.0.0/10'] @c sni = 'x'; from = ['10.0.0.0/9', '10.128.0.0/9']",
        ),
    ];
    assert_snapshot!(with_good(&cases.map(routes)), @r#"
    by two halves
      main.toml:2:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:7:8)
    all there is
      main.toml:2:8: route.b: nothing can reach it: longer networks take everything: route.c, route.d (see main.toml:6:8)
    anywhere by everything
      main.toml:2:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:6:8)
    not by a part
      fine
    not for another name
      fine
    not for another protocol
      fine
    not by its own
      fine
    not by what is its own further in
      fine
    "#);
}

#[test]
fn anywhere_is_what_the_listener_receives() {
    let cases = [
        ("IPv6 too", "bind = ['0.0.0.0:443', '[::]:443'] @b @c from = '0.0.0.0/0'"),
        ("unix too", "bind = ['0.0.0.0:443', 'unix:/run/x'] @b @c from = '0.0.0.0/0'"),
        ("both covered", "bind = ['0.0.0.0:443', '[::]:443'] @b @c from = ['0.0.0.0/0', '::/1', '8000::/1']"),
        ("equal over unix", "bind = 'unix:/run/x' @b @c"),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases.map(routes)), @r#"
    IPv6 too
      fine
    unix too
      fine
    both covered
      main.toml:4:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:8:8)
    equal over unix
      main.toml:8:8: route.c: has the same key as route.b: any name, any protocol, from anywhere (see main.toml:4:8)
    "#);
}

/// Networks within 10.0.0.0/28, small enough to try every address.
fn network() -> impl Strategy<Value = (u32, u32)> {
    (28u32..=32).prop_flat_map(|length| (0..1u32 << (length - 28), Just(length)))
}

fn written((index, length): (u32, u32)) -> String {
    format!("10.0.0.{}/{length}", index << (32 - length))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against the rule itself, tried with every address.
    #[test]
    fn unreachable_is_what_no_address_reaches(
        routes in prop::collection::vec(prop::collection::btree_set(network(), 1..5), 1..6)
    ) {
        // A network belongs to the first route that has it: equal keys are another matter.
        let mut taken = HashSet::new();
        let mut routes = routes;
        routes.iter_mut().for_each(|networks| networks.retain(|&network| taken.insert(network)));
        routes.retain(|networks| !networks.is_empty());
        let winner = |address: u32| {
            let holds = |network: &&(u32, u32)| network.0 == address >> (32 - network.1);
            let longest = |networks: &BTreeSet<(u32, u32)>| networks.iter().filter(holds).map(|each| each.1).max();
            let best = routes.iter().enumerate().filter_map(|(index, each)| Some((longest(each)?, index))).max();
            best.map(|(_, index)| index)
        };
        let reached: HashSet<usize> = (0..16).filter_map(winner).collect();
        let mut text = GOOD.to_owned();
        for (index, networks) in routes.iter().enumerate() {
            let from: Vec<String> = networks.iter().map(|&network| format!("'{}'", written(network))).collect();
            text += &format!("[route.r{index}]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = [{}]\n", from.join(","));
        }
        let said = super::said(&text);
        for index in 0..routes.len() {
            let unreachable = said.contains(&format!(": route.r{index}: nothing can reach it"));
            prop_assert_eq!(unreachable, !reached.contains(&index), "route.r{} of\n{}\n{}", index, text, said);
        }
    }
}
