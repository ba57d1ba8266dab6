//! Addresses, networks and names: text in, value or reason out. What means the same becomes the same value.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::model::{Address, Bind, NamePattern};
use super::value::{Refused, is_absolute};
use crate::wire::name::{MAX_NAME, Name, Written};

/// What an address to listen on has to be.
pub(super) const BIND: &str = "an address such as \"0.0.0.0:443\", \"[::]:443\" or \"unix:/run/x.sock\"";
/// What the address of an endpoint has to be.
pub(super) const ENDPOINT: &str =
    "an address such as \"10.0.0.11:5432\", \"[2001:db8::1]:5432\", \"db.example.com:5432\" or \"unix:/run/x.sock\"";
/// What a network has to be.
pub(super) const NETWORK: &str = "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or an address";
/// What a local address has to be.
pub(super) const IP: &str = "an address such as \"10.0.0.5\" or \"2001:db8::5\"";
/// What an entry of `sni` has to be.
pub(super) const PATTERN: &str =
    "a name such as \"www.example.com\", \"*.example.com\" (one label) or \"**.example.com\" (one or more)";

/// The longest path of a unix socket, in bytes (unix(7), sun_path without its final zero).
const UNIX_PATH: usize = 107;

/// Reads an address to listen on. Port 0 is allowed.
pub(super) fn bind(text: &str) -> Result<Bind, Refused> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path).map(Bind::Unix),
        None => socket(text).map(Bind::Tcp),
    }
}

/// Reads an IPv4 or IPv6 address with its port.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Refused> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        let why = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => "has no port",
            Ok(IpAddr::V6(_)) => "has no brackets, which part an IPv6 address from its port",
            Err(_) => "is not an address and a port",
        };
        return Err(Refused::misread(text, why));
    };
    refuse_mapped(address.ip(), text)?;
    Ok(address)
}

/// Reads the address of an endpoint.
pub(super) fn endpoint(text: &str) -> Result<Address, Refused> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Address::Unix);
    }
    let address = match text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        true => socket(text).map(Address::Ip)?,
        false => host(text)?,
    };
    match &address {
        Address::Ip(address) if address.port() == 0 => Err(Refused::because(text, NO_PORT)),
        Address::Host { port: 0, .. } => Err(Refused::because(text, NO_PORT)),
        _ => Ok(address),
    }
}

const NO_PORT: &str = "has port 0, to which nothing can connect";

fn host(text: &str) -> Result<Address, Refused> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Refused::misread(text, "has no port"));
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse::<u16>().ok().filter(|_| digits) else {
        return Err(Refused::misread(port, "is not a port"));
    };
    if matches!(Name::read(host.as_bytes()), Ok(Written::Address(_))) {
        return Err(Refused::misread(text, "is not an address and a port"));
    }
    Ok(Address::Host { host: host_name(host)?, port })
}

/// Reads a name that servers are to be asked for.
pub(super) fn host_name(text: &str) -> Result<String, Refused> {
    let name = match Name::read(text.as_bytes()) {
        Ok(Written::Name(name)) => name,
        Ok(Written::Address(_)) => return Err(Refused::misread(text, "is an address, not a host name")),
        Err(error) => return Err(Refused::misread(text, &format!("is not a host name: {error}"))),
    };
    // No host has such a name: the top-level domains are letters. It is an address with a slip in it.
    if name.as_str().rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(Refused::misread(text, "is neither an address nor a host name"));
    }
    Ok(name.as_str().to_owned())
}

/// Sockets are IPv6 only here, so an IPv4 address in IPv6 clothes would never match anything.
fn refuse_mapped(address: IpAddr, text: &str) -> Result<(), Refused> {
    let IpAddr::V6(v6) = address else { return Ok(()) };
    match v6.to_ipv4_mapped() {
        Some(v4) => Err(Refused::because(text, &format!("is an IPv4 address written as IPv6; write {v4}"))),
        None => Ok(()),
    }
}

/// Reads the absolute path of a unix socket.
pub(super) fn unix_path(path: &str) -> Result<PathBuf, Refused> {
    if !is_absolute(path) || path.ends_with('/') {
        return Err(Refused::misread(path, "is not the absolute path of a socket"));
    }
    if path.len() > UNIX_PATH {
        let why = format!("has {} bytes, and the path of a socket at most {UNIX_PATH}", path.len());
        return Err(Refused::because(path, &why));
    }
    // Rebuilt from its parts, so that "//" and "/./" do not make two paths of one.
    Ok(Path::new(path).components().collect())
}

/// Reads a network, or an address as the network that holds only it.
pub(super) fn network(text: &str) -> Result<IpNet, Refused> {
    if let Ok(address) = text.parse::<IpAddr>() {
        refuse_mapped(address, text)?;
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(Refused::misread(text, "is not a network"));
    };
    if let IpNet::V6(v6) = network {
        let inner = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
        if let Some(inner) = inner.and_then(|(address, length)| Ipv4Net::new(address, length).ok()) {
            let why = format!("is an IPv4 network written as IPv6; write {}", inner.trunc());
            return Err(Refused::because(text, &why));
        }
    }
    if network.trunc() != network {
        let why = format!("has bits set behind its length; {} is probably meant", network.trunc());
        return Err(Refused::because(text, &why));
    }
    Ok(network)
}

/// Reads an address without a port.
pub(super) fn ip(text: &str) -> Result<IpAddr, Refused> {
    let Ok(address) = text.parse() else {
        return Err(Refused::misread(text, "is not an address"));
    };
    refuse_mapped(address, text)?;
    Ok(address)
}

/// Reads an entry of `sni`.
pub(super) fn name_pattern(text: &str) -> Result<NamePattern, Refused> {
    let (kind, written): (fn(Name) -> NamePattern, &str) = match text.strip_prefix("**.") {
        Some(name) => (NamePattern::AnyDepth, name),
        None => match text.strip_prefix("*.") {
            Some(name) => (NamePattern::OneLabel, name),
            None => (NamePattern::Exact, text),
        },
    };
    if written.contains('*') {
        return Err(Refused::misread(text, "has a * that is not the whole first label"));
    }
    let name = match Name::read(written.as_bytes()) {
        Ok(Written::Name(name)) => name,
        Ok(Written::Address(_)) => {
            return Err(Refused::because(text, "is an address, which clients may not send as a name"));
        }
        Err(error) => return Err(Refused::misread(text, &format!("is not a name: {error}"))),
    };
    // The shortest label and its dot.
    if written != text && name.as_str().len() + 2 > MAX_NAME {
        return Err(Refused::because(text, "is so long that no name can match it"));
    }
    Ok(kind(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised() {
        assert_eq!(bind("[::0]:443"), bind("[::]:443"));
        assert_eq!(bind("unix:/run//./x.sock"), bind("unix:/run/x.sock"));
        assert_eq!(endpoint("DB.Example.com.:5432"), endpoint("db.example.com:5432"));
        for text in ["", ":", ":80", "a:", "a:+80", "a:70000", "::1:80x", "unix:", "unix:x", "[::1]", "10.0.0.300:80"] {
            assert!(endpoint(text).is_err(), "{text:?} gave {:?}", endpoint(text));
        }
    }

    #[test]
    fn networks_are_whole() {
        assert_eq!(network("192.0.2.1").map(|net| net.to_string()), Ok("192.0.2.1/32".to_owned()));
        assert_eq!(network("::/0").map(|net| net.prefix_len()), Ok(0));
        for text in ["", "/", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "10/8"] {
            assert!(network(text).is_err(), "{text:?} gave {:?}", network(text));
        }
    }

    #[test]
    fn a_pattern_leaves_room_for_a_label() {
        let name = "a.".repeat(125);
        assert!(name_pattern(&format!("*.{name}b")).is_ok(), "251 bytes");
        assert!(name_pattern(&format!("*.{name}bb")).is_err(), "252 bytes");
        assert!(name_pattern(&format!("{name}bbb")).is_ok(), "253 bytes");
    }
}
