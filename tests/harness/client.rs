//! A client that sends bytes as it is told and says exactly what came back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use pointsman::wire::sample::Sample;

use super::PATIENCE;

/// A connected client.
pub struct Client(pub TcpStream);

impl Client {
    /// Connects. Every write is a segment, and no read takes longer than [`PATIENCE`].
    pub fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// Connects and sends.
    pub fn sending(to: SocketAddr, bytes: &[u8]) -> Client {
        let mut client = Client::connect(to);
        client.send(bytes);
        client
    }

    /// Sends.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap_or_else(|error| panic!("{} bytes could not be sent: {error}", bytes.len()));
    }

    /// Says that nothing more will come.
    pub fn finish(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Fails unless exactly this comes next.
    pub fn expect(&mut self, expected: &[u8]) {
        let mut received = Vec::new();
        let result = (&mut self.0).take(expected.len() as u64).read_to_end(&mut received);
        assert!(received == expected, "expected {expected:02x?}, got {received:02x?} and {result:?}");
    }

    /// Everything until the end; an error if the end is not a clean one.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut received = Vec::new();
        self.0.read_to_end(&mut received).map(|_| received)
    }

    /// Ends the session, and fails unless it ends cleanly and nothing more comes.
    pub fn end(mut self) {
        self.finish();
        assert_eq!(self.rest().unwrap(), b"");
    }

    /// Its address, as the access log tells it.
    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }
}

/// A ClientHello for this name.
pub fn hello(name: &str) -> Vec<u8> {
    Sample { name: Some(name.as_bytes()), ..Sample::default() }.wire()
}

/// The recorded hellos: what they are called, and their bytes.
pub fn recorded() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hellos");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let hellos: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    assert!(hellos.len() >= 8, "only {} recorded hellos in {folder}", hellos.len());
    hellos
}

/// A GET over HTTP/1.0: the status and the body.
pub fn get(from: SocketAddr, path: &str) -> (u16, String) {
    request(from, "GET", path)
}

/// A request over HTTP/1.0: the status and the body.
pub fn request(from: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut client = Client::sending(from, format!("{method} {path} HTTP/1.0\r\n\r\n").as_bytes());
    let answer = String::from_utf8(client.rest().unwrap()).unwrap();
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    (status.unwrap_or_else(|| panic!("{method} {path}: {answer:?}")), body.to_owned())
}
