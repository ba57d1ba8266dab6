//! The endpoints: two addresses, one thread, as cheap as they can be, so that the balancer is what is measured.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::hello::{EXCHANGE, Task};

/// Bytes of one bulk read or write.
pub const CHUNK: usize = 256 * 1024;

/// Starts a thread that serves on two loopback addresses, and returns them. `first` prepares the thread.
pub fn start(first: fn()) -> io::Result<[SocketAddr; 2]> {
    let listeners = ["127.0.0.1:0", "127.0.0.2:0"].map(std::net::TcpListener::bind);
    let [a, b] = listeners;
    let (a, b) = (a?, b?);
    let addresses = [a.local_addr()?, b.local_addr()?];
    std::thread::spawn(move || {
        first();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.expect("a runtime").block_on(async move {
            let serve = |listener: std::net::TcpListener| async move {
                listener.set_nonblocking(true)?;
                accept(TcpListener::from_std(listener)?).await
            };
            let ended: io::Result<((), ())> = tokio::try_join!(serve(a), serve(b));
            panic!("the endpoints ended: {ended:?}");
        });
    });
    Ok(addresses)
}

async fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // How a session of a stopped balancer ends is nobody's business here: clients count the errors.
        tokio::task::spawn_local(async move { drop(serve(stream).await) });
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    match Task::read(&mut stream).await? {
        Task::Down(mut left) => {
            let chunk = vec![0x17; CHUNK];
            while left > 0 {
                let sent = stream.write(&chunk[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))]).await?;
                left -= sent as u64;
            }
            stream.shutdown().await?;
            until_end(&mut stream, u64::MAX).await
        }
        Task::Up(count) => {
            until_end(&mut stream, count).await?;
            stream.write_all(&[0x17; EXCHANGE]).await?;
            until_end(&mut stream, u64::MAX).await
        }
        Task::Echo => {
            let mut buffer = vec![0x17; EXCHANGE];
            stream.write_all(&buffer).await?;
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    received => stream.write_all(&buffer[..received]).await?,
                }
            }
        }
    }
}

/// Reads and throws away `count` bytes, or everything up to the end.
async fn until_end(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            received => left = left.saturating_sub(received as u64),
        }
    }
    Ok(())
}
