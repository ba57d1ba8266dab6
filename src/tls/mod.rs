//! TLS that ends here: certificates, session tickets, and the settings of a route.
//!
//! [`certificates`] is what a route has: pairs from files ([`pair`], [`files`]), found by name ([`index`]), watched, and
//! replaced one at a time while handshakes go on. [`tickets`] lets sessions be resumed on their own route only.
//! [`server`] puts both together for rustls. [`sealed`] is a connection without its socket. Of all this only [`handshake`]
//! knows of sockets, and the time comes in as an argument; what is inside is forwarded by `forward/terminated.rs`.

pub(crate) mod authorities;
pub(crate) mod binding;
pub(crate) mod certificates;
pub(crate) mod clients;
mod der;
pub(crate) mod endpoint;
pub(crate) mod expiry;
mod files;
pub(crate) mod handshake;
mod index;
mod key;
pub(crate) mod key_file;
#[cfg(any(test, fuzzing))]
pub(crate) mod mangled;
mod noting;
pub(crate) mod outgoing;
pub(crate) mod pair;
pub(crate) mod presented;
pub(crate) mod problem;
#[cfg(any(test, fuzzing))]
mod sample;
pub(crate) mod sealed;
pub(crate) mod server;
mod sighted;
mod staple;
pub(crate) mod termination;
#[cfg(test)]
mod tests;
pub(crate) mod tickets;
mod verifier;
mod watch;
pub(crate) mod words;
