//! What is read, what is refused, and that what is written is read again.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::against_ppp::compare;
use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(source: &str, destination: &str) -> Addresses {
    Addresses { source: at(source), destination: at(destination) }
}

/// Version 2 with this byte 12, this byte 13 and this payload.
fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&V2[..], &[command, family], &length, payload].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 0x15, 0x38];

/// One after the other, each with its type.
fn tlvs(all: &[(u8, &[u8])]) -> Tlvs {
    let mut tlvs = Tlvs::default();
    assert!(all.iter().all(|(kind, value)| tlvs.add(*kind, value)));
    tlvs
}

#[test]
fn headers_as_they_come() {
    let v6 = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1], &[0x20, 1, 0x0d, 0xb8], &[0; 11], &[2], &[0, 1, 0xff, 0xff]]
        .concat();
    let from_v4 = Origin::Tcp(tcp("192.0.2.1:4711", "198.51.100.2:5432"));
    let with = |tlvs: &[u8]| [&V4[..], tlvs].concat();
    for (case, bytes, origin, values) in [
        ("TCP4", b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 5432\r\n".to_vec(), from_v4, &[][..]),
        (
            "port 0",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n".to_vec(),
            Origin::Tcp(tcp("1.2.3.4:0", "5.6.7.8:65535")),
            &[],
        ),
        (
            "TCP6",
            b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(),
            Origin::Tcp(tcp("[2001:db8::1]:4711", "[::1]:443")),
            &[],
        ),
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), Origin::Unknown, &[]),
        ("UNKNOWN and whatever", b"PROXY UNKNOWN \xff\0 \r \n\r\n".to_vec(), Origin::Unknown, &[]),
        ("the longest line", [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat(), Origin::Unknown, &[]),
        ("IPv4", binary(0x21, 0x11, &V4), from_v4, &[]),
        ("IPv6", binary(0x21, 0x21, &v6), Origin::Tcp(tcp("[2001:db8::1]:1", "[2001:db8::2]:65535")), &[]),
        ("unix", binary(0x21, 0x31, &[7; 216]), Origin::Unix, &[]),
        ("UNSPEC", binary(0x21, 0x00, &[]), Origin::Unknown, &[]),
        ("UNSPEC with addresses of no kind", binary(0x21, 0x00, &[9; 50]), Origin::Unknown, &[]),
        ("UNSPEC with values", binary(0x21, 0x00, &[5, 0, 1, b'x']), Origin::Unknown, &[(5, &b"x"[..])]),
        ("LOCAL", LOCAL.to_vec(), Origin::Local, &[]),
        ("LOCAL of any family", binary(0x20, 0x77, &[1; 40]), Origin::Local, &[]),
        (
            "values",
            binary(0x21, 0x11, &with(&[2, 0, 1, b'a', 0xe1, 0, 0, 4, 0, 1, 9])),
            from_v4,
            &[(2, b"a"), (0xe1, b""), (4, &[9])],
        ),
        (
            "the largest",
            binary(0x21, 0x11, &with(&[&[4, 0x0f, 0xf1][..], &[0; 4081]].concat())),
            from_v4,
            &[(4, &[0; 4081])],
        ),
    ] {
        let header = read(&bytes).unwrap_or_else(|error| panic!("{case}: {error}")).expect(case);
        assert_eq!((header.origin, header.length), (origin, bytes.len()), "{case}");
        assert_eq!(header.tlvs.iter().collect::<Vec<_>>(), values, "{case}");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{case}: the first {end} bytes");
        }
        let more = [&bytes[..], b"\x16\x03\x01 more"].concat();
        assert_eq!(read(&more), Ok(Some(header)), "{case}: with what follows");
        compare(&bytes);
        compare(&more);
    }
}

#[test]
fn what_is_no_header_is_refused_in_whatever_pieces_it_comes() {
    let line = |text: &str| text.as_bytes().to_vec();
    let malformed = |bytes: &[u8]| matches!(read(bytes), Err(HeaderError::Malformed(_)));
    for text in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
    ] {
        assert!(malformed(text.as_bytes()), "{text:?}: {:?}", read(text.as_bytes()));
        compare(text.as_bytes());
    }
    let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&V4[..], tlvs].concat());
    for (case, bytes) in [
        ("addresses cut off", binary(0x21, 0x11, &V4[..11])),
        ("IPv6 cut off", binary(0x21, 0x21, &[0; 35])),
        ("unix cut off", binary(0x21, 0x31, &[0; 215])),
        ("a value cut off", with(&[2, 0, 2, b'a'])),
        ("a length cut off", with(&[2, 0])),
        ("a checksum of three bytes", with(&[3, 0, 3, 1, 2, 3])),
        ("a long unique id", with(&[&[5, 0, 129][..], &[b'x'; 129]].concat())),
        ("SSL cut off", with(&[0x20, 0, 4, 1, 0, 0, 0])),
        ("a value of SSL cut off", with(&[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1])),
    ] {
        assert!(malformed(&bytes), "{case}: {:?}", read(&bytes));
        compare(&bytes);
    }
    for (case, bytes, error) in [
        ("TLS", vec![0x16, 3, 1], HeaderError::Missing { at: 0, byte: 0x16 }),
        ("POST", line("POST /"), HeaderError::Missing { at: 1, byte: b'O' }),
        ("no QUIT", line("\r\n\r\nGET"), HeaderError::Missing { at: 4, byte: b'G' }),
        ("endless", [&b"PROXY UNKNOWN "[..], &[b'x'; 93]].concat(), HeaderError::EndlessLine),
        ("one byte too many", [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat(), HeaderError::EndlessLine),
        ("version 1 in bytes", binary(0x11, 0x11, &V4), HeaderError::Command(0x11)),
        ("an unknown command", binary(0x22, 0x11, &V4), HeaderError::Command(0x22)),
        ("datagrams", binary(0x21, 0x12, &V4), HeaderError::Family(0x12)),
        ("unknown family", binary(0x21, 0x41, &V4), HeaderError::Family(0x41)),
        ("no transport", binary(0x21, 0x10, &V4), HeaderError::Family(0x10)),
        ("too large", binary(0x21, 0x11, &[0; MAX_PAYLOAD + 1])[..16].to_vec(), HeaderError::TooLarge(MAX_PAYLOAD + 1)),
        ("too large for LOCAL", binary(0x20, 0x00, &[0; 60_000])[..16].to_vec(), HeaderError::TooLarge(60_000)),
    ] {
        assert_eq!(read(&bytes), Err(error), "{case}");
        let first = (1..=bytes.len()).map(|end| read(&bytes[..end])).find(|read| *read != Ok(None));
        assert_eq!(first, Some(Err(error)), "{case}: byte by byte");
        compare(&bytes);
    }
}

/// What the fuzz target starts from.
#[test]
fn recorded_headers_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/proxy_headers");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect();
    assert!(files.len() >= 9, "{files:?}");
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let header = read(&bytes).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(header.map(|header| header.length), Some(bytes.len()), "{path:?}");
    }
    let values = read(include_bytes!("../../../tests/data/proxy_headers/values.bin")).unwrap().unwrap().tlvs;
    let ssl = Ssl::read(values.get(Kind::Ssl).unwrap()).unwrap();
    assert_eq!(ssl.get(SslKind::KeyAlgorithm), Some(&b"RSA2048"[..]));
    assert_eq!(ssl.get(SslKind::SignatureAlgorithm), Some(&b"SHA256"[..]));
    assert_eq!(values.get(Kind::Namespace), Some(&b"blue"[..]));
}

#[test]
fn a_checksum_covers_every_byte() {
    // Of a test vector for CRC32C (RFC 3720, B.4): 32 zeros, four of them in place of the checksum.
    assert_eq!(tlv::checksum(&[0; 32], 4), 0x8a91_36aa);
    let values = tlvs(&[(Kind::Authority as u8, b"db.example"), (Kind::Noop as u8, b"")]);
    let header = v2(Some(tcp("192.0.2.1:1", "192.0.2.2:2")), &values, true);
    assert!(read(&header).unwrap().is_some());
    // Without its type it is no checksum any more.
    for at in (FIXED..header.len()).filter(|at| *at != header.len() - 7) {
        let mut other = header.clone();
        other[at] ^= 1;
        assert!(read(&other).is_err() || read(&other) == Ok(None), "byte {at}: {:?}", read(&other));
    }
    let mut two = values.clone();
    assert!(two.add(Kind::Checksum as u8, &[0; 4]));
    assert!(
        read(&v2(None, &two, true)).unwrap().unwrap().tlvs.is_empty(),
        "what UNSPEC has is ignored if it is no list"
    );
}

#[test]
fn one_header_has_one_family() {
    for (case, from, to, line) in [
        ("IPv4", "1.2.3.4:5", "6.7.8.9:10", "TCP4 1.2.3.4 6.7.8.9 5 10"),
        ("IPv6", "[2001:db8::1]:5", "[::1]:10", "TCP6 2001:db8::1 ::1 5 10"),
        ("IPv4 in other clothes", "[::ffff:1.2.3.4]:5", "6.7.8.9:10", "TCP4 1.2.3.4 6.7.8.9 5 10"),
        ("mixed", "1.2.3.4:5", "[2001:db8::1]:10", "TCP6 ::ffff:1.2.3.4 2001:db8::1 5 10"),
        ("mixed the other way", "[2001:db8::1]:5", "1.2.3.4:10", "TCP6 2001:db8::1 ::ffff:1.2.3.4 5 10"),
    ] {
        let addresses = tcp(from, to);
        assert_eq!(String::from_utf8(v1(Some(addresses))).unwrap(), format!("PROXY {line}\r\n"), "{case}");
        let (text, bytes) = (v1(Some(addresses)), v2(Some(addresses), &Tlvs::default(), false));
        let origin = |bytes: &[u8]| read(bytes).unwrap().unwrap().origin;
        assert_eq!(origin(&text), origin(&bytes), "{case}");
    }
    assert_eq!(read(&v1(None)).unwrap().unwrap().origin, Origin::Unknown);
    assert_eq!(read(&v2(None, &Tlvs::default(), true)).unwrap().unwrap().origin, Origin::Unknown);
}

#[test]
fn tls_with_a_client() {
    let values = [
        (SslKind::Version, &b"TLSv1.3"[..]),
        (SslKind::Cipher, b"TLS_AES_128_GCM_SHA256"),
        (SslKind::CommonName, b"me"),
    ];
    for (client, is_verified) in [(Ssl::TLS, false), (Ssl::TLS | Ssl::CERTIFICATE | Ssl::CERTIFICATE_OF_SESSION, true)]
    {
        let written = Ssl::write(client, is_verified, &values);
        let read = Ssl::read(&written).unwrap();
        assert_eq!((read.client, read.is_verified), (client, is_verified));
        assert_eq!(values.map(|(kind, _)| read.get(kind)), values.map(|(_, value)| Some(value)));
        assert_eq!((read.get(SslKind::KeyAlgorithm), read.get(SslKind::SignatureAlgorithm)), (None, None));
    }
}

#[test]
fn what_would_not_fit_is_left_out() {
    let mut tlvs = Tlvs::default();
    assert!(tlvs.add(0xe0, &[1; 4000]));
    assert!(!tlvs.add(0xe1, &[2; 60]) && tlvs.add(0xe2, &[3; 40]));
    let header = v2(Some(tcp("[::1]:1", "[::1]:2")), &tlvs, true);
    let kinds: Vec<u8> = read(&header).unwrap().unwrap().tlvs.iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [0xe0, 0xe2, Kind::Checksum as u8]);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from_bits(ip), port))),
        (any::<u128>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((Ipv6Addr::from_bits(ip), port))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        source in any_address(), destination in any_address(), checksum: bool,
        values in proptest::collection::vec((6_u8.., proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let mut tlvs = Tlvs::default();
        for (kind, value) in values.iter().filter(|(kind, _)| *kind != Kind::Ssl as u8) {
            prop_assert!(tlvs.add(*kind, value));
        }
        let addresses = Addresses { source, destination };
        let header = v2(Some(addresses), &tlvs, checksum);
        let read = read(&header).unwrap().unwrap();
        let mut expected: Vec<_> = tlvs.iter().map(|(kind, value)| (kind, value.to_vec())).collect();
        let mut found: Vec<_> = read.tlvs.iter().map(|(kind, value)| (kind, value.to_vec())).collect();
        if checksum {
            prop_assert_eq!(found.pop().map(|(kind, _)| kind), Some(Kind::Checksum as u8));
        }
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
        let Origin::Tcp(back) = read.origin else { panic!("{:?}", read.origin) };
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        prop_assert_eq!((canonical(back.source), canonical(back.destination)), (canonical(source), canonical(destination)));
        prop_assert_eq!(super::read(&v1(Some(addresses))).unwrap().unwrap().origin, read.origin);
        prop_assert!(compare(&header) && compare(&v1(Some(addresses))));
    }

    #[test]
    fn any_bytes_are_read_alike(
        start in proptest::sample::select(vec![&b""[..], V1, b"PROXY TCP4 1.2.3.4 ", V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0"]),
        rest in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let bytes = [start, &rest].concat();
        compare(&bytes);
        let whole = read(&bytes);
        let first = (0..=bytes.len()).map(|end| read(&bytes[..end])).find(|read| *read != Ok(None));
        prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
    }
}
