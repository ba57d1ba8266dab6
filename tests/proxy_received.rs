//! PROXY headers that come in: whom they speak for, what happens without them, and who may send them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pointsman::wire::proxy_header::{Addresses, LOCAL, Tlvs, UNKNOWN, v1, v2};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::harness::client::hello;
use crate::harness::{Balancer, Client, Endpoint, Manner, PATIENCE, eventually};

/// Two listeners that take headers from 127.0.0.1, in front of an endpoint that echoes: `edge` for TLS, `raw` for TCP.
fn scene(more: &str) -> (Balancer, Endpoint) {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge = {{ bind = "127.0.0.1:0", proxy_from = "127.0.0.1", {more} }}
        listener.raw = {{ bind = "127.0.0.1:0", protocol = "tcp", proxy_from = "127.0.0.1", {more} }}
        route.edge = {{ listener = "edge", pool = "all" }}
        route.raw = {{ listener = "raw", pool = "all" }}
        pool.all.endpoints = "{}"
        "#,
        endpoint.address()
    ));
    (balancer, endpoint)
}

fn from(source: &str) -> Addresses {
    let destination = if source.starts_with('[') { "[2001:db8::2]:443" } else { "198.51.100.2:443" };
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn unix() -> Vec<u8> {
    [&LOCAL[..12], &[0x21, 0x31, 0, 216], &[7; 216]].concat()
}

#[test]
fn a_header_says_where_the_client_is() {
    let (balancer, endpoint) = scene("");
    let hello = hello("www.example.com");
    let mut tlvs = Tlvs::default();
    assert!(tlvs.add(0xe1, &[1; 2000]));
    let cases = [
        ("version 1", v1(Some(from("192.0.2.1:4711"))), Some("192.0.2.1:4711")),
        ("version 1, IPv6", v1(Some(from("[2001:db8::1]:4711"))), Some("[2001:db8::1]:4711")),
        ("version 2", v2(Some(from("192.0.2.2:4711")), &tlvs, true), Some("192.0.2.2:4711")),
        ("version 2, IPv6", v2(Some(from("[2001:db8::2]:1")), &tlvs, false), Some("[2001:db8::2]:1")),
        ("unix", unix(), Some("unix")),
        ("UNKNOWN", UNKNOWN.to_vec(), None),
        ("UNSPEC", v2(None, &Tlvs::default(), true), None),
        ("LOCAL", LOCAL.to_vec(), None),
    ];
    for (case, header, expected) in &cases {
        for listener in ["edge", "raw"] {
            let whole = [&header[..], &hello].concat();
            let mut client = Client::sending(balancer.address(listener), &whole);
            client.expect(&hello);
            let own = client.address();
            client.end();
            let expected = expected.unwrap_or(&own);
            let of = |line: &serde_json::Value| line["peer"] == own;
            let record = eventually("its line", || balancer.log().lines().into_iter().find(of));
            assert_eq!(
                (&record["client"], &record["peer"], &record["outcome"], &record["listener"]),
                (&json!(expected), &json!(own), &json!("ok"), &json!(listener)),
                "{case}: {record}"
            );
            let length = hello.len();
            assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&json!(length), &json!(length)), "{case}");
        }
    }
    assert!(endpoint.heard().iter().all(|heard| heard.bytes == hello), "no header is passed on");
}

#[test]
fn headers_and_openings_come_in_any_pieces() {
    let (balancer, _endpoint) = scene("");
    let hello = hello("www.example.com");
    let mut tlvs = Tlvs::default();
    assert!(tlvs.add(0xe1, b"any"));
    let headers = [v1(Some(from("192.0.2.1:4711"))), v2(Some(from("192.0.2.1:4711")), &tlvs, true)];
    for header in &headers {
        let whole = [&header[..], &hello].concat();
        for listener in ["edge", "raw"] {
            let pieces = |end: usize| {
                let mut client = Client::sending(balancer.address(listener), &whole[..end]);
                std::thread::sleep(Duration::from_millis(3));
                client.send(&whole[end..]);
                client.expect(&hello);
                client.end();
            };
            (1..=header.len() + 1).for_each(pieces);
            let mut client = Client::connect(balancer.address(listener));
            whole.iter().for_each(|byte| client.send(&[*byte]));
            client.expect(&hello);
            client.end();
        }
    }
    let expected = 2 * headers.iter().map(|header| header.len() + 2).sum::<usize>();
    let records = balancer.records(expected);
    assert_eq!(records.len(), expected);
    let well = |record: &serde_json::Value| record["client"] == "192.0.2.1:4711" && record["outcome"] == "ok";
    assert!(records.iter().all(well), "{:#?}", records.iter().find(|record| !well(record)));
}

#[test]
fn what_is_no_header_ends_the_connection() {
    let (balancer, endpoint) = scene("");
    let hello = hello("www.example.com");
    let flipped = |mut header: Vec<u8>| {
        header[20] ^= 1;
        header
    };
    let cases = [
        ("a hello", hello.clone(), "proxy_header_missing"),
        ("a request", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "proxy_header_missing"),
        ("garbage", vec![0; 500], "proxy_header_missing"),
        ("a line with a slip", b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n".to_vec(), "proxy_header_malformed"),
        ("an endless line", [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(), "proxy_header_malformed"),
        ("too large", [&LOCAL[..12], &[0x21, 0x11, 0xff, 0xff]].concat(), "proxy_header_malformed"),
        ("datagrams", [&LOCAL[..12], &[0x21, 0x12, 0, 12], &[0; 12]].concat(), "proxy_header_malformed"),
        ("a wrong checksum", flipped(v2(Some(from("192.0.2.1:1")), &Tlvs::default(), true)), "proxy_header_malformed"),
    ];
    for listener in ["edge", "raw"] {
        for (case, bytes, outcome) in &cases {
            let mut client = Client::sending(balancer.address(listener), bytes);
            assert_eq!(client.rest().unwrap(), b"", "{case}: an end, and no alert");
            let record = balancer.log().record_of(&client.address());
            assert_eq!((&record["outcome"], &record["by"]), (&json!(outcome), &json!("client")), "{case}: {record}");
            assert!(record.get("peer").is_none(), "nobody has spoken for anybody: {record}");
        }
        for half in [&b""[..], b"PROXY TCP4 192"] {
            let mut client = Client::sending(balancer.address(listener), half);
            client.finish();
            assert_eq!(client.rest().unwrap(), b"");
            assert_eq!(balancer.log().record_of(&client.address())["outcome"], "client_gone", "{half:?}");
        }
    }
    assert_eq!(endpoint.connections(), 0);
    assert_eq!(
        balancer.metric("pointsman_listener_outcomes_total{listener=\"raw\",outcome=\"proxy_header_missing\"}"),
        3.0
    );
}

/// One deadline for the header and what comes behind it.
#[test]
fn slow_headers_end_in_time() {
    let (balancer, endpoint) = scene("timeouts.open = '500ms'");
    let header = v1(Some(from("192.0.2.1:4711")));
    let hello = hello("www.example.com");
    for (case, listener, at_once) in [
        ("a slow header", "edge", &[][..]),
        ("a slow header of anything", "raw", &[]),
        ("a slow hello behind a header", "edge", &[&header[..], &hello[..20]].concat()),
        ("nothing", "raw", &[]),
    ] {
        let mut client = Client::sending(balancer.address(listener), at_once);
        let began = Instant::now();
        let slow = if at_once.is_empty() { &header } else { &hello[20..] };
        if case != "nothing" {
            for byte in slow.iter().take(10) {
                let _ = std::io::Write::write(&mut client.0, &[*byte]);
                std::thread::sleep(Duration::from_millis(40));
            }
        }
        let _ = client.rest();
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400) && took < PATIENCE, "{case}: {took:?}");
        let peer = client.address();
        let line = |line: &serde_json::Value| line["client"] == peer || line["peer"] == peer;
        let record = eventually(case, || balancer.log().lines().into_iter().find(line));
        assert_eq!(record["outcome"], "hello_timeout", "{case}: {record}");
        assert!(record["total_ms"].as_f64().unwrap() < 2000.0, "{case}: {record}");
    }
    assert_eq!(endpoint.connections(), 0);
}

#[test]
fn others_are_taken_at_their_own_word() {
    let (balancer, endpoint) = scene("");
    let stranger = |listener: &str, bytes: &[u8]| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)).into()).unwrap();
        socket.connect(&balancer.address(listener).into()).unwrap();
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client(stream);
        client.send(bytes);
        client
    };
    let header = v1(Some(from("192.0.2.1:4711")));
    let mut client = stranger("edge", &[&header[..], &hello("www.example.com")].concat());
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(balancer.log().record_of(&client.address())["outcome"], "not_tls");
    let mut client = stranger("raw", &header);
    client.expect(&header);
    client.end();
    assert_eq!(endpoint.heard()[0].bytes, header, "just bytes");
    let mut client = stranger("edge", &hello("www.example.com"));
    client.expect(&hello("www.example.com"));
    let own = client.address();
    client.end();
    assert!(balancer.log().record_of(&own).get("peer").is_none());
}

#[test]
fn routes_and_commands_go_by_the_client() {
    let endpoints = [(); 3].map(|()| Endpoint::start(Manner::Echoes));
    let [one, two, three] = endpoints.each_ref().map(Endpoint::address);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sock");
    let balancer = Balancer::start(&format!(
        r#"
        [listener.edge]
        bind = ["127.0.0.1:0", "unix:{}"]
        protocol = "tcp"
        proxy_from = ["127.0.0.0/8", "unix"]
        [route]
        one = {{ listener = "edge", pool = "one", from = "192.0.2.0/24" }}
        two = {{ listener = "edge", pool = "two", from = "2001:db8::/32" }}
        three = {{ listener = "edge", pool = "three" }}
        [pool]
        one.endpoints = "{one}"
        two.endpoints = "{two}"
        three.endpoints = "{three}"
        "#,
        path.display()
    ));
    let at = balancer.running().addresses("edge").into_iter().find_map(|bind| match bind {
        pointsman::config::model::Bind::Tcp(address) => Some(*address),
        pointsman::config::model::Bind::Unix(_) => None,
    });
    let begin = |source: &str| {
        let mut client = Client::sending(at.unwrap(), &v2(Some(from(source)), &Tlvs::default(), true));
        client.send(b"x");
        client.expect(b"x");
        client
    };
    let mut clients = [begin("192.0.2.1:1"), begin("[2001:db8::9]:2"), begin("203.0.113.1:3")];
    let mut local = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut local, &[&v1(Some(from("192.0.2.9:4")))[..], b"y"].concat()).unwrap();
    std::io::Read::read_exact(&mut local, &mut [0; 1]).unwrap();
    assert_eq!(endpoints.each_ref().map(Endpoint::connections), [2, 1, 1]);

    let list = |client: &str| balancer.ask(&json!({ "command": "sessions", "only": { "client": client } }));
    for (client, total) in [("192.0.2.0/24", 2), ("2001:db8::/32", 1), ("127.0.0.0/8", 0), ("0.0.0.0/0", 3)] {
        assert_eq!(list(client)["total"], total, "{client}");
    }
    let listed = list("192.0.2.1/32");
    let session = &listed["sessions"][0];
    assert_eq!((&session["client"], &session["peer"]), (&json!("192.0.2.1:1"), &json!(clients[0].address())));
    assert_eq!(list("192.0.2.9/32")["sessions"][0]["peer"], "unix");
    let killed = balancer.ask(&json!({ "command": "kill", "only": { "client": "192.0.2.1/32" } }));
    assert_eq!(killed, json!({ "killed": 1 }));
    assert!(clients[0].rest().is_err(), "a reset");
    assert_eq!(balancer.log().record_of("192.0.2.1:1")["outcome"], "killed");
}

/// Of clients in one network, not of the proxy that they come by.
#[test]
fn hashes_go_by_the_client() {
    let endpoints = [(); 4].map(|()| Endpoint::start(Manner::Echoes));
    let list: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address().to_string()).collect();
    let balancer = Balancer::start(&format!(
        "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp', proxy_from = '127.0.0.1' }}\n\
         route.all = {{ listener = 'edge', pool = 'all' }}\n[pool.all]\nbalance = 'maglev'\nendpoints = {list:?}\n"
    ));
    let visit = |source: &str| {
        let mut client = Client::sending(balancer.address("edge"), &[&v1(Some(from(source)))[..], b"x"].concat());
        client.expect(b"x");
        client.end();
    };
    (0..10).for_each(|port| visit(&format!("192.0.2.1:{}", 1000 + port)));
    let mut counts = endpoints.each_ref().map(Endpoint::connections);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 10], "one client, one endpoint");
    (0..40).for_each(|host| visit(&format!("203.0.113.{host}:9")));
    assert!(endpoints.iter().filter(|endpoint| endpoint.connections() > 0).count() > 1, "others go elsewhere");
}
