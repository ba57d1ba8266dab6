//! One file as written: its text, its values as a [`figment::Provider`], and the place of each of them.

use std::io;
use std::path::Path;

use figment::value::{Dict, Empty, Map, Tag, Value};
use figment::{Error, Metadata, Profile, Provider};
use toml_edit::{Document, Item, TomlError};

use super::report::{At, Report, quote};
use super::spans::Spans;
use crate::bounded;

/// The longest file, in bytes: a place must fit into four bytes.
const LONGEST_FILE: u64 = 1 << 30;

/// One parsed file.
pub(super) struct File {
    /// The file as a whole.
    pub(super) at: At,
    /// Its values.
    pub(super) values: Dict,
    /// Where they were written.
    pub(super) spans: Spans,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named("TOML file")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl File {
    /// The bytes of the file at `path`.
    ///
    /// # Errors
    /// What the system says, and a file of more than a GiB.
    pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
        bounded::read(path, LONGEST_FILE)
    }

    /// Parses `bytes` as the file at `path`; what is wrong is reported.
    pub(super) fn parse(path: &Path, bytes: Vec<u8>, report: &mut Report) -> Option<File> {
        let text = text(path, bytes, report)?;
        let parsed = Document::parse(text.as_str()).map(|document| {
            let dict = table(document.as_table());
            // The number is only known once the text has been handed over, and the document borrows the text.
            (dict, Spans::of_document(report.next_file(), document.as_table()))
        });
        let parsed = parsed.map_err(|error| (said(&error, &text), error.span()));
        let number = report.file(path.to_owned(), text);
        match parsed {
            Ok((values, spans)) => Some(File { at: At::file(number), values, spans }),
            Err((message, span)) => {
                let at = span.map_or(At::file(number), |span| At::byte(number, span.start));
                report.add(at, "", format!("not TOML: {message}"));
                None
            }
        }
    }
}

/// `bytes` as the text of the file at `path`; what is no text is reported.
pub(super) fn text(path: &Path, bytes: Vec<u8>, report: &mut Report) -> Option<String> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default()).into_owned();
            let number = report.file(path.to_owned(), text);
            report.add(At::byte(number, good), "", "the file is not UTF-8");
            None
        }
    }
}

/// What the parser says, in one line, and of which key.
fn said(error: &TomlError, text: &str) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span().and_then(|span| text.get(span)) {
        Some(key) if message == "duplicate key" => format!("{message} {}", quote(key.trim())),
        _ => message,
    }
}

fn table(table: &dyn toml_edit::TableLike) -> Dict {
    table.iter().map(|(key, item)| (key.to_owned(), item_value(item))).collect()
}

fn item_value(item: &Item) -> Value {
    match item {
        Item::None => Value::Empty(Tag::Default, Empty::None),
        Item::Value(plain) => plain_value(plain),
        Item::Table(tables) => Value::Dict(Tag::Default, table(tables)),
        Item::ArrayOfTables(tables) => {
            Value::Array(Tag::Default, tables.iter().map(|each| Value::Dict(Tag::Default, table(each))).collect())
        }
    }
}

fn plain_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::String(Tag::Default, text.value().clone()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(truth) => Value::from(*truth.value()),
        // No key of ours is a date, and figment knows none: all that is needed of one is what it is.
        toml_edit::Value::Datetime(_) => Value::Empty(Tag::Default, Empty::Unit),
        toml_edit::Value::Array(array) => Value::Array(Tag::Default, array.iter().map(plain_value).collect()),
        toml_edit::Value::InlineTable(inline) => Value::Dict(Tag::Default, table(inline)),
    }
}
