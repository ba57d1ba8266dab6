//! A JSON file as written: its values and the place of each of them, as [`super::file`] has them of TOML.
//!
//! A value is read one level at a time, because only an unread piece of the text still tells where it stands.

use std::fmt;
use std::path::Path;

use figment::value::{Dict, Empty, Tag, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::file::{self, File};
use super::report::{At, Report, quote};
use super::spans::Spans;

/// Lists and tables within one another that are read. Nothing that is known is nested deeper.
const DEEPEST: usize = 8;

/// Parses `bytes` as the file at `path`. A list instead of a table counts as the value of `list`. What is wrong is
/// reported.
pub(super) fn parse(path: &Path, bytes: Vec<u8>, list: &str, report: &mut Report) -> Option<File> {
    let text = file::text(path, bytes, report)?;
    let reader = Reader { text: &text, file: report.next_file() };
    let read = match serde_json::from_str::<&RawValue>(&text) {
        Ok(raw) => reader.value(raw, DEEPEST),
        Err(error) => Err(reader.syntax(&error)),
    };
    let number = report.file(path.to_owned(), text);
    let (values, spans) = match read {
        Ok((Value::Dict(_, values), spans)) => (values, spans),
        Ok((elements @ Value::Array(..), spans)) => {
            let mut table = Spans::table(spans.value);
            table.set(list, spans);
            (Dict::from([(list.to_owned(), elements)]), table)
        }
        Ok((_, spans)) => {
            report.add(spans.value, "", "neither a list nor a table").expected(format!("a list of {list}"));
            return None;
        }
        Err((at, message)) => {
            report.add(at, "", message);
            return None;
        }
    };
    Some(File { at: At::file(number), values, spans })
}

/// What is wrong, and where.
type Wrong = (At, String);

struct Reader<'t> {
    text: &'t str,
    file: u32,
}

impl<'t> Reader<'t> {
    /// A value with its places, in which at most `depth` lists and tables are within one another.
    fn value(&self, raw: &'t RawValue, depth: usize) -> Result<(Value, Spans), Wrong> {
        let at = self.at(raw.get());
        let wrong = |error: serde_json::Error| (at, format!("not JSON: {error}"));
        let deeper = || depth.checked_sub(1).ok_or_else(|| (at, "nested too deeply".to_owned()));
        let value = match raw.get().as_bytes().first() {
            Some(b'{') => return self.table(at, serde_json::from_str(raw.get()).map_err(wrong)?, deeper()?),
            Some(b'[') => return self.list(at, serde_json::from_str(raw.get()).map_err(wrong)?, deeper()?),
            Some(b'"') => Value::String(Tag::Default, serde_json::from_str(raw.get()).map_err(wrong)?),
            Some(b't') => Value::from(true),
            Some(b'f') => Value::from(false),
            Some(b'n') => Value::Empty(Tag::Default, Empty::None),
            _ => match raw.get().parse::<i64>() {
                Ok(number) => Value::from(number),
                Err(_) => Value::from(raw.get().parse::<f64>().unwrap_or(f64::NAN)),
            },
        };
        Ok((value, Spans::plain(at)))
    }

    fn table(&self, at: At, pairs: Pairs<'t>, depth: usize) -> Result<(Value, Spans), Wrong> {
        let (mut dict, mut places) = (Dict::new(), Spans::table(at));
        for (key, raw) in pairs.0 {
            let (value, spans) = self.value(raw, depth)?;
            if dict.contains_key(&key) {
                return Err((spans.value, format!("the key {} is set twice", quote(&key))));
            }
            places.set(&key, spans);
            dict.insert(key, value);
        }
        Ok((Value::Dict(Tag::Default, dict), places))
    }

    fn list(&self, at: At, elements: Vec<&'t RawValue>, depth: usize) -> Result<(Value, Spans), Wrong> {
        let read: Result<Vec<_>, Wrong> = elements.into_iter().map(|element| self.value(element, depth)).collect();
        let (values, spans): (Vec<Value>, Vec<Spans>) = read?.into_iter().unzip();
        Ok((Value::Array(Tag::Default, values), Spans::list(at, spans)))
    }

    /// The place of a piece of the text.
    fn at(&self, piece: &str) -> At {
        At::byte(self.file, piece.as_ptr().addr().saturating_sub(self.text.as_ptr().addr()))
    }

    /// What the parser says of the whole text; its lines and columns count from 1, the columns in bytes.
    fn syntax(&self, error: &serde_json::Error) -> Wrong {
        let before: usize = self.text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let said = error.to_string();
        let message = said.split(" at line ").next().unwrap_or(&said);
        (At::byte(self.file, before + error.column().saturating_sub(1)), format!("not JSON: {message}"))
    }
}

/// The keys of a table with what is written behind them, in their order and as often as they are written.
struct Pairs<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Deserialize<'t> for Pairs<'t> {
    fn deserialize<D: Deserializer<'t>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'t> Visitor<'t> for Read {
            type Value = Pairs<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<M: MapAccess<'t>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(Read)
    }
}
