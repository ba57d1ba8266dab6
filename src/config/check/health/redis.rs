//! What only the Redis probe asks: fields of INFO, and Sentinels.

use std::net::SocketAddr;
use std::time::Duration;

use super::dialogue::bytes;
use super::server::{self, Server};
use crate::config::address;
use crate::config::check::Check;
use crate::config::check::node::{Node, Table};
use crate::config::model::{Address, Endpoint, RedisProbe, Sentinels};
use crate::config::report::quote;
use crate::config::value::Refused;

/// The most fields of INFO, and the most Sentinels, that a probe goes by.
const MOST_FIELDS: usize = 32;
const MOST_SENTINELS: usize = 16;
/// The longest name of a field or a master, in bytes.
const LONGEST_NAME: usize = 128;
/// `repl-ping-replica-period` as servers have it if nobody says otherwise, and the second that a replica rounds off.
const SIGN_OF_LIFE: Duration = Duration::from_secs(11);

const SENTINEL: &str = "the address of a Sentinel, such as \"10.0.0.1:26379\" or \"[2001:db8::1]:26379\"";
const MASTER: &str = "what Sentinels call the master: letters, digits, dots, hyphens and underscores";

/// The keys of Sentinels.
const SENTINEL_KEYS: [&str; 4] = ["master_name", "sentinels", "sentinel_user", "sentinel_password_file"];

/// Reads what is asked of the endpoints `own`, which are those that the configuration names.
pub(super) fn read(table: &Table<'_>, server: &Server, own: &[Endpoint], check: &mut Check<'_>) -> RedisProbe {
    if let (Some(node), None) = (table.get("user"), table.get("password_file")) {
        check.report.add(node.key_at, node.path(), "a user without a password cannot log in").expected("password_file");
    }
    if let (Some(node), Some(most)) = (table.get("max_lag"), server.max_lag)
        && most < SIGN_OF_LIFE
    {
        let message = "replicas hear of a master that has nothing new only every 10s, unless repl-ping-replica-period \
                       is shorter; until then they count as behind";
        check.report.warn(node.at, node.path(), message);
    }
    RedisProbe {
        user: server.user.clone(),
        password: server.password.clone(),
        asks_lag: server.max_lag.is_some(),
        info: table.get("info").map(|node| info(&node, check)).unwrap_or_default(),
        sentinels: sentinels(table, own, check),
    }
}

fn info(node: &Node<'_>, check: &mut Check<'_>) -> Vec<(String, String)> {
    let entries = node.any_table(check.report).entries();
    if node.is_table() && entries.is_empty() {
        check.report.add(node.at, node.path(), "no field would be looked at");
    }
    if entries.len() > MOST_FIELDS {
        check.report.add(node.at, node.path(), format!("{} fields are more than {MOST_FIELDS}", entries.len()));
    }
    let mut fields = Vec::new();
    for (field, node) in entries {
        let is_field = field.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if field.is_empty() || field.len() > LONGEST_NAME || !is_field {
            check.report.add(node.key_at, node.path(), format!("{} cannot be a field of INFO", quote(field)));
            continue;
        }
        let value =
            bytes(&node, "text that the field has as its value", check).and_then(|it| String::from_utf8(it).ok());
        let Some(value) = value else { continue };
        if value.contains(['\r', '\n']) {
            check.report.add(node.at, node.path(), "no field of INFO has more than one line");
        }
        fields.push((field.to_owned(), value));
    }
    fields
}

/// Nothing where none are written, or something is wrong with them.
fn sentinels(table: &Table<'_>, own: &[Endpoint], check: &mut Check<'_>) -> Option<Sentinels> {
    let written: Vec<Node<'_>> = SENTINEL_KEYS.iter().filter_map(|key| table.get(key)).collect();
    let first = written.first()?;
    let user = table.get("sentinel_user").and_then(|node| server::name(&node, "the name of a user", check));
    let password = table.get("sentinel_password_file").and_then(|node| server::password(&node, check));
    if let (Some(node), None) = (table.get("sentinel_user"), table.get("sentinel_password_file")) {
        let message = "a user without a password cannot log in";
        check.report.add(node.key_at, node.path(), message).expected("sentinel_password_file");
    }
    for key in ["address", "port"] {
        if let Some(node) = table.get(key) {
            let message = "Sentinels know endpoints by their own addresses, so that no other can be asked";
            check.report.add(node.key_at, node.path(), message);
        }
    }
    if let Some(endpoint) = own.iter().find(|endpoint| matches!(endpoint.address, Address::Unix(_))) {
        let message = format!("the endpoint {} is a unix socket, which no Sentinel names", quote(&endpoint.name));
        check.report.add(first.key_at, first.path(), message);
    }
    let master = table.require("master_name", MASTER, check.complete, check.report);
    let master = master.and_then(|node| node.parse(MASTER, check.report, master_name));
    let list = format!("a list, each {SENTINEL}");
    let at = table.require("sentinels", &list, check.complete, check.report).map(|node| addresses(&node, check));
    Some(Sentinels { at: at?, master: master?, user, password })
}

fn master_name(text: &str) -> Result<String, Refused> {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    match text.len() {
        1..=LONGEST_NAME if is_name => Ok(text.to_owned()),
        _ => Err(Refused::misread(text, "cannot be the name of a master")),
    }
}

fn addresses(node: &Node<'_>, check: &mut Check<'_>) -> Vec<SocketAddr> {
    let elements = node.list(SENTINEL, "nobody would be asked", check.report);
    if elements.len() > MOST_SENTINELS {
        check.report.add(node.at, node.path(), format!("{} Sentinels are more than {MOST_SENTINELS}", elements.len()));
    }
    let mut at: Vec<SocketAddr> = Vec::new();
    for element in elements {
        let Some(address) = element.parse(SENTINEL, check.report, address::socket) else { continue };
        if address.port() == 0 {
            check.report.add(element.at, element.path(), "nothing can connect to port 0").expected(SENTINEL);
        } else if at.contains(&address) {
            check.report.add(element.at, element.path(), format!("{address} would have two votes"));
        } else {
            at.push(address);
        }
    }
    at
}
