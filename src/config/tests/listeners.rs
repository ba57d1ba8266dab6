//! What is said of `[listener.NAME]`.

use insta::assert_snapshot;

use super::replaced;

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
        ("count negative", "bind = '0.0.0.0:443'\nmax_connections = -1"),
        ("count off", "bind = '0.0.0.0:443'\nmax_connections = 'off'"),
        ("backlog too large", "bind = '0.0.0.0:443'\nbacklog = 65536"),
        ("truth as text", "bind = '0.0.0.0:443'\ndefer_accept = 'yes'"),
        ("open zero", "bind = '0.0.0.0:443'\ntimeouts.open = '0ms'"),
        ("idle", "bind = '0.0.0.0:443'\ntimeouts.idle = '1s'"),
        ("free ports", "bind = ['0.0.0.0:0', '0.0.0.0:0']"),
        (
            "on another listener",
            "bind = ['0.0.0.0:443']\n[route.b]\nlistener = 'b'\npool = 'web'\n[listener.b]\nprotocol = 'tcp'\nbind = '0.0.0.0:443'",
        ),
        ("on the admin address", "bind = ['127.0.0.1:9']\n[admin]\nhttp = '127.0.0.1:9'"),
        ("planned protocol", "bind = '0.0.0.0:443'\nprotocol = 'http'"),
        ("mysql deferred", "bind = '0.0.0.0:443'\nprotocol = 'mysql'\ndefer_accept = true"),
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
      main.toml:3:8: listener.edge.bind: "[::ffff:10.0.0.1]:443" is an IPv4 address written as IPv6; write 10.0.0.1
    relative socket
      main.toml:3:8: listener.edge.bind: "x.sock" is not the absolute path of a socket; expected an address such as "0.0.0.0:443", "[::]:443" or "unix:/run/x.sock"
    long socket
      main.toml:3:8: listener.edge.bind: "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... has 111 bytes, and the path of a socket at most 107
    twice in a list
      main.toml:3:36: listener.edge.bind[2]: [::]:443 is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    twice the same socket
      main.toml:3:24: listener.edge.bind[1]: unix:/run/x is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    count negative
      main.toml:4:19: listener.edge.max_connections: -1 is out of range; expected a number from 1 to 100000000, or "off"
    count off
      fine
    backlog too large
      main.toml:4:11: listener.edge.backlog: 65536 is out of range; expected a number from 1 to 65535
    truth as text
      main.toml:4:16: listener.edge.defer_accept: found "yes"; expected true or false
    open zero
      main.toml:4:17: listener.edge.timeouts.open: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d"
    idle
      main.toml:4:10: listener.edge.timeouts.idle: unknown key
    free ports
      fine
    on another listener
      main.toml:9:8: listener.b.bind: 0.0.0.0:443 is already listened on by listener.edge.bind[0] (see main.toml:3:9)
    on the admin address
      main.toml:3:9: listener.edge.bind[0]: 127.0.0.1:9 is already listened on by admin.http (see main.toml:5:8)
    planned protocol
      main.toml:4:12: listener.edge.protocol: "http" is not known; expected one of "tls", "tcp", "postgres", "mysql"
    mysql deferred
      main.toml:5:16: listener.edge.defer_accept: clients of MySQL say nothing before the server does
      main.toml:8:1: route.www.sni: the listener "edge" is mysql: it reads nothing of what clients send (see main.toml:2:11)
    protocol with a slip
      main.toml:4:12: listener.edge.protocol: "tsl" is not known; expected one of "tls", "tcp", "postgres", "mysql"; did you mean "tls"?
    "#);
}
