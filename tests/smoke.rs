//! The main job in one test: a hello goes to its endpoint, bytes go both ways, the record tells of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::harness::Balancer;

#[test]
fn a_recorded_hello_reaches_its_endpoint() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.www = {{ listener = "edge", sni = "www.hello.example", pool = "web" }}
        pool.web.endpoints = ["{}"]
        "#,
        endpoint.local_addr().unwrap()
    ));
    let hello = std::fs::read("tests/data/hellos/firefox-esr.bin").unwrap();
    let mut client = TcpStream::connect(balancer.address("edge")).unwrap();
    client.write_all(&hello).unwrap();
    let (mut server, _) = endpoint.accept().unwrap();
    let mut received = vec![0; hello.len()];
    server.read_exact(&mut received).unwrap();
    assert_eq!(received, hello);
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    drop(client);
    let record = balancer.record();
    assert_eq!(record["outcome"], "ok");
    assert_eq!(record["sni"], "www.hello.example");
    assert_eq!((record["bytes_up"].as_u64(), record["bytes_down"].as_u64()), (Some(hello.len() as u64), Some(6)));
}
