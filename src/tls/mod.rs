//! TLS that ends here: certificates, session tickets, and the settings of a route.
//!
//! [`certificates`] is what a route has: pairs from files ([`pair`], [`files`]), found by name ([`index`]), watched, and
//! replaced one at a time while handshakes go on. [`tickets`] lets sessions be resumed on their own route only.
//! [`server`] puts both together for rustls. Nothing here knows of sockets, and the time comes in as an argument.

pub(crate) mod certificates;
mod der;
pub(crate) mod expiry;
mod files;
mod index;
mod key;
pub(crate) mod pair;
mod problem;
#[cfg(test)]
mod sample;
#[cfg_attr(not(test), expect(dead_code, reason = "the session path does not end TLS yet"))]
pub(crate) mod server;
mod staple;
#[cfg(test)]
mod tests;
#[cfg_attr(not(test), expect(dead_code, reason = "the session path does not end TLS yet"))]
pub(crate) mod tickets;
mod watch;
