//! What is said of routes by role, and what comes of them.

use insta::assert_snapshot;

use super::{each, parse};
use crate::config::model::{NoEndpoint, Part, Role};

/// The listeners of some routes and a pool that knows roles, to which a case adds routes, and keys of the pool.
fn with(routes: &str, keys: &str) -> String {
    with_health(routes, keys, "health = { probe = 'postgres', user = 'probe' }")
}

fn with_health(routes: &str, keys: &str, health: &str) -> String {
    let listeners = [("w", 1), ("r", 2)].map(|(name, port)| match routes.contains(&format!("'{name}'")) {
        true => format!("listener.{name} = {{ bind = '0.0.0.0:{port}', protocol = 'tcp' }}"),
        false => String::new(),
    });
    let listeners = listeners.join("\n");
    format!("{listeners}\n{routes}\n[pool.pg]\nendpoints = '10.0.0.1:1'\n{keys}\n{health}\n")
}

const WRITE: &str = "route.w = { listener = 'w', pool = 'pg', role = 'primary' }";
const READ: &str = "route.r = { listener = 'r', pool = 'pg', role = 'replica' }";
const FALLS_BACK: &str = "route.r = { listener = 'r', pool = 'pg', role = 'replica', fallback = 'primary' }";

#[test]
fn routes_by_role() {
    let both = format!("{WRITE}\n{READ}");
    let falls_back = format!("{WRITE}\n{FALLS_BACK}");
    let any = "route.r = { listener = 'r', pool = 'pg' }";
    let cases = [
        ("both", with(&both, "single_writer = true\nhold = '5s'")),
        ("with a fallback", with(&falls_back, "sessions.on_recovery = 'close'\npanic_percent = 50")),
        ("one role and all", with(&format!("{WRITE}\n{any}"), "")),
        ("another role", with(&WRITE.replace("'primary'", "'leader'"), "")),
        ("another fallback", with(&FALLS_BACK.replace("'primary'", "'replica'"), "")),
        ("nothing to fall back from", with(&WRITE.replace(" }", ", fallback = 'primary' }"), "")),
        ("a fallback without a role", with(&any.replace(" }", ", fallback = 'primary' }"), "")),
        ("no probe", with_health(&both, "", "")),
        ("a probe that does not tell", with_health(WRITE, "", "health.probe = 'tcp'")),
        ("nobody logs in", with_health(WRITE, "", "health.probe = 'postgres'")),
        ("only an agent", with_health(WRITE, "", "health.agent.port = 9")),
        ("a role twice", with_health(WRITE, "", "health = { probe = 'postgres', user = 'p', role = 'primary' }")),
        ("any role", with_health(WRITE, "", "health = { probe = 'postgres', user = 'p', role = 'any' }")),
        ("a single writer of replicas", with(READ, "single_writer = true")),
        ("a single writer of anything", with(any, "single_writer = true")),
        (
            "a single writer by the health table",
            with_health(
                any,
                "single_writer = true\nhold = '5s'",
                "health = { probe = 'postgres', user = 'p', role = 'primary' }",
            ),
        ),
        ("not a single writer", with(any, "single_writer = false")),
        ("nobody waits for a writer", with(&both, "hold = '5s'")),
        ("nor where it is said", with(&both, "single_writer = true\nno_endpoint = 'close'\nhold = '5s'")),
        ("nobody to recover", with(&both, "sessions.on_recovery = 'close'")),
        ("a share of one", with(WRITE, "panic_percent = 50")),
        (
            "a share of one by the health table",
            with_health(any, "panic_percent = 50", "health = { probe = 'postgres', user = 'p', role = 'primary' }"),
        ),
        (
            "one listener for two parts",
            with(&both.replace("'r'", "'w', from = '10.0.0.0/8'"), "no_endpoint = 'refuse'"),
        ),
        ("a listener a part", with(&both, "no_endpoint = 'refuse'")),
    ];
    assert_snapshot!(each(&cases, str::to_owned), @r#"
    both
      fine
    with a fallback
      fine
    one role and all
      fine
    another role
      main.toml:3:49: route.w.role: "leader" is not known; expected one of "primary", "replica"
    another fallback
      main.toml:3:71: route.r.fallback: "replica" is not known; expected one of "primary"
    nothing to fall back from
      main.toml:3:60: route.w.fallback: only a route to replicas has something to fall back on; expected role = "replica" besides
    a fallback without a role
      main.toml:3:42: route.r.fallback: only a route to replicas has something to fall back on; expected role = "replica" besides
    no probe
      main.toml:3:42: route.w.role: nothing tells which endpoint of the pool "pg" is the primary; expected probe = "postgres" or "mysql" with a user, "redis" or "patroni" (see main.toml:5:7)
      main.toml:4:42: route.r.role: nothing tells which endpoint of the pool "pg" is the primary; expected probe = "postgres" or "mysql" with a user, "redis" or "patroni" (see main.toml:5:7)
    a probe that does not tell
      main.toml:3:42: route.w.role: nothing tells which endpoint of the pool "pg" is the primary; expected probe = "postgres" or "mysql" with a user, "redis" or "patroni" (see main.toml:7:1)
    nobody logs in
      main.toml:3:42: route.w.role: nothing tells which endpoint of the pool "pg" is the primary; expected probe = "postgres" or "mysql" with a user, "redis" or "patroni" (see main.toml:7:1)
    only an agent
      main.toml:3:42: route.w.role: nothing tells which endpoint of the pool "pg" is the primary; expected probe = "postgres" or "mysql" with a user, "redis" or "patroni" (see main.toml:7:1)
    a role twice
      main.toml:3:42: route.w.role: the pool "pg" has a role for all of its routes; expected the role here, or in the health table (see main.toml:7:44)
    any role
      fine
    a single writer of replicas
      main.toml:6:1: pool.pg.single_writer: no route leads to the primary of this pool; expected role = "primary" of a route, or of the health table
    a single writer of anything
      main.toml:6:1: pool.pg.single_writer: no route leads to the primary of this pool; expected role = "primary" of a route, or of the health table
    a single writer by the health table
      fine
    not a single writer
      fine
    nobody waits for a writer
      main.toml:7:1: pool.pg.hold: only no_endpoint = "hold" lets clients wait
    nor where it is said
      main.toml:9:1: pool.pg.hold: only no_endpoint = "hold" lets clients wait
    nobody to recover
      main.toml:7:10: pool.pg.sessions.on_recovery: all endpoints have the same priority, so none stands in for others
    a share of one
      main.toml:6:1: pool.pg.panic_percent: one endpoint is the primary, so that a share of them says nothing
    a share of one by the health table
      main.toml:6:1: pool.pg.panic_percent: one endpoint is the primary, so that a share of them says nothing
    one listener for two parts
      main.toml:7:15: pool.pg.no_endpoint: listener "w" would refuse clients of route.r too, which lead elsewhere; expected a listener whose routes all lead to this pool
    a listener a part
      fine
    "#);
}

#[test]
fn a_pool_is_split_by_the_roles_that_are_used() {
    let more = "route.x = { listener = 'r', pool = 'pg', role = 'replica', from = '10.0.0.0/8' }\n\
                route.y = { listener = 'r', pool = 'pg', from = '10.1.0.0/16' }\n\
                route.z = { listener = 'w', pool = 'pg', role = 'primary', from = '10.0.0.0/8' }";
    let text = with(&format!("{WRITE}\n{FALLS_BACK}\n{more}"), "single_writer = true\nhold = '5s'");
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}")).config;
    let told: Vec<_> = config.pools.iter().map(|pool| (pool.name.as_str(), pool.part, pool.role())).collect();
    assert_eq!(
        told,
        [
            ("pg", None, None),
            ("pg/primary", Some(Part::Primary), Some(Role::Primary)),
            ("pg/replica", Some(Part::Replica), Some(Role::Replica)),
            ("pg/replica-or-primary", Some(Part::ReplicaOrPrimary), None),
        ]
    );
    let leads: Vec<_> = config.routes.iter().map(|route| (route.name.as_str(), route.pool)).collect();
    assert_eq!(leads, [("w", 1), ("r", 3), ("x", 2), ("y", 0), ("z", 1)]);
    let holds = |pool: &&str| config.pools.iter().any(|known| known.name == **pool && known.single_writer);
    assert_eq!(told.iter().map(|(name, ..)| *name).filter(holds).collect::<Vec<_>>(), ["pg/primary"]);
    let waits: Vec<_> = config.pools.iter().map(|pool| pool.shortage.no_endpoint).collect();
    let [close, hold] = [NoEndpoint::Close, NoEndpoint::Hold(std::time::Duration::from_secs(5))];
    assert_eq!(waits, [close, hold, close, close]);
    assert_eq!(config.written_pools().count(), 1);
    let dialogue = |index: usize| config.pools[index].health.as_ref().unwrap().dialogue.clone().unwrap();
    assert!((1..4).all(|index| std::sync::Arc::ptr_eq(&dialogue(0), &dialogue(index))), "all ask the same");
}
