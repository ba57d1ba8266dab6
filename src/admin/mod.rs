//! What operators see of a running process.
//!
//! Read-only here: nothing in this folder changes what the balancer does.

pub mod http;
pub mod pages;
