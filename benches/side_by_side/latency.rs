//! Latency beside a steady load. Messages are due at times fixed beforehand, and what one took counts from then, so that a
//! stall counts for all that it delays. A session of the load that still waits for an answer is passed over; where that is
//! more than rare, the load is not what it should be and the run is void.
//!
//! Both are threads that sleep until the next message is due and never spin; where the system allows it they, and the
//! endpoints, have real-time priority, because they share one CPU and must not wait for each other's time slices.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::net::RecvFlags;
use rustix::thread::ClockId;

use crate::client::Clients;
use crate::hello::{EXCHANGE, Task};
use crate::work;

/// Sessions of the load.
const SESSIONS: usize = 32;
/// Messages a second of the client that measures.
const PROBES: f64 = 1_000.0;
/// Seconds for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long messages took, sorted.
pub struct Took(Vec<Duration>);

impl Took {
    /// Seconds that this share of the messages did not exceed.
    pub fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize].as_secs_f64()
    }
}

/// Messages a second that go there and back if as many are sent as will go.
pub async fn capacity(to: SocketAddr) -> anyhow::Result<f64> {
    let each = 300;
    let began = Instant::now();
    work::echo(Clients::Passing(to), SESSIONS, each).await?;
    Ok((SESSIONS as u64 * each) as f64 / began.elapsed().as_secs_f64())
}

/// Measures for `time` what messages to the second address take while `rate` messages a second go to the first.
pub fn at_load([loaded, measured]: [SocketAddr; 2], rate: f64, time: Duration) -> anyhow::Result<Took> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load(loaded, rate, &over));
        let took = probe(measured, time);
        over.store(true, Ordering::Relaxed);
        load.join().expect("no panic")?;
        took
    })
}

/// Gives the calling thread real-time priority, if it may have it.
pub fn prefer(priority: i32) {
    let parameters = libc::sched_param { sched_priority: priority };
    #[allow(unsafe_code, reason = "no safe crate of ours has this call")]
    // SAFETY: it reads one sched_param, which lives on this stack; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
}

/// Sends a message on each session in turn, and takes the answer to the one before, which is long there.
fn load(to: SocketAddr, rate: f64, over: &AtomicBool) -> anyhow::Result<()> {
    prefer(1);
    let mut sessions = (0..SESSIONS).map(|_| open(to)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut waiting = [0; SESSIONS];
    let (mut sent, mut passed_over) = (0_u32, 0_u32);
    let mut buffer = [0x17; EXCHANGE];
    let mut due = Due::start(rate);
    while !over.load(Ordering::Relaxed) {
        for (session, waiting) in sessions.iter_mut().zip(&mut waiting) {
            due.wait();
            while *waiting > 0 {
                match rustix::net::recv(session.as_fd(), &mut buffer[..*waiting], RecvFlags::DONTWAIT) {
                    Ok((_, received)) if received > 0 => *waiting -= received,
                    Ok(_) => anyhow::bail!("a session of the load has ended"),
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            // Who has not answered yet is asked nothing more.
            if *waiting == 0 {
                session.write_all(&[0x17; EXCHANGE])?;
                *waiting = EXCHANGE;
                sent += 1;
            } else {
                passed_over += 1;
            }
        }
    }
    ensure!(passed_over <= sent / 50, "{passed_over} messages of the load were not sent, {sent} were");
    Ok(())
}

fn probe(to: SocketAddr, time: Duration) -> anyhow::Result<Took> {
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            prefer(3);
            let mut session = open(to)?;
            let mut buffer = [0x17; EXCHANGE];
            let mut took = Vec::new();
            let mut due = Due::start(PROBES);
            let until = Instant::now() + time;
            while Instant::now() < until {
                let due = due.wait();
                session.write_all(&buffer)?;
                session.read_exact(&mut buffer).context("no answer")?;
                took.push(due.elapsed());
            }
            ensure!(!took.is_empty(), "no message was sent");
            took.sort();
            Ok(Took(took))
        });
        probe.join().expect("no panic")
    })
}

fn open(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut session = TcpStream::connect(to)?;
    session.set_nodelay(true)?;
    session.set_read_timeout(Some(PATIENCE))?;
    session.write_all(&Task::Echo.hello())?;
    session.read_exact(&mut [0; EXCHANGE])?;
    Ok(session)
}

/// Times at which messages are due: evenly spaced but for a little dither, so that two clients do not stay in step.
struct Due {
    next: Instant,
    between: Duration,
    dice: fastrand::Rng,
}

impl Due {
    fn start(rate: f64) -> Due {
        Due { next: Instant::now(), between: Duration::from_secs_f64(1.0 / rate), dice: fastrand::Rng::with_seed(7) }
    }

    /// Sleeps until the next message is due, and says when that was.
    fn wait(&mut self) -> Instant {
        self.next += self.between.mul_f64(0.5 + self.dice.f64());
        while let Some(early) = self.next.checked_duration_since(Instant::now()) {
            let early = rustix::fs::Timespec { tv_sec: early.as_secs() as i64, tv_nsec: early.subsec_nanos().into() };
            let _ = rustix::thread::clock_nanosleep_relative(ClockId::Monotonic, &early);
        }
        self.next
    }
}
