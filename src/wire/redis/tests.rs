use proptest::prelude::*;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use super::*;

/// The reply that `bytes` are, to their last one.
fn whole(bytes: &[u8]) -> Result<Option<Reply<'_>>, ReplyError> {
    Ok(read(bytes)?.map(|(reply, length)| {
        assert_eq!(length, bytes.len(), "{}", bytes.escape_ascii());
        reply
    }))
}

#[test]
fn replies_are_read() {
    let [simple, bulk] = [Reply::Simple as fn(&'static [u8]) -> Reply<'static>, Reply::Bulk];
    for (bytes, reply) in [
        (&b"+PONG\r\n"[..], simple(b"PONG")),
        (b"+\r\n", simple(b"")),
        (b"-ERR unknown command 'X'\r\n", Reply::Error(b"ERR unknown command 'X'")),
        (b":0\r\n", Reply::Integer(0)),
        (b":-9223372036854775808\r\n", Reply::Integer(i64::MIN)),
        (b":+5\r\n", Reply::Integer(5)),
        (b"$0\r\n\r\n", bulk(b"")),
        (b"$7\r\na\r\n\0b\r\n\r\n", bulk(b"a\r\n\0b\r\n")),
        (b"$-1\r\n", Reply::Null),
        (b"*-1\r\n", Reply::Null),
        (b"*0\r\n", Reply::Array(vec![])),
        (b"*3\r\n$5\r\nslave\r\n:6379\r\n*1\r\n+x\r\n", {
            Reply::Array(vec![bulk(b"slave"), Reply::Integer(6379), Reply::Array(vec![simple(b"x")])])
        }),
    ] {
        assert_eq!(whole(bytes), Ok(Some(reply.clone())), "{}", bytes.escape_ascii());
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{} of {}", end, bytes.escape_ascii());
        }
        let followed = [bytes, b"+more\r\n"].concat();
        assert_eq!(read(&followed), Ok(Some((reply, bytes.len()))), "{} and more", bytes.escape_ascii());
    }
}

#[test]
fn what_is_no_reply_is_refused() {
    let deep = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    assert!(matches!(whole(&deep(MAX_DEPTH)), Ok(Some(Reply::Array(_)))));
    for (case, bytes, error) in [
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n".to_vec(), ReplyError::Kind(b'H')),
        ("a kind of RESP3", b"%1\r\n".to_vec(), ReplyError::Kind(b'%')),
        ("such an element", b"*2\r\n:1\r\n_\r\n".to_vec(), ReplyError::Kind(b'_')),
        ("an LF alone", b"+PONG\n".to_vec(), ReplyError::Line),
        ("a CR alone", b"+PO\rNG\r\n".to_vec(), ReplyError::Line),
        ("no number", b":5x\r\n".to_vec(), ReplyError::Number),
        ("no digit", b":\r\n".to_vec(), ReplyError::Number),
        ("65 bits", b":9223372036854775808\r\n".to_vec(), ReplyError::Number),
        ("zeros without an end", [b":", &[b'0'; 30][..], b"\r\n"].concat(), ReplyError::Number),
        ("a length below that of null", b"$-2\r\n".to_vec(), ReplyError::Length(-2)),
        ("so many elements less than none", b"*-2\r\n".to_vec(), ReplyError::Length(-2)),
        ("a bulk string that goes on", b"$3\r\nabcd\r\n".to_vec(), ReplyError::Bulk),
        ("one that will be too long", b"$65530\r\n".to_vec(), ReplyError::TooLong),
        ("one of all the memory", b"$9223372036854775807\r\n".to_vec(), ReplyError::TooLong),
        ("a line without an end", [b"+", &[b'a'; MAX_REPLY][..]].concat(), ReplyError::TooLong),
        ("too many elements", b"*4097\r\n".to_vec(), ReplyError::TooMany),
        ("too many in two arrays", b"*2\r\n*4095\r\n".to_vec(), ReplyError::TooMany),
        ("too deep", deep(MAX_DEPTH + 1), ReplyError::TooDeep),
    ] {
        let nearly_all = bytes.len().saturating_sub(100);
        let length = (nearly_all..=bytes.len()).find(|end| read(&bytes[..*end]) != Ok(None)).expect("it is enough");
        assert_eq!(read(&bytes[..length]), Err(error), "{case}, in pieces");
        assert_eq!(read(&bytes), Err(error), "{case}");
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(read(b"*2\r\n*4094\r\n"), Ok(None), "as many as may be");
    assert_eq!(read(b"$65527\r\n"), Err(ReplyError::TooLong), "one byte too many");
    let longest = [b"$65526\r\n", &[b'a'; 65_526][..], b"\r\n"].concat();
    assert!(matches!(whole(&longest), Ok(Some(Reply::Bulk(bulk))) if bulk.len() == 65_526), "all that may be");
}

#[test]
fn commands_are_written() {
    let mut out = Vec::new();
    command(&[b"AUTH", b"p\r\nw"], &mut out);
    command(&[b"PING"], &mut out);
    assert_eq!(
        out.escape_ascii().to_string(),
        "*2\\r\\n$4\\r\\nAUTH\\r\\n$4\\r\\np\\r\\nw\\r\\n*1\\r\\n$4\\r\\nPING\\r\\n"
    );
}

#[test]
fn fields_of_info() {
    let text =
        b"# Replication\r\nrole:slave\r\nmaster_host:a:b\r\nslave0:ip=10.0.0.1,port=1\r\nempty:\r\n\r\nrole:x\r\n";
    for (field, value) in [
        ("role", Some(&b"slave"[..])),
        ("master_host", Some(b"a:b")),
        ("empty", Some(b"")),
        ("rol", None),
        ("host", None),
        ("# Replication", None),
        ("", None),
    ] {
        assert_eq!(info(text, field), value, "{field}");
    }
    assert_eq!(code(b"NOAUTH Authentication required."), b"NOAUTH");
    assert_eq!(code(b""), b"");
}

/// What the other implementation makes of a reply.
fn theirs(frame: &OwnedFrame) -> Reply<'_> {
    match frame {
        OwnedFrame::SimpleString(text) => Reply::Simple(text),
        OwnedFrame::Error(text) => Reply::Error(text.as_bytes()),
        OwnedFrame::Integer(number) => Reply::Integer(*number),
        OwnedFrame::BulkString(bytes) => Reply::Bulk(bytes),
        OwnedFrame::Array(frames) => Reply::Array(frames.iter().map(theirs).collect()),
        OwnedFrame::Null => Reply::Null,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_implementation_reads_the_same(
        parts in prop::collection::vec(
            prop_oneof![
                "[-+:$*]{1,2}[0-9]{0,2}(\r\n){0,1}",
                "[-+:$*]-?[0-9]{1,2}\r\n",
                "[+-][a-zA-Z ]{0,5}\r\n",
                "[a\r\n]{0,3}",
            ],
            1..8,
        )
    ) {
        let bytes = parts.concat().into_bytes();
        match read(&bytes) {
            Ok(Some((reply, length))) => {
                let other = decode(&bytes);
                let Ok(Some((frame, theirs_length))) = &other else { panic!("{reply:?}, they say {other:?}") };
                prop_assert_eq!((&reply, length), (&theirs(frame), *theirs_length));
            }
            // They wait as well, or have found something wrong.
            Ok(None) => prop_assert!(!matches!(decode(&bytes), Ok(Some(_)))),
            // They take text with half of CRLF in it, and anything behind a bulk string.
            Err(ReplyError::Line | ReplyError::Bulk) => {}
            Err(error) => prop_assert!(!matches!(decode(&bytes), Ok(Some(_))), "{error}"),
        }
    }
}
