//! The Patroni probe: what the agent beside a PostgreSQL server says of it (Patroni's REST API, health check endpoints).
//!
//! It speaks HTTP/1.0 and ends each connection behind its answer, so that a replica takes two.

use std::io;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::channel::Line;
use super::server::Answer;
use super::{Ending, Talk, Talked, http};
use crate::config::model::{HttpProbe, PatroniProbe, Role};
use crate::health::verdict::Observation;

/// The longest word of its that is told, in characters.
const LONGEST_WORD: usize = 40;

/// Asks whether it has the primary, and else whether it has a replica that may serve.
///
/// # Errors
/// Our own, as there is no second connection without them.
pub(super) async fn run(line: Line, probe: &PatroniProbe, talk: &Talk<'_>) -> io::Result<Talked<Answer>> {
    let (answer, expires, channel) = ask(line, "/primary".to_owned(), talk).await;
    match answer {
        Ok(Said { is_so: false, .. }) => {}
        Ok(said) => return Ok((Ok(said.answer(Role::Primary)), expires, channel)),
        Err(why) => return Ok((Err(why), expires, channel)),
    }
    // It has to be ended in any case, and takes a descriptor.
    let _ = talk.deadline.hold(Ending(channel).end()).await;
    let line = match talk.dial().await? {
        Ok(line) => line,
        Err(why) => return Ok((Err(why), expires, None)),
    };
    let path = probe.max_lag.map_or_else(|| "/replica".to_owned(), |lag| format!("/replica?lag={lag}"));
    let (answer, expires, channel) = ask(line, path, talk).await;
    let answer = answer.and_then(|said| if said.is_so { Ok(said.answer(Role::Replica)) } else { Err(said.refusal()) });
    Ok((answer, expires, channel))
}

/// What is answered to one question.
struct Said {
    is_so: bool,
    status: Status,
}

/// What Patroni tells of its server.
#[derive(Deserialize)]
struct Status {
    state: String,
    role: String,
}

async fn ask(line: Line, path: String, talk: &Talk<'_>) -> Talked<Said> {
    let probe = HttpProbe { method: Method::GET, path, host: None, headers: Vec::new(), reads_body: true };
    let request = async |channel| {
        let (answer, channel) = http::run(channel, &probe, talk.host, talk.deadline).await;
        (answer.and_then(|answer| read(&answer, &probe.path)), channel)
    };
    talk.within(line, request).await
}

fn read(answer: &http::Answer, path: &str) -> Result<Said, Observation> {
    let is_so = match answer.status {
        StatusCode::OK => true,
        StatusCode::SERVICE_UNAVAILABLE => false,
        status => return Err(Observation::Refused(format!("HTTP {status} to GET {path}").into())),
    };
    match (serde_json::from_slice(&answer.body), &answer.broken) {
        (Ok(status), _) => Ok(Said { is_so, status }),
        (Err(_), Some(why)) => Err(Observation::Missing(format!("what Patroni says broke off: {why}").into())),
        (Err(_), None) => Err(Observation::Refused("it does not answer as Patroni does".into())),
    }
}

impl Said {
    fn answer(&self, role: Role) -> Answer {
        Answer { role: Some(role), ..Answer::of(format!("Patroni, {}", word(&self.status.state))) }
    }

    /// Why it has neither: it may be that it does not run, that it is too far behind, or that it has the tag noloadbalance.
    fn refusal(&self) -> Observation {
        let Status { state, role } = &self.status;
        let text = format!("no server to use, by Patroni: {}, {}", word(role), word(state));
        Observation::Refused(text.into())
    }
}

fn word(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(LONGEST_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let starting = r#"{"state": "starting", "role": "replica", "patroni": {"version": "4.0.4"}}"#;
        let running = r#"{"state": "running", "role": "primary", "timeline": 7}"#;
        let refused = |text: &'static str| Err(Observation::Refused(text.into()));
        for (case, status, body, broken, read) in [
            ("so it is", 200, running, None, Ok((true, "running"))),
            ("so it is not", 503, starting, None, Ok((false, "starting"))),
            ("another status", 404, running, None, refused("HTTP 404 Not Found to GET /primary")),
            ("no JSON", 200, "<html>", None, refused("it does not answer as Patroni does")),
            ("other JSON", 200, "{}", None, refused("it does not answer as Patroni does")),
            (
                "half of it",
                200,
                &running[..9],
                Some("cut"),
                Err(Observation::Missing("what Patroni says broke off: cut".into())),
            ),
        ] {
            let answer = http::Answer {
                status: StatusCode::from_u16(status).unwrap(),
                body: body.into(),
                broken: broken.map(Into::into),
            };
            let found = super::read(&answer, "/primary").map(|said| (said.is_so, said.status.state));
            assert_eq!(found, read.map(|(is_so, state)| (is_so, state.to_owned())), "{case}");
        }
        let said = Said { is_so: false, status: serde_json::from_str(starting).unwrap() };
        assert_eq!(said.refusal(), Observation::Refused("no server to use, by Patroni: replica, starting".into()));
    }
}
