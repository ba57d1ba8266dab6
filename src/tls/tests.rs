//! The certificates of a route from outside: what is loaded, who gets what, and what becomes of files that change.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use rustls::SignatureScheme as Scheme;

use super::certificates::Certificates;
use super::sample::{self, Folder, SERIAL, bundle, bundle_of, certificate, key, year};
use crate::observe::metrics::Metrics;
use crate::wire::name::{Name, Written};

const ECDSA: &[Scheme] = &[Scheme::ECDSA_NISTP256_SHA256];
const RSA: &[Scheme] = &[Scheme::RSA_PSS_SHA256];
const BOTH: &[Scheme] = &[Scheme::RSA_PSS_SHA256, Scheme::ECDSA_NISTP256_SHA256];
const ED25519: &[Scheme] = &[Scheme::ED25519, Scheme::RSA_PSS_SHA256];

fn name(text: &str) -> Option<Name> {
    match Name::read(text.as_bytes()) {
        Ok(Written::Name(name)) => Some(name),
        _ => None,
    }
}

fn load(paths: &[PathBuf], now: SystemTime) -> (Certificates, Vec<String>) {
    let (certificates, found) = Certificates::load(paths, Vec::new(), None, now);
    (certificates, found.iter().map(|found| found.problem.to_string()).collect())
}

/// Which file serves a client that asks for `asked`: the one whose certificate it gets.
fn served(folder: &Folder, certificates: &Certificates, asked: &str, schemes: &[Scheme], now: SystemTime) -> String {
    let Some(pair) = certificates.find(name(asked).as_ref(), schemes, now) else { return "nobody".into() };
    let leaf = &pair.certified().cert[0];
    let mut files: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let holds = |file: &&PathBuf| {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(file).is_ok_and(|held| held == *leaf)
    };
    files.iter().find(holds).map_or("an older version".into(), |file| sample::file_name(file))
}

#[test]
fn who_gets_what() {
    let folder = Folder::new();
    for (file, names, kind, years) in [
        ("a.pem", &["first.example"][..], "p256", (2020, 2090)),
        ("b.pem", &["first.example"], "rsa", (2020, 2090)),
        ("both-1.pem", &["Both.example", "*.both.example"], "rsa", (2020, 2090)),
        ("both-2.pem", &["both.example"], "p256", (2020, 2090)),
        ("ed.pem", &["ed.example"], "ed25519", (2020, 2090)),
        ("ed-rsa.pem", &["ed.example"], "rsa", (2020, 2090)),
        ("longer.pem", &["two.example"], "p256", (2020, 2091)),
        ("newer.pem", &["two.example"], "p256", (2025, 2090)),
        ("old-ecdsa.pem", &["old.example", "old.wild.example"], "p256", (2010, 2020)),
        ("old-rsa.pem", &["old.example"], "rsa", (2010, 2090)),
        ("later.pem", &["later.example"], "p256", (2080, 2090)),
        ("later-rsa.pem", &["later.example"], "rsa", (2010, 2090)),
        ("gone.pem", &["gone.example"], "p256", (2010, 2020)),
        ("wild.pem", &["*.wild.example"], "p256", (2020, 2090)),
        ("odd.pem", &["odd.example", "f*.odd.example", "192.0.2.1"], "p256", (2020, 2090)),
    ] {
        folder.write(file, bundle_of(names, kind, years));
    }
    let (certificates, problems) = load(&[folder.path()], year(2030));
    assert_eq!(problems, [""; 0]);
    for (asked, schemes, expected) in [
        ("both.example", BOTH, "both-2.pem"),
        ("both.example", RSA, "both-1.pem"),
        ("BOTH.example.", ECDSA, "both-2.pem"),
        ("www.both.example", BOTH, "both-1.pem"),
        // Nothing that the client can take: the handshake fails, rather than with another name.
        ("www.both.example", ECDSA, "both-1.pem"),
        ("a.www.both.example", BOTH, "a.pem"),
        ("ed.example", ED25519, "ed.pem"),
        ("ed.example", BOTH, "ed-rsa.pem"),
        ("two.example", BOTH, "longer.pem"),
        ("old.example", BOTH, "old-rsa.pem"),
        ("old.example", ECDSA, "old-ecdsa.pem"),
        ("later.example", BOTH, "later-rsa.pem"),
        ("gone.example", BOTH, "gone.pem"),
        ("a.wild.example", ECDSA, "wild.pem"),
        ("wild.example", ECDSA, "a.pem"),
        // Its own has expired, and a wildcard has it too.
        ("old.wild.example", ECDSA, "wild.pem"),
        ("four.odd.example", ECDSA, "a.pem"),
        ("192.0.2.1", ECDSA, "a.pem"),
        ("unknown.example", BOTH, "a.pem"),
        ("unknown.example", RSA, "b.pem"),
        ("", RSA, "b.pem"),
    ] {
        assert_eq!(served(&folder, &certificates, asked, schemes, year(2030)), expected, "{asked} {schemes:?}");
    }
    let (certificates, _) = Certificates::load(&[folder.path()], Vec::new(), name("www.both.example"), year(2030));
    assert_eq!(served(&folder, &certificates, "", BOTH, year(2030)), "both-1.pem", "a default by name");
    let (certificates, _) = Certificates::load(&[folder.path()], Vec::new(), name("no.example"), year(2030));
    assert_eq!(served(&folder, &certificates, "", BOTH, year(2030)), "a.pem", "a default that nobody has");
    assert!(load(&[], year(2030)).0.find(None, BOTH, year(2030)).is_none());
}

#[test]
fn where_keys_are() {
    let folder = Folder::new();
    let made = key("p256");
    let (pem, key_pem) = (certificate(&["a.example"], &made, (2020, 2090)).pem(), made.serialize_pem());
    folder.write("in-one.pem", key_pem.clone() + &pem);
    folder.write("beside.crt", &pem);
    folder.write("beside.key", &key_pem);
    folder.write("site/fullchain.pem", &pem);
    folder.write("site/privkey.pem", &key_pem);
    folder.write("site/cert.pem", &pem);
    folder.write("other/x.pem", "is not looked for");
    folder.write(".hidden.pem", "is not looked for");
    folder.write("README", "is not looked for");
    let paths = [folder.join("site"), folder.path(), folder.join("beside.crt")];
    let (certificates, problems) = load(&paths, year(2030));
    assert_eq!(problems, [""; 0]);
    let ends = certificates.ends();
    let files: Vec<_> = ends.iter().map(|(source, file, _)| (*source, folder.shown(&file.to_string_lossy()))).collect();
    let expected = [(0, "site/fullchain.pem"), (1, "beside.crt"), (1, "in-one.pem")];
    assert_eq!(files, expected.map(|(source, file)| (source, file.to_owned())));
    assert!(ends.iter().all(|(_, _, end)| *end == year(2090)));
}

#[test]
fn what_ends_soon_is_told_once_a_day() {
    const DAY: Duration = Duration::from_secs(86_400);
    let folder = Folder::new();
    let put = |file: &str, from: SystemTime, life: Duration| {
        let made = key("p256");
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (from.into(), (from + life).into());
        folder.write(file, params.self_signed(&made).unwrap().pem() + &made.serialize_pem());
    };
    put("long.pem", year(2030), DAY * 90);
    put("short.pem", year(2030), DAY * 6);
    let (certificates, _) = load(&[folder.path()], year(2030));
    let told = |after: Duration| {
        let told = certificates.ending(year(2030) + after);
        told.iter().map(|(_, file, _)| folder.shown(&file.to_string_lossy())).collect::<Vec<_>>().join(" ")
    };
    for (days, expected) in
        [(4.4, ""), (4.6, "short.pem"), (4.7, ""), (5.7, "short.pem"), (75.9, "short.pem"), (76.1, "long.pem")]
    {
        assert_eq!(told(DAY.mul_f64(days)), expected, "after {days} days");
    }
    put("long.pem", year(2030), DAY * 300);
    certificates.look(year(2030));
    assert_eq!(told(DAY * 78), "short.pem", "the other one was renewed");
}

#[test]
fn what_is_wrong() {
    let folder = Folder::new();
    let (made, other) = (key("p256"), key("p256"));
    let (pem, key_pem) = (certificate(&["a.example"], &made, (2020, 2090)).pem(), made.serialize_pem());
    let rsa = key("rsa");
    let rsa_pem = certificate(&["a.example"], &rsa, (2020, 2090)).pem();
    let labelled = |label: &str| key_pem.replace("PRIVATE KEY", label);
    for (file, content) in [
        ("a-good.pem", pem.clone() + &key_pem),
        ("cut-off.pem", format!("{pem}{}", &key_pem[..90])),
        ("no-certificate.pem", key_pem.clone()),
        ("no-key.pem", pem.clone()),
        ("empty.pem", String::new()),
        ("key-elsewhere.crt", pem.clone()),
        ("key-elsewhere.key", pem.clone()),
        ("key-of-another.crt", pem.clone()),
        ("key-of-another.key", other.serialize_pem()),
        ("rsa-key.pem", pem.clone() + &rsa.serialize_pem()),
        ("rsa-certificate.pem", rsa_pem + &key_pem),
        ("two-keys.pem", pem.clone() + &key_pem + &key_pem),
        ("encrypted.pem", pem.clone() + &labelled("ENCRYPTED PRIVATE KEY")),
        ("broken-key.pem", pem.clone() + &key_pem.replace("MI", "MJ")),
        ("broken-certificate.pem", pem.replace("MI", "MJ") + &key_pem),
        ("no-name.pem", certificate(&[], &made, (2020, 2090)).pem() + &key_pem),
        ("odd-name.pem", certificate(&["w*.example"], &made, (2020, 2090)).pem() + &key_pem),
        ("address.pem", certificate(&["192.0.2.1"], &made, (2020, 2090)).pem() + &key_pem),
        ("staple.pem", pem.clone() + &key_pem),
        ("staple.ocsp", "no OCSP".to_owned()),
        ("long.pem", " ".repeat((1 << 20) + 1)),
    ] {
        folder.write(file, content);
    }
    fs::create_dir(folder.join("folder.pem")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    let (_, problems) = load(&[folder.path(), folder.join("missing.pem"), folder.join("empty")], year(2030));
    assert_snapshot!(folder.shown(&problems.join("\n")), @r#"
    "missing.pem" cannot be read: No such file or directory (os error 2)
    "empty" has no certificates in it; expected files that end in .pem or .crt
    "broken-certificate.pem" has a certificate that cannot be read
    "broken-key.pem" has a private key that cannot be used; expected RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519
    "cut-off.pem" is not whole PEM
    "empty.pem" has no certificate in PEM
    "encrypted.pem" has a private key that is encrypted; expected one without a pass phrase
    "folder.pem" cannot be read: it is not a regular file
    "key-elsewhere.key" has no private key in PEM
    "key-of-another.key" is not the key of the certificate "key-of-another.crt"
    "long.pem" cannot be read: it has more than 1 MiB
    "no-certificate.pem" has no certificate in PEM
    "no-key.pem" has no private key, and the file "no-key.key" is not there
    "no-name.pem" has a certificate without a usable name; expected a host name among its alternative names
    "odd-name.pem" has a certificate without a usable name; expected a host name among its alternative names
    "rsa-certificate.pem" has a private key that is not the one of its certificate
    "rsa-key.pem" has a private key that is not the one of its certificate
    "staple.ocsp" is not a successful OCSP response in DER; the certificate is used without it
    "two-keys.pem" has more than one private key
    "#);
}

#[test]
fn of_very_many_rsa_keys_the_public_part_is_compared() {
    let folder = Folder::new();
    let (made, other) = (key("rsa"), rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    let pem = certificate(&["a.example"], &made, (2020, 2090)).pem();
    let good = pem.clone() + &made.serialize_pem();
    for number in 0..1_010 {
        folder.write(&format!("{number:04}.pem"), &good);
    }
    folder.write("mismatch.pem", pem + &other.serialize_pem());
    let (certificates, problems) = load(&[folder.path()], year(2030));
    let expected = "\"mismatch.pem\" has a private key that is not the one of its certificate";
    assert_eq!(folder.shown(&problems.join("\n")), expected);
    assert_eq!(certificates.ends().len(), 1_010);
}

/// Certificates in a folder, and what is said of them.
struct Watched {
    folder: Folder,
    certificates: Certificates,
}

impl Watched {
    fn new(files: &[(&str, &str)], paths: impl FnOnce(&Folder) -> Vec<PathBuf>) -> Watched {
        let folder = Folder::new();
        files.iter().for_each(|(file, names)| folder.write(file, bundle(&[names], "p256")));
        let (certificates, problems) = load(&paths(&folder), year(2030));
        assert_eq!(problems, [""; 0]);
        Watched { folder, certificates }
    }

    /// What is said after a look so long after now.
    fn look(&self, later: Duration) -> String {
        let problems = self.certificates.look(SystemTime::now() + later);
        let problems: Vec<String> = problems.1.iter().map(ToString::to_string).collect();
        self.folder.shown(&problems.join("; "))
    }

    fn served(&self, asked: &str) -> String {
        served(&self.folder, &self.certificates, asked, ECDSA, year(2030))
    }
}

const SOON: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(60);

#[test]
fn files_come_change_and_go() {
    let watched = Watched::new(&[("a.pem", "a.example"), ("b.pem", "b.example")], |folder| vec![folder.path()]);
    let held = watched.certificates.find(name("b.example").as_ref(), ECDSA, year(2030)).unwrap();
    assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "b.pem".into()));

    watched.folder.write("b.pem", bundle(&["b.example"], "p256"));
    assert_eq!(watched.served("b.example"), "an older version");
    assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "b.pem".into()));
    assert_ne!(held.certified().cert, watched.certificates.find(None, ECDSA, year(2030)).unwrap().certified().cert);

    watched.folder.write("c.pem", bundle(&["c.example"], "p256"));
    assert_eq!((watched.look(SOON), watched.served("c.example")), (String::new(), "c.pem".into()));

    watched.folder.remove("b.pem");
    assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "an older version".into()), "once");
    assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "a.pem".into()), "twice");
}

#[test]
fn what_is_broken_changes_nothing_and_is_told_once() {
    let watched = Watched::new(&[("a.pem", "a.example"), ("b.pem", "b.example")], |folder| vec![folder.path()]);
    watched.folder.write("b.pem", "broken");
    watched.folder.write("new.pem", "broken too");
    assert_eq!(watched.look(SOON), "", "somebody may be writing");
    let told = "\"b.pem\" has no certificate in PEM; \"new.pem\" has no certificate in PEM";
    assert_eq!((watched.look(LATER), watched.served("b.example")), (told.into(), "an older version".into()));
    assert_eq!(watched.look(LATER), "");
    watched.folder.write("b.pem", bundle(&["b.example"], "p256"));
    assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "b.pem".into()));
}

#[test]
fn a_pair_is_renewed_one_file_after_the_other() {
    let folder = Folder::new();
    let (old, new) = (key("p256"), key("p256"));
    folder.write("a.crt", certificate(&["a.example"], &old, (2020, 2090)).pem());
    folder.write("a.key", old.serialize_pem());
    let (certificates, problems) = load(&[folder.path()], year(2030));
    assert_eq!(problems, [""; 0]);
    let watched = Watched { folder, certificates };
    watched.folder.write("a.key", new.serialize_pem());
    assert_eq!((watched.look(SOON), watched.served("a.example")), (String::new(), "a.crt".into()));
    watched.folder.write("a.crt", certificate(&["a.example"], &new, (2020, 2090)).pem());
    assert_eq!((watched.look(SOON), watched.served("a.example")), (String::new(), "a.crt".into()));
    watched.folder.write("a.key", old.serialize_pem());
    let told = "\"a.key\" is not the key of the certificate \"a.crt\"";
    assert_eq!((watched.look(LATER), watched.served("a.example")), (told.into(), "a.crt".into()));
}

#[test]
fn the_last_ones_stay() {
    let listed = |folder: &Folder| vec![folder.join("a.pem"), folder.join("more")];
    let watched = Watched::new(&[("a.pem", "a.example"), ("more/b.pem", "b.example")], listed);
    watched.folder.remove("a.pem");
    watched.folder.remove("more/b.pem");
    let told = "\"a.pem\" cannot be read: No such file or directory (os error 2); \
                \"more\" has no certificates in it; expected files that end in .pem or .crt";
    assert_eq!(watched.look(SOON), told);
    for _ in 0..3 {
        assert_eq!((watched.look(SOON), watched.served("b.example")), (String::new(), "an older version".into()));
    }
    watched.folder.write("a.pem", bundle(&["a.example"], "p256"));
    assert_eq!((watched.look(SOON), watched.served("a.example")), (String::new(), "a.pem".into()));
}

#[test]
fn staples_are_sent_while_they_hold() {
    let folder = Folder::new();
    folder.write("a.pem", bundle(&["a.example"], "p256"));
    folder.write("a.ocsp", sample::staple(&SERIAL, Some("20310101000000Z")));
    let (certificates, problems) = load(&[folder.path()], year(2030));
    assert_eq!(problems, [""; 0]);
    let stapled = || certificates.find(None, ECDSA, year(2030)).unwrap().certified().ocsp.clone();
    let look = |now| {
        let problems: Vec<String> = certificates.look(now).1.iter().map(ToString::to_string).collect();
        folder.shown(&problems.join("; "))
    };
    assert_eq!(stapled(), Some(sample::staple(&SERIAL, Some("20310101000000Z"))));
    let expired = "\"a.ocsp\" is an OCSP response that has expired; the certificate is used without it";
    assert_eq!((look(year(2032)), stapled()), (expired.into(), None));
    assert_eq!(look(year(2032)), "");
    folder.write("a.ocsp", sample::staple(&[1, 2], None));
    let another = "\"a.ocsp\" is not the OCSP response of the certificate \"a.pem\", which is used without it";
    assert_eq!((look(year(2032)), stapled()), (another.into(), None));
    folder.write("a.ocsp", sample::staple(&SERIAL, None));
    assert_eq!((look(year(2032)), stapled()), (String::new(), Some(sample::staple(&SERIAL, None))));
    folder.remove("a.ocsp");
    assert_eq!((look(year(2032)), stapled()), (String::new(), None));
}

#[test]
fn the_gauges_follow() {
    let watched = Watched::new(&[("a.pem", "a.example"), ("b.pem", "b.example")], |folder| vec![folder.path()]);
    let metrics = Metrics::new();
    watched.certificates.publish(&metrics, "www");
    watched.folder.remove("b.pem");
    watched.look(SOON);
    watched.look(SOON);
    watched.certificates.publish(&metrics, "www");
    let page = watched.folder.shown(&metrics.render());
    for series in [
        "pointsman_certificate_expiry_timestamp_seconds{route=\"www\",file=\"a.pem\"} 3786912000",
        "pointsman_certificate_expiry_timestamp_seconds{route=\"www\",file=\"b.pem\"} NaN",
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not in\n{page}");
    }
}

#[test]
fn a_certificate_that_is_awaited_may_come_later() {
    let folder = Folder::new();
    folder.write("a.pem", bundle(&["a.example"], "p256"));
    let awaited = |file: &str| vec![(name("b.example").unwrap(), folder.join(file))];
    let later = || SystemTime::now() + Duration::from_secs(60);
    let (certificates, found) = Certificates::load(&[folder.join("a.pem")], awaited("b.pem"), None, later());
    assert!(found.is_empty(), "it is not there yet");
    let missing = |asked: &str| certificates.is_missing(name(asked).as_ref());
    assert_eq!(["a.example", "b.example", "c.example", ""].map(missing), [false, true, false, false]);
    folder.write("b.pem", bundle(&["b.example"], "p256"));
    assert_eq!(certificates.look(later()).1, []);
    assert!(!missing("b.example"));
    folder.remove("b.pem");
    for _ in 0..3 {
        assert_eq!(certificates.look(later()).1, [], "another one will come");
    }
    assert!(!missing("b.example"), "until then it stays");
    folder.write("b.pem", "nonsense");
    assert_eq!(certificates.look(later()).1.len(), 1, "what is broken is told of");
    let (alone, _) = Certificates::load(&[], awaited("none.pem"), None, later());
    assert!(alone.is_missing(None) && alone.is_missing(name("c.example").as_ref()), "there is nothing to show");
}
