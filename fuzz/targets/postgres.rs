//! Reading the beginning of a PostgreSQL connection never panics, and gives the same answer however much more comes; what is
//! read as whole is whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::postgres::{MAX_STARTUP, Packet, packet};

fuzz_target!(|bytes: &[u8]| {
    let whole = packet(bytes);
    // What was clear from less stays so.
    for end in 0..bytes.len().min(300) {
        match packet(&bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "from {end} bytes"),
        }
    }
    let length = match whole {
        Ok(Some(Packet::Ssl | Packet::Gssenc)) => 8,
        Ok(Some(Packet::Cancel { length } | Packet::Startup { length })) => length,
        Ok(None) => {
            assert!(bytes.len() < MAX_STARTUP);
            return;
        }
        Err(_) => return,
    };
    assert!((8..=MAX_STARTUP).contains(&length) && length <= bytes.len());
    let exact = &bytes[..length];
    assert_eq!(packet(exact), whole, "without what follows");
    assert_eq!(u32::from_be_bytes([exact[0], exact[1], exact[2], exact[3]]) as usize, length);
    if let Ok(Some(Packet::Startup { .. })) = whole {
        // As a server reads it: names and values in turn, to an empty name.
        let mut texts = exact[8..].split(|byte| *byte == 0);
        while let Some(name) = texts.next().filter(|name| !name.is_empty()) {
            assert!(texts.next().is_some(), "{name:?} has a value");
        }
        assert_eq!(texts.collect::<Vec<_>>(), [b""], "nothing is behind the end");
    }
});
