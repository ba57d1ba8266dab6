//! pointsman beside HAProxy and nginx: the same work in the same run, A B C D A B C D, the balancer's own CPU time and
//! memory. Started by `benches/compare`; `benches/README.md` says how to read the figures.
//!
//! The load and the endpoints are this process, on one CPU; the balancer has another to itself.

#![allow(clippy::disallowed_methods, reason = "a benchmark has no drain")]
#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

mod balancer;
mod endpoint;
mod hello;
mod report;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use balancer::{Balancer, Kind};
use clap::Parser;
use report::Report;

/// Compare balancers on the same work.
#[derive(Parser)]
struct Arguments {
    /// Rounds of every work
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A tenth of the work, to see that everything runs
    #[arg(long)]
    quick: bool,
    /// Only this work (bulk, echo, connections, idle, latency); may be repeated
    #[arg(long)]
    work: Vec<String>,
    /// Only these balancers; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Where the figures go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results.json"))]
    out: PathBuf,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

const GIB: u64 = 1 << 30;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    pin_to_the_other_cpu()?;
    let endpoints = endpoint::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.iter().any(|name| name == kind.name()))
        .collect();
    let mut versions = BTreeMap::new();
    for kind in &kinds {
        versions.insert(kind.name(), kind.version()?);
    }
    println!("{versions:#?}");
    let mut report = Report::default();
    let scale = if arguments.quick { 10 } else { 1 };
    for round in 1..=arguments.rounds {
        for &kind in &kinds {
            let wanted = |work: &str| arguments.work.is_empty() || arguments.work.iter().any(|name| name == work);
            runtime
                .block_on(round_of(kind, endpoints, scale, &wanted, &mut report))
                .with_context(|| format!("round {round}, {}: the run is void", kind.name()))?;
            println!("round {round}: {}", kind.name());
        }
    }
    println!("\n{}", report.table());
    let json = serde_json::to_string_pretty(&report.json(&versions, arguments.rounds))?;
    std::fs::write(&arguments.out, json + "\n")?;
    println!("figures: {}", arguments.out.display());
    Ok(())
}

/// Every work once, each on a balancer fresh from its start.
async fn round_of(
    kind: Kind,
    endpoints: [SocketAddr; 2],
    scale: u64,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = kind.name();
    if wanted("bulk") {
        let (sessions, each) = (4, GIB / 2 / scale);
        let gigabytes = (sessions * each) as f64 / 1e9;
        let balancer = Balancer::start(kind, endpoints)?;
        let cpu = measure(&balancer, work::bulk_down(balancer.address, sessions as usize, each)).await?;
        report.add("bulk down", "CPU s/GB", name, cpu.as_secs_f64() / gigabytes);
        let cpu = measure(&balancer, work::bulk_up(balancer.address, sessions as usize, each)).await?;
        report.add("bulk up", "CPU s/GB", name, cpu.as_secs_f64() / gigabytes);
    }
    if wanted("echo") {
        let (sessions, each) = (32, 4000 / scale);
        let balancer = Balancer::start(kind, endpoints)?;
        let cpu = measure(&balancer, work::echo(balancer.address, sessions as usize, each)).await?;
        report.add("echo of 200 bytes", "CPU us", name, cpu.as_secs_f64() * 1e6 / (sessions * each) as f64);
    }
    if wanted("connections") {
        let (clients, each) = (16, 1500 / scale);
        let balancer = Balancer::start(kind, endpoints)?;
        work::connections(balancer.address, clients as usize, 50).await?;
        let cpu = measure(&balancer, work::connections(balancer.address, clients as usize, each)).await?;
        report.add("connection", "CPU us", name, cpu.as_secs_f64() * 1e6 / (clients * each) as f64);
    }
    if wanted("idle") {
        idle(kind, endpoints, scale, report).await?;
    }
    if wanted("latency") {
        latency(kind, endpoints, scale, report).await?;
    }
    Ok(())
}

/// Memory: the slope between two counts of idle sessions, and the whole process with the greater one.
async fn idle(kind: Kind, endpoints: [SocketAddr; 2], scale: u64, report: &mut Report) -> anyhow::Result<()> {
    let (few, many) = (500, (4000 / scale) as usize);
    let balancer = Balancer::start(kind, endpoints)?;
    let mut sessions = work::idle(balancer.address, few).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = balancer.memory()?;
    sessions.extend(work::idle(balancer.address, many).await?);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = balancer.memory()?;
    report.add("idle session", "bytes", kind.name(), (after as f64 - before as f64) / many as f64);
    report.add("process with idle sessions", "MiB", kind.name(), after as f64 / (1 << 20) as f64);
    Ok(())
}

/// Latency at half load: a load of 30,000 messages a second, and beside it a second client whose messages are due at
/// fixed times. What the same client measures without a balancer is deducted.
async fn latency(kind: Kind, endpoints: [SocketAddr; 2], scale: u64, report: &mut Report) -> anyhow::Result<()> {
    const LOAD: f64 = 25_000.0;
    const PROBE: f64 = 1_000.0;
    let time = Duration::from_secs(3) / u32::try_from(scale)?;
    let balancer = Balancer::start(kind, endpoints)?;
    let (load, probe) = tokio::join!(
        work::open_loop(balancer.address, 32, LOAD, time),
        work::open_loop(balancer.address, 8, PROBE, time)
    );
    load?;
    let through = percentiles(probe?);
    let (load, probe) =
        tokio::join!(work::open_loop(endpoints[0], 32, LOAD, time), work::open_loop(endpoints[1], 8, PROBE, time));
    load?;
    let direct = percentiles(probe?);
    report.add("added latency, median", "us", kind.name(), (through.0 - direct.0) * 1e6);
    report.add("added latency, 99th percentile", "us", kind.name(), (through.1 - direct.1) * 1e6);
    Ok(())
}

fn percentiles(mut took: Vec<Duration>) -> (f64, f64) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64();
    (at(0.5), at(0.99))
}

/// The balancer's CPU time over some work.
async fn measure(balancer: &Balancer, work: impl Future<Output = std::io::Result<()>>) -> anyhow::Result<Duration> {
    let before = balancer.used()?;
    let began = Instant::now();
    work.await?;
    // What it does after the last byte (closing, logging) is its work too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let cpu = balancer.used()?.cpu - before.cpu;
    anyhow::ensure!(began.elapsed() < Duration::from_secs(120), "the work took too long to be measured");
    Ok(cpu)
}

fn pin_to_the_other_cpu() -> anyhow::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    rustix::thread::sched_setaffinity(None, &cpus).context("two CPUs are needed")
}
