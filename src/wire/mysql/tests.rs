use super::greeting::Capabilities;
use super::results::{KEPT, MAX_COLUMNS, MAX_RESULT, Reader};
use super::*;

/// What MariaDB 10.11 says first.
const MARIADB: &str = "680000000a352e352e352d31302e31312e31392d4d6172696144422d302b646562313275312d6c6f6700060000005366272c465c7d23\
    00feff080200ff81150000000000001d000000326e594f60754c5b65696129006d7973716c5f6e61746976655f70617373776f726400";
/// What it answers to `SELECT @@global.read_only, @@global.innodb_read_only, NULL`.
const ANSWER: &str = "0100000103\
    2800000203646566000000124040676c6f62616c2e726561645f6f6e6c79000c3f0001000000088000000000\
    2f00000303646566000000194040676c6f62616c2e696e6e6f64625f726561645f6f6e6c79000c3f0001000000088000000000\
    1a00000403646566000000044e554c4c000c3f0000000000068000000000\
    05000005fe00000200\
    0500000601300130fb\
    05000007fe00000200";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|letter| !letter.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn payload(hex: &str) -> Vec<u8> {
    bytes(hex)[HEADER..].to_vec()
}

/// What a statement comes to when its answer comes in pieces of this size.
fn reply(wire: &[u8], piece: usize) -> Result<Option<Reply>, MysqlError> {
    let (mut packets, mut reader) = (Packets::default(), Reader::default());
    packets.command(Command::Query("SELECT 1"));
    for piece in wire.chunks(piece) {
        packets.incoming.extend(piece);
        while let Some(payload) = packets.take()? {
            if let Some(reply) = reader.take(&payload)? {
                return Ok(Some(reply));
            }
        }
    }
    Ok(None)
}

/// Packets with these contents, numbered from 1.
fn wire(payloads: &[&[u8]]) -> Vec<u8> {
    let numbered = payloads.iter().zip(0_u8..).map(|(payload, before)| packet(before.wrapping_add(1), payload));
    numbered.collect::<Vec<_>>().concat()
}

fn malformed<T>(why: &'static str) -> Result<T, MysqlError> {
    Err(MysqlError::Malformed(why))
}

#[test]
fn a_greeting_is_read_wherever_it_is_split() {
    let (whole, mut nonce) = (bytes(MARIADB), [0; greeting::NONCE]);
    nonce.copy_from_slice(b"Sf',F\\}#2nYO`uL[eia)");
    for split in 0..whole.len() {
        let mut packets = Packets::default();
        packets.incoming.extend(&whole[..split]);
        assert_eq!(packets.take(), Ok(None), "after {split} bytes");
        packets.incoming.extend(&whole[split..]);
        let greeting = Greeting::read(&packets.take().unwrap().unwrap()).unwrap().unwrap();
        assert_eq!(greeting.version, "5.5.5-10.11.19-MariaDB-0+deb12u1-log");
        assert_eq!((greeting.nonce, &*greeting.plugin), (nonce, "mysql_native_password"));
        assert!(greeting.is_mariadb() && greeting.capabilities.has(Capabilities::TLS | Capabilities::PLUGINS));
        assert!(packets.incoming.is_empty());
    }
}

#[test]
fn a_greeting_that_is_cut_short_is_none() {
    let payload = payload(MARIADB);
    // The name of the way to log in may go without its end, as with old servers.
    let name = "mysql_native_password".len() + 1;
    for end in 0..payload.len() - name {
        assert!(Greeting::read(&payload[..end]).is_err(), "{end} bytes");
    }
    let unended = Greeting::read(&payload[..payload.len() - 1]).unwrap();
    assert_eq!(unended, Greeting::read(&payload).unwrap());
}

#[test]
fn what_comes_in_place_of_a_greeting() {
    let message = "Host '10.0.0.1' is blocked because of many connection errors";
    let blocked = [&[0xff, 0x69, 0x04], message.as_bytes()].concat();
    let full = [&[0xff, 0x10, 0x04], &b"#08004Too many\r\nconnections"[..]].concat();
    let error = |code, message: &str| Ok(Err(ServerError { code, message: message.to_owned() }));
    let (mut old, mut bare) = (payload(MARIADB), payload(MARIADB));
    let capabilities = "5.5.5-10.11.19-MariaDB-0+deb12u1-log".len() + 2 + 4 + 8 + 1;
    old[capabilities + 1] = 0;
    bare.truncate(capabilities + 2);
    for (case, payload, read) in [
        ("an error without SQLSTATE", &blocked[..], error(1129, message)),
        ("an error with one", &full, error(1040, "Too many  connections")),
        ("an error without a number", &[0xff, 0x10], malformed("a packet ends too early")),
        ("an older version", &[9, b'3', 0], Err(MysqlError::Version(9))),
        ("an older server", &old, Err(MysqlError::TooOld)),
        ("a server that ends where older ones do", &bare, Err(MysqlError::TooOld)),
        ("another protocol", b"SSH-2.0-OpenSSH", Err(MysqlError::Version(b'S'))),
        ("nothing", b"", malformed("a packet ends too early")),
    ] {
        assert_eq!(Greeting::read(payload), read, "{case}");
    }
}

#[test]
fn versions_are_numbers() {
    let mut greeting = Greeting::read(&payload(MARIADB)).unwrap().unwrap();
    for (version, numbers, is_mariadb) in [
        ("8.0.36-0ubuntu0.22.04.1", [8, 0, 36], false),
        ("8.4.3", [8, 4, 3], false),
        ("5.7.44-log", [5, 7, 44], false),
        ("9.1", [9, 1, 0], false),
        ("11.8.2-MariaDB", [11, 8, 2], true),
        ("8.0.11-TiDB-v7.5.0", [8, 0, 11], false),
        ("99999999999.1", [0, 1, 0], false),
        ("", [0, 0, 0], false),
    ] {
        version.clone_into(&mut greeting.version);
        assert_eq!((greeting.numbers(), greeting.is_mariadb()), (numbers, is_mariadb), "{version}");
    }
}

#[test]
fn a_login_says_what_both_sides_can_do() {
    let greeting = Greeting::read(&payload(MARIADB)).unwrap().unwrap();
    let login = Login { user: "pm", database: None, plugin: "mysql_native_password", proof: &[7; 20] };
    let expected = [
        &bytes("01a21800 00001000 2d")[..],
        &[0; 23],
        b"pm\0\x14",
        &[7; 20],
        b"mysql_native_password\0",
        b"\x17\x0cprogram_name\x09pointsman",
    ];
    assert_eq!(greeting.login(&login, false), expected.concat());
    let with_database = greeting.login(&Login { database: Some("shop"), ..login }, true);
    assert_eq!(with_database[..4], bytes("09aa1800"));
    assert_eq!(&with_database[32 + 24..][..5], b"shop\0");
    // The same, up to the name, asks for TLS.
    assert_eq!(greeting.tls_request(Some("shop")).as_deref(), Some(&with_database[..32]));

    let simple = Greeting { capabilities: Capabilities(Capabilities::PROTOCOL_41 | Capabilities::PROOFS), ..greeting };
    let without_names = [&bytes("01a20000 00001000 2d")[..], &[0; 23], b"pm\0\x14", &[7; 20]].concat();
    assert_eq!((simple.login(&login, false), simple.tls_request(None)), (without_names, None));
}

#[test]
fn answers_to_a_login() {
    let switch = |plugin: &str, nonce: &[u8]| LoginReply::Switch { plugin: plugin.to_owned(), nonce: nonce.to_vec() };
    let denied = ServerError { code: 1045, message: "Access denied".to_owned() };
    for (case, payload, read) in [
        ("in", &[0, 0, 0, 2, 0, 0, 0][..], Ok(LoginReply::Welcome)),
        ("an error", b"\xff\x15\x04#28000Access denied", Ok(LoginReply::Error(denied))),
        ("another way", b"\xfecaching_sha2_password\0abc\0", Ok(switch("caching_sha2_password", b"abc"))),
        ("another way without a nonce", b"\xfemysql_clear_password\0", Ok(switch("mysql_clear_password", b""))),
        ("the way of before 4.1", b"\xfe", Ok(switch("", b""))),
        ("something of the way", &[1, 4], Ok(LoginReply::More(vec![4]))),
        ("rows", &[3], malformed("what answers the login is no answer to it")),
        ("nothing", &[], malformed("a packet ends too early")),
    ] {
        assert_eq!(LoginReply::read(payload), read, "{case}");
    }
}

#[test]
fn rows_are_read_in_whatever_pieces_they_come() {
    let wire = bytes(ANSWER);
    let columns = ["@@global.read_only", "@@global.innodb_read_only", "NULL"].map(str::to_owned).to_vec();
    let zero = || Some(b"0".to_vec());
    let rows = ResultSet { columns, rows: vec![vec![zero(), zero(), None]] };
    assert_eq!(rows.value(&rows.rows[0], "@@GLOBAL.read_only"), Some(Some(&b"0"[..])));
    assert_eq!((rows.value(&rows.rows[0], "null"), rows.value(&rows.rows[0], "x")), (Some(None), None));
    for piece in 1..=wire.len() {
        assert_eq!(reply(&wire, piece), Ok(Some(Reply::Rows(rows.clone()))), "pieces of {piece}");
    }
    for end in 0..wire.len() {
        assert_eq!(reply(&wire[..end], end.max(1)), Ok(None), "{end} bytes");
    }
}

#[test]
fn answers_to_a_statement() {
    let column = b"\x03def\0\0\0\x01a\0\x0c?\0\x01\0\0\0\x08\x80\0\0\0\0";
    let end = &[0xfe, 0, 0, 2, 0][..];
    let error = b"\xff\x2d\x05#70100Query execution was interrupted";
    let interrupted =
        || Ok(Some(Reply::Error(ServerError { code: 1325, message: "Query execution was interrupted".to_owned() })));
    let row = |value: &[u8]| [&fields::length(value.len()), value].concat();
    let none = ResultSet { columns: vec!["a".to_owned()], rows: Vec::new() };
    let long = [b'x'; 300];
    let (few, long_row) = (ResultSet { rows: vec![vec![Some(long.to_vec())]], ..none.clone() }, row(&long));
    for (case, payloads, expected) in [
        ("done", vec![&[0, 0, 0, 2, 0, 0, 0][..]], Ok(Some(Reply::Done))),
        ("an error", vec![error], interrupted()),
        ("an error among the rows", vec![&[1], column, end, b"\x01x", error], interrupted()),
        ("no rows", vec![&[1], column, end, end], Ok(Some(Reply::Rows(none)))),
        ("a long value", vec![&[1], column, end, &long_row, end], Ok(Some(Reply::Rows(few)))),
        ("a file is asked for", vec![b"\xfb/etc/passwd"], malformed("the server asks for a file")),
        ("a count that is none", vec![&[0xfe]], malformed("a packet ends too early")),
        ("too many columns", vec![&[0xfc, 0x01, 0x02]], Err(MysqlError::TooManyColumns(MAX_COLUMNS as u64 + 1))),
        ("columns without an end", vec![&[1], column, b"\x01x"], malformed("the columns of a result have no end")),
        ("a column without a name", vec![&[1], b"\0\0\0\0\xfb"], malformed("a column has no name")),
        ("a row too short", vec![&[1], column, end, b"\x05x"], malformed("a packet ends too early")),
        ("a row too long", vec![&[1], column, end, b"\x01xy"], malformed("a row has more values than columns")),
        (
            "a length that is none",
            vec![&[1], column, end, b"\xff"],
            Err(MysqlError::Malformed("a packet ends too early")),
        ),
    ] {
        assert_eq!(reply(&wire(&payloads), usize::MAX), expected, "{case}");
    }
}

#[test]
fn what_comes_is_bounded() {
    let mut packets = Packets::default();
    packets.incoming.extend(bytes("01001000"));
    assert_eq!(packets.take(), Err(MysqlError::TooLarge(MAX_PACKET + 1)));

    let column = b"\x03def\0\0\0\x01a\0\x0c?\0\x01\0\0\0\x08\x80\0\0\0\0";
    let row = [&[0xfc, 0xff, 0xff], &[b'x'; 0xffff][..]].concat();
    let mut endless: Vec<&[u8]> = vec![&[1], column, &[0xfe, 0, 0, 2, 0]];
    endless.extend([&row[..]; MAX_RESULT / 0xffff + 1]);
    assert_eq!(reply(&wire(&endless), usize::MAX), Err(MysqlError::TooLong));

    let mut many: Vec<&[u8]> = vec![&[1], column, &[0xfe, 0, 0, 2, 0]];
    many.extend([&b"\x01x"[..]; KEPT + 10]);
    many.push(&[0xfe, 0, 0, 2, 0]);
    let Ok(Some(Reply::Rows(result))) = reply(&wire(&many), usize::MAX) else { panic!("no rows") };
    assert_eq!(result.rows.len(), KEPT);
}

#[test]
fn packets_are_counted() {
    let mut packets = Packets::default();
    packets.incoming.extend(packet(0, b"a"));
    assert_eq!(packets.take(), Ok(Some(b"a".to_vec())));
    assert_eq!((packets.answer(b"x"), packets.answer(b"y")), (b"\x01\0\0\x01x".to_vec(), b"\x01\0\0\x02y".to_vec()));
    packets.incoming.extend(packet(2, b"b"));
    assert_eq!(packets.take(), Err(MysqlError::OutOfOrder { came: 2, expected: 3 }));
    assert_eq!(packets.command(Command::Query("SELECT 1")), b"\x09\0\0\0\x03SELECT 1");
    assert_eq!(packets.command(Command::Quit), b"\x01\0\0\0\x01");
    // A server that shuts down says so as it likes.
    packets.incoming = packet(0, b"\xff\x1d\x04#08S01Server shutdown in progress");
    assert!(packets.take().unwrap().is_some());
}

#[test]
fn lengths_are_written_as_they_are_read() {
    for length in [0, 1, 0xfa, 0xfb, 0xff, 0x100, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000] {
        let written = fields::length(length);
        assert_eq!(fields::Fields(&written).number(), Ok(Some(length as u64)), "{written:?}");
    }
}
