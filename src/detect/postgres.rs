//! What a client of PostgreSQL says before its ClientHello or in place of one, and what it is answered.

use std::cell::Cell;

use rustix::net::SendFlags;

use super::{Opening, Wish};
use crate::observe::outcome::{Outcome, Side};
use crate::refusal::Manner;
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::client_hello;
use crate::wire::postgres::{self, Packet, PacketError};

/// What a client has asked for so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// For encryption by GSSAPI, in vain.
    gssenc: bool,
    /// For TLS, and how.
    tls: Option<Tls>,
}

/// What has come so far.
pub(super) enum Heard {
    /// The beginning of a ClientHello.
    Tls,
    /// One whole message, of which the opening knows what it wants.
    Message,
    /// Less than that.
    Part,
}

/// How TLS is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    /// After an SSLRequest.
    Promised,
    /// At once (PostgreSQL manual, "SSL Session Encryption": direct).
    Direct,
}

impl Asked {
    /// Whether what comes now is TLS.
    pub(super) fn for_tls(self) -> bool {
        self.tls.is_some()
    }

    /// What it comes to, once it is TLS.
    pub(super) fn wish(self) -> Wish {
        if self.tls == Some(Tls::Promised) { Wish::Promised } else { Wish::Session }
    }

    /// Goes on with all that `client` has said and that is not answered yet, which the opening holds.
    ///
    /// # Errors
    /// [`Outcome::NotPostgres`], [`Outcome::HelloMalformed`], [`Outcome::HelloTooLarge`], [`Outcome::ClientGone`].
    pub(super) fn next(
        &mut self,
        opening: &mut Opening,
        client: &Stream,
        manner: &Cell<Manner>,
    ) -> Result<Heard, Failure> {
        let said = &mut opening.bytes;
        if said.first() == Some(&client_hello::HANDSHAKE) {
            self.begins(Tls::Direct, manner);
            return Ok(Heard::Tls);
        }
        let Some(packet) = postgres::packet(said).map_err(refusal)? else { return Ok(Heard::Part) };
        let answer = match packet {
            Packet::Cancel { .. } => {
                opening.wish = Wish::Cancel;
                return Ok(Heard::Message);
            }
            Packet::Startup { length } => {
                opening.wish = Wish::Clear;
                // Nothing comes of it before the client has answered.
                opening.replayable = length == said.len();
                return Ok(Heard::Message);
            }
            Packet::Ssl => postgres::YES,
            // It may be asked once (PostgreSQL manual, "GSSAPI Session Encryption").
            Packet::Gssenc if self.gssenc => return Err(malformed("GSSENCRequest twice")),
            Packet::Gssenc => postgres::NO,
        };
        // Whoever says more before it is answered takes what may come from somebody in between for part of its TLS.
        if said.len() > postgres::SSL_REQUEST.len() {
            return Err(malformed("data behind a request for encryption"));
        }
        said.clear();
        // The first byte on a new connection always finds room.
        if !matches!(rustix::net::send(client, &[answer], SendFlags::NOSIGNAL), Ok(1)) {
            return Err(Failure::new(Outcome::ClientGone, Side::Client));
        }
        match packet {
            Packet::Ssl => self.begins(Tls::Promised, manner),
            _ => self.gssenc = true,
        }
        Ok(Heard::Part)
    }

    fn begins(&mut self, tls: Tls, manner: &Cell<Manner>) {
        self.tls = Some(tls);
        manner.set(Manner::Alert);
    }
}

fn malformed(why: &str) -> Failure {
    tracing::debug!("refused: {why}");
    Failure::new(Outcome::HelloMalformed, Side::Client)
}

fn refusal(error: PacketError) -> Failure {
    tracing::debug!("refused: {error}");
    let outcome = match error {
        PacketError::NotPostgres { .. } => Outcome::NotPostgres,
        PacketError::TooLong(_) => Outcome::HelloTooLarge,
        PacketError::Length(_) | PacketError::Version(..) | PacketError::Parameters => Outcome::HelloMalformed,
    };
    Failure::new(outcome, Side::Client)
}
