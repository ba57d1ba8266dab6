//! Real clients, each with its own TLS library: every one reaches the backend of the name it asks for and sees that
//! backend's certificate. TLS stays end to end, so a client that trusts the other backend's authority must refuse.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::harness::Balancer;
use crate::harness::tls::{Backend, REQUEST};

/// What a client hears at an address that asks for `of` and trusts `trusted`; an error in the client's own words.
type Ask = fn(at: SocketAddr, of: &Backend, trusted: &Backend) -> Result<String, String>;

const CLIENTS: [(&str, Ask); 5] = [
    ("curl", |at, of, trusted| {
        let (name, port) = (of.name(), at.port());
        run(Command::new("curl").args(["-sS", "--max-time", "10", "--cacert", trusted.authority_file()]).args([
            "--resolve",
            &format!("{name}:{port}:127.0.0.1"),
            &format!("https://{name}:{port}/"),
        ]))
    }),
    ("openssl s_client", |at, of, trusted| openssl(at, of, trusted, "-tls1_3")),
    ("openssl s_client, TLS 1.2", |at, of, trusted| openssl(at, of, trusted, "-tls1_2")),
    ("Python ssl", |at, of, trusted| {
        run(Command::new("python3").args(["-c", PYTHON, trusted.authority_file(), of.name(), &at.port().to_string()]))
    }),
    ("rustls", |at, of, trusted| of.ask(at, trusted).map_err(|error| error.to_string())),
];

const PYTHON: &str = "
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
with socket.create_connection(('127.0.0.1', int(sys.argv[3])), timeout=10) as plain:
    with context.wrap_socket(plain, server_hostname=sys.argv[2]) as client:
        client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
        while data := client.recv(4096):
            sys.stdout.write(data.decode())
";

fn openssl(at: SocketAddr, of: &Backend, trusted: &Backend, version: &str) -> Result<String, String> {
    let authority = trusted.authority_file();
    run(Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", version, "-connect", &at.to_string()])
        .args(["-servername", of.name(), "-verify_hostname", of.name(), "-CAfile", authority]))
}

/// Runs a client with the request on its standard input.
fn run(command: &mut Command) -> Result<String, String> {
    let client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut client = client.unwrap_or_else(|error| panic!("{:?} has to be installed: {error}", command.get_program()));
    // One that is not interested may have left already.
    let _ = client.stdin.take().unwrap().write_all(REQUEST.as_bytes());
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn every_client_reaches_the_backend_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let one = Backend::start("one.example", folder.path());
    let two = Backend::start("two.example", folder.path());
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.one = {{ listener = "edge", sni = "one.example", pool = "one" }}
        route.two = {{ listener = "edge", sni = "two.example", pool = "two" }}
        pool.one.endpoints = ["{}"]
        pool.two.endpoints = ["{}"]
        "#,
        one.address(),
        two.address()
    ));
    let at = balancer.address("edge");
    let (log, one, two) = (&balancer.log(), &one, &two);
    std::thread::scope(|scope| {
        for (client, ask) in CLIENTS {
            scope.spawn(move || {
                for (of, other) in [(one, two), (two, one)] {
                    let heard = ask(at, of, of);
                    let expected = format!("{name} was asked for {name}\n", name = of.name());
                    assert!(
                        heard.as_ref().is_ok_and(|heard| heard.ends_with(&expected)),
                        "{client} asked for {} and heard {heard:?}; log: {:#?}",
                        of.name(),
                        log.lines()
                    );
                    let heard = ask(at, of, other);
                    assert!(
                        heard.is_err(),
                        "{client} trusts only {} and heard {heard:?} at {}",
                        other.name(),
                        of.name()
                    );
                }
            });
        }
    });
    let records = balancer.records(4 * CLIENTS.len());
    for record in &records {
        let (sni, route) = (record["sni"].as_str().unwrap(), record["route"].as_str().unwrap());
        assert_eq!(sni, format!("{route}.example"), "{record}");
        assert!(record["tls"].as_array().is_some_and(|versions| !versions.is_empty()), "{record}");
    }
}
