//! What `benches/instructions` counts and cannot reach from outside. No part of the library's interface.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;

use crate::balance::{Load, least_connections, round_robin};
use crate::forward::{Forward, Tools};
use crate::stream::{Family, Stream};
use crate::table::{Entry, Limits};

/// Picks by least connections among `endpoints`, each pick being a session that stays. Returns the last index.
pub fn least_connections(endpoints: usize, picks: usize) -> Option<usize> {
    let mut loads = vec![Load { weight: 1, active: 0, recent: 0 }; endpoints];
    let mut last = None;
    for position in 0..picks {
        let (index, _) = least_connections::pick(loads.iter().copied(), position, |_| true)?;
        loads.get_mut(index)?.active += 1;
        last = Some(index);
    }
    last
}

/// Picks in turn among `endpoints`. Returns the last index.
pub fn round_robin(endpoints: usize, picks: usize) -> Option<usize> {
    let turns = round_robin::turns(&vec![1; endpoints]);
    (0..picks).fold(None, |_, position| black_box(round_robin::pick(&turns, || position, |_| true)))
}

/// One session of the forwarder over socket pairs: so many messages of 200 bytes go to the endpoint and come back.
///
/// # Errors
/// Those of the sockets.
pub fn session(messages: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ((mut client, near_client), (mut endpoint, near_endpoint)) = (pair()?, pair()?);
        let (tools, entry) = (Tools::new(1), Entry::new(0, Limits::default()));
        let mut forward = pin!(Forward::new(&near_client, &near_endpoint, None, &tools, &entry));
        let mut cross = async |from: &mut UnixStream, to: &mut UnixStream| {
            let mut message = [7; 200];
            from.write_all(&message)?;
            loop {
                std::future::poll_fn(|cx| Poll::Ready(forward.as_mut().poll(cx).is_ready())).await;
                match to.read(&mut message) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                    read => return read,
                }
            }
        };
        for _ in 0..messages {
            cross(&mut client, &mut endpoint).await?;
            cross(&mut endpoint, &mut client).await?;
        }
        Ok(())
    })
}

fn pair() -> io::Result<(UnixStream, Stream)> {
    let (far, near) = UnixStream::pair()?;
    far.set_nonblocking(true)?;
    near.set_nonblocking(true)?;
    Ok((far, Stream::new(OwnedFd::from(near), Family::Unix)?))
}
