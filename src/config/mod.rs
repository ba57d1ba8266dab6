//! The configuration language: files as written, every problem in them, and the values they come to.

pub mod model;
