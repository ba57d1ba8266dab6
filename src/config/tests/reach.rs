//! Routes against each other: equal keys, and what nothing can reach.

use std::collections::{BTreeSet, HashSet};

use insta::assert_snapshot;
use proptest::prelude::*;

use super::{GOOD, replaced, with_good};

#[test]
fn equal_keys() {
    let cases = [
        ("names", "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x.example', 'WWW.example.com.']\n"),
        ("no name", "[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\n\n"),
        (
            "names and protocols",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = ['a', 'b']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = ['y', 'x']\nalpn = ['c', 'b']\n",
        ),
        (
            "names and networks",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.1.0.0/16']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.1.0.0/16', '10.1.1.1']\n",
        ),
        (
            "once for each pair",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x', 'y', 'z']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = ['z', 'y', 'x']\n",
        ),
        (
            "three",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "challenges",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'acme-tls/1'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'acme-tls/1'\n",
        ),
        (
            "different kinds of names",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = '*.x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = '**.x'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "different protocols",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'a'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'b'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "different networks",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/9'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    names
      main.toml:11:7: route.www: has the same key as route.b: "www.example.com", any protocol, from anywhere (see main.toml:4:21)
    no name
      main.toml:5:8: route.c: has the same key as route.b: any name, any protocol, from anywhere (see main.toml:1:8)
    names and protocols
      main.toml:9:13: route.c: has the same key as route.b: "x", "b", from anywhere (see main.toml:4:7)
    names and networks
      main.toml:9:7: route.c: has the same key as route.b: "x", any protocol, from 10.1.0.0/16 (see main.toml:4:7)
    once for each pair
      main.toml:8:18: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:4:8)
    three
      main.toml:8:7: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:4:7)
      main.toml:12:7: route.d: has the same key as route.c: "x", any protocol, from anywhere (see main.toml:8:7)
    challenges
      main.toml:9:7: route.c: has the same key as route.b: "x", "acme-tls/1", from anywhere (see main.toml:4:7)
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
        (
            "by two halves",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "all there is",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '0.0.0.0/1'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '128.0.0.0/1'\n",
        ),
        (
            "anywhere by everything",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "not by a part",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/10']\n",
        ),
        (
            "not for another name",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x', 'y']\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "not for another protocol",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'a'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "not by its own",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.0.0.0/9']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.128.0.0/9'\n",
        ),
        (
            "not by what is its own further in",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.0.0.0/10']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    by two halves
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:6:8)
    all there is
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c, route.d (see main.toml:5:8)
    anywhere by everything
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:5:8)
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
        (
            "IPv6 too",
            "bind = ['0.0.0.0:443', '[::]:443']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "unix too",
            "bind = ['0.0.0.0:443', 'unix:/run/x']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "both covered",
            "bind = ['0.0.0.0:443', '[::]:443']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = ['0.0.0.0/0', '::/1', '8000::/1']\n",
        ),
        (
            "equal over unix",
            "bind = 'unix:/run/x'\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\n\n",
        ),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
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
        let all: Vec<(u32, u32)> = routes.iter().flatten().copied().collect();
        let distinct: HashSet<(u32, u32)> = all.iter().copied().collect();
        prop_assume!(all.len() == distinct.len());
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
