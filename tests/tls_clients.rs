//! Clients with a TLS library of their own, on a route where TLS ends here: each verifies the certificate, gets a page of
//! a server that knows no TLS, and comes back with its session.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::answering::{Authority, Server, Speaks, http};
use crate::harness::process::run_if_there;
use crate::harness::{Balancer, Line, eventually};

/// Programs that ask twice, what they are in (see the file of each), and whether they say why they leave.
const CLIENTS: [(&str, &str, bool); 3] =
    [("java", "Client.java", true), ("node", "client.js", false), ("python3", "client.py", true)];
const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// A route for a.test in front of a server that always has the same page.
struct Scene {
    authority: Authority,
    balancer: Balancer,
    _server: Server,
    folder: TempDir,
}

impl Scene {
    fn new(page: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let identity = authority.sign("a.test");
        let server = Server::start(Speaks::Once, &http("200 OK", page));
        let balancer = Balancer::terminating(&[&identity], "alpn = ['http/1.1']", server.address(), "");
        Scene { authority, balancer, _server: server, folder }
    }

    fn port(&self) -> String {
        self.balancer.address("edge").port().to_string()
    }
}

#[test]
fn every_client_gets_the_page_and_resumes_its_session() {
    std::thread::scope(|scope| {
        for (program, file, says_why) in CLIENTS {
            scope.spawn(move || ask_twice(program, file, says_why));
        }
    });
}

fn ask_twice(program: &str, file: &str, says_why: bool) {
    let scene = Scene::new("a page");
    let path = format!("{}/tests/data/clients/{file}", env!("CARGO_MANIFEST_DIR"));
    let port = scene.port();
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let ran = run_if_there(Command::new(program).args([&path, &scene.authority.file(), &port, version]));
        let Some(output) = ran else { return };
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = scene.balancer.log().lines();
        assert_eq!(said, format!("TLSv{version} a page\n").repeat(2), "{program}: {error}; log: {log:#?}");
        let records = scene.balancer.records(2 * (round + 1));
        for (record, resumed) in records[2 * round..].iter().zip([false, true]) {
            assert_eq!(record["outcome"], "ok", "{program}: {record}");
            assert_agreed(program, record, version, resumed);
        }
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Authority::new(elsewhere.path());
    let output = run_if_there(Command::new(program).args([&path, &stranger.file(), &port, "1.3"])).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{program} trusts another authority: {output:?}");
    let record = scene.balancer.records(5)[4].clone();
    if says_why {
        assert_eq!((&record["outcome"], &record["by"]), (&"handshake_failed".into(), &"client".into()), "{record}");
        assert!(record["tls_error"].as_str().is_some_and(|why| why.contains("alert")), "{program}: {record}");
    }
}

fn assert_agreed(client: &str, record: &Line, version: &str, resumed: bool) {
    assert_eq!(
        (&record["tls_version"], &record["tls_resumed"]),
        (&version.into(), &resumed.into()),
        "{client}: {record}"
    );
    // Of TLS 1.2 a session is resumed without any group.
    let group = record["tls_group"].as_str();
    let is_known = group.is_some_and(|group| ["X25519", "X25519MLKEM768"].contains(&group));
    assert!(is_known || (version == "1.2" && resumed && group.is_none()), "{client}: {record}");
    assert!(record["bytes_up"].as_u64() > Some(0) && record["bytes_down"].as_u64() > Some(0), "{client}: {record}");
}

#[test]
fn chromium_shows_the_page() {
    // A page within the page within the page: of the same name as one around it there is none.
    let scene = Scene::new("<p>a page</p><iframe src='/one'></iframe><iframe src='/two'></iframe>");
    let Some(()) = trust(&scene.authority.file(), scene.folder.path()) else { return };
    for (version, group) in [("1.3", "X25519MLKEM768"), ("1.2", "X25519")] {
        let Some(output) = browse(&scene, scene.folder.path(), version) else { return };
        let (shown, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            shown.contains("<p>a page</p>"),
            "{version}: {shown}; {told}; log: {:#?}",
            scene.balancer.log().lines()
        );
        // Each on a connection that is not used again; what the browser opened in vain may come too.
        let records = eventually("five pages", || {
            let lines = scene.balancer.log().lines().into_iter().filter(|line| line["tls"][0] == version);
            let pages: Vec<_> = lines.filter(|line| line["bytes_down"].as_u64() > Some(0)).collect();
            (pages.len() >= 5).then_some(pages)
        });
        for record in &records {
            // It closes as soon as it has the page, and meets the end of TLS that is still on its way with a reset.
            assert!(["ok", "client_reset"].contains(&record["outcome"].as_str().unwrap()), "{record}");
            assert_agreed("chromium", record, version, record["tls_resumed"] == true);
        }
        assert!(records.iter().any(|record| record["tls_group"] == group), "{version}: {records:#?}");
        assert!(records.iter().any(|record| record["tls_resumed"] == true), "{version}: {records:#?}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let output = browse(&scene, elsewhere.path(), "1.3").unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("a page"), "it trusts no authority: {output:?}");
}

/// What the browser shows that has its files in `home`.
fn browse(scene: &Scene, home: &Path, version: &str) -> Option<Output> {
    run_if_there(
        Command::new("chromium")
            .env("HOME", home)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}/profile of {version}", home.display()))
            .arg("--host-resolver-rules=MAP a.test 127.0.0.1, MAP * ~NOTFOUND")
            .arg(format!("--ssl-version-max=tls{version}"))
            .arg("--timeout=20000")
            .arg("--dump-dom")
            .arg(format!("https://a.test:{}/", scene.port())),
    )
}

/// Makes the authority known to the browser that has its files in `home`.
fn trust(authority: &str, home: &Path) -> Option<()> {
    let folder = home.join(".pki/nssdb");
    std::fs::create_dir_all(&folder).unwrap();
    let database = format!("sql:{}", folder.display());
    for words in [&["-N", "--empty-password"][..], &["-A", "-n", "authority of the test", "-t", "C,,", "-i", authority]]
    {
        let output = run_if_there(Command::new("certutil").args(["-d", &database]).args(words))?;
        assert!(output.status.success(), "{output:?}");
    }
    Some(())
}
