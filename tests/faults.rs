//! Faults of endpoints that are real processes: how long each takes to be found, and exactly how many clients it costs.
//!
//! Two endpoints take turns; one of them fails while clients keep coming. Every client is accounted for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::client::hello;
use crate::harness::network::{Network, Place};
use crate::harness::process::free_address;
use crate::harness::{PATIENCE, Process, eventually};

/// Between two clients.
const PACE: Duration = Duration::from_millis(20);
/// Found by two probes without an answer: at most 1.1 x 500 ms to the first and 1.1 x 200 ms to the second, and for each
/// of them at most 500 ms; with the time that a busy machine may take.
const FOUND_BY_SILENCE: Duration = Duration::from_millis(550 + 220 + 2 * 500 + 1000);
/// The same where they are answered at once, with a refusal or a reset.
const FOUND_BY_ERRORS: Duration = Duration::from_millis(550 + 220 + 1000);

/// An endpoint in a process of its own; killed with the test.
struct Faulty {
    child: Child,
    at: SocketAddr,
    wrapper: Vec<String>,
    folder: TempDir,
}

impl Faulty {
    fn start(at: SocketAddr, wrapper: &[&str]) -> Faulty {
        let folder = tempfile::tempdir().unwrap();
        let wrapper: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        std::fs::write(folder.path().join("manner"), "echo").unwrap();
        let child = Faulty::spawn(at, &wrapper, folder.path().join("manner"));
        Faulty { child, at, wrapper, folder }
    }

    fn spawn(at: SocketAddr, wrapper: &[String], manner: PathBuf) -> Child {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/faulty.py").to_owned();
        let own = ["python3".to_owned(), script, at.ip().to_string(), at.port().to_string()];
        let words: Vec<String> = wrapper.iter().cloned().chain(own).collect();
        Command::new(&words[0]).args(&words[1..]).arg(manner).spawn().expect("python3 is there")
    }

    fn restart(&mut self) {
        let _ = self.child.wait();
        self.child = Faulty::spawn(self.at, &self.wrapper, self.folder.path().join("manner"));
    }

    /// What it does with connections from now on.
    fn is(&self, manner: &str) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("manner"));
        std::fs::write(&new, manner).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A balancer, the endpoint that fails and the one that does not.
struct Scene {
    balancer: Process,
    edge: SocketAddr,
    faulty: Faulty,
    _good: Faulty,
    network: Option<Network>,
}

impl Scene {
    fn new(more: &str) -> Scene {
        let (faulty, good) = (Faulty::start(free_address(), &[]), Faulty::start(free_address(), &[]));
        Scene::with(free_address(), faulty, good, None, more)
    }

    /// With the endpoints behind a cable.
    fn behind_a_cable(more: &str) -> Option<Scene> {
        let network = Network::new()?;
        let namespace = network.namespace(Place::Endpoint);
        let inside = ["ip", "netns", "exec", &namespace];
        let [faulty, good] = [9001, 9002].map(|port| Faulty::start(SocketAddr::from(([10, 77, 2, 1], port)), &inside));
        Some(Scene::with(Network::door(8443), faulty, good, Some(network), more))
    }

    fn with(edge: SocketAddr, faulty: Faulty, good: Faulty, network: Option<Network>, more: &str) -> Scene {
        let config = format!(
            r#"
            listener.edge.bind = "{edge}"
            route.all = {{ listener = "edge", pool = "all" }}
            timeouts.connect = "500ms"
            [pool.all]
            balance = "round-robin"
            endpoints = [{{ name = "faulty", address = "{}" }}, {{ name = "good", address = "{}" }}]
            outliers.failures = "off"
            {more}
            [pool.all.health]
            probe = "script"
            script = [{{ send = "ping\n" }}, {{ expect = "ping" }}]
            interval = "500ms"
            fast_interval = "200ms"
            timeout = "500ms"
            rise = 2
            fall = 2
            "#,
            faulty.at, good.at
        );
        let namespace = network.as_ref().map(|network| network.namespace(Place::Balancer));
        let wrapper: Vec<&str> = namespace.iter().flat_map(|name| ["ip", "netns", "exec", name]).collect();
        let balancer = Process::start_under(&wrapper, &config);
        let scene = Scene { balancer, edge, faulty, _good: good, network };
        // Python takes its time to start, and the first verdict may be that nobody is there.
        eventually("both serve", || (scene.verdicts("is up") == 2 && scene.told_down().is_none()).then_some(()));
        scene
    }

    fn verdicts(&self, what: &str) -> usize {
        let messages = self.balancer.messages();
        let (mut up, mut down) = (std::collections::BTreeSet::new(), 0);
        for line in messages.lines() {
            for name in ["faulty", "good"] {
                if line.contains(&format!("\"{name}\"")) && line.contains("is up") {
                    up.insert(name);
                }
                if line.contains(&format!("\"{name}\"")) && line.contains("is down") {
                    up.remove(name);
                    down += 1;
                }
            }
        }
        if what == "is up" { up.len() } else { down }
    }

    fn told_down(&self) -> Option<()> {
        (self.verdicts("is up") < 2).then_some(())
    }

    fn connect(&self) -> TcpStream {
        match &self.network {
            Some(network) => network.dial(self.edge),
            None => TcpStream::connect(self.edge).unwrap(),
        }
    }

    /// Keeps clients coming while something happens, and gives how each of them fared.
    fn load(&self, during: impl FnOnce()) -> Vec<Fared> {
        let done = AtomicBool::new(false);
        let hello = hello("www.example.com");
        let client = |began: Instant, mut stream: TcpStream| {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut back = vec![0; hello.len()];
            let result = stream.write_all(&hello).and_then(|()| stream.read_exact(&mut back));
            Fared { served: result.is_ok() && back == hello, took: began.elapsed() }
        };
        thread::scope(|scope| {
            let source = scope.spawn(|| {
                let mut clients = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let (began, stream) = (Instant::now(), self.connect());
                    clients.push(scope.spawn(move || client(began, stream)));
                    thread::sleep(PACE);
                }
                clients
            });
            thread::sleep(Duration::from_millis(300));
            during();
            thread::sleep(Duration::from_millis(500));
            done.store(true, Ordering::Relaxed);
            source.join().unwrap().into_iter().map(|client| client.join().unwrap()).collect()
        })
    }

    /// How long it takes until the fault is found, from when it is made.
    fn found(&self, fault: impl FnOnce()) -> Duration {
        let began = Instant::now();
        fault();
        eventually("the fault is found", || self.told_down());
        began.elapsed()
    }

    /// Sessions so far that ended like this.
    fn ended(&self, outcome: &str, clients: usize) -> usize {
        let records = self.balancer.records(clients);
        records.iter().filter(|record| record["outcome"] == outcome).count()
    }
}

/// How one client fared.
#[derive(Clone, Copy, Debug)]
struct Fared {
    served: bool,
    took: Duration,
}

fn failed(clients: &[Fared]) -> usize {
    clients.iter().filter(|client| !client.served).count()
}

/// Sessions that stand, half of them on each endpoint.
fn standing(scene: &Scene, count: usize) -> Vec<TcpStream> {
    let hello = hello("www.example.com");
    let session = |_| {
        let mut stream = scene.connect();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut vec![0; hello.len()]).unwrap();
        stream
    };
    (0..count).map(session).collect()
}

fn goes_on(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"more").and_then(|()| stream.read_exact(&mut back)).is_ok() && back == *b"more"
}

#[test]
fn killed() {
    let scene = Scene::new("");
    let mut sessions = standing(&scene, 10);
    let mut found = Duration::MAX;
    let clients = scene.load(|| found = scene.found(|| scene.faulty.signal(Signal::KILL)));
    assert_eq!(failed(&clients), 0, "of {}: whoever is refused goes on to the other", clients.len());
    assert!(found < FOUND_BY_ERRORS, "{found:?}");
    let alive = sessions.iter_mut().map(goes_on).filter(|alive| *alive).count();
    assert_eq!(alive, 5, "only the sessions of the endpoint that was killed end");
}

#[test]
fn stopped() {
    silent_after(|faulty| faulty.signal(Signal::STOP));
}

#[test]
fn accepting_and_silent() {
    silent_after(|faulty| faulty.is("silent"));
}

/// Who is sent to an endpoint that says nothing waits until that is found, and then learns it; nobody else does.
fn silent_after(fault: impl FnOnce(&Faulty)) {
    let scene = Scene::new("sessions.on_down = 'close'");
    let mut found = Duration::MAX;
    let clients = scene.load(|| found = scene.found(|| fault(&scene.faulty)));
    assert!(found < FOUND_BY_SILENCE, "{found:?}");
    let failed = failed(&clients);
    assert_eq!(failed, scene.ended("killed_down", clients.len()), "each of them is told of by its cause");
    // Every second client until it was found, and those who were between two bytes.
    let most = (found.as_millis() / PACE.as_millis()).div_ceil(2) as usize + 2;
    assert!((1..=most).contains(&failed), "{failed} of {}, found after {found:?}", clients.len());
    let longest = clients.iter().map(|client| client.took).max().unwrap();
    assert!(longest < FOUND_BY_SILENCE + Duration::from_secs(1), "nobody waits for longer: {longest:?}");
}

#[test]
fn resetting() {
    let scene = Scene::new("");
    let mut found = Duration::MAX;
    let clients = scene.load(|| found = scene.found(|| scene.faulty.is("reset")));
    assert_eq!(failed(&clients), 0, "of {}: an opening that was not answered may be sent again", clients.len());
    assert!(found < FOUND_BY_ERRORS, "{found:?}");
}

#[test]
fn slow() {
    let scene = Scene::new("");
    let mut found = Duration::MAX;
    let clients = scene.load(|| found = scene.found(|| scene.faulty.is("slow")));
    assert_eq!(failed(&clients), 0, "of {}: who waits is served", clients.len());
    assert!(found < FOUND_BY_SILENCE, "{found:?}");
    let last = &clients[clients.len() - 10..];
    assert!(last.iter().all(|client| client.took < Duration::from_secs(1)), "nobody new is sent there: {last:?}");
}

#[test]
fn black_holed() {
    let Some(scene) = Scene::behind_a_cable("") else { return };
    let network = scene.network.as_ref().unwrap();
    let mut found = Duration::MAX;
    let clients = scene.load(|| found = scene.found(|| network.cut(Place::Endpoint, scene.faulty.at.port())));
    // Sessions that had begun there when the cable was cut may hang; there is one at the most.
    assert!(failed(&clients) <= 1, "{} of {}", failed(&clients), clients.len());
    assert!(found < FOUND_BY_SILENCE, "{found:?}");
    let slow = clients.iter().filter(|client| client.took >= Duration::from_millis(500)).count();
    let most = (found.as_millis() / PACE.as_millis()).div_ceil(2) as usize + 2;
    assert!((1..=most).contains(&slow), "{slow} waited for one connect timeout, found after {found:?}");
    let longest = clients.iter().filter(|client| client.served).map(|client| client.took).max().unwrap();
    assert!(longest < Duration::from_millis(500 + 500), "one connect timeout, and then the other: {longest:?}");
}

#[test]
fn flapping() {
    let mut scene = Scene::new("");
    let before = scene.verdicts("is down");
    let mut faulty = std::mem::replace(&mut scene.faulty, Faulty::start(free_address(), &[]));
    let clients = scene.load(|| {
        for _ in 0..4 {
            faulty.signal(Signal::KILL);
            thread::sleep(Duration::from_millis(700));
            faulty.restart();
            thread::sleep(Duration::from_millis(700));
        }
    });
    assert_eq!(failed(&clients), 0, "of {}", clients.len());
    // It has to be well twice in a row before it is trusted again, so that it is not taken back each time.
    let verdicts = scene.verdicts("is down") - before;
    assert!((1..=4).contains(&verdicts), "{verdicts}: {}", scene.balancer.messages());
}
