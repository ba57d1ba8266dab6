//! A file of endpoints, read by itself while the balancer runs.

use std::path::Path;

use super::check::discovery;
use super::model::Endpoint;
use super::problem::Problems;
use super::report::Report;

/// Reads the endpoints in the file at `path` by the rules of the configuration; their names must differ from those of
/// `others`.
///
/// # Errors
/// Everything that is wrong, sorted by place.
pub(crate) fn read(path: &Path, others: &[Endpoint]) -> Result<Vec<Endpoint>, Problems> {
    let mut report = Report::default();
    let endpoints = discovery::read_alone(path, others, &mut report);
    if report.is_clean() { Ok(endpoints) } else { Err(report.finish()) }
}
