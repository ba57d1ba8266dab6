//! What is said of `[pool.NAME]`.

use insta::assert_snapshot;

use super::replaced;

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
        ("all backups", "endpoints = [{ address = '10.0.0.1:1', backup = true }]"),
        ("bad endpoint name", "endpoints = [{ address = '10.0.0.1:1', name = 'a b' }]"),
        ("name twice", "endpoints = ['10.0.0.1:1', { address = '10.0.0.2:1', name = '10.0.0.1:1' }, '10.0.0.1:1']"),
        ("unknown table", "endpoints = '10.0.0.1:1'\nsesions.on_down = 'close'"),
        ("refresh off", "endpoints = '10.0.0.1:1'\nrefresh = 'off'"),
        ("refresh too short", "endpoints = '10.0.0.1:1'\nrefresh = '100ms'"),
        ("connect off", "endpoints = '10.0.0.1:1'\ntimeouts.connect = 'off'"),
        ("open", "endpoints = '10.0.0.1:1'\ntimeouts.open = '1s'"),
        ("balance unknown", "endpoints = '10.0.0.1:1'\nbalance = 'source'"),
        ("hash without maglev", "endpoints = '10.0.0.1:1'\nhash_key = 'sni'\nhash_balance_factor = 125"),
        ("hash of the unknown", "endpoints = '10.0.0.1:1'\nbalance = 'maglev'\nhash_key = 'cookie'"),
        ("network of a name", "endpoints = '10.0.0.1:1'\nbalance = 'maglev'\nhash_key = 'sni'\nhash_prefix_ipv4 = 24"),
        ("network too long", "endpoints = '10.0.0.1:1'\nbalance = 'maglev'\nhash_prefix_ipv4 = 33"),
        ("factor too low", "endpoints = '10.0.0.1:1'\nbalance = 'maglev'\nhash_balance_factor = 100"),
        (
            "outliers out of range",
            "endpoints = '10.0.0.1:1'\noutliers = { failures = 0, ejection = '0s', most_percent = 101 }",
        ),
        ("outliers, long and short", "endpoints = '10.0.0.1:1'\noutliers = { ejection = '10m', longest = '1m' }"),
        ("balance with a slip", "endpoints = '10.0.0.1:1'\nbalance = 'roundrobin'"),
    ];
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    missing
      main.toml:8:7: pool.web.endpoints: the key is missing; expected a list, each an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    empty
      main.toml:9:13: pool.web.endpoints: a pool without endpoints serves nothing
    a table
      main.toml:9:13: pool.web.endpoints: found a table; expected a list, each an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    a number in the list
      main.toml:9:28: pool.web.endpoints[1]: found 5; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    no port
      main.toml:9:13: pool.web.endpoints: "10.0.0.1" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    no port of a name
      main.toml:9:13: pool.web.endpoints: "db.example.com" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    port 0
      main.toml:9:14: pool.web.endpoints[0]: "10.0.0.1:0" has port 0, to which nothing can connect
      main.toml:9:28: pool.web.endpoints[1]: "db.example.com:0" has port 0, to which nothing can connect
    port too large
      main.toml:9:13: pool.web.endpoints: "65536" is not a port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    bad address
      main.toml:9:13: pool.web.endpoints: "10.0.0.300" is neither an address nor a host name; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    bad name
      main.toml:9:13: pool.web.endpoints: "a b" is not a host name: the name has the byte 0x20; letters, digits, hyphens and underscores are allowed; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    IPv6 without brackets
      main.toml:9:13: pool.web.endpoints: "2001:db8::1:80" has no brackets, which part an IPv6 address from its port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    IPv4 in IPv6
      main.toml:9:13: pool.web.endpoints: "[::ffff:10.0.0.1]:80" is an IPv4 address written as IPv6; write 10.0.0.1
    table without an address
      main.toml:9:14: pool.web.endpoints[0].address: the key is missing; expected an address such as "10.0.0.11:5432", "[2001:db8::1]:5432", "db.example.com:5432" or "unix:/run/x.sock"
    table with a slip
      main.toml:9:40: pool.web.endpoints[0].wieght: unknown key; did you mean weight?
    weight too large
      main.toml:9:49: pool.web.endpoints[0].weight: 257 is out of range; expected a number from 0 to 256
    all weights zero
      main.toml:9:13: pool.web.endpoints: every endpoint has the weight 0, so none is ever chosen
    all backups
      main.toml:9:13: pool.web.endpoints: every endpoint is a backup, so there is none that they stand in for
    bad endpoint name
      main.toml:9:47: pool.web.endpoints[0].name: "a b" cannot be the name of an endpoint; expected 1 to 255 visible ASCII characters
    name twice
      main.toml:9:61: pool.web.endpoints[1]: two endpoints of the pool are called "10.0.0.1:1" (see main.toml:9:14)
      main.toml:9:77: pool.web.endpoints[2]: two endpoints of the pool are called "10.0.0.1:1" (see main.toml:9:14)
    unknown table
      main.toml:10:1: pool.web.sesions: unknown key; did you mean sessions?
    refresh off
      main.toml:10:11: pool.web.refresh: cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    refresh too short
      main.toml:10:11: pool.web.refresh: 100ms is out of range; expected "1s" to "1d"
    connect off
      main.toml:10:20: pool.web.timeouts.connect: cannot be off; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    open
      main.toml:10:10: pool.web.timeouts.open: unknown key
    balance unknown
      main.toml:10:11: pool.web.balance: "source" is not known; expected one of "least-connections", "round-robin", "random-two", "maglev"
    hash without maglev
      main.toml:10:1: pool.web.hash_key: only balance = "maglev" goes by a hash
      main.toml:11:1: pool.web.hash_balance_factor: only balance = "maglev" goes by a hash
    hash of the unknown
      main.toml:11:12: pool.web.hash_key: "cookie" is not known; expected one of "source", "sni"
    network of a name
      main.toml:12:1: pool.web.hash_prefix_ipv4: only hash_key = "source" goes by an address
    network too long
      main.toml:11:20: pool.web.hash_prefix_ipv4: 33 is out of range; expected a number from 0 to 32
    factor too low
      main.toml:11:23: pool.web.hash_balance_factor: 100 is out of range; expected a number from 101 to 10000, or "off"
    outliers out of range
      main.toml:10:25: pool.web.outliers.failures: 0 is out of range; expected a number from 1 to 1000, or "off"
      main.toml:10:39: pool.web.outliers.ejection: 0ns is out of range; expected "1s" to "1d"
      main.toml:10:60: pool.web.outliers.most_percent: 101 is out of range; expected a number from 1 to 100
    outliers, long and short
      main.toml:10:42: pool.web.outliers.longest: 60s is less than the first time of 600s
    balance with a slip
      main.toml:10:11: pool.web.balance: "roundrobin" is not known; expected one of "least-connections", "round-robin", "random-two", "maglev"; did you mean "round-robin"?
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
