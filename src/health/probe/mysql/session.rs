//! One connection with a MySQL server: packets over a channel, and how far the talk has come.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::Waits;
use super::over::Over;
use crate::health::probe::channel::Channel;
use crate::health::probe::tls::{self, Opened};
use crate::health::verdict::Observation;
use crate::wire::mysql::results::Reader;
use crate::wire::mysql::{Command, Packets, Reply};

/// A connection.
pub(super) struct Session {
    pub(super) channel: Channel,
    packets: Packets,
    /// The server has let us in, so that it wants to be told when we leave.
    pub(super) is_in: bool,
    waits: Arc<Waits>,
}

impl Session {
    pub(super) fn new(channel: Channel, waits: Arc<Waits>) -> Session {
        Session { channel, packets: Packets::default(), is_in: false, waits }
    }

    /// Goes over to TLS.
    ///
    /// # Errors
    /// What is to be told of the endpoint, and the talk as it stands: in TLS, if only its certificate is to blame.
    pub(super) async fn start_tls(
        self,
        client: &tls::Client,
    ) -> Result<(Session, Option<SystemTime>), (Observation, Session)> {
        let Session { channel, packets, is_in, waits } = self;
        let within = |channel| Session { channel, packets, is_in, waits };
        match channel {
            Channel::Clear(line) => match client.open_whole(line).await {
                Ok(Opened { channel, expires }) => Ok((within(channel), expires)),
                Err((why, channel)) => Err((why, within(channel))),
            },
            Channel::Tls(_) => Ok((within(channel), None)),
        }
    }

    /// Nothing that came in clear is left, which could pass for a part of what comes in TLS.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.incoming.is_empty()
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.channel, Channel::Tls(_))
    }

    /// Whether nobody can listen.
    pub(super) fn is_private(&self) -> bool {
        match &self.channel {
            Channel::Tls(_) => true,
            Channel::Clear(line) => line.is_local(),
        }
    }

    /// Says what is waited for from now on.
    pub(super) fn wait_for(&self, what: &'static str) {
        self.waits.set(what);
    }

    /// Takes in a packet.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(payload) = self.packets.take()? {
                return Ok(payload);
            }
            let received = self.channel.read_buf(&mut self.packets.incoming).await;
            if received.map_err(|error| tls::observation(&error))? == 0 {
                return Err(Over::Told(Observation::Missing("it ended the connection".into())));
            }
        }
    }

    /// Answers the last packet.
    pub(super) async fn answer(&mut self, payload: &[u8]) -> Result<(), Observation> {
        let packet = Zeroizing::new(self.packets.answer(payload));
        self.send(&packet).await
    }

    /// Has a statement run.
    pub(super) async fn query(&mut self, statement: &str) -> Result<Reply, Over> {
        let packet = self.packets.command(Command::Query(statement));
        self.send(&packet).await?;
        let mut reader = Reader::default();
        loop {
            let payload = self.receive().await?;
            if let Some(reply) = reader.take(&payload)? {
                return Ok(reply);
            }
        }
    }

    /// Says good-bye, if the server knows us, and gives the channel back, which is still to be ended.
    pub(super) async fn leave(mut self) -> Channel {
        if self.is_in {
            let packet = self.packets.command(Command::Quit);
            // However it takes that, we leave.
            let _ = self.send(&packet).await;
        }
        self.channel
    }

    async fn send(&mut self, packet: &[u8]) -> Result<(), Observation> {
        let sent = async {
            self.channel.write_all(packet).await?;
            self.channel.flush().await
        };
        sent.await.map_err(|error| tls::observation(&error))
    }
}
