//! Much data, in reads and writes of sizes drawn from a seed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use super::flow::{receive_up_to, send};
use super::{PATIENCE, Pattern};

/// Whether the long run is asked for (`POINTSMAN_LONG=1`).
pub fn is_long() -> bool {
    std::env::var_os("POINTSMAN_LONG").is_some_and(|value| value != "0")
}

/// How the bytes of an exchange go.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Draws bytes and sizes.
    pub seed: u64,
    /// Bytes up, and down.
    pub length: [u64; 2],
    /// The greatest write, and read.
    pub most: [usize; 2],
    /// The client pauses between reads, the endpoint does.
    pub slow: [bool; 2],
}

impl Flow {
    /// Both ways, of this length, with pieces of any size.
    pub fn random(seed: u64, length: u64) -> Flow {
        Flow { seed, length: [length; 2], most: [300_000, 300_000], slow: [false; 2] }
    }
}

/// Sends both ways at once and ends both ways; every byte and both ends are checked. The error says what to repeat.
pub fn exchange(client: &TcpStream, server: &TcpStream, flow: Flow) -> Result<(), String> {
    let (up, down) = (flow.seed * 2, flow.seed * 2 + 1);
    let told = |who: &str, done: Result<(), String>| done.map_err(|error| format!("{flow:?}: {who}: {error}"));
    thread::scope(|scope| {
        let parts = [
            ("client writes", scope.spawn(move || write_all(client, up, flow.length[0], flow.most[0]))),
            ("endpoint writes", scope.spawn(move || write_all(server, down, flow.length[1], flow.most[0]))),
            ("client reads", scope.spawn(move || read_all(client, down, flow.length[1], flow.most[1], flow.slow[0]))),
            ("endpoint reads", scope.spawn(move || read_all(server, up, flow.length[0], flow.most[1], flow.slow[1]))),
        ];
        parts.into_iter().try_for_each(|(who, part)| told(who, part.join().unwrap()))
    })
}

fn write_all(mut socket: &TcpStream, seed: u64, length: u64, most: usize) -> Result<(), String> {
    let (mut pattern, mut dice) = (Pattern::new(seed), fastrand::Rng::with_seed(seed));
    while pattern.at() < length {
        let piece = pattern.next((length - pattern.at()).min(dice.u64(1..=most as u64)));
        let sent = socket.write(piece).map_err(|error| format!("after {} of {length}: {error}", pattern.at()))?;
        pattern.sent(sent);
    }
    socket.shutdown(Shutdown::Write).map_err(|error| error.to_string())
}

fn read_all(mut socket: &TcpStream, seed: u64, length: u64, most: usize, slow: bool) -> Result<(), String> {
    let (mut pattern, mut dice) = (Pattern::new(seed), fastrand::Rng::with_seed(!seed));
    let mut buffer = vec![0; most];
    loop {
        if slow && dice.u8(..) < 16 {
            thread::sleep(Duration::from_millis(dice.u64(0..=10)));
        }
        let most = dice.usize(1..=most);
        match socket.read(&mut buffer[..most]) {
            Ok(0) if pattern.at() == length => return Ok(()),
            Ok(0) => return Err(format!("ended after {} of {length}", pattern.at())),
            Ok(count) => pattern.check(&buffer[..count])?,
            Err(error) => return Err(format!("after {} of {length}: {error}", pattern.at())),
        }
    }
}

/// Says messages of all sizes back and forth: each side only sends once it has heard the other's whole message.
pub fn converse(client: &TcpStream, server: &TcpStream, seed: u64, rounds: usize) -> Result<(), String> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut patterns = [0, 1].map(|side| (Pattern::new(seed * 2 + side), Pattern::new(seed * 2 + side)));
    for round in 0..rounds {
        let most = 1 << dice.u32(8..22);
        let length = dice.u64(1..=most);
        for (side, (from, to)) in [(client, server), (server, client)].into_iter().enumerate() {
            let (out, into) = &mut patterns[side];
            let end = out.at() + length;
            thread::scope(|scope| {
                scope.spawn(|| send(from, out, end, length));
                receive_up_to(to, into, end)
            })
            .map_err(|error| format!("seed {seed}, round {round}, {length} bytes, {PATIENCE:?}: {error}"))?;
        }
    }
    Ok(())
}
