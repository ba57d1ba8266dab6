//! The header of the PROXY protocol, in which a proxy says whom it speaks for: read and written, in the text of version 1 and
//! the bytes of version 2 (proxy-protocol.txt of HAProxy, sections 2.1 and 2.2).
//!
//! A header is framed and its rules are checked here, and only one that is complete is handed to the crate proxy-protocol,
//! which reads its addresses: on anything shorter it panics, and it does not know TLVs. Those are read and written here. No
//! guess is ever made: what breaks a rule is an error, never a connection without a header.

#[cfg(test)]
mod against_ppp;
#[cfg(test)]
mod tests;
mod tlv;
mod write;

use std::net::SocketAddr;

use proxy_protocol::{ProxyHeader, version1, version2};

pub use self::tlv::{Kind, Ssl, SslKind, Tlvs};
pub use self::write::{LOCAL, UNKNOWN, v1, v2};

/// The most bytes of a header of version 1, its line end included.
pub const MAX_V1: usize = 107;
/// The most bytes behind the first 16 of a header of version 2: addresses and TLVs. The format allows 65,535.
pub const MAX_PAYLOAD: usize = 4096;
/// Bytes in front of the payload of version 2.
const FIXED: usize = 16;

const V1: &[u8] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whom the connection is for.
    pub origin: Origin,
    /// What else was said of it; nothing in version 1.
    pub tlvs: Tlvs,
    /// Bytes that the header took. What follows is not part of it.
    pub length: usize,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy itself (LOCAL), as where it probes.
    Local,
    /// Somebody of whom the proxy does not say where he is (UNKNOWN, UNSPEC).
    Unknown,
    /// A client over TCP.
    Tcp(Addresses),
    /// A client of a unix socket.
    Unix,
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where the client is.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes begin like neither version.
    #[error("this is no PROXY header: byte {at} is 0x{byte:02x}")]
    Missing {
        /// The place of the first byte that tells.
        at: usize,
        /// What stands there.
        byte: u8,
    },
    /// Version 1 without a line end in its first [`MAX_V1`] bytes.
    #[error("the line of the header does not end within {MAX_V1} bytes")]
    EndlessLine,
    /// Version 2 says that its payload takes more than [`MAX_PAYLOAD`] bytes.
    #[error("the header has {0} bytes behind the first {FIXED}, at most {MAX_PAYLOAD} are allowed")]
    TooLarge(usize),
    /// Byte 12 is no version and command that is known.
    #[error("0x{0:02x} is no version and command")]
    Command(u8),
    /// Byte 13 is no family and transport of connections.
    #[error("0x{0:02x} is no address family and transport of a connection")]
    Family(u8),
    /// The checksum is that of other bytes.
    #[error("the checksum does not fit")]
    Checksum,
    /// Another rule of the format is broken.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Reads the header that `bytes`, everything received so far, begin with. `Ok(None)`: more is needed.
///
/// # Errors
/// As soon as the bytes cannot become a header any more, without waiting for the rest; of a line as soon as it is whole. The
/// error is the same in whatever pieces they come.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => read_v1(bytes),
        Some(_) => read_v2(bytes),
    }
}

fn read_v1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if !begins(bytes, V1)? {
        return Ok(None);
    }
    let seen = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() == MAX_V1 { Err(HeaderError::EndlessLine) } else { Ok(None) };
    };
    let length = end + 2;
    let line = bytes.get(V1.len()..end).unwrap_or_default();
    // Whatever stands behind UNKNOWN is to be ignored.
    let is_unknown = line.split(|byte| *byte == b' ').next() == Some(b"UNKNOWN");
    if !is_unknown && !is_strict(line) {
        return Err(HeaderError::Malformed("the line does not have a protocol, two addresses and two ports"));
    }
    let origin = if is_unknown { Origin::Unknown } else { addresses(bytes.get(..length).unwrap_or_default())? };
    Ok(Some(Header { origin, tlvs: Tlvs::default(), length }))
}

/// Whether a line has what it has to have, as far as that is not a matter of addresses.
fn is_strict(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let digits = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    matches!(words[..], [b"TCP4" | b"TCP6", _, _, from, to] if digits(from) && digits(to))
}

fn read_v2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if !begins(bytes, V2)? {
        return Ok(None);
    }
    let rest = bytes.get(V2.len()..).unwrap_or_default();
    let Some(&command) = rest.first() else { return Ok(None) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(HeaderError::Command(other)),
    };
    let Some(&family) = rest.get(1) else { return Ok(None) };
    let taken = match family {
        // What stands behind LOCAL is to be discarded, with the family.
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        other => return Err(HeaderError::Family(other)),
    };
    let Some(&[_, _, high, low]) = rest.first_chunk() else { return Ok(None) };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    if payload > MAX_PAYLOAD {
        return Err(HeaderError::TooLarge(payload));
    }
    if payload < taken {
        return Err(HeaderError::Malformed("the addresses are cut off"));
    }
    let length = FIXED + payload;
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let behind = whole.get(FIXED + taken..).unwrap_or_default();
    let (origin, tlvs) = match family {
        _ if is_local => (Origin::Local, Tlvs::default()),
        // There may be addresses of a kind that nobody knows, which are to be ignored.
        0x00 => (Origin::Unknown, Tlvs::read(behind).unwrap_or_default()),
        _ => (addresses(whole)?, Tlvs::read(behind)?),
    };
    tlv::verify(whole, &tlvs, behind)?;
    Ok(Some(Header { origin, tlvs, length }))
}

/// Whether all of `signature` has come.
fn begins(bytes: &[u8], signature: &[u8]) -> Result<bool, HeaderError> {
    match bytes.iter().zip(signature).position(|(byte, expected)| byte != expected) {
        Some(at) => Err(HeaderError::Missing { at, byte: bytes.get(at).copied().unwrap_or_default() }),
        None => Ok(bytes.len() >= signature.len()),
    }
}

/// The addresses of a header that is complete and has some.
fn addresses(mut whole: &[u8]) -> Result<Origin, HeaderError> {
    let tcp = |source: SocketAddr, destination| Origin::Tcp(Addresses { source, destination });
    match proxy_protocol::parse(&mut whole) {
        Ok(ProxyHeader::Version1 { addresses: version1::ProxyAddresses::Ipv4 { source, destination } }) => {
            Ok(tcp(source.into(), destination.into()))
        }
        Ok(ProxyHeader::Version1 { addresses: version1::ProxyAddresses::Ipv6 { source, destination } }) => {
            Ok(tcp(source.into(), destination.into()))
        }
        Ok(ProxyHeader::Version2 { addresses, .. }) => Ok(match addresses {
            version2::ProxyAddresses::Ipv4 { source, destination } => tcp(source.into(), destination.into()),
            version2::ProxyAddresses::Ipv6 { source, destination } => tcp(source.into(), destination.into()),
            version2::ProxyAddresses::Unix { .. } => Origin::Unix,
            version2::ProxyAddresses::Unspec => Origin::Unknown,
        }),
        Ok(_) | Err(_) => Err(HeaderError::Malformed("the addresses cannot be read")),
    }
}
