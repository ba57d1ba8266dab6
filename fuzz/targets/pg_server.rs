//! Reading what a PostgreSQL server says never panics, and gives the same messages in whatever pieces it comes.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pointsman::wire::pg_server::{LONGEST, Malformed, ServerMessage};

fuzz_target!(|bytes: &[u8]| {
    let whole = read([bytes].into_iter());
    let pieces = bytes.chunk_by(|first, second| first % 7 > second % 5);
    assert_eq!(read(pieces), whole);
});

/// The messages, and whether what comes behind them is none.
fn read<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> (Vec<ServerMessage>, Option<Malformed>) {
    let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match ServerMessage::take(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(malformed) => return (messages, Some(malformed)),
            }
        }
        assert!(buffer.len() <= LONGEST.max(piece.len()), "no more is waited for than is taken");
    }
    (messages, None)
}
