//! What is said of `[route.NAME]`, each for itself.

use insta::assert_snapshot;

use super::{replaced, with_good};

#[test]
fn references() {
    let cases = [
        ("listener missing", ""),
        ("listener with a slip", "listener = 'egde'"),
        ("listener far from any", "listener = 'quite-another'"),
        ("planned table", "listener = 'edge'\nhttp.compress = true"),
        ("listener not text", "listener = ['edge']"),
        (
            "pool with a slip",
            "listener = 'edge'\n[route.b]\nlistener = 'edge'\npool = 'wbe'\n[route.c]\nlistener = 'edge'\nalpn = 'c'",
        ),
        ("pool missing", "listener = 'edge'\n[route.b]\nlistener = 'edge'\n[route.c]\nlistener = 'edge'\nalpn = 'c'"),
    ];
    assert_snapshot!(replaced("listener = \"edge\"", &cases), @r#"
    listener missing
      main.toml:4:8: route.www.listener: the key is missing; expected the name of a listener
    listener with a slip
      main.toml:5:12: route.www.listener: there is no listener called "egde"; did you mean "edge"?
    listener far from any
      main.toml:5:12: route.www.listener: there is no listener called "quite-another"
    planned table
      main.toml:6:1: route.www.http: unknown key
    listener not text
      main.toml:5:12: route.www.listener: found a list; expected the name of a listener
    pool with a slip
      main.toml:4:8: route.www.pool: the key is missing; expected the name of a pool
      main.toml:6:8: route.b: has the same key as route.www: any name, any protocol, from anywhere (see main.toml:4:8)
      main.toml:8:8: route.b.pool: there is no pool called "wbe"; did you mean "web"?
    pool missing
      main.toml:4:8: route.www.pool: the key is missing; expected the name of a pool
      main.toml:6:8: route.b.pool: the key is missing; expected the name of a pool
      main.toml:6:8: route.b: has the same key as route.www: any name, any protocol, from anywhere (see main.toml:4:8)
    "#);
}

#[test]
fn unused() {
    let cases = [("listener", "[listener.b]\nbind = '0.0.0.0:444'"), ("pool", "[pool.b]\nendpoints = '10.0.0.1:444'")];
    assert_snapshot!(with_good(&cases), @r#"
    listener
      main.toml:1:11: listener.b: no route leads from this listener
    pool
      main.toml:1:7: pool.b: no route leads to this pool
    "#);
}

#[test]
fn sni() {
    let cases = [
        ("empty list", "sni = []"),
        ("empty name", "sni = ''"),
        ("star alone", "sni = ['a', '*']"),
        ("star in a label", "sni = 'www*.example.com'"),
        ("star further on", "sni = 'www.*.example.com'"),
        ("three stars", "sni = '***.example.com'"),
        ("nothing behind the star", "sni = '*.'"),
        ("address", "sni = '192.0.2.1'"),
        ("address behind a star", "sni = '*.[::1]'"),
        ("bad byte", "sni = 'bücher.example'"),
        ("long label", "sni = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example'"),
        ("empty label", "sni = 'a..b'"),
        ("not text", "sni = ['a', 1]"),
        ("twice", "sni = ['a.example', 'b.example', 'A.Example.']"),
        ("all kinds", "sni = ['a.example', '*.a.example', '**.a.example']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:7: route.www.sni: nothing matches an empty list; leave the key out to match anything
    empty name
      main.toml:6:7: route.www.sni: "" is not a name: the name is empty; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star alone
      main.toml:6:13: route.www.sni[1]: "*" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star in a label
      main.toml:6:7: route.www.sni: "www*.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star further on
      main.toml:6:7: route.www.sni: "www.*.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    three stars
      main.toml:6:7: route.www.sni: "***.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    nothing behind the star
      main.toml:6:7: route.www.sni: "*." is not a name: the name is empty; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    address
      main.toml:6:7: route.www.sni: "192.0.2.1" is an address, which clients may not send as a name
    address behind a star
      main.toml:6:7: route.www.sni: "*.[::1]" is an address, which clients may not send as a name
    bad byte
      main.toml:6:7: route.www.sni: "bücher.example" is not a name: the name has the byte 0xc3; letters, digits, hyphens and underscores are allowed; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    long label
      main.toml:6:7: route.www.sni: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example" is not a name: the name has a label of 64 bytes, at most 63 are allowed; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    empty label
      main.toml:6:7: route.www.sni: "a..b" is not a name: the name has an empty label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    not text
      main.toml:6:13: route.www.sni[1]: found 1; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    twice
      main.toml:6:34: route.www.sni: "a.example" is listed twice (see main.toml:6:8)
    all kinds
      fine
    "#);
}

#[test]
fn alpn() {
    let cases = [
        ("empty list", "alpn = []"),
        ("empty", "alpn = ['h2', '']"),
        (
            "long",
            "alpn = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
        ),
        ("twice", "alpn = ['h2', 'h2']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:8: route.www.alpn: nothing matches an empty list; leave the key out to match anything
    empty
      main.toml:6:15: route.www.alpn[1]: "" is not a protocol; expected the name of a protocol such as "postgresql" or "h2", 1 to 255 bytes
    long
      main.toml:6:8: route.www.alpn: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... has 256 bytes; expected the name of a protocol such as "postgresql" or "h2", 1 to 255 bytes
    twice
      main.toml:6:15: route.www.alpn: "h2" is listed twice (see main.toml:6:9)
    "#);
}

#[test]
fn networks() {
    let cases = [
        ("empty list", "from = []"),
        ("not a network", "from = '10.0.0.0/33'"),
        ("a name", "from = 'example.com'"),
        ("bits behind the length", "from = ['192.0.2.0/24', '10.1.2.3/8']"),
        ("IPv4 in IPv6", "from = '::ffff:10.0.0.0/104'"),
        ("address IPv4 in IPv6", "from = '::ffff:10.0.0.1'"),
        ("twice", "from = ['10.0.0.1', '10.0.0.1/32']"),
        ("family nobody comes from", "from = ['10.0.0.0/8', '2001:db8::/32']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:8: route.www.from: nothing matches an empty list; leave the key out to match anything
    not a network
      main.toml:6:8: route.www.from: "10.0.0.0/33" is not a network; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    a name
      main.toml:6:8: route.www.from: "example.com" is not a network; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    bits behind the length
      main.toml:6:25: route.www.from[1]: "10.1.2.3/8" has bits set behind its length; 10.0.0.0/8 is probably meant
    IPv4 in IPv6
      main.toml:6:8: route.www.from: "::ffff:10.0.0.0/104" is an IPv4 network written as IPv6; write 10.0.0.0/8
    address IPv4 in IPv6
      main.toml:6:8: route.www.from: "::ffff:10.0.0.1" is an IPv4 address written as IPv6; write 10.0.0.1
    twice
      main.toml:6:21: route.www.from: "10.0.0.1/32" is listed twice (see main.toml:6:9)
    family nobody comes from
      main.toml:6:23: route.www.from: the listener "edge" has no IPv6 address, so nobody comes from 2001:db8::/32 (see main.toml:2:11)
    "#);
}

#[test]
fn tcp_reads_nothing() {
    let cases = [
        ("sni", "bind = '0.0.0.0:443'\nprotocol = 'tcp'"),
        (
            "alpn",
            "bind = '0.0.0.0:443'\n[listener.db]\nbind = '0.0.0.0:1'\nprotocol = 'tcp'\n[route.db]\nlistener = 'db'\nalpn = 'x'\npool = 'web'",
        ),
        ("networks over unix", "bind = 'unix:/run/x'\n[route.db]\nlistener = 'edge'\nfrom = '10.0.0.1'\npool = 'web'"),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    sni
      main.toml:7:1: route.www.sni: the listener "edge" is tcp: it reads nothing of what clients send (see main.toml:2:11)
    alpn
      main.toml:9:1: route.db.alpn: the listener "db" is tcp: it reads nothing of what clients send (see main.toml:4:11)
    networks over unix
      main.toml:6:1: route.db.from: the listener "edge" has only unix addresses, so its clients have no network (see main.toml:2:11)
    "#);
}
