//! What those who look for weaknesses say of a route on which TLS ends here, as it is by default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::harness::Balancer;
use crate::harness::answering::{Authority, Server, Speaks, http};
use crate::harness::process::run_if_there;

const DAY: Duration = Duration::from_secs(86_400);

/// What testssl.sh may complain of.
const EXPECTED: [(&str, &str); 6] = [
    // It would like to use GOST.
    ("engine_problem", "the system's OpenSSL"),
    ("cert_revocation", "an authority made for the test has neither CRL nor OCSP"),
    // Only what seals and authenticates at once is offered, and a client knows whether it has AES in hardware.
    ("cipher_order", "the client's order is followed"),
    ("cipher_order-tls1_2", "the same, as newer versions call it"),
    ("overall_grade", "goes by the certificate"),
    // Other clients show that they come back with their sessions.
    ("sessionresumption_ticket", "it hangs up after the handshake, at times before the ticket has come"),
];

/// What testssl.sh must have found: one of these ids, how it takes it, and a part of what it says.
const FOUND: [(&[&str], &str, &str); 36] = [
    (&["SSLv2"], "OK", "not offered"),
    (&["SSLv3"], "OK", "not offered"),
    (&["TLS1"], "INFO", "not offered"),
    (&["TLS1_1"], "INFO", "not offered"),
    (&["TLS1_2"], "OK", "offered"),
    (&["TLS1_3"], "OK", "offered with final"),
    (&["cipherlist_NULL"], "OK", "not offered"),
    (&["cipherlist_aNULL"], "OK", "not offered"),
    (&["cipherlist_EXPORT"], "OK", "not offered"),
    (&["cipherlist_LOW"], "OK", "not offered"),
    (&["cipherlist_3DES_IDEA"], "INFO", "not offered"),
    (&["cipherlist_AVERAGE", "cipherlist_OBSOLETED"], "INFO", "not offered"),
    (&["cipherlist_STRONG", "cipherlist_STRONG_FS"], "OK", "offered"),
    (&["PFS", "FS"], "OK", "offered"),
    (&["PFS_ECDHE_curves", "FS_ECDHE_curves"], "OK", "X25519"),
    (&["protocol_negotiated"], "OK", "TLS1.3"),
    (&["TLS_session_ticket"], "INFO", "valid for 43200 seconds"),
    (&["cert_numbers"], "INFO", "2"),
    (&["cert_chain_of_trust <cert#1>"], "OK", "passed"),
    (&["cert_chain_of_trust <cert#2>"], "OK", "passed"),
    (&["heartbleed"], "OK", "no heartbeat extension"),
    (&["CCS"], "OK", "not vulnerable"),
    (&["ticketbleed"], "OK", "not vulnerable"),
    (&["ROBOT"], "OK", "not vulnerable"),
    (&["secure_renego"], "OK", "supported"),
    (&["secure_client_renego"], "OK", "not vulnerable"),
    (&["CRIME_TLS"], "OK", "not vulnerable"),
    (&["POODLE_SSL"], "OK", "not vulnerable"),
    (&["fallback_SCSV"], "OK", "no protocol below TLS 1.2"),
    (&["SWEET32"], "OK", "not vulnerable"),
    (&["FREAK"], "OK", "not vulnerable"),
    (&["DROWN"], "OK", "not vulnerable"),
    (&["LOGJAM"], "OK", "not vulnerable"),
    (&["BEAST"], "OK", "not vulnerable"),
    (&["LUCKY13"], "OK", "not vulnerable"),
    (&["RC4"], "OK", "not vulnerable"),
];

/// Clients that testssl.sh knows and that know no TLS 1.2.
const TOO_OLD: [&str; 4] = ["ie_6_xp", "ie_8_xp", "ie_8_win7", "java_7u25"];

/// One finding of testssl.sh.
type Finding = BTreeMap<String, String>;

/// A route with an ECDSA and an RSA certificate for a.test, in front of a server that knows HTTP.
struct Scene {
    authority: Authority,
    balancer: Balancer,
    _server: Server,
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        // With what scanners expect of a certificate of these days.
        let sign = |kind: &str, key: KeyPair| {
            authority.sign_as(kind, "a.test", key, |params| {
                params.distinguished_name.push(rcgen::DnType::CommonName, "a.test");
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now - DAY;
                params.not_after = params.not_before + 90 * DAY;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })
        };
        let ecdsa = sign("ecdsa", KeyPair::generate().unwrap());
        let rsa = sign("rsa", KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
        let server = Server::start(Speaks::Once, &http("200 OK", "a page"));
        let balancer = Balancer::terminating(&[&ecdsa, &rsa], "", server.address(), "");
        Scene { authority, balancer, _server: server, folder }
    }

    fn edge(&self) -> SocketAddr {
        self.balancer.address("edge")
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// No scanner has found what nobody expected.
    fn assert_outcomes(&self) {
        for record in self.balancer.log().lines() {
            let outcome = record["outcome"].as_str().unwrap();
            // testssl.sh sends a hello with wrong lengths where a ticket is not as long as it thinks.
            let known =
                ["ok", "handshake_failed", "client_gone", "client_reset", "not_tls", "hello_malformed", "tls_broken"];
            assert!(known.contains(&outcome), "{record}");
        }
    }
}

/// What testssl.sh finds with these checks, and what it says in all; `None` where it is not installed.
fn testssl(scene: &Scene, checks: &[&str]) -> Option<(Vec<Finding>, String)> {
    let file = scene.file("findings.json");
    let output = run_if_there(
        Command::new("testssl")
            .args([
                "--quiet",
                "--color=0",
                "--warnings=batch",
                "--nodns=none",
                "--openssl-timeout=10",
                "--ip=127.0.0.1",
            ])
            .args(["--add-ca", &scene.authority.file(), "--jsonfile", &file])
            .args(checks)
            .arg(format!("a.test:{}", scene.edge().port())),
    )?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let findings = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{error}: {said}"));
    Some((serde_json::from_str(&findings).unwrap_or_else(|error| panic!("{error}: {said}")), said))
}

#[test]
fn testssl_has_nothing_to_complain_of() {
    let scene = Scene::new();
    let checks = ["--protocols", "--standard", "--pfs", "--server-preference", "--server-defaults", "--vulnerable"];
    let Some((findings, said)) = testssl(&scene, &checks) else { return };
    let id = |finding: &Finding| finding["id"].split(" <").next().unwrap().to_owned();
    // WARN stands for what could not be looked at.
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| !["OK", "INFO", "DEBUG", "LOW"].contains(&finding["severity"].as_str()))
        .filter(|finding| !EXPECTED.iter().any(|(expected, _)| *expected == id(finding)))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for (ids, severity, part) in FOUND {
        let found = findings.iter().find(|finding| {
            ids.iter().any(|id| finding["id"] == *id)
                && finding["severity"] == severity
                && finding["finding"].contains(part)
        });
        assert!(found.is_some(), "{ids:?} is not {severity} with {part:?}: {said}");
    }
    scene.assert_outcomes();
}

#[test]
fn every_client_that_testssl_plays_gets_in() {
    let scene = Scene::new();
    let Some((findings, said)) = testssl(&scene, &["--client-simulation"]) else { return };
    let played = findings.iter().filter_map(|found| Some((found["id"].strip_prefix("clientsimulation-")?, found)));
    let played: Vec<_> = played.collect();
    assert!(played.len() >= 30, "{said}");
    for (client, found) in played {
        let got_in = found["finding"].starts_with("TLSv1.");
        assert!(got_in != TOO_OLD.contains(&client), "{client}: {found:?}");
    }
}

#[test]
fn sslscan_finds_two_versions_and_nothing_weak() {
    let scene = Scene::new();
    let at = scene.edge().to_string();
    let Some(output) = run_if_there(Command::new("sslscan").args(["--no-colour", "--sni-name=a.test", "--xml=-", &at]))
    else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let of = |element: &str| said.lines().filter(|line| line.contains(&format!("<{element} "))).collect::<Vec<_>>();
    let enabled: Vec<_> = of("protocol").into_iter().filter(|line| line.contains("enabled=\"1\"")).collect();
    assert_eq!((of("protocol").len(), enabled.len()), (6, 2), "{said}");
    assert!(enabled.iter().zip(["1.2", "1.3"]).all(|(line, version)| line.contains(version)), "{enabled:?}");
    assert!(said.contains("<renegotiation supported=\"0\""), "{said}");
    assert!(!said.contains("vulnerable=\"1\"") && !of("heartbleed").is_empty(), "{said}");
    assert!(!said.contains("<compression supported=\"1\""), "{said}");
    let ciphers = of("cipher");
    assert_eq!(ciphers.len(), 9, "{said}");
    for cipher in ciphers {
        assert!(["GCM", "POLY1305"].iter().any(|kind| cipher.contains(kind)), "{cipher}");
        assert!(["TLS_", "ECDHE-"].iter().any(|kind| cipher.contains(&format!("cipher=\"{kind}"))), "{cipher}");
    }
    let groups = of("group");
    assert!(["x25519", "secp256r1", "secp384r1"].iter().all(|name| groups.iter().any(|group| group.contains(name))));
    scene.assert_outcomes();
}
