//! Reading a reply of Redis never panics, gives the same answer in whatever pieces it comes, and the same as another
//! implementation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::redis::{MAX_ELEMENTS, MAX_REPLY, Reply, ReplyError, read};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    match &whole {
        Ok(Some((reply, length))) => {
            assert!(*length <= bytes.len() && *length <= MAX_REPLY && elements(reply) <= MAX_ELEMENTS);
            assert_eq!(read(&bytes[..*length]), whole, "without what follows");
            assert_eq!(read(&bytes[..length - 1]), Ok(None), "without its last byte");
            let other = decode_range(bytes);
            let Ok(Some((frame, theirs))) = &other else { panic!("{reply:?}, they say {other:?}") };
            assert_eq!(theirs, length);
            assert!(is_same(reply, frame, bytes), "{reply:?}, they say {frame:?}");
        }
        Ok(None) => assert!(!matches!(decode_range(bytes), Ok(Some(_))), "we still wait"),
        // They take text with half of CRLF in it, and anything behind a bulk string; and they have no bounds.
        Err(ReplyError::Line | ReplyError::Bulk | ReplyError::TooLong | ReplyError::TooMany | ReplyError::TooDeep) => {}
        // They take zeros in front, however many.
        Err(ReplyError::Number) => {}
        Err(error) => assert!(!matches!(decode_range(bytes), Ok(Some(_))), "{error}"),
    }
    if bytes.len() < 512 {
        let in_pieces = (0..=bytes.len()).map(|end| read(&bytes[..end])).find(|answer| *answer != Ok(None));
        assert_eq!(in_pieces.unwrap_or(Ok(None)), whole, "in pieces");
    }
});

/// The elements of its arrays.
fn elements(reply: &Reply<'_>) -> usize {
    match reply {
        Reply::Array(elements) => elements.len() + elements.iter().map(self::elements).sum::<usize>(),
        _ => 0,
    }
}

/// Whether they have found the same; what they have are places in `bytes`.
fn is_same(reply: &Reply<'_>, frame: &RangeFrame, bytes: &[u8]) -> bool {
    match (reply, frame) {
        (Reply::Simple(ours), RangeFrame::SimpleString((start, end)))
        | (Reply::Error(ours), RangeFrame::Error((start, end)))
        | (Reply::Bulk(ours), RangeFrame::BulkString((start, end))) => *ours == &bytes[*start..*end],
        (Reply::Integer(ours), RangeFrame::Integer(theirs)) => ours == theirs,
        (Reply::Null, RangeFrame::Null) => true,
        (Reply::Array(ours), RangeFrame::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs, bytes))
        }
        _ => false,
    }
}
