//! Values that are written as strings: durations, sizes, addresses, networks, names. Text in, value or reason out.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::model::{Address, Bind, NamePattern};
use super::report::quote;
use crate::wire::name::{Name, Written};

/// What a duration has to be.
pub(super) const DURATION: &str = "a duration such as \"500ms\", \"5s\", \"2m\", \"1h\" or \"1d\"";
/// What a size has to be.
pub(super) const SIZE: &str = "a size such as \"64MiB\" or \"64KiB\", or a number of bytes";
/// What an address to listen on has to be.
pub(super) const BIND: &str = "an address such as \"0.0.0.0:443\", \"[::]:443\" or \"unix:/run/x.sock\"";
/// What the address of an endpoint has to be.
pub(super) const ADDRESS: &str =
    "an address such as \"10.0.0.11:5432\", \"[2001:db8::1]:5432\", \"db.example.com:5432\" or \"unix:/run/x.sock\"";
/// What a network has to be.
pub(super) const NETWORK: &str = "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or an address";
/// What a local address has to be.
pub(super) const IP: &str = "an address such as \"10.0.0.5\" or \"2001:db8::5\"";
/// What an entry of `sni` has to be.
pub(super) const PATTERN: &str = "a name such as \"www.example.com\", \"*.example.com\" (one label) or \
                                  \"**.example.com\" (one or more)";

/// The longest duration, in days: ten years, so that no sum of a time and a duration overflows.
const LONGEST: u64 = 3650;
/// The longest path of a unix socket, in bytes (unix(7), sun_path without its final zero).
const UNIX_PATH: usize = 107;

/// Reads a duration: a whole number and one of the units ms, s, m, h and d; `0` needs no unit. At most ten years.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let not = || format!("{} is not a duration", quote(text));
    let (digits, unit) = split_number(text);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if digits == "0" => 1,
        "" if !digits.is_empty() => return Err(format!("{} has no unit", quote(text))),
        _ => return Err(not()),
    };
    if digits.is_empty() {
        return Err(not());
    }
    let number = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    match number {
        Some(milliseconds) if milliseconds <= LONGEST * 86_400_000 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(format!("{} is more than ten years", quote(text))),
    }
}

/// Reads a size in bytes: a whole number, and KiB, MiB or GiB unless it counts bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_number(text);
    let unit: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("{} is not a size", quote(text))),
    };
    if digits.is_empty() {
        return Err(format!("{} is not a size", quote(text)));
    }
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(|| format!("{} is too large", quote(text)))
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Reads an address to listen on. Port 0 is allowed.
pub(super) fn bind(text: &str) -> Result<Bind, String> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path).map(Bind::Unix),
        None => socket_address(text).map(Bind::Tcp),
    }
}

/// Reads an IPv4 or IPv6 address with its port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("{} has no port", quote(text)),
        Ok(IpAddr::V6(_)) => format!("{} has no brackets, which part an IPv6 address from its port", quote(text)),
        Err(_) => format!("{} is not an address and a port", quote(text)),
    })?;
    refuse_mapped(address.ip(), text)?;
    Ok(address)
}

/// Reads the address of an endpoint.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Address::Unix);
    }
    if text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        let address = socket_address(text)?;
        refuse_port_zero(address.port(), text)?;
        return Ok(Address::Ip(address));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("{} has no port", quote(text)));
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse::<u16>().ok().filter(|_| digits) else {
        return Err(format!("{} is not a port", quote(port)));
    };
    let name = match Name::read(host.as_bytes()) {
        Ok(Written::Name(name)) => name,
        Ok(Written::Address(_)) => return Err(format!("{} is not an address and a port", quote(text))),
        Err(error) => return Err(format!("{} is not a host name: {error}", quote(host))),
    };
    // No host has such a name: the top-level domains are letters. It is an address with a slip in it.
    if name.as_str().rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{} is neither an address nor a host name", quote(host)));
    }
    refuse_port_zero(port, text)?;
    Ok(Address::Host { host: name.as_str().to_owned(), port })
}

fn refuse_port_zero(port: u16, text: &str) -> Result<(), String> {
    if port == 0 { Err(format!("{} has port 0, to which nothing can connect", quote(text))) } else { Ok(()) }
}

/// Sockets are IPv6 only here, so an IPv4 address in IPv6 clothes would never match anything.
fn refuse_mapped(address: IpAddr, text: &str) -> Result<(), String> {
    let IpAddr::V6(v6) = address else { return Ok(()) };
    match v6.to_ipv4_mapped() {
        Some(v4) => Err(format!("{} is an IPv4 address written as IPv6; write {v4}", quote(text))),
        None => Ok(()),
    }
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(format!("{} is not the absolute path of a socket", quote(path)));
    }
    if path.len() > UNIX_PATH {
        return Err(format!("the path has {} bytes, a socket's may have {UNIX_PATH}", path.len()));
    }
    // Rebuilt from its parts, so that "//" and "/./" do not make two paths of one.
    Ok(Path::new(path).components().collect())
}

/// Reads a network, or an address as the network that holds only it.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        refuse_mapped(address, text)?;
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| format!("{} is not a network", quote(text)))?;
    if let IpNet::V6(v6) = network {
        let inner = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
        let inner = inner.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
        if let Some(inner) = inner {
            return Err(format!("{} is an IPv4 network written as IPv6; write {}", quote(text), inner.trunc()));
        }
    }
    if network.trunc() != network {
        return Err(format!("{} has bits set behind its length; {} is probably meant", quote(text), network.trunc()));
    }
    Ok(network)
}

/// Reads an address without a port.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let address = text.parse().map_err(|_| format!("{} is not an address", quote(text)))?;
    refuse_mapped(address, text)?;
    Ok(address)
}

/// Reads an entry of `sni`.
pub(super) fn name_pattern(text: &str) -> Result<NamePattern, String> {
    let (kind, name): (fn(Name) -> NamePattern, &str) = match text.strip_prefix("**.") {
        Some(name) => (NamePattern::AnyDepth, name),
        None => match text.strip_prefix("*.") {
            Some(name) => (NamePattern::OneLabel, name),
            None => (NamePattern::Exact, text),
        },
    };
    if name.contains('*') {
        return Err(format!("{} has a * that is not the whole first label", quote(text)));
    }
    match Name::read(name.as_bytes()) {
        Ok(Written::Name(name)) => Ok(kind(name)),
        Ok(Written::Address(_)) => Err(format!("{} is an address, which clients may not send as a name", quote(text))),
        Err(error) => Err(format!("{} is not a name: {error}", quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
            ("0s", 0),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "5", "5 s", "-5s", "+5s", "1.5s", "5S", "3651d", "99999999999999999999s", "1h30m", "٣s"]
        {
            assert!(duration(text).is_err(), "{text:?} gave {:?}", duration(text));
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("0", 0), ("1000", 1000), ("64KiB", 65_536), ("64MiB", 67_108_864), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "64MB", "64 MiB", "-1", "1.5GiB", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(size(text).is_err(), "{text:?} gave {:?}", size(text));
        }
    }

    #[test]
    fn addresses_are_normalised() {
        assert_eq!(bind("[::0]:443"), bind("[::]:443"));
        assert_eq!(bind("unix:/run//./x.sock"), bind("unix:/run/x.sock"));
        assert_eq!(address("DB.Example.com.:5432"), address("db.example.com:5432"));
        for text in ["", ":", ":80", "a:", "a:+80", "a:70000", "::1:80x", "unix:", "unix:x", "[::1]", "10.0.0.300:80"] {
            assert!(address(text).is_err(), "{text:?} gave {:?}", address(text));
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
}
