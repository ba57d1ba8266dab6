//! Bytes only: formats as they stand on the wire, parsed and written without any I/O.
//!
//! Nothing here knows of sockets, time or configuration, so every file can be fuzzed as it is.

pub mod alert;
pub mod client_hello;
pub mod mysql;
pub mod mysql_refusal;
pub mod name;
pub mod pg_server;
pub mod postgres;
pub mod protocols;
pub mod proxy_header;
pub mod redis;
#[doc(hidden)]
#[expect(clippy::expect_used, reason = "made for tests, from what tests write")]
pub mod sample;
