//! Algorithms that choose an endpoint: pure, one a file, over indices and numbers.

pub(crate) mod least_connections;
pub(crate) mod round_robin;

/// What an algorithm may know of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Its share; 0 is never chosen.
    pub(crate) weight: u16,
    /// Sessions that it has now.
    pub(crate) active: u32,
}
