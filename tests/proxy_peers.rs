//! PROXY headers between us and others who speak the protocol: HAProxy and nginx, as senders and as receivers; MariaDB.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::client::{get, hello};
use crate::harness::daemon::ask;
use crate::harness::mysql::{Make, Mysql};
use crate::harness::process::{free_address, skipped};
use crate::harness::tls::connect;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

/// A program that listens; ended with the test.
struct Peer {
    child: Child,
    _folder: TempDir,
}

impl Peer {
    /// Starts it with this configuration, which ends `words`, and waits until it listens; nothing where it is not installed.
    fn start(words: &[&str], config: &str, at: SocketAddr) -> Option<Peer> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, config.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let (program, words) = words.split_first().unwrap();
        let child = Command::new(program).args(words).arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = child else {
            skipped(&format!("{program} is not installed"));
            return None;
        };
        let mut peer = Peer { child, _folder: folder };
        eventually(&format!("{program} listens"), || {
            assert!(peer.child.try_wait().unwrap().is_none(), "{program} does not start");
            TcpStream::connect(at).ok()
        });
        Some(peer)
    }

    fn haproxy(config: &str, at: SocketAddr) -> Option<Peer> {
        let defaults = "defaults\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n";
        Peer::start(&["haproxy", "-db", "-f"], &format!("{defaults}{config}\n"), at)
    }

    fn nginx(stream: &str, at: SocketAddr) -> Option<Peer> {
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let built = Command::new("nginx").arg("-V").output();
        let is_apart =
            built.is_ok_and(|built| String::from_utf8_lossy(&built.stderr).contains("--with-stream=dynamic"));
        if is_apart && !Path::new(module).exists() {
            skipped("the stream module of nginx is not installed");
            return None;
        }
        let load = if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() };
        let config = format!(
            "{load}daemon off;\nmaster_process off;\npid FOLDER/pid;\nerror_log FOLDER/error.log;\nevents {{}}\n\
             stream {{\n{stream}\n}}\n"
        );
        Peer::start(&["nginx", "-e", "/dev/null", "-c"], &config, at)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listener for TCP that takes headers from whoever connects, in front of an endpoint that echoes.
fn receiver() -> (Balancer, Endpoint) {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        "listener.raw = {{ bind = '127.0.0.1:0', protocol = 'tcp', proxy_from = '127.0.0.1' }}\n\
         route.raw = {{ listener = 'raw', pool = 'all' }}\npool.all.endpoints = '{}'\n",
        endpoint.address()
    ));
    (balancer, endpoint)
}

/// One session by a peer in front of us, which says where its client is.
fn session_by(at: SocketAddr, balancer: &Balancer) {
    let hello = hello("db.example.com");
    let mut client = Client::sending(at, &hello);
    client.expect(&hello);
    let own = client.address();
    client.finish();
    let _ = client.rest();
    let record = balancer.log().record_of(&own);
    assert_eq!((&record["outcome"], &record["bytes_up"]), (&"ok".into(), &hello.len().into()), "{record}");
    assert_ne!(record["peer"], own, "{record}");
}

#[test]
fn haproxy_tells_us_where_the_client_is() {
    for how in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let ((balancer, _endpoint), at) = (receiver(), free_address());
        let config = format!(
            "listen l\n  mode tcp\n  unique-id-format %[uuid()]\n  bind {at}\n  server s {} {how}",
            balancer.address("raw")
        );
        let Some(_peer) = Peer::haproxy(&config, at) else { return };
        session_by(at, &balancer);
    }
}

#[test]
fn haproxy_probes_us_as_itself() {
    let ((balancer, endpoint), at) = (receiver(), free_address());
    let config = format!(
        "listen l\n  mode tcp\n  bind {at}\n  server s {} send-proxy-v2 check check-send-proxy inter 200ms",
        balancer.address("raw")
    );
    let Some(_peer) = Peer::haproxy(&config, at) else { return };
    let probe = |line: &serde_json::Value| line["peer"] == line["client"] && line["peer"].is_string();
    let record = eventually("it has probed", || balancer.log().lines().into_iter().find(probe));
    assert_ne!(record["outcome"], "proxy_header_malformed", "{record}");
    drop(endpoint);
}

#[test]
fn nginx_tells_us_where_the_client_is() {
    let ((balancer, _endpoint), at) = (receiver(), free_address());
    let stream = format!("server {{ listen {at}; proxy_pass {}; proxy_protocol on; }}", balancer.address("raw"));
    let Some(_peer) = Peer::nginx(&stream, at) else { return };
    session_by(at, &balancer);
}

#[test]
fn haproxy_hears_where_the_client_is() {
    let http = free_address();
    let tell = "%[src] %[src_port] %[dst_port] %[fc_rcvd_proxy] %[fc_pp_authority] %[fc_pp_unique_id]";
    let config = format!(
        "frontend f\n  mode http\n  bind {http} accept-proxy\n  \
         http-request return status 200 content-type text/plain lf-string \"{tell}\""
    );
    let Some(_peer) = Peer::haproxy(&config, http) else { return };
    for version in ["v1", "v2"] {
        let balancer = Balancer::start(&format!(
            "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\nroute.all = {{ listener = 'edge', pool = 'all' }}\n\
             pool.all = {{ endpoints = '{http}', send_proxy = '{version}' }}"
        ));
        let (status, said) = get(balancer.address("edge"), "/");
        let record = balancer.record();
        let client: SocketAddr = record["client"].as_str().unwrap().parse().unwrap();
        let told = format!("{} {} {} 1 ", client.ip(), client.port(), balancer.address("edge").port());
        assert!(status == 200 && said.starts_with(&told), "{version}: {said:?}, expected {told:?}");
        assert_eq!(said.contains(&format!(" {}-", record["id"])), version == "v2", "{said:?}");
    }
    // All that there is to tell, with a checksum that HAProxy verifies.
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let balancer = Balancer::terminating(&[&authority.sign("a.test")], "alpn = 'http/1.1'", http, "send_proxy = 'v2'");
    let mut config = authority.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(config));
    let own = session.sock.local_addr().unwrap();
    session.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    let _ = session.read_to_string(&mut said);
    let told = format!("{} {} {} 1 a.test ", own.ip(), own.port(), balancer.address("edge").port());
    assert!(said.contains(&told), "{said:?}, expected {told:?}");
}

#[test]
fn nginx_hears_where_the_client_is() {
    let at = free_address();
    let told = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port";
    let Some(_peer) = Peer::nginx(&format!("server {{ listen {at} proxy_protocol; return \"{told}\"; }}"), at) else {
        return;
    };
    for version in ["v1", "v2"] {
        let balancer = Balancer::start(&format!(
            "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\nroute.all = {{ listener = 'edge', pool = 'all' }}\n\
             pool.all = {{ endpoints = '{at}', send_proxy = '{version}' }}"
        ));
        let mut client = Client::connect(balancer.address("edge"));
        let said = String::from_utf8(client.rest().unwrap()).unwrap();
        let own = client.0.local_addr().unwrap();
        assert_eq!(said, format!("{} {} {}", own.ip(), own.port(), balancer.address("edge").port()), "{version}");
    }
}

/// MariaDB takes a client for who the header says that it is, with all that stands in it, and probes for whom they are.
#[test]
fn mariadb_hears_where_the_client_is() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let words = ["--proxy-protocol-networks=127.0.0.1", "--skip-name-resolve"];
    let Some(server) = Mysql::start_with(Make::MariaDb, &authority, "one.test", &words) else { return };
    server.user("alice", "mysql_native_password", "secret");
    for how in ["send_proxy = 'v1'", "send_proxy = 'v2'"] {
        let balancer = Balancer::start(&format!(
            "listener.sql = {{ bind = '127.0.0.1:0', protocol = 'mysql' }}\n\
             route.sql = {{ listener = 'sql', pool = 'sql' }}\n[pool.sql]\nendpoints = '{}'\n{how}\n",
            server.address()
        ));
        let mut client = Make::MariaDb.client().unwrap();
        client.args(["--host=127.0.0.1", "--user=alice", "--password=secret", "--batch", "--skip-column-names"]);
        client.args([format!("--port={}", balancer.address("sql").port()), format!("--ssl-ca={}", authority.file())]);
        let statement = "SELECT HOST FROM information_schema.processlist WHERE ID = CONNECTION_ID()";
        let said = ask(client.args(["--execute", statement]));
        let record = balancer.record();
        assert_eq!(said.as_deref(), Ok(record["client"].as_str().unwrap()), "{how}: {record}; log: {}", server.log());
    }
}
