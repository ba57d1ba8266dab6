//! What loopback hides: small segments, and networks that fail. Needs root.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::bulk::{Flow, converse, exchange, is_long};
use crate::harness::flow::{Ended, Pairs, receive, receive_up_to, reset, send, send_until_blocked, wait_acknowledged};
use crate::harness::network::{Network, Place};
use crate::harness::{Line, PATIENCE, Pattern, Process, eventually_within};

/// The balancer stands in its namespace; of two listeners each leads to an endpoint of its own.
struct Setting {
    network: Network,
    balancer: Process,
    pairs: Pairs,
    /// Sessions whose endpoint's network is going to fail.
    doomed: Pairs,
}

/// Port of the endpoint whose network is going to fail.
const DOOMED: u16 = 7100;

impl Setting {
    fn new() -> Option<Setting> {
        let network = Network::new()?;
        let namespace = network.namespace(Place::Balancer);
        let (door, doomed) = (Network::door(7001), Network::door(7002));
        let config = format!(
            r#"
            runtime.workers = 2
            listener.door = {{ bind = "{door}", protocol = "tcp" }}
            listener.doomed = {{ bind = "{doomed}", protocol = "tcp" }}
            route.one = {{ listener = "door", pool = "one" }}
            route.two = {{ listener = "doomed", pool = "two" }}
            pool.one.endpoints = ["10.77.2.1:7000"]
            pool.two.endpoints = ["10.77.2.1:{DOOMED}"]
            "#
        );
        let (endpoint, lost) = (network.listen(7000), network.listen(DOOMED));
        let balancer = Process::start_under(&["ip", "netns", "exec", &namespace], &config);
        Some(Setting { network, balancer, pairs: Pairs::new(door, endpoint), doomed: Pairs::new(doomed, lost) })
    }

    fn connect(&self, pairs: &Pairs) -> (TcpStream, TcpStream) {
        pairs.connect_with(|door| self.network.dial(door))
    }

    fn record_of(&self, client: SocketAddr, patience: Duration) -> Line {
        eventually_within(patience, &format!("the session of {client} ends"), || {
            self.balancer.records_so_far().into_iter().find(|record| record["client"] == client.to_string())
        })
    }
}

#[test]
fn bulk_crosses_a_network_both_ways_at_once() {
    let Some(setting) = Setting::new() else { return };
    let length = if is_long() { 1 << 30 } else { 24 << 20 };
    thread::scope(|scope| {
        for seed in 0..3 {
            let (client, server) = setting.connect(&setting.pairs);
            scope.spawn(move || exchange(&client, &server, Flow::random(seed, length)).unwrap());
        }
    });
    assert_ne!(setting.balancer.pipes(), 0, "bulk goes through pipes");
}

/// A message of which the tail does not come until something else is sent shows here: nothing else is.
#[test]
fn messages_of_all_sizes_arrive_without_a_push() {
    let Some(setting) = Setting::new() else { return };
    thread::scope(|scope| {
        for seed in 0..4 {
            let (client, server) = setting.connect(&setting.pairs);
            scope.spawn(move || converse(&client, &server, seed, if is_long() { 2000 } else { 60 }).unwrap());
        }
    });
    assert_ne!(setting.balancer.pipes(), 0, "bulk goes through pipes");
}

#[test]
fn ends_cross_a_network_as_they_are() {
    let Some(setting) = Setting::new() else { return };
    for length in [1, 23_168, 3_000_000] {
        for client_first in [true, false] {
            for end in [Ended::Fin, Ended::Reset] {
                let name = format!("{length} bytes, client_first={client_first}, {end:?}");
                let (client, server) = setting.connect(&setting.pairs);
                let address = client.local_addr().unwrap();
                let (first, other) = if client_first { (client, server) } else { (server, client) };
                let place = if client_first { Place::Client } else { Place::Endpoint };
                let reading = thread::spawn(move || (receive(&other, &mut Pattern::new(length)), other));
                send(&first, &mut Pattern::new(length), length, length).unwrap();
                let answer = if end == Ended::Reset {
                    setting.network.within(place, || wait_acknowledged(&first));
                    reset(first);
                    None
                } else {
                    first.shutdown(Shutdown::Write).unwrap();
                    Some(first)
                };
                let (seen, other) = reading.join().unwrap();
                assert_eq!(seen, Ok((length, end)), "{name}");
                if let Some(first) = answer {
                    send(&other, &mut Pattern::new(9), 40_000, 40_000).unwrap();
                    drop(other);
                    assert_eq!(receive(&first, &mut Pattern::new(9)), Ok((40_000, Ended::Fin)), "{name}");
                }
                let by = if client_first { "client" } else { "endpoint" };
                let outcome = if end == Ended::Fin { "ok".to_owned() } else { format!("{by}_reset") };
                let record = setting.record_of(address, PATIENCE);
                assert_eq!((&record["outcome"], &record["by"]), (&outcome.into(), &by.into()), "{name}: {record}");
            }
        }
    }
}

/// Readers that stop, readers that are slow and peers that are gone, at the same time: each takes longer than the
/// look that tells them apart.
#[test]
fn slow_readers_are_kept_and_dead_peers_are_found() {
    let Some(setting) = &Setting::new() else { return };
    thread::scope(|scope| {
        for client_reads in [true, false] {
            scope.spawn(move || a_reader_that_stops_loses_nothing(setting, client_reads));
        }
        scope.spawn(|| a_slow_reader_is_never_condemned(setting));
        scope.spawn(|| dead_endpoints_are_found(setting));
        scope.spawn(|| a_dead_client_is_found(setting));
        if is_long() {
            scope.spawn(|| a_reader_that_stopped_and_died_is_found(setting));
        }
    });
    let condemned = setting.balancer.records_so_far().iter().filter(|record| record["outcome"] == "peer_dead").count();
    assert_eq!(condemned, if is_long() { 4 } else { 3 });
}

fn a_reader_that_stops_loses_nothing(setting: &Setting, client_reads: bool) {
    let (client, server) = setting.connect(&setting.pairs);
    let (reader, writer) = if client_reads { (client, server) } else { (server, client) };
    let mut out = Pattern::new(1);
    send_until_blocked(&writer, &mut out, 64 * 1024);
    thread::sleep(Duration::from_secs(if is_long() { 120 } else { 36 }));
    let end = out.at() + (4 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&writer, &mut out, end, 64 * 1024).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(receive(&reader, &mut Pattern::new(1)), Ok((end, Ended::Fin)), "client_reads={client_reads}");
    });
}

fn a_slow_reader_is_never_condemned(setting: &Setting) {
    let (client, server) = setting.connect(&setting.pairs);
    let mut out = Pattern::new(2);
    send_until_blocked(&server, &mut out, 64 * 1024);
    server.shutdown(Shutdown::Write).unwrap();
    let (began, mut into) = (Instant::now(), Pattern::new(2));
    while began.elapsed() < Duration::from_secs(if is_long() { 180 } else { 36 }) {
        let end = into.at() + 2000;
        receive_up_to(&client, &mut into, end).unwrap();
        thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(receive(&client, &mut into), Ok((out.at(), Ended::Fin)));
}

/// One that is being sent bulk, and one that has been silent for a while when it is sent a line.
fn dead_endpoints_are_found(setting: &Setting) {
    let (busy, busy_server) = setting.connect(&setting.doomed);
    let (quiet, quiet_server) = setting.connect(&setting.doomed);
    busy.set_write_timeout(None).unwrap();
    quiet.set_read_timeout(None).unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&busy, &mut Pattern::new(3), u64::MAX, 64 * 1024).unwrap_err().kind());
        receive_up_to(&busy_server, &mut Pattern::new(3), 5 << 20).unwrap();
        setting.network.cut(Place::Endpoint, DOOMED);
        let began = Instant::now();
        let reader = busy_server.try_clone().unwrap();
        scope.spawn(move || receive(&reader, &mut Pattern::new(4)));
        send(&quiet, &mut Pattern::new(5), 100, 100).unwrap();
        assert_eq!(receive(&quiet, &mut Pattern::new(6)), Ok((0, Ended::Reset)));
        assert_eq!(sending.join().unwrap(), ErrorKind::ConnectionReset);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(45), "found after {took:?}");
    });
    drop(quiet_server);
    for client in [&busy, &quiet] {
        let record = setting.record_of(client.local_addr().unwrap(), PATIENCE);
        assert_eq!((&record["outcome"], &record["by"]), (&"peer_dead".into(), &"endpoint".into()), "{record}");
    }
}

fn a_dead_client_is_found(setting: &Setting) {
    let (client, server) = setting.connect(&setting.pairs);
    let address = client.local_addr().unwrap();
    server.set_write_timeout(None).unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&server, &mut Pattern::new(7), u64::MAX, 64 * 1024).unwrap_err().kind());
        receive_up_to(&client, &mut Pattern::new(7), 5 << 20).unwrap();
        // It goes on reading, so that its window is open when its network fails.
        let reader = client.try_clone().unwrap();
        scope.spawn(move || {
            let mut sink = std::io::sink();
            std::io::copy(&mut &reader, &mut sink)
        });
        setting.network.cut(Place::Client, address.port());
        let began = Instant::now();
        assert_eq!(sending.join().unwrap(), ErrorKind::ConnectionReset);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(45), "found after {took:?}");
    });
    let record = setting.record_of(address, PATIENCE);
    assert_eq!((&record["outcome"], &record["by"]), (&"peer_dead".into(), &"client".into()), "{record}");
}

/// Alive at the first look, cut off after it: the kernel's probes of a closed window have long pauses by then.
fn a_reader_that_stopped_and_died_is_found(setting: &Setting) {
    let (client, server) = setting.connect(&setting.pairs);
    let address = client.local_addr().unwrap();
    send_until_blocked(&server, &mut Pattern::new(8), 64 * 1024);
    thread::sleep(Duration::from_secs(40));
    setting.network.cut(Place::Client, address.port());
    let record = setting.record_of(address, Duration::from_secs(400));
    assert_eq!((&record["outcome"], &record["by"]), (&"peer_dead".into(), &"client".into()), "{record}");
}
