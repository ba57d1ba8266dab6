//! A balancer in a process of its own: for signals, descriptors, limits and network namespaces.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::{Line, Log, eventually};

/// Ticks a second in /proc, the same on every Linux that Rust runs on.
const USER_HZ: f64 = 100.0;

/// A running process; killed with the test.
pub struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts `pointsman run` with this configuration and waits until it serves.
    pub fn start(config: &str) -> Process {
        Process::start_under(&[], config)
    }

    /// Starts `pointsman run` as the last arguments of another command, such as `ip netns exec NAME`.
    pub fn start_under(wrapper: &[&str], config: &str) -> Process {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("pointsman.toml");
        let log = folder.path().join("access.log");
        std::fs::write(&path, format!("log.access = {:?}\n{config}", log.to_str().unwrap())).unwrap();
        let binary = env!("CARGO_BIN_EXE_pointsman");
        let run = [binary, "run", path.to_str().unwrap()];
        let words: Vec<&str> = wrapper.iter().copied().chain(run).collect();
        let messages = File::create(folder.path().join("stderr")).unwrap();
        let child = Command::new(words[0]).args(&words[1..]).stderr(messages).spawn().expect("it can be started");
        let mut process = Process { child, folder };
        eventually("the process serves", || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("{status}: {}", process.messages());
            }
            process.messages().contains("serving").then_some(())
        });
        process
    }

    /// What it has written to stderr.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// The access log.
    pub fn log(&self) -> Log {
        Log(self.folder.path().join("access.log"))
    }

    /// The access log, once it has `count` lines.
    pub fn records(&self, count: usize) -> Vec<Line> {
        self.log().records(count)
    }

    /// Bytes of memory that are its own: heap, stacks, and what it has changed of its data.
    pub fn memory(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id())).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("the kernel tells");
        1024 * line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    }

    /// Seconds of CPU that it has used.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // The second field is the program's name in parentheses; utime and stime are the 14th and 15th.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse().unwrap()).collect();
        ticks.iter().sum::<f64>() / USER_HZ
    }

    /// The access log as it is now.
    pub fn records_so_far(&self) -> Vec<Line> {
        self.log().lines()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Open file descriptors once their number no longer changes, as it still does right after the start.
    pub fn settled_descriptors(&self) -> usize {
        let mut seen = Vec::new();
        eventually("the number of descriptors settles", || {
            seen.push(self.descriptors());
            let last = seen.last_chunk::<20>()?;
            last.iter().all(|count| *count == last[0]).then_some(last[0])
        })
    }

    /// Open pipes of which it has both ends, in use and idle.
    pub fn pipes(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let open = folder.filter_map(|end| std::fs::read_link(end.ok()?.path()).ok());
        let mut ends: Vec<_> = open.filter(|end| end.to_string_lossy().starts_with("pipe:")).collect();
        ends.sort();
        ends.chunk_by(|one, other| one == other).filter(|ends| ends.len() == 2).count()
    }

    /// Processor time it has used, in hundredths of a second (proc_pid_stat(5)).
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// The sum of a metric over all its series, from the admin pages at `admin`.
    pub fn sum(&self, admin: SocketAddr, family: &str) -> f64 {
        let mut page = String::new();
        let mut connection = TcpStream::connect(admin).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        connection.read_to_string(&mut page).unwrap();
        let series = page.lines().filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{')));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("what the process says:\n{}", self.messages());
        }
    }
}

/// Runs a program that users may lack: where it is not installed that is told, and nothing comes of it.
pub fn run_if_there(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped(&format!("{} is not installed", command.get_program().display()));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Tells why something is not tested. Nobody is shown what tests print that pass, so it is also written to the file that
/// `POINTSMAN_SKIPPED` names.
pub fn skipped(why: &str) {
    let line = format!("SKIPPED: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("POINTSMAN_SKIPPED") {
        let mut file = File::options().create(true).append(true).open(path).expect("what is left out can be told");
        file.write_all(line.as_bytes()).expect("what is left out can be told");
    }
}

/// An address of 127.0.0.1 that stays refused until a process listens there.
///
/// The test process keeps a socket bound to it that does not listen, so that nobody else is given the port.
pub fn free_address() -> SocketAddr {
    static KEPT: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("there is a free port");
    let address = socket.local_addr().unwrap().as_socket().expect("it is TCP");
    KEPT.lock().unwrap().push(socket);
    address
}

/// Listening sockets of this address on the whole machine.
pub fn listening(at: SocketAddr) -> usize {
    const LISTEN: &str = "0A";
    let SocketAddr::V4(v4) = at else { panic!("{at}") };
    let written = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&format!(" {written} ")) && line.contains(&format!(" {LISTEN} "))).count()
}
