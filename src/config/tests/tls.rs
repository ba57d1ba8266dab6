//! What is said of `[route.NAME.tls]`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{parse, replaced};
use crate::config::model::{MinVersion, RouteTls};
use crate::config::{Loaded, load_with};

/// What is said of a table with these keys.
fn said(cases: &[(&str, &str)]) -> String {
    let whole = |keys: &str| format!("pool = \"web\"\n[route.www.tls]\n{keys}");
    let cases: Vec<(&str, String)> = cases.iter().map(|(case, keys)| (*case, whole(keys))).collect();
    replaced("pool = \"web\"", &cases)
}

#[test]
fn the_table() {
    assert_snapshot!(said(&[
        ("nothing", ""),
        ("no certificates", "certificates = []"),
        ("paths that are none", "certificates = ['x.pem', '', 5]"),
        ("twice", "certificates = ['/x', '/y', '/x/']"),
        ("a default that is none", "certificates = '/x'\ndefault = '192.0.2.1'"),
        ("another one", "certificates = '/x'\ndefault = '*.example.com'"),
        ("protocols", "certificates = '/x'\nalpn = ['', 'h2', 'h2']"),
        ("no protocols", "certificates = '/x'\nalpn = []"),
        ("version", "certificates = '/x'\nmin_version = '1.1'"),
        ("version as a number", "certificates = '/x'\nmin_version = 1.2"),
        ("unknown", "certificate = '/x'\ncertificates = '/x'"),
        ("good", "certificates = '/x'\ndefault = 'a.example'\nalpn = ['h2']\nmin_version = '1.3'"),
    ]), @r#"
    nothing
      main.toml:8:12: route.www.tls.certificates: the key is missing; expected the absolute path of a file in PEM, or of a folder of such files, or acme for the whole route
    no certificates
      main.toml:9:16: route.www.tls.certificates: without any certificate no client could be served
    paths that are none
      main.toml:9:17: route.www.tls.certificates[0]: "x.pem" is not an absolute path; expected the absolute path of a file in PEM, or of a folder of such files
      main.toml:9:26: route.www.tls.certificates[1]: "" is not an absolute path; expected the absolute path of a file in PEM, or of a folder of such files
      main.toml:9:30: route.www.tls.certificates[2]: found 5; expected the absolute path of a file in PEM, or of a folder of such files
    twice
      main.toml:9:29: route.www.tls.certificates[2]: "/x" is listed twice (see main.toml:9:17)
    a default that is none
      main.toml:10:11: route.www.tls.default: "192.0.2.1" is an address, which clients cannot ask for; expected a name such as "www.example.com"
    another one
      main.toml:10:11: route.www.tls.default: "*.example.com" is not a name: the name has the byte 0x2a; letters, digits, hyphens and underscores are allowed; expected a name such as "www.example.com"
    protocols
      main.toml:10:9: route.www.tls.alpn[0]: "" is not a protocol; expected a protocol such as "h2" or "http/1.1", 1 to 255 bytes
      main.toml:10:19: route.www.tls.alpn[2]: "h2" is listed twice (see main.toml:10:13)
    no protocols
      main.toml:10:8: route.www.tls.alpn: an empty list says nothing; leave the key out to negotiate none
    version
      main.toml:10:15: route.www.tls.min_version: "1.1" is not known; expected one of "1.2", "1.3"; did you mean "1.2"?
    version as a number
      main.toml:10:15: route.www.tls.min_version: found 1.2; expected one of "1.2", "1.3"
    unknown
      main.toml:9:1: route.www.tls.certificate: unknown key; did you mean certificates?
    good
      fine
    "#);
}

#[test]
fn with_the_rest_of_the_route() {
    let tls = "[route.www.tls]\ncertificates = '/x'";
    let cases = [
        ("a protocol that is not taken", format!("alpn = ['h2', 'http/1.1']\n{tls}\nalpn = 'h2'\n")),
        ("all are taken", format!("alpn = 'h2'\n{tls}\nalpn = ['http/1.1', 'h2']\n")),
        ("none is negotiated", format!("alpn = 'h2'\n{tls}\n")),
    ]
    .map(|(case, text)| (case, format!("pool = \"web\"\n{text}")));
    assert_snapshot!(replaced("pool = \"web\"", &cases), @r#"
    a protocol that is not taken
      main.toml:11:8: route.www.tls.alpn: the route asks for "http/1.1", but no client that offers it alone would be taken (see main.toml:8:15)
    all are taken
      fine
    none is negotiated
      fine
    "#);
    let tcp = "bind = '0.0.0.0:443'\nprotocol = 'tcp'\n[route.b]\nlistener = 'edge'\npool = 'web'\nfrom = '10.0.0.1'";
    let cases = [("a listener of tcp", format!("{tcp}\n{}", tls.replace("www", "b")))];
    assert_snapshot!(replaced("bind = \"0.0.0.0:443\"", &cases), @r#"
    a listener of tcp
      main.toml:9:10: route.b.tls: the listener "edge" is tcp: it reads nothing of what clients send (see main.toml:2:11)
      main.toml:13:1: route.www.sni: the listener "edge" is tcp: it reads nothing of what clients send (see main.toml:2:11)
    "#);
}

#[test]
fn what_is_read() {
    let text = |keys: &str| format!("{}[route.www.tls]\ncertificates = ['/x//y', '/z']\n{keys}", super::GOOD);
    let read = |keys: &str| -> RouteTls { parse(&text(keys)).unwrap().config.routes[0].tls.clone().unwrap() };
    let tls = read("");
    assert_eq!(tls.certificates, [PathBuf::from("/x/y"), PathBuf::from("/z")]);
    assert_eq!((tls.default.clone(), tls.alpn.len(), tls.min_version), (None, 0, MinVersion::Tls12));
    assert_eq!(tls, read("min_version = '1.2'"));
    let tls = read("alpn = ['h2', 'http/1.1']\nmin_version = '1.3'\ndefault = 'WWW.example.com.'");
    assert_eq!(tls.alpn, [Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])]);
    assert_eq!(
        (tls.default.map(|name| name.to_string()).as_deref(), tls.min_version),
        (Some("www.example.com"), MinVersion::Tls13)
    );
}

/// A folder with a configuration whose route has these names and keys, and certificates.
pub(super) struct Node(tempfile::TempDir);

impl Node {
    pub(super) fn new(sni: &str, keys: &str) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let text = super::GOOD.replace("\"www.example.com\"", sni);
        let keys = keys.replace("DIR", &folder.path().display().to_string());
        std::fs::write(folder.path().join("main.toml"), format!("{text}[route.www.tls]\n{keys}\n")).unwrap();
        Node(folder)
    }

    /// Puts a certificate for `name` there that ends in `year`, or in so many days.
    pub(super) fn with(self, file: &str, name: &str, ends: Result<i32, u32>) -> Node {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = match ends {
            Ok(year) => date_time_ymd(year, 1, 1),
            Err(days) => date_time_ymd(1970, 1, 1) + SystemTime::UNIX_EPOCH.elapsed().unwrap() + days * DAY,
        };
        self.file(file, &(params.self_signed(&key).unwrap().pem() + &key.serialize_pem()))
    }

    pub(super) fn file(self, file: &str, content: &str) -> Node {
        std::fs::write(self.0.path().join(file), content).unwrap();
        self
    }

    pub(super) fn load(&self) -> Result<Loaded, String> {
        load_with(&self.0.path().join("main.toml"), []).map_err(|problems| self.shown(&problems))
    }

    fn shown(&self, said: &dyn ToString) -> String {
        let folder = self.0.path().display().to_string();
        said.to_string().replace(&format!("{folder}/"), "").replace(&folder, "DIR")
    }

    /// What is warned of.
    pub(super) fn warned(&self) -> String {
        let loaded = self.load().unwrap();
        loaded.warnings.iter().map(|warning| self.shown(warning)).collect::<Vec<_>>().join("\n")
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn files_are_checked() {
    let node = Node::new("'a.example'", "certificates = [\n'DIR/good.pem',\n'DIR/bad.pem',\n'DIR/none']")
        .with("good.pem", "a.example", Ok(2090))
        .file("bad.pem", "bad");
    assert_snapshot!(node.load().unwrap_err(), @r#"
    main.toml:13:1: route.www.tls.certificates[1]: "bad.pem" has no certificate in PEM
    main.toml:14:1: route.www.tls.certificates[2]: "none" cannot be read: No such file or directory (os error 2)
    "#);
    let node = Node::new("'a.example'", "certificates = 'DIR/good.pem'\ndefault = 'b.example'").with(
        "good.pem",
        "a.example",
        Ok(2090),
    );
    assert_snapshot!(node.load().unwrap_err(), @r#"
    main.toml:12:11: route.www.tls.default: no certificate has the name "b.example"
    "#);
    let node = Node::new("'a.example'", "certificates = 'DIR/good.pem'\ndefault = 'a.example'").with(
        "good.pem",
        "a.example",
        Ok(2090),
    );
    let loaded = node.load().unwrap();
    assert!(loaded.warnings.is_empty());
    let tls = loaded.config.routes[0].tls.clone().unwrap();
    assert_eq!(tls.loaded.ends().first().map(|(_, file, _)| file.as_path()), Some(&*node.0.path().join("good.pem")));
    assert_eq!(tls.loaded.ends().len(), 1);
}

#[test]
fn what_is_worth_a_word_keeps_nothing_from_loading() {
    let node = Node::new("['a.example', 'b.example', '*.c.example']", "certificates = [\n'DIR/a.pem',\n'DIR/old.pem']")
        .with("a.pem", "a.example", Ok(2090))
        .with("old.pem", "old.example", Ok(2020))
        .file("a.ocsp", "no OCSP");
    assert_snapshot!(node.warned(), @r#"
    main.toml:6:21: route.www.sni: no certificate has the name "b.example"; its clients get the default certificate
    main.toml:12:1: route.www.tls.certificates[0]: "a.ocsp" is not a successful OCSP response in DER; the certificate is used without it
    main.toml:13:1: route.www.tls.certificates[1]: "old.pem": certificate expired on 2020-01-01
    "#);
    for (days, warned) in [(10, true), (13, true), (15, false)] {
        let node = Node::new("'a.example'", "certificates = 'DIR/a.pem'").with("a.pem", "a.example", Err(days));
        assert_eq!(
            node.warned().contains(&format!("\"a.pem\": certificate expires in {} days", days - 1)),
            warned,
            "{days}"
        );
    }
}

#[test]
fn a_text_reads_no_files() {
    let text = format!("{}[route.www.tls]\ncertificates = '/nowhere/to/be/found'", super::GOOD);
    assert!(parse(&text).is_ok());
}
