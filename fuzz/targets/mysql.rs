//! Reading what a server says in the protocol of MySQL never panics, keeps its bounds, and gives the same answer in
//! whatever pieces it comes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::mysql::results::{KEPT, MAX_COLUMNS, Reader};
use pointsman::wire::mysql::{Greeting, Login, LoginReply, MAX_PACKET, MysqlError, Packets, Reply, ServerError};

fuzz_target!(|bytes: &[u8]| {
    let whole = conversation(bytes, |_| usize::MAX);
    let in_pieces = conversation(bytes, |byte| 1 + usize::from(byte % 61));
    assert_eq!(in_pieces, whole);
});

/// What was read of a server's side of a talk, up to what cannot be read.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    greeting: Option<Result<Greeting, ServerError>>,
    logins: Vec<LoginReply>,
    replies: Vec<Reply>,
    error: Option<MysqlError>,
}

/// Hears a talk in pieces, whose sizes are taken from their first bytes.
fn conversation(bytes: &[u8], size: impl Fn(u8) -> usize) -> Heard {
    let (mut packets, mut reader, mut heard) = (Packets::default(), Reader::default(), Heard::default());
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let (piece, behind) = rest.split_at(size(first).min(rest.len()));
        rest = behind;
        packets.incoming.extend(piece);
        loop {
            match packets.take() {
                Ok(None) => break,
                Ok(Some(payload)) => {
                    assert!(payload.len() <= MAX_PACKET);
                    if let Err(error) = hear(&payload, &mut reader, &mut heard) {
                        heard.error = Some(error);
                        return heard;
                    }
                }
                Err(error) => {
                    heard.error = Some(error);
                    return heard;
                }
            }
        }
    }
    heard
}

fn hear(payload: &[u8], reader: &mut Reader, heard: &mut Heard) -> Result<(), MysqlError> {
    let Some(greeting) = &heard.greeting else {
        heard.greeting = Some(Greeting::read(payload)?);
        return Ok(());
    };
    if let (Ok(greeting), []) = (greeting, &*heard.logins) {
        let login = Login { user: "user", database: Some("shop"), plugin: &greeting.plugin, proof: &greeting.nonce };
        let (request, login) = (greeting.tls_request(Some("shop")), greeting.login(&login, true));
        assert!(request.is_none_or(|request| login.starts_with(&request)));
        let _ = (greeting.numbers(), greeting.is_mariadb());
    }
    if !heard.logins.contains(&LoginReply::Welcome) {
        heard.logins.push(LoginReply::read(payload)?);
        return Ok(());
    }
    if let Some(reply) = reader.take(payload)? {
        if let Reply::Rows(result) = &reply {
            assert!(result.rows.len() <= KEPT && result.columns.len() <= MAX_COLUMNS);
            assert!(result.rows.iter().all(|row| row.len() == result.columns.len()));
        }
        heard.replies.push(reply);
        *reader = Reader::default();
    }
    Ok(())
}
