//! TLS that ends here: the handshake with a client, and the records of a session behind it.
//!
//! [`sealed`] is the connection without its socket; [`handshake`] makes one of an opening that was already read.
//! Forwarding what is inside is `forward/terminated.rs`.

pub(crate) mod handshake;
pub(crate) mod sealed;
