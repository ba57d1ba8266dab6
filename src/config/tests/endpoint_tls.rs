//! What is said of `[pool.NAME.tls]`.

use std::time::Duration;

use insta::assert_snapshot;

use super::{parse, replaced};
use crate::config::model::{OutgoingTls, Trust};

/// A configuration whose listener reads nothing.
fn tcp(pool: &str) -> String {
    super::GOOD.replace("[route", "protocol = \"tcp\"\n[route").replace("sni = ", "# ") + pool
}

#[test]
fn the_table() {
    let whole = |keys: &str| {
        format!("endpoints = '10.0.0.1:443'\n[route.www.tls]\ncertificates = '/x'\n[pool.web.tls]\n{keys}")
    };
    let cases = [
        ("nothing", ""),
        ("a name that is none", "name = 'a b'"),
        ("pins", "pins = ['abc', 'sha256/AAAA', 'sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=']"),
        ("no pins", "pins = []"),
        ("roots that nobody asks for", "verify = false\nca = 'system'"),
        ("a relative path", "ca = 'ca.pem'"),
        ("no such file", "ca = '/nowhere/ca.pem'"),
        ("half an identity", "certificate = '/x'"),
        ("the other half", "key = '/x'"),
        ("no such identity", "certificate = '/nowhere/x'\nkey = '/nowhere/y'"),
        ("no time", "handshake = '0s'"),
        ("no protocols", "alpn = []"),
    ];
    let cases = cases.map(|(case, keys)| (case, whole(keys)));
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    nothing
      fine
    a name that is none
      main.toml:13:8: pool.web.tls.name: "a b" is not a name that a certificate could have; expected a name such as "www.example.com", or an address
    pins
      main.toml:13:9: pool.web.tls.pins[0]: "abc" is not the hash of a key; expected "sha256/" and the SHA-256 of a public key in base64
      main.toml:13:16: pool.web.tls.pins[1]: "sha256/AAAA" is not the hash of a key; expected "sha256/" and the SHA-256 of a public key in base64
    no pins
      main.toml:13:8: pool.web.tls.pins: no endpoint would have a key that is pinned
    roots that nobody asks for
      main.toml:14:1: pool.web.tls.ca: with verify = false nothing is verified
    a relative path
      main.toml:13:6: pool.web.tls.ca: "ca.pem" is not an absolute path; expected "system" or the absolute path of a PEM file
    no such file
      main.toml:13:6: pool.web.tls.ca: "/nowhere/ca.pem" cannot be read: No such file or directory (os error 2)
    half an identity
      main.toml:13:1: pool.web.tls.key: the certificate has no use without its key; expected the absolute path of a PEM file, or "off"
    the other half
      main.toml:13:1: pool.web.tls.certificate: the key has no use without its certificate; expected the absolute path of a PEM file, or "off"
    no such identity
      main.toml:13:15: pool.web.tls.certificate: "/nowhere/x" cannot be read: No such file or directory (os error 2)
    no time
      main.toml:13:13: pool.web.tls.handshake: 0ns is out of range; expected "100ms" to "1m"
    no protocols
      main.toml:13:8: pool.web.tls.alpn: an empty list says nothing; leave the key out to offer none
    "#);
}

#[test]
fn with_the_rest() {
    let passing = format!("{}[pool.web.tls]\n", super::GOOD);
    assert_snapshot!(parse(&passing).unwrap_err(), @r#"
    main.toml:4:8: route.www: TLS of clients passes through here, but the pool "web" would put it into TLS once more; expected [route.www.tls], or a pool without tls (see main.toml:8:7)
    "#);
    for (case, endpoint, tls, good) in [
        ("a socket", "unix:/run/x", "", false),
        ("a socket and a name", "unix:/run/x", "name = 'a.example'", true),
        ("a socket that is trusted", "unix:/run/x", "verify = false", true),
        ("an address", "10.0.0.1:443", "", true),
    ] {
        let text = tcp(&format!("[pool.web.tls]\n{tls}\n")).replace("10.0.0.1:443", endpoint);
        assert_eq!(parse(&text).is_ok(), good, "{case}: {text}");
    }
}

#[test]
fn what_is_read_and_what_probes_make_of_it() {
    let read = |keys: &str| parse(&tcp(keys)).unwrap().config.pools[0].clone();
    let tls = read("[pool.web.tls]\n").tls.unwrap();
    assert_eq!((tls.alpn.clone(), tls.handshake), (None, Duration::from_secs(5)));
    let system = OutgoingTls {
        name: None,
        alpn: Vec::new(),
        trust: Trust::Roots { system: true, files: Vec::new() },
        identity: None,
        pins: Vec::new(),
    };
    assert_eq!(*tls.outgoing.written(), system);
    let table = "[pool.web.tls]\nname = 'a.example'\nalpn = ['h2', 'http/1.1']\n";
    let probed = |health: &str| {
        let pool = read(&format!("{table}[pool.web.health]\n{health}\n"));
        let dialogue = pool.health.unwrap().dialogue.clone().unwrap();
        let tls = dialogue.tls.clone();
        tls.map(|tls| (tls.name.clone().unwrap_or_default(), tls.alpn.len()))
    };
    let named = |protocols| Some(("a.example".to_owned(), protocols));
    for (health, expected) in [
        ("probe = 'tcp'", None),
        ("probe = 'tls'", named(2)),
        // It speaks one of them.
        ("probe = 'http'", named(1)),
        ("probe = 'http'\nport = 8080", None),
        ("probe = 'http'\naddress = '10.0.0.2'", None),
        ("probe = 'http'\ntls.name = 'b.example'", Some(("b.example".to_owned(), 0))),
    ] {
        assert_eq!(probed(health), expected, "{health}");
    }
}
