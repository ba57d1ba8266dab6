//! The login at a MySQL server: whatever way it asks for, up to its word that we are in or are not.

use super::over::Over;
use super::proof::{self, Method};
use super::session::Session;
use crate::config::model::MysqlProbe;
use crate::health::server_key;
use crate::health::verdict::Observation;
use crate::wire::mysql::greeting::NONCE;
use crate::wire::mysql::{Greeting, Login, LoginReply};

/// The most that a server may say before it lets us in: a login in its longest form takes four packets.
const MOST_REPLIES: usize = 8;
/// The server asks for the password itself (caching_sha2_password).
const ASKS_PASSWORD: &[u8] = &[4];
/// It knows the proof and lets us in.
const PROOF_IS_GOOD: &[u8] = &[3];

/// Logs in.
///
/// # Errors
/// We are not in, and nothing more can be said.
pub(super) async fn enter(
    session: &mut Session,
    greeting: &Greeting,
    probe: &MysqlProbe,
    password: &[u8],
) -> Result<(), Over> {
    let (mut method, mut nonce) = (Method::named(&greeting.plugin).unwrap_or(Method::NativePassword), greeting.nonce);
    let proof = method.proof(password, &nonce);
    let database = probe.database.as_deref();
    let login = Login { user: &probe.login.user, database, plugin: method.name(), proof: &proof };
    session.answer(&greeting.login(&login, session.is_tls())).await?;
    for _ in 0..MOST_REPLIES {
        match LoginReply::read(&session.receive().await?)? {
            LoginReply::Welcome => {
                session.is_in = true;
                return Ok(());
            }
            LoginReply::Error(error) => return Err(error.into()),
            LoginReply::Switch { plugin, nonce: fresh } => {
                match (Method::named(&plugin), <[u8; NONCE]>::try_from(fresh)) {
                    (Some(wanted), Ok(fresh)) => (method, nonce) = (wanted, fresh),
                    _ => return Err(decline(session, unspoken(&plugin)).await),
                }
                session.answer(&method.proof(password, &nonce)).await?;
            }
            LoginReply::More(said) if method == Method::CachingSha2 && said == PROOF_IS_GOOD => {}
            LoginReply::More(said) if method == Method::CachingSha2 && said == ASKS_PASSWORD => {
                if session.is_private() {
                    session.answer(&proof::bare(password)).await?;
                } else {
                    match seal(probe, password, &nonce) {
                        Ok(sealed) => session.answer(&sealed).await?,
                        Err(why) => return Err(decline(session, why).await),
                    }
                }
            }
            LoginReply::More(_) => return Err(decline(session, unspoken(method.name())).await),
        }
    }
    Err(Over::refused("the login has no end"))
}

/// Says nothing of ours, to a server that is not to hear it, in the way that it counts as a failed login.
///
/// A connection that a client leaves in the middle of a handshake counts against its address, until nobody at this
/// address is let in any more (error 1129).
pub(super) async fn leave_nameless(session: &mut Session, greeting: &Greeting) {
    let nobody = Login { user: "", database: None, plugin: &greeting.plugin, proof: &[] };
    let mut answer = greeting.login(&nobody, session.is_tls());
    for _ in 0..MOST_REPLIES {
        if session.answer(&answer).await.is_err() {
            return;
        }
        let said = session.receive().await.and_then(|said| Ok(LoginReply::read(&said)?));
        match said {
            // Users who are not there are asked as others are.
            Ok(LoginReply::Switch { .. } | LoginReply::More(_)) => answer = Vec::new(),
            Ok(LoginReply::Welcome) => {
                session.is_in = true;
                return;
            }
            Ok(LoginReply::Error(_)) | Err(_) => return,
        }
    }
}

/// Answers with no password, which counts as a failed login, where to leave would count as a broken handshake.
async fn decline(session: &mut Session, why: Observation) -> Over {
    // Whatever it says to that, the reason is ours.
    if session.answer(&[]).await.is_ok() {
        let _ = session.receive().await;
    }
    Over::Told(why)
}

fn unspoken(plugin: &str) -> Observation {
    let spoken = [Method::CachingSha2, Method::NativePassword].map(Method::name).join(" and ");
    Observation::Unclear(format!("our user is to log in by {plugin:?}; spoken are {spoken}").into())
}

/// The password for this server alone.
fn seal(probe: &MysqlProbe, password: &[u8], nonce: &[u8; NONCE]) -> Result<Vec<u8>, Observation> {
    let ours = |why: String| Observation::Unclear(why.into());
    let Some(file) = &probe.server_key else {
        let why = "it asks for the password itself, which takes TLS or the server's key (server_key_file)";
        return Err(ours(why.to_owned()));
    };
    let key = server_key::read(file).map_err(|error| ours(error.to_string()))?;
    key.encrypt(&proof::covered(password, nonce)).ok_or_else(|| ours(format!("{file:?} is too short for the password")))
}
