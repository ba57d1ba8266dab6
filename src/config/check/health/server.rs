//! What the tables of all probes of database servers have in common: who logs in, what is asked, and what the server has to
//! be.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::dialogue::bytes;
use super::{Word, exposed};
use crate::config::check::Check;
use crate::config::check::node::{Node, Table};
use crate::config::model::{Login, Role, SecretFile};
use crate::config::value::{Refused, is_absolute};
use crate::health::secret;

const LAG: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const LAG_BYTES: RangeInclusive<u64> = 1..=1 << 40;
/// The longest name of a user or a database, in bytes.
const LONGEST_NAME: usize = 128;
const PASSWORD_FILE: &str =
    "the absolute path of a file, or \"credential:\" and the name of a credential of the service";

/// What was written of it.
#[derive(Default)]
pub(super) struct Server {
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretFile>,
    pub(super) database: Option<String>,
    pub(super) query: Option<String>,
    pub(super) role: Option<Role>,
    pub(super) max_lag: Option<Duration>,
    /// The same in bytes, where Patroni is asked.
    pub(super) max_lag_bytes: Option<u64>,
    pub(super) value: Option<String>,
}

impl Server {
    /// Who logs in where that takes a user.
    pub(super) fn login(&self) -> Option<Login> {
        Some(Login { user: self.user.clone()?, password: self.password.clone() })
    }
}

/// Reads what `word` may have of it; what it may not have is refused elsewhere.
pub(super) fn read(table: &Table<'_>, word: Option<Word>, check: &mut Check<'_>) -> Server {
    let role = table.get("role").and_then(|node| {
        let roles = [("any", None), ("primary", Some(Role::Primary)), ("replica", Some(Role::Replica))];
        node.choice(&roles, check.report)
    });
    let role = role.flatten();
    let max_lag = table.get("max_lag");
    if let (Some(node), Some(Role::Primary)) = (&max_lag, role) {
        check.report.add(node.key_at, node.path(), "a primary is behind nobody");
    }
    let (mut max_lag_bytes, mut max_lag_time) = (None, None);
    match max_lag {
        Some(node) if word == Some(Word::Patroni) => {
            max_lag_bytes = node.size(LAG_BYTES, "1 byte to \"1024GiB\"", check.report);
        }
        Some(node) => max_lag_time = node.duration_within(LAG, "\"100ms\" to \"1d\"", check.report),
        None => {}
    }
    let user = table.get("user").and_then(|node| name(&node, "the name of a user", check));
    let password = table.get("password_file").and_then(|node| password(&node, check));
    let database = table.get("database").and_then(|node| name(&node, "the name of a database", check));
    let query = table.get("query").and_then(|node| query(&node, check));
    let value = table.get("value").and_then(|node| text(&node, "what the query has to give", check));
    if let (Some(node), None) = (table.get("value"), table.get("query")) {
        check.report.add(node.key_at, node.path(), "without a query there is no value").expected("query besides");
    }
    if word == Some(Word::Postgres) {
        without_user(table, role, check);
    }
    Server { user, password, database, query, role, max_lag: max_lag_time, max_lag_bytes, value }
}

/// Refuses what takes a login where there is no user.
fn without_user(table: &Table<'_>, role: Option<Role>, check: &mut Check<'_>) {
    if table.get("user").is_some() {
        return;
    }
    let role = table.get("role").filter(|_| role.is_some());
    let others = ["max_lag", "password_file", "database", "query"].into_iter().filter_map(|key| table.get(key));
    for node in role.into_iter().chain(others) {
        check.report.add(node.key_at, node.path(), "without a user nobody logs in").expected("user besides");
    }
}

pub(super) fn name(node: &Node<'_>, expected: &str, check: &mut Check<'_>) -> Option<String> {
    node.parse(expected, check.report, |text| match text.len() {
        1..=LONGEST_NAME if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(Refused::misread(text, "cannot be a name")),
    })
}

pub(super) fn password(node: &Node<'_>, check: &mut Check<'_>) -> Option<SecretFile> {
    let file = node.parse(PASSWORD_FILE, check.report, |text| match text.strip_prefix("credential:") {
        Some(name) if !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']) => {
            Ok(SecretFile::Credential(name.to_owned()))
        }
        Some(_) => Err(Refused::misread(text, "does not name a credential")),
        None if is_absolute(text) => Ok(SecretFile::Path(PathBuf::from(text))),
        None => Err(Refused::misread(text, "is not an absolute path")),
    })?;
    // Credentials are there only where the service runs, which does not start without them.
    if check.with_files
        && let SecretFile::Path(path) = &file
    {
        match secret::read(&file) {
            Ok(_) => exposed::in_file(node, path, check),
            Err(error) => {
                check.report.add(node.at, node.path(), error.to_string());
            }
        }
    }
    Some(file)
}

fn query(node: &Node<'_>, check: &mut Check<'_>) -> Option<String> {
    let query = text(node, "a query", check)?;
    if query.trim().is_empty() {
        check.report.add(node.at, node.path(), "an empty query asks nothing");
        return None;
    }
    Some(query)
}

/// The value as text of a bounded length that has an end only where it ends.
fn text(node: &Node<'_>, expected: &str, check: &mut Check<'_>) -> Option<String> {
    let text = String::from_utf8(bytes(node, expected, check)?).ok()?;
    if text.contains('\0') {
        check.report.add(node.at, node.path(), "no text in the protocol can have a zero byte in it");
        return None;
    }
    Some(text)
}
