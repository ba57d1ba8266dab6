//! Reading a hello never panics, and gives the same answer in whatever pieces and records it comes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::client_hello::{ClientHello, HelloError, MAX_OPENING, Reader};
use pointsman::wire::sample::{records, unframe};

fuzz_target!(|bytes: &[u8]| {
    let whole = Reader::default().advance(bytes);
    if let Ok(Some(hello)) = &whole {
        assert!(hello.length <= bytes.len() && hello.length <= MAX_OPENING);
        assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
        assert!(!hello.versions.is_empty());
        let exact = bytes.get(..hello.length).unwrap_or_default();
        assert_eq!(Reader::default().advance(exact).as_ref(), Ok(&Some(hello.clone())), "without what follows");
        assert_eq!(Reader::default().advance(&exact[..hello.length - 1]), Ok(None), "without its last byte");
        let wire = records(&unframe(exact), 2 + bytes.len() % 300);
        if wire.len() <= MAX_OPENING && bytes.len() < 2048 {
            let reframed = ClientHello { length: wire.len(), ..hello.clone() };
            assert_eq!(in_pieces(&wire), Ok(Some(reframed)), "in other records");
        }
    }
    assert_eq!(in_pieces(bytes), whole);
});

/// Pieces of a few bytes, their sizes taken from the bytes themselves.
fn in_pieces(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let (mut reader, mut end) = (Reader::default(), 0);
    while let Some(&size) = bytes.get(end) {
        end = (end + 1 + usize::from(size % 61)).min(bytes.len());
        let answer = reader.advance(&bytes[..end]);
        if answer != Ok(None) {
            return answer;
        }
    }
    Ok(None)
}
