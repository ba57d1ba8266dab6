//! What operators see of a running process, and what they can tell it.
//!
//! The pages over HTTP are read-only; only the socket, which belongs to one user, changes anything.

mod answer;
pub(crate) mod command;

pub mod http;
pub mod pages;
pub(crate) mod socket;
mod who;
