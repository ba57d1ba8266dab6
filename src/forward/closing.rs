//! The last words of a connection: an alert that must arrive, a reset that must not overtake what came before it.
//!
//! Everything here is rare, bounded in bytes and by [`GRACE`], and runs after the session's own work is done.

use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::observe::outcome::Outcome;
use crate::stream::Stream;
use crate::sys;

/// How long a peer may take to receive what was sent before it is left.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// Bytes that may be on their way to a client who has left: a close_notify.
const LAST_WORDS: u64 = 64;
/// Bytes of a refused client that are read and thrown away.
const DISCARD: usize = 64 * 1024;

/// Sends the last bytes, then closes so that they arrive: with unread input a plain close would turn into a reset
/// that destroys them at the receiver.
pub(crate) async fn say(stream: Stream, last: &[u8]) {
    let _ = timeout(GRACE, async {
        let mut left = last;
        while !left.is_empty() {
            match std::future::poll_fn(|cx| stream.poll_send(cx, left)).await {
                Ok(sent) => left = left.get(sent..).unwrap_or_default(),
                Err(_) => return,
            }
        }
        if stream.shutdown_write().is_err() {
            return;
        }
        let mut buffer = [0; 2048];
        let mut discarded = 0;
        while discarded < DISCARD {
            match std::future::poll_fn(|cx| stream.poll_recv(cx, &mut buffer)).await {
                Ok(received) if received > 0 => discarded += received,
                _ => return,
            }
        }
    })
    .await;
}

/// Whether the loss of a side is no more than how both say goodbye: what one of them says last, such as the end of its TLS, is
/// answered by a reset of the other, who does not read any more. The side that is left ends by itself then, or has.
pub(crate) async fn is_goodbye(loss: Outcome, client: &Stream, endpoint: &Stream) -> bool {
    let (left, moment) = match loss {
        // Whoever has not said goodbye is to learn of it soon.
        Outcome::EndpointReset => (client, Duration::from_millis(100)),
        // Not of one who leaves in the middle of what it is sent. A server may take a while to end its session.
        Outcome::ClientReset if sys::unacknowledged(client.as_fd()).is_some_and(|bytes| bytes <= LAST_WORDS) => {
            (endpoint, Duration::from_millis(500))
        }
        _ => return false,
    };
    timeout(moment, left.gone(true)).await.is_ok()
}

/// Resets the connection once the peer has acknowledged everything that was written, or after [`GRACE`].
pub(crate) async fn reset_after_delivery(stream: Stream) {
    let give_up = Instant::now() + GRACE;
    let mut pause = Duration::from_millis(1);
    // What is left for a peer that is gone never goes away.
    let is_under_way = || !stream.is_over() && matches!(sys::unsent(stream.as_fd()), Ok(left) if left > 0);
    while is_under_way() && Instant::now() < give_up {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    stream.reset();
}
