//! What a probe talks over: a connection of ours as tokio's readers and writers want it, in clear or in TLS; and how it is
//! ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::stream::Stream;

/// How long an endpoint may take to end its side of a talk that is over.
const FAREWELL: Duration = Duration::from_secs(1);
/// The most bytes that it may still say.
const LAST_WORDS: usize = 64 * 1024;

/// A connection in clear.
#[derive(Debug)]
pub(crate) struct Line(pub(super) Stream);

impl Line {
    /// Whether it stays on this machine, in a unix socket.
    pub(super) fn is_local(&self) -> bool {
        self.0.is_unix()
    }

    /// Has an endpoint that is gone be known to be so, while nothing is said for long.
    pub(super) fn keep_alive_closely(&self) {
        self.0.keep_alive_closely();
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Channel {
    Clear(Line),
    Tls(Box<TlsStream<Line>>),
}

impl Channel {
    /// Says that nothing more will come, and takes in what the endpoint still says: to close with unread bytes would be a
    /// reset. An error is what came instead of an end.
    pub(super) async fn part(&mut self) -> io::Result<()> {
        let part = async {
            self.shutdown().await?;
            let (mut buffer, mut taken) = ([0; 1024], 0);
            while taken < LAST_WORDS {
                match self.read(&mut buffer).await? {
                    0 => break,
                    received => taken += received,
                }
            }
            Ok(())
        };
        timeout(FAREWELL, part).await.unwrap_or(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let received = ready!(self.0.poll_recv(cx, buffer.initialize_unfilled()))?;
        buffer.advance(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown_write())
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Clear(line) => Pin::new(line).poll_read(cx, buffer),
            Channel::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Channel::Clear(line) => Pin::new(line).poll_write(cx, bytes),
            Channel::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Clear(line) => Pin::new(line).poll_flush(cx),
            Channel::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Clear(line) => Pin::new(line).poll_shutdown(cx),
            Channel::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
