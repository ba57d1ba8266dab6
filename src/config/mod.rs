//! The configuration language: files as written, every problem in them, and the values they come to.
//!
//! [`load`] is the way in: `written` reads the main file, what it includes and the environment; `check` walks what came
//! together and finds every problem in one go; [`model`] is what a correct configuration comes to. `keys` lists every
//! key there is, and `conf/reference.toml` explains each of them.
//!
//! Nothing here panics, whatever was written, and nothing is changed outside: a load may be tried at any time.

mod address;
#[expect(clippy::indexing_slicing, reason = "indices into lists that the same walk has built")]
mod check;
mod endpoints;
mod environment;
mod file;
mod json;
mod keys;
pub mod model;
mod problem;
mod report;
mod spans;
#[cfg(test)]
mod tests;
mod value;
mod written;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use endpoints::{Unread, read as read_endpoints};
pub use model::Config;
pub use problem::{Place, Problem, Problems};

use environment::Environment;
use report::Report;
use written::Written;

/// A configuration, and what it was read from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The main file, then the included ones in the order they were read.
    pub files: Vec<PathBuf>,
    /// What is worth a word and keeps nothing from working, such as certificates that end soon; sorted by place.
    pub warnings: Vec<Problem>,
}

/// Reads the configuration at `path`: the file, what it includes, and the environment of the process.
///
/// # Errors
/// Everything that is wrong, sorted by place.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    load_with(path, std::env::vars_os())
}

/// [`load`] with these environment variables instead of those of the process.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, Problems> {
    let environment = Environment::of(environment);
    let mut report = Report::default();
    let written = Written::read(path, &environment, &mut report);
    finish(&written, &environment, report)
}

/// Reads `text` as the only file, which messages call `path`, without any environment. `include` is checked, but
/// nothing is included, and no file of endpoints or certificates is read.
///
/// # Errors
/// As [`load`].
pub fn parse_str(path: &Path, text: &str) -> Result<Loaded, Problems> {
    let environment = Environment::of([]);
    let mut report = Report::default();
    let written = Written::read_text(path, text, &environment, &mut report);
    finish(&written, &environment, report)
}

fn finish(written: &Written, environment: &Environment, mut report: Report) -> Result<Loaded, Problems> {
    let files = report.paths().cloned().collect();
    let config = check::check(written, environment.names(), &mut report);
    if report.is_clean() {
        return Ok(Loaded { config, files, warnings: report.finish_warnings() });
    }
    Err(report.finish())
}
