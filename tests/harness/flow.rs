//! Clients and endpoints that send and receive a [`Pattern`], and see how a connection ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use socket2::SockRef;

use super::{PATIENCE, Pattern, eventually};

/// How a connection ended, as one of its ends saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A clean end.
    Fin,
    /// An error.
    Reset,
}

/// What an end has received: correct bytes, and how they ended.
pub type Received = Result<(u64, Ended), String>;

/// Makes sessions of a balancer of which both ends are known.
pub struct Pairs {
    door: SocketAddr,
    endpoint: Mutex<TcpListener>,
}

impl Pairs {
    /// Through the listener at `door` to the one endpoint of its pool.
    pub fn new(door: SocketAddr, endpoint: TcpListener) -> Pairs {
        endpoint.set_nonblocking(true).unwrap();
        Pairs { door, endpoint: Mutex::new(endpoint) }
    }

    /// A session: the client's socket and the endpoint's.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        self.connect_with(|door| TcpStream::connect(door).unwrap())
    }

    /// A session with a client that is made in its own way.
    pub fn connect_with(&self, dial: impl FnOnce(SocketAddr) -> TcpStream) -> (TcpStream, TcpStream) {
        let endpoint = self.endpoint.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let client = dial(self.door);
        let server = eventually("the session reaches its endpoint", || match endpoint.accept() {
            Ok((server, _)) => Some(server),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        });
        for end in [&client, &server] {
            end.set_nonblocking(false).unwrap();
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (client, server)
    }
}

/// Sends the pattern up to byte `end`, at most `piece` bytes a write.
pub fn send(mut socket: &TcpStream, pattern: &mut Pattern, end: u64, piece: u64) -> io::Result<()> {
    while pattern.at() < end {
        let sent = socket.write(pattern.next(piece.min(end - pattern.at())))?;
        pattern.sent(sent);
    }
    Ok(())
}

/// Sends the pattern until nothing has been taken for a while: every buffer on the way to the reader is full.
pub fn send_until_blocked(socket: &TcpStream, pattern: &mut Pattern, piece: u64) {
    const BLOCKED: Duration = Duration::from_millis(300);
    socket.set_write_timeout(Some(BLOCKED)).unwrap();
    let error = send(socket, pattern, u64::MAX, piece).expect_err("the reader does not read");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {} bytes", pattern.at());
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// Receives until the end, checking every byte.
pub fn receive(mut socket: &TcpStream, pattern: &mut Pattern) -> Received {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok((pattern.at(), Ended::Fin)),
            Ok(count) => pattern.check(&buffer[..count])?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((pattern.at(), Ended::Reset)),
            Err(error) => return Err(format!("after {} bytes: {error}", pattern.at())),
        }
    }
}

/// Receives up to byte `end`.
pub fn receive_up_to(mut socket: &TcpStream, pattern: &mut Pattern, end: u64) -> Result<(), String> {
    let mut buffer = vec![0; 64 * 1024];
    while pattern.at() < end {
        let most = usize::try_from(end - pattern.at()).unwrap().min(buffer.len());
        match socket.read(&mut buffer[..most]) {
            Ok(0) => return Err(format!("ended after {} of {end} bytes", pattern.at())),
            Ok(count) => pattern.check(&buffer[..count])?,
            Err(error) => return Err(format!("after {} of {end} bytes: {error}", pattern.at())),
        }
    }
    Ok(())
}

/// Waits until the peer's system has all bytes that were sent.
pub fn wait_acknowledged(socket: &TcpStream) {
    eventually("everything is acknowledged", || (unacknowledged(socket) == 0).then_some(()));
}

/// Bytes that were sent and that the peer's system has not acknowledged, as proc_net_tcp(5) tells.
pub fn unacknowledged(socket: &TcpStream) -> u64 {
    let port = |address: io::Result<SocketAddr>| format!(":{:04X}", address.expect("it is connected").port());
    let (local, remote) = (port(socket.local_addr()), port(socket.peer_addr()));
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.filter(|row| row.len() > 4).find(|row| row[1].ends_with(&local) && row[2].ends_with(&remote));
    let (queued, _) = row.expect("the connection is there")[4].split_once(':').unwrap();
    u64::from_str_radix(queued, 16).unwrap()
}

/// Closes with a reset.
pub fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}
