//! Whatever a client says to a route on which TLS ends, in its handshake and after it, nothing panics, what is kept stays
//! small, and nothing is opened that it has not sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|choices: &[u8]| pointsman::converse(choices));
