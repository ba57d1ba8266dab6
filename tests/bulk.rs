//! Much data: every byte arrives once, in order, whatever the sizes of reads and writes and however slow the readers.

use std::net::{Shutdown, TcpListener};
use std::thread;

use rustix::process::Signal;
use socket2::SockRef;

use crate::harness::bulk::{Flow, converse, exchange, is_long};
use crate::harness::flow::{Ended, Pairs, receive, send};
use crate::harness::process::free_address;
use crate::harness::{Balancer, Pattern, Process, eventually};

fn plain() -> (Balancer, Pairs) {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let balancer = Balancer::start(&format!(
        r#"
        listener.door = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
        route.all = {{ listener = "door", pool = "one" }}
        pool.one.endpoints = ["{}"]
        "#,
        endpoint.local_addr().unwrap()
    ));
    let pairs = Pairs::new(balancer.address("door"), endpoint);
    (balancer, pairs)
}

#[test]
fn every_length_arrives_both_ways_at_once() {
    let (balancer, pairs) = plain();
    let lengths = [0, 1, 2, 65_535, 65_536, 65_537, 131_072, 131_073, (1 << 20) - 1, (1 << 20) + 1, 5_000_011];
    let mut flows: Vec<Flow> = (0..).zip(lengths).map(|(seed, length)| Flow::random(seed, length)).collect();
    // As much the other way as would fill every buffer, or nothing; and pieces that never fill one.
    flows.push(Flow { length: [0, 9 << 20], ..Flow::random(20, 0) });
    flows.push(Flow { length: [9 << 20, 0], ..Flow::random(21, 0) });
    flows.push(Flow { most: [900, 900], ..Flow::random(22, 300_000) });
    flows.push(Flow { most: [1 << 20, 1 << 20], ..Flow::random(23, 64 << 20) });
    if is_long() {
        flows.push(Flow::random(24, 1 << 30));
    }
    all(&pairs, &flows);
    let records = balancer.records(flows.len());
    for flow in &flows {
        let right =
            |line: &serde_json::Value| line["bytes_up"] == flow.length[0] && line["bytes_down"] == flow.length[1];
        assert!(records.iter().any(|line| right(line) && line["outcome"] == "ok"), "no record of {flow:?}");
    }
}

#[test]
fn slow_readers_get_every_byte() {
    let (_balancer, pairs) = plain();
    let slow = [[true, false], [false, true], [true, true]];
    let flows: Vec<Flow> = (40..)
        .zip(slow)
        .flat_map(|(seed, slow)| {
            let small = Flow { most: [20_000, 9_000], slow, ..Flow::random(seed, 2_000_000) };
            [small, Flow { slow, ..Flow::random(seed + 10, 16 << 20) }]
        })
        .collect();
    all(&pairs, &flows);
}

/// Runs exchanges at once; fails with all that went wrong, each with its seed.
fn all(pairs: &Pairs, flows: &[Flow]) {
    let failures: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = flows
            .iter()
            .map(|&flow| {
                let (client, server) = pairs.connect();
                scope.spawn(move || exchange(&client, &server, flow))
            })
            .collect();
        running.into_iter().filter_map(|flow| flow.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn messages_arrive_without_a_push() {
    let (_balancer, pairs) = plain();
    thread::scope(|scope| {
        for seed in 60..64 {
            let (client, server) = pairs.connect();
            scope.spawn(move || converse(&client, &server, seed, 80).unwrap());
        }
    });
}

/// Those that get no pipe are copied, and change over when there is one.
#[test]
fn more_bulk_flows_than_pipes() {
    const SESSIONS: u64 = 200;
    const LENGTH: u64 = 3 << 20;
    let (balancer, pairs) = plain();
    let sessions: Vec<_> = (0..SESSIONS).map(|seed| (seed, pairs.connect())).collect();
    let failures: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter()
            .map(|(seed, (client, server))| {
                let (from, to) = if seed % 2 == 0 { (client, server) } else { (server, client) };
                scope.spawn(move || {
                    send(from, &mut Pattern::new(*seed), LENGTH, 200_000).unwrap();
                    from.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || match receive(to, &mut Pattern::new(*seed)) {
                    Ok((LENGTH, Ended::Fin)) => None,
                    other => Some(format!("seed {seed}: {other:?}")),
                })
            })
            .collect();
        running.into_iter().filter_map(|flow| flow.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{failures:#?}");
    drop(sessions);
    balancer.records(SESSIONS as usize);
    eventually("no session is left", || (balancer.running().sessions() == 0).then_some(()));
    let pipes = |worker| balancer.metric(&format!("pointsman_worker_pipes{{worker=\"{worker}\"}}"));
    eventually("pipes were used", || (pipes(0) + pipes(1) > 0.0).then_some(()));
    assert!(pipes(0) <= 32.0 && pipes(1) <= 32.0);
}

/// splice(2) stops at urgent data and then calls it the end of the stream. The urgent byte itself is out of band.
#[test]
fn urgent_data_does_not_cut_a_stream_short() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = free_address();
    let balancer = Process::start(&format!(
        r#"
        listener.door = {{ bind = "{door}", protocol = "tcp" }}
        route.all = {{ listener = "door", pool = "one" }}
        pool.one.endpoints = ["{}"]
        "#,
        endpoint.local_addr().unwrap()
    ));
    let (client, server) = Pairs::new(door, endpoint).connect();
    // Everything is there before the balancer looks again.
    balancer.signal(Signal::STOP);
    let mut out = Pattern::new(80);
    send(&client, &mut out, 400_000, 400_000).unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    send(&client, &mut out, 800_000, 400_000).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    balancer.signal(Signal::CONT);
    assert_eq!(receive(&server, &mut Pattern::new(80)), Ok((800_000, Ended::Fin)));
}
