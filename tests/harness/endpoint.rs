//! An endpoint: a listening socket whose manners are known, and that remembers what each connection sent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use socket2::{Domain, SockAddr, Socket, Type};

/// How an endpoint treats whoever connects.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Sends back what it receives.
    Echoes,
    /// Speaks first, then sends back what it receives.
    Greets(&'static str),
    /// Says this once it has received something, then only listens.
    Answers(&'static str),
    /// Closes once it has received this many bytes.
    HangsUpAfter(usize),
}

/// A running endpoint; ends with the test.
pub struct Endpoint {
    listener: Arc<Socket>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// What one connection came to.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Where it came from; `None` on a unix socket.
    pub from: Option<SocketAddr>,
    /// Everything that was received.
    pub bytes: Vec<u8>,
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(manner: Manner) -> Endpoint {
        Endpoint::start_on(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0))), manner)
    }

    /// Listens on this address, where another endpoint may have listened before.
    pub fn start_at(address: SocketAddr, manner: Manner) -> Endpoint {
        Endpoint::start_on(&SockAddr::from(address), manner)
    }

    /// Listens on a unix socket.
    pub fn start_on_path(path: &Path, manner: Manner) -> Endpoint {
        Endpoint::start_on(&SockAddr::unix(path).unwrap(), manner)
    }

    fn start_on(address: &SockAddr, manner: Manner) -> Endpoint {
        let listener = Arc::new(Socket::new(address.domain(), Type::STREAM, None).unwrap());
        listener.set_reuse_address(true).unwrap();
        listener.bind(address).unwrap_or_else(|error| panic!("{address:?}: {error}"));
        listener.listen(4096).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let endpoint = Endpoint { listener: Arc::clone(&listener), heard: Arc::clone(&heard) };
        std::thread::spawn(move || {
            while let Ok((connection, from)) = listener.accept() {
                let heard = Arc::clone(&heard);
                let index = {
                    let mut heard = heard.lock().unwrap();
                    heard.push(Heard { from: from.as_socket(), bytes: Vec::new() });
                    heard.len() - 1
                };
                std::thread::spawn(move || {
                    // Whatever ends the connection is what the test looks at from its other side.
                    let _ = serve(manner, &connection, |bytes| {
                        heard.lock().unwrap()[index].bytes.extend_from_slice(bytes);
                    });
                });
            }
        });
        endpoint
    }

    /// Where it listens, as a configuration says it.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().expect("it listens on TCP")
    }

    /// What its connections have sent so far, in the order they came.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Ends the accept in its thread.
        let _ = self.listener.shutdown(Shutdown::Both);
    }
}

fn serve(manner: Manner, mut connection: &Socket, hear: impl Fn(&[u8])) -> io::Result<()> {
    if let Manner::Greets(greeting) = manner {
        connection.write_all(greeting.as_bytes())?;
    }
    let mut buffer = [0; 16 * 1024];
    let mut total = 0;
    loop {
        if matches!(manner, Manner::HangsUpAfter(enough) if total >= enough) {
            return Ok(());
        }
        let received = connection.read(&mut buffer)?;
        if received == 0 {
            return Ok(());
        }
        hear(&buffer[..received]);
        match manner {
            Manner::Echoes | Manner::Greets(_) => connection.write_all(&buffer[..received])?,
            Manner::Answers(answer) if total == 0 => connection.write_all(answer.as_bytes())?,
            Manner::Answers(_) | Manner::HangsUpAfter(_) => {}
        }
        total += received;
    }
}

/// An address that answers no SYN: its queue is full, for as long as this lives.
pub struct Unreachable {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Unreachable {
    /// Listens on a free port of 127.0.0.1, and never accepts.
    pub fn start() -> Unreachable {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let queue = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&address);
            socket
        };
        Unreachable { _queued: (0..4).map(|_| queue()).collect(), listener }
    }

    /// Where nobody answers.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().expect("it listens on TCP")
    }
}
