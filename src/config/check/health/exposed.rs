//! Passwords of probes that somebody else may get to see.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Word;
use crate::config::check::Check;
use crate::config::check::node::{Node, Table};
use crate::config::model::{Address, Endpoint, OutgoingTls, Trust};
use crate::config::report::quote;

/// The bit of a file's mode by which everybody may read it.
const READ_BY_OTHERS: u32 = 0o004;

/// Warns where the password goes over a network in clear, or to whoever answers. `own` are the endpoints that are written
/// in the configuration, `address` is where they are probed instead.
pub(super) fn on_the_way(
    table: &Table<'_>,
    word: Option<Word>,
    tls: Option<&OutgoingTls>,
    (own, address): (&[Endpoint], Option<IpAddr>),
    check: &mut Check<'_>,
) {
    let Some(node) = table.get("password_file") else { return };
    let leaves = match address {
        Some(address) => !address.is_loopback(),
        None => own.iter().any(|endpoint| match &endpoint.address {
            Address::Ip(at) => !at.ip().is_loopback(),
            Address::Unix(_) => false,
            Address::Host { .. } | Address::Srv(_) => true,
        }),
    };
    let message = match tls {
        // The others do not send the password itself in clear.
        None if word == Some(Word::Redis) => "without tls the password goes over the network in clear",
        Some(tls) if matches!(tls.trust, Trust::Anybody) && tls.pins.is_empty() => {
            "with verify = false and no pins the password may go to anybody who answers in the endpoint's place"
        }
        _ => return,
    };
    if leaves {
        check.report.warn(node.key_at, node.path(), message);
    }
}

/// Warns where everybody on the machine may read the file.
pub(super) fn in_file(node: &Node<'_>, path: &Path, check: &mut Check<'_>) {
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & READ_BY_OTHERS != 0) {
        let message = format!("everybody on this machine may read {}", quote(&path.display().to_string()));
        check.report.warn(node.at, node.path(), message);
    }
}
