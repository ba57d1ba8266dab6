//! A name server on loopback, over UDP and TCP, that answers from a table which a test may change at any time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::eventually;

/// More bytes than an answer over UDP may have, as a server would have it whose network is narrow.
const LARGEST_DATAGRAM: usize = 1200;

/// A running name server; ends with the test.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<Name, Vec<Record>>,
    /// Kinds of records that are asked for in vain, and how.
    broken: HashMap<RecordType, Broken>,
    queries: HashMap<(Name, RecordType), usize>,
    ended: bool,
}

/// How a server fails.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// It says SERVFAIL.
    Fails,
    /// It says REFUSED.
    Refuses,
    /// It says nothing.
    Silent,
    /// It takes its time, in which it answers nobody else over UDP.
    Slow(Duration),
}

impl Dns {
    /// Listens on a free port of 127.0.0.1, and knows no name.
    pub fn start() -> Dns {
        let (udp, tcp) = eventually("a port that is free for UDP and TCP", || {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            Some((udp.try_clone().unwrap(), TcpListener::bind(udp.local_addr().unwrap()).ok()?))
        });
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let dns = Dns { address, zone: Arc::clone(&zone) };
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let datagrams = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !datagrams.lock().unwrap().ended {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                if let Some(mut answer) = answer(&buffer[..length], &datagrams) {
                    let mut bytes = answer.to_vec().unwrap();
                    if bytes.len() > LARGEST_DATAGRAM {
                        answer.answers.clear();
                        answer.metadata.truncation = true;
                        bytes = answer.to_vec().unwrap();
                    }
                    let _ = udp.send_to(&bytes, from);
                }
            }
        });
        std::thread::spawn(move || {
            for connection in tcp.incoming().flatten() {
                let zone = Arc::clone(&zone);
                if zone.lock().unwrap().ended {
                    return;
                }
                std::thread::spawn(move || serve(connection, &zone));
            }
        });
        dns
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `[dns]` that asks this server.
    pub fn config(&self) -> String {
        Dns::config_of(&[self], "300ms")
    }

    /// The `[dns]` that asks these servers.
    pub fn config_of(servers: &[&Dns], timeout: &str) -> String {
        let servers: Vec<String> = servers.iter().map(|server| format!("'{}'", server.address)).collect();
        format!("dns = {{ servers = [{}], timeout = '{timeout}' }}", servers.join(", "))
    }

    /// A name has exactly these addresses from now on.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let record =
            |address: &&str| Record::from_rdata(absolute(name), ttl, address.parse::<IpAddr>().unwrap().into());
        self.zone.lock().unwrap().records.insert(absolute(name), addresses.iter().map(record).collect());
    }

    /// A name has exactly these services from now on: priority, weight, port, target.
    pub fn set_services(&self, name: &str, ttl: u32, services: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            let data = RData::SRV(SRV::new(*priority, *weight, *port, absolute(target)));
            Record::from_rdata(absolute(name), ttl, data)
        };
        self.zone.lock().unwrap().records.insert(absolute(name), services.iter().map(record).collect());
    }

    /// There is no such name from now on.
    pub fn remove(&self, name: &str) {
        self.zone.lock().unwrap().records.remove(&absolute(name));
    }

    /// Questions for records of this kind fail from now on, or no longer.
    pub fn break_kind(&self, kind: RecordType, broken: Option<Broken>) {
        let mut zone = self.zone.lock().unwrap();
        match broken {
            Some(broken) => zone.broken.insert(kind, broken),
            None => zone.broken.remove(&kind),
        };
    }

    /// Questions for this so far.
    pub fn queries(&self, name: &str, kind: RecordType) -> usize {
        self.zone.lock().unwrap().queries.get(&(absolute(name), kind)).copied().unwrap_or_default()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.zone.lock().unwrap().ended = true;
        // Ends the accept in its thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

/// Two bytes of length in front of each message (RFC 7766).
fn serve(mut connection: TcpStream, zone: &Mutex<Zone>) {
    let mut length = [0; 2];
    while connection.read_exact(&mut length).is_ok() {
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        if connection.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = answer(&question, zone) else { continue };
        let bytes = answer.to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let _ = connection.write_all(&[&length[..], &bytes].concat());
    }
}

fn answer(question: &[u8], zone: &Mutex<Zone>) -> Option<Message> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().to_lowercase();
    let slow = match zone.lock().unwrap().broken.get(&query.query_type()) {
        Some(Broken::Slow(time)) => *time,
        _ => Duration::ZERO,
    };
    std::thread::sleep(slow);
    let mut zone = zone.lock().unwrap();
    *zone.queries.entry((name.clone(), query.query_type())).or_default() += 1;
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    match (zone.broken.get(&query.query_type()), zone.records.get(&name)) {
        (Some(Broken::Silent), _) => return None,
        (Some(Broken::Fails), _) => answer.metadata.response_code = ResponseCode::ServFail,
        (Some(Broken::Refuses), _) => answer.metadata.response_code = ResponseCode::Refused,
        (_, None) => answer.metadata.response_code = ResponseCode::NXDomain,
        (_, Some(records)) => {
            answer.add_answers(records.iter().filter(|record| record.record_type() == query.query_type()).cloned());
        }
    }
    Some(answer)
}
