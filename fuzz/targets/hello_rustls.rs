//! What rustls accepts we accept, and understand alike, or refuse for a reason that is listed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    pointsman::wire::client_hello::against_rustls::compare(bytes);
});
