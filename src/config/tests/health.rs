//! What is said of `[pool.NAME.health]`.

use insta::assert_snapshot;
use rcgen::{CertificateParams, KeyPair};

use super::replaced;
use crate::config::model::{Dialogue, Health, Negotiation, Probe, Step, Trust};

/// What is said of each case's health table, for an endpoint with an address.
pub(super) fn said(cases: &[(&str, &str)]) -> String {
    said_of("'10.0.0.1:1'", cases)
}

fn said_of(endpoints: &str, cases: &[(&str, &str)]) -> String {
    let whole = |health: &str| format!("endpoints = [{endpoints}]\nhealth = {{ {health} }}");
    let cases: Vec<(&str, String)> = cases.iter().map(|(case, health)| (*case, whole(health))).collect();
    replaced("endpoints = \"10.0.0.1:443\"", &cases)
}

/// What a health table comes to.
fn read(health: &str) -> Health {
    let text = format!("{}health = {{ {health} }}", super::GOOD);
    let config = super::parse(&text).unwrap_or_else(|problems| panic!("{problems}")).config;
    Health::clone(config.pools[0].health.as_ref().unwrap())
}

fn dialogue(health: &str) -> Dialogue {
    Dialogue::clone(&read(health).dialogue.unwrap())
}

#[test]
fn the_table() {
    assert_snapshot!(said(&[
        ("without a probe", "rise = 2"),
        ("of another kind", "probe = 'ping'"),
        ("out of range", "probe = 'tcp', interval = '50ms', fall = 0, timeout = '2m', jitter = 51, port = 0"),
        ("fast and slow", "probe = 'tcp', interval = '1s', fast_interval = '2s'"),
        ("parts of other probes", "probe = 'tcp', tls = {}, http = {}, script = [{ expect = 'a' }]"),
        ("an agent alone", "agent = { port = 1 }"),
        ("an agent, and a probe that is none", "agent = { port = 1 }, rise = 2, port = 3"),
        ("an agent without a port", "agent = { interval = '1ms', send = 5 }"),
        ("no address", "probe = 'tcp', address = 'example.com'"),
        ("an address of no use", "probe = 'tcp', address = '0.0.0.0'"),
        ("a source of no use", "probe = 'tcp', source = '::9'"),
        ("a source for another address", "probe = 'tcp', address = '2001:db8::1', source = '::9'"),
        ("parts of servers", "probe = 'tls', tls.negotiation = 'direct', role = 'any', max_lag = '1s', user = 'a', \
            password_file = '/x', database = 'a', query = 'b', value = 'c'"),
    ]), @r#"
    without a probe
      main.toml:10:1: pool.web.health.probe: the key is missing; expected one of "tcp", "tls", "http", "script", "postgres", "patroni", "redis", "mysql"
    of another kind
      main.toml:10:20: pool.web.health.probe: "ping" is not known; expected one of "tcp", "tls", "http", "script", "postgres", "patroni", "redis", "mysql"
    out of range
      main.toml:10:38: pool.web.health.interval: 50ms is out of range; expected "100ms" to "1h"
      main.toml:10:53: pool.web.health.fall: 0 is out of range; expected a number from 1 to 100
      main.toml:10:66: pool.web.health.timeout: 120s is out of range; expected "10ms" to "1m"
      main.toml:10:81: pool.web.health.jitter: 51 is out of range; expected a number from 0 to 50
      main.toml:10:92: pool.web.health.port: 0 is out of range; expected a number from 1 to 65535
    fast and slow
      main.toml:10:60: pool.web.health.fast_interval: 2s is more than the interval of 1s
    parts of other probes
      main.toml:10:27: pool.web.health.tls: probe = "tcp" only takes a connection; "tls" makes a handshake
      main.toml:10:37: pool.web.health.http: only probe = "http" sends a request
      main.toml:10:48: pool.web.health.script: only probe = "script" follows one
    an agent alone
      fine
    an agent, and a probe that is none
      main.toml:10:34: pool.web.health.rise: without a probe only the agent is asked
      main.toml:10:44: pool.web.health.port: without a probe only the agent is asked
    an agent without a port
      main.toml:10:12: pool.web.health.agent.port: the key is missing; expected a number from 1 to 65535
      main.toml:10:33: pool.web.health.agent.interval: 1ms is out of range; expected "100ms" to "1h"
      main.toml:10:47: pool.web.health.agent.send: found 5; expected text to send
    no address
      main.toml:10:37: pool.web.health.address: "example.com" is not an address; expected an address such as "10.0.0.5" or "2001:db8::5"
    an address of no use
      main.toml:10:37: pool.web.health.address: 0.0.0.0 is not an address to connect to; expected an address such as "10.0.0.5" or "2001:db8::5"
    a source of no use
      main.toml:10:36: pool.web.health.source: no endpoint of the pool is reached over IPv6
    a source for another address
      fine
    parts of servers
      main.toml:10:31: pool.web.health.tls.negotiation: only with probe = "postgres" TLS may begin in two ways
      main.toml:10:55: pool.web.health.role: only probes of database servers find it out
      main.toml:10:69: pool.web.health.max_lag: only probes of database servers find it out
      main.toml:10:85: pool.web.health.user: this probe does not log in
      main.toml:10:97: pool.web.health.password_file: this probe does not log in
      main.toml:10:119: pool.web.health.database: this probe does not log in
      main.toml:10:135: pool.web.health.query: this probe does not ask by queries
      main.toml:10:148: pool.web.health.value: this probe does not ask by queries
    "#);
    assert_snapshot!(said_of("{ srv = '_a._tcp.x' }", &[
        ("clear", "probe = 'http'"),
        ("SRV and TLS without a name", "probe = 'http', tls = {}"),
        ("SRV and TLS without verification", "probe = 'tls', tls.verify = false"),
        ("SRV and TLS with a name", "probe = 'tls', tls.name = 'a.test'"),
    ]), @r#"
    clear
      fine
    SRV and TLS without a name
      main.toml:10:28: pool.web.health.tls: the endpoint "_a._tcp.x" stands for SRV records, and nothing says whose certificate it has; expected name, or verify = false
    SRV and TLS without verification
      fine
    SRV and TLS with a name
      fine
    "#);
    assert_snapshot!(said_of("'10.0.0.1:1', 'unix:/run/x'", &[
        ("fine", "probe = 'tcp'"),
        ("another port", "probe = 'tcp', port = 1"),
        ("another address", "probe = 'tcp', address = '10.0.0.9'"),
        ("both", "probe = 'tcp', address = '10.0.0.9', port = 1"),
        ("an agent", "agent = { port = 1 }"),
        ("an agent elsewhere", "agent = { port = 1 }, address = '10.0.0.9'"),
        ("TLS without a name", "probe = 'tls'"),
        ("TLS without verification", "probe = 'tls', tls.verify = false"),
        ("TLS with a name", "probe = 'tls', tls.name = 'a.test'"),
        ("PostgreSQL", "probe = 'postgres'"),
        ("Patroni", "probe = 'patroni'"),
        ("Patroni elsewhere", "probe = 'patroni', address = '10.0.0.9'"),
    ]), @r#"
    fine
      fine
    another port
      main.toml:10:27: pool.web.health.port: the endpoint "unix:/run/x" is a unix socket and has no other port
    another address
      main.toml:10:27: pool.web.health.address: the endpoint "unix:/run/x" is a unix socket and has no port that could be probed there; expected port besides
    both
      fine
    an agent
      main.toml:10:12: pool.web.health.agent: the endpoint "unix:/run/x" is a unix socket and has no address where an agent could be
    an agent elsewhere
      fine
    TLS without a name
      main.toml:10:1: pool.web.health: the endpoint "unix:/run/x" is a unix socket, and nothing says whose certificate it has; expected name, or verify = false
    TLS without verification
      fine
    TLS with a name
      fine
    PostgreSQL
      fine
    Patroni
      main.toml:10:1: pool.web.health: the endpoint "unix:/run/x" is a unix socket and has no address where Patroni could be; expected address
    Patroni elsewhere
      fine
    "#);
}

#[test]
fn requests_and_scripts() {
    assert_snapshot!(said(&[
        ("nothing more is needed", "probe = 'http'"),
        ("method unknown", "probe = 'http', http.method = 'get'"),
        ("path without a slash", "probe = 'http', http.path = 'healthz'"),
        ("path with a fragment", "probe = 'http', http.path = '/a#b'"),
        ("path with a space", "probe = 'http', http.path = '/a b'"),
        ("every path", "probe = 'http', http = { method = 'OPTIONS', path = '*' }"),
        ("host with a path", "probe = 'http', http.host = 'a/b'"),
        ("headers of our own", "probe = 'http', http.headers = { Host = 'a', connection = 'b' }"),
        ("bad headers", "probe = 'http', http.headers = { 'a b' = 'c', d = \"secret\\u0000\", e = 5 }"),
        ("status", "probe = 'http', http.status = [200, '204', '300-399', 99, '2xx', '399-300', true]"),
        ("no status", "probe = 'http', http.status = []"),
        ("body of HEAD", "probe = 'http', http = { method = 'HEAD', body = 'a' }"),
        ("alpn", "probe = 'http', tls.alpn = ['http/1.1', 'h2']"),
        ("no script", "probe = 'script'"),
        ("empty script", "probe = 'script', script = []"),
        ("script that only speaks", "probe = 'script', script = [{ send = 'a' }]"),
        ("script of texts", "probe = 'script', script = ['a']"),
        ("steps", "probe = 'script', script = [{}, { send = 'a', expect = 'b' }, { sned = 'a' }, { expect = '' }]"),
        ("hex", "probe = 'script', script = [{ send_hex = '0' }, { expect_hex = '0x' }, { send_hex = 5 }]"),
    ]), @r#"
    nothing more is needed
      fine
    method unknown
      main.toml:10:42: pool.web.health.http.method: "get" is not known; expected one of "GET", "HEAD", "OPTIONS", "POST"
    path without a slash
      main.toml:10:40: pool.web.health.http.path: "healthz" is not a path; expected a path such as "/healthz"
    path with a fragment
      main.toml:10:40: pool.web.health.http.path: "/a#b" is not a path; expected a path such as "/healthz"
    path with a space
      main.toml:10:40: pool.web.health.http.path: "/a b" is not a path; expected a path such as "/healthz"
    every path
      fine
    host with a path
      main.toml:10:40: pool.web.health.http.host: "a/b" is not a host; expected a host such as "www.example.com"
    headers of our own
      main.toml:10:45: pool.web.health.http.headers.Host: this has a key of its own, host
      main.toml:10:57: pool.web.health.http.headers.connection: this says how the request is sent, which is not to be chosen
    bad headers
      main.toml:10:45: pool.web.health.http.headers."a b": "a b" cannot be the name of a header
      main.toml:10:62: pool.web.health.http.headers.d: the value has characters that no header may have
      main.toml:10:82: pool.web.health.http.headers.e: found 5; expected text
    status
      main.toml:10:66: pool.web.health.http.status[3]: 99 is out of range; expected a number from 100 to 599
      main.toml:10:70: pool.web.health.http.status[4]: "2xx" is not a status from 100 to 599 nor a range of these; expected a status such as "204", or a range such as "200-399"
      main.toml:10:77: pool.web.health.http.status[5]: "399-300" is not a status from 100 to 599 nor a range of these; expected a status such as "204", or a range such as "200-399"
      main.toml:10:88: pool.web.health.http.status[6]: found true; expected a status such as "204", or a range such as "200-399"
    no status
      main.toml:10:42: pool.web.health.http.status: no status would be good
    body of HEAD
      main.toml:10:54: pool.web.health.http.body: nothing that is answered to HEAD has a body
    alpn
      main.toml:10:28: pool.web.health.tls.alpn: this probe speaks HTTP/1.1 and not "h2"
    no script
      main.toml:10:1: pool.web.health.script: the key is missing; expected a list, each a table with one of send, send_hex, expect and expect_hex
    empty script
      main.toml:10:39: pool.web.health.script: a script without steps finds out nothing
    script that only speaks
      main.toml:10:39: pool.web.health.script: a script that expects nothing finds out nothing
    script of texts
      main.toml:10:40: pool.web.health.script[0]: found "a"; expected a table with one of send, send_hex, expect and expect_hex
    steps
      main.toml:10:40: pool.web.health.script[0]: the step does nothing; expected a table with one of send, send_hex, expect and expect_hex
      main.toml:10:58: pool.web.health.script[1].expect: a step does one thing only; expected a table with one of send, send_hex, expect and expect_hex
      main.toml:10:74: pool.web.health.script[2]: the step does nothing; expected a table with one of send, send_hex, expect and expect_hex
      main.toml:10:76: pool.web.health.script[2].sned: unknown key; did you mean send?
      main.toml:10:101: pool.web.health.script[3].expect: a step without a byte does nothing
    hex
      main.toml:10:53: pool.web.health.script[0].send_hex: the value is not hex; expected bytes in hex such as "0d0a" or "de ad be ef"
      main.toml:10:75: pool.web.health.script[1].expect_hex: the value is not hex; expected bytes in hex such as "0d0a" or "de ad be ef"
      main.toml:10:96: pool.web.health.script[2].send_hex: found 5; expected bytes in hex such as "0d0a" or "de ad be ef"
    "#);
}

#[test]
fn servers() {
    assert_snapshot!(said(&[
        ("nothing more is needed", "probe = 'postgres'"),
        ("all of it", "probe = 'postgres', role = 'replica', max_lag = '10s', user = 'a', password_file = '/a/b', \
            database = 'c', query = 'SELECT 1', value = '1', tls = {}"),
        ("a credential", "probe = 'postgres', user = 'a', password_file = 'credential:b'"),
        ("no credential", "probe = 'postgres', user = 'a', password_file = 'credential:../b'"),
        ("not a path", "probe = 'postgres', user = 'a', password_file = 'b'"),
        ("another role", "probe = 'postgres', user = 'a', role = 'master'"),
        ("a primary that is behind", "probe = 'postgres', user = 'a', role = 'primary', max_lag = '1s'"),
        ("out of range", "probe = 'postgres', user = '', max_lag = '1ms', database = \"a\\u0000\""),
        ("without a user", "probe = 'postgres', role = 'replica', max_lag = '1s', password_file = '/b', \
            database = 'c', query = 'd', value = 'e'"),
        ("any role without a user", "probe = 'postgres', role = 'any'"),
        ("queries", "probe = 'postgres', user = 'a', query = ' '"),
        ("a zero byte", "probe = 'postgres', user = 'a', query = \"a\\u0000\""),
        ("a value without a query", "probe = 'postgres', user = 'a', value = 'b'"),
        ("direct", "probe = 'postgres', tls.negotiation = 'direct'"),
        ("direct with another protocol", "probe = 'postgres', tls = { negotiation = 'direct', alpn = 'h2' }"),
        ("another way", "probe = 'postgres', tls.negotiation = 'ssl'"),
        ("Patroni", "probe = 'patroni', role = 'replica', max_lag = '16MiB', port = 8009, tls = {}"),
        ("Patroni and a time", "probe = 'patroni', max_lag = '10s', query = 'a', user = 'b'"),
        ("Patroni and nothing", "probe = 'patroni', max_lag = 0, tls.alpn = 'h2'"),
    ]), @r#"
    nothing more is needed
      fine
    all of it
      fine
    a credential
      fine
    no credential
      main.toml:10:60: pool.web.health.password_file: "credential:../b" does not name a credential; expected the absolute path of a file, or "credential:" and the name of a credential of the service
    not a path
      main.toml:10:60: pool.web.health.password_file: "b" is not an absolute path; expected the absolute path of a file, or "credential:" and the name of a credential of the service
    another role
      main.toml:10:51: pool.web.health.role: "master" is not known; expected one of "any", "primary", "replica"
    a primary that is behind
      main.toml:10:62: pool.web.health.max_lag: a primary is behind nobody
    out of range
      main.toml:10:39: pool.web.health.user: "" cannot be a name; expected the name of a user
      main.toml:10:53: pool.web.health.max_lag: 1ms is out of range; expected "100ms" to "1d"
      main.toml:10:71: pool.web.health.database: "a\0" cannot be a name; expected the name of a database
    without a user
      main.toml:10:32: pool.web.health.role: without a user nobody logs in; expected user besides
      main.toml:10:50: pool.web.health.max_lag: without a user nobody logs in; expected user besides
      main.toml:10:66: pool.web.health.password_file: without a user nobody logs in; expected user besides
      main.toml:10:88: pool.web.health.database: without a user nobody logs in; expected user besides
      main.toml:10:104: pool.web.health.query: without a user nobody logs in; expected user besides
    any role without a user
      fine
    queries
      main.toml:10:52: pool.web.health.query: an empty query asks nothing
    a zero byte
      main.toml:10:52: pool.web.health.query: no text in the protocol can have a zero byte in it
    a value without a query
      main.toml:10:44: pool.web.health.value: without a query there is no value; expected query besides
    direct
      fine
    direct with another protocol
      main.toml:10:54: pool.web.health.tls.negotiation: servers take TLS at once only with "postgresql" in alpn
    another way
      main.toml:10:50: pool.web.health.tls.negotiation: "ssl" is not known; expected one of "postgres", "direct"
    Patroni
      fine
    Patroni and a time
      main.toml:10:41: pool.web.health.max_lag: "10s" is not a size; expected a size such as "64MiB" or "64KiB", or a number of bytes
      main.toml:10:48: pool.web.health.query: this probe does not ask by queries
      main.toml:10:61: pool.web.health.user: this probe does not log in
    Patroni and nothing
      main.toml:10:41: pool.web.health.max_lag: 0 bytes is out of range; expected 1 byte to "1024GiB"
      main.toml:10:44: pool.web.health.tls.alpn: this probe speaks HTTP/1.1 and not "h2"
    "#);
}

#[test]
fn what_it_comes_to() {
    assert_eq!(read("probe = 'http', http.status = 204").expect.http.status, [204..=204]);
    assert_eq!(read("probe = 'http', http.status = [200, '300-399']").expect.http.status, [200..=200, 300..=399]);
    let Probe::Script(steps) =
        dialogue("probe = 'script', script = [{ send_hex = '51 0d0A' }, { expect = '+' }]").probe
    else {
        panic!("it is a script")
    };
    assert!(
        matches!(&steps[..], [Step::Send(sent), Step::Expect(expected)] if *sent.0 == *b"Q\r\n" && expected == b"+")
    );
    let tls = dialogue("probe = 'tls', tls.verify = false").tls.unwrap();
    assert_eq!(tls.trust, Trust::Anybody);
    assert!(dialogue("probe = 'http'").tls.is_none());
    assert!(dialogue("probe = 'http', tls = {}").tls.is_some());
    // What is made of the answer is no part of what is said.
    assert_eq!(
        dialogue("probe = 'http', http.status = 204"),
        dialogue("probe = 'http', rise = 5, tls = {}").with_no_tls()
    );
    assert_ne!(dialogue("probe = 'http', http.path = '/a'"), dialogue("probe = 'http'"));
    let postgres = "probe = 'postgres', user = 'a', query = 'b', max_lag = '1s'";
    assert_eq!(
        dialogue(&format!("{postgres}, role = 'replica', value = 'c'")),
        dialogue(&postgres.replace("1s", "2s")),
        "what a server has to be"
    );
    assert_ne!(dialogue(postgres), dialogue("probe = 'postgres', user = 'a', query = 'b'"), "lag is asked for or not");
    let direct = dialogue("probe = 'postgres', tls.negotiation = 'direct'");
    assert_eq!(direct.tls.unwrap().alpn, [Box::from(&b"postgresql"[..])]);
}

#[test]
fn probes_begin_tls_as_sessions_do() {
    for (table, expected, alpn) in [
        ("negotiation = 'direct'", Negotiation::Direct, &[Box::from(&b"postgresql"[..])][..]),
        ("negotiation = 'postgres'", Negotiation::Postgres, &[]),
    ] {
        let text = format!(
            "[listener.a]\nbind = '127.0.0.1:0'\nprotocol = 'postgres'\n[route.a]\nlistener = 'a'\npool = 'a'\n\
             allow_cleartext = true\n\
             [pool.a]\nendpoints = 'db.test:5432'\ntls = {{ {table} }}\nhealth.probe = 'postgres'"
        );
        let config = crate::config::parse_str("a.toml".as_ref(), &text).unwrap_or_else(|problems| panic!("{problems}"));
        let dialogue = config.config.pools[0].health.as_ref().unwrap().dialogue.clone().unwrap();
        let Probe::Postgres(probe) = &dialogue.probe else { panic!("{dialogue:?}") };
        assert_eq!(probe.negotiation, expected, "{table}");
        assert_eq!(dialogue.tls.as_ref().unwrap().alpn, alpn, "{table}");
    }
}

impl Dialogue {
    fn with_no_tls(self) -> Dialogue {
        Dialogue { tls: None, watched: None, ..self }
    }
}

#[test]
fn secrets_do_not_show() {
    let health = read(
        "probe = 'script', script = [{ send = 'hunter2' }, { expect = 'a' }], agent = { port = 1, send = 'hunter2' }, \
         timeout = '1s'",
    );
    let request = read("probe = 'http', http.headers = { Authorization = 'hunter2' }");
    for shown in [format!("{health:?}"), format!("{request:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    let [key, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    write("good.pem", &certificate.pem());
    write("good.key", &key.serialize_pem());
    write("other.key", &other.serialize_pem());
    write("cut.pem", &certificate.pem()[..200]);
    write("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write("empty.pem", "");
    write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    write("two.key", &format!("{}{}", key.serialize_pem(), other.serialize_pem()));
    let cases = [
        ("good", "ca = ['system', 'F/good.pem'], certificate = 'F/good.pem', key = 'F/good.key'"),
        ("name", "name = 'a b'"),
        ("alpn", "alpn = ['', 5]"),
        ("verify", "verify = 'on'"),
        ("ca of nobody", "ca = []"),
        ("ca that is not used", "verify = false, ca = 'F/good.pem'"),
        ("ca elsewhere", "ca = 'good.pem'"),
        ("no such ca", "ca = ['F/none.pem', 'F/empty.pem', 'F/cut.pem', 'F/bad.pem', 'F/good.key', 'F', 5]"),
        ("certificate alone", "certificate = 'F/good.pem'"),
        ("key alone", "key = 'F/good.key'"),
        ("neither", "certificate = 'off', key = 'off'"),
        ("key of another", "certificate = 'F/good.pem', key = 'F/other.key'"),
        ("no key", "certificate = 'F/good.pem', key = 'F/good.pem'"),
        ("encrypted key", "certificate = 'F/good.pem', key = 'F/locked.key'"),
        ("two keys", "certificate = 'F/good.pem', key = 'F/two.key'"),
        ("warning", "warn_expiry = '0s'"),
        ("no warning", "warn_expiry = 'off'"),
    ];
    let cases = cases.map(|(case, tls)| {
        let tls = tls.replace('F', folder.path().to_str().unwrap());
        (case, format!("probe = 'tls', tls = {{ {tls} }}"))
    });
    let cases: Vec<(&str, &str)> = cases.iter().map(|(case, health)| (*case, health.as_str())).collect();
    let said = said(&cases).replace(folder.path().to_str().unwrap(), "F");
    assert_snapshot!(without_columns(&said), @r#"
    good
      fine
    name
      main.toml:10: pool.web.health.tls.name: "a b" is not a name that a certificate could have; expected a name such as "www.example.com", or an address
    alpn
      main.toml:10: pool.web.health.tls.alpn[0]: "" is not a protocol; expected a protocol such as "http/1.1", 1 to 255 bytes
      main.toml:10: pool.web.health.tls.alpn[1]: found 5; expected a protocol such as "http/1.1", 1 to 255 bytes
    verify
      main.toml:10: pool.web.health.tls.verify: found "on"; expected true or false
    ca of nobody
      main.toml:10: pool.web.health.tls.ca: nobody would be trusted; verify = false trusts everybody
    ca that is not used
      main.toml:10: pool.web.health.tls.ca: with verify = false nothing is verified
    ca elsewhere
      main.toml:10: pool.web.health.tls.ca: "good.pem" is not an absolute path; expected "system" or the absolute path of a PEM file
    no such ca
      main.toml:10: pool.web.health.tls.ca[0]: "F/none.pem" cannot be read: No such file or directory (os error 2)
      main.toml:10: pool.web.health.tls.ca[1]: "F/empty.pem" has no certificate in PEM
      main.toml:10: pool.web.health.tls.ca[2]: "F/cut.pem" is not whole PEM
      main.toml:10: pool.web.health.tls.ca[3]: "F/bad.pem" has a certificate that cannot be used to verify others: it is number 1
      main.toml:10: pool.web.health.tls.ca[4]: "F/good.key" has no certificate in PEM
      main.toml:10: pool.web.health.tls.ca[5]: "F" cannot be read: it is not a regular file
      main.toml:10: pool.web.health.tls.ca[6]: found 5; expected "system" or the absolute path of a PEM file
    certificate alone
      main.toml:10: pool.web.health.tls.key: the certificate has no use without its key; expected the absolute path of a PEM file, or "off"
    key alone
      main.toml:10: pool.web.health.tls.certificate: the key has no use without its certificate; expected the absolute path of a PEM file, or "off"
    neither
      fine
    key of another
      main.toml:10: pool.web.health.tls.key: "F/other.key" is not the key of the certificate "F/good.pem"
    no key
      main.toml:10: pool.web.health.tls.key: "F/good.pem" has no private key in PEM
    encrypted key
      main.toml:10: pool.web.health.tls.key: "F/locked.key" has a private key that is encrypted; expected one without a pass phrase
    two keys
      main.toml:10: pool.web.health.tls.key: "F/two.key" has more than one private key
    warning
      main.toml:10: pool.web.health.tls.warn_expiry: zero would leave no time at all; expected a duration such as "500ms", "5s", "2m", "1h" or "1d", or "off"
    no warning
      fine
    "#);
}

/// `said` without the columns, which depend on the name of the folder.
fn without_columns(said: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("main.toml:10:") {
        Some(rest) => format!("  main.toml:10: {}\n", rest.split_once(": ").map_or("", |(_, rest)| rest)),
        None => format!("{line}\n"),
    };
    said.lines().map(line).collect()
}
