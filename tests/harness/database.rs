//! A stand-in for a PostgreSQL server: it logs everybody in and says whether it is a replica, and it answers who says a
//! line in clear by what it is. What it is changes when a test says so.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{Client, PATIENCE};

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Being {
    Primary,
    Replica,
    /// It ends every new connection. Those that stand go on.
    Silent,
}

/// A running server; ends with the test.
pub struct Database {
    address: SocketAddr,
    listener: TcpListener,
    state: Arc<Mutex<State>>,
}

struct State {
    name: &'static str,
    being: Being,
    /// Logins so far.
    logins: usize,
    /// Lines by what they say and by what it was when they came.
    lines: HashMap<(String, &'static str), usize>,
}

impl Database {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(name: &'static str, being: Being) -> Database {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(Mutex::new(State { name, being, logins: 0, lines: HashMap::new() }));
        let (accepting, shared) = (listener.try_clone().unwrap(), Arc::clone(&state));
        std::thread::spawn(move || {
            for connection in accepting.incoming() {
                let (Ok(connection), shared) = (connection, Arc::clone(&shared)) else { return };
                // Whatever ends the connection is what the test looks at from its other side.
                std::thread::spawn(move || serve(connection, &shared));
            }
        });
        Database { address: listener.local_addr().unwrap(), listener, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// It is this from now on.
    pub fn becomes(&self, being: Being) {
        self.state.lock().unwrap().being = being;
    }

    /// Logins so far.
    pub fn logins(&self) -> usize {
        self.state.lock().unwrap().logins
    }

    /// Lines that said this while it was a `primary` or a `replica`.
    pub fn heard(&self, line: &str, was: &'static str) -> usize {
        self.state.lock().unwrap().lines.get(&(line.to_owned(), was)).copied().unwrap_or_default()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Ends the accept in its thread.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

impl Client {
    /// Says a line to a database, and gives which one has answered, and as what, such as `a primary`.
    pub fn say(&mut self, line: &str) -> io::Result<String> {
        self.0.write_all(format!("{line}\n").as_bytes())?;
        read_line(&mut self.0)
    }

    /// Connects and says a line: the connection and the answer.
    pub fn saying(to: SocketAddr, line: &str) -> (Client, io::Result<String>) {
        let mut client = Client::connect(to);
        let answer = client.say(line);
        (client, answer)
    }
}

fn read_line(from: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [byte] => line.push(byte),
        }
    }
}

fn serve(connection: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let being = state.lock().unwrap().being;
    if being == Being::Silent {
        return connection.shutdown(Shutdown::Both);
    }
    let mut first = [0];
    connection.peek(&mut first)?;
    // A message of the protocol starts with its length.
    if first == [0] { log_in(connection, being, state) } else { answer(connection, state) }
}

fn log_in(mut connection: TcpStream, being: Being, state: &Mutex<State>) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    connection.read_exact(&mut length)?;
    let mut startup = vec![0; (u32::from_be_bytes(length) as usize).clamp(4, 10_000) - 4];
    connection.read_exact(&mut startup)?;
    state.lock().unwrap().logins += 1;
    let standby = if being == Being::Replica { "on" } else { "off" };
    let mut said = message(b'R', &0_u32.to_be_bytes());
    said.extend(message(b'S', b"server_version\x0017.2\0"));
    said.extend(message(b'S', format!("in_hot_standby\0{standby}\0").as_bytes()));
    said.extend(message(b'Z', b"I"));
    connection.write_all(&said)?;
    // It takes the farewell.
    let mut farewell = Vec::new();
    connection.take(1000).read_to_end(&mut farewell).map(drop)
}

/// One message of the server: its type, its length with itself, and what it says.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn answer(mut connection: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let line = read_line(&mut connection)?;
        let said = {
            let mut state = state.lock().unwrap();
            let being = if state.being == Being::Replica { "replica" } else { "primary" };
            *state.lines.entry((line, being)).or_default() += 1;
            format!("{} {being}\n", state.name)
        };
        connection.write_all(said.as_bytes())?;
    }
}
