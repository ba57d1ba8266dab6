//! What is said of `[dns]`, of SRV endpoints and of files of endpoints.

use std::fs;
use std::time::Duration;

use insta::assert_snapshot;

use super::{GOOD, parse, replaced, with_good};
use crate::config::model::{Address, BACKUP};
use crate::config::{Unread, load_with, read_endpoints};

#[test]
fn dns() {
    let cases = [
        ("as it should be", "dns = { servers = ['10.0.0.2', '[::1]:5353', '::2'], timeout = '500ms' }"),
        ("no servers", "dns.servers = []"),
        ("a name", "dns.servers = 'ns.example.com'"),
        ("port 0", "dns.servers = '10.0.0.2:0'"),
        ("twice", "dns.servers = ['10.0.0.2', '10.0.0.2:53']"),
        ("too long", "dns.timeout = '1m'"),
        ("unknown", "dns.server = '10.0.0.2'"),
    ];
    assert_snapshot!(with_good(&cases), @r#"
    as it should be
      fine
    no servers
      main.toml:1:15: dns.servers: an empty list says nothing; leave the key out to ask the servers of the system
    a name
      main.toml:1:15: dns.servers: "ns.example.com" is not an address and a port; expected an address such as "10.0.0.2", "10.0.0.2:53" or "[2001:db8::2]:53"
    port 0
      main.toml:1:15: dns.servers: "10.0.0.2:0" has port 0, which nothing answers on; expected an address such as "10.0.0.2", "10.0.0.2:53" or "[2001:db8::2]:53"
    twice
      main.toml:1:28: dns.servers[1]: 10.0.0.2:53 is listed twice (see main.toml:1:16)
    too long
      main.toml:1:15: dns.timeout: 60s is out of range; expected "100ms" to "30s"
    unknown
      main.toml:1:5: dns.server: unknown key; did you mean servers?
    "#);
    let loaded = parse(&format!("dns.servers = ['10.0.0.2', '::2']\n{GOOD}")).unwrap();
    let servers: Vec<String> = loaded.config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:53", "[::2]:53"]);
    assert_eq!(loaded.config.dns.timeout, Duration::from_secs(2));
}

#[test]
fn srv() {
    let cases = [
        ("as it should be", "endpoints = [{ srv = '_pg._tcp.example.com', backup = true, name = 'a' }, '10.0.0.1:1']"),
        ("a name that is no service", "endpoints = [{ srv = 'db.service.consul' }]"),
        ("with an address", "endpoints = [{ srv = '_pg._tcp.x', address = '10.0.0.1:1' }]"),
        ("with what records say", "endpoints = [{ srv = '_pg._tcp.x', weight = 1, priority = 2 }]"),
        ("with a port", "endpoints = [{ srv = '_pg._tcp.x:5432' }]"),
        ("an address", "endpoints = [{ srv = '10.0.0.1' }]"),
        ("both families", "endpoints = [{ srv = '_pg._tcp.x' }]\nsource = ['10.0.0.5', '::5']"),
        ("twice", "endpoints = [{ srv = '_pg._tcp.x' }, { srv = '_pg._tcp.x' }]"),
    ];
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    as it should be
      fine
    a name that is no service
      fine
    with an address
      main.toml:9:36: pool.web.endpoints[0].address: the addresses are those of the SRV records (see main.toml:9:16)
    with what records say
      main.toml:9:36: pool.web.endpoints[0].weight: every SRV record has its own weight (see main.toml:9:16)
      main.toml:9:48: pool.web.endpoints[0].priority: every SRV record has its own priority (see main.toml:9:16)
    with a port
      main.toml:9:22: pool.web.endpoints[0].srv: "_pg._tcp.x:5432" is not a host name: the name has the byte 0x3a; letters, digits, hyphens and underscores are allowed; expected a name such as "_postgresql._tcp.example.com"
    an address
      main.toml:9:22: pool.web.endpoints[0].srv: "10.0.0.1" is an address, not a host name; expected a name such as "_postgresql._tcp.example.com"
    both families
      fine
    twice
      main.toml:9:38: pool.web.endpoints[1]: two endpoints of the pool are called "_pg._tcp.x" (see main.toml:9:14)
    "#);
    let endpoint = "{ srv = '_PG._tcp.Example.com.', backup = true }, '10.0.0.1:1'";
    let loaded = parse(&GOOD.replace("\"10.0.0.1:443\"", &format!("[{endpoint}]"))).unwrap();
    let endpoint = &loaded.config.pools[0].endpoints[0];
    assert_eq!(endpoint.address, Address::Srv("_pg._tcp.example.com".into()));
    assert_eq!((endpoint.name.as_str(), endpoint.priority), ("_PG._tcp.Example.com.", BACKUP));
}

#[test]
fn paths_of_files() {
    let cases = [
        ("alone", "endpoints_file = '/nowhere/e.json'"),
        (
            "beside endpoints of weight 0",
            "endpoints_file = '/nowhere/e.toml'\nendpoints = [{ address = '10.0.0.1:1', weight = 0 }]",
        ),
        (
            "beside backups",
            "endpoints_file = '/nowhere/e.toml'\nendpoints = [{ address = '10.0.0.1:1', backup = true }]",
        ),
        ("both families", "endpoints_file = '/nowhere/e.toml'\nendpoints = '10.0.0.1:1'\nsource = ['::5']"),
        ("relative", "endpoints_file = 'e.json'"),
        ("of another kind", "endpoints_file = '/etc/e.yaml'"),
        ("no text", "endpoints_file = 1"),
    ];
    assert_snapshot!(replaced("endpoints = \"10.0.0.1:443\"", &cases), @r#"
    alone
      fine
    beside endpoints of weight 0
      fine
    beside backups
      fine
    both families
      fine
    relative
      main.toml:9:18: pool.web.endpoints_file: "e.json" is not the absolute path of a file; expected the absolute path of a .json or .toml file
    of another kind
      main.toml:9:18: pool.web.endpoints_file: "/etc/e.yaml" ends in neither .json nor .toml; expected the absolute path of a .json or .toml file
    no text
      main.toml:9:18: pool.web.endpoints_file: found 1; expected the absolute path of a .json or .toml file
    "#);
}

/// What is said of a file with this name and text, without the name of its folder.
fn said(name: &str, text: &[u8]) -> String {
    said_where(false, name, text)
}

/// The same where certificates are verified by the names of endpoints, or not.
fn said_where(names_verified: bool, name: &str, text: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let said = match read_endpoints(&path, &[], names_verified) {
        Ok(endpoints) => {
            let told = endpoints.iter().map(|endpoint| format!("{}={}", endpoint.name, endpoint.address));
            format!("fine: [{}]", told.collect::<Vec<_>>().join(" "))
        }
        Err(Unread::Wrong(problems)) => problems.to_string(),
        Err(Unread::System(error)) => error.to_string(),
    };
    said.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn what_is_in_files() {
    let mut table = String::new();
    for (name, text) in [
        ("list.json", r#"["10.0.0.1:1", {"address": "db.example.com:2", "name": "b"}, {"srv": "_a._tcp.x"}]"#),
        ("table.json", r#"{"endpoints": [{"address": "unix:/run/x", "weight": 3, "backup": true}]}"#),
        ("empty_list.json", "[]"),
        ("escapes.json", r#"["\u0031\u0030.0.0.1:1"]"#),
        ("nothing.json", ""),
        ("half.json", "[\"10.0.0.1:1\",\n \"10.0"),
        ("behind.json", "[]\n x"),
        ("number.json", "7"),
        ("no_key.json", "{}"),
        ("other_key.json", r#"{"endpoint": []}"#),
        ("null.json", r#"{"endpoints": null}"#),
        (
            "slips.json",
            concat!(
                "[\n  \"10.0.0.1\",\n",
                "  {\"address\": \"10.0.0.2:1\", \"wieght\": 2},\n",
                "  {\"address\": \"10.0.0.3:1\", \"weight\": 257},\n",
                "  {\"address\": \"10.0.0.3:1\", \"weight\": \"ü\"}, 1.5, true, {}]",
            ),
        ),
        ("twice.json", "[\"10.0.0.1:1\",\n \"10.0.0.1:1\"]"),
        ("key_twice.json", "[{\"address\": \"10.0.0.1:1\",\n \"address\": \"10.0.0.2:1\"}]"),
        ("deep.json", "[[[[[[[[[[[[1]]]]]]]]]]]]"),
        ("tables.toml", "[[endpoints]]\naddress = '10.0.0.1:1'\n[[endpoints]]\naddress = '10.0.0.2:1'\nweight = 2"),
        ("list.toml", "endpoints = ['10.0.0.1:1', { address = '10.0.0.2:1', name = 'b' }]"),
        ("empty_list.toml", "endpoints = []"),
        ("nothing.toml", ""),
        ("half.toml", "[[endpoints]]\naddress = '10.0"),
        ("slips.toml", "[pool]\n[[endpoints]]\nadress = '10.0.0.1:1'\n[[endpoints]]\naddress = '10.0.0.1'"),
        ("twice.toml", "endpoints = ['10.0.0.1:1', '10.0.0.1:1']"),
    ] {
        table += &format!("{name}\n");
        for line in said(name, text.as_bytes()).lines() {
            table += &format!("  {line}\n");
        }
    }
    assert_snapshot!(table, @r#"
    list.json
      fine: [10.0.0.1:1=10.0.0.1:1 b=db.example.com:2 _a._tcp.x=_a._tcp.x]
    table.json
      fine: [unix:/run/x=unix:/run/x]
    empty_list.json
      fine: []
    escapes.json
      fine: [10.0.0.1:1=10.0.0.1:1]
    nothing.json
      nothing.json:1:1: not JSON: EOF while parsing a value
    half.json
      half.json:2:6: not JSON: EOF while parsing a string
    behind.json
      behind.json:2:2: not JSON: trailing characters
    number.json
      number.json:1:1: neither a list nor a table; expected a list of endpoints
    no_key.json
      no_key.json:1:1: endpoints: the key is missing; expected a list of endpoints, which may be empty
    other_key.json
      other_key.json:1:1: endpoints: the key is missing; expected a list of endpoints, which may be empty
      other_key.json:1:14: endpoint: unknown key; did you mean endpoints?
    null.json
      null.json:1:15: endpoints: found null; expected a list, each an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    slips.json
      slips.json:2:3: endpoints[0]: "10.0.0.1" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
      slips.json:3:39: endpoints[1].wieght: unknown key; did you mean weight?
      slips.json:4:39: endpoints[2].weight: 257 is out of range; expected a number from 0 to 256
      slips.json:5:39: endpoints[3].weight: found "ü"; expected a number from 0 to 256
      slips.json:5:45: endpoints[4]: found 1.5; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
      slips.json:5:50: endpoints[5]: found true; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
      slips.json:5:56: endpoints[6].address: the key is missing; expected an address such as "10.0.0.11:5432", "[2001:db8::1]:5432", "db.example.com:5432" or "unix:/run/x.sock"
    twice.json
      twice.json:2:2: endpoints[1]: two endpoints of the pool are called "10.0.0.1:1" (see twice.json:1:2)
    key_twice.json
      key_twice.json:2:13: the key "address" is set twice
    deep.json
      deep.json:1:9: nested too deeply
    tables.toml
      fine: [10.0.0.1:1=10.0.0.1:1 10.0.0.2:1=10.0.0.2:1]
    list.toml
      fine: [10.0.0.1:1=10.0.0.1:1 b=10.0.0.2:1]
    empty_list.toml
      fine: []
    nothing.toml
      nothing.toml:1:1: endpoints: the key is missing; expected a list of endpoints, which may be empty
    half.toml
      half.toml:2:16: not TOML: invalid literal string, expected `'`
    slips.toml
      slips.toml:1:2: pool: unknown key
      slips.toml:2:1: endpoints[0].address: the key is missing; expected an address such as "10.0.0.11:5432", "[2001:db8::1]:5432", "db.example.com:5432" or "unix:/run/x.sock"
      slips.toml:3:1: endpoints[0].adress: unknown key; did you mean address?
      slips.toml:5:11: endpoints[1].address: "10.0.0.1" has no port; expected an address such as "10.0.0.11:5432", "[2001:db8::1]:5432", "db.example.com:5432" or "unix:/run/x.sock"
    twice.toml
      twice.toml:1:28: endpoints[1]: two endpoints of the pool are called "10.0.0.1:1" (see twice.toml:1:14)
    "#);
    assert_eq!(said("e.json", b"[\"\xff\"]"), "e.json:1:3: the file is not UTF-8");
    assert!(said("e.json", "[".repeat(100_000).as_bytes()).contains("not JSON"));
    let many = format!("[{}]", "1,".repeat(100_000) + "1");
    assert_eq!(
        said("e.json", many.as_bytes()),
        "e.json:1:1: endpoints: 100001 endpoints are too many; expected at most 100000"
    );
    assert_eq!(said("e.toml", &vec![b'#'; (16 << 20) + 1]), "e.toml: cannot read the file: it has more than 16 MiB");
}

#[test]
fn endpoints_of_a_file_have_names_where_certificates_are_verified_by_them() {
    let text = r#"["10.0.0.1:1", "db.example.com:2",
        {"srv": "_a._tcp.x"}, "unix:/run/x"]"#;
    assert!(said("e.json", text.as_bytes()).starts_with("fine"));
    assert_snapshot!(said_where(true, "e.json", text.as_bytes()), @r#"
    e.json:2:9: endpoints[2]: the endpoint "_a._tcp.x" stands for SRV records, and nothing says whose certificate it has; expected name in the tls table of the pool's health, or verify = false there
    e.json:2:31: endpoints[3]: the endpoint "unix:/run/x" is a unix socket, and nothing says whose certificate it has; expected name in the tls table of the pool's health, or verify = false there
    "#);
    assert!(said_where(true, "e.json", br#"["10.0.0.1:1", "db.example.com:2"]"#).starts_with("fine"));

    let folder = tempfile::tempdir().unwrap();
    let (main, file) = (folder.path().join("main.toml"), folder.path().join("e.json"));
    fs::write(&file, r#"[{"srv": "_a._tcp.x"}]"#).unwrap();
    for (health, fine) in [
        ("probe = 'tls'", false),
        ("probe = 'http', tls = {}", false),
        ("probe = 'http'", true),
        ("probe = 'tls', tls.name = 'a.test'", true),
        ("probe = 'tls', tls.verify = false", true),
    ] {
        let line = format!("endpoints_file = '{}'\nhealth = {{ {health} }}", file.display());
        fs::write(&main, GOOD.replace("endpoints = \"10.0.0.1:443\"", &line)).unwrap();
        assert_eq!(load_with(&main, []).is_ok(), fine, "{health}");
    }
}

#[test]
fn a_file_that_is_there_is_checked_with_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (main, file) = (folder.path().join("main.toml"), folder.path().join("e.json"));
    let line = format!("endpoints = '10.0.0.1:443'\nendpoints_file = '{}'", file.display());
    fs::write(&main, GOOD.replace("endpoints = \"10.0.0.1:443\"", &line)).unwrap();
    let said = || match load_with(&main, []) {
        Ok(loaded) => format!("fine, read from {:?}", loaded.files),
        Err(problems) => problems.to_string(),
    };
    let without_folder = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(without_folder(said()), "fine, read from [\"main.toml\"]", "not there yet");
    fs::write(&file, r#"["10.0.0.2:443"]"#).unwrap();
    assert_eq!(without_folder(said()), "fine, read from [\"main.toml\"]");
    fs::write(&file, "[\n\"10.0.0.1:443\", \"x\"]").unwrap();
    assert_snapshot!(without_folder(said()), @r#"
    e.json:2:1: endpoints[0]: two endpoints of the pool are called "10.0.0.1:443" (see main.toml:9:13)
    e.json:2:17: endpoints[1]: "x" has no port; expected an address such as "10.0.0.11:5432", or a table with address, name, weight and backup
    "#);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_snapshot!(without_folder(said()), @r#"main.toml:10:18: pool.web.endpoints_file: cannot read "e.json": it is not a regular file"#);
}
