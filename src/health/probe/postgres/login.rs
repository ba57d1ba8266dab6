//! The login of a probe at a PostgreSQL server, and what its answers mean.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::session::Session;
use crate::config::model::PostgresProbe;
use crate::health::probe::channel::Channel;
use crate::health::verdict::{Observation, Text};
use crate::tls::binding;
use crate::wire::pg_server::{Authentication, ServerError, ServerMessage};

/// Who nobody is: without a login the server is still told a name.
const NOBODY: &str = "pointsman";

/// How a login ended.
pub(super) enum Entry {
    /// The server waits for queries.
    Ready,
    /// It would take a login, if there were one.
    Alive(Text),
    /// It is there, but has no room.
    Full(Text),
}

/// Logs in, as far as there is a login.
pub(super) async fn enter(
    session: &mut Session,
    probe: &PostgresProbe,
    password: Option<&[u8]>,
) -> Result<Entry, Observation> {
    let user = probe.login.as_ref().map_or(NOBODY, |login| &login.user);
    let parameters =
        [("user", user), ("database", &probe.database), ("application_name", "pointsman"), ("client_encoding", "UTF8")];
    session.say(|buffer| frontend::startup_message(parameters, buffer)).await?;
    let mut login = Login { user, password, scram: None };
    loop {
        match session.next().await? {
            ServerMessage::Ready => {
                session.is_logged_in = true;
                return Ok(Entry::Ready);
            }
            ServerMessage::Authentication(Authentication::Ok) => login.is_let_in()?,
            ServerMessage::Authentication(_) if probe.login.is_none() => {
                return Ok(Entry::Alive("PostgreSQL, asks for a login".into()));
            }
            ServerMessage::Authentication(asked) => login.answer(session, asked).await?,
            ServerMessage::Error(error) => return refused(&error, probe.login.is_some()),
            _ => {}
        }
    }
}

/// A login under way.
struct Login<'a> {
    user: &'a str,
    password: Option<&'a [u8]>,
    /// It has begun and is not over.
    scram: Option<ScramSha256>,
}

impl Login<'_> {
    /// Answers what the server asks.
    async fn answer(&mut self, session: &mut Session, asked: Authentication) -> Result<(), Observation> {
        match asked {
            Authentication::Cleartext if matches!(session.channel, Channel::Clear(_)) => {
                Err(cannot("it wants the password in clear, which is sent in TLS alone"))
            }
            Authentication::Cleartext => {
                let password = self.password()?;
                session.say(|buffer| frontend::password_message(password, buffer)).await
            }
            Authentication::Md5(salt) => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?, salt);
                session.say(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await
            }
            Authentication::Sasl(mechanisms) => {
                let (mechanism, binding) = mechanism(&mechanisms, &session.channel)?;
                let scram = ScramSha256::new(self.password()?, binding);
                session.say(|buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer)).await?;
                self.scram = Some(scram);
                Ok(())
            }
            Authentication::SaslContinue(data) => {
                let scram = self.scram.as_mut().ok_or_else(out_of_turn)?;
                scram.update(&data).map_err(|error| cannot(error.to_string()))?;
                session.say(|buffer| frontend::sasl_response(scram.message(), buffer)).await
            }
            Authentication::SaslFinal(data) => {
                let mut scram = self.scram.take().ok_or_else(out_of_turn)?;
                scram.finish(&data).map_err(|_| unproven())
            }
            Authentication::Other => Err(cannot("it wants GSSAPI or SSPI")),
            Authentication::Ok => Ok(()),
        }
    }

    /// The server asks nothing more. It has to have shown by then that it knows the password, where it has begun to.
    fn is_let_in(&self) -> Result<(), Observation> {
        if self.scram.is_some() { Err(unproven()) } else { Ok(()) }
    }

    fn password(&self) -> Result<&[u8], Observation> {
        self.password.ok_or_else(|| cannot("it wants a password, and there is no password_file"))
    }
}

/// The best of the mechanisms that are offered: one that is bound to the TLS that it runs in, if possible.
fn mechanism(offered: &[String], channel: &Channel) -> Result<(&'static str, ChannelBinding), Observation> {
    let end_point = match channel {
        Channel::Clear(_) => None,
        Channel::Tls(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            chain.and_then(|chain| binding::end_point(chain.first()?))
        }
    };
    let is_offered = |mechanism: &str| offered.iter().any(|offered| offered == mechanism);
    match end_point {
        Some(hash) if is_offered(SCRAM_SHA_256_PLUS) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)))
        }
        // That we could have is said, so that nobody in between can take the better one off the list (RFC 5802, section 6).
        Some(_) if is_offered(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if is_offered(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(cannot(format!("it wants one of {}", offered.join(", ")))),
    }
}

/// What it means that the server does not let us in. The login is ours: that it is wrong says nothing of the server, which
/// is there to say so.
fn refused(error: &ServerError, logs_in: bool) -> Result<Entry, Observation> {
    let is_login = matches!(error.code.as_bytes(), [b'2', b'8', ..] | b"3D000" | b"42501" | b"08P01");
    match error.code.as_str() {
        // It starts, shuts down or is in recovery: a definite answer.
        "57P01" | "57P02" | "57P03" => Err(Observation::Refused(format!("not ready: {error}").into())),
        "53300" => Ok(Entry::Full(format!("full: {error}").into())),
        _ if is_login && logs_in => Err(cannot(error.to_string())),
        _ if is_login => Ok(Entry::Alive(format!("PostgreSQL, {error}").into())),
        _ => Err(Observation::Missing(format!("does not take a login: {error}").into())),
    }
}

fn cannot(why: impl Into<Text>) -> Observation {
    Observation::Unclear(format!("cannot log in: {}", why.into()).into())
}

fn unproven() -> Observation {
    Observation::Refused("does not prove that it knows the password".into())
}

fn out_of_turn() -> Observation {
    Observation::Refused("it asks for what is not its turn in a login".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_means() {
        for (code, logs_in, meaning) in [
            ("57P03", true, "refused"),
            ("57P03", false, "refused"),
            ("57P01", true, "refused"),
            ("53300", true, "full"),
            ("53300", false, "full"),
            ("28P01", true, "unclear"),
            ("28000", true, "unclear"),
            ("28000", false, "alive"),
            ("3D000", true, "unclear"),
            ("3D000", false, "alive"),
            ("08P01", false, "alive"),
            ("53200", true, "missing"),
            ("XX000", false, "missing"),
            ("", false, "missing"),
        ] {
            let found = match refused(&ServerError { code: code.into(), text: "no".into() }, logs_in) {
                Ok(Entry::Ready) => "ready",
                Ok(Entry::Alive(_)) => "alive",
                Ok(Entry::Full(_)) => "full",
                Err(Observation::Refused(_)) => "refused",
                Err(Observation::Missing(_)) => "missing",
                Err(Observation::Unclear(_)) => "unclear",
                Err(Observation::Pass(_)) => "pass",
            };
            assert_eq!(found, meaning, "{code}, {}", if logs_in { "with a login" } else { "without one" });
        }
    }
}
