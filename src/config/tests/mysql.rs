//! What is said of `[pool.NAME.health]` where servers of MySQL are probed.

use insta::assert_snapshot;

use super::health::said;

#[test]
fn the_table() {
    assert_snapshot!(said(&[
        ("a user", "probe = 'mysql', user = 'a'"),
        ("all of it", "probe = 'mysql', role = 'replica', max_lag = '10s', user = 'a', password_file = '/a/b', \
            database = 'c', query = 'SELECT 1', value = '1', galera = true, server_key_file = '/a/c'"),
        ("in TLS", "probe = 'mysql', user = 'a', tls = {}"),
        ("no user", "probe = 'mysql'"),
        ("no path", "probe = 'mysql', user = 'a', server_key_file = 'b'"),
        ("a key where there is TLS", "probe = 'mysql', user = 'a', server_key_file = '/b', tls = {}"),
        ("no truth", "probe = 'mysql', user = 'a', galera = 'yes'"),
        ("of another server", "probe = 'postgres', user = 'a', galera = true, server_key_file = '/b'"),
        ("TLS at once", "probe = 'mysql', user = 'a', tls.negotiation = 'direct'"),
    ]), @r#"
    a user
      fine
    all of it
      fine
    in TLS
      fine
    no user
      main.toml:10:1: pool.web.health.user: the key is missing; expected the name of a user: a server is probed by a login
    no path
      main.toml:10:59: pool.web.health.server_key_file: "b" is not an absolute path; expected the absolute path of a file with the server's public key
    a key where there is TLS
      main.toml:10:41: pool.web.health.server_key_file: in TLS no password is encrypted with the server's key
    no truth
      main.toml:10:50: pool.web.health.galera: found "yes"; expected true or false
    of another server
      main.toml:10:44: pool.web.health.galera: only servers of MySQL are in such a cluster: probe = "mysql"
      main.toml:10:59: pool.web.health.server_key_file: only servers of MySQL have such a key: probe = "mysql"
    TLS at once
      main.toml:10:45: pool.web.health.tls.negotiation: only with probe = "postgres" TLS may begin in two ways
    "#);
}
