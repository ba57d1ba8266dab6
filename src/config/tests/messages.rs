//! Each message of the check, for a configuration with one mistake.

use insta::assert_snapshot;

use super::{GOOD, said};

/// What is said of each case's text alone.
fn alone(cases: &[(&str, &str)]) -> String {
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(text))));
    each.collect::<Vec<_>>().join("\n")
}

/// What is said of each case's text in front of [`GOOD`].
fn with_good(cases: &[(&str, &str)]) -> String {
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(&format!("{text}\n{GOOD}")))));
    each.collect::<Vec<_>>().join("\n")
}

/// What is said of [`GOOD`] with `old` replaced by each case's text.
fn replaced(old: &str, cases: &[(&str, &str)]) -> String {
    assert!(GOOD.contains(old), "{old} is not in the good configuration");
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(&GOOD.replace(old, text)))));
    each.collect::<Vec<_>>().join("\n")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

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
      main.toml:3:1: not TOML: duplicate key
    table set twice
      main.toml:3:2: not TOML: duplicate key
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
fn values() {
    let cases = [
        ("unknown key at the top", "worker = 1"),
        ("unknown key with a near one", "[runtime]\nworkes = 1"),
        ("unknown key far from any", "[runtime]\nshape = 'round'"),
        ("key of a planned feature", "route.www.tls.certificates = 'x'"),
        ("unknown table of a pool", "pool.web.health.probe = 'tcp'"),
        ("a table is missing", "runtime = 1"),
        ("a list instead of a table", "[[timeouts]]\nopen = '1s'"),
        ("number too small", "runtime.workers = 0"),
        ("number too large", "runtime.workers = 1025"),
        ("number negative", "listener.edge.max_connections = -1"),
        ("number as text", "runtime.workers = '4'"),
        ("number with a fraction", "runtime.max_connections = 1.5"),
        ("backlog out of range", "listener.edge.backlog = 65536"),
        ("truth as text", "listener.edge.defer_accept = 'yes'"),
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
    key of a planned feature
      main.toml:5:8: not TOML: duplicate key
    unknown table of a pool
      main.toml:9:7: not TOML: duplicate key
    a table is missing
      main.toml:1:11: runtime: found 1; expected a table
    a list instead of a table
      main.toml:1:3: timeouts: found a list; expected a table
    number too small
      main.toml:1:19: runtime.workers: 0 is out of range; expected a number from 1 to 1024, or "auto"
    number too large
      main.toml:1:19: runtime.workers: 1025 is out of range; expected a number from 1 to 1024, or "auto"
    number negative
      main.toml:3:11: not TOML: duplicate key
    number as text
      main.toml:1:19: runtime.workers: found "4"; expected a number from 1 to 1024, or "auto"
    number with a fraction
      main.toml:1:27: runtime.max_connections: found 1.5; expected a number from 1 to 100000000, or "auto"
    backlog out of range
      main.toml:3:11: not TOML: duplicate key
    truth as text
      main.toml:3:11: not TOML: duplicate key
    a date
      main.toml:1:13: log.level: found a date or time; expected one of "error", "warn", "info", "debug", "trace"
    size with another unit
      main.toml:1:26: runtime.opening_memory: "64MB" is not a size; expected a size such as "64MiB" or "64KiB", or a number of bytes
    size too small
      main.toml:1:26: runtime.opening_memory: 1024 bytes is out of range; expected 64KiB to 1024GiB
    size negative
      main.toml:1:26: runtime.opening_memory: found -5; expected a size such as "64MiB" or "64KiB", or a number of bytes
    size too large
      main.toml:1:26: runtime.opening_memory: "99999999999GiB" is too large; expected a size such as "64MiB" or "64KiB", or a number of bytes
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
        ("pool connect off", "pool.web.timeouts.connect = 'off'"),
        ("pool open", "pool.web.timeouts.open = '1s'"),
        ("listener open zero", "listener.edge.timeouts.open = '0ms'"),
        ("listener idle", "listener.edge.timeouts.idle = '1s'"),
        ("refresh off", "pool.web.refresh = 'off'"),
        ("refresh too short", "pool.web.refresh = '100ms'"),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    open off
      main.toml:1:17: timeouts.open: this timeout cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    connect zero
      main.toml:1:20: timeouts.connect: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    idle zero
      main.toml:1:17: timeouts.idle: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    half_close zero
      fine
    drain off
      main.toml:1:18: timeouts.drain: this timeout cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    drain zero
      fine
    no unit
      main.toml:1:17: timeouts.open: "5" has no unit; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    a number
      main.toml:1:17: timeouts.open: found 5; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    another unit
      main.toml:1:17: timeouts.idle: "5 weeks" is not a duration; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    very long
      main.toml:1:17: timeouts.idle: "4000d" is more than ten years; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    pool connect off
      main.toml:9:7: not TOML: duplicate key
    pool open
      main.toml:9:7: not TOML: duplicate key
    listener open zero
      main.toml:3:11: not TOML: duplicate key
    listener idle
      main.toml:3:11: not TOML: duplicate key
    refresh off
      main.toml:9:7: not TOML: duplicate key
    refresh too short
      main.toml:9:7: not TOML: duplicate key
    "#);
}

#[test]
fn addresses_to_listen_on() {
    let cases = [
        ("missing", ""),
        ("empty", "bind = []"),
        ("not a list", "bind = 443"),
        ("no port", "bind = '0.0.0.0'"),
        ("a host name", "bind = ['localhost:443']"),
        ("IPv4 in IPv6", "bind = '[::ffff:10.0.0.1]:443'"),
        ("relative socket", "bind = 'unix:x.sock'"),
        (
            "long socket",
            "bind = 'unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
        ),
        ("twice in a list", "bind = ['[::]:443', '0.0.0.0:443', '[0::0]:443']"),
        ("twice the same socket", "bind = ['unix:/run/x', 'unix:/run//x']"),
        ("free ports", "bind = ['0.0.0.0:0', '0.0.0.0:0']"),
        (
            "on another listener",
            "bind = ['0.0.0.0:443']\n[route.b]\nlistener = 'b'\npool = 'web'\n[listener.b]\nprotocol = 'tcp'\nbind = '0.0.0.0:443'",
        ),
        ("on the admin address", "bind = ['127.0.0.1:9']\n[admin]\nhttp = '127.0.0.1:9'"),
        ("planned protocol", "bind = '0.0.0.0:443'\nprotocol = 'postgres'"),
        ("protocol with a slip", "bind = '0.0.0.0:443'\nprotocol = 'tsl'"),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    missing
      main.toml:2:11: listener.edge.bind: the key is missing; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    empty
      main.toml:3:8: listener.edge.bind: a listener without an address accepts nothing
    not a list
      main.toml:3:8: listener.edge.bind: found 443; expected a list, each an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    no port
      main.toml:3:8: listener.edge.bind: "0.0.0.0" has no port; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    a host name
      main.toml:3:9: listener.edge.bind[0]: "localhost:443" is not an address and a port; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    IPv4 in IPv6
      main.toml:3:8: listener.edge.bind: "[::ffff:10.0.0.1]:443" is an IPv4 address written as IPv6; write 10.0.0.1; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    relative socket
      main.toml:3:8: listener.edge.bind: "x.sock" is not the absolute path of a socket; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    long socket
      main.toml:3:8: listener.edge.bind: the path has 111 bytes, a socket's may have 107; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    twice in a list
      main.toml:3:36: listener.edge.bind[2]: [::]:443 is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    twice the same socket
      main.toml:3:24: listener.edge.bind[1]: unix:/run/x is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    free ports
      fine
    on another listener
      main.toml:9:8: listener.b.bind: 0.0.0.0:443 is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    on the admin address
      main.toml:3:9: listener.edge.bind[0]: 127.0.0.1:9 is already listened on by admin.http (see main.toml:5:8)
    planned protocol
      main.toml:4:12: listener.edge.protocol: "postgres" is not known; expected one of "tls", "tcp"
    protocol with a slip
      main.toml:4:12: listener.edge.protocol: "tsl" is not known; expected one of "tls", "tcp"; did you mean "tls"?
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
fn references() {
    let cases = [
        ("listener missing", ""),
        ("listener with a slip", "listener = 'egde'"),
        ("listener far from any", "listener = 'quite-another'"),
        ("listener not text", "listener = ['edge']"),
        ("pool with a slip", "listener = 'edge'\n[route.b]\nlistener = 'edge'\npool = 'wbe'"),
        ("pool missing", "listener = 'edge'\n[route.b]\nlistener = 'edge'\n[route.c]\nlistener = 'edge'\nsni = 'c'"),
    ];
    assert_snapshot!(replaced("listener = \"edge\"", &cases), @r#"
    listener missing
      main.toml:4:8: route.www.listener: the key is missing; expected the name of a listener
    listener with a slip
      main.toml:5:12: route.www.listener: there is no listener called "egde"; did you mean "edge"?
    listener far from any
      main.toml:5:12: route.www.listener: there is no listener called "quite-another"
    listener not text
      main.toml:5:12: route.www.listener: found a list; expected the name of a listener
    pool with a slip
      main.toml:10:1: not TOML: duplicate key
    pool missing
      main.toml:11:1: not TOML: duplicate key
    "#);
}

#[test]
fn unused() {
    let cases = [("listener", "[listener.b]\nbind = '0.0.0.0:444'"), ("pool", "[pool.b]\nendpoints = '10.0.0.1:444'")];
    assert_snapshot!(with_good(&cases), @r#"
    listener
      main.toml:1:11: listener.b: no route leads from this listener
    pool
      main.toml:1:7: pool.b: no route leads to this pool
    "#);
}

#[test]
fn sni() {
    let cases = [
        ("empty list", "sni = []"),
        ("empty name", "sni = ''"),
        ("star alone", "sni = ['a', '*']"),
        ("star in a label", "sni = 'www*.example.com'"),
        ("star further on", "sni = 'www.*.example.com'"),
        ("three stars", "sni = '***.example.com'"),
        ("nothing behind the star", "sni = '*.'"),
        ("address", "sni = '192.0.2.1'"),
        ("address behind a star", "sni = '*.[::1]'"),
        ("bad byte", "sni = 'bücher.example'"),
        ("long label", "sni = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example'"),
        ("empty label", "sni = 'a..b'"),
        ("not text", "sni = ['a', 1]"),
        ("twice", "sni = ['a.example', 'b.example', 'A.Example.']"),
        ("all kinds", "sni = ['a.example', '*.a.example', '**.a.example']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:7: route.www.sni: nothing matches an empty list; leave the key out to match anything
    empty name
      main.toml:6:7: route.www.sni: "" is not a name: the name is empty; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star alone
      main.toml:6:13: route.www.sni[1]: "*" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star in a label
      main.toml:6:7: route.www.sni: "www*.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    star further on
      main.toml:6:7: route.www.sni: "www.*.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    three stars
      main.toml:6:7: route.www.sni: "***.example.com" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    nothing behind the star
      main.toml:6:7: route.www.sni: "*." is not a name: the name is empty; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    address
      main.toml:6:7: route.www.sni: "192.0.2.1" is an address, which clients may not send as a name; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    address behind a star
      main.toml:6:7: route.www.sni: "*.[::1]" is an address, which clients may not send as a name; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    bad byte
      main.toml:6:7: route.www.sni: "bücher.example" is not a name: the name has the byte 0xc3; letters, digits, hyphens and underscores are allowed; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    long label
      main.toml:6:7: route.www.sni: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example" is not a name: the name has a label of 64 bytes, at most 63 are allowed; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    empty label
      main.toml:6:7: route.www.sni: "a..b" is not a name: the name has an empty label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    not text
      main.toml:6:13: route.www.sni[1]: found 1; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    twice
      main.toml:6:34: route.www.sni: "a.example" is listed twice (see main.toml:6:8)
    all kinds
      fine
    "#);
}

#[test]
fn alpn() {
    let cases = [
        ("empty list", "alpn = []"),
        ("empty", "alpn = ['h2', '']"),
        (
            "long",
            "alpn = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
        ),
        ("twice", "alpn = ['h2', 'h2']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:8: route.www.alpn: nothing matches an empty list; leave the key out to match anything
    empty
      main.toml:6:15: route.www.alpn[1]: an ALPN protocol cannot be empty; expected the name of a protocol such as "postgresql" or "h2", 1 to 255 bytes
    long
      main.toml:6:8: route.www.alpn: an ALPN protocol cannot have 256 bytes; expected the name of a protocol such as "postgresql" or "h2", 1 to 255 bytes
    twice
      main.toml:6:15: route.www.alpn: "h2" is listed twice (see main.toml:6:9)
    "#);
}

#[test]
fn networks() {
    let cases = [
        ("empty list", "from = []"),
        ("not a network", "from = '10.0.0.0/33'"),
        ("a name", "from = 'example.com'"),
        ("bits behind the length", "from = ['192.0.2.0/24', '10.1.2.3/8']"),
        ("IPv4 in IPv6", "from = '::ffff:10.0.0.0/104'"),
        ("address IPv4 in IPv6", "from = '::ffff:10.0.0.1'"),
        ("twice", "from = ['10.0.0.1', '10.0.0.1/32']"),
        ("family nobody comes from", "from = ['10.0.0.0/8', '2001:db8::/32']"),
    ];
    assert_snapshot!(replaced("sni = \"www.example.com\"", &cases), @r#"
    empty list
      main.toml:6:8: route.www.from: nothing matches an empty list; leave the key out to match anything
    not a network
      main.toml:6:8: route.www.from: "10.0.0.0/33" is not a network; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    a name
      main.toml:6:8: route.www.from: "example.com" is not a network; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    bits behind the length
      main.toml:6:25: route.www.from[1]: "10.1.2.3/8" has bits set behind its length; 10.0.0.0/8 is probably meant; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    IPv4 in IPv6
      main.toml:6:8: route.www.from: "::ffff:10.0.0.0/104" is an IPv4 network written as IPv6; write 10.0.0.0/8; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    address IPv4 in IPv6
      main.toml:6:8: route.www.from: "::ffff:10.0.0.1" is an IPv4 address written as IPv6; write 10.0.0.1; expected a network such as "192.0.2.0/24" or "2001:db8::/32", or an address
    twice
      main.toml:6:21: route.www.from: "10.0.0.1/32" is listed twice (see main.toml:6:9)
    family nobody comes from
      main.toml:6:23: route.www.from: the listener "edge" has no IPv6 address, so nobody comes from 2001:db8::/32 (see main.toml:2:11)
    "#);
}

#[test]
fn tcp_reads_nothing() {
    let cases = [
        ("sni", "bind = '0.0.0.0:443'\nprotocol = 'tcp'"),
        (
            "alpn",
            "bind = '0.0.0.0:443'\n[listener.db]\nbind = '0.0.0.0:1'\nprotocol = 'tcp'\n[route.db]\nlistener = 'db'\nalpn = 'x'\npool = 'web'",
        ),
        ("networks over unix", "bind = 'unix:/run/x'\n[route.db]\nlistener = 'edge'\nfrom = '10.0.0.1'\npool = 'web'"),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    sni
      main.toml:7:1: route.www.sni: the listener "edge" is tcp: it reads nothing of what clients send (see main.toml:2:11)
    alpn
      main.toml:9:1: route.db.alpn: the listener "db" is tcp: it reads nothing of what clients send (see main.toml:4:11)
    networks over unix
      main.toml:6:1: route.db.from: the listener "edge" has only unix addresses, so its clients have no network (see main.toml:2:11)
    "#);
}

#[test]
fn equal_keys() {
    let cases = [
        ("names", "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x.example', 'WWW.example.com.']\n"),
        ("no name", "[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\n\n"),
        (
            "names and protocols",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = ['a', 'b']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = ['y', 'x']\nalpn = ['c', 'b']\n",
        ),
        (
            "names and networks",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.1.0.0/16']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.1.0.0/16', '10.1.1.1']\n",
        ),
        (
            "once for each pair",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x', 'y', 'z']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = ['z', 'y', 'x']\n",
        ),
        (
            "three",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "challenges",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'acme-tls/1'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'acme-tls/1'\n",
        ),
        (
            "different kinds of names",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = '*.x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = '**.x'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "different protocols",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'a'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'b'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
        (
            "different networks",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/9'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n",
        ),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    names
      main.toml:11:7: route.www: has the same key as route.b: "www.example.com", any protocol, from anywhere (see main.toml:4:21)
    no name
      main.toml:5:8: route.c: has the same key as route.b: any name, any protocol, from anywhere (see main.toml:1:8)
    names and protocols
      main.toml:9:13: route.c: has the same key as route.b: "x", "b", from anywhere (see main.toml:4:7)
    names and networks
      main.toml:9:7: route.c: has the same key as route.b: "x", any protocol, from 10.1.0.0/16 (see main.toml:4:7)
    once for each pair
      main.toml:8:18: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:4:8)
    three
      main.toml:8:7: route.c: has the same key as route.b: "x", any protocol, from anywhere (see main.toml:4:7)
      main.toml:12:7: route.d: has the same key as route.c: "x", any protocol, from anywhere (see main.toml:8:7)
    challenges
      main.toml:9:7: route.c: has the same key as route.b: "x", "acme-tls/1", from anywhere (see main.toml:4:7)
    different kinds of names
      fine
    different protocols
      fine
    different networks
      fine
    "#);
}

#[test]
fn covered_networks() {
    let cases = [
        (
            "by two halves",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "all there is",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '0.0.0.0/1'\n[route.d]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '128.0.0.0/1'\n",
        ),
        (
            "anywhere by everything",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "not by a part",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/10']\n",
        ),
        (
            "not for another name",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = ['x', 'y']\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "not for another protocol",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.0.0.0/8'\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nalpn = 'a'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
        (
            "not by its own",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.0.0.0/9']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = '10.128.0.0/9'\n",
        ),
        (
            "not by what is its own further in",
            "[route.b]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/8', '10.0.0.0/10']\n[route.c]\nlistener = 'edge'\npool = 'web'\nsni = 'x'\nfrom = ['10.0.0.0/9', '10.128.0.0/9']\n",
        ),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    by two halves
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:6:8)
    all there is
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c, route.d (see main.toml:5:8)
    anywhere by everything
      main.toml:1:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:5:8)
    not by a part
      fine
    not for another name
      fine
    not for another protocol
      fine
    not by its own
      fine
    not by what is its own further in
      fine
    "#);
}

#[test]
fn anywhere_is_what_the_listener_receives() {
    let cases = [
        (
            "IPv6 too",
            "bind = ['0.0.0.0:443', '[::]:443']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "unix too",
            "bind = ['0.0.0.0:443', 'unix:/run/x']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = '0.0.0.0/0'\n",
        ),
        (
            "both covered",
            "bind = ['0.0.0.0:443', '[::]:443']\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\nfrom = ['0.0.0.0/0', '::/1', '8000::/1']\n",
        ),
        (
            "equal over unix",
            "bind = 'unix:/run/x'\n[route.b]\nlistener = 'edge'\npool = 'web'\n\n[route.c]\nlistener = 'edge'\npool = 'web'\n\n",
        ),
    ];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    IPv6 too
      fine
    unix too
      fine
    both covered
      main.toml:4:8: route.b: nothing can reach it: longer networks take everything: route.c (see main.toml:8:8)
    equal over unix
      main.toml:8:8: route.c: has the same key as route.b: any name, any protocol, from anywhere (see main.toml:4:8)
    "#);
}

#[test]
fn endpoints() {
    let cases = [
        ("missing", ""),
        ("empty", "endpoints = []"),
        ("a table", "endpoints = { address = '10.0.0.1:1' }"),
        ("a number in the list", "endpoints = ['10.0.0.1:1', 5]"),
        ("no port", "endpoints = '10.0.0.1'"),
        ("no port of a name", "endpoints = 'db.example.com'"),
        ("port 0", "endpoints = ['10.0.0.1:0', 'db.example.com:0']"),
        ("port too large", "endpoints = '10.0.0.1:65536'"),
        ("bad address", "endpoints = '10.0.0.300:1'"),
        ("bad name", "endpoints = 'a b:1'"),
        ("IPv6 without brackets", "endpoints = '2001:db8::1:80'"),
        ("IPv4 in IPv6", "endpoints = '[::ffff:10.0.0.1]:80'"),
        ("table without an address", "endpoints = [{ name = 'a' }]"),
        ("table with a slip", "endpoints = [{ address = '10.0.0.1:1', wieght = 2 }]"),
        ("weight too large", "endpoints = [{ address = '10.0.0.1:1', weight = 257 }]"),
        ("all weights zero", "endpoints = [{ address = '10.0.0.1:1', weight = 0 }]"),
        ("bad endpoint name", "endpoints = [{ address = '10.0.0.1:1', name = 'a b' }]"),
        ("name twice", "endpoints = ['10.0.0.1:1', { address = '10.0.0.2:1', name = '10.0.0.1:1' }, '10.0.0.1:1']"),
        ("balance unknown", "endpoints = '10.0.0.1:1'\nbalance = 'maglev'"),
        ("balance with a slip", "endpoints = '10.0.0.1:1'\nbalance = 'roundrobin'"),
    ];
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    missing
      main.toml:8:7: pool.web.endpoints: the key is missing; expected a list, each an address such as "10.0.0.11:5432", or a table with address, name and weight
    empty
      main.toml:9:13: pool.web.endpoints: a pool without endpoints serves nothing
    a table
      main.toml:9:13: pool.web.endpoints: found a table; expected a list, each an address such as "10.0.0.11:5432", or a table with address, name and weight
    a number in the list
      main.toml:9:28: pool.web.endpoints[1]: found 5; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    no port
      main.toml:9:13: pool.web.endpoints: "10.0.0.1" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    no port of a name
      main.toml:9:13: pool.web.endpoints: "db.example.com" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    port 0
      main.toml:9:14: pool.web.endpoints[0]: "10.0.0.1:0" has port 0, to which nothing can connect; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
      main.toml:9:28: pool.web.endpoints[1]: "db.example.com:0" has port 0, to which nothing can connect; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    port too large
      main.toml:9:13: pool.web.endpoints: "65536" is not a port; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    bad address
      main.toml:9:13: pool.web.endpoints: "10.0.0.300" is neither an address nor a host name; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    bad name
      main.toml:9:13: pool.web.endpoints: "a b" is not a host name: the name has the byte 0x20; letters, digits, hyphens and underscores are allowed; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    IPv6 without brackets
      main.toml:9:13: pool.web.endpoints: "2001:db8::1:80" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    IPv4 in IPv6
      main.toml:9:13: pool.web.endpoints: "[::ffff:10.0.0.1]:80" is an IPv4 address written as IPv6; write 10.0.0.1; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    table without an address
      main.toml:9:14: pool.web.endpoints[0].address: the key is missing; expected an address such as "10.0.0.11:5432", "[2001:db8::1]:5432", "db.example.com:5432" or "unix:/run/x.sock"
    table with a slip
      main.toml:9:40: pool.web.endpoints[0].wieght: unknown key; did you mean weight?
    weight too large
      main.toml:9:49: pool.web.endpoints[0].weight: 257 is out of range; expected a number from 0 to 256
    all weights zero
      main.toml:9:13: pool.web.endpoints: every endpoint has the weight 0, so none is ever chosen
    bad endpoint name
      main.toml:9:47: pool.web.endpoints[0].name: "a b" cannot be the name of an endpoint; expected 1 to 255 visible ASCII characters
    name twice
      main.toml:9:61: pool.web.endpoints[1]: two endpoints of the pool are called "10.0.0.1:1" (see main.toml:9:14)
      main.toml:9:77: pool.web.endpoints[2]: two endpoints of the pool are called "10.0.0.1:1" (see main.toml:9:14)
    balance unknown
      main.toml:10:11: pool.web.balance: "maglev" is not known; expected one of "least-connections", "round-robin"
    balance with a slip
      main.toml:10:11: pool.web.balance: "roundrobin" is not known; expected one of "least-connections", "round-robin"; did you mean "round-robin"?
    "#);
}

#[test]
fn sources() {
    let cases = [
        ("empty", "endpoints = '10.0.0.1:1'\nsource = []"),
        ("with a port", "endpoints = '10.0.0.1:1'\nsource = '10.0.0.5:1'"),
        ("of no use", "endpoints = '10.0.0.1:1'\nsource = ['10.0.0.5', '2001:db8::1']"),
        ("of no use for sockets", "endpoints = 'unix:/run/x'\nsource = '10.0.0.5'"),
        ("of use for names", "endpoints = 'db.example.com:1'\nsource = ['10.0.0.5', '2001:db8::1']"),
        ("two of a family", "endpoints = '10.0.0.1:1'\nsource = ['10.0.0.5', '10.0.0.6']"),
        ("unspecified", "endpoints = '10.0.0.1:1'\nsource = '0.0.0.0'"),
    ];
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    empty
      main.toml:10:10: pool.web.source: an empty list says nothing; leave the key out to let the kernel choose
    with a port
      main.toml:10:10: pool.web.source: "10.0.0.5:1" is not an address; expected an address such as "10.0.0.5" or "2001:db8::5"
    of no use
      main.toml:10:23: pool.web.source[1]: no endpoint of the pool is reached over IPv6
    of no use for sockets
      main.toml:10:10: pool.web.source: no endpoint of the pool is reached over IPv4
    of use for names
      fine
    two of a family
      main.toml:10:23: pool.web.source[1]: a second IPv4 address is never used (see main.toml:10:11)
    unspecified
      main.toml:10:10: pool.web.source: 0.0.0.0 is not an address to connect from; expected an address such as "10.0.0.5" or "2001:db8::5"
    "#);
}

#[test]
fn all_problems_at_once_in_the_order_of_their_places() {
    let text = "pool.web.endpoints = ['10.0.0.1:0', 'x']\nlog.level = 'loud'\nlistener.edge.bind = 1\n\
                [route.a]\npool = 'wbe'\nlistener = 'egde'\nsni = ['*', 'ok', '1.2.3.4']\n[runtime]\nworkers = 0";
    assert_snapshot!(said(text), @r#"
    main.toml:1:23: pool.web.endpoints[0]: "10.0.0.1:0" has port 0, to which nothing can connect; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    main.toml:1:37: pool.web.endpoints[1]: "x" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name and weight
    main.toml:2:13: log.level: "loud" is not known; expected one of "error", "warn", "info", "debug", "trace"
    main.toml:3:22: listener.edge.bind: found 1; expected a list, each an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    main.toml:5:8: route.a.pool: there is no pool called "wbe"; did you mean "web"?
    main.toml:6:12: route.a.listener: there is no listener called "egde"; did you mean "edge"?
    main.toml:7:8: route.a.sni[0]: "*" has a * that is not the whole first label; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    main.toml:7:19: route.a.sni[2]: "1.2.3.4" is an address, which clients may not send as a name; expected a name such as "www.example.com", "*.example.com" (one label) or "**.example.com" (one or more)
    main.toml:9:11: runtime.workers: 0 is out of range; expected a number from 1 to 1024, or "auto"
    "#);
}
