//! One value of the configuration with its path and place, and how it is read as what a key asks for.
//!
//! Every reader reports what is wrong and gives `None` for it, so that the check goes on and finds the rest.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use figment::value::{Dict, Empty, Value};

use crate::config::report::{At, Report, path_part, quote};
use crate::config::spans::Spans;
use crate::config::value::{self, Refused};

/// A value as written.
#[derive(Clone)]
pub(super) struct Node<'t> {
    /// Path of the key; of an element, that of its array.
    path: Rc<str>,
    index: Option<usize>,
    /// Where the key was written.
    pub(super) key_at: At,
    /// Where the value was written.
    pub(super) at: At,
    value: &'t Value,
    spans: Option<&'t Spans>,
}

/// A table of which every key is known.
pub(super) struct Table<'t> {
    /// Path of the table, empty for the top level.
    path: Rc<str>,
    /// Where it was written.
    pub(super) at: At,
    dict: Option<&'t Dict>,
    spans: Option<&'t Spans>,
}

/// What a duration may be besides a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Allow {
    /// More than zero.
    Positive,
    /// Zero or more.
    Zero,
    /// More than zero, or "off".
    PositiveOrOff,
    /// Zero or more, or "off".
    ZeroOrOff,
}

impl<'t> Node<'t> {
    /// Path of the value, as messages show it.
    pub(super) fn path(&self) -> String {
        match self.index {
            Some(index) => format!("{}[{index}]", self.path),
            None => self.path.to_string(),
        }
    }

    /// Reports that the value is not `expected`.
    pub(super) fn wrong(&self, expected: &str, report: &mut Report) {
        report.add(self.at, self.path(), kind(self.value)).expected(expected);
    }

    /// The value as text.
    pub(super) fn text(&self, expected: &str, report: &mut Report) -> Option<&'t str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong(expected, report);
        }
        text
    }

    /// The value as what `read` makes of a text.
    pub(super) fn parse<T>(
        &self,
        expected: &str,
        report: &mut Report,
        read: impl FnOnce(&'t str) -> Result<T, Refused>,
    ) -> Option<T> {
        match read(self.text(expected, report)?) {
            Ok(value) => Some(value),
            Err(refused) => {
                let found = report.add(self.at, self.path(), refused.message);
                if refused.misread {
                    found.expected(expected);
                }
                None
            }
        }
    }

    /// The value as one of some words.
    pub(super) fn choice<T: Clone>(&self, words: &[(&str, T)], report: &mut Report) -> Option<T> {
        let all = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let expected = format!("one of {all}");
        let text = self.text(&expected, report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let nearest = report.nearest(text, words.iter().map(|(word, _)| *word));
        let nearest = nearest.map(quote);
        report.add(self.at, self.path(), format!("{} is not known", quote(text))).expected(expected).nearest(nearest);
        None
    }

    /// The value as true or false.
    pub(super) fn truth(&self, report: &mut Report) -> Option<bool> {
        match self.value {
            Value::Bool(_, truth) => Some(*truth),
            _ => {
                self.wrong("true or false", report);
                None
            }
        }
    }

    /// The value as a whole number within `range`.
    pub(super) fn number(&self, range: RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.number_or(range, &expected, report)
    }

    /// The value as a number from 1 to `most`, or as `word`, which gives `Some(None)`.
    pub(super) fn count(&self, word: &str, most: u32, report: &mut Report) -> Option<Option<NonZeroUsize>> {
        let number = self.number_unless(word, 1..=most, report)?;
        Some(number.and_then(|number| NonZeroUsize::new(number as usize)))
    }

    /// The value as a whole number within `range`, or as `word`, which gives `Some(None)`.
    pub(super) fn number_unless(
        &self,
        word: &str,
        range: RangeInclusive<u32>,
        report: &mut Report,
    ) -> Option<Option<u32>> {
        if self.value.as_str() == Some(word) {
            return Some(None);
        }
        let expected = format!("a number from {} to {}, or {word:?}", range.start(), range.end());
        self.number_or(range, &expected, report).map(Some)
    }

    fn number_or(&self, range: RangeInclusive<u32>, expected: &str, report: &mut Report) -> Option<u32> {
        let written = match self.value {
            // Everything in the environment is text.
            Value::String(_, text) if self.at.in_environment() => text.parse().ok(),
            number @ Value::Num(..) => number.to_i128(),
            _ => None,
        };
        let Some(written) = written else {
            self.wrong(expected, report);
            return None;
        };
        let number = u32::try_from(written).ok().filter(|number| range.contains(number));
        if number.is_none() {
            report.add(self.at, self.path(), format!("{written} is out of range")).expected(expected);
        }
        number
    }

    /// The value as a size in bytes, within `range`, which is called `called`.
    pub(super) fn size(&self, range: RangeInclusive<u64>, called: &str, report: &mut Report) -> Option<u64> {
        let bytes = match self.value {
            number @ Value::Num(..) => {
                let bytes = number.to_i128().and_then(|number| u64::try_from(number).ok());
                if bytes.is_none() {
                    self.wrong(value::SIZE, report);
                }
                bytes?
            }
            _ => self.parse(value::SIZE, report, value::size)?,
        };
        if !range.contains(&bytes) {
            report.add(self.at, self.path(), format!("{bytes} bytes is out of range")).expected(called);
            return None;
        }
        Some(bytes)
    }

    /// The value as a duration; "off" gives `Some(None)`.
    pub(super) fn duration(&self, allow: Allow, report: &mut Report) -> Option<Option<Duration>> {
        let off = matches!(allow, Allow::PositiveOrOff | Allow::ZeroOrOff);
        let expected = if off { format!("{}, or \"off\"", value::DURATION) } else { value::DURATION.to_owned() };
        if self.value.as_str() == Some("off") {
            if !off {
                report.add(self.at, self.path(), "cannot be off").expected(expected);
            }
            return off.then_some(None);
        }
        let duration = self.parse(&expected, report, value::duration)?;
        if duration.is_zero() && matches!(allow, Allow::Positive | Allow::PositiveOrOff) {
            report.add(self.at, self.path(), "zero would leave no time at all").expected(expected);
            return None;
        }
        Some(Some(duration))
    }

    /// The value as a duration within `range`, which is called `called`.
    pub(super) fn duration_within(
        &self,
        range: RangeInclusive<Duration>,
        called: &str,
        report: &mut Report,
    ) -> Option<Duration> {
        let duration = self.duration(Allow::Zero, report).flatten()?;
        if !range.contains(&duration) {
            report.add(self.at, self.path(), format!("{duration:?} is out of range")).expected(called);
            return None;
        }
        Some(duration)
    }

    /// The elements of a list; a plain text is a list of one. Reports anything else, and an empty list as `empty`.
    pub(super) fn list(&self, expected: &str, empty: &str, report: &mut Report) -> Vec<Node<'t>> {
        if matches!(self.value, Value::Array(_, elements) if elements.is_empty()) {
            report.add(self.at, self.path(), empty);
        }
        self.any_list(expected, report)
    }

    /// The elements of a list, which may be empty; a plain text is a list of one. Reports anything else.
    pub(super) fn any_list(&self, expected: &str, report: &mut Report) -> Vec<Node<'t>> {
        let elements = match self.value {
            Value::Array(_, elements) => elements,
            Value::String(..) => return vec![self.clone()],
            _ => {
                self.wrong(&format!("a list, each {expected}"), report);
                return Vec::new();
            }
        };
        let element = |(index, value)| {
            let spans = self.spans.and_then(|spans| spans.element(index));
            let at = spans.map_or(self.at, |spans| spans.value);
            Node { path: Rc::clone(&self.path), index: Some(index), key_at: at, at, value, spans }
        };
        elements.iter().enumerate().map(element).collect()
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, Value::Dict(..))
    }

    /// Whether the value is a number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.value, Value::Num(..))
    }

    /// The value as a table with some of `keys`. Reports all others.
    pub(super) fn table(&self, keys: &[&str], report: &mut Report) -> Table<'t> {
        let table = self.any_table(report);
        table.refuse_unknown(keys, report);
        table
    }

    /// The value as a table with any keys.
    pub(super) fn any_table(&self, report: &mut Report) -> Table<'t> {
        // The place is asked too: the environment may have set a key within what a file has set to something else.
        let dict = match self.value {
            Value::Dict(_, dict) if self.spans.is_none_or(Spans::is_table) => Some(dict),
            Value::Dict(..) => {
                report.add(self.at, self.path(), "not a table").expected("a table");
                None
            }
            _ => {
                self.wrong("a table", report);
                None
            }
        };
        Table { path: self.path().into(), at: self.key_at, dict, spans: self.spans }
    }
}

impl<'t> Table<'t> {
    /// The top level.
    pub(super) fn top(dict: &'t Dict, spans: &'t Spans, keys: &[&str], report: &mut Report) -> Table<'t> {
        let table = Table { path: "".into(), at: spans.key, dict: Some(dict), spans: Some(spans) };
        table.refuse_unknown(keys, report);
        table
    }

    /// Path of `key` in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { path_part(key) } else { format!("{}.{}", self.path, path_part(key)) }
    }

    /// Path of the table.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is a table at all.
    pub(super) fn is_sound(&self) -> bool {
        self.dict.is_some()
    }

    /// The value of `key`, if it is set.
    pub(super) fn get(&self, key: &str) -> Option<Node<'t>> {
        self.dict?.get(key).map(|value| self.node(key, value))
    }

    /// The value of `key`, or a problem.
    pub(super) fn require(&self, key: &str, expected: &str, complete: bool, report: &mut Report) -> Option<Node<'t>> {
        let node = self.get(key);
        // What is missing may be in a file that could not be read.
        if node.is_none() && self.dict.is_some() && complete {
            report.add(self.at, self.path_of(key), "the key is missing").expected(expected);
        }
        node
    }

    /// All keys with their values, in the order of the files.
    pub(super) fn entries(&self) -> Vec<(&'t str, Node<'t>)> {
        let dict = self.dict.into_iter().flatten();
        let mut entries: Vec<_> = dict.map(|(key, value)| (key.as_str(), self.node(key, value))).collect();
        entries.sort_by_key(|(_, node)| node.key_at);
        entries
    }

    fn node(&self, key: &str, value: &'t Value) -> Node<'t> {
        let spans = self.spans.and_then(|spans| spans.get(key));
        let (key_at, at) = spans.map_or((self.at, self.at), |spans| (spans.key, spans.value));
        Node { path: self.path_of(key).into(), index: None, key_at, at, value, spans }
    }

    fn refuse_unknown(&self, keys: &[&str], report: &mut Report) {
        for (key, node) in self
            .dict
            .into_iter()
            .flatten()
            .filter(|(key, _)| !keys.contains(&key.as_str()))
            .map(|(key, value)| (key, self.node(key, value)))
        {
            let nearest = report.nearest(key, keys.iter().copied()).map(str::to_owned);
            report.add(node.key_at, node.path(), "unknown key").nearest(nearest);
        }
    }
}

/// What was found where something else belongs.
fn kind(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("found {}", quote(text)),
        Value::Char(_, character) => format!("found {character:?}"),
        Value::Bool(_, truth) => format!("found {truth}"),
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(number), _) => format!("found {number}"),
            (None, Some(number)) => format!("found {number:?}"),
            (None, None) => "found a number".to_owned(),
        },
        Value::Empty(_, Empty::None) => "found null".to_owned(),
        Value::Empty(..) => "found a date or time".to_owned(),
        Value::Dict(..) => "found a table".to_owned(),
        Value::Array(..) => "found a list".to_owned(),
    }
}
