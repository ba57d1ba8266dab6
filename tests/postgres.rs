//! `protocol = "postgres"` and `"mysql"`, with clients and servers that say one thing at a time: openings in pieces, broken
//! and slow ones, endpoints that refuse, requests to cancel, and what clients are told. Real ones are in `databases`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pointsman::wire::postgres::{GSSENC_REQUEST, SSL_REQUEST};
use pointsman::wire::sample::Sample;
use rustls::{ClientConnection, StreamOwned};

use crate::harness::answering::Authority;
use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

/// A server that begins as PostgreSQL does, then sends back what it hears.
struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// What a server does when it is asked for TLS.
#[derive(Clone, Copy)]
enum Asked {
    /// Says this.
    Says(&'static [u8]),
    /// Ends the connection.
    Ends,
    /// Nothing.
    Waits,
}

/// How long a server takes to act on a request to cancel.
const CANCELS_AFTER: Duration = Duration::from_millis(300);

impl Server {
    fn start(asked: Asked) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                // However the connection ends, the test looks at it from the other side.
                std::thread::spawn(move || drop(serve(connection, asked, &all)));
            }
        });
        Server { address, heard }
    }

    /// What each connection has said, apart from requests for TLS, in the order of their first bytes.
    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

fn serve(mut connection: TcpStream, asked: Asked, all: &Mutex<Vec<Vec<u8>>>) -> std::io::Result<()> {
    let mut bytes = [0; 65_536];
    let mut received = connection.read(&mut bytes)?;
    if bytes[..received] == SSL_REQUEST {
        match asked {
            Asked::Says(answer) => connection.write_all(answer)?,
            Asked::Ends => return Ok(()),
            Asked::Waits => {}
        }
        received = connection.read(&mut bytes)?;
    }
    if received == 0 {
        return Ok(());
    }
    let index = {
        let mut all = all.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    while received > 0 {
        all.lock().unwrap()[index].extend_from_slice(&bytes[..received]);
        if bytes[..received].starts_with(&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e]) {
            std::thread::sleep(CANCELS_AFTER);
            return Ok(());
        }
        connection.write_all(&bytes[..received])?;
        received = connection.read(&mut bytes)?;
    }
    Ok(())
}

fn startup() -> Vec<u8> {
    message(&[0, 3, 0, 0], b"user\0alice\0database\0shop\0\0")
}

fn message(code: &[u8], rest: &[u8]) -> Vec<u8> {
    [&(rest.len() as u32 + 8).to_be_bytes()[..], code, rest].concat()
}

/// A balancer whose listener `pg` leads to these endpoints, with further keys of the listener, the route and the pool.
fn balancer(endpoints: &[SocketAddr], listener: &str, route: &str, pool: &str) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Balancer::start(&format!(
        "[listener.pg]\nbind = '127.0.0.1:0'\nprotocol = 'postgres'\ndefer_accept = false\n{listener}\n\
         [route.pg]\nlistener = 'pg'\npool = 'pg'\n{route}\n[pool.pg]\nendpoints = {endpoints:?}\n{pool}\n"
    ))
}

/// The SQLSTATE of the ErrorResponse that these bytes are; "closed" where they are none.
fn state(bytes: &[u8]) -> String {
    match bytes.first() {
        Some(b'E') => {
            assert_eq!(bytes.len(), 1 + u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, "{bytes:?}");
            let mut fields = bytes[5..].split(|byte| *byte == 0);
            let code = fields.find(|field| field.first() == Some(&b'C')).expect("it has a code");
            String::from_utf8(code[1..].to_vec()).unwrap()
        }
        Some(21) => format!("alert {}", bytes[6]),
        Some(_) => format!("{bytes:02x?}"),
        None => "closed".into(),
    }
}

#[test]
fn every_opening_may_come_in_any_two_pieces() {
    let server = Server::start(Asked::Says(b"S"));
    let balancer = balancer(&[server.address], "", "allow_cleartext = true", "");
    let at = balancer.address("pg");
    let hello = Sample { name: Some(b"db.test"), alpn: &["postgresql"], ..Sample::default() }.wire();
    let asks: &[(&[u8], &[u8])] = &[(&GSSENC_REQUEST, b"N"), (&SSL_REQUEST, b"S")];
    let startup = startup();
    // Of what is asked and answered, and of what comes then.
    std::thread::scope(|scope| {
        for (asks, last) in [(asks, &hello), (&[], &hello), (&[], &startup), (&asks[..1], &startup)] {
            let whole = asks.iter().map(|(ask, _)| ask.len()).sum::<usize>() + last.len();
            for split in 0..whole {
                scope.spawn(move || {
                    let mut client = Client::connect(at);
                    let mut before = 0;
                    let mut send = |client: &mut Client, bytes: &[u8]| {
                        let (first, second) = bytes.split_at(split.saturating_sub(before).min(bytes.len()));
                        before += bytes.len();
                        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
                            client.send(piece);
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    };
                    for (ask, answer) in asks {
                        send(&mut client, ask);
                        client.expect(answer);
                    }
                    send(&mut client, last);
                    client.expect(last);
                    client.send(b"and on");
                    client.expect(b"and on");
                });
            }
        }
    });
    for heard in server.heard() {
        let begins = heard.starts_with(&hello) || heard.starts_with(&startup);
        assert!(begins, "{heard:02x?}");
    }
}

#[test]
fn broken_openings_are_answered_in_the_words_of_the_protocol() {
    let server = Server::start(Asked::Says(b"S"));
    let balancer = balancer(&[server.address], "", "sni = 'db.test'\nfrom = '127.0.0.1'", "");
    let at = balancer.address("pg");
    let ssl_and = |more: &[u8]| [&SSL_REQUEST[..], more].concat();
    let hello = |name: &str| Sample { name: Some(name.as_bytes()), ..Sample::default() }.wire();
    let long = message(&[0, 3, 0, 0], &[&b"user\0"[..], &[b'a'; 10_000], b"\0\0"].concat());
    // What is sent first, whether it is promised TLS, what is sent then, what is told, and the outcome.
    for (case, first, then, told, outcome) in [
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), None, "closed", "not_postgres"),
        ("a great length", b"\0\x01\0\0\0\x03\0\0".to_vec(), None, "closed", "not_postgres"),
        ("protocol 2", message(&[0, 2, 0, 0], &[0; 288]), None, "08P01", "hello_malformed"),
        ("an unknown code", message(&[4, 0xd2, 0x16, 0x31], &[]), None, "08P01", "hello_malformed"),
        ("a startup that is too long", long, None, "08P01", "hello_too_large"),
        ("parameters that end early", message(&[0, 3, 0, 0], b"user\0a\0"), None, "08P01", "hello_malformed"),
        ("data behind SSLRequest", ssl_and(&hello("db.test")), None, "08P01", "hello_malformed"),
        ("GSSENCRequest twice", GSSENC_REQUEST.to_vec(), Some(GSSENC_REQUEST.to_vec()), "08P01", "hello_malformed"),
        ("data behind GSSENCRequest", [&GSSENC_REQUEST[..], b"\0"].concat(), None, "08P01", "hello_malformed"),
        ("SSLRequest twice", SSL_REQUEST.to_vec(), Some(SSL_REQUEST.to_vec()), "closed", "not_tls"),
        ("a startup after SSLRequest", SSL_REQUEST.to_vec(), Some(startup()), "closed", "not_tls"),
        ("an unknown name", SSL_REQUEST.to_vec(), Some(hello("other.test")), "alert 112", "no_route"),
        ("an unknown name at once", hello("other.test"), None, "alert 112", "no_route"),
        ("no name", startup(), None, "08004", "no_route"),
        ("a cancel without a session", message(&[4, 0xd2, 0x16, 0x2e], &[1; 8]), None, "closed", "cancel_failed"),
        ("nothing", Vec::new(), None, "closed", "client_gone"),
        ("the end after SSLRequest", SSL_REQUEST.to_vec(), Some(Vec::new()), "closed", "client_gone"),
    ] {
        let mut client = Client::sending(at, &first);
        if let Some(then) = then {
            let answer = if first == GSSENC_REQUEST { b"N" } else { b"S" };
            client.expect(answer);
            client.send(&then);
        }
        if outcome == "client_gone" {
            client.finish();
        }
        let answer = client.rest();
        assert_eq!(answer.as_ref().map(|answer| state(answer)).ok().as_deref(), Some(told), "{case}: {answer:02x?}");
        let record = balancer.log().record_of(&client.address());
        assert_eq!(record["outcome"], outcome, "{case}: {record}");
    }
    assert!(server.heard().is_empty(), "{:?}", server.heard());
}

#[test]
fn one_deadline_covers_the_whole_opening() {
    let server = Server::start(Asked::Says(b"S"));
    let balancer = balancer(&[server.address], "timeouts.open = '1s'", "", "");
    let mut client = Client::connect(balancer.address("pg"));
    let began = Instant::now();
    for ask in [&GSSENC_REQUEST, &SSL_REQUEST] {
        std::thread::sleep(Duration::from_millis(400));
        client.send(ask);
        client.expect(if ask == &SSL_REQUEST { b"S" } else { b"N" });
    }
    // What was answered on the way does not begin it anew.
    client.send(&hello("db.test")[..20]);
    assert_eq!(client.rest().unwrap(), b"");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(2500), "{took:?}");
    assert_eq!(balancer.record()["outcome"], "hello_timeout");
}

#[test]
fn endpoints_that_do_not_promise_tls_are_passed_over() {
    let hello = hello("db.test");
    let good = Server::start(Asked::Says(b"S"));
    for (case, asked) in [
        ("no", Asked::Says(b"N")),
        ("an error", Asked::Says(b"E\0\0\0\x05\0")),
        ("nonsense", Asked::Says(b"x")),
        ("the end", Asked::Ends),
        ("silence", Asked::Waits),
    ] {
        let bad = Server::start(asked);
        let pool = "balance = 'round-robin'\ntimeouts.connect = '700ms'\noutliers.failures = 'off'";
        let both = balancer(&[bad.address, good.address], "", "", pool);
        for _ in 0..2 {
            let mut client = Client::sending(both.address("pg"), &SSL_REQUEST);
            client.expect(b"S");
            client.send(&hello);
            client.expect(&hello);
            client.end();
        }
        assert!(both.records(2).iter().all(|record| record["outcome"] == "ok"), "{case}");

        let alone = balancer(&[bad.address], "", "", pool);
        let mut client = Client::sending(alone.address("pg"), &SSL_REQUEST);
        client.expect(b"S");
        client.send(&hello);
        let answer = client.rest().unwrap();
        assert_eq!(state(&answer), "alert 80", "{case}");
        let record = alone.record();
        let outcome = if case == "silence" { "connect_timeout" } else { "endpoint_tls_failed" };
        assert_eq!(record["outcome"], outcome, "{case}: {record}");
        assert!(case == "silence" || record["endpoint_tls_error"].is_string(), "{case}: {record}");
        assert!(bad.heard().is_empty(), "{case}: nothing of the client is spent on it");
    }
}

#[test]
fn clients_in_clear_are_let_in_only_where_that_is_allowed() {
    let server = Server::start(Asked::Says(b"S"));
    let nobody = free_address();
    for (route, endpoint, told) in [
        ("", server.address, "28000"),
        ("allow_cleartext = true\nfrom = '192.0.2.0/24'", server.address, "28000"),
        ("allow_cleartext = true", nobody, "57P03"),
    ] {
        let balancer = balancer(&[endpoint], "", route, "");
        let mut client = Client::sending(balancer.address("pg"), &startup());
        assert_eq!(state(&client.rest().unwrap()), told, "{route}");
    }
    let balancer = balancer(&[server.address], "max_connections = 1", "allow_cleartext = true", "");
    let mut first = Client::sending(balancer.address("pg"), &startup());
    first.expect(&startup());
    let mut second = Client::sending(balancer.address("pg"), &SSL_REQUEST);
    assert_eq!(state(&second.rest().unwrap()), "53300", "one too many");
    first.end();
}

/// A StartupMessage alone may be said again: nothing comes of it before the client has answered.
#[test]
fn a_startup_that_is_not_answered_goes_to_another_endpoint() {
    let (deaf, good) = (Endpoint::start(Manner::HangsUpAfter(1)), Server::start(Asked::Says(b"S")));
    let pool = "balance = 'round-robin'";
    let balancer = balancer(&[deaf.address(), good.address], "", "allow_cleartext = true", pool);
    for _ in 0..2 {
        let mut client = Client::sending(balancer.address("pg"), &startup());
        client.expect(&startup());
        client.end();
    }
    assert_eq!(deaf.heard()[0].bytes, startup());
}

#[test]
fn cancel_requests_reach_every_server_on_which_the_client_has_a_session() {
    let servers = [(); 3].map(|()| Server::start(Asked::Says(b"S")));
    let pool = "balance = 'round-robin'";
    let balancer = balancer(&servers.each_ref().map(|server| server.address), "", "allow_cleartext = true", pool);
    let at = balancer.address("pg");
    let mut sessions = [(); 2].map(|()| Client::sending(at, &startup()));
    sessions.iter_mut().for_each(|session| session.expect(&startup()));
    let cancel = message(&[4, 0xd2, 0x16, 0x2e], &[7; 8]);
    let began = Instant::now();
    let mut client = Client::sending(at, &cancel);
    assert_eq!(client.rest().unwrap(), b"");
    assert!(began.elapsed() >= CANCELS_AFTER, "the client waits for the servers: {:?}", began.elapsed());
    let got: Vec<bool> = servers.iter().map(|server| server.heard().contains(&cancel)).collect();
    assert_eq!(got, [true, true, false], "the third has no session");
    let record = balancer.log().record_of(&client.address());
    assert_eq!((&record["outcome"], &record["by"]), (&"cancel".into(), &"client".into()), "{record}");

    let [first, second] = sessions;
    first.end();
    balancer.records(2);
    let mut client = Client::sending(at, &cancel);
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(
        balancer.log().record_of(&client.address())["endpoint"],
        servers[1].address.to_string(),
        "only one is left"
    );
    assert_eq!(servers[0].heard().len(), 2);
    second.end();
    balancer.records(4);
    let mut client = Client::sending(at, &cancel);
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(balancer.log().record_of(&client.address())["outcome"], "cancel_failed");
    let counted = "pointsman_listener_outcomes_total{listener=\"pg\",outcome=\"cancel\"}";
    eventually("both are counted", || (balancer.metric_if_there(counted) == Some(2.0)).then_some(()));
}

/// A balancer whose listener `my` is for MySQL.
fn mysql(endpoints: &[SocketAddr], listener: &str, route: &str, pool: &str) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Balancer::start(&format!(
        "[listener.my]\nbind = '127.0.0.1:0'\nprotocol = 'mysql'\n{listener}\n\
         [route.my]\nlistener = 'my'\npool = 'my'\n{route}\n[pool.my]\nendpoints = {endpoints:?}\n{pool}\n"
    ))
}

/// The number in the ERR packet that these bytes are.
fn err(bytes: &[u8]) -> Option<u16> {
    let [length, 0, 0, 0, 0xff, low, high, rest @ ..] = bytes else { return None };
    (usize::from(*length) == rest.len() + 3).then(|| u16::from_le_bytes([*low, *high]))
}

#[test]
fn clients_of_mysql_are_told_why_they_are_not_served() {
    let (greeting, nobody) = (Endpoint::start(Manner::Greets("5.5.5")), free_address());
    for (case, route, endpoint, number) in
        [("nobody there", "", nobody, 3168), ("another network", "from = '192.0.2.0/24'", greeting.address(), 1130)]
    {
        let balancer = mysql(&[endpoint], "", route, "");
        let mut client = Client::connect(balancer.address("my"));
        let said = client.rest().unwrap();
        assert_eq!(err(&said), Some(number), "{case}: {:?}", String::from_utf8_lossy(&said));
    }
    let balancer = mysql(&[greeting.address()], "max_connections = 1", "", "");
    let mut first = Client::connect(balancer.address("my"));
    first.expect(b"5.5.5");
    let mut second = Client::connect(balancer.address("my"));
    assert_eq!(err(&second.rest().unwrap()), Some(1040), "one too many");
    first.send(b"and on");
    first.expect(b"and on");
    first.end();
}

/// While a server has not greeted, nothing was said to it: another can be tried.
#[test]
fn a_server_of_mysql_that_does_not_greet_is_passed_over() {
    let (rude, good) = (Endpoint::start(Manner::HangsUpAfter(0)), Endpoint::start(Manner::Greets("8.0")));
    let pool = "balance = 'round-robin'";
    let balancer = mysql(&[rude.address(), good.address()], "", "", pool);
    for _ in 0..2 {
        let mut client = Client::connect(balancer.address("my"));
        client.expect(b"8.0");
        client.end();
    }
    assert_eq!(rude.connections(), 1);
    let balancer = mysql(&[rude.address()], "", "", "");
    let said = Client::connect(balancer.address("my")).rest().unwrap();
    assert_eq!(err(&said), Some(3168));
    assert_eq!(balancer.record()["outcome"], "endpoint_silent");
}

/// A client that is promised TLS, which ends at a balancer with this authority's certificate for `db.test`.
fn within_tls(at: SocketAddr, authority: &Authority) -> StreamOwned<ClientConnection, TcpStream> {
    let mut client = Client::sending(at, &SSL_REQUEST);
    client.expect(b"S");
    let connection = ClientConnection::new(Arc::new(authority.client()), "db.test".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, client.0)
}

#[test]
fn clients_whose_tls_ends_here_are_told_within_it() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let tls = format!("tls.certificates = '{}'", authority.sign("db.test").file("pem"));
    let deaf = Endpoint::start(Manner::HangsUpAfter(1));
    for (endpoint, outcome) in [(deaf.address(), "endpoint_silent"), (free_address(), "connect_failed")] {
        let balancer = balancer(&[endpoint], "", &tls, "");
        let mut client = within_tls(balancer.address("pg"), &authority);
        client.write_all(&startup()).unwrap();
        let mut told = Vec::new();
        client.read_to_end(&mut told).unwrap();
        assert_eq!((state(&told).as_str(), &balancer.record()["outcome"]), ("57P03", &outcome.into()));
    }
    // Who begins TLS at once has to mean this protocol, as servers have it.
    let direct = balancer(&[deaf.address()], "", &tls, "");
    let connection = ClientConnection::new(Arc::new(authority.client()), "db.test".try_into().unwrap()).unwrap();
    let mut client = StreamOwned::new(connection, Client::connect(direct.address("pg")).0);
    let _ = client.write_all(&startup());
    let mut told = Vec::new();
    client.read_to_end(&mut told).unwrap();
    assert_eq!((told.as_slice(), &direct.record()["outcome"]), (&b""[..], &"handshake_failed".into()));
    // Who says nothing within TLS is nothing to an endpoint.
    let balancer = balancer(&[deaf.address()], "", &tls, "");
    let before = deaf.connections();
    let mut client = within_tls(balancer.address("pg"), &authority);
    client.conn.complete_io(&mut client.sock).unwrap();
    client.conn.send_close_notify();
    client.conn.complete_io(&mut client.sock).unwrap();
    assert_eq!(balancer.record()["outcome"], "client_gone");
    assert_eq!(deaf.connections(), before);
}

#[test]
fn requests_to_cancel_within_tls_may_come_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let tls = format!("tls.certificates = '{}'", authority.sign("db.test").file("pem"));
    let servers = [(); 2].map(|()| Server::start(Asked::Says(b"S")));
    let balancer = balancer(&servers.each_ref().map(|server| server.address), "", &tls, "balance = 'round-robin'");
    let mut session = within_tls(balancer.address("pg"), &authority);
    session.write_all(&startup()).unwrap();
    let mut answer = vec![0; startup().len()];
    session.read_exact(&mut answer).unwrap();
    // Of protocol 3.2, with a longer key, in a record for each byte.
    let cancel = message(&[4, 0xd2, 0x16, 0x2e], &[7; 36]);
    let mut client = within_tls(balancer.address("pg"), &authority);
    for byte in &cancel {
        client.write_all(&[*byte]).unwrap();
        client.flush().unwrap();
    }
    let mut told = Vec::new();
    client.read_to_end(&mut told).unwrap();
    assert_eq!(told, b"");
    let got = servers.iter().filter(|server| server.heard().concat().ends_with(&cancel)).count();
    assert_eq!(got, 1, "the one with the session, and only that");
    assert_eq!(balancer.record()["outcome"], "cancel");
}

/// A server that ends with something of its client's unread resets the connection: what it said before still arrives, also
/// at a client that takes its time.
#[test]
fn what_a_server_has_said_arrives_however_it_ends() {
    const SAID: usize = 1_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut server in listener.incoming().flatten() {
            std::thread::spawn(move || {
                server.read_exact(&mut [0; 30]).unwrap();
                server.write_all(&vec![b'x'; SAID]).unwrap();
                // Unread: more of what the client has said.
                std::thread::sleep(Duration::from_millis(300));
            });
        }
    });
    for ends in [false, true] {
        let balancer = balancer(&[address], "", "allow_cleartext = true", "");
        let mut client = Client::sending(balancer.address("pg"), &startup());
        client.send(b"and more that is never read");
        if ends {
            client.finish();
        }
        std::thread::sleep(Duration::from_millis(800));
        let mut received = 0;
        let mut piece = [0; 16_384];
        // The end is a reset where the client has not ended, and then no byte is to be missing before it.
        while let Ok(some @ 1..) = client.0.read(&mut piece) {
            received += some;
            std::thread::sleep(Duration::from_millis(1));
        }
        let record = balancer.record();
        assert_eq!(received, SAID, "client ended: {ends}; {record}");
        assert_eq!(record["outcome"], if ends { "ok" } else { "endpoint_reset" }, "{record}");
    }
}
