//! What is said of TOML itself, of names, and of `[runtime]`, `[log]`, `[admin]` and `[timeouts]`.

use insta::assert_snapshot;

use super::{alone, said, with_good};

#[test]
fn syntax() {
    let cases = [
        ("not TOML", "[log\nlevel = 'info'"),
        ("no value", "\n\n  x ="),
        ("key set twice", "[log]\nlevel = 'info'\nlevel = 'warn'"),
        ("table set twice", "[log]\n[admin]\n[log]"),
        ("columns count characters", "x = \"äöü\" y"),
        ("nothing at all", ""),
        ("tables without names", "[listener]\n[route]\npool = 1"),
    ];
    assert_snapshot!(alone(&cases), @r#"
    not TOML
      main.toml:1:5: not TOML: unclosed table, expected `]`
    no value
      main.toml:3:6: not TOML: string values must be quoted, expected literal string
    key set twice
      main.toml:3:1: not TOML: duplicate key "level"
    table set twice
      main.toml:3:2: not TOML: duplicate key "log"
    columns count characters
      main.toml:1:11: not TOML: unexpected key or value, expected newline, `#`
    nothing at all
      main.toml: listener: there is no listener; expected at least one [listener.NAME]
      main.toml: pool: there is no pool; expected at least one [pool.NAME]
      main.toml: route: there is no route; expected at least one [route.NAME]
    tables without names
      main.toml: listener: there is no listener; expected at least one [listener.NAME]
      main.toml: pool: there is no pool; expected at least one [pool.NAME]
      main.toml:3:8: route.pool: found 1; expected a table
    "#);
}

#[test]
fn names() {
    let cases = [
        ("empty", "[pool.'']\nendpoints = '10.0.0.1:1'\n[route.x]\nlistener = 'edge'\npool = ''"),
        ("a space", "[pool.'a b']\nendpoints = '10.0.0.1:1'\n[route.x]\nlistener = 'edge'\npool = 'a b'"),
        (
            "long",
            "[route.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]\nlistener = 'edge'\npool = 'web'",
        ),
        ("a dot", "[route.'x.y']\nlistener = 'edge'\npool = 'web'"),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    empty
      main.toml:1:7: pool."": "" cannot be the name of a pool; expected 1 to 64 letters, digits, hyphens, underscores and dots
    a space
      main.toml:1:7: pool."a b": "a b" cannot be the name of a pool; expected 1 to 64 letters, digits, hyphens, underscores and dots
    long
      main.toml:1:8: route."xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" cannot be the name of a route; expected 1 to 64 letters, digits, hyphens, underscores and dots
    a dot
      fine
    "#);
}

#[test]
fn values() {
    let cases = [
        ("unknown key at the top", "worker = 1"),
        ("unknown key with a near one", "[runtime]\nworkes = 1"),
        ("unknown key far from any", "[runtime]\nshape = 'round'"),
        ("a table is missing", "runtime = 1"),
        ("a list instead of a table", "[[timeouts]]\nopen = '1s'"),
        ("number too small", "runtime.workers = 0"),
        ("number too large", "runtime.workers = 1025"),
        ("number as text", "runtime.workers = '4'"),
        ("number with a fraction", "runtime.max_connections = 1.5"),
        ("a date", "log.level = 1979-05-27"),
        ("size with another unit", "runtime.opening_memory = '64MB'"),
        ("size too small", "runtime.opening_memory = '1KiB'"),
        ("size negative", "runtime.opening_memory = -5"),
        ("size too large", "runtime.opening_memory = '99999999999GiB'"),
        ("word unknown", "log.level = 'inof'"),
        ("word in capitals", "log.format = 'JSON'"),
        ("access log neither word nor path", "log.access = 'stdot'"),
        ("admin without a port", "admin.http = '127.0.0.1'"),
        ("admin on a host name", "admin.http = 'localhost:80'"),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    unknown key at the top
      main.toml:1:1: worker: unknown key
    unknown key with a near one
      main.toml:2:1: runtime.workes: unknown key; did you mean workers?
    unknown key far from any
      main.toml:2:1: runtime.shape: unknown key
    a table is missing
      main.toml:1:11: runtime: found 1; expected a table
    a list instead of a table
      main.toml:1:3: timeouts: found a list; expected a table
    number too small
      main.toml:1:19: runtime.workers: 0 is out of range; expected a number from 1 to 1024, or "auto"
    number too large
      main.toml:1:19: runtime.workers: 1025 is out of range; expected a number from 1 to 1024, or "auto"
    number as text
      main.toml:1:19: runtime.workers: found "4"; expected a number from 1 to 1024, or "auto"
    number with a fraction
      main.toml:1:27: runtime.max_connections: found 1.5; expected a number from 1 to 100000000, or "auto"
    a date
      main.toml:1:13: log.level: found a date or time; expected one of "error", "warn", "info", "debug", "trace"
    size with another unit
      main.toml:1:26: runtime.opening_memory: "64MB" is not a size; expected a size such as "64MiB" or "64KiB", or a number of bytes
    size too small
      main.toml:1:26: runtime.opening_memory: 1024 bytes is out of range; expected 64KiB to 1024GiB
    size negative
      main.toml:1:26: runtime.opening_memory: found -5; expected a size such as "64MiB" or "64KiB", or a number of bytes
    size too large
      main.toml:1:26: runtime.opening_memory: "99999999999GiB" is too large
    word unknown
      main.toml:1:13: log.level: "inof" is not known; expected one of "error", "warn", "info", "debug", "trace"; did you mean "info"?
    word in capitals
      main.toml:1:14: log.format: "JSON" is not known; expected one of "json", "text"
    access log neither word nor path
      main.toml:1:14: log.access: "stdot" is neither a known word nor the absolute path of a file; expected "stdout", "stderr", "off" or an absolute path; did you mean "stdout"?
    admin without a port
      main.toml:1:14: admin.http: "127.0.0.1" has no port; expected an address such as "127.0.0.1:9180", or "off"
    admin on a host name
      main.toml:1:14: admin.http: "localhost:80" is not an address and a port; expected an address such as "127.0.0.1:9180", or "off"
    "#);
}

#[test]
fn durations() {
    let cases = [
        ("open off", "timeouts.open = 'off'"),
        ("connect zero", "timeouts.connect = '0s'"),
        ("idle zero", "timeouts.idle = '0s'"),
        ("half_close zero", "timeouts.half_close = '0s'"),
        ("drain off", "timeouts.drain = 'off'"),
        ("drain zero", "timeouts.drain = '0s'"),
        ("no unit", "timeouts.open = '5'"),
        ("a number", "timeouts.open = 5"),
        ("another unit", "timeouts.idle = '5 weeks'"),
        ("very long", "timeouts.idle = '4000d'"),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    open off
      main.toml:1:17: timeouts.open: cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    connect zero
      main.toml:1:20: timeouts.connect: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    idle zero
      main.toml:1:17: timeouts.idle: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    half_close zero
      fine
    drain off
      main.toml:1:18: timeouts.drain: cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    drain zero
      fine
    no unit
      main.toml:1:17: timeouts.open: "5" has no unit; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    a number
      main.toml:1:17: timeouts.open: found 5; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    another unit
      main.toml:1:17: timeouts.idle: "5 weeks" is not a duration; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    very long
      main.toml:1:17: timeouts.idle: "4000d" is more than ten years
    "#);
}

#[test]
fn all_problems_at_once_in_the_order_of_their_places() {
    let text = "pool.web.endpoints = ['10.0.0.1:0', 'x']\nlog.level = 'loud'\nlistener.edge.bind = 1\n\
                [route.a]\npool = 'wbe'\nlistener = 'egde'\nsni = ['*', 'ok', '1.2.3.4']\n[runtime]\nworkers = 0";
    assert_snapshot!(said(text), @r#"
    main.toml:1:23: pool.web.endpoints[0]: "10.0.0.1:0" has port 0, to which nothing can connect
    main.toml:1:37: pool.web.endpoints[1]: "x" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    main.toml:2:13: log.level: "loud" is not known; expected one of "error", "warn", "info", "debug", "trace"
    main.toml:3:22: listener.edge.bind: found 1; expected a list, each an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    main.toml:5:8: route.a.pool: there is no pool called "wbe"; did you mean "web"?
    main.toml:6:12: route.a.listener: there is no listener called "egde"; did you mean "edge"?
    main.toml:7:8: route.a.sni[0]: "*" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    main.toml:7:19: route.a.sni[2]: "1.2.3.4" is an address, which clients may not send as a name
    main.toml:9:11: runtime.workers: 0 is out of range; expected a number from 1 to 1024, or "auto"
    "#);
}
