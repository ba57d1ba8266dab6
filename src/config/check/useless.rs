//! Keys of a pool that can have no effect beside the others: whoever wrote them meant something that will not happen.

use super::Check;
use super::node::Table;
use crate::config::model::{Address, Leave, Pool, Role};
use crate::config::report::At;

/// A key that says nothing, its path, and why.
pub(super) type Useless = (At, String, &'static str);

/// Reports the keys of `table` that say nothing in `pool`; `known` is whether its endpoints are all those that are written.
/// Gives the one that says nothing unless routes fall back on the primary.
pub(super) fn report(table: &Table<'_>, pool: &Pool, known: bool, check: &mut Check<'_>) -> Option<Useless> {
    let sessions = table.get("sessions").filter(|node| node.is_table()).map(|node| node.any_table(check.report));
    let in_sessions = |key| sessions.as_ref().and_then(|table| table.get(key));
    let rules = &pool.sessions;
    let one_rank = known && !pool.endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Srv(_))) && {
        let first = pool.endpoints.first().map(|endpoint| endpoint.priority);
        pool.endpoints.iter().all(|endpoint| Some(endpoint.priority) == first)
    };
    let unlimited = pool.max_connections_per_endpoint.is_none()
        && pool.endpoints.iter().all(|endpoint| endpoint.max_connections.is_none());
    let leaves = [rules.on_down, rules.on_demotion, rules.on_drain, rules.on_removal, rules.on_recovery];
    let kept = |rule: Leave| rule == Leave::Keep;
    let cases = [
        (table.get("failback"), one_rank, "all endpoints have the same priority, so there is nothing to fail back to"),
        (
            in_sessions("on_demotion"),
            pool.health.is_none() && !kept(rules.on_demotion),
            "without a health table nobody asks an endpoint whether it should serve",
        ),
        (in_sessions("deadline"), !leaves.contains(&Leave::Deadline), "no rule of this pool is \"deadline\""),
        (table.get("queue"), known && unlimited, "no endpoint has max_connections, so none is ever full"),
        (
            table.get("panic_percent"),
            pool.panic_percent.is_some() && pool.health.is_none() && pool.outliers.is_none(),
            "without a health table and outliers every endpoint is fit",
        ),
        (table.get("panic_percent"), pool.panic_percent.is_some() && pool.role() == Some(Role::Primary), ONE_PRIMARY),
    ];
    for (node, useless, why) in cases {
        if let Some(node) = node.filter(|_| useless) {
            check.report.add(node.key_at, node.path(), why);
        }
    }
    let recovers = in_sessions("on_recovery").filter(|_| one_rank && !kept(rules.on_recovery));
    recovers
        .map(|node| (node.key_at, node.path(), "all endpoints have the same priority, so none stands in for others"))
}

/// Why a share of endpoints says nothing of a primary.
pub(super) const ONE_PRIMARY: &str = "one endpoint is the primary, so that a share of them says nothing";
