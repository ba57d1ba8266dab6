//! Whole talks with a scripted server. What real ones say is in `tests/mysql_probe.rs`.

use super::proof::{Method, covered};
use super::scripted::Step::{Exactly, Hear, Keep, Pause, Rows, Say};
use super::scripted::{
    DENIED, NONCE, OK, OTHER_NONCE, Server, Step, error, greeting, login, mysql, proven, query, role, switch,
};
use super::*;
use crate::config::model::{Login, Role};
use crate::health::server_key::tests::PrivateKey;

fn probe() -> MysqlProbe {
    let login = Login { user: "pm".to_owned(), password: None };
    MysqlProbe { login, database: None, asks_lag: false, query: None, galera: false, server_key: None }
}

fn means(probe: MysqlProbe) -> Means {
    Means { probe, password: Some(Zeroizing::new(b"secret".to_vec())), tls: None }
}

fn told(text: &'static str, role: Role) -> Result<Answer, Observation> {
    Ok(Answer { role: Some(role), ..Answer::of(text) })
}

fn refused(why: &'static str) -> Result<Answer, Observation> {
    Err(Observation::Refused(why.into()))
}

fn unclear(why: &'static str) -> Result<Answer, Observation> {
    Err(Observation::Unclear(why.into()))
}

fn missing(why: &'static str) -> Result<Answer, Observation> {
    Err(Observation::Missing(why.into()))
}

/// What is tried, who asks what, what the server does, what comes of it, and whether we were in.
type Case = (&'static str, MysqlProbe, Vec<Step>, Result<Answer, Observation>, bool);

/// Runs each script, and says what has to come behind it: COM_QUIT, or nothing where the server has ended the talk.
async fn each(cases: Vec<Case>) {
    for (case, probe, steps, expected, is_in) in cases {
        let (answer, _, rest) = Server::start(steps).await.answer(means(probe)).await;
        assert_eq!(answer, expected, "{case}");
        let farewell: &[u8] = if is_in { &[1, 0, 0, 0, 1] } else { &[] };
        assert_eq!(rest, farewell, "{case}");
    }
}

#[tokio::test]
async fn logins_of_all_kinds() {
    let native = |nonce| Method::NativePassword.proof(b"secret", nonce);
    let cached = |nonce| Method::CachingSha2.proof(b"secret", nonce);
    let script = |steps: Vec<Step>| [steps, role("0").into()].into_iter().flatten().collect::<Vec<_>>();
    let mariadb = || greeting("5.5.5-10.11.6-MariaDB-1", "mysql_native_password");
    let primary = || told("MySQL 8.4.3", Role::Primary);
    let with_database = MysqlProbe { database: Some("shop".to_owned()), ..probe() };
    let no_key = "it asks for the password itself, which takes TLS or the server's key (server_key_file)";
    let ed25519 = "our user is to log in by \"client_ed25519\"; spoken are caching_sha2_password and \
                   mysql_native_password";
    each(vec![
        ("a known proof", probe(), script(vec![mysql(), proven(), Say(vec![1, 3]), Say(OK.into())]), primary(), true),
        (
            "MariaDB",
            probe(),
            script(vec![mariadb(), login("pm", native(NONCE)), Say(OK.into())]),
            told("MariaDB 10.11.6", Role::Primary),
            true,
        ),
        ("with a database", with_database, script(vec![mysql(), proven(), Say(OK.into())]), primary(), true),
        (
            "another way",
            probe(),
            script(vec![
                mysql(),
                proven(),
                switch("mysql_native_password"),
                Exactly(native(OTHER_NONCE)),
                Say(OK.into()),
            ]),
            primary(),
            true,
        ),
        (
            "and the other way round",
            probe(),
            script(vec![
                mariadb(),
                login("pm", native(NONCE)),
                switch("caching_sha2_password"),
                Exactly(cached(OTHER_NONCE)),
                Say(vec![1, 3]),
                Say(OK.into()),
            ]),
            told("MariaDB 10.11.6", Role::Primary),
            true,
        ),
        (
            "a server that begins with a way that is not spoken",
            probe(),
            script(vec![
                greeting("9.0.0", "sha256_password"),
                login("pm", native(NONCE)),
                switch("caching_sha2_password"),
                Exactly(cached(OTHER_NONCE)),
                Say(OK.into()),
            ]),
            told("MySQL 9.0.0", Role::Primary),
            true,
        ),
        (
            "the password itself, where others can hear it",
            probe(),
            vec![mysql(), proven(), Say(vec![1, 4]), Exactly(Vec::new()), Say(DENIED.into())],
            unclear(no_key),
            false,
        ),
        (
            "a way that is not spoken",
            probe(),
            vec![mysql(), proven(), switch("client_ed25519"), Exactly(Vec::new()), Say(DENIED.into())],
            unclear(ed25519),
            false,
        ),
        ("denied", probe(), vec![mysql(), proven(), Say(DENIED.into())], unclear("Access denied (error 1045)"), false),
        (
            "an end that does not come",
            probe(),
            [vec![mysql(), proven()], (0..8).map(|_| Say(vec![1, 3])).collect()].into_iter().flatten().collect(),
            refused("the login has no end"),
            false,
        ),
    ])
    .await;
}

#[tokio::test]
async fn servers_that_do_not_let_anybody_in() {
    let full = || Ok(Answer::full("Too many connections (error 1040)"));
    let blocked = "it has blocked our address: Host is blocked (error 1129)";
    each(vec![
        ("full at once", probe(), vec![error(1040, "Too many connections")], full(), false),
        ("full", probe(), vec![mysql(), proven(), error(1040, "Too many connections")], full(), false),
        ("blocked", probe(), vec![error(1129, "Host is blocked")], refused(blocked), false),
        (
            "shutting down",
            probe(),
            vec![mysql(), proven(), error(1053, "Server shutdown in progress")],
            refused("shutting down: Server shutdown in progress (error 1053)"),
            false,
        ),
        ("gone at once", probe(), vec![], missing("it ended the connection"), false),
        ("gone", probe(), vec![mysql(), Hear(Vec::new())], missing("it ended the connection"), false),
        (
            "another protocol",
            probe(),
            vec![Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())],
            refused("it does not answer as MySQL does: protocol version 72, not 10"),
            false,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_asked() {
    use questions::{ALL_REPLICAS, GALERA, REPLICA, SLAVE};

    let begun = |more: Vec<Step>| {
        let begin = vec![mysql(), proven(), Say(OK.into())];
        begin.into_iter().chain(more).collect::<Vec<_>>()
    };
    let as_role = |read_only: &'static str, more: Vec<Step>| begun(role(read_only).into_iter().chain(more).collect());
    let asks_lag = || MysqlProbe { asks_lag: true, ..probe() };
    let with_query = || MysqlProbe { query: Some("SELECT a".to_owned()), ..probe() };
    let galera = || MysqlProbe { galera: true, ..probe() };
    let behind = |seconds: u64| {
        let lag = Some(Duration::from_secs(seconds));
        Ok(Answer { role: Some(Role::Replica), lag, keeps_lag: true, ..Answer::of("MySQL 8.4.3") })
    };
    let value = |value: Option<&str>| {
        let value = value.map(str::to_owned);
        Ok(Answer { role: Some(Role::Primary), value, ..Answer::of("MySQL 8.4.3") })
    };
    let replica = || told("MySQL 8.4.3", Role::Replica);
    let silent = || replica().map(|answer| Answer { keeps_lag: true, ..answer });
    let failed = |role, why| Ok(Answer { role: Some(role), failure: Some(why), ..Answer::of("MySQL 8.4.3") });
    let halted = || {
        let columns = &["Seconds_Behind_Source", "Replica_SQL_Running", "Last_SQL_Errno"];
        as_role("1", vec![query(REPLICA), Rows(columns, vec![vec![None, Some("No"), Some("1062")]])])
    };
    let status = |rows| vec![query(REPLICA), Rows(&["Seconds_Behind_Source", "Channel_Name"], rows)];
    let node = |ready, state| {
        let rows = vec![vec![Some("wsrep_local_state"), Some(state)], vec![Some("wsrep_ready"), Some(ready)]];
        begun(vec![query(GALERA), Rows(&["Variable_name", "Value"], rows)])
    };
    let synced = || node("ON", "4").into_iter().chain(role("0")).collect::<Vec<_>>();
    let unknown = || error(1193, "Unknown system variable 'innodb_read_only'");
    let simple = || {
        let rows = Rows(&["@@global.read_only"], vec![vec![Some("1")]]);
        begun(vec![query(questions::ROLE[0]), unknown(), query("SELECT @@global.read_only"), rows])
    };
    let aurora = || {
        let columns = &["@@global.read_only", "@@global.innodb_read_only"];
        begun(vec![query(questions::ROLE[0]), Rows(columns, vec![vec![Some("0"), Some("1")]])])
    };
    let old = || {
        let rows = || Rows(&["Slave_IO_State", "Seconds_Behind_Master"], vec![vec![Some(""), Some("3")]]);
        let begin = vec![greeting("5.7.44-log", "caching_sha2_password"), proven(), Say(OK.into())];
        begin.into_iter().chain(role("1")).chain([query(SLAVE), rows()]).collect::<Vec<_>>()
    };
    let mariadb = || {
        let row = |name, seconds| vec![Some(name), Some(seconds)];
        let rows = Rows(&["Connection_name", "Seconds_Behind_Master"], vec![row("a", "4"), row("", "1")]);
        let begin = vec![greeting("11.8.2-MariaDB", "caching_sha2_password"), proven(), Say(OK.into())];
        begin.into_iter().chain(role("NO_LOCK")).chain([query(ALL_REPLICAS), rows]).collect::<Vec<_>>()
    };
    each(vec![
        ("a replica", probe(), as_role("1", vec![]), replica(), true),
        ("a word for it", probe(), as_role("OFF", vec![]), told("MySQL 8.4.3", Role::Primary), true),
        ("a server without all variables", probe(), simple(), replica(), true),
        ("a reader of Aurora", probe(), aurora(), replica(), true),
        (
            "a server without any",
            probe(),
            begun(vec![query(questions::ROLE[0]), unknown(), query("SELECT @@global.read_only"), unknown()]),
            refused("Unknown system variable 'innodb_read_only' (error 1193)"),
            true,
        ),
        (
            "a node that is not ready",
            probe(),
            begun(vec![query(questions::ROLE[0]), error(1047, "WSREP has not yet prepared node")]),
            refused("not ready for use: WSREP has not yet prepared node (error 1047)"),
            true,
        ),
        (
            "a primary is not asked for its lag",
            asks_lag(),
            as_role("0", vec![]),
            told("MySQL 8.4.3", Role::Primary),
            true,
        ),
        ("no lag", asks_lag(), as_role("1", status(vec![vec![Some("0"), Some("")]])), behind(0), true),
        (
            "the source that it is behind the most",
            asks_lag(),
            as_role(
                "1",
                status(vec![vec![Some("2"), Some("a")], vec![Some("12"), Some("b")], vec![Some("0"), Some("c")]]),
            ),
            behind(12),
            true,
        ),
        (
            "one that is stopped",
            asks_lag(),
            as_role("1", status(vec![vec![Some("2"), Some("a")], vec![None, Some("b")]])),
            silent(),
            true,
        ),
        (
            "one that cannot go on",
            asks_lag(),
            halted(),
            Ok(Answer {
                role: Some(Role::Replica),
                unknown: Some(Observation::Refused("its replication has stopped: error 1062".into())),
                ..Answer::of("MySQL 8.4.3")
            }),
            true,
        ),
        (
            "group replication besides",
            asks_lag(),
            as_role("1", status(vec![vec![None, Some("group_replication_applier")], vec![Some("7"), Some("")]])),
            behind(7),
            true,
        ),
        ("one that follows nobody", asks_lag(), as_role("1", status(vec![])), silent(), true),
        (
            "an older MySQL",
            asks_lag(),
            old(),
            behind(3).map(|answer| Answer { text: "MySQL 5.7.44".into(), ..answer }),
            true,
        ),
        (
            "MariaDB",
            asks_lag(),
            mariadb(),
            behind(4).map(|answer| Answer { text: "MariaDB 11.8.2".into(), ..answer }),
            true,
        ),
        (
            "a server that says another version than it has",
            asks_lag(),
            as_role(
                "1",
                vec![
                    query(REPLICA),
                    error(1064, "You have an error in your SQL syntax"),
                    query(SLAVE),
                    Rows(&["Seconds_Behind_Master"], vec![vec![Some("9")]]),
                ],
            ),
            behind(9),
            true,
        ),
        (
            "a user who may not ask",
            asks_lag(),
            as_role("1", vec![query(REPLICA), error(1227, "Access denied; you need REPLICATION CLIENT")]),
            failed(
                Role::Replica,
                Observation::Unclear("Access denied; you need REPLICATION CLIENT (error 1227)".into()),
            ),
            true,
        ),
        (
            "a value",
            with_query(),
            as_role("0", vec![query("SELECT a"), Rows(&["a"], vec![vec![Some("t")]])]),
            value(Some("t")),
            true,
        ),
        (
            "NULL",
            with_query(),
            as_role("0", vec![query("SELECT a"), Rows(&["a"], vec![vec![None]])]),
            value(None),
            true,
        ),
        (
            "no row",
            with_query(),
            as_role("0", vec![query("SELECT a"), Rows(&["a"], vec![])]),
            failed(Role::Primary, Observation::Refused("the query gave no row".into())),
            true,
        ),
        (
            "no rows at all",
            with_query(),
            as_role("0", vec![query("SELECT a"), Say(OK.into())]),
            failed(Role::Primary, Observation::Refused("the query gave no row".into())),
            true,
        ),
        (
            "a query that is wrong",
            with_query(),
            as_role("0", vec![query("SELECT a"), error(1054, "Unknown column 'a'")]),
            failed(Role::Primary, Observation::Refused("Unknown column 'a' (error 1054)".into())),
            true,
        ),
        (
            "a server that goes",
            with_query(),
            as_role("0", vec![query("SELECT a"), error(1053, "Server shutdown in progress")]),
            refused("shutting down: Server shutdown in progress (error 1053)"),
            true,
        ),
        (
            "a query that somebody has ended",
            with_query(),
            as_role("0", vec![query("SELECT a"), error(1317, "Query execution was interrupted")]),
            failed(Role::Primary, Observation::Missing("Query execution was interrupted (error 1317)".into())),
            true,
        ),
        ("a node of a cluster", galera(), synced(), told("MySQL 8.4.3", Role::Primary), true),
        ("a donor", galera(), node("ON", "2"), refused("not synced with its cluster: Donor"), true),
        ("one that is not ready", galera(), node("OFF", "1"), refused("not ready for its cluster: Joining"), true),
        (
            "one that has a new state",
            galera(),
            node("ON", "9"),
            refused("not synced with its cluster: state \"9\""),
            true,
        ),
        (
            "no node",
            galera(),
            begun(vec![query(GALERA), Rows(&["Variable_name", "Value"], vec![])]),
            refused("it has no Galera (wsrep_ready)"),
            true,
        ),
    ])
    .await;
}

#[tokio::test]
async fn the_password_is_for_the_server_alone() {
    let (private, public) = PrivateKey::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public_key.pem");
    std::fs::write(&file, public).unwrap();
    let with_key = |file: &std::path::Path| MysqlProbe { server_key: Some(file.to_owned()), ..probe() };
    let steps = [vec![mysql(), proven(), Say(vec![1, 4]), Keep, Say(OK.into())], role("0").into()];
    let server = Server::start(steps.into_iter().flatten().collect()).await;
    let (answer, kept, _) = server.answer(means(with_key(&file))).await;
    assert_eq!(answer, told("MySQL 8.4.3", Role::Primary));
    assert_eq!(private.decrypt(&kept[0]), *covered(b"secret", NONCE));

    let none = folder.path().join("none");
    let steps = vec![mysql(), proven(), Say(vec![1, 4]), Exactly(Vec::new()), Say(DENIED.into())];
    let (answer, _, rest) = Server::start(steps).await.answer(means(with_key(&none))).await;
    let why = format!("{none:?} cannot be read: No such file or directory (os error 2)");
    assert_eq!((answer, &*rest), (Err(Observation::Unclear(why.into())), &[][..]), "it is our own trouble");
}

#[tokio::test]
async fn a_server_without_tls_is_told_nothing() {
    let nobody = || login("", Vec::new());
    let tls = || Some(Err(Observation::Refused("no certificate could have the name \"a b\"".into())));
    let steps = vec![mysql(), nobody(), Say(DENIED.into())];
    let (answer, _, rest) = Server::start(steps).await.answer(Means { tls: tls(), ..means(probe()) }).await;
    assert_eq!((answer, &*rest), (refused("no certificate could have the name \"a b\""), &[][..]));
    // One may ask for more, as it does of those whom it knows.
    let asks = vec![mysql(), nobody(), switch("mysql_native_password"), Exactly(Vec::new()), Say(DENIED.into())];
    let (answer, _, rest) = Server::start(asks).await.answer(Means { tls: tls(), ..means(probe()) }).await;
    assert_eq!((answer, &*rest), (refused("no certificate could have the name \"a b\""), &[][..]));
    // One who lets anybody in is left as well.
    let steps = vec![mysql(), nobody(), Say(OK.into())];
    let (answer, _, rest) = Server::start(steps).await.answer(Means { tls: tls(), ..means(probe()) }).await;
    assert_eq!((answer, &*rest), (refused("no certificate could have the name \"a b\""), &[1, 0, 0, 0, 1][..]));
}

#[tokio::test]
async fn a_role_is_asked_for_again_that_has_become_old() {
    let [ask, primary] = role("0");
    let [ask_again, replica] = role("1");
    let rows = Rows(&["a"], vec![vec![Some("1")]]);
    let slow = vec![query("SELECT a"), Pause(Duration::from_millis(1200)), rows, ask_again, replica];
    let steps = [mysql(), proven(), Say(OK.into()), ask, primary].into_iter().chain(slow).collect();
    let probe = MysqlProbe { query: Some("SELECT a".to_owned()), ..probe() };
    let (answer, ..) = Server::start(steps).await.answer(means(probe)).await;
    assert_eq!(answer.unwrap().role, Some(Role::Replica));
}

#[tokio::test]
async fn a_talk_goes_on_where_it_was_left() {
    let pause = || Pause(Duration::from_millis(400));
    let [ask, rows] = role("1");
    let steps = vec![pause(), mysql(), proven(), pause(), Say(OK.into()), ask, pause(), rows];
    let server = Server::start(steps).await;
    let mut conversation = Conversation::begin(server.line, means(probe()));
    let (mut missed, mut answer) = (Vec::<String>::new(), None);
    while answer.is_none() {
        let deadline = Deadline::from(Instant::now(), Duration::from_millis(100));
        match conversation.go_on(deadline).await {
            Ok((told, _, channel)) => {
                answer = Some(told);
                let _ = channel.unwrap().part().await;
                break;
            }
            Err((why, rest)) => {
                assert!(rest.is_fresh());
                missed.push(why.into());
                conversation = rest;
            }
        }
    }
    assert_eq!(answer, Some(told("MySQL 8.4.3", Role::Replica)));
    missed.dedup();
    let expected = ["no greeting in 100ms", "no answer to the login in 100ms", "no answer about its role in 100ms"];
    assert_eq!(missed, expected);
    assert_eq!(server.heard.join().unwrap().1, [1, 0, 0, 0, 1]);
}
