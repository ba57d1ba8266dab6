//! What is said of `[pool.NAME.health]` with `probe = "redis"`.

use insta::assert_snapshot;

use super::replaced;
use crate::config::model::{Probe, RedisProbe};

/// What is said of each case's keys, for these endpoints.
fn said(endpoints: &str, cases: &[(&str, &str)]) -> String {
    let whole = |health: &str| format!("endpoints = [{endpoints}]\nhealth = {{ probe = 'redis', {health} }}");
    let cases: Vec<(&str, String)> = cases.iter().map(|(case, health)| (*case, whole(health))).collect();
    replaced("endpoints = \"10.0.0.1:443\"", &cases)
}

/// What these keys come to, and what is warned of.
fn read(health: &str) -> (RedisProbe, Vec<String>) {
    let text = format!("{}health = {{ probe = 'redis', {health} }}", super::GOOD);
    let loaded = super::parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    let health = loaded.config.pools[0].health.clone().unwrap();
    let Probe::Redis(probe) = health.dialogue.clone().unwrap().probe.clone() else { panic!("it is of Redis") };
    (probe, loaded.warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_asked() {
    assert_snapshot!(said("'10.0.0.1:1'", &[
        ("all of it", "role = 'replica', max_lag = '30s', user = 'a', password_file = '/a', info = { a = 'b' }"),
        ("a password alone", "password_file = 'credential:redis'"),
        ("a user alone", "user = 'a'"),
        ("what others ask", "query = 'a', value = 'b', database = 'c'"),
        ("no fields", "info = {}"),
        ("fields", "info = { 'a b' = 'c', 'a:b' = 'c', '' = 'c', a = 1, b = \"c\\r\\n\" }"),
        ("no table", "info = ['loading']"),
        ("TLS", "tls = {}"),
    ]), @r#"
    all of it
      fine
    a password alone
      fine
    a user alone
      main.toml:10:29: pool.web.health.user: a user without a password cannot log in; expected password_file
    what others ask
      main.toml:10:29: pool.web.health.query: this probe does not ask by queries
      main.toml:10:42: pool.web.health.value: this probe does not ask by queries
      main.toml:10:55: pool.web.health.database: this probe does not log in
    no fields
      main.toml:10:36: pool.web.health.info: no field would be looked at
    fields
      main.toml:10:38: pool.web.health.info."a b": "a b" cannot be a field of INFO
      main.toml:10:51: pool.web.health.info."a:b": "a:b" cannot be a field of INFO
      main.toml:10:64: pool.web.health.info."": "" cannot be a field of INFO
      main.toml:10:78: pool.web.health.info.a: found 1; expected text that the field has as its value
      main.toml:10:85: pool.web.health.info.b: no field of INFO has more than one line
    no table
      main.toml:10:36: pool.web.health.info: found a list; expected a table
    TLS
      fine
    "#);
}

#[test]
fn sentinels() {
    let all = "master_name = 'a', sentinels = ['10.0.0.1:26379', '[::1]:26379'], sentinel_password_file = '/a'";
    assert_snapshot!(said("'10.0.0.1:1', 'db.test:1'", &[
        ("all of it", all),
        ("one", "master_name = 'my-master.1_a', sentinels = '10.0.0.1:26379'"),
        ("no name", "sentinels = '10.0.0.1:26379'"),
        ("nobody", "master_name = 'a'"),
        ("an empty list", "master_name = 'a', sentinels = []"),
        ("a name that is none", "master_name = 'a b', sentinels = '10.0.0.1:26379'"),
        ("addresses", "master_name = 'a', sentinels = ['10.0.0.1', 'a.test:1', '10.0.0.1:0', '10.0.0.2:1', '10.0.0.2:1', 5]"),
        ("a user alone", "master_name = 'a', sentinels = '10.0.0.1:26379', sentinel_user = 'b'"),
        ("a password for nobody", "sentinel_password_file = 'b'"),
        ("another place", "master_name = 'a', sentinels = '10.0.0.1:26379', address = '10.0.0.9', port = 5"),
    ]), @r#"
    all of it
      fine
    one
      fine
    no name
      main.toml:10:1: pool.web.health.master_name: the key is missing; expected what Sentinels call the master: letters, digits, dots, hyphens and underscores
    nobody
      main.toml:10:1: pool.web.health.sentinels: the key is missing; expected a list, each the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
    an empty list
      main.toml:10:60: pool.web.health.sentinels: nobody would be asked
    a name that is none
      main.toml:10:43: pool.web.health.master_name: "a b" cannot be the name of a master; expected what Sentinels call the master: letters, digits, dots, hyphens and underscores
    addresses
      main.toml:10:61: pool.web.health.sentinels[0]: "10.0.0.1" has no port; expected the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
      main.toml:10:73: pool.web.health.sentinels[1]: "a.test:1" is not an address and a port; expected the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
      main.toml:10:85: pool.web.health.sentinels[2]: nothing can connect to port 0; expected the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
      main.toml:10:113: pool.web.health.sentinels[4]: 10.0.0.2:1 would have two votes
      main.toml:10:127: pool.web.health.sentinels[5]: found 5; expected the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
    a user alone
      main.toml:10:78: pool.web.health.sentinel_user: a user without a password cannot log in; expected sentinel_password_file
    a password for nobody
      main.toml:10:1: pool.web.health.master_name: the key is missing; expected what Sentinels call the master: letters, digits, dots, hyphens and underscores
      main.toml:10:1: pool.web.health.sentinels: the key is missing; expected a list, each the address of a Sentinel, such as "10.0.0.1:26379" or "[2001:db8::1]:26379"
      main.toml:10:54: pool.web.health.sentinel_password_file: "b" is not an absolute path; expected the absolute path of a file, or "credential:" and the name of a credential of the service
    another place
      main.toml:10:78: pool.web.health.address: Sentinels know endpoints by their own addresses, so that no other can be asked
      main.toml:10:100: pool.web.health.port: Sentinels know endpoints by their own addresses, so that no other can be asked
    "#);
    assert_snapshot!(said("'unix:/run/x'", &[("a unix socket", all)]), @r#"
    a unix socket
      main.toml:10:29: pool.web.health.master_name: the endpoint "unix:/run/x" is a unix socket, which no Sentinel names
    "#);
    let (probe, _) = read(&all.replace("'/a'", "'credential:a'"));
    let sentinels = probe.sentinels.unwrap();
    assert_eq!((sentinels.at.len(), &*sentinels.master), (2, "a"));
    assert_eq!(read("role = 'any'").0.sentinels, None);
}

#[test]
fn a_lag_that_is_shorter_than_the_signs_of_life() {
    for (max_lag, warnings) in [("1s", 1), ("10s", 1), ("11s", 0), ("60s", 0)] {
        let (probe, warned) = read(&format!("max_lag = '{max_lag}'"));
        assert!(probe.asks_lag);
        assert_eq!(
            warned.iter().filter(|text| text.contains("repl-ping-replica-period")).count(),
            warnings,
            "{warned:?}"
        );
    }
}

#[test]
fn a_password_that_others_may_see_is_warned_of() {
    const CLEAR: &[&str] =
        &["main.toml:10:29: pool.web.health.password_file: without tls the password goes over the network in clear"];
    const ANYBODY: &[&str] = &[
        "main.toml:10:29: pool.web.health.password_file: with verify = false and no pins the password may go to anybody \
         who answers in the endpoint's place",
    ];
    let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (case, keys, warnings) in [
        ("in clear", String::new(), CLEAR),
        ("to ourselves", ", address = '127.0.0.1'".into(), &[]),
        ("in TLS", ", tls = { name = 'a' }".into(), &[]),
        ("in TLS with anybody", ", tls = { verify = false }".into(), ANYBODY),
        ("in TLS with anybody here", ", address = '::1', tls = { verify = false }".into(), &[]),
        ("in TLS with a key", format!(", tls = {{ verify = false, pins = ['{pin}'] }}"), &[]),
    ] {
        assert_eq!(read(&format!("password_file = '/a'{keys}")).1, warnings, "{case}");
    }
}
