//! The integration tests, in one binary: a balancer between real sockets.
//!
//! Where a test belongs: what one module does alone is tested beside its code; what is seen from outside stands here,
//! in the module of its concern. `harness` starts balancers, clients and endpoints.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod bulk;
mod half_close;
mod harness;
mod network;
mod reset;
mod smoke;
