//! What is seen of the traffic: the admin pages, both log formats, and a log that nobody reads.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::harness::client::{get, hello, request};
use crate::harness::process::free_address;
use crate::harness::{Client, Endpoint, Manner, Process, eventually};

#[test]
fn the_admin_pages_are_read_only() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let (at, admin) = (free_address(), free_address());
    let process = Process::start(&format!(
        r#"
        admin.http = "{admin}"
        listener.edge.bind = "{at}"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/ready", 200),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/ready", 405),
    ] {
        let (answered, body) = request(admin, method, path);
        assert_eq!(answered, status, "{method} {path}: {body}");
    }
    let names = ["secret.example.com", "www.example.com"];
    for name in names {
        let hello = hello(name);
        let mut client = Client::sending(at, &hello);
        client.finish();
        assert!(client.rest().is_ok_and(|back| back == hello));
    }
    drop(Client::sending(at, b"GET / HTTP/1.1\r\n\r\n").rest());
    let records = process.records(3);
    let page = eventually("the page tells of all three", || {
        let (_, page) = get(admin, "/metrics");
        page.contains("pointsman_listener_accepted_total{listener=\"edge\"} 3\n").then_some(page)
    });
    let series = [
        "pointsman_listener_outcomes_total{listener=\"edge\",outcome=\"ok\"} 2".to_owned(),
        "pointsman_listener_outcomes_total{listener=\"edge\",outcome=\"not_tls\"} 1".to_owned(),
        "pointsman_route_sessions_total{route=\"all\"} 2".to_owned(),
        format!("pointsman_endpoint_sessions_total{{pool=\"all\",endpoint=\"{}\"}} 2", endpoint.address()),
        "pointsman_listener_opening_seconds_count{listener=\"edge\"} 2".to_owned(),
        "pointsman_access_log_dropped_total 0".to_owned(),
    ];
    for line in series {
        assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
    }
    assert!(names.iter().all(|name| !page.contains(name)), "a label holds what a client sent:\n{page}");
    let mut ids: Vec<_> = records.iter().map(|record| record["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{records:#?}");
}

#[test]
fn the_text_format_is_one_line_of_pairs() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let at = free_address();
    let process = Process::start(&format!(
        r#"
        log.format = "text"
        listener.edge.bind = "{at}"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    let hello = hello("www.example.com");
    let mut client = Client::sending(at, &hello);
    client.finish();
    assert!(client.rest().is_ok_and(|back| back == hello));
    let line = eventually("a line in the log", || {
        let text = std::fs::read_to_string(process.log().0).unwrap();
        text.strip_suffix('\n').map(str::to_owned)
    });
    assert_eq!(line.lines().count(), 1, "{line}");
    for pair in [
        "listener=edge".to_owned(),
        format!("client={}", client.address()),
        "sni=www.example.com".to_owned(),
        "tls=1.3,1.2".to_owned(),
        format!("endpoint={}", endpoint.address()),
        "outcome=ok".to_owned(),
        format!("bytes_up={}", hello.len()),
        format!("bytes_down={}", hello.len()),
    ] {
        assert!(line.split(' ').any(|word| word == pair), "{pair} is not in {line}");
    }
    let messages = process.messages();
    assert!(messages.contains("INFO") && !messages.contains('{'), "{messages}");
}

#[test]
fn a_log_that_nobody_reads_never_slows_traffic() {
    // More than the queue, the pipe and the batch under way can hold.
    const CONNECTIONS: usize = 18_000;
    let folder = tempfile::tempdir().unwrap();
    let (pipe, socket) = (folder.path().join("log"), folder.path().join("edge.sock"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();

    let endpoint = Endpoint::start(Manner::Echoes);
    let (at, admin) = (free_address(), free_address());
    let log = format!("POINTSMAN__LOG__ACCESS={}", pipe.display());
    let mut process = Process::start_under(
        &["env", &log],
        &format!(
            r#"
            runtime.workers = 2
            admin.http = "{admin}"
            listener.edge.bind = ["{at}", "unix:{}"]
            route.all = {{ listener = "edge", pool = "all" }}
            pool.all.endpoints = ["{}"]
            "#,
            socket.display(),
            endpoint.address()
        ),
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..CONNECTIONS / 2).for_each(|_| drop(UnixStream::connect(&socket).unwrap())));
        }
    });
    let count = |series: &str| -> f64 {
        let page = get(admin, "/metrics").1;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not in\n{page}")).parse().unwrap()
    };
    let gone = r#"pointsman_listener_outcomes_total{listener="edge",outcome="client_gone"}"#;
    eventually("every connection has ended", || (count(gone) == CONNECTIONS as f64).then_some(()));
    let hello = hello("www.example.com");
    let began = std::time::Instant::now();
    for _ in 0..20 {
        let mut client = Client::sending(at, &hello);
        client.finish();
        assert!(client.rest().is_ok_and(|back| back == hello));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "20 sessions took {:?}", began.elapsed());
    let ok = r#"pointsman_listener_outcomes_total{listener="edge",outcome="ok"}"#;
    eventually("the last session has been told", || (count(ok) == 20.0).then_some(()));
    let dropped = count("pointsman_access_log_dropped_total");
    assert!(dropped > 0.0 && dropped < CONNECTIONS as f64, "{dropped} lines dropped");

    // A reader that comes late gets every line that was not dropped, and nothing of it is torn.
    let lines = std::thread::spawn(move || {
        let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        while !text.ends_with(b"THE END\n") {
            let read = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(text).unwrap()
    });
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(0), "{}", process.messages());
    std::fs::write(&pipe, "THE END\n").unwrap();
    let text = lines.join().unwrap();
    let told = text.lines().filter(|line| line.starts_with('{') && line.ends_with('}')).count();
    assert_eq!(told, text.lines().count() - 1, "lines are whole");
    assert_eq!(told as f64 + dropped, CONNECTIONS as f64 + 20.0, "{told} lines told, {dropped} dropped");
}
