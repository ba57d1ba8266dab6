#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;

use super::against_rustls::compare;
use super::*;
use crate::wire::sample::{Sample, records, unframe};

const TLS10: u16 = 0x0301;
const TLS11: u16 = 0x0302;
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

macro_rules! recorded {
    ($file:literal) => {
        ($file, include_bytes!(concat!("../../../tests/data/hellos/", $file, ".bin")))
    };
}

/// What real clients sent first, with what stands in it: protocols, versions, ECH.
type Recorded = ((&'static str, &'static [u8]), &'static [&'static str], &'static [u16], bool);
const RECORDED: [Recorded; 8] = [
    (recorded!("chromium-156-a"), WEB, &[TLS13, TLS12], true),
    (recorded!("chromium-156-b"), WEB, &[TLS13, TLS12], true),
    (recorded!("firefox-esr"), WEB, &[TLS13, TLS12], true),
    (recorded!("curl-openssl-3.0"), WEB, &[TLS13, TLS12, TLS11, TLS10], false),
    (recorded!("openssl-3.0-s_client"), &[], &[TLS13, TLS12, TLS11, TLS10], false),
    (recorded!("node-20"), &[], &[TLS13, TLS12], false),
    (recorded!("java-17"), &[], &[TLS13, TLS12], false),
    (recorded!("go-1.19"), WEB, &[TLS13, TLS12], false),
];
const WEB: &[&str] = &["h2", "http/1.1"];

fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    Reader::default().advance(bytes)
}

/// Byte by byte, with one reader: the first answer that is not "more".
fn read_slowly(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = Reader::default();
    (0..=bytes.len()).map(|end| reader.advance(&bytes[..end])).find(|answer| *answer != Ok(None)).unwrap_or(Ok(None))
}

fn found(bytes: &[u8]) -> ClientHello {
    match read(bytes) {
        Ok(Some(hello)) => hello,
        other => panic!("no hello in {bytes:02x?}: {other:?}"),
    }
}

fn name(hello: &ClientHello) -> Option<&str> {
    hello.server_name.as_ref().map(Name::as_str)
}

#[test]
fn recorded_hellos() {
    for ((client, bytes), alpn, versions, ech) in RECORDED {
        let hello = found(bytes);
        assert_eq!(name(&hello), Some("www.hello.example"), "{client}");
        let protocols: Vec<_> = hello.alpn.iter().map(|protocol| str::from_utf8(protocol).unwrap()).collect();
        assert_eq!(protocols, alpn, "{client}");
        assert_eq!(hello.versions.as_slice(), versions, "{client}");
        assert_eq!((hello.ech, hello.early_data, hello.length), (ech, false, bytes.len()), "{client}");
        assert!(compare(bytes), "{client}");
    }
}

#[test]
fn every_part_of_a_hello_waits_for_the_rest() {
    for ((client, bytes), ..) in RECORDED {
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{client}, {end} bytes");
        }
        assert_eq!(read_slowly(bytes), read(bytes), "{client}");
    }
}

#[test]
fn records_of_any_size() {
    for ((client, bytes), ..) in RECORDED {
        let (whole, message) = (found(bytes), unframe(bytes));
        for size in [2, 3, 4, 5, 7, 100, 500, message.len() - 1, message.len()] {
            let wire = records(&message, size);
            let expected = ClientHello { length: wire.len(), ..whole.clone() };
            assert_eq!(read(&wire), Ok(Some(expected.clone())), "{client} in records of {size}");
            assert_eq!(read_slowly(&wire), Ok(Some(expected)), "{client} in records of {size}, slowly");
            assert!(compare(&wire), "{client} in records of {size}");
        }
    }
    let short = Sample { name: Some(b"a.example"), ..Sample::default() }.message();
    assert_eq!(name(&found(&records(&short, 1))), Some("a.example"), "records of one byte");
}

#[test]
fn what_follows_is_not_part_of_it() {
    for ((client, bytes), ..) in RECORDED {
        for rest in [&b"\x17\x03\x03\x00\x01x"[..], b"\x16\x03\x03\x00\x00", b"\x00", &[0xff; 70_000]] {
            assert_eq!(found(&[bytes, rest].concat()), found(bytes), "{client} and {rest:02x?}");
        }
    }
}

#[test]
fn large_hellos() {
    let sample = |padding| Sample { name: Some(b"a.example"), alpn: &["h2"], padding, ..Sample::default() };
    for padding in [1, 16_000, 16_384, 40_000, 65_000] {
        let wire = sample(padding).wire();
        let hello = found(&wire);
        assert_eq!((name(&hello), hello.length), (Some("a.example"), wire.len()), "{padding}");
        assert_eq!(read(&wire[..wire.len() - 1]), Ok(None), "{padding}");
        assert!(compare(&wire), "{padding}");
    }
    // The last size that fits, and one byte more; four records.
    let overhead = sample(1).message().len() - 1 + 4 * RECORD_HEADER;
    let (fits, too_large) = (sample(MAX_OPENING - overhead).wire(), sample(MAX_OPENING - overhead + 1).wire());
    assert_eq!(fits.len(), MAX_OPENING);
    assert_eq!(found(&fits).length, MAX_OPENING);
    assert_eq!(read(&too_large), Err(HelloError::TooLarge(MAX_OPENING + 1)));
    assert_eq!(read_slowly(&too_large), Err(HelloError::TooLarge(MAX_OPENING + 1)));
}

#[test]
fn limits_are_told_at_once() {
    let declared = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff";
    assert_eq!(read(declared), Err(HelloError::TooLarge(5 + 4 + 65_535)));
    assert_eq!(read(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"), Err(HelloError::TooLarge(5 + 4 + 0xff_ffff)));
    let message = Sample { padding: 2000, ..Sample::default() }.message();
    let wire = records(&message, 1);
    let last = MAX_RECORDS * 6;
    assert_eq!(read(&wire[..last - 1]), Ok(None));
    assert_eq!(read(&wire[..last]), Err(HelloError::TooManyRecords));
    assert_eq!(read_slowly(&wire), Err(HelloError::TooManyRecords));
}

#[test]
fn the_first_wrong_byte_is_enough() {
    use HelloError::{ForeignRecord, Malformed, NotHello, NotTls, RecordLength};
    let follows = Malformed("more data follows the hello in its record");
    for (case, bytes, error) in [
        ("HTTP", &b"G"[..], NotTls { at: 0, byte: b'G' }),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", NotTls { at: 0, byte: b'S' }),
        ("PostgreSQL SSLRequest", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", NotTls { at: 0, byte: 0 }),
        ("SSL 2.0 hello", b"\x80\x2e\x01\x03\x01", NotTls { at: 0, byte: 0x80 }),
        ("alert first", b"\x15\x03\x01\x00\x02\x02\x28", NotTls { at: 0, byte: 0x15 }),
        ("not version 3", b"\x16\x02", NotTls { at: 1, byte: 2 }),
        ("empty record", b"\x16\x03\x01\x00\x00", RecordLength(0)),
        ("long record", b"\x16\x03\x01\x40\x01", RecordLength(16_385)),
        ("ServerHello", b"\x16\x03\x01\x00\x40\x02", NotHello(2)),
        ("empty second record", b"\x16\x03\x01\x00\x01\x01\x16\x03\x03\x00\x00", RecordLength(0)),
        ("alert inside", b"\x16\x03\x01\x00\x01\x01\x15", ForeignRecord { at: 6, byte: 0x15 }),
        ("CCS inside", b"\x16\x03\x01\x00\x04\x01\x00\x00\x30\x14", ForeignRecord { at: 9, byte: 0x14 }),
        ("version changes", b"\x16\x03\x01\x00\x01\x01\x16\x04", ForeignRecord { at: 7, byte: 4 }),
        ("more in the record", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3b", follows),
        ("more in the second record", b"\x16\x03\x01\x00\x04\x01\x00\x00\x01\x16\x03\x01\x00\x02", follows),
    ] {
        assert_eq!(read(bytes), Err(error), "{case}");
        assert_eq!(read_slowly(bytes), Err(error), "{case}, slowly");
        if bytes.len() > 5 {
            compare(bytes);
        }
    }
}

/// A hello with one extension more.
fn with(kind: u16, data: &[u8]) -> Vec<u8> {
    Sample { extensions: &[(kind, data)], ..Sample::default() }.wire()
}

#[test]
fn names() {
    let long = "a.".repeat(126) + "b";
    for (written, expected) in [
        (None, Ok(None)),
        (Some("WWW.Example.com"), Ok(Some("www.example.com"))),
        (Some("example.com."), Ok(Some("example.com"))),
        (Some("_x.example.com"), Ok(Some("_x.example.com"))),
        (Some("192.0.2.1"), Ok(None)),
        (Some("2001:db8::1"), Ok(None)),
        (Some(&*long), Ok(Some(&*long))),
        (Some(&*(long.clone() + "cd")), Err(NameError::TooLong(255))),
        (Some(""), Err(NameError::Empty)),
        (Some("a b"), Err(NameError::BadByte(b' '))),
        (Some("a\0.example"), Err(NameError::BadByte(0))),
    ] {
        let wire = Sample { name: written.map(str::as_bytes), ..Sample::default() }.wire();
        let answer = read(&wire).map(|hello| hello.expect("the hello is whole").server_name);
        match expected {
            Ok(expected) => assert_eq!(answer.as_ref().map(|name| name.as_ref().map(Name::as_str)), Ok(expected)),
            Err(error) => assert_eq!(answer, Err(HelloError::BadName(error)), "{written:?}"),
        }
        compare(&wire);
    }
    let wire = Sample { name: Some(&[b'a'; 254]), ..Sample::default() }.wire();
    assert_eq!(read(&wire), Err(HelloError::BadName(NameError::TooLong(254))));
}

#[test]
fn extensions_are_read_strictly() {
    for (case, kind, data, rule) in [
        ("no list", 0, &b""[..], "server_name ends inside its list"),
        ("empty list", 0, b"\0\0", "server_name: an empty list"),
        ("list too long", 0, b"\0\x06\0\0\x02a", "server_name ends inside its list"),
        ("list too short", 0, b"\0\x04\0\0\x01ab", "server_name: data follows the list"),
        ("name too long", 0, b"\0\x04\0\0\x02a", "server_name ends inside its host_name"),
        ("name too short", 0, b"\0\x05\0\0\x01ab", "server_name: more than one entry"),
        ("two names", 0, b"\0\x08\0\0\x01a\0\0\x01b", "server_name: more than one entry"),
        ("another type", 0, b"\0\x04\x01\0\x01a", "server_name: an entry that is no host_name"),
        ("no list", 16, b"\0", "ALPN ends inside its list"),
        ("empty list", 16, b"\0\0", "ALPN: an empty list"),
        ("empty protocol", 16, b"\0\x04\x02h2\0", "ALPN: an empty protocol"),
        ("list too long", 16, b"\0\x04\x02h2", "ALPN ends inside its list"),
        ("list too short", 16, b"\0\x02\x02h2", "ALPN: data follows the list"),
        ("protocol too long", 16, b"\0\x03\x03h2", "ALPN ends inside a protocol"),
        ("early data", 42, b"\0", "early_data is not empty"),
        ("the sample has it already", 43, b"\x02\x03\x04", "an extension stands there twice"),
        ("the sample has it already", 13, b"", "an extension stands there twice"),
    ] {
        let wire = with(kind, data);
        assert_eq!(read(&wire), Err(HelloError::Malformed(rule)), "{case}: extension {kind} with {data:02x?}");
        assert_eq!(read_slowly(&wire), Err(HelloError::Malformed(rule)), "{case}, slowly");
        compare(&wire);
    }
    let twice: &[(u16, &[u8])] = &[(0xabcd, b""), (0xabcd, b"")];
    let wire = Sample { extensions: twice, ..Sample::default() }.wire();
    assert_eq!(read(&wire), Err(HelloError::Malformed("an extension stands there twice")));
    assert!(found(&with(42, b"")).early_data);
    assert!(found(&with(0xfe0d, b"\x01")).ech);
    let many = ["x"; MAX_PROTOCOLS + 1];
    assert_eq!(found(&Sample { alpn: &many[1..], ..Sample::default() }.wire()).alpn.iter().count(), MAX_PROTOCOLS);
    let wire = Sample { alpn: &many, ..Sample::default() }.wire();
    assert_eq!(read(&wire), Err(HelloError::Malformed("ALPN: more than 64 protocols")));
}

/// A body as it stands behind the message header, in one record.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    records(&[&[1, 0], &length[..], body].concat(), MAX_RECORD)
}

#[test]
fn bodies_are_read_strictly() {
    let start = [&[3, 1][..], &[7; 32]].concat();
    let versions = |list: &[u8]| {
        let data = [&[list.len() as u8], list].concat();
        let extension = [&[0, 43, 0, data.len() as u8], &*data].concat();
        [&[0, 0, 2, 0x13, 1, 1, 0, 0, extension.len() as u8], &*extension].concat()
    };
    for (case, rest, expected) in [
        ("no extensions", b"\0\0\x02\x13\x01\x01\0".to_vec(), Ok(vec![0x0301])),
        ("an empty list of extensions", b"\0\0\x02\x13\x01\x01\0\0\0".to_vec(), Ok(vec![0x0301])),
        ("versions", versions(&[3, 4, 0x7f, 0x1c]), Ok(vec![0x0304, 0x7f1c])),
        ("GREASE", versions(&[0x0a, 0x0a, 3, 4, 0xfa, 0xfa, 0x0a, 0x1a]), Ok(vec![0x0304, 0x0a1a])),
        ("only GREASE", versions(&[0xda, 0xda]), Ok(vec![0x0301])),
        ("no version", versions(&[]), Err("supported_versions: an empty list or half a version")),
        ("half a version", versions(&[3]), Err("supported_versions: an empty list or half a version")),
        ("long session id", [&[33][..], &[0; 60]].concat(), Err("the session id has more than 32 bytes")),
        ("cut in the session id", b"\x20".to_vec(), Err("the hello ends in its session id")),
        ("no suites", b"\0\0\0\x01\0".to_vec(), Err("cipher suites: an empty list or half a suite")),
        ("half a suite", b"\0\0\x01\x13\x01\0".to_vec(), Err("cipher suites: an empty list or half a suite")),
        ("cut in the suites", b"\0\0\x04\x13".to_vec(), Err("the hello ends in its cipher suites")),
        ("no compression", b"\0\0\x02\x13\x01\0".to_vec(), Err("compression methods: an empty list")),
        ("cut in compression", b"\0\0\x02\x13\x01\x02\0".to_vec(), Err("the hello ends in its compression methods")),
        ("extensions too long", b"\0\0\x02\x13\x01\x01\0\0\x01".to_vec(), Err("the hello ends in its extensions")),
        ("extensions too short", b"\0\0\x02\x13\x01\x01\0\0\0\0".to_vec(), Err("data follows the extensions")),
        (
            "half an extension",
            b"\0\0\x02\x13\x01\x01\0\0\x03\0\0\0".to_vec(),
            Err("the extensions end inside one of them"),
        ),
        (
            "cut in an extension",
            b"\0\0\x02\x13\x01\x01\0\0\x04\0\0\0\x01".to_vec(),
            Err("the extensions end inside one of them"),
        ),
    ] {
        let wire = framed(&[&*start, &*rest].concat());
        let versions = read(&wire).map(|hello| hello.expect("the hello is whole").versions);
        assert_eq!(
            versions,
            expected.map(|versions| versions.into_iter().collect()).map_err(HelloError::Malformed),
            "{case}"
        );
        compare(&wire);
    }
    assert_eq!(read(&framed(b"")), Err(HelloError::Malformed("the hello ends in its version")));
    assert_eq!(read(&framed(&start[..33])), Err(HelloError::Malformed("the hello ends in its random")));
}

#[test]
fn one_changed_byte() {
    for ((_, bytes), ..) in RECORDED {
        for at in 0..bytes.len() {
            for change in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut changed = bytes.to_vec();
                changed[at] ^= change;
                compare(&changed);
            }
        }
    }
}

#[test]
fn tls_parser_reads_the_same() {
    use tls_parser::{TlsExtension, parse_tls_client_hello_extensions, parse_tls_handshake_client_hello};
    for ((client, bytes), ..) in RECORDED {
        let message = unframe(bytes);
        let (_, body) = parse_tls_handshake_client_hello(&message[4..]).unwrap();
        let (_, extensions) = parse_tls_client_hello_extensions(body.ext.unwrap()).unwrap();
        let hello = found(bytes);
        for extension in extensions {
            match extension {
                TlsExtension::SNI(names) => assert_eq!(names[0].1, name(&hello).unwrap().as_bytes(), "{client}"),
                TlsExtension::ALPN(list) => assert!(hello.alpn.iter().eq(list), "{client}"),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_and_records_do_not_matter(
        client in 0..RECORDED.len(),
        sizes in prop::collection::vec(1_usize..700, 1..6),
        pieces in prop::collection::vec(1_usize..900, 1..20),
    ) {
        let ((_, bytes), ..) = RECORDED[client];
        let message = unframe(bytes);
        let (mut wire, mut rest, mut sizes) = (Vec::new(), &*message, sizes.into_iter().cycle());
        let mut count = 0;
        while !rest.is_empty() {
            count += 1;
            let (fragment, more) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            wire.extend(records(fragment, MAX_RECORD));
            rest = more;
        }
        prop_assume!(wire.len() <= MAX_OPENING && count <= MAX_RECORDS);
        let (mut reader, mut end, mut pieces) = (Reader::default(), 0, pieces.into_iter().cycle());
        let hello = loop {
            end = (end + pieces.next().unwrap()).min(wire.len());
            if let Some(hello) = reader.advance(&wire[..end]).unwrap() {
                break hello;
            }
            prop_assert!(end < wire.len());
        };
        prop_assert_eq!(hello, ClientHello { length: wire.len(), ..found(bytes) });
    }

    #[test]
    fn noise_is_read_alike_fast_and_slowly(
        client in 0..RECORDED.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        size in 2_usize..3000,
    ) {
        let ((_, bytes), ..) = RECORDED[client];
        let mut wire = records(&unframe(bytes), size);
        for (at, byte) in changes {
            *at.get_mut(&mut wire) = byte;
        }
        prop_assert_eq!(read(&wire), read_slowly(&wire));
        compare(&wire);
    }
}
