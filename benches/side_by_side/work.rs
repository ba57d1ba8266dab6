//! The work that is put through a balancer. Every byte is counted: a run with an error, or with a byte too few, is
//! void.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::client::{Clients, Session};
use crate::endpoint::CHUNK;
use crate::hello::{EXCHANGE, Task};

async fn receive(stream: &mut Session, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        match stream.read(&mut buffer[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))]).await? {
            0 => return Err(io::Error::other(format!("{left} bytes are missing"))),
            received => left -= received as u64,
        }
    }
    Ok(())
}

/// `sessions` at once, each receiving `each` bytes.
pub async fn bulk_down(clients: Clients, sessions: usize, each: u64) -> io::Result<()> {
    at_once(clients, sessions, move |clients, number| async move {
        let mut stream = clients.open(number, Task::Down(each)).await?;
        receive(&mut stream, each).await
    })
    .await
}

/// `sessions` at once, each sending `each` bytes.
pub async fn bulk_up(clients: Clients, sessions: usize, each: u64) -> io::Result<()> {
    at_once(clients, sessions, move |clients, number| async move {
        let mut stream = clients.open(number, Task::Up(each)).await?;
        let chunk = vec![0x17; CHUNK];
        let mut left = each;
        while left > 0 {
            let sent = stream.write(&chunk[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))]).await?;
            left -= sent as u64;
        }
        stream.flush().await?;
        receive(&mut stream, EXCHANGE as u64).await
    })
    .await
}

/// `sessions` at once, each sending and receiving 200 bytes `each` times in turn.
pub async fn echo(clients: Clients, sessions: usize, each: u64) -> io::Result<()> {
    at_once(clients, sessions, move |clients, number| async move {
        let mut stream = clients.open(number, Task::Echo).await?;
        let mut buffer = [0x17; EXCHANGE];
        stream.read_exact(&mut buffer).await?;
        for _ in 0..each {
            stream.write_all(&buffer).await?;
            stream.read_exact(&mut buffer).await?;
        }
        Ok(())
    })
    .await
}

/// `at_a_time` clients that each connect, exchange one hello for 200 bytes and close, `each` times.
pub async fn connections(clients: Clients, at_a_time: usize, each: u64) -> io::Result<()> {
    at_once(clients, at_a_time, move |clients, number| async move {
        for _ in 0..each {
            let mut stream = clients.open(number, Task::Echo).await?;
            stream.read_exact(&mut [0; EXCHANGE]).await?;
            stream.shutdown().await?;
            match stream.read(&mut [0; 1]).await {
                Ok(0) => {}
                // nginx does not answer a client's close_notify with its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Ok(_) => return Err(io::Error::other("more than the answer came")),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
    .await
}

/// Opens `count` sessions that exchanged one message each and are idle since.
pub async fn idle(clients: &Clients, count: usize) -> io::Result<Vec<Session>> {
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = clients.open(0, Task::Echo).await?;
        stream.read_exact(&mut [0; EXCHANGE]).await?;
        sessions.push(stream);
    }
    Ok(sessions)
}

async fn at_once<F, T>(clients: Clients, count: usize, task: impl Fn(Clients, usize) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut tasks: JoinSet<io::Result<T>> = (0..count).map(|number| task(clients.clone(), number)).collect();
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}
