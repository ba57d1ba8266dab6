//! The configuration as written: the main file, what it includes, and the environment, merged into one tree of values
//! and one tree of places.
//!
//! Owns all reading of files. Knows of the language only `include`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use glob::{MatchOptions, Pattern};

use super::environment::Environment;
use super::file::File;
use super::report::{At, Report, quote};
use super::spans::Spans;

/// What `include` has to be.
const INCLUDE: &str = "a list of paths, in which *, ? and [...] stand for parts of names";
/// A hidden file is not included by a pattern: editors leave such files behind.
const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Everything that was written.
pub(super) struct Written {
    /// The values of all sources.
    pub(super) values: Dict,
    /// Where they were written.
    pub(super) spans: Spans,
    /// Whether files of endpoints and of certificates are to be read as well.
    pub(super) with_files: bool,
    /// Whether every file could be read: if not, nothing can be said of what seems to be missing.
    pub(super) complete: bool,
}

impl Written {
    /// Reads the file at `path`, everything it includes, and the variables of `environment`.
    pub(super) fn read(path: &Path, environment: &Environment, report: &mut Report) -> Written {
        let mut written = Sources::new();
        let main = match File::read(path) {
            Ok(bytes) => File::parse(path, bytes, report),
            Err(error) => {
                let file = report.file(path.to_owned(), String::new());
                report.add(At::file(file), "", format!("cannot read the file: {error}"));
                None
            }
        };
        match main {
            Some(main) => {
                let before = report.count();
                let included = includes(path, &main, report);
                written.complete = report.count() == before;
                written.add(main, report);
                for (path, at) in included {
                    written.add_included(&path, at, report);
                }
            }
            None => written.complete = false,
        }
        Written { with_files: true, ..written.finish(environment, report) }
    }

    /// Reads `text` as the only file, called `path`; `include` is checked, but nothing is included.
    pub(super) fn read_text(path: &Path, text: &str, environment: &Environment, report: &mut Report) -> Written {
        let mut written = Sources::new();
        match File::parse(path, text.as_bytes().to_vec(), report) {
            Some(main) => {
                patterns(&main, report);
                written.add(main, report);
            }
            None => written.complete = false,
        }
        written.finish(environment, report)
    }
}

/// What was read so far.
struct Sources {
    figment: Figment,
    spans: Spans,
    complete: bool,
}

impl Sources {
    fn new() -> Sources {
        Sources { figment: Figment::new(), spans: Spans::table(At::file(0)), complete: true }
    }

    fn add(&mut self, mut file: File, report: &mut Report) {
        let spans = std::mem::replace(&mut file.spans, Spans::plain(file.at));
        self.spans.join(spans, report);
        self.figment = std::mem::take(&mut self.figment).join(file);
    }

    fn add_included(&mut self, path: &Path, at: At, report: &mut Report) {
        let file = match File::read(path) {
            Ok(bytes) => File::parse(path, bytes, report),
            Err(error) => {
                report.add(at, "include", format!("cannot read {}: {error}", quote(&path.to_string_lossy())));
                None
            }
        };
        let Some(mut file) = file else {
            self.complete = false;
            return;
        };
        if file.values.remove("include").is_some() {
            let at = file.spans.remove("include").map_or(file.at, |spans| spans.key);
            report.add(at, "include", "only the main file may include others");
        }
        self.add(file, report);
    }

    fn finish(mut self, environment: &Environment, report: &mut Report) -> Written {
        environment.mark(&mut self.spans, report);
        // No provider of ours fails. Should one do so some day, there would be no values and the answer a list of
        // what is missing, never a configuration.
        let data = self.figment.merge(environment).data();
        let values = data.ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
        Written { values, spans: self.spans, with_files: false, complete: self.complete }
    }
}

/// The files that `main` includes, each once, and the place that asked for it.
fn includes(path: &Path, main: &File, report: &mut Report) -> Vec<(PathBuf, At)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut known: HashSet<PathBuf> = path.canonicalize().into_iter().collect();
    let mut found = Vec::new();
    for (pattern, at) in patterns(main, report) {
        for file in matches(folder, pattern, at, report) {
            // A file that two patterns match is read once, or each of its keys would be set twice.
            if file.canonicalize().is_ok_and(|file| !known.insert(file)) {
                continue;
            }
            found.push((file, at));
        }
    }
    found
}

/// The files that one pattern stands for, sorted by name; a path without wildcards stands for itself.
fn matches(folder: &Path, pattern: &str, at: At, report: &mut Report) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[']) {
        return vec![folder.join(pattern)];
    }
    let full = match folder.to_str() {
        Some("") => pattern.to_owned(),
        Some(_) if Path::new(pattern).is_absolute() => pattern.to_owned(),
        Some(folder) => format!("{}/{pattern}", Pattern::escape(folder)),
        None => {
            report.add(at, "include", "patterns need a folder whose name is UTF-8");
            return Vec::new();
        }
    };
    match glob::glob_with(&full, MATCH) {
        Ok(paths) => paths.filter_map(|path| matched(path, at, report)).collect(),
        Err(error) => {
            report.add(at, "include", format!("{} is not a pattern: {}", quote(pattern), error.msg)).expected(INCLUDE);
            Vec::new()
        }
    }
}

fn matched(path: glob::GlobResult, at: At, report: &mut Report) -> Option<PathBuf> {
    match path {
        Ok(path) => Some(path),
        Err(error) => {
            report.add(at, "include", format!("cannot read the folder: {error}"));
            None
        }
    }
}

/// What `include` lists.
fn patterns<'f>(main: &'f File, report: &mut Report) -> Vec<(&'f str, At)> {
    let Some(spans) = main.spans.get("include") else { return Vec::new() };
    let elements = match main.values.get("include") {
        Some(Value::Array(_, elements)) => elements.as_slice(),
        Some(single @ Value::String(..)) => std::slice::from_ref(single),
        _ => {
            report.add(spans.value, "include", "not a list").expected(INCLUDE);
            return Vec::new();
        }
    };
    let element = |(index, value): (usize, &'f Value)| {
        let at = spans.element(index).map_or(spans.value, |element| element.value);
        match value.as_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Some((text, at)),
            _ => {
                report.add(at, "include", "not a path").expected(INCLUDE);
                None
            }
        }
    };
    elements.iter().enumerate().filter_map(element).collect()
}
