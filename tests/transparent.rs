//! Endpoints that are connected to from the address of the client. Needs root.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;

use crate::harness::network::{Network, Place};
use crate::harness::process::skipped;
use crate::harness::{PATIENCE, Process, eventually};

/// What README.md asks for, in the namespace of the balancer, and a way back from the endpoint.
fn set_up(network: &Network) {
    let balancer = "nft 'add table inet pointsman; \
                    add chain inet pointsman back { type filter hook prerouting priority mangle; }; \
                    add rule inet pointsman back meta l4proto tcp socket transparent 1 meta mark set 1 accept' && \
                    ip rule add fwmark 1 lookup 100 && ip route add local 0.0.0.0/0 dev lo table 100";
    let endpoint = "ip route add 10.77.1.0/24 via 10.77.2.2";
    for (place, commands) in [(Place::Balancer, balancer), (Place::Endpoint, endpoint)] {
        let run = Command::new("ip").args(["netns", "exec", &network.namespace(place), "sh", "-c", commands]).output();
        let run = run.unwrap();
        assert!(run.status.success(), "{commands}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn an_endpoint_sees_the_clients_own_address() {
    let Some(network) = Network::new() else { return };
    set_up(&network);
    let (door, namespace) = (Network::door(7001), network.namespace(Place::Balancer));
    let endpoint = network.listen(7000);
    let config = format!(
        r#"
        listener.door = {{ bind = "{door}", protocol = "tcp" }}
        route.one = {{ listener = "door", pool = "one" }}
        pool.one = {{ endpoints = "10.77.2.1:7000", transparent = true }}
        "#
    );
    let balancer = Process::start_under(&["ip", "netns", "exec", &namespace], &config);
    let echo = thread::spawn(move || {
        let (mut connection, from) = endpoint.accept().unwrap();
        let mut bytes = vec![0; 300_000];
        connection.read_exact(&mut bytes).unwrap();
        connection.write_all(&bytes).unwrap();
        from
    });
    let mut client = network.dial(door);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    client.write_all(&bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == bytes);
    let from = echo.join().unwrap();
    assert_eq!(from.ip(), client.local_addr().unwrap().ip(), "what the endpoint sees");
    drop(client);
    assert_eq!(balancer.records(1)[0]["outcome"], "ok");
}

#[test]
fn an_endpoint_of_the_other_family_cannot_be_reached() {
    let Some(network) = Network::new() else { return };
    let (door, namespace) = (Network::door(7001), network.namespace(Place::Balancer));
    let config = format!(
        r#"
        listener.door = {{ bind = "{door}", protocol = "tcp" }}
        route.one = {{ listener = "door", pool = "one" }}
        pool.one = {{ endpoints = "[2001:db8::1]:7000", transparent = true }}
        "#
    );
    let balancer = Process::start_under(&["ip", "netns", "exec", &namespace], &config);
    let mut client = network.dial(door);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let record = &balancer.records(1)[0];
    assert_eq!((&record["outcome"], &record["by"]), (&"connect_failed".into(), &"pointsman".into()), "{record}");
    let why = "clients have no address of its family to connect from";
    eventually("it is told of", || balancer.messages().contains(why).then_some(()));
}

/// A process that may not do it does not start, and says what it lacks.
#[test]
fn without_the_capability_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.toml");
    let config = "listener.edge = { bind = '127.0.0.1:0', protocol = 'tcp' }\nroute.one = { listener = 'edge', pool = 'one' }\n\
                  pool.one = { endpoints = '127.0.0.1:1', transparent = true }\n";
    std::fs::write(&path, config).unwrap();
    let binary = env!("CARGO_BIN_EXE_pointsman");
    let mut command = match rustix::process::geteuid().is_root() {
        false => Command::new(binary),
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", binary]);
            command
        }
    };
    let Ok(output) = command.arg("run").arg(&path).output() else {
        return skipped("setpriv is not installed");
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("pool.one.transparent") && said.contains("CAP_NET_ADMIN"), "{said}");
}
