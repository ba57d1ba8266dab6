//! A session that waits costs nothing, and one that moves much leaves room for the others.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::flow::{Pairs, receive, reset, send, send_until_blocked};
use crate::harness::process::free_address;
use crate::harness::{Pattern, Process};

/// A balancer with one worker.
fn alone() -> (Process, Pairs) {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = free_address();
    let balancer = Process::start(&format!(
        r#"
        runtime.workers = 1
        timeouts.half_close = "off"
        listener.door = {{ bind = "{door}", protocol = "tcp" }}
        route.all = {{ listener = "door", pool = "one" }}
        pool.one.endpoints = ["{}"]
        "#,
        endpoint.local_addr().unwrap()
    ));
    (balancer, Pairs::new(door, endpoint))
}

/// Readiness that is never used up, such as a peer's end or reset behind bytes that nobody takes, must not be polled
/// for.
#[test]
fn sessions_that_wait_use_no_processor() {
    let (balancer, pairs) = alone();
    let mut waiting = Vec::new();
    let mut wait = |arrange: &dyn Fn(TcpStream, TcpStream) -> Vec<TcpStream>| {
        let (client, server) = pairs.connect();
        waiting.extend(arrange(client, server));
    };
    wait(&|client, server| vec![client, server]);
    for client_first in [true, false] {
        let sorted = |client, server| if client_first { (client, server) } else { (server, client) };
        wait(&|client, server| {
            let (ended, other) = sorted(client, server);
            ended.shutdown(Shutdown::Write).unwrap();
            assert_eq!(receive(&other, &mut Pattern::new(0)).unwrap().0, 0);
            vec![ended, other]
        });
        wait(&|client, server| {
            let (blocked, other) = sorted(client, server);
            send_until_blocked(&blocked, &mut Pattern::new(1), 64 * 1024);
            vec![blocked, other]
        });
        wait(&|client, server| {
            let (blocked, other) = sorted(client, server);
            send_until_blocked(&blocked, &mut Pattern::new(2), 64 * 1024);
            blocked.shutdown(Shutdown::Write).unwrap();
            vec![blocked, other]
        });
        wait(&|client, server| {
            let (blocked, other) = sorted(client, server);
            send_until_blocked(&blocked, &mut Pattern::new(3), 64 * 1024);
            reset(blocked);
            vec![other]
        });
        wait(&|client, server| {
            let (ended, blocked) = sorted(client, server);
            ended.shutdown(Shutdown::Write).unwrap();
            send_until_blocked(&blocked, &mut Pattern::new(4), 64 * 1024);
            vec![ended, blocked]
        });
    }
    wait(&|client, server| {
        send_until_blocked(&client, &mut Pattern::new(5), 64 * 1024);
        send_until_blocked(&server, &mut Pattern::new(6), 64 * 1024);
        vec![client, server]
    });
    let before = balancer.processor_time();
    thread::sleep(Duration::from_secs(2));
    let used = balancer.processor_time() - before;
    assert!(used < Duration::from_millis(200), "{used:?} of two seconds for sessions that wait");
    assert!(balancer.records_so_far().is_empty(), "all of them wait: {:#?}", balancer.records_so_far());
}

/// On one worker, ten sessions that move as much as they can and one that says a word at a time.
#[test]
fn bulk_leaves_room_for_small_talk() {
    let (_balancer, pairs) = alone();
    let (mut client, mut server) = pairs.connect();
    let bulk: Vec<_> = (0..10).map(|_| pairs.connect()).collect();
    let done = &AtomicBool::new(false);
    let mut waits = thread::scope(|scope| {
        for (number, (from, to)) in (0..).zip(&bulk) {
            scope.spawn(move || {
                let mut out = Pattern::new(number);
                while !done.load(Ordering::Relaxed) {
                    let end = out.at() + (1 << 20);
                    send(from, &mut out, end, 1 << 20).unwrap();
                }
                from.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || receive(to, &mut Pattern::new(number)).unwrap());
        }
        let waits: Vec<Duration> = (0..200)
            .map(|_| {
                let (began, mut word) = (Instant::now(), [0; 4]);
                client.write_all(b"word").unwrap();
                server.read_exact(&mut word).unwrap();
                began.elapsed()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        waits
    });
    waits.sort();
    let (median, worst) = (waits[100], waits[199]);
    // A turn of ten sessions is about 40 MiB, some 20 ms; the rest is for machines that do other work besides.
    assert!(
        median < Duration::from_millis(200) && worst < Duration::from_secs(2),
        "median {median:?}, worst {worst:?}"
    );
}
