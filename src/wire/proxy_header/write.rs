//! Headers as they are sent.

use std::net::{IpAddr, SocketAddr};

use super::tlv::{self, CHECKSUM};
use super::{Addresses, Kind, Tlvs, V2};

/// Version 1; without addresses it says that they are unknown.
pub fn v1(addresses: Option<Addresses>) -> Vec<u8> {
    let Some((from, to)) = addresses.map(same_family) else { return UNKNOWN.to_vec() };
    let family = if from.is_ipv4() { 4 } else { 6 };
    format!("PROXY TCP{family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

/// Version 2, for a client over TCP at `addresses`. Without them the connection is still for somebody else (PROXY), of
/// whom it is not said where he is (UNSPEC): LOCAL would say that it is the sender's own.
pub fn v2(addresses: Option<Addresses>, tlvs: &Tlvs, has_checksum: bool) -> Vec<u8> {
    let (mut header, mut family) = (V2.to_vec(), 0x00);
    let mut payload = Vec::with_capacity(36 + tlvs.as_bytes().len() + CHECKSUM);
    if let Some((from, to)) = addresses.map(same_family) {
        family = if from.is_ipv4() { 0x11 } else { 0x21 };
        for address in [from, to] {
            match address.ip() {
                IpAddr::V4(ip) => payload.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => payload.extend_from_slice(&ip.octets()),
            }
        }
        for address in [from, to] {
            payload.extend_from_slice(&address.port().to_be_bytes());
        }
    }
    payload.extend_from_slice(tlvs.as_bytes());
    if has_checksum {
        tlv::put(Kind::Checksum as u8, &[0; 4], &mut payload);
    }
    header.extend_from_slice(&[0x21, family]);
    // It is at most what is read as well.
    header.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(&payload);
    if has_checksum {
        let at = header.len() - 4;
        let checksum = tlv::checksum(&header, at).to_be_bytes();
        header.truncate(at);
        header.extend_from_slice(&checksum);
    }
    header
}

/// Version 1 where nothing is known, or where the connection is the sender's own, such as a probe.
pub const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
/// Version 2 for a connection of the sender's own.
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Both ends in one family, which is all that a header has: IPv4 if both are, in whatever clothes they come, else IPv6.
fn same_family(Addresses { source, destination }: Addresses) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
    };
    let (from, to) = (canonical(source), canonical(destination));
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (v6(from), v6(to)) }
}
