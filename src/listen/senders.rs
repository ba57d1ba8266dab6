//! Who has to begin with a PROXY header, and what such a header has said.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixSet;

use crate::config::model::ProxyFrom;
use crate::wire::proxy_header::{Addresses, Header, Origin, Tlvs};

/// Whose connections begin with a header.
#[derive(Debug)]
pub(crate) struct Senders {
    networks: JointPrefixSet<IpNet>,
    unix: bool,
}

impl Senders {
    /// Those of a listener.
    pub(crate) fn new(from: &ProxyFrom) -> Senders {
        Senders { networks: from.networks.iter().copied().collect(), unix: from.unix }
    }

    /// Whether whoever connected from there has to send one; `peer` is `None` behind a unix socket.
    pub(crate) fn have(&self, peer: Option<SocketAddr>) -> bool {
        match peer.map(|peer| peer.ip().to_canonical()) {
            Some(IpAddr::V4(peer)) => self.networks.get_lpm(&IpNet::V4(peer.into())).is_some(),
            Some(IpAddr::V6(peer)) => self.networks.get_lpm(&IpNet::V6(peer.into())).is_some(),
            None => self.unix,
        }
    }
}

/// What a header has said of a connection.
#[derive(Debug)]
pub(crate) struct Proxied {
    /// Where the client is; `None` behind a unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// What the client connected to, if that is known.
    pub(crate) destination: Option<SocketAddr>,
    /// What else was said.
    pub(crate) tlvs: Tlvs,
}

impl Proxied {
    /// What `header` says of a connection that `peer` has made.
    pub(crate) fn new(header: Header, peer: Option<SocketAddr>) -> Proxied {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (client, destination) = match header.origin {
            Origin::Tcp(Addresses { source, destination }) => (Some(canonical(source)), Some(canonical(destination))),
            Origin::Unix => (None, None),
            // It is whoever connected.
            Origin::Local | Origin::Unknown => (peer, None),
        };
        Proxied { client, destination, tlvs: header.tlvs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_to_send_one() {
        let networks = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"];
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        for unix in [true, false] {
            let senders = Senders::new(&ProxyFrom { networks: Vec::clone(&networks), unix });
            for (peer, has) in [
                ("10.1.2.3:4", true),
                ("11.0.0.1:4", false),
                ("192.0.2.7:4", true),
                ("192.0.2.8:4", false),
                ("[2001:db8::1]:4", true),
                ("[2001:db9::1]:4", false),
                ("[::ffff:10.0.0.1]:4", true),
            ] {
                assert_eq!(senders.have(Some(peer.parse().unwrap())), has, "{peer}");
            }
            assert_eq!(senders.have(None), unix);
        }
    }

    #[test]
    fn whom_a_header_speaks_for() {
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let tcp = |source: &str, destination: &str| {
            Origin::Tcp(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
        };
        let peer = at("10.0.0.1:2");
        for (origin, client, destination) in [
            (Origin::Local, peer, None),
            (Origin::Unknown, peer, None),
            (Origin::Unix, None, None),
            (tcp("192.0.2.1:1", "192.0.2.2:2"), at("192.0.2.1:1"), at("192.0.2.2:2")),
            (tcp("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2"), at("192.0.2.1:1"), at("[2001:db8::1]:2")),
        ] {
            let proxied = Proxied::new(Header { origin, tlvs: Tlvs::default(), length: 16 }, peer);
            assert_eq!((proxied.client, proxied.destination), (client, destination), "{origin:?}");
        }
    }
}
