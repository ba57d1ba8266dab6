//! A network of its own: a client, a balancer and an endpoint in three network namespaces, with cables between them
//! that carry packets of 1500 bytes as a real one does.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::skipped;

/// One of the three places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Client,
    Balancer,
    Endpoint,
}

/// Three namespaces; gone with the test, also when it fails.
pub struct Network {
    name: String,
}

impl Network {
    /// A new network; `None`, with a message, for who may not make one.
    pub fn new() -> Option<Network> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let user = rustix::process::geteuid();
            skipped(&format!("network namespaces are only made by root, and this is {user:?}"));
            return None;
        }
        let name = format!("pointsman-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Network { name };
        for place in Place::ALL {
            network.ip(&["netns", "add", &network.namespace(place)]);
            network.ip(&["-n", &network.namespace(place), "link", "set", "lo", "up"]);
        }
        network.cable("left", (Place::Client, "10.77.1.1/24"), (Place::Balancer, "10.77.1.2/24"));
        network.cable("right", (Place::Endpoint, "10.77.2.1/24"), (Place::Balancer, "10.77.2.2/24"));
        Some(network)
    }

    /// Name of a namespace, for `ip netns exec`.
    pub fn namespace(&self, place: Place) -> String {
        format!("{}-{}", self.name, place.letter())
    }

    /// Listens on the endpoint's address.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.within(Place::Endpoint, || TcpListener::bind(("10.77.2.1", port)).unwrap())
    }

    /// Connects from the client's address.
    pub fn dial(&self, address: SocketAddr) -> TcpStream {
        self.within(Place::Client, || TcpStream::connect(address).unwrap())
    }

    /// The address that the balancer has for clients.
    pub fn door(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 77, 1, 2], port))
    }

    /// Loses every packet from and to a TCP port of a place, as if its cable had been pulled.
    pub fn cut(&self, place: Place, port: u16) {
        let rules = format!(
            "add table inet cut_{port}
             add chain inet cut_{port} in {{ type filter hook input priority 0; }}
             add chain inet cut_{port} out {{ type filter hook output priority 0; }}
             add rule inet cut_{port} in tcp dport {port} drop
             add rule inet cut_{port} out tcp sport {port} drop"
        );
        self.run("ip", &["netns", "exec", &self.namespace(place), "nft", &rules]);
    }

    /// Runs something, such as opening a socket, inside a namespace.
    pub fn within<T: Send>(&self, place: Place, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(place))).unwrap();
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    fn cable(&self, name: &str, one: (Place, &str), other: (Place, &str)) {
        let (a, b) = (self.namespace(one.0), self.namespace(other.0));
        self.ip(&["link", "add", name, "netns", &a, "type", "veth", "peer", "name", name, "netns", &b]);
        for (namespace, address) in [(&a, one.1), (&b, other.1)] {
            self.ip(&["-n", namespace, "addr", "add", address, "dev", name]);
            let offloads = ["ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off"];
            self.run("ip", &[&["netns", "exec", namespace], &offloads[..]].concat());
            self.ip(&["-n", namespace, "link", "set", name, "mtu", "1500", "up"]);
        }
    }

    fn ip(&self, arguments: &[&str]) {
        self.run("ip", arguments);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output =
            Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {}: {messages}", arguments.join(" "));
    }
}

impl Place {
    const ALL: [Place; 3] = [Place::Client, Place::Balancer, Place::Endpoint];

    fn letter(self) -> char {
        match self {
            Place::Client => 'c',
            Place::Balancer => 'b',
            Place::Endpoint => 'e',
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in Place::ALL {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(place)]).output();
        }
    }
}
