//! A second opinion on headers for tests and fuzzing: the crate ppp reads the same bytes.

use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, PartialResult, v1, v2};

use crate::wire::proxy_header::{Addresses, HeaderError, Origin, read};

/// Reads `bytes` in both ways; true if both accept them.
///
/// # Panics
/// Where only one of them accepts, unless the reason is a listed one, and where both do but understand something else.
pub(crate) fn compare(bytes: &[u8]) -> bool {
    let theirs = HeaderResult::parse(bytes);
    let ours = read(bytes);
    let (origin, length, tlvs) = match &theirs {
        // They take a blank for the carriage return at the end of a line.
        HeaderResult::V1(Ok(header)) if !header.header.ends_with("\r\n") => return false,
        HeaderResult::V1(Ok(header)) => (of_v1(&header.addresses), header.header.len(), None),
        HeaderResult::V2(Ok(header)) => {
            let tlvs: Vec<_> = header.tlvs().map(|tlv| tlv.map(|tlv| (tlv.kind, tlv.value.into_owned()))).collect();
            (of_v2(header), header.length() + 16, Some(tlvs))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => {
            match ours {
                Ok(Some(header)) => assert!(laxer_on_purpose(bytes, header.origin), "only we accept it: {header:?}"),
                Ok(None) => {
                    // A line is judged once it is whole, and it is bounded; the family of LOCAL does not matter.
                    let has_time = !bytes.starts_with(b"\r") || bytes.get(12) == Some(&0x20);
                    assert!(theirs.is_incomplete() || has_time, "only we still wait: {theirs:?}");
                }
                Err(_) => {}
            }
            return false;
        }
    };
    let header = match ours {
        Ok(Some(header)) => header,
        Ok(None) => panic!("only we still wait, they say {theirs:?}"),
        Err(error) => {
            assert!(stricter_on_purpose(error), "only we refuse it: {error}, they say {theirs:?}");
            return false;
        }
    };
    assert_eq!((header.origin, header.length), (origin, length));
    // What stands behind LOCAL and UNSPEC is read in another way.
    if let Some(tlvs) = tlvs.filter(|_| matches!(header.origin, Origin::Tcp(_) | Origin::Unix)) {
        let ours: Vec<_> = header.tlvs.iter().map(|(kind, value)| Ok((kind, value.to_vec()))).collect();
        assert_eq!(ours, tlvs);
    }
    true
}

/// Where we refuse what they let pass.
fn stricter_on_purpose(error: HeaderError) -> bool {
    match error {
        // Ours to limit; datagrams; a part of a family; what TLVs have to be.
        HeaderError::TooLarge(_) | HeaderError::Family(_) | HeaderError::Checksum | HeaderError::Malformed(_) => true,
        HeaderError::Missing { .. } | HeaderError::EndlessLine | HeaderError::Command(_) => false,
    }
}

/// Where we accept what they do not: the family of LOCAL is to be discarded, and so is what stands behind UNKNOWN.
fn laxer_on_purpose(bytes: &[u8], origin: Origin) -> bool {
    origin == Origin::Local || (origin == Origin::Unknown && !bytes.starts_with(b"\r\n"))
}

fn tcp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16)) -> Origin {
    let (source, destination) =
        (SocketAddr::new(source.0.into(), source.1), SocketAddr::new(destination.0.into(), destination.1));
    Origin::Tcp(Addresses { source, destination })
}

fn of_v1(addresses: &v1::Addresses) -> Origin {
    match addresses {
        v1::Addresses::Unknown => Origin::Unknown,
        v1::Addresses::Tcp4(a) => tcp((a.source_address, a.source_port), (a.destination_address, a.destination_port)),
        v1::Addresses::Tcp6(a) => tcp((a.source_address, a.source_port), (a.destination_address, a.destination_port)),
    }
}

fn of_v2(header: &v2::Header<'_>) -> Origin {
    if header.command == v2::Command::Local {
        return Origin::Local;
    }
    match &header.addresses {
        v2::Addresses::Unspecified => Origin::Unknown,
        v2::Addresses::Unix(_) => Origin::Unix,
        v2::Addresses::IPv4(a) => tcp((a.source_address, a.source_port), (a.destination_address, a.destination_port)),
        v2::Addresses::IPv6(a) => tcp((a.source_address, a.source_port), (a.destination_address, a.destination_port)),
    }
}
