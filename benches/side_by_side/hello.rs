//! The ClientHello that sessions start with which pass through: a browser's, 1,957 bytes, whose random field tells the
//! endpoint what to do. Balancers look at the name only, so that nothing but real-looking bytes crosses them. Where a
//! balancer ends TLS the client makes a hello of its own, and what the endpoint is to do stands in the first message.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Recorded from Chromium 156, for `www.hello.example`.
const RECORDED: &[u8] = include_bytes!("../../tests/data/hellos/chromium-156-a.bin");
/// The name in it.
pub const NAME: &str = "www.hello.example";
/// Record header, handshake header, version: then 32 bytes of random.
const RANDOM: usize = 11;
/// Bytes that say what to do: a letter and a count.
const WORD: usize = 9;
/// The type of the record that a hello is in.
const HANDSHAKE: u8 = 0x16;
/// Bytes of a message or an answer where the size does not matter.
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
        let mut hello = RECORDED.to_vec();
        hello[RANDOM..RANDOM + WORD].copy_from_slice(&self.word());
        hello
    }

    /// The message of [`EXCHANGE`] bytes that asks for this where no hello comes to the endpoint.
    pub fn opening(self) -> [u8; EXCHANGE] {
        let mut message = [0x17; EXCHANGE];
        message[..WORD].copy_from_slice(&self.word());
        message
    }

    /// Reads the hello, or the first message, from a fresh session.
    pub async fn read(stream: &mut TcpStream) -> io::Result<Task> {
        let mut opening = [0; RECORDED.len()];
        stream.read_exact(&mut opening[..EXCHANGE]).await?;
        let word = if opening[0] == HANDSHAKE {
            stream.read_exact(&mut opening[EXCHANGE..]).await?;
            &opening[RANDOM..RANDOM + WORD]
        } else {
            &opening[..WORD]
        };
        let count = u64::from_be_bytes(word[1..].try_into().expect("eight bytes"));
        match word[0] {
            b'D' => Ok(Task::Down(count)),
            b'U' => Ok(Task::Up(count)),
            b'E' => Ok(Task::Echo),
            other => Err(io::Error::other(format!("the client asks for {other:#x}"))),
        }
    }

    fn word(self) -> [u8; WORD] {
        let (letter, count) = match self {
            Task::Down(count) => (b'D', count),
            Task::Up(count) => (b'U', count),
            Task::Echo => (b'E', 0),
        };
        let mut word = [letter; WORD];
        word[1..].copy_from_slice(&count.to_be_bytes());
        word
    }
}
