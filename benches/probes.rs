//! What it costs to probe 1,000 endpoints every two seconds, and how long 10,000 endpoints take to be loaded.
//!
//!     cargo bench --bench probes
//!
//! The endpoints are addresses of loopback, all served by one thread; what is measured is the CPU time of the control
//! thread alone, where probes run.

#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]
#![allow(clippy::disallowed_methods, reason = "a benchmark blocks as it likes")]

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pointsman::config::{self, Config};
use pointsman::supervise::Balancer;

const ENDPOINTS: usize = 1_000;
const TIME: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || while listener.accept().is_ok() {});
    println!("| what | cost |");
    println!("|---|---|");
    let balancer = Balancer::start(&config(ENDPOINTS, port, "health.probe = 'tcp'")?)?;
    thread::sleep(Duration::from_secs(3));
    let before = control()?;
    thread::sleep(TIME);
    let share = (control()? - before).as_secs_f64() / TIME.as_secs_f64();
    let page = balancer.metrics();
    let is_up = |line: &&str| line.starts_with("pointsman_endpoint_up{") && line.ends_with(" 1");
    let up = page.lines().filter(is_up).count();
    ensure!(up == ENDPOINTS, "{up} endpoints were found to be up");
    println!("| {ENDPOINTS} endpoints, tcp, every 2 s | {:.1} % of a CPU |", share * 100.0);
    balancer.end();
    balancer.join();
    let began = Instant::now();
    let config = config(10_000, port, "")?;
    let read = began.elapsed();
    let balancer = Balancer::start(&config)?;
    let (read, whole) = (read.as_millis(), began.elapsed().as_millis());
    println!("| 10,000 endpoints: configuration read / balancer serves | {read} ms / {whole} ms |");
    balancer.end();
    balancer.join();
    Ok(())
}

fn config(endpoints: usize, port: u16, more: &str) -> anyhow::Result<Config> {
    let list: Vec<String> =
        (0..endpoints).map(|index| format!("\"127.1.{}.{}:{port}\"", index / 250, 1 + index % 250)).collect();
    let text = format!(
        "log.access = 'off'\nlistener.l.bind = '127.0.0.1:0'\nroute.r = {{ listener = 'l', pool = 'p' }}\n\
         [pool.p]\nendpoints = [{}]\n{more}",
        list.join(", ")
    );
    let loaded = config::parse_str("bench.toml".as_ref(), &text).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    Ok(loaded.config)
}

/// CPU time of the control thread (proc_pid_schedstat(5)).
fn control() -> anyhow::Result<Duration> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim() == "control" {
            let schedstat = std::fs::read_to_string(path.join("schedstat"))?;
            let nanoseconds = schedstat.split(' ').next().context("schedstat is empty")?.parse()?;
            return Ok(Duration::from_nanos(nanoseconds));
        }
    }
    anyhow::bail!("there is no control thread")
}
