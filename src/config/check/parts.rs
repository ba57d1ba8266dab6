//! Routes by role: which part of a pool they lead to, and the pools that come of it.

use std::collections::HashMap;

use super::node::Table;
use super::{Check, pools, routes, useless};
use crate::config::model::{NoEndpoint, Part, Pool, Role, Route};
use crate::config::report::{At, quote};

/// Which part of its pool a route leads to, and where that is written. Nothing: to the pool as it is.
pub(super) fn of_route(route: &Table<'_>, check: &mut Check<'_>) -> (Option<Part>, Option<At>) {
    let role = route.get("role");
    let read = role
        .as_ref()
        .and_then(|node| node.choice(&[("primary", Part::Primary), ("replica", Part::Replica)], check.report));
    let fallback = route.get("fallback");
    if let Some(node) = fallback.as_ref().filter(|_| role.is_none() || read == Some(Part::Primary)) {
        let message = "only a route to replicas has something to fall back on";
        check.report.add(node.key_at, node.path(), message).expected("role = \"replica\" besides");
    }
    let falls_back = fallback.and_then(|node| node.choice(&[("primary", ())], check.report)).is_some();
    let part = read.map(|part| if falls_back && part == Part::Replica { Part::ReplicaOrPrimary } else { part });
    (part, role.map(|node| node.key_at))
}

/// Checks that the pools of routes by role know roles, and that what is written of a role has an effect.
pub(super) fn check(pools: &[pools::Read], routes: &[routes::Read], check: &mut Check<'_>) {
    let mut used: Vec<Vec<Option<Part>>> = pools.iter().map(|_| Vec::new()).collect();
    // A role or a pool that could not be read may be any.
    let mut all_read = check.complete;
    for route in routes {
        all_read &= route.pool.is_some() && (route.part.is_some() || route.role_at.is_none());
        let Some((parts, pool)) = route.pool.and_then(|index| Some((used.get_mut(index)?, pools.get(index)?))) else {
            continue;
        };
        if !parts.contains(&route.part) {
            parts.push(route.part);
        }
        if let Some(at) = route.role_at {
            knows_roles(route, at, pool, check);
        }
    }
    for (pool, parts) in pools.iter().zip(used).filter(|_| all_read) {
        let says = |part: Part| parts.contains(&Some(part));
        let is_for_primary = says(Part::Primary) || pool.model.role() == Some(Role::Primary);
        if let Some(at) = pool.single_writer.filter(|_| !is_for_primary && pool.health_known) {
            let message = "no route leads to the primary of this pool";
            let found = check.report.add(at, format!("{}.single_writer", pool.path), message);
            found.expected("role = \"primary\" of a route, or of the health table");
        }
        if let Some((at, path, why)) = pool.without_fallback.clone().filter(|_| !says(Part::ReplicaOrPrimary)) {
            check.report.add(at, path, why);
        }
        if let Some(at) = pool.panic_percent.filter(|_| parts == [Some(Part::Primary)]) {
            check.report.add(at, format!("{}.panic_percent", pool.path), useless::ONE_PRIMARY);
        }
    }
}

/// Refuses a route by role to a pool whose probes do not tell roles, or that has one role already.
fn knows_roles(route: &routes::Read, at: At, pool: &pools::Read, check: &mut Check<'_>) {
    if !pool.health_known {
        return;
    }
    let (path, name) = (format!("{}.role", route.path), quote(&pool.model.name));
    let dialogue = pool.model.health.as_ref().and_then(|health| health.dialogue.as_ref());
    match pool.health {
        Some((_, Some(own))) if pool.model.role().is_some() => {
            let message = format!("the pool {name} has a role for all of its routes");
            check.report.add(at, path, message).also(own).expected("the role here, or in the health table");
        }
        health if dialogue.is_none_or(|dialogue| !dialogue.probe.tells_role()) => {
            let message = format!("nothing tells which endpoint of the pool {name} is the primary");
            let found = check.report.add(at, path, message).also(health.map_or(pool.at, |(at, _)| at));
            found.expected("probe = \"postgres\" or \"mysql\" with a user, \"redis\" or \"patroni\"");
        }
        _ => {}
    }
}

/// The pools at work, and the routes that lead to them.
pub(super) fn resolve(pools: Vec<pools::Read>, routes: Vec<routes::Read>) -> (Vec<Pool>, Vec<Route>) {
    let mut used: Vec<Vec<Option<Part>>> = pools.iter().map(|_| Vec::new()).collect();
    for route in &routes {
        if let Some(parts) = route.pool.and_then(|pool| used.get_mut(pool))
            && !parts.contains(&route.part)
        {
            parts.push(route.part);
        }
    }
    let (mut at_work, mut index_of) = (Vec::new(), HashMap::new());
    for (index, (read, mut parts)) in pools.into_iter().zip(used).enumerate() {
        parts.sort_unstable();
        for part in parts {
            index_of.insert((index, part), at_work.len());
            let mut pool = part.map_or_else(|| read.model.clone(), |part| read.model.part(part));
            pool.single_writer &= pool.role() == Some(Role::Primary);
            if let (Some(hold), true) = (read.hold, pool.single_writer) {
                pool.shortage.no_endpoint = NoEndpoint::Hold(hold);
            }
            at_work.push(pool);
        }
    }
    let pool_of = |route: &routes::Read| route.pool.and_then(|pool| index_of.get(&(pool, route.part)).copied());
    let routes = routes.into_iter().filter_map(|route| {
        let pool = pool_of(&route);
        route.resolved(pool)
    });
    let routes = routes.collect();
    (at_work, routes)
}
