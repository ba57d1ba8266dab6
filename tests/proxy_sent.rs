//! PROXY headers that endpoints are sent: what they say of clients, in front of what, and what probes say.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::wire::proxy_header::{
    Addresses, Header, Kind, LOCAL, Origin, Ssl, SslKind, Tlvs, UNKNOWN, read, v1, v2,
};
use serde_json::json;

use crate::harness::answering::{Authority, Server, Speaks};
use crate::harness::client::hello;
use crate::harness::endpoint::Heard;
use crate::harness::tls::connect;
use crate::harness::{Balancer, Client, Endpoint, Line, Manner, eventually};

/// A listener for TLS and one for TCP, in front of an endpoint that notes what it hears; `pool` are keys of the pool.
fn scene(pool: &str, listener: &str) -> (Balancer, Endpoint) {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge = {{ bind = "127.0.0.1:0", {listener} }}
        listener.raw = {{ bind = "127.0.0.1:0", protocol = "tcp", {listener} }}
        route.edge = {{ listener = "edge", pool = "all" }}
        route.raw = {{ listener = "raw", pool = "all" }}
        [pool.all]
        endpoints = "{}"
        {pool}
        "#,
        endpoint.address()
    ));
    (balancer, endpoint)
}

/// The header that a connection began with, and what came behind it.
fn split(heard: &Heard) -> (Header, Vec<u8>) {
    let header = read(&heard.bytes).unwrap_or_else(|error| panic!("{error}: {heard:02x?}")).expect("it is complete");
    let behind = heard.bytes[header.length..].to_vec();
    (header, behind)
}

fn text(header: &Header, kind: Kind) -> Option<String> {
    header.tlvs.get(kind).map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// What a session is known by.
fn unique_id(record: &Line) -> String {
    let start = humantime::parse_rfc3339(record["time"].as_str().unwrap()).unwrap();
    let since = start.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    format!("{}-{}", record["id"], since.as_millis())
}

fn echoed(balancer: &Balancer, listener: &str, header: &[u8], bytes: &[u8]) -> (Line, Addresses) {
    let to = balancer.address(listener);
    let mut client = Client::sending(to, &[header, bytes].concat());
    // The echo has the header that the endpoint was sent in front.
    let mut back = Vec::new();
    while !back.ends_with(bytes) {
        let mut piece = [0; 8192];
        let received = client.0.read(&mut piece).unwrap();
        assert_ne!(received, 0, "{back:02x?}");
        back.extend_from_slice(&piece[..received]);
    }
    let (own, source) = (client.address(), client.0.local_addr().unwrap());
    client.finish();
    assert_eq!(client.rest().unwrap(), b"");
    let of = |line: &Line| line["client"] == own || line["peer"] == own;
    let record = eventually("its line", || balancer.log().lines().into_iter().find(of));
    (record, Addresses { source, destination: to })
}

#[test]
fn endpoints_are_told_where_the_client_is() {
    let hello = hello("db.example.com");
    for (keys, kinds) in [
        ("send_proxy = 'v1'", None),
        ("send_proxy = 'v2'", Some(&[Kind::Authority as u8, Kind::UniqueId as u8, Kind::Checksum as u8][..])),
        ("send_proxy = 'v2'\nsend_proxy_tlvs = []", Some(&[])),
        ("send_proxy = 'v2'\nsend_proxy_tlvs = ['authority']", Some(&[Kind::Authority as u8])),
    ] {
        let (balancer, endpoint) = scene(keys, "");
        let (record, addresses) = echoed(&balancer, "edge", b"", &hello);
        let (header, behind) = split(&endpoint.heard()[0]);
        assert_eq!(header.origin, Origin::Tcp(addresses), "{keys}");
        assert_eq!(behind, hello, "{keys}");
        let sent: Vec<u8> = header.tlvs.iter().map(|(kind, _)| kind).collect();
        assert_eq!(sent, kinds.unwrap_or_default(), "{keys}");
        assert_eq!(endpoint.heard()[0].bytes.starts_with(b"PROXY "), kinds.is_none());
        for (kind, expected) in [(Kind::Authority, "db.example.com".to_owned()), (Kind::UniqueId, unique_id(&record))] {
            assert!(text(&header, kind).is_none_or(|told| told == expected), "{keys}: {header:?}");
        }
        // Bytes of ours are not the client's.
        assert_eq!(record["bytes_up"], hello.len(), "{keys}");
        assert_eq!(record["bytes_down"], hello.len() + header.length, "{keys}");

        let (_, addresses) = echoed(&balancer, "raw", b"", b"anything");
        let (header, behind) = split(&endpoint.heard()[1]);
        assert_eq!((header.origin, &behind[..]), (Origin::Tcp(addresses), &b"anything"[..]), "{keys}");
        assert_eq!(text(&header, Kind::Authority), None, "nothing is read there");
    }
}

/// A server that speaks first must not wait for a header that waits for what its client says.
#[test]
fn a_header_does_not_wait_for_the_client() {
    for protocol in ["tcp", "mysql"] {
        let endpoint = Endpoint::start(Manner::Answers("hello\n"));
        let balancer = Balancer::start(&format!(
            "listener.edge = {{ bind = '127.0.0.1:0', protocol = '{protocol}' }}\n\
             route.all = {{ listener = 'edge', pool = 'all' }}\n\
             pool.all = {{ endpoints = '{}', send_proxy = 'v2' }}",
            endpoint.address()
        ));
        let began = Instant::now();
        let mut client = Client::connect(balancer.address("edge"));
        client.expect(b"hello\n");
        assert!(began.elapsed() < Duration::from_millis(150), "{protocol}: {:?}", began.elapsed());
    }
}

/// PostgreSQL by both: in front of the session and of a request to cancel.
#[test]
fn databases_get_the_header_first() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        "listener.pg = {{ bind = '127.0.0.1:0', protocol = 'postgres', proxy_from = '127.0.0.1' }}\n\
         route.pg = {{ listener = 'pg', pool = 'pg', allow_cleartext = true }}\n\
         pool.pg = {{ endpoints = '{}', send_proxy = 'v1' }}",
        endpoint.address()
    ));
    let addresses =
        |source: &str| Addresses { source: source.parse().unwrap(), destination: "198.51.100.2:5432".parse().unwrap() };
    let message = |code: &[u8], rest: &[u8]| [&(rest.len() as u32 + 8).to_be_bytes()[..], code, rest].concat();
    let startup = message(&[0, 3, 0, 0], b"user\0alice\0\0");
    let cancel = message(&[4, 0xd2, 0x16, 0x2e], &[7; 8]);
    let begin = |source: &str, said: &[u8]| {
        Client::sending(balancer.address("pg"), &[&v1(Some(addresses(source)))[..], said].concat())
    };
    let session = begin("192.0.2.1:1", &startup);
    let heard =
        eventually("the session", || endpoint.heard().into_iter().find(|heard| heard.bytes.ends_with(&startup)));
    assert_eq!((split(&heard).0.origin, split(&heard).1), (Origin::Tcp(addresses("192.0.2.1:1")), startup.clone()));
    // Of another client, by the same proxy: nobody's session is meant.
    let mut stranger = begin("192.0.2.9:1", &cancel);
    assert_eq!(stranger.rest().unwrap(), b"");
    assert_eq!(balancer.log().record_of("192.0.2.9:1")["outcome"], "cancel_failed");
    let _client = begin("192.0.2.1:2", &cancel);
    let heard = eventually("the request", || endpoint.heard().into_iter().find(|heard| heard.bytes.ends_with(&cancel)));
    assert_eq!((split(&heard).0.origin, split(&heard).1), (Origin::Tcp(addresses("192.0.2.1:2")), cancel));
    drop(session);
}

#[test]
fn what_came_in_is_passed_on() {
    let (balancer, endpoint) = scene("send_proxy = 'v2'", "proxy_from = '127.0.0.1'");
    let hello = hello("db.example.com");
    let addresses =
        Addresses { source: "192.0.2.1:4711".parse().unwrap(), destination: "198.51.100.2:5432".parse().unwrap() };
    let ssl = Ssl::write(Ssl::TLS, false, &[(SslKind::Version, b"TLSv1.3"), (SslKind::CommonName, b"me")]);
    let mut tlvs = Tlvs::default();
    let came = [
        (0xe1, &b"any"[..]),
        (0xea, &[0, 1, 2]),
        (Kind::Noop as u8, b"..."),
        (Kind::Namespace as u8, b"blue"),
        (Kind::Ssl as u8, &ssl),
        (Kind::Authority as u8, b"outer.example.com"),
    ];
    assert!(came.iter().all(|(kind, value)| tlvs.add(*kind, value)));
    let (record, own) = echoed(&balancer, "edge", &v2(Some(addresses), &tlvs, true), &hello);
    assert_eq!((&record["client"], &record["peer"]), (&json!("192.0.2.1:4711"), &json!(own.source.to_string())));
    let (header, behind) = split(&endpoint.heard()[0]);
    assert_eq!((header.origin, &behind), (Origin::Tcp(addresses), &hello));
    let id = unique_id(&record);
    let expected: Vec<_> = came
        .into_iter()
        .filter(|(kind, _)| *kind != Kind::Noop as u8)
        .chain([(Kind::UniqueId as u8, id.as_bytes())])
        .collect();
    let found: Vec<_> = header.tlvs.iter().filter(|(kind, _)| *kind != Kind::Checksum as u8).collect();
    assert_eq!(found, expected);
    // In another version, of another family, and of the proxy itself.
    let v6 = Addresses { source: "[2001:db8::1]:1".parse().unwrap(), destination: "198.51.100.2:2".parse().unwrap() };
    let mixed = Addresses { destination: "[::ffff:198.51.100.2]:2".parse().unwrap(), ..v6 };
    echoed(&balancer, "raw", &v1(Some(v6)), b"xyzzy");
    assert_eq!(split(&endpoint.heard()[1]).0.origin, Origin::Tcp(mixed));
    let (_, own) = echoed(&balancer, "raw", LOCAL, b"xyzzy");
    assert_eq!(split(&endpoint.heard()[2]).0.origin, Origin::Tcp(own));

    let (balancer, endpoint) =
        scene("send_proxy = 'v2'\nsend_proxy_tlvs = ['authority', 'alpn']", "proxy_from = '127.0.0.1'");
    echoed(&balancer, "edge", &v2(Some(addresses), &tlvs, true), &hello);
    let (header, _) = split(&endpoint.heard()[0]);
    assert_eq!(
        header.tlvs.iter().collect::<Vec<_>>(),
        [(Kind::Authority as u8, &b"db.example.com"[..])],
        "not relayed"
    );
}

#[test]
fn tls_that_ends_here_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (server, client) = (authority.sign("a.test"), authority.sign("client.test"));
    let endpoint = Endpoint::start(Manner::Echoes);
    let tls = format!("alpn = ['h2', 'http/1.1'], client = {{ ca = '{}', verify = 'optional' }}", authority.file());
    let balancer = Balancer::terminating(&[&server], &tls, endpoint.address(), "send_proxy = 'v2'");
    for (case, shows) in [("a certificate", true), ("none", false)] {
        let versions = [&rustls::version::TLS13];
        let mut config = if shows { authority.client_as(&client, &versions) } else { authority.client() };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(config));
        session.write_all(b"inside").unwrap();
        let mut first = [0; 12];
        session.read_exact(&mut first).unwrap();
        let heard = eventually("it was told", || {
            endpoint.heard().into_iter().last().filter(|heard| heard.bytes.ends_with(b"inside"))
        });
        let (header, behind) = split(&heard);
        assert_eq!(behind, b"inside", "{case}");
        assert_eq!(text(&header, Kind::Authority).as_deref(), Some("a.test"), "{case}");
        assert_eq!(text(&header, Kind::Alpn).as_deref(), Some("http/1.1"), "{case}");
        let ssl = Ssl::read(header.tlvs.get(Kind::Ssl).unwrap()).unwrap();
        assert_eq!(ssl.client, if shows { 7 } else { 1 }, "{case}");
        assert_eq!(ssl.is_verified, shows, "{case}");
        let told = |kind| ssl.get(kind).map(|value| String::from_utf8(value.to_vec()).unwrap());
        assert_eq!(told(SslKind::Version).as_deref(), Some("TLSv1.3"), "{case}");
        assert!(told(SslKind::Cipher).unwrap().starts_with("TLS_"), "{case}: {:?}", told(SslKind::Cipher));
        assert_eq!(told(SslKind::CommonName).is_some(), shows, "{case}: {:?}", told(SslKind::CommonName));
        session.conn.send_close_notify();
        session.flush().unwrap();
    }
}

#[test]
fn a_header_goes_before_tls_with_the_endpoint() {
    let endpoint = Endpoint::start(Manner::HangsUpAfter(60));
    let balancer = Balancer::start(&format!(
        "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp', proxy_from = '127.0.0.1' }}\n\
         route.all = {{ listener = 'edge', pool = 'all' }}\n[pool.all]\nendpoints = '{}'\nsend_proxy = 'v1'\n\
         tls = {{ name = 'a.test', verify = false }}",
        endpoint.address()
    ));
    let mut client = Client::sending(balancer.address("edge"), &[UNKNOWN, b"in clear"].concat());
    assert!(client.rest().is_ok());
    let (header, behind) = split(&endpoint.heard()[0]);
    assert!(matches!(header.origin, Origin::Tcp(_)));
    assert_eq!(behind.first(), Some(&0x16), "a hello: {behind:02x?}");
    assert_eq!(balancer.record()["outcome"], "endpoint_tls_failed");
}

/// What came right behind a header goes on in TLS.
#[test]
fn what_comes_behind_a_header_goes_into_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let server = Server::start_tls(Speaks::Once, "answer", authority.sign("a.test").server());
    let balancer = Balancer::start(&format!(
        "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp', proxy_from = '127.0.0.1' }}\n\
         route.all = {{ listener = 'edge', pool = 'all' }}\n[pool.all]\nendpoints = '{}'\n\
         tls = {{ name = 'a.test', ca = '{}' }}",
        server.address(),
        authority.file()
    ));
    let mut client = Client::sending(balancer.address("edge"), &[LOCAL, b"question"].concat());
    client.expect(b"answer");
    client.end();
    let talks = eventually("it was heard", || Some(server.talks()).filter(|talks| !talks.is_empty()));
    assert_eq!(talks[0].heard, "question");
}

#[test]
fn clients_without_an_address_are_unknown() {
    for (version, expected) in [("v1", UNKNOWN.to_vec()), ("v2", v2(None, &Tlvs::default(), false))] {
        let folder = tempfile::tempdir().unwrap();
        let (path, endpoint) = (folder.path().join("edge.sock"), Endpoint::start(Manner::Echoes));
        let tlvs = if version == "v2" { "send_proxy_tlvs = []" } else { "" };
        let _balancer = Balancer::start(&format!(
            "listener.edge = {{ bind = 'unix:{}', protocol = 'tcp' }}\nroute.all = {{ listener = 'edge', pool = 'all' }}\n\
             [pool.all]\nendpoints = '{}'\nsend_proxy = '{version}'\n{tlvs}",
            path.display(),
            endpoint.address()
        ));
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"xyzzy").unwrap();
        let heard =
            eventually("it was told", || endpoint.heard().into_iter().find(|heard| heard.bytes.ends_with(b"xyzzy")));
        assert_eq!(heard.bytes, [&expected[..], b"xyzzy"].concat(), "{version}");
    }
}

#[test]
fn a_unix_endpoint_is_told_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoint.sock");
    let endpoint = Endpoint::start_on_path(&path, Manner::Echoes);
    let balancer = Balancer::with_pool(&format!("endpoints = 'unix:{}'\nsend_proxy = 'v1'", path.display()));
    let (_, addresses) = echoed(&balancer, "edge", b"", &hello("a.test"));
    assert_eq!(split(&endpoint.heard()[0]).0.origin, Origin::Tcp(addresses));
}

#[test]
fn probes_say_that_they_are_ours() {
    const QUICK: &str = "interval = '200ms', fast_interval = '100ms', timeout = '1s'";
    for (keys, probe, expected) in [
        ("send_proxy = 'v2'", "probe = 'tcp'", LOCAL.to_vec()),
        ("send_proxy = 'v1'", "probe = 'tcp'", UNKNOWN.to_vec()),
        (
            "send_proxy = 'v2'",
            "probe = 'script', script = [{ send = 'PING' }, { expect = 'PING' }]",
            [LOCAL, b"PING"].concat(),
        ),
        ("", "probe = 'script', script = [{ send = 'PING' }, { expect = 'PING' }]", b"PING".to_vec()),
    ] {
        let endpoint = Endpoint::start(Manner::Echoes);
        let health = format!("endpoints = '{}'\n{keys}\nhealth = {{ {probe}, {QUICK} }}", endpoint.address());
        let _balancer = Balancer::with_pool(&health);
        let heard = eventually("it is probed", || endpoint.heard().into_iter().find(|heard| heard.bytes == expected));
        assert_eq!(heard.bytes, expected, "{keys} {probe}");
        assert!(endpoint.heard().iter().all(|heard| expected.starts_with(&heard.bytes)), "{:02x?}", endpoint.heard());
    }
    // Elsewhere nobody expects a header.
    let (endpoint, page) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let _balancer = Balancer::with_pool(&format!(
        "endpoints = '{}'\nsend_proxy = 'v2'\nhealth = {{ port = {}, probe = 'script', \
         script = [{{ send = 'PING' }}, {{ expect = 'PING' }}], {QUICK} }}",
        endpoint.address(),
        page.address().port()
    ));
    eventually("it is probed", || page.heard().into_iter().find(|heard| heard.bytes == b"PING"));
    assert!(endpoint.heard().iter().all(|heard| heard.bytes.is_empty()));
}
