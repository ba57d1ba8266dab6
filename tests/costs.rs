//! What a connection and a message cost, counted, with ceilings: heap allocations of the workers, and system calls.
//!
//! Ceilings are for what a change may not make worse unnoticed; a machine's speed does not matter to them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use pointsman::wire::sample::Sample;

use crate::harness::{Balancer, Client, Endpoint, Manner, PATIENCE, Process, eventually};

/// Heap allocations of one short connection, its record included.
const ALLOCATIONS: f64 = 7.5;
/// System calls of one short connection among sixteen at a time.
const CALLS_A_CONNECTION: f64 = 20.0;
/// System calls of one message of 200 bytes there and back, epoll_wait left out.
const CALLS_AN_ECHO: f64 = 4.05;

/// Counts what threads that carry a worker's name allocate.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a worker, once it was found out.
    static WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

#[allow(unsafe_code, reason = "an allocator cannot be written without; it only counts and hands on")]
// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WORKER.try_with(is_worker).unwrap_or(false) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if WORKER.try_with(is_worker).unwrap_or(false) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn is_worker(known: &Cell<Option<bool>>) -> bool {
    known.get().unwrap_or_else(|| {
        // The name comes into a buffer of its own, not from the heap.
        let mut name = [0_u8; 16];
        let is = rustix::fs::open("/proc/thread-self/comm", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut name))
            .is_ok_and(|_| name.starts_with(b"worker-"));
        known.set(Some(is));
        is
    })
}

fn config(listen: &str, endpoint: SocketAddr) -> String {
    format!(
        r#"
        listener.edge.bind = "{listen}"
        route.www = {{ listener = "edge", sni = "www.example.com", pool = "web" }}
        pool.web.endpoints = ["{endpoint}"]
        "#
    )
}

/// A hello as browsers send it, with a name and two protocols.
fn hello() -> Vec<u8> {
    Sample { name: Some(b"www.example.com"), alpn: &["h2", "http/1.1"], ..Sample::default() }.wire()
}

/// Connects, exchanges one hello and closes, `each` times in each of `clients` threads.
fn connections(to: SocketAddr, clients: usize, each: usize) {
    let hello = &hello();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(move || {
                for _ in 0..each {
                    let mut client = Client::sending(to, hello);
                    client.expect(hello);
                    client.finish();
                    assert_eq!(client.rest().unwrap(), b"");
                }
            });
        }
    });
}

/// Counts the system calls of a process with strace while `work` runs: all of them, and those of epoll_wait.
fn system_calls(process: &Process, work: impl FnOnce()) -> (f64, f64) {
    let table = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-U", "calls,name", "-o", table.path().to_str().unwrap(), "-p", &process.id().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed");
    let status = format!("/proc/{}/status", process.id());
    eventually("strace is attached", || {
        let status = std::fs::read_to_string(&status).unwrap();
        (!status.contains("TracerPid:\t0\n")).then_some(())
    });
    std::thread::sleep(PATIENCE / 50);
    work();
    let id = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
    let text = std::fs::read_to_string(table.path()).unwrap();
    let calls = |name: &str| -> f64 {
        let rows = text.lines().filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok());
        rows.filter(|[_, row]: &[&str; 2]| *row == name).map(|[calls, _]| calls.parse::<f64>().unwrap()).sum()
    };
    assert!(calls("total") > 0.0, "{text}");
    (calls("total"), calls("epoll_wait"))
}

#[test]
fn a_connection_allocates_little() {
    // Other tests of this process have workers too: this one counts in a process of its own, which is itself.
    let (warm, counted) = (200, 1_000);
    if std::env::var_os("COUNT_ALLOCATIONS").is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["costs::a_connection_allocates_little", "--exact", "--nocapture"])
            .env("COUNT_ALLOCATIONS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        print!("{said}");
        return;
    }
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&config("127.0.0.1:0", endpoint.address()));
    connections(balancer.address("edge"), 1, warm);
    let before = COUNT.load(Ordering::Relaxed);
    connections(balancer.address("edge"), 1, counted);
    let each = (COUNT.load(Ordering::Relaxed) - before) as f64 / counted as f64;
    println!("heap allocations a connection: {each:.2}");
    assert!(each > 2.0, "{each}: nothing is counted");
    assert!(each <= ALLOCATIONS, "a connection takes {each} heap allocations, at most {ALLOCATIONS} are allowed");
}

#[test]
fn a_connection_and_a_message_take_few_system_calls() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("left out: strace is not installed");
        return;
    }
    let endpoint = Endpoint::start(Manner::Echoes);
    let listen = crate::harness::process::free_address();
    let process = Process::start(&format!("runtime.workers = 1\n{}", config(&listen.to_string(), endpoint.address())));

    let (clients, each) = (16, 40);
    connections(listen, clients, 2);
    let count = || {
        let (few, _) = system_calls(&process, || connections(listen, clients, each));
        let (many, _) = system_calls(&process, || connections(listen, clients, 3 * each));
        (many - few) / (clients * 2 * each) as f64
    };
    // Where other tests keep clients from their CPU, fewer of them are served in one round of the loop: the least counts.
    let mut calls = f64::INFINITY;
    for _ in 0..5 {
        calls = calls.min(count());
        if calls <= CALLS_A_CONNECTION {
            break;
        }
    }
    println!("system calls a connection: {calls:.2}");
    assert!(calls > 10.0 && calls <= CALLS_A_CONNECTION, "{calls} system calls a connection");

    let hello = hello();
    let mut client = Client::sending(listen, &hello);
    client.expect(&hello);
    let message = [7; 200];
    let mut echo = |count: usize| {
        for _ in 0..count {
            client.send(&message);
            client.expect(&message);
        }
    };
    echo(10);
    let (few, few_waits) = system_calls(&process, || echo(500));
    let (many, many_waits) = system_calls(&process, || echo(1_500));
    let calls = ((many - many_waits) - (few - few_waits)) / 1_000.0;
    println!("system calls an echo, epoll_wait left out: {calls:.2}");
    assert!(calls > 3.0 && calls <= CALLS_AN_ECHO, "{calls} system calls an echo");
    std::io::stdout().flush().unwrap();
}
