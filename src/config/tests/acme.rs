//! What is said of `[acme.NAME]`, and of routes that refer to one.

use std::path::Path;

use insta::assert_snapshot;

use super::{alone, parse, replaced};
use crate::config::model::{Challenge, KeyKind};
use crate::config::{Config, load_with};

/// An account that nothing is wrong with.
const ACCOUNT: &str = "terms_agreed = true\nstorage = '/s'";

/// What is said of an account with these keys, which the one route refers to.
fn said(cases: &[(&str, &str)]) -> String {
    let whole = |keys: &str| format!("pool = 'web'\nacme = 'ca'\n[acme.ca]\n{keys}");
    let cases: Vec<(&str, String)> = cases.iter().map(|(case, keys)| (*case, whole(keys))).collect();
    replaced("pool = \"web\"", &cases)
}

#[test]
fn the_table() {
    let with = |keys: &str| format!("{ACCOUNT}\n{keys}");
    let cases = [
        ("nothing", String::new()),
        ("terms that are not agreed to", "terms_agreed = false\nstorage = '/s'".to_owned()),
        ("terms as a text", "terms_agreed = 'yes'\nstorage = '/s'".to_owned()),
        ("a storage that moves", "terms_agreed = true\nstorage = 's'".to_owned()),
        ("a directory with a slip", with("directory = 'letsencrypt-stagin'")),
        ("a directory in clear", with("directory = 'http://ca.example/dir'")),
        ("a directory that is none", with("directory = ['https://ca.example/']")),
        ("nobody trusted", with("ca = []")),
        ("contacts", with("contact = ['a@b.example', 'mailto:a@b.example', 'a', 'a@b@c', '']")),
        ("no contacts", with("contact = []")),
        ("a challenge that is none", with("challenge = 'dns-01'")),
        ("an address without use", with("http_bind = '0.0.0.0:80'")),
        ("addresses", with("challenge = 'http-01'\nhttp_bind = ['0.0.0.0', '[::]:80', '[::]:80']")),
        ("no addresses", with("challenge = 'http-01'\nhttp_bind = []")),
        ("a key that is none", with("key = 'ecdsa-p265'")),
        ("half a binding", with("eab = { key_id = '' }")),
        ("a binding", with("eab = { key_id = 'x', hmac_file = 'y', mac = 'z' }")),
        ("unknown", with("email = 'a@b.example'")),
        ("good", with("directory = 'https://ca.example/dir'\ncontact = 'a@b.example'\nkey = 'rsa-2048'")),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(case, keys)| (*case, keys.as_str())).collect();
    assert_snapshot!(said(&cases), @r#"
    nothing
      main.toml:9:7: acme.ca.terms_agreed: the key is missing; expected true, which says that you agree to the terms of the authority
      main.toml:9:7: acme.ca.storage: the key is missing; expected the absolute path of a folder such as "/var/lib/pointsman/acme"
    terms that are not agreed to
      main.toml:10:16: acme.ca.terms_agreed: no authority gives certificates to those who do not agree to its terms; expected true, which says that you agree to the terms of the authority
    terms as a text
      main.toml:10:16: acme.ca.terms_agreed: found "yes"; expected true or false
    a storage that moves
      main.toml:11:11: acme.ca.storage: "s" is not an absolute path; expected the absolute path of a folder such as "/var/lib/pointsman/acme"
    a directory with a slip
      main.toml:12:13: acme.ca.directory: "letsencrypt-stagin" is neither a known word nor an https URL; expected "letsencrypt", "letsencrypt-staging" or the https URL of a directory; did you mean "letsencrypt-staging"?
    a directory in clear
      main.toml:12:13: acme.ca.directory: "http://ca.example/dir" is not an https URL; expected "letsencrypt", "letsencrypt-staging" or the https URL of a directory
    a directory that is none
      main.toml:12:13: acme.ca.directory: found a list; expected "letsencrypt", "letsencrypt-staging" or the https URL of a directory
    nobody trusted
      main.toml:12:6: acme.ca.ca: nobody would be trusted
    contacts
      main.toml:12:27: acme.ca.contact[1]: "mailto:a@b.example" is not an e-mail address; expected an e-mail address such as "admin@example.com"
      main.toml:12:49: acme.ca.contact[2]: "a" is not an e-mail address; expected an e-mail address such as "admin@example.com"
      main.toml:12:54: acme.ca.contact[3]: "a@b@c" is not an e-mail address; expected an e-mail address such as "admin@example.com"
      main.toml:12:63: acme.ca.contact[4]: "" is not an e-mail address; expected an e-mail address such as "admin@example.com"
    no contacts
      main.toml:12:11: acme.ca.contact: an empty list says nothing; leave the key out to give no address
    a challenge that is none
      main.toml:12:13: acme.ca.challenge: "dns-01" is not known; expected one of "tls-alpn-01", "http-01"
    an address without use
      main.toml:12:1: acme.ca.http_bind: only challenge = "http-01" is answered over HTTP
    addresses
      main.toml:13:14: acme.ca.http_bind[0]: "0.0.0.0" has no port; expected an address such as "0.0.0.0:80" or "[::]:80"
      main.toml:13:36: acme.ca.http_bind[2]: [::]:80 is listed twice (see main.toml:13:25)
    no addresses
      main.toml:13:13: acme.ca.http_bind: without an address no challenge could be answered
    a key that is none
      main.toml:12:7: acme.ca.key: "ecdsa-p265" is not known; expected one of "ecdsa-p256", "ecdsa-p384", "rsa-2048"; did you mean "ecdsa-p256"?
    half a binding
      main.toml:12:1: acme.ca.eab.hmac_file: the key is missing; expected the absolute path of a file that has the key in base64url
      main.toml:12:18: acme.ca.eab.key_id: "" is no name; expected the name that the authority has given to the key
    a binding
      main.toml:12:35: acme.ca.eab.hmac_file: "y" is not an absolute path; expected the absolute path of a file that has the key in base64url
      main.toml:12:40: acme.ca.eab.mac: unknown key
    unknown
      main.toml:12:1: acme.ca.email: unknown key
    good
      fine
    "#);
}

#[test]
fn routes() {
    let account = format!("[acme.ca]\n{ACCOUNT}");
    let other = "[acme.ac]\nterms_agreed = true\nstorage = '/t'";
    let cases = [
        ("a slip", format!("sni = 'a.example'\nacme = 'cs'\n{account}")),
        ("no account", "sni = 'a.example'\nacme = 'ca'".to_owned()),
        ("not text", format!("sni = 'a.example'\nacme = true\n{account}")),
        ("an account without use", format!("sni = 'a.example'\nacme = 'ca'\n{account}\n{other}")),
        ("a table without accounts", "sni = 'a.example'\n[acme]".to_owned()),
        ("only a wildcard", format!("sni = ['*.a.example', '**.b.example']\nacme = 'ca'\n{account}")),
        ("no name", format!("acme = 'ca'\n{account}")),
        ("a wildcard beside a name", format!("sni = ['a.example', '*.a.example']\nacme = 'ca'\n{account}")),
        ("a name that is too long", format!("sni = '{}a'\nacme = 'ca'\n{account}", "a.".repeat(115))),
        ("no certificates at all", "sni = 'a.example'\ntls = {}".to_owned()),
        ("those that are obtained", format!("sni = 'a.example'\nacme = 'ca'\ntls = {{}}\n{account}")),
        ("both", format!("sni = 'a.example'\nacme = 'ca'\ntls.certificates = '/x'\n{account}")),
        (
            "two accounts for one name",
            format!(
                "sni = 'a.example'\nacme = 'ca'\n[route.b]\nlistener = 'edge'\nsni = ['b.example', 'a.example']\n\
                 alpn = 'h2'\npool = 'web'\nacme = 'ac'\n{account}\n{other}"
            ),
        ),
    ];
    let text = "sni = \"www.example.com\"\npool = \"web\"";
    let cases = cases.map(|(case, keys)| (case, format!("pool = 'web'\n{keys}")));
    assert_snapshot!(replaced(text, &cases), @r#"
    a slip
      main.toml:8:8: route.www.acme: there is no acme.cs; did you mean "ca"?
    no account
      main.toml:8:8: route.www.acme: there is no acme.ca
    not text
      main.toml:8:8: route.www.acme: found true; expected the name of a table acme.NAME
    an account without use
      main.toml:12:7: acme.ac: no route has certificates obtained by this account
    a table without accounts
      main.toml: acme: there is no acme; expected at least one [acme.NAME]
    only a wildcard
      main.toml:7:8: route.www.sni: certificates for wildcards cannot be obtained (that takes dns-01), and the route has no exact name
    no name
      main.toml:7:1: route.www.acme: the route has no exact name to obtain a certificate for; expected a name in sni
    a wildcard beside a name
      fine
    a name that is too long
      main.toml:7:7: route.www.sni: "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a."... has more than 230 bytes: no file can be called after it
    no certificates at all
      main.toml:8:1: route.www.tls.certificates: the key is missing; expected the absolute path of a file in PEM, or of a folder of such files, or acme for the whole route
    those that are obtained
      fine
    both
      fine
    two accounts for one name
      main.toml:11:21: route.b.sni: the certificate of "a.example" is obtained by acme.ca already (see main.toml:7:7)
    "#);
}

#[test]
fn addresses_and_protocols() {
    let rest =
        "route.a = { listener = 'a', pool = 'a', sni = 'a.example', acme = 'ca' }\npool.a.endpoints = '10.0.0.1:1'";
    let http = "terms_agreed = true, storage = '/s', challenge = 'http-01'";
    let cases = [
        ("a listener has it", format!("listener.a.bind = ['[::]:443', '[::]:80']\nacme.ca = {{ {http} }}\n{rest}")),
        (
            "the pages have it",
            format!(
                "listener.a.bind = '[::]:443'\nadmin.http = '127.0.0.1:80'\n\
                 acme.ca = {{ {http}, http_bind = '127.0.0.1:80' }}\n{rest}"
            ),
        ),
        (
            "accounts share it",
            format!(
                "listener.a.bind = '[::]:443'\nacme.ca = {{ {http} }}\nacme.ac = {{ {} }}\n{rest}\n\
                 route.b = {{ listener = 'a', pool = 'a', sni = 'b.example', acme = 'ac' }}",
                http.replace("/s", "/t")
            ),
        ),
        (
            "a listener of tcp",
            format!("listener.a = {{ bind = '[::]:443', protocol = 'tcp' }}\nacme.ca = {{ {http} }}\n{rest}"),
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(case, text)| (*case, text.as_str())).collect();
    assert_snapshot!(alone(&cases), @r#"
    a listener has it
      main.toml:1:32: listener.a.bind[1]: [::]:80 is already listened on by acme.ca.http_bind (see main.toml:2:6)
    the pages have it
      main.toml:3:85: acme.ca.http_bind: 127.0.0.1:80 is already listened on by admin.http (see main.toml:2:14)
    accounts share it
      fine
    a listener of tcp
      main.toml:3:41: route.a.sni: the listener "a" is tcp: it reads nothing of what clients send (see main.toml:1:10)
      main.toml:3:60: route.a.acme: the listener "a" is tcp: it reads nothing of what clients send (see main.toml:1:10)
    "#);
}

#[test]
fn accounts_are_kept_apart() {
    let text = |one: &str, other: &str| {
        format!(
            "listener.a.bind = '[::]:443'\npool.a.endpoints = '10.0.0.1:1'\n\
             route.a = {{ listener = 'a', pool = 'a', sni = 'a.example', acme = 'ca' }}\n\
             route.b = {{ listener = 'a', pool = 'a', sni = 'b.example', acme = 'ac' }}\n\
             acme.ca = {{ terms_agreed = true, {one} }}\nacme.ac = {{ terms_agreed = true, {other} }}"
        )
    };
    let directory = |url: &str| format!("storage = '/s', directory = '{url}'");
    let dash = directory("https://ca.example/a-b");
    let cases = [
        ("one directory", text("storage = '/s'", "storage = '/s/', directory = 'letsencrypt'")),
        ("one file", text(&dash, &directory("https://ca.example/a/b"))),
        ("two files", text(&dash, &directory("https://ca.example/a"))),
        ("two folders", text("storage = '/s'", "storage = '/t'")),
        ("a directory that is none, and no folder", text(&directory("x"), &directory("y"))),
        ("no folder", text("key = 'rsa-2048'", "key = 'rsa-2048'")),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(case, text)| (*case, text.as_str())).collect();
    assert_snapshot!(alone(&cases), @r#"
    one directory
      main.toml:6:44: acme.ac.storage: the file accounts/acme-v02.api.letsencrypt.org-directory.json would be that of acme.ca as well; expected another folder (see main.toml:5:44)
    one file
      main.toml:6:44: acme.ac.storage: the file accounts/ca.example-a-b.json would be that of acme.ca as well; expected another folder (see main.toml:5:44)
    two files
      fine
    two folders
      fine
    a directory that is none, and no folder
      main.toml:5:62: acme.ca.directory: "x" is neither a known word nor an https URL; expected "letsencrypt", "letsencrypt-staging" or the https URL of a directory
      main.toml:6:62: acme.ac.directory: "y" is neither a known word nor an https URL; expected "letsencrypt", "letsencrypt-staging" or the https URL of a directory
    no folder
      main.toml:5:6: acme.ca.storage: the key is missing; expected the absolute path of a folder such as "/var/lib/pointsman/acme"
      main.toml:6:6: acme.ac.storage: the key is missing; expected the absolute path of a folder such as "/var/lib/pointsman/acme"
    "#);
}

fn config(keys: &str) -> Config {
    let text =
        format!("{}acme = 'ca'\n[acme.ca]\n{ACCOUNT}\n{keys}", super::GOOD.replace("pool = \"web\"", "pool = 'web'"));
    let text = text.replace(
        "[pool.web]\nendpoints = \"10.0.0.1:443\"\nacme = 'ca'",
        "acme = 'ca'\n[pool.web]\nendpoints = \"10.0.0.1:443\"",
    );
    parse(&text).unwrap_or_else(|problems| panic!("{problems}")).config
}

#[test]
fn what_is_read() {
    let plain = config("").acme.remove(0);
    assert_eq!((plain.name.as_str(), plain.storage.as_path()), ("ca", Path::new("/s")));
    assert_eq!(plain.directory, "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!((&plain.challenge, plain.key), (&Challenge::TlsAlpn01, KeyKind::EcdsaP256));
    let staging = config("directory = 'letsencrypt-staging'\nchallenge = 'http-01'").acme.remove(0);
    assert_eq!(staging.directory, "https://acme-staging-v02.api.letsencrypt.org/directory");
    let bind = ["0.0.0.0:80", "[::]:80"].map(|address| address.parse().unwrap()).to_vec();
    assert_eq!(staging.challenge, Challenge::Http01 { bind, by_default: true });
    let written = config("challenge = 'http-01'\nhttp_bind = '[::]:80'").acme.remove(0);
    let bind = vec!["[::]:80".parse().unwrap()];
    assert_eq!(written.challenge, Challenge::Http01 { bind, by_default: false });
    let names = config("").acme_names(0);
    assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["www.example.com"]);
}

#[test]
fn files_are_checked_and_certificates_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, shown) = (folder.path().join("main.toml"), folder.path().display().to_string());
    let said = |keys: &str| {
        let route = "listener = 'edge', sni = ['a.example', '*.a.example'], pool = 'web', acme = 'ca', tls = {}";
        let text = format!(
            "listener.edge.bind = '127.0.0.1:0'\nroute.a = {{ {route} }}\npool.web.endpoints = '10.0.0.1:1'\n\
             [acme.ca]\nterms_agreed = true\n{}",
            keys.replace("DIR", &shown)
        );
        std::fs::write(&path, text).unwrap();
        let told = match load_with(&path, []) {
            Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(problems) => problems.to_string(),
        };
        told.replace(&format!("{shown}/"), "").replace(&shown, "DIR")
    };
    std::fs::write(folder.path().join("bad.key"), "!").unwrap();
    assert_snapshot!(said("storage = 'DIR/s'"), @r#"
    main.toml:2:52: route.a.sni: certificates for wildcards cannot be obtained (that takes dns-01): clients of "*.a.example" get the default certificate
    main.toml:2:89: route.a.acme: still to be obtained, once pointsman runs: certificates for "a.example"
    "#);
    assert_snapshot!(said("storage = 'DIR/main.toml'\neab = { key_id = 'x', hmac_file = 'DIR/none' }"), @r#"
    main.toml:6:11: acme.ca.storage: "main.toml" is not a folder
    main.toml:7:35: acme.ca.eab.hmac_file: "none" cannot be read: No such file or directory (os error 2)
    "#);
    assert_snapshot!(said("storage = 'DIR/s'\neab = { key_id = 'x', hmac_file = 'DIR/bad.key' }"), @r#"
    main.toml:7:35: acme.ca.eab.hmac_file: "bad.key" has no key in it; expected one line in base64url
    "#);
    // What is broken there is replaced, and keeps nothing from starting.
    std::fs::create_dir_all(folder.path().join("s/certificates")).unwrap();
    std::fs::write(folder.path().join("s/certificates/a.example.pem"), "nonsense").unwrap();
    assert_snapshot!(said("storage = 'DIR/s'"), @r#"
    main.toml:2:52: route.a.sni: certificates for wildcards cannot be obtained (that takes dns-01): clients of "*.a.example" get the default certificate
    main.toml:2:89: route.a.acme: still to be obtained, once pointsman runs: certificates for "a.example"
    "#);
}
