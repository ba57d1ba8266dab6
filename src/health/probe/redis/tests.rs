use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::config::model::{Expect, HttpExpect};
use crate::connect;
use crate::health::probe::channel::Line;
use crate::pool::Target;

const MASTER: &str = "*3\r\n$6\r\nmaster\r\n:10\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$2\r\n10\r\n";
const SLAVE: &str = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$9\r\nconnected\r\n:10\r\n";
const PONG: &str = "+PONG\r\n";

/// How a scripted server treats who connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Answers once everything has come.
    Polite,
    /// Says what it has to say, and is gone.
    Curt,
}

/// A server that answers with these pieces, and then ends.
struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    async fn start() -> Scripted {
        Scripted { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Serves one who connects, and gives what was heard.
    async fn serve(&self, manner: Manner, pieces: &[&[u8]]) -> String {
        let (mut peer, _) = self.listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while manner == Manner::Polite && !heard.ends_with(b"QUIT\r\n") {
            assert_ne!(peer.read_buf(&mut heard).await.unwrap(), 0, "{}", heard.escape_ascii());
        }
        for piece in pieces {
            peer.set_nodelay(true).unwrap();
            peer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(peer);
        heard.escape_ascii().to_string()
    }
}

fn probe(asks_lag: bool, info: &[(&str, &str)]) -> RedisProbe {
    let info = info.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
    RedisProbe { user: None, password: None, asks_lag, info, sentinels: None }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// What comes of these answers, and what was asked for them.
async fn talk(
    probe: &RedisProbe,
    password: Option<&str>,
    manner: Manner,
    pieces: &[&[u8]],
) -> (Result<Answer, Observation>, String) {
    let server = Scripted::start().await;
    let deadline = Deadline::from(Instant::now(), Duration::from_secs(10));
    let asked = async {
        let stream = connect::dial(&Target::Ip(server.address()), connect::Source::Any).await.unwrap();
        let channel = Channel::Clear(Line(stream));
        let (answer, mut channel) = converse(channel, probe, password.map(str::as_bytes), deadline).await;
        let ended = channel.part().await;
        assert!(manner == Manner::Curt || ended.is_ok(), "{ended:?}");
        answer
    };
    tokio::join!(asked, server.serve(manner, pieces))
}

/// What a pool makes of it that wants this role, and this lag.
fn judged(answer: Result<Answer, Observation>, role: Option<Role>, max_lag: Option<u64>) -> String {
    let expect = Expect {
        http: HttpExpect { status: vec![200..=200], body: None },
        role,
        max_lag: max_lag.map(Duration::from_secs),
        value: None,
    };
    match answer.map_or_else(|why| why, |answer| answer.judge(&expect)) {
        Observation::Pass(text) => format!("pass: {text}"),
        Observation::Refused(text) => format!("refused: {text}"),
        Observation::Missing(text) => format!("missing: {text}"),
        Observation::Unclear(text) => format!("unclear: {text}"),
    }
}

#[tokio::test]
async fn what_a_pool_makes_of_answers() {
    let any = None;
    let [primary, replica] = [Role::Primary, Role::Replica].map(Some);
    for (case, answers, role, expected) in [
        ("a master", format!("{PONG}{MASTER}"), primary, "pass: PONG, primary"),
        ("a replica instead", format!("{PONG}{SLAVE}"), primary, "refused: is a replica"),
        ("a replica", format!("{PONG}{SLAVE}"), replica, "pass: PONG, replica"),
        ("any", format!("{PONG}{SLAVE}"), any, "pass: PONG, replica"),
        (
            "a Sentinel",
            format!("{PONG}*2\r\n$8\r\nsentinel\r\n*1\r\n$1\r\na\r\n"),
            any,
            "refused: is a Sentinel, and has no data",
        ),
        ("another role", format!("{PONG}*1\r\n$3\r\nfoo\r\n"), primary, "refused: calls its role foo"),
        ("another role, and any", format!("{PONG}*1\r\n$3\r\nfoo\r\n"), any, "pass: PONG"),
        ("no role", format!("{PONG}+OK\r\n"), any, "refused: does not answer ROLE as Redis does"),
        (
            "no right to ask",
            format!("{PONG}-NOPERM this user has no permissions to run the 'role' command\r\n"),
            primary,
            "unclear: may not be asked ROLE: the user lacks +role in its ACL",
        ),
        ("no right, and any", format!("{PONG}-NOPERM User x has no permissions\r\n"), any, "pass: PONG"),
        (
            "not even PING",
            "-NOPERM User x has no permissions\r\n".to_owned(),
            any,
            "unclear: may not be asked PING: the user lacks +ping in its ACL",
        ),
        (
            "a password",
            "-NOAUTH Authentication required.\r\n".to_owned(),
            any,
            "pass: asks for a password, and none is set",
        ),
        (
            "a password in the way",
            "-NOAUTH Authentication required.\r\n".to_owned(),
            primary,
            "unclear: asks for a password, and none is set",
        ),
        (
            "loading",
            "-LOADING Redis is loading the dataset in memory\r\n".to_owned(),
            any,
            "refused: not ready: LOADING Redis is loading the dataset in memory",
        ),
        (
            "no master",
            "-MASTERDOWN Link with MASTER is down\r\n".to_owned(),
            replica,
            "refused: not ready: MASTERDOWN Link with MASTER is down",
        ),
        ("a script", "-BUSY Redis is busy\r\n".to_owned(), any, "missing: BUSY Redis is busy"),
        ("something else", "+OK\r\n".to_owned(), any, "refused: does not answer PING as Redis does"),
        (
            "HTTP",
            "HTTP/1.1 400\r\n".to_owned(),
            any,
            "refused: does not speak Redis: no Redis reply begins with byte 0x48",
        ),
        ("half of it", format!("{PONG}*3\r\n$6\r\nmas"), any, "missing: it ended the connection at ROLE"),
        ("nothing", String::new(), any, "missing: it ended the connection at PING"),
    ] {
        let (answer, _) = talk(&probe(false, &[]), None, Manner::Polite, &[answers.as_bytes()]).await;
        assert_eq!(judged(answer, role, None), expected, "{case}");
    }
}

#[tokio::test]
async fn who_is_sent_away_hears_why() {
    for (case, said, role, expected) in [
        (
            "protected mode",
            "-DENIED Redis is running in protected mode because...\r\n",
            None,
            "refused: serves nobody from elsewhere (protected mode)",
        ),
        ("full", "-ERR max number of clients reached\r\n", None, "pass: has as many clients as it may"),
        (
            "full, and its role matters",
            "-ERR max number of clients reached\r\n",
            Some(Role::Primary),
            "unclear: has as many clients as it may",
        ),
    ] {
        for password in [None, Some("secret")] {
            let (answer, _) = talk(&probe(true, &[]), password, Manner::Curt, &[said.as_bytes()]).await;
            assert_eq!(judged(answer, role, None), expected, "{case}");
        }
    }
}

#[tokio::test]
async fn how_far_a_replica_is_behind() {
    let linked = |seconds: i32| format!("master_link_status:up\r\nmaster_last_io_seconds_ago:{seconds}\r\n");
    let cut = |seconds: i32| {
        format!(
            "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:{seconds}\r\n"
        )
    };
    for (case, role, info, expected) in [
        ("in step", SLAVE, bulk(&linked(10)), "pass: PONG, replica, 10.0 s behind"),
        ("too far", SLAVE, bulk(&linked(11)), "refused: 11.0 s behind, allowed are 10s"),
        ("cut off a moment ago", SLAVE, bulk(&cut(3)), "pass: PONG, replica, 3.0 s behind"),
        ("cut off", SLAVE, bulk(&cut(60)), "refused: 60 s behind, allowed are 10s"),
        ("never linked", SLAVE, bulk(&cut(-1)), "refused: has not been linked to its master yet"),
        ("not said", SLAVE, bulk("role:slave\r\n"), "refused: INFO has no field master_link_down_since_seconds"),
        ("a master", MASTER, bulk("role:master\r\n"), "pass: PONG, primary"),
        (
            "no right to ask",
            SLAVE,
            "-NOPERM User x has no permissions\r\n".to_owned(),
            "unclear: may not be asked INFO: the user lacks +info in its ACL",
        ),
        ("no INFO", SLAVE, "+OK\r\n".to_owned(), "refused: does not answer INFO as Redis does"),
    ] {
        let answers = format!("{PONG}{role}{info}");
        let (answer, heard) = talk(&probe(true, &[]), None, Manner::Polite, &[answers.as_bytes()]).await;
        assert_eq!(judged(answer, None, Some(10)), expected, "{case}");
        assert!(heard.contains("INFO\\r\\n$11\\r\\nreplication"), "{heard}");
    }
}

#[tokio::test]
async fn fields_of_info_have_to_be_as_they_are_written() {
    let wanted = [("loading", "0"), ("maxmemory_policy", "noeviction")];
    for (case, info, expected) in [
        ("all of them", bulk("loading:0\r\nmaxmemory_policy:noeviction\r\n"), "pass: PONG, primary"),
        (
            "another value",
            bulk("loading:0\r\nmaxmemory_policy:allkeys-lru\r\n"),
            "refused: INFO says maxmemory_policy:allkeys-lru, expected noeviction",
        ),
        ("not there", bulk("loading:0\r\n"), "refused: INFO has no field maxmemory_policy"),
        (
            "no right to ask",
            "-NOPERM User x has no permissions\r\n".to_owned(),
            "unclear: may not be asked INFO: the user lacks +info in its ACL",
        ),
    ] {
        let answers = format!("{PONG}{MASTER}{info}");
        let (answer, heard) = talk(&probe(false, &wanted), None, Manner::Polite, &[answers.as_bytes()]).await;
        assert_eq!(judged(answer, None, None), expected, "{case}");
        assert!(heard.contains("*1\\r\\n$4\\r\\nINFO\\r\\n"), "{heard}");
    }
}

#[tokio::test]
async fn logging_in() {
    for (case, user, answer, expected) in [
        ("a password", None, "+OK\r\n", "pass: PONG, primary"),
        ("a user", Some("probe"), "+OK\r\n", "pass: PONG, primary"),
        (
            "the wrong one",
            Some("probe"),
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            "unclear: cannot log in: the user or the password is wrong",
        ),
        ("as before 6.0", None, "-ERR invalid password\r\n", "unclear: cannot log in: the password is wrong"),
        (
            "none is needed",
            None,
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure?\r\n",
            "unclear: cannot log in: it has no password, so that none is right",
        ),
        (
            "not Redis",
            None,
            "-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n",
            "unclear: cannot log in: AUTH is answered with an error, ERR",
        ),
        ("hardly anything", None, "-hunter2\r\n", "unclear: cannot log in: AUTH is answered with an error"),
        ("something else", None, "+hunter2\r\n", "refused: does not answer AUTH as Redis does"),
    ] {
        let probe = RedisProbe { user: user.map(str::to_owned), ..probe(false, &[]) };
        let answers = format!("{answer}{PONG}{MASTER}");
        let (answer, heard) = talk(&probe, Some("hunter2"), Manner::Polite, &[answers.as_bytes()]).await;
        assert_eq!(judged(answer, None, None), expected, "{case}");
        let login = match user {
            None => "*2\\r\\n$4\\r\\nAUTH\\r\\n$7\\r\\nhunter2\\r\\n",
            Some(_) => "*3\\r\\n$4\\r\\nAUTH\\r\\n$5\\r\\nprobe\\r\\n$7\\r\\nhunter2\\r\\n",
        };
        let rest = "*1\\r\\n$4\\r\\nPING\\r\\n*1\\r\\n$4\\r\\nROLE\\r\\n*1\\r\\n$4\\r\\nQUIT\\r\\n";
        assert_eq!(heard, format!("{login}{rest}"), "{case}");
    }
}

#[tokio::test]
async fn answers_may_come_in_any_pieces() {
    let info = bulk("master_link_status:up\r\nmaster_last_io_seconds_ago:1\r\n");
    let answers = format!("+OK\r\n{PONG}{SLAVE}{info}+OK\r\n").into_bytes();
    for end in 0..=answers.len() {
        let (first, second) = answers.split_at(end);
        let (answer, _) = talk(&probe(true, &[]), Some("secret"), Manner::Polite, &[first, second]).await;
        assert_eq!(judged(answer, None, Some(1)), "pass: PONG, replica, 1.0 s behind", "split at {end}");
    }
    let bytes: Vec<&[u8]> = answers.chunks(1).collect();
    let (answer, _) = talk(&probe(true, &[]), Some("secret"), Manner::Polite, &bytes).await;
    assert_eq!(judged(answer, None, Some(1)), "pass: PONG, replica, 1.0 s behind", "byte by byte");
}

#[tokio::test]
async fn silence_is_told_with_what_was_asked() {
    let server = Scripted::start().await;
    let stream = connect::dial(&Target::Ip(server.address()), connect::Source::Any).await.unwrap();
    let deadline = Deadline::from(Instant::now(), Duration::from_millis(50));
    let (answer, _) = converse(Channel::Clear(Line(stream)), &probe(false, &[]), None, deadline).await;
    assert_eq!(judged(answer, None, None), "missing: no answer to PING in 50ms");
    drop(TcpStream::connect(server.address()).await);
}
