//! What is said of the PROXY protocol: `listener.proxy_from`, `pool.send_proxy` and `pool.transparent`.

use insta::assert_snapshot;

use super::{GOOD, parse, replaced, said};
use crate::config::model::{SendProxy, SentTlvs};

#[test]
fn senders() {
    let cases = [
        ("networks", "bind = ['0.0.0.0:443', '[::]:443', 'unix:/run/x']\nproxy_from = ['10.0.0.0/8', '::1', 'unix']"),
        ("one", "bind = '0.0.0.0:443'\nproxy_from = '10.0.0.1'"),
        ("empty", "bind = '0.0.0.0:443'\nproxy_from = []"),
        ("not a network", "bind = '0.0.0.0:443'\nproxy_from = ['10.0.0.0/33', 'lo', 7]"),
        ("twice", "bind = '0.0.0.0:443'\nproxy_from = ['10.0.0.1', '10.0.0.1/32']"),
        ("of no address", "bind = '0.0.0.0:443'\nproxy_from = ['10.0.0.1', '::1', 'unix']"),
        (
            "headers speak for any family",
            "bind = 'unix:/run/x'\nproxy_from = 'unix'\n[route.b]\nlistener = 'edge'\npool = 'web'\nfrom = ['10.0.0.0/8', '::/0']",
        ),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    networks
      fine
    one
      fine
    empty
      main.toml:4:14: listener.edge.proxy_from: nobody is in an empty list; leave the key out where nobody sends a PROXY header
    not a network
      main.toml:4:15: listener.edge.proxy_from[0]: "10.0.0.0/33" is not a network; expected a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"
      main.toml:4:30: listener.edge.proxy_from[1]: "lo" is not a network; expected a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"
      main.toml:4:36: listener.edge.proxy_from[2]: found 7; expected a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"
    twice
      main.toml:4:27: listener.edge.proxy_from[1]: 10.0.0.1/32 is listed twice (see main.toml:4:15)
    of no address
      main.toml:4:27: listener.edge.proxy_from[1]: the listener has no IPv6 address, so nobody comes from ::1/128
      main.toml:4:34: listener.edge.proxy_from[2]: the listener has no unix address, so nobody comes from unix
    headers speak for any family
      fine
    "#);
}

#[test]
fn strangers_who_may_send_a_header_are_warned_of() {
    for (network, warned) in
        [("0.0.0.0/0", true), ("128.0.0.0/1", true), ("10.0.0.0/8", false), ("::/0", true), ("fc00::/7", false)]
    {
        let bind = format!("bind = ['0.0.0.0:443', '[::]:443']\nproxy_from = '{network}'");
        let loaded = parse(&GOOD.replace("bind = \"0.0.0.0:443\"", &bind)).unwrap_or_else(|error| panic!("{error}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), usize::from(warned), "{network}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("list only your own proxies")), "{warnings:?}");
    }
}

#[test]
fn what_endpoints_are_told() {
    let pool = |keys: &str| format!("{GOOD}{keys}\n");
    for (keys, expected) in [
        ("", None),
        ("send_proxy = 'off'", None),
        ("send_proxy = 'v1'", Some(SendProxy::V1)),
        ("send_proxy = 'v2'", Some(SendProxy::V2(SentTlvs::ALL))),
        ("send_proxy = 'v2'\nsend_proxy_tlvs = []", Some(SendProxy::V2(SentTlvs::default()))),
        (
            "send_proxy = 'v2'\nsend_proxy_tlvs = ['alpn', 'ssl']",
            Some(SendProxy::V2(SentTlvs { alpn: true, ssl: true, ..SentTlvs::default() })),
        ),
    ] {
        let loaded = parse(&pool(keys)).unwrap_or_else(|error| panic!("{keys}: {error}"));
        assert_eq!(loaded.config.pools[0].send_proxy, expected, "{keys}");
    }
    let cases = [
        "send_proxy = 'v3'",
        "send_proxy = 2",
        "send_proxy_tlvs = ['alpn']",
        "send_proxy = 'v1'\nsend_proxy_tlvs = []",
        "send_proxy = 'v2'\nsend_proxy_tlvs = ['alpn', 'autority', 'alpn']",
        "transparent = 'yes'",
        "transparent = true",
        "transparent = true\nsource = '10.0.0.5'",
        "transparent = false\nsource = '10.0.0.5'",
    ];
    let all: Vec<String> = cases.iter().map(|keys| said(&pool(keys))).collect();
    assert_snapshot!(all.join("\n"), @r#"
    main.toml:10:14: pool.web.send_proxy: "v3" is not known; expected one of "off", "v1", "v2"; did you mean "v1"?
    main.toml:10:14: pool.web.send_proxy: found 2; expected one of "off", "v1", "v2"
    main.toml:10:1: pool.web.send_proxy_tlvs: only a header of version 2 has any; expected send_proxy = "v2"
    main.toml:11:1: pool.web.send_proxy_tlvs: only a header of version 2 has any; expected send_proxy = "v2"
    main.toml:11:28: pool.web.send_proxy_tlvs[1]: "autority" is not known; expected one of "alpn", "authority", "crc32c", "relayed", "ssl", "unique_id"; did you mean "authority"?
    main.toml:11:40: pool.web.send_proxy_tlvs[2]: it is listed twice
    main.toml:10:15: pool.web.transparent: found "yes"; expected true or false
    fine
    main.toml:10:1: pool.web.transparent: clients' addresses are connected from, and no others (see main.toml:11:1)
    fine
    "#);
    assert_snapshot!(said(&pool("transparent = true").replace("10.0.0.1:443", "unix:/run/x")), @"main.toml:10:1: pool.web.transparent: unix sockets have no addresses to connect from");
}
