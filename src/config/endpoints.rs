//! A file of endpoints, read by itself while the balancer runs.

use std::io;
use std::path::Path;

use super::check::discovery;
use super::model::Endpoint;
use super::problem::Problems;
use super::report::Report;

/// Why a file of endpoints could not be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// What the system says, which may say something else the next time.
    System(io::Error),
    /// Everything that is wrong with this version of it, sorted by place.
    Wrong(Problems),
}

/// Reads the endpoints in the file at `path` by the rules of the configuration; their names must differ from those of
/// `others`. With `names_verified` each has to have a name that its certificate can be verified by.
///
/// # Errors
/// The file cannot be read, or something is wrong with what it says.
pub(crate) fn read(path: &Path, others: &[Endpoint], names_verified: bool) -> Result<Vec<Endpoint>, Unread> {
    let mut report = Report::default();
    let endpoints = discovery::read_alone(path, others, names_verified, &mut report).map_err(Unread::System)?;
    if report.is_clean() { Ok(endpoints) } else { Err(Unread::Wrong(report.finish())) }
}
