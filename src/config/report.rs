//! Collects problems while the configuration is read and checked, and gives them lines and columns in the end.
//!
//! Until then a place is eight bytes ([`At`]): a list of a million names keeps a million of them. Lines and columns
//! are worked out in one sweep over each file, however many problems there are.

use std::path::PathBuf;

use super::problem::{Place, Problem, Problems};

/// A place: a source and where in it. Orders as problems are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    source: u32,
    /// 0: the whole file; else the byte's offset plus one. In the environment: which variable.
    offset: u32,
}

/// The source number of the environment: after every file.
const ENVIRONMENT: u32 = u32::MAX;

/// Comparisons with known words that one check may make: suggestions must not cost more than the check.
const COMPARISONS: usize = 200_000;
/// Words longer than this, in bytes, are not looked for among the known ones.
const LONGEST_WORD: usize = 64;

/// Files and variables that were read, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Report {
    files: Vec<(PathBuf, String)>,
    variables: Vec<String>,
    found: Vec<Found>,
    warned: Vec<Found>,
    comparisons: usize,
}

/// A problem whose places have no line yet.
#[derive(Debug)]
pub(super) struct Found {
    at: At,
    also: Option<At>,
    key: String,
    message: String,
    expected: Option<String>,
    nearest: Option<String>,
}

impl At {
    /// The byte `offset` of the file that [`Report::file`] gave the number `file`.
    pub(super) fn byte(file: u32, offset: usize) -> At {
        // Texts are limited to what fits; saturating keeps even a broken rule from giving a wrong place.
        At { source: file, offset: u32::try_from(offset).unwrap_or(u32::MAX).saturating_add(1) }
    }

    /// The file as a whole.
    pub(super) fn file(file: u32) -> At {
        At { source: file, offset: 0 }
    }

    /// The variable that [`Report::variable`] gave the number `variable`.
    pub(super) fn variable(variable: u32) -> At {
        At { source: ENVIRONMENT, offset: variable }
    }

    /// Whether this is an environment variable.
    pub(super) fn in_environment(self) -> bool {
        self.source == ENVIRONMENT
    }
}

impl Report {
    /// Takes note of a file with the text that offsets refer to; gives its number.
    pub(super) fn file(&mut self, path: PathBuf, text: String) -> u32 {
        let number = self.next_file();
        self.files.push((path, text));
        number
    }

    /// The number that the next file will get.
    pub(super) fn next_file(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(ENVIRONMENT - 1)
    }

    /// Takes note of an environment variable; gives its number.
    pub(super) fn variable(&mut self, name: &str) -> u32 {
        self.variables.push(name.to_owned());
        u32::try_from(self.variables.len() - 1).unwrap_or(u32::MAX)
    }

    /// The files so far, in the order they were read.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().map(|(path, _)| path)
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// How many problems were found so far.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Adds a problem, to be completed by the methods of [`Found`].
    pub(super) fn add(&mut self, at: At, key: impl Into<String>, message: impl Into<String>) -> &mut Found {
        let found = Found { at, also: None, key: key.into(), message: message.into(), expected: None, nearest: None };
        self.found.push(found);
        let last = self.found.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was pushed just now")]
        &mut self.found[last]
    }

    /// Adds what is worth a word, but wrong with nothing that was written.
    pub(super) fn warn(&mut self, at: At, key: impl Into<String>, message: impl Into<String>) {
        let (key, message) = (key.into(), message.into());
        self.warned.push(Found { at, also: None, key, message, expected: None, nearest: None });
    }

    /// The one of `known` that is nearest to `word`, if it is close enough to be meant.
    pub(super) fn nearest<'k>(&mut self, word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
        if word.len() > LONGEST_WORD {
            return None;
        }
        let limit = (word.chars().count() / 3).clamp(1, 3);
        let mut best: Option<(usize, &str)> = None;
        for candidate in known {
            if self.comparisons >= COMPARISONS {
                break;
            }
            self.comparisons += 1;
            if candidate.len().abs_diff(word.len()) > limit {
                continue;
            }
            let distance = strsim::osa_distance(word, candidate);
            if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// Sorts what was found and gives every place its line and column.
    pub(super) fn finish(mut self) -> Problems {
        let found = std::mem::take(&mut self.found);
        Problems(self.placed(found))
    }

    /// What was warned of, in the same way.
    pub(super) fn finish_warnings(mut self) -> Vec<Problem> {
        let warned = std::mem::take(&mut self.warned);
        self.placed(warned)
    }

    fn placed(&self, mut all: Vec<Found>) -> Vec<Problem> {
        all.sort_by_key(|found| found.at);
        let mut places: Vec<At> = all.iter().flat_map(|found| [Some(found.at), found.also]).flatten().collect();
        places.sort_unstable();
        places.dedup();
        let resolved = self.resolve(&places);
        let place = |at: At| match places.binary_search(&at) {
            Ok(index) => resolved.get(index).cloned().unwrap_or_else(|| Place::File(PathBuf::new())),
            Err(_) => Place::File(PathBuf::new()),
        };
        let problems = all.into_iter().map(|found| Problem {
            place: place(found.at),
            key: found.key,
            message: found.message,
            expected: found.expected,
            nearest: found.nearest,
            also: found.also.map(place),
        });
        problems.collect()
    }

    /// One place for each of `places`, which are sorted.
    fn resolve(&self, places: &[At]) -> Vec<Place> {
        let mut cursor = Cursor::default();
        let mut source = None;
        let resolve = |at: &At| {
            if at.in_environment() {
                return Place::Environment(self.variables.get(at.offset as usize).cloned().unwrap_or_default());
            }
            let Some((path, text)) = self.files.get(at.source as usize) else {
                return Place::File(PathBuf::new());
            };
            if source.replace(at.source) != Some(at.source) {
                cursor = Cursor::default();
            }
            match at.offset.checked_sub(1) {
                None => Place::File(path.clone()),
                Some(offset) => {
                    cursor.advance(text, offset as usize);
                    Place::Line { file: path.clone(), line: cursor.line + 1, column: cursor.column + 1 }
                }
            }
        };
        places.iter().map(resolve).collect()
    }
}

impl Found {
    /// What would have been right.
    pub(super) fn expected(&mut self, expected: impl Into<String>) -> &mut Found {
        self.expected = Some(expected.into());
        self
    }

    /// The nearest word that is known, quoted as it is to be written.
    pub(super) fn nearest(&mut self, nearest: Option<String>) -> &mut Found {
        self.nearest = nearest;
        self
    }

    /// The other place concerned.
    pub(super) fn also(&mut self, at: At) -> &mut Found {
        self.also = Some(at);
        self
    }
}

/// Line and column of a byte, counted from 0, moving only forward.
#[derive(Default)]
struct Cursor {
    offset: usize,
    line: usize,
    column: usize,
}

impl Cursor {
    fn advance(&mut self, text: &str, to: usize) {
        let bytes = text.as_bytes();
        for &byte in bytes.get(self.offset..to.min(bytes.len())).unwrap_or_default() {
            if byte == b'\n' {
                self.line += 1;
                self.column = 0;
            } else if byte & 0xc0 != 0x80 {
                // Bytes that continue a UTF-8 character are not counted.
                self.column += 1;
            }
        }
        self.offset = self.offset.max(to);
    }
}

/// `text` in quotes, shortened and with control characters escaped, as messages show it.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `key` as a part of a path: quoted where TOML would ask for it.
pub(super) fn path_part(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare && key.len() <= LONGEST_WORD { key.to_owned() } else { quote(key) }
}
