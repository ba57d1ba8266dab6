//! Where every key and every element of the configuration was written: a tree of places beside the tree of values.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use toml_edit::{Array, ArrayOfTables, Item, TableLike, Value};

use super::report::{At, Report, path_part};

/// Places of one value and of everything in it.
#[derive(Debug)]
pub(super) struct Spans {
    /// The key, or the element itself in an array.
    pub(super) key: At,
    /// The value; of a table, its key.
    pub(super) value: At,
    within: Option<Box<Within>>,
}

/// What a value holds. Boxed in [`Spans`], so that a plain element of an array takes three words.
#[derive(Debug)]
enum Within {
    Table(BTreeMap<String, Spans>),
    Array(Vec<Spans>),
}

impl Spans {
    /// A table without keys, written at `at`.
    pub(super) fn table(at: At) -> Spans {
        Spans { key: at, value: at, within: Some(Box::new(Within::Table(BTreeMap::new()))) }
    }

    /// A plain value, written at `at`.
    pub(super) fn plain(at: At) -> Spans {
        Spans { key: at, value: at, within: None }
    }

    /// A list of these elements, written at `at`.
    pub(super) fn list(at: At, elements: Vec<Spans>) -> Spans {
        Spans { key: at, value: at, within: Some(Box::new(Within::Array(elements))) }
    }

    /// The places of a parsed document, the file `file`.
    pub(super) fn of_document(file: u32, root: &toml_edit::Table) -> Spans {
        Self::of_table(file, At::byte(file, 0), root)
    }

    /// The places of `key` of a table.
    pub(super) fn get(&self, key: &str) -> Option<&Spans> {
        match self.within.as_deref() {
            Some(Within::Table(table)) => table.get(key),
            _ => None,
        }
    }

    /// The places of one element of an array.
    pub(super) fn element(&self, index: usize) -> Option<&Spans> {
        match self.within.as_deref() {
            Some(Within::Array(elements)) => elements.get(index),
            _ => None,
        }
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.within.as_deref(), Some(Within::Table(_)))
    }

    /// Sets `key` of a table, which overrides what was there; nothing happens to anything else.
    pub(super) fn set(&mut self, key: &str, spans: Spans) {
        if let Some(Within::Table(table)) = self.within.as_deref_mut() {
            table.insert(key.to_owned(), spans);
        }
    }

    /// Takes `key` out of a table.
    pub(super) fn remove(&mut self, key: &str) -> Option<Spans> {
        match self.within.as_deref_mut() {
            Some(Within::Table(table)) => table.remove(key),
            _ => None,
        }
    }

    /// The table `key` of a table, made at `at` if it is missing; `None` if something else is there.
    pub(super) fn table_mut(&mut self, key: &str, at: At) -> Option<&mut Spans> {
        match self.within.as_deref_mut() {
            Some(Within::Table(table)) => {
                Some(table.entry(key.to_owned()).or_insert_with(|| Spans::table(at))).filter(|spans| spans.is_table())
            }
            _ => None,
        }
    }

    /// Takes over what `other` has; what both have and is not a table in both is reported, and the first one stays,
    /// as in [`figment::Figment::join`].
    pub(super) fn join(&mut self, other: Spans, report: &mut Report) {
        self.join_at(other, "", report);
    }

    fn join_at(&mut self, other: Spans, path: &str, report: &mut Report) {
        let (key, first) = (other.key, self.key);
        match (self.within.as_deref_mut(), other.within.map(|within| *within)) {
            (Some(Within::Table(table)), Some(Within::Table(others))) => {
                for (key, spans) in others {
                    let path = if path.is_empty() { path_part(&key) } else { format!("{path}.{}", path_part(&key)) };
                    match table.entry(key) {
                        Entry::Vacant(place) => drop(place.insert(spans)),
                        Entry::Occupied(mut place) => place.get_mut().join_at(spans, &path, report),
                    }
                }
            }
            _ => {
                report.add(key, path, "the key is set in two files").also(first);
            }
        }
    }

    fn of_table(file: u32, at: At, table: &dyn TableLike) -> Spans {
        let mut places = BTreeMap::new();
        for (name, item) in table.iter() {
            let span = table.key(name).and_then(|key| key.span()).or_else(|| item.span());
            let key = span.map_or(at, |span| At::byte(file, span.start));
            places.insert(name.to_owned(), Self::of_item(file, key, item));
        }
        Spans { key: at, value: at, within: Some(Box::new(Within::Table(places))) }
    }

    fn of_item(file: u32, key: At, item: &Item) -> Spans {
        match item {
            Item::None => Spans::plain(key),
            Item::Value(value) => Self::of_value(file, Some(key), value),
            Item::Table(table) => Self::of_table(file, key, table),
            Item::ArrayOfTables(tables) => Self::of_tables(file, key, tables),
        }
    }

    fn of_value(file: u32, key: Option<At>, value: &Value) -> Spans {
        let at = value.span().map(|span| At::byte(file, span.start));
        let at = at.or(key).unwrap_or(At::file(file));
        let key = key.unwrap_or(at);
        match value {
            Value::Array(array) => Spans { key, value: at, within: Some(Self::of_array(file, array)) },
            Value::InlineTable(table) => Spans { key, ..Self::of_table(file, at, table) },
            _ => Spans { key, value: at, within: None },
        }
    }

    fn of_array(file: u32, array: &Array) -> Box<Within> {
        Box::new(Within::Array(array.iter().map(|value| Self::of_value(file, None, value)).collect()))
    }

    fn of_tables(file: u32, key: At, tables: &ArrayOfTables) -> Spans {
        let element = |table: &toml_edit::Table| {
            let at = table.span().map_or(key, |span| At::byte(file, span.start));
            Self::of_table(file, at, table)
        };
        Spans { key, value: key, within: Some(Box::new(Within::Array(tables.iter().map(element).collect()))) }
    }
}
