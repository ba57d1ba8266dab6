//! Settings from the environment: `POINTSMAN__RUNTIME__WORKERS` overrides `runtime.workers`.
//!
//! Only the plain values of [`SECTIONS`] can be set; everything else is ignored, so that variables which somebody
//! injects (a container runtime, a CI system) cannot stop a start.

use std::collections::BTreeMap;
use std::ffi::OsString;

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::keys;
use super::report::{At, Report};
use super::spans::Spans;

/// Tables that the environment may set.
const SECTIONS: [(&str, &[&str]); 4] =
    [("runtime", keys::RUNTIME), ("log", keys::LOG), ("admin", keys::ADMIN), ("timeouts", keys::TIMEOUTS)];

/// The variables that set something.
pub(super) struct Environment {
    taken: BTreeMap<String, Variable>,
}

struct Variable {
    section: &'static str,
    key: &'static str,
    /// As text: what it has to be is the check's business. `None` if it is not UTF-8.
    value: Option<String>,
}

impl Environment {
    /// Those of `variables` that set something.
    pub(super) fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let mut known = BTreeMap::new();
        for (section, keys) in SECTIONS {
            for &key in keys {
                let name = format!("POINTSMAN__{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase());
                known.insert(name, (section, key));
            }
        }
        let take = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok()?;
            let &(section, key) = known.get(&name)?;
            Some((name, Variable { section, key, value: value.into_string().ok() }))
        };
        Environment { taken: variables.into_iter().filter_map(take).collect() }
    }

    /// Names of the variables, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.taken.keys().cloned().collect()
    }

    /// Sets the places of what the variables override.
    pub(super) fn mark(&self, spans: &mut Spans, report: &mut Report) {
        for (name, variable) in &self.taken {
            let at = At::variable(report.variable(name));
            match spans.table_mut(variable.section, at) {
                Some(section) if variable.value.is_some() => section.set(variable.key, Spans::plain(at)),
                Some(_) => {
                    report.add(at, format!("{}.{}", variable.section, variable.key), "the value is not UTF-8");
                }
                // Not a table in the files: the check will find the place still set by the file and say so.
                None => {}
            }
        }
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut sections: BTreeMap<&str, Dict> = BTreeMap::new();
        for variable in self.taken.values() {
            if let Some(value) = &variable.value {
                let section = sections.entry(variable.section).or_default();
                section.insert(variable.key.to_owned(), Value::from(value.as_str()));
            }
        }
        let sections = sections.into_iter().map(|(name, keys)| (name.to_owned(), Value::from(keys))).collect();
        Ok(Map::from([(Profile::Default, sections)]))
    }
}
