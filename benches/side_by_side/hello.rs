//! The ClientHello that every session starts with: a browser's, 1,957 bytes, whose random field tells the endpoint
//! what to do. Balancers look at the name only, so that nothing but real-looking bytes crosses them.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Recorded from Chromium 156, for `www.hello.example`.
const RECORDED: &[u8] = include_bytes!("../../tests/data/hellos/chromium-156-a.bin");
/// Record header, handshake header, version: then 32 bytes of random.
const RANDOM: usize = 11;
/// Bytes of an answer where the size does not matter.
pub const EXCHANGE: usize = 200;

/// What the endpoint is to do with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Send so many bytes, then close.
    Down(u64),
    /// Read so many bytes, then answer with [`EXCHANGE`] bytes and wait for the end.
    Up(u64),
    /// Answer with [`EXCHANGE`] bytes, then send back whatever comes.
    Echo,
}

impl Task {
    /// The hello that asks for this.
    pub fn hello(self) -> Vec<u8> {
        let (word, count) = match self {
            Task::Down(count) => (b'D', count),
            Task::Up(count) => (b'U', count),
            Task::Echo => (b'E', 0),
        };
        let mut hello = RECORDED.to_vec();
        hello[RANDOM] = word;
        hello[RANDOM + 1..RANDOM + 9].copy_from_slice(&count.to_be_bytes());
        hello
    }

    /// Reads the hello from a fresh session.
    pub async fn read(stream: &mut TcpStream) -> io::Result<Task> {
        let mut hello = vec![0; RECORDED.len()];
        stream.read_exact(&mut hello).await?;
        let count = u64::from_be_bytes(hello[RANDOM + 1..RANDOM + 9].try_into().expect("eight bytes"));
        match hello[RANDOM] {
            b'D' => Ok(Task::Down(count)),
            b'U' => Ok(Task::Up(count)),
            b'E' => Ok(Task::Echo),
            other => Err(io::Error::other(format!("the hello asks for {other:#x}"))),
        }
    }
}
