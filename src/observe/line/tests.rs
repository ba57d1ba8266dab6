//! Lines as they are written.

use super::*;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Said;

fn full() -> Record {
    Record {
        id: 7,
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        listener: "edge".into(),
        client: Some("192.0.2.1:4711".parse().unwrap()),
        proxy: None,
        handshake: None,
        endpoint_handshake: None,
        hello: Some(Said {
            sni: Some("db.example.com".into()),
            alpn: [&b"h2"[..], b"http/1.1"].into_iter().collect(),
            versions: [0x0304, 0x0303, 0x7f1c].into_iter().collect(),
            ech: true,
        }),
        route: Some("pg".into()),
        pool: Some("pg".into()),
        endpoint: Some("10.0.0.11:5432".into()),
        outcome: Outcome::Ok,
        by: Side::Client,
        connect: Some(Duration::from_micros(1_234)),
        total: Duration::from_micros(90_061_005),
        bytes_up: 517,
        bytes_down: 1_048_576,
    }
}

fn bare() -> Record {
    Record {
        client: None,
        hello: None,
        handshake: None,
        route: None,
        pool: None,
        endpoint: None,
        outcome: Outcome::Full,
        by: Side::Policy,
        connect: None,
        ..full()
    }
}

fn json(record: &Record) -> String {
    let mut out = Vec::new();
    write_json(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn text(record: &Record) -> String {
    let mut out = Vec::new();
    write_text(record, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_as_documented() {
    assert_eq!(
        json(&full()),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.042Z","id":7,"listener":"edge","client":"192.0.2.1:4711","#,
            r#""sni":"db.example.com","alpn":["h2","http/1.1"],"tls":["1.3","1.2","0x7f1c"],"ech":true,"#,
            r#""route":"pg","pool":"pg","endpoint":"10.0.0.11:5432","outcome":"ok","by":"client","#,
            r#""connect_ms":1.234,"total_ms":90061.005,"bytes_up":517,"bytes_down":1048576}"#,
            "\n"
        )
    );
    assert_eq!(
        text(&full()),
        "time=2023-11-14T22:13:20.042Z id=7 listener=edge client=192.0.2.1:4711 sni=db.example.com \
         alpn=h2,http/1.1 tls=1.3,1.2,0x7f1c ech=true route=pg pool=pg endpoint=10.0.0.11:5432 outcome=ok \
         by=client connect_ms=1.234 total_ms=90061.005 bytes_up=517 bytes_down=1048576\n"
    );
}

#[test]
fn absent_facts_keep_their_keys() {
    assert_eq!(
        json(&bare()),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.042Z","id":7,"listener":"edge","client":"unix","sni":null,"#,
            r#""alpn":null,"tls":null,"route":null,"pool":null,"endpoint":null,"outcome":"full","by":"policy","#,
            r#""connect_ms":null,"total_ms":90061.005,"bytes_up":517,"bytes_down":1048576}"#,
            "\n"
        )
    );
    assert_eq!(
        text(&bare()),
        "time=2023-11-14T22:13:20.042Z id=7 listener=edge client=unix sni=- alpn=- tls=- route=- pool=- \
         endpoint=- outcome=full by=policy connect_ms=- total_ms=90061.005 bytes_up=517 bytes_down=1048576\n"
    );
    let empty = Record { hello: Some(Said::default()), ..bare() };
    assert!(json(&empty).contains(r#""sni":null,"alpn":[],"tls":[],"route""#), "{}", json(&empty));
}

#[test]
fn clients_cannot_break_a_line_or_add_a_field() {
    let hostile: [&[u8]; 9] = [
        b"\n",
        b"h2\r\ntime=1 id=1",
        b"\" outcome=ok x=\"",
        b"a,b",
        b"\\",
        b"\\\"",
        b"\x1b[2J\x00\x7f",
        b"\xff\xfe",
        "\u{2028}\u{85}".as_bytes(),
    ];
    for bytes in hostile {
        let words = [String::from_utf8_lossy(bytes).into_owned(), "-".to_owned(), String::new()];
        for word in words {
            let mut record = full();
            record.hello = Some(Said {
                sni: Some(word.as_str().into()),
                alpn: [bytes, b"h2"].into_iter().collect(),
                ..Said::default()
            });
            record.endpoint = Some(word.as_str().into());
            check(&record, &word, bytes);
        }
    }
}

fn check(record: &Record, word: &str, bytes: &[u8]) {
    let (json, text) = (json(record), text(record));
    for line in [&json, &text] {
        let (last, body) = line.as_bytes().split_last().unwrap();
        assert_eq!(*last, b'\n');
        assert!(body.iter().all(|byte| (b' '..=b'~').contains(byte)), "{line:?}");
    }
    let read: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(read["sni"], word, "{json}");
    assert_eq!(read["endpoint"], word, "{json}");
    assert_eq!(read["alpn"], serde_json::json!([printable(bytes), "h2"]), "{json}");
    assert_eq!(read.as_object().unwrap().len(), 16, "{json}");

    let fields = split(&text);
    let keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
    let known = "time id listener client sni alpn tls route pool endpoint outcome by connect_ms total_ms bytes_up \
                 bytes_down";
    assert_eq!(keys.join(" "), known, "{text}");
    assert_eq!(fields[9].1, Some(word.to_owned()), "{text}");
    assert_eq!(fields[5].1, Some(format!("{},h2", printable(bytes))), "{text}");
}

/// Reads a text line as its consumers have to; a bare `-` is `None`.
fn split(line: &str) -> Vec<(String, Option<String>)> {
    let (mut fields, mut rest) = (Vec::new(), line.trim_end_matches('\n'));
    while let Some((key, after)) = rest.split_once('=') {
        let Some(quoted) = after.strip_prefix('"') else {
            let (value, next) = after.split_once(' ').unwrap_or((after, ""));
            fields.push((key.to_owned(), (value != "-").then(|| value.to_owned())));
            rest = next;
            continue;
        };
        let (mut value, mut chars) = (String::new(), quoted.chars());
        loop {
            match chars.next().expect("the quote is closed") {
                '"' => break,
                '\\' => match chars.next().expect("an escape has a second character") {
                    'u' => {
                        let hex: String = chars.by_ref().skip(1).take_while(|&c| c != '}').collect();
                        value.push(char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap());
                    }
                    c => value.push(c),
                },
                c => value.push(c),
            }
        }
        fields.push((key.to_owned(), Some(value)));
        rest = chars.as_str().trim_start_matches(' ');
    }
    fields
}

#[test]
fn long_lists_are_cut() {
    let mut record = full();
    let said = Said { alpn: std::iter::repeat_n(&[0xff; 255][..], 255).collect(), ..Said::default() };
    record.hello = Some(said);
    let line = json(&record);
    assert!(line.len() < 32 * 1024, "{} bytes", line.len());
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["alpn"].as_array().unwrap().len(), MOST_OF_A_LIST + 1);
    assert_eq!(read["alpn"][MOST_OF_A_LIST], "...");
}

#[test]
fn a_wrong_clock_is_no_panic() {
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for start in [SystemTime::UNIX_EPOCH - Duration::from_secs(1), far] {
        assert!(text(&Record { start, ..full() }).starts_with("time=1970-01-01T00:00:00.000Z "));
    }
}

#[test]
fn handshakes_are_told_where_there_was_one() {
    let handshake = Handshake {
        version: Some("1.3"),
        suite: Some("TLS13_AES_256_GCM_SHA384"),
        group: Some("X25519MLKEM768"),
        protocol: Some(Box::from(&b"h2"[..])),
        resumed: false,
        client: None,
        took: Duration::from_micros(1_500),
        error: None,
    };
    let told = Record { handshake: Some(Box::new(handshake.clone())), ..bare() };
    let part = r#""tls_version":"1.3","tls_suite":"TLS13_AES_256_GCM_SHA384","tls_group":"X25519MLKEM768","tls_alpn":"h2","tls_resumed":false,"handshake_ms":1.500,"#;
    assert!(json(&told).contains(part), "{}", json(&told));
    let names = vec!["DNS:a.example".into(), "email:x, y".into()];
    let client = Some(Presented { subject: r"CN=db\,1".into(), issuer: "CN=ca".into(), serial: "0a".into(), names });
    let told = Record { handshake: Some(Box::new(Handshake { client, ..handshake.clone() })), ..bare() };
    let part = r#","tls_client_subject":"CN=db\\,1","tls_client_issuer":"CN=ca","tls_client_serial":"0a","tls_client_names":["DNS:a.example","email:x, y"],"handshake_ms""#;
    assert!(json(&told).contains(part), "{}", json(&told));
    let failed = Handshake { error: Some("peer sent \"nonsense\"".into()), ..handshake };
    let told = Record { handshake: Some(Box::new(failed)), ..bare() };
    let part = r#""tls_error":"peer sent \"nonsense\"","handshake_ms":1.500,"#;
    assert!(json(&told).contains(part), "{}", json(&told));
    assert!(!json(&bare()).contains("handshake"));
}

#[test]
fn every_key_stands_in_the_readme() {
    // Without `..`, so that a new fact cannot be left out here.
    let handshake = Handshake {
        version: Some("1.3"),
        suite: Some("TLS13_AES_256_GCM_SHA384"),
        group: Some("X25519MLKEM768"),
        protocol: Some(Box::from(&b"h2"[..])),
        resumed: true,
        client: Some(Presented {
            subject: "CN=a".into(),
            issuer: "CN=ca".into(),
            serial: "0a".into(),
            names: vec!["DNS:a.example".into()],
        }),
        took: Duration::from_micros(1_500),
        error: Some("peer sent nonsense".into()),
    };
    let endpoint = Handshake { client: None, ..handshake.clone() };
    let fullest =
        Record { handshake: Some(Box::new(handshake)), endpoint_handshake: Some(Box::new(endpoint)), ..full() };
    let read: serde_json::Value = serde_json::from_str(&json(&fullest)).unwrap();
    let (_, section) = include_str!("../../../README.md").split_once("\n## The access log\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let told: Vec<&str> = rows.flat_map(|keys| keys.split(", ")).collect();
    for key in read.as_object().unwrap().keys() {
        assert!(told.contains(&&*format!("`{key}`")), "{key} is not in the table of README.md");
    }
}
