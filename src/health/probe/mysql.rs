//! The MySQL probe: a login at MySQL or MariaDB, TLS where the dialogue has it, and what the server then tells of
//! itself.
//!
//! A server counts connections that are left in the middle of a handshake, and lets nobody at our address in once there
//! are too many in a row (max_connect_errors), sessions of clients included. So a probe never leaves one: what has not
//! come by the deadline is missing, but the talk goes on ([`Conversation`]) until it has an end, and the next probe is
//! its rest.

mod login;
mod over;
mod proof;
mod questions;
#[cfg(test)]
mod scripted;
mod session;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use zeroize::Zeroizing;

use self::over::Over;
use self::session::Session;
use super::channel::{Channel, Line};
use super::server::Answer;
use super::{Deadline, Talked, tls};
use crate::config::model::MysqlProbe;
use crate::health::verdict::{Observation, Text};
use crate::wire::mysql::Greeting;

/// How long a server that does not go on is waited for: one that hangs counts us out once it wakes up, but none that is
/// gone for good is to be taken for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A talk with a server, which may take longer than one probe.
pub(crate) struct Conversation {
    began: Instant,
    waits: Arc<Waits>,
    talk: Pin<Box<dyn Future<Output = Talked<Answer>> + Send>>,
    done: Option<Talked<Answer>>,
}

/// What a talk waits for, for those who tell that it has not come.
pub(super) struct Waits(Mutex<&'static str>);

/// What it takes to talk.
pub(super) struct Means {
    pub(super) probe: MysqlProbe,
    pub(super) password: Option<Zeroizing<Vec<u8>>>,
    pub(super) tls: Option<Result<tls::Client, Observation>>,
}

impl Conversation {
    /// Begins to talk with a server on `line`.
    pub(super) fn begin(line: Line, means: Means) -> Conversation {
        line.keep_alive_closely();
        let waits = Arc::new(Waits(Mutex::new("no greeting")));
        let talk = Box::pin(converse(line, means, Arc::clone(&waits)));
        Conversation { began: Instant::now(), waits, talk, done: None }
    }

    /// Whether it is worth to go on.
    pub(super) fn is_fresh(&self) -> bool {
        self.began.elapsed() < PATIENCE
    }

    /// Goes on to its end.
    pub(crate) async fn finish(&mut self) {
        if self.done.is_none() {
            self.done = Some(self.talk.as_mut().await);
        }
    }

    /// Goes on to its end or until `deadline`: then what has not come is told, and the rest of the talk is left.
    pub(super) async fn go_on(mut self, deadline: Deadline) -> Result<Talked<Answer>, (Text, Conversation)> {
        let _ = deadline.hold(self.finish()).await;
        match self.done.take() {
            Some(done) => Ok(done),
            None => Err((deadline.missed(self.waits.get()), self)),
        }
    }
}

impl Waits {
    fn set(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn get(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The talk: the greeting, TLS, the login, the questions, the farewell.
async fn converse(line: Line, means: Means, waits: Arc<Waits>) -> Talked<Answer> {
    let mut session = Session::new(Channel::Clear(line), waits);
    let greeting = match greet(&mut session).await {
        Ok(greeting) => greeting,
        Err(over) => return (over.answer(), None, Some(session.leave().await)),
    };
    let (mut session, expires) = match &means.tls {
        None => (session, None),
        Some(client) => match secure(session, &greeting, client, &means.probe).await {
            Ok(secured) => secured,
            Err((why, session)) => return (Err(why), None, Some(session.leave().await)),
        },
    };
    let answer = ask(&mut session, &greeting, &means).await;
    (answer.or_else(Over::answer), expires, Some(session.leave().await))
}

async fn greet(session: &mut Session) -> Result<Greeting, Over> {
    Ok(Greeting::read(&session.receive().await?)??)
}

/// Goes over to TLS. A server that does not take part, or is not who it should be, is told nothing.
async fn secure(
    mut session: Session,
    greeting: &Greeting,
    client: &Result<tls::Client, Observation>,
    probe: &MysqlProbe,
) -> Result<(Session, Option<SystemTime>), (Observation, Session)> {
    let client = match client {
        Ok(client) => client,
        Err(why) => return Err((why.clone(), nameless(session, greeting).await)),
    };
    let Some(request) = greeting.tls_request(probe.database.as_deref()) else {
        return Err((Observation::Refused("it does not speak TLS".into()), nameless(session, greeting).await));
    };
    if !session.is_empty() {
        // It could pass for what the server says in TLS.
        let why = Observation::Refused("it goes on in clear where TLS is due".into());
        return Err((why, nameless(session, greeting).await));
    }
    session.wait_for("no TLS handshake");
    if let Err(why) = session.answer(&request).await {
        return Err((why, session));
    }
    match session.start_tls(client).await {
        Err((why, session)) if session.is_tls() => Err((why, nameless(session, greeting).await)),
        begun => begun,
    }
}

async fn nameless(mut session: Session, greeting: &Greeting) -> Session {
    login::leave_nameless(&mut session, greeting).await;
    session
}

async fn ask(session: &mut Session, greeting: &Greeting, means: &Means) -> Result<Answer, Over> {
    let password = means.password.as_ref().map(|password| password.as_slice()).unwrap_or_default();
    session.wait_for("no answer to the login");
    login::enter(session, greeting, &means.probe, password).await?;
    questions::ask(session, greeting, &means.probe).await
}
