//! A server that follows a script, for tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use super::proof::Method;
use super::*;
use crate::connect;
use crate::pool::Target;

pub(super) const NONCE: &[u8; 20] = b"abcdefgh0123456789ij";
pub(super) const OTHER_NONCE: &[u8; 20] = b"ABCDEFGH0123456789IJ";
pub(super) const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const END: &[u8] = &[0xfe, 0, 0, 2, 0];
pub(super) const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

/// One side of a script: what the server says, or what it has to hear.
pub(super) enum Step {
    Say(Vec<u8>),
    /// Says them, and at once.
    Rows(&'static [&'static str], Vec<Vec<Option<&'static str>>>),
    /// Hears a packet that begins so.
    Hear(Vec<u8>),
    /// Hears a login of this user that has this in it.
    Login(&'static str, Vec<u8>),
    /// Hears this packet and nothing else.
    Exactly(Vec<u8>),
    /// Hears a packet, and hands it on to be looked at.
    Keep,
    Pause(Duration),
}
use Step::{Exactly, Hear, Keep, Pause, Rows, Say};

pub(super) fn greeting(version: &str, plugin: &str) -> Step {
    let mut bytes = vec![10];
    bytes.extend(version.as_bytes());
    bytes.extend([0, 7, 0, 0, 0]);
    bytes.extend(&NONCE[..8]);
    // Everything but TLS (CLIENT_SSL).
    bytes.extend([0, 0xff, 0xf7, 45, 2, 0, 0xff, 0xdf, 21]);
    bytes.extend([0; 10]);
    bytes.extend(&NONCE[8..]);
    bytes.push(0);
    bytes.extend(plugin.as_bytes());
    bytes.push(0);
    Say(bytes)
}

pub(super) fn mysql() -> Step {
    greeting("8.4.3", "caching_sha2_password")
}

pub(super) fn switch(plugin: &str) -> Step {
    Say([&[0xfe], plugin.as_bytes(), &[0], OTHER_NONCE, &[0]].concat())
}

pub(super) fn login(user: &'static str, proof: Vec<u8>) -> Step {
    Step::Login(user, proof)
}

/// The login that the first greeting asks for.
pub(super) fn proven() -> Step {
    login("pm", Method::CachingSha2.proof(b"secret", NONCE))
}

pub(super) fn query(statement: &str) -> Step {
    Exactly([&[3], statement.as_bytes()].concat())
}

/// The questions about the role, and the answers.
pub(super) fn role(read_only: &'static str) -> [Step; 2] {
    let columns = &["@@global.read_only", "@@global.innodb_read_only"];
    [query(questions::ROLE[0]), Rows(columns, vec![vec![Some(read_only), Some("0")]])]
}

pub(super) fn error(code: u16, message: &str) -> Step {
    Say([&[0xff], &code.to_le_bytes()[..], b"#HY000", message.as_bytes()].concat())
}

/// A server that follows a script, then hears what the client says until its end.
pub(super) struct Server {
    pub(super) line: Line,
    /// What was kept, and what came behind the script.
    pub(super) heard: JoinHandle<(Vec<Vec<u8>>, Vec<u8>)>,
}

impl Server {
    pub(super) async fn start(steps: Vec<Step>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Ip(listener.local_addr().unwrap());
        let heard = thread::spawn(move || follow(listener.accept().unwrap().0, steps));
        let line = Line(connect::dial(&target, connect::Source::Any).await.unwrap());
        Server { line, heard }
    }

    /// What a probe comes to, and what came behind the script.
    pub(super) async fn answer(self, means: Means) -> (Result<Answer, Observation>, Vec<Vec<u8>>, Vec<u8>) {
        let deadline = Deadline::from(Instant::now(), Duration::from_secs(10));
        let Ok((answer, _, channel)) = Conversation::begin(self.line, means).go_on(deadline).await else {
            panic!("it took too long");
        };
        if let Some(mut channel) = channel {
            let _ = channel.part().await;
        }
        let (kept, rest) = self.heard.join().unwrap();
        (answer, kept, rest)
    }
}

fn follow(mut client: TcpStream, steps: Vec<Step>) -> (Vec<Vec<u8>>, Vec<u8>) {
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut number, mut kept) = (0, Vec::new());
    for step in steps {
        match step {
            Say(payload) => say(&mut client, &mut number, &payload),
            Rows(columns, rows) => {
                say(&mut client, &mut number, &[columns.len() as u8]);
                for name in columns {
                    let text = [&[name.len() as u8], name.as_bytes()].concat();
                    say(
                        &mut client,
                        &mut number,
                        &[b"\x03def\0\0\0", &text[..], b"\0\x0c?\0\x01\0\0\0\x08\x80\0\0\0\0"].concat(),
                    );
                }
                say(&mut client, &mut number, END);
                for row in rows {
                    let value = |value: Option<&str>| match value {
                        Some(value) => [&[value.len() as u8], value.as_bytes()].concat(),
                        None => vec![0xfb],
                    };
                    say(&mut client, &mut number, &row.into_iter().flat_map(value).collect::<Vec<_>>());
                }
                say(&mut client, &mut number, END);
            }
            Hear(begin) => {
                let heard = hear(&mut client, &mut number);
                assert!(heard.starts_with(&begin), "{heard:?} does not begin with {begin:?}");
            }
            Step::Login(user, proof) => {
                let heard = hear(&mut client, &mut number);
                let expected = [user.as_bytes(), &[0, proof.len() as u8], &proof].concat();
                assert!(heard[32..].starts_with(&expected), "{heard:?} has no login with {expected:?}");
            }
            Exactly(expected) => {
                let heard = hear(&mut client, &mut number);
                assert_eq!(heard, expected, "{:?}", String::from_utf8_lossy(&heard));
            }
            Keep => kept.push(hear(&mut client, &mut number)),
            Pause(length) => thread::sleep(length),
        }
    }
    let mut rest = Vec::new();
    let _ = client.shutdown(std::net::Shutdown::Write);
    client.read_to_end(&mut rest).unwrap();
    (kept, rest)
}

fn say(client: &mut TcpStream, number: &mut u8, payload: &[u8]) {
    let length = (payload.len() as u32).to_le_bytes();
    client.write_all(&[&length[..3], &[*number], payload].concat()).unwrap();
    *number += 1;
}

fn hear(client: &mut TcpStream, number: &mut u8) -> Vec<u8> {
    let mut header = [0; 4];
    client.read_exact(&mut header).unwrap();
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).unwrap();
    assert!(header[3] == *number || header[3] == 0, "packet {} after {number}: {payload:?}", header[3]);
    *number = header[3] + 1;
    payload
}
