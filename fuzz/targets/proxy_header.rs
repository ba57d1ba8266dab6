//! Reading a PROXY header never panics, gives the same answer in whatever pieces it comes, agrees with a second
//! implementation, and what was read can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire;
use pointsman::wire::proxy_header::{Kind, Origin, Tlvs, read, v1, v2};

#[path = "../../src/wire/proxy_header/against_ppp.rs"]
mod against_ppp;

fuzz_target!(|bytes: &[u8]| {
    against_ppp::compare(bytes);
    let whole = read(bytes);
    if bytes.len() < 512 {
        let first = (0..=bytes.len()).map(|end| read(&bytes[..end])).find(|read| *read != Ok(None));
        assert_eq!(first.unwrap_or(Ok(None)), whole, "byte by byte");
    }
    let Ok(Some(header)) = whole else { return };
    assert!(header.length <= bytes.len());
    let addresses = match header.origin {
        Origin::Tcp(addresses) => Some(addresses),
        Origin::Local | Origin::Unknown | Origin::Unix => None,
    };
    let mut tlvs = Tlvs::default();
    for (kind, value) in header.tlvs.iter().filter(|(kind, _)| *kind != Kind::Checksum as u8) {
        if !tlvs.add(kind, value) {
            return;
        }
    }
    let written = v2(addresses, &tlvs, true);
    let again = read(&written).expect("what is written is a header").expect("and a whole one");
    assert_eq!(again.length, written.len());
    let without = |tlvs: &Tlvs| -> Vec<(u8, Vec<u8>)> {
        let values = tlvs.iter().filter(|(kind, _)| *kind != Kind::Checksum as u8);
        values.map(|(kind, value)| (kind, value.to_vec())).collect()
    };
    assert_eq!(without(&again.tlvs), without(&header.tlvs));
    assert!(matches!(read(&v1(addresses)), Ok(Some(line)) if line.origin == again.origin));
});
