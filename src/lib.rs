//! pointsman: a layer-4 TCP/TLS load balancer for Linux.
//!
//! # The words
//! One word, one meaning, in code, configuration, metrics, log and documentation alike.
//!
//! | word | meaning |
//! |---|---|
//! | listener | addresses on which connections of one protocol are accepted |
//! | opening | the first bytes of a connection, read before it is routed |
//! | route | from a name, a protocol and a source to a pool |
//! | pool | endpoints that serve the same thing |
//! | endpoint | one address that connections are forwarded to |
//! | lease | one session's claim on an endpoint, given back when it ends |
//! | member | an endpoint that a pool is to have, however it became known |
//! | part | of a pool that routes lead to by role: the pool as it is at work for one role |
//! | rank | an endpoint's priority, or behind all of them where it only stands in |
//! | tier | the endpoints of a pool that have the same rank |
//! | share | what an endpoint's weight comes to at the moment |
//! | fit | up, not left out as an outlier, and in service |
//! | held, queued | of a client: it waits because nobody can be chosen, or because all who can are full |
//! | settle | to bring what a pool's choices go by up to date with its endpoints |
//! | session | one accepted connection, from accept to record |
//! | half | one direction of a session |
//! | outcome | the one word for how a connection ended |
//! | record | what is told of a connection once it has ended |
//! | worker | a thread that owns sockets and sessions; to another worker it is a colleague |
//! | door | a listener, as those see it who let connections in |
//! | permit | one connection's claim on the limits of the process and its listener |
//! | seat | one connection's place among those of a worker |
//! | peer | the remote end of a connection: client or endpoint |
//! | pair | a certificate with what leads to its root, and its key |
//! | account | with an authority that certificates are obtained from |
//! | challenge | what an authority asks for to see that a name is ours |
//! | generation | one immutable state of the configuration in use |

// Whatever a client, an endpoint or a file says, nothing here panics. Each exception states its invariant.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests block as they like"))]

mod acme;
pub mod admin;
mod balance;
mod bounded;
pub mod cli;
mod clock;
pub mod config;
mod connect;
#[doc(hidden)]
pub mod counted;
mod detect;
mod forward;
mod health;
pub mod listen;
mod live;
pub mod observe;
mod pool;
mod refusal;
pub mod route;
mod session;
mod stamp;
mod stream;
pub mod supervise;
mod sys;
mod table;
mod tls;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use tls::mangled::converse;
pub mod wire;
