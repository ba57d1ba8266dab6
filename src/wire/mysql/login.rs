//! The login: the request for TLS, what a client says of itself, and what a server makes of it until it lets the client
//! in.

use super::fields::{Fields, length};
use super::greeting::{Capabilities, Greeting, told};
use super::{MysqlError, ServerError, reply};

/// utf8mb4_general_ci, which every server from 5.5.3 on knows.
const COLLATION: u8 = 45;
/// What a client says of itself, for those who look at a server's sessions.
const ATTRIBUTES: [(&str, &str); 1] = [("program_name", "pointsman")];

/// Who wants to log in, and how. Neither text has a zero byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// Its name.
    pub user: &'a str,
    /// The database to begin in.
    pub database: Option<&'a str>,
    /// The way to log in that the proof is for.
    pub plugin: &'a str,
    /// What proves that it knows the password, at most 250 bytes; empty: there is none.
    pub proof: &'a [u8],
}

impl Greeting {
    /// What asks for TLS (SSLRequest); the handshake follows at once. `None`: the server does not speak it.
    pub fn tls_request(&self, database: Option<&str>) -> Option<Vec<u8>> {
        self.capabilities.has(Capabilities::TLS).then(|| self.opening(database.is_some(), true))
    }

    /// What logs in (HandshakeResponse41); `in_tls`: TLS was asked for before.
    pub fn login(&self, login: &Login<'_>, in_tls: bool) -> Vec<u8> {
        let mut bytes = self.opening(login.database.is_some(), in_tls);
        bytes.extend(login.user.as_bytes());
        bytes.push(0);
        let proof = login.proof.get(..250).unwrap_or(login.proof);
        bytes.extend(length(proof.len()));
        bytes.extend(proof);
        if let Some(database) = login.database {
            bytes.extend(database.as_bytes());
            bytes.push(0);
        }
        let can = self.common(login.database.is_some(), in_tls);
        if can.has(Capabilities::PLUGINS) {
            bytes.extend(login.plugin.as_bytes());
            bytes.push(0);
        }
        if can.has(Capabilities::ATTRIBUTES) {
            let texts = ATTRIBUTES.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
            let list: Vec<u8> = texts.flat_map(|text| [&length(text.len()), text].concat()).collect();
            bytes.extend(length(list.len()));
            bytes.extend(list);
        }
        bytes
    }

    /// What both packets begin with.
    fn opening(&self, with_database: bool, in_tls: bool) -> Vec<u8> {
        let longest = super::MAX_PACKET as u32;
        let mut bytes = self.common(with_database, in_tls).0.to_le_bytes().to_vec();
        bytes.extend(longest.to_le_bytes());
        bytes.push(COLLATION);
        bytes.extend([0; 23]);
        bytes
    }

    /// What holds for the connection.
    fn common(&self, with_database: bool, in_tls: bool) -> Capabilities {
        let mut ours = Capabilities::MYSQL | Capabilities::PROTOCOL_41 | Capabilities::STATUS | Capabilities::PROOFS;
        ours |= self.capabilities.0 & (Capabilities::PLUGINS | Capabilities::ATTRIBUTES);
        if with_database {
            ours |= Capabilities::DATABASE;
        }
        if in_tls {
            ours |= Capabilities::TLS;
        }
        Capabilities(ours)
    }
}

/// What a server says to a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginReply {
    /// The client is in.
    Welcome,
    /// It is not.
    Error(ServerError),
    /// This user logs in another way.
    Switch {
        /// How it is called; empty: the one of before 4.1.
        plugin: String,
        /// What the password is to be proven with, without the zero at its end.
        nonce: Vec<u8>,
    },
    /// Something that belongs to the way to log in.
    More(Vec<u8>),
}

impl LoginReply {
    /// Reads a packet that answers a login, or something that belongs to it.
    ///
    /// # Errors
    /// What is none of these.
    pub fn read(payload: &[u8]) -> Result<LoginReply, MysqlError> {
        let mut fields = Fields(payload);
        Ok(match fields.u8()? {
            reply::OK => LoginReply::Welcome,
            reply::ERROR => LoginReply::Error(ServerError::read(payload)?),
            1 => LoginReply::More(fields.0.to_vec()),
            reply::END => {
                let plugin = told(fields.last_text());
                let nonce = fields.0.strip_suffix(&[0]).unwrap_or(fields.0);
                LoginReply::Switch { plugin, nonce: nonce.to_vec() }
            }
            _ => return Err(MysqlError::Malformed("what answers the login is no answer to it")),
        })
    }
}
