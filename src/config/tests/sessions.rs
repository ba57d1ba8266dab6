//! What is said of `[pool.NAME.sessions]`, and of what happens while nobody can be chosen.

use insta::assert_snapshot;

use super::replaced;

/// What is said of each case's keys in the pool of the good configuration.
fn pool(cases: &[(&str, &str)]) -> String {
    let cases: Vec<(&str, String)> =
        cases.iter().map(|(name, keys)| (*name, format!("endpoints = '10.0.0.1:443'\n{keys}"))).collect();
    replaced("endpoints = \"10.0.0.1:443\"", &cases)
}

#[test]
fn nobody_to_choose() {
    let cases = [
        ("hold", "no_endpoint = 'hold'\nhold = '30s'\nmax_waiting = 10\nqueue = 'off'"),
        ("another word", "no_endpoint = 'wait'"),
        ("hold without holding", "hold = '30s'"),
        ("too long", "no_endpoint = 'hold'\nhold = '1h'\nqueue = '1h'"),
        ("nobody may wait", "max_waiting = 0"),
        ("refuse", "no_endpoint = 'refuse'"),
        (
            "refuse with another pool",
            "no_endpoint = 'refuse'\n[pool.b]\nendpoints = '10.0.0.2:1'\n[route.b]\nlistener = 'edge'\npool = 'b'",
        ),
        (
            "refuse on a unix socket",
            "no_endpoint = 'refuse'\n[listener.u]\nbind = 'unix:/run/u.sock'\nprotocol = 'tcp'\n[route.u]\nlistener = 'u'\npool = 'web'",
        ),
        (
            "refuse on a free port",
            "no_endpoint = 'refuse'\n[listener.f]\nbind = '127.0.0.1:0'\nprotocol = 'tcp'\n[route.f]\nlistener = 'f'\npool = 'web'",
        ),
        ("failback", "failback = 'never'"),
        ("failback as a truth", "failback = false"),
        ("a limit to queue for", "max_connections_per_endpoint = 5\nqueue = '1s'"),
        ("panic without anybody who judges", "panic_percent = 50\noutliers.failures = 'off'"),
        ("slow start", "slow_start = '30s'"),
        ("slow start with a hash", "balance = 'maglev'\nslow_start = '30s'"),
        ("slow start too slow", "slow_start = '2h'"),
        ("panic", "panic_percent = 101"),
        ("connections", "max_connections_per_endpoint = 0"),
    ];
    assert_snapshot!(pool(&cases), @r#"
    hold
      main.toml:13:1: pool.web.queue: no endpoint has max_connections, so none is ever full
    another word
      main.toml:10:15: pool.web.no_endpoint: "wait" is not known; expected one of "close", "refuse", "hold"
    hold without holding
      main.toml:10:1: pool.web.hold: only no_endpoint = "hold" lets clients wait
    too long
      main.toml:11:8: pool.web.hold: 3600s is out of range; expected "100ms" to "10m"
      main.toml:12:9: pool.web.queue: 3600s is out of range; expected "100ms" to "10m", or "off"
    nobody may wait
      main.toml:10:15: pool.web.max_waiting: 0 is out of range; expected a number from 1 to 65536
    refuse
      fine
    refuse with another pool
      main.toml:10:15: pool.web.no_endpoint: listener "edge" would refuse clients of route.b too, which lead elsewhere; expected a listener whose routes all lead to this pool
    refuse on a unix socket
      main.toml:10:15: pool.web.no_endpoint: listener "u" listens on a unix socket, which cannot refuse for a while (see main.toml:12:8)
    refuse on a free port
      main.toml:10:15: pool.web.no_endpoint: listener "f" takes a free port, and would come back with another one (see main.toml:12:8)
    failback
      main.toml:10:1: pool.web.failback: all endpoints have the same priority, so there is nothing to fail back to
    failback as a truth
      main.toml:10:12: pool.web.failback: found false; expected one of "auto", "never"
    a limit to queue for
      fine
    panic without anybody who judges
      main.toml:10:1: pool.web.panic_percent: without a health table and outliers every endpoint is fit
    slow start
      fine
    slow start with a hash
      main.toml:11:1: pool.web.slow_start: with balance = "maglev" a share that grows would move clients from endpoint to endpoint
    slow start too slow
      main.toml:10:14: pool.web.slow_start: 7200s is out of range; expected "1s" to "1h", or "off"
    panic
      main.toml:10:17: pool.web.panic_percent: 101 is out of range; expected a number from 1 to 100, or "off"
    connections
      main.toml:10:32: pool.web.max_connections_per_endpoint: 0 is out of range; expected a number from 1 to 1000000000, or "off"
    "#);
}

#[test]
fn ranks_and_places() {
    let cases = [
        ("both", "{ address = '10.0.0.1:1', priority = 65535, max_connections = 1 }"),
        ("a rank too far", "{ address = '10.0.0.1:1', priority = 65536 }"),
        ("a ranked backup", "'10.0.0.2:1', { address = '10.0.0.1:1', priority = 1, backup = true }"),
        ("a ranked endpoint that is no backup", "{ address = '10.0.0.1:1', priority = 1, backup = false }"),
        ("no places", "{ address = '10.0.0.1:1', max_connections = 0 }"),
    ];
    let cases: Vec<(&str, String)> =
        cases.iter().map(|(name, endpoints)| (*name, format!("endpoints = [{endpoints}]"))).collect();
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    both
      fine
    a rank too far
      main.toml:9:51: pool.web.endpoints[0].priority: 65536 is out of range; expected a number from 0 to 65535
    a ranked backup
      main.toml:9:54: pool.web.endpoints[1].priority: a backup comes after every priority
    a ranked endpoint that is no backup
      fine
    no places
      main.toml:9:58: pool.web.endpoints[0].max_connections: 0 is out of range; expected a number from 1 to 1000000000
    "#);
}

#[test]
fn sessions() {
    let cases = [
        (
            "all",
            "sessions = { on_down = 'close', on_demotion = 'deadline', on_drain = 'close-when-idle', on_removal = 'keep', on_recovery = 'keep', idle = '1s', deadline = '1m', max_age = '1h', max_age_jitter = 0, max_age_per_minute = 1 }",
        ),
        ("another word", "sessions.on_down = 'kill'"),
        ("a slip", "sessions.on_donw = 'close'"),
        (
            "out of range",
            "sessions = { idle = '0s', deadline = '2d', max_age = '31d', max_age_jitter = 51, max_age_per_minute = 0 }",
        ),
        ("probed", "sessions.on_demotion = 'close'\nhealth.probe = 'tcp'"),
        ("nobody to recover", "sessions.on_recovery = 'close'"),
        ("no rule is a deadline", "sessions = { deadline = '5s', on_down = 'close' }"),
        ("jitter of nothing", "sessions = { max_age_jitter = 10, max_age_per_minute = 5 }"),
        ("jitter of off", "sessions = { max_age = 'off', max_age_jitter = 10 }"),
    ];
    assert_snapshot!(pool(&cases), @r#"
    all
      main.toml:10:33: pool.web.sessions.on_demotion: without a health table nobody asks an endpoint whether it should serve
    another word
      main.toml:10:20: pool.web.sessions.on_down: "kill" is not known; expected one of "keep", "close-when-idle", "deadline", "close"
    a slip
      main.toml:10:10: pool.web.sessions.on_donw: unknown key; did you mean on_down?
    out of range
      main.toml:10:21: pool.web.sessions.idle: 0ns is out of range; expected "1s" to "1h"
      main.toml:10:38: pool.web.sessions.deadline: 172800s is out of range; expected "1s" to "1d"
      main.toml:10:54: pool.web.sessions.max_age: 2678400s is out of range; expected "1s" to "30d", or "off"
      main.toml:10:78: pool.web.sessions.max_age_jitter: 51 is out of range; expected a number from 0 to 50
      main.toml:10:103: pool.web.sessions.max_age_per_minute: 0 is out of range; expected a number from 1 to 1000000
    probed
      fine
    nobody to recover
      main.toml:10:10: pool.web.sessions.on_recovery: all endpoints have the same priority, so none stands in for others
    no rule is a deadline
      main.toml:10:14: pool.web.sessions.deadline: no rule of this pool is "deadline"
    jitter of nothing
      main.toml:10:14: pool.web.sessions.max_age_jitter: without max_age no session is closed for its age
      main.toml:10:35: pool.web.sessions.max_age_per_minute: without max_age no session is closed for its age
    jitter of off
      main.toml:10:31: pool.web.sessions.max_age_jitter: without max_age no session is closed for its age
    "#);
}
