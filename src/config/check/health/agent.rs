//! `[pool.NAME.health.agent]`

use std::time::Duration;

use super::dialogue::bytes;
use super::{INTERVAL, port};
use crate::config::check::node::Node;
use crate::config::check::{Check, keys};
use crate::config::model::{Agent, Secret};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// Reads whom to ask besides. Nothing without a port.
pub(super) fn read(node: &Node<'_>, check: &mut Check<'_>) -> Option<Agent> {
    let table = node.table(keys::HEALTH_AGENT, check.report);
    let interval = table.get("interval");
    let interval = interval.and_then(|node| node.duration_within(INTERVAL, "\"100ms\" to \"1h\"", check.report));
    let send = table.get("send").and_then(|node| bytes(&node, "text to send", check));
    let port_node = table.require("port", "a number from 1 to 65535", check.complete, check.report);
    Some(Agent {
        port: port(&port_node?, check)?,
        interval: interval.unwrap_or(DEFAULT_INTERVAL),
        send: Secret(send.unwrap_or_default().into()),
    })
}
