//! What a table has where servers of MySQL are probed: a user, who is not optional there, and what only they have.

use std::path::PathBuf;

use super::server::Server;
use crate::config::check::Check;
use crate::config::check::node::{Node, Table};
use crate::config::model::{Login, MysqlProbe};
use crate::config::value::{Refused, is_absolute};
use crate::health::server_key;

const KEY: &str = "the absolute path of a file with the server's public key";

/// Reads it.
pub(super) fn read(table: &Table<'_>, server: &Server, check: &mut Check<'_>) -> MysqlProbe {
    // A connection that ends before a login counts against our address at the server.
    table.require("user", "the name of a user: a server is probed by a login", check.complete, check.report);
    let galera = table.get("galera").and_then(|node| node.truth(check.report)).unwrap_or_default();
    let key = table.get("server_key_file");
    let server_key = key.as_ref().and_then(|node| file(node, check));
    if let (Some(key), Some(_)) = (&key, table.get("tls")) {
        check.report.add(key.key_at, key.path(), "in TLS no password is encrypted with the server's key");
    }
    MysqlProbe {
        login: server.login().unwrap_or(Login { user: String::new(), password: None }),
        database: server.database.clone(),
        asks_lag: server.max_lag.is_some(),
        query: server.query.clone(),
        galera,
        server_key,
    }
}

fn file(node: &Node<'_>, check: &mut Check<'_>) -> Option<PathBuf> {
    let file = node.parse(KEY, check.report, |text| match is_absolute(text) {
        true => Ok(PathBuf::from(text)),
        false => Err(Refused::misread(text, "is not an absolute path")),
    })?;
    if check.with_files
        && let Err(error) = server_key::read(&file)
    {
        check.report.add(node.at, node.path(), error.to_string());
    }
    Some(file)
}
