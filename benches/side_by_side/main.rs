//! pointsman beside HAProxy and nginx: the same work in the same run, A B C D A B C D, the balancer's own CPU time and
//! memory. Started by `benches/compare`; `benches/README.md` says how to read the figures.
//!
//! The load and the endpoints are this process, on one CPU; the balancer has another to itself.

#![allow(clippy::disallowed_methods, reason = "a benchmark has no drain")]
#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

mod balancer;
mod client;
mod endpoint;
mod hello;
mod latency;
mod report;
mod terminated;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use balancer::{Balancer, Kind};
use clap::Parser;
use client::{Clients, Identity};
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
    /// Only this work; may be repeated
    #[arg(long, value_parser = WORKS)]
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

/// The works, in the order of the table.
const WORKS: [&str; 11] = [
    "bulk",
    "echo",
    "connections",
    "routes",
    "idle",
    "latency",
    "tls-full",
    "tls-resumed",
    "tls-bulk",
    "tls-echo",
    "tls-idle",
];

/// Turns that each balancer gets in one round of a work that is measured in CPU time. The shorter a turn, the less the
/// machine drifts between two balancers. The median of a balancer's turns is its figure for the round. The order is drawn
/// anew for every turn, so that none always comes after the same one.
const TURNS: usize = 7;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    pin_to_the_other_cpu()?;
    let endpoints = endpoint::start(|| {})?;
    let preferred = endpoint::start(|| latency::prefer(2))?;
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
    let scale = if arguments.quick { 10 } else { 1 };
    let bench = Bench { kinds, endpoints, preferred, identity: Identity::new()?, scale };
    let mut report = Report::default();
    for work in WORKS {
        if !arguments.work.is_empty() && !arguments.work.iter().any(|name| name == work) {
            continue;
        }
        for round in 1..=arguments.rounds {
            runtime
                .block_on(bench.round(work, &mut report))
                .with_context(|| format!("{work}, round {round}: the run is void"))?;
            println!("{work}: round {round}");
        }
    }
    println!("\n{}", report.table());
    let before = std::fs::read(&arguments.out).unwrap_or_default();
    let json = serde_json::to_string_pretty(&report.json(&versions, &before))?;
    std::fs::write(&arguments.out, json + "\n")?;
    println!("figures: {}", arguments.out.display());
    Ok(())
}

/// What every round has in common.
struct Bench {
    kinds: Vec<Kind>,
    endpoints: [SocketAddr; 2],
    /// Endpoints that run as soon as they have something to do.
    preferred: [SocketAddr; 2],
    /// The certificate where TLS ends at the balancer.
    identity: Identity,
    /// The work is divided by this.
    scale: u64,
}

impl Bench {
    async fn round(&self, work: &str, report: &mut Report) -> anyhow::Result<()> {
        match work {
            "bulk" => self.bulk(report).await,
            "echo" => self.echo(report).await,
            "connections" => self.connections(report).await,
            "routes" => self.routes(report).await,
            "idle" => self.idle(report).await,
            "latency" => self.latency(report).await,
            _ => self.terminated(work, report).await,
        }
    }

    async fn bulk(&self, report: &mut Report) -> anyhow::Result<()> {
        let (sessions, each) = (4, (80 << 20) / self.scale);
        let gigabytes = (sessions * each) as f64 / 1e9;
        let down = self.cpu(|clients| work::bulk_down(clients, sessions as usize, each)).await?;
        report.add_all("bulk down", "CPU s/GB", &down, 1.0 / gigabytes);
        let up = self.cpu(|clients| work::bulk_up(clients, sessions as usize, each)).await?;
        report.add_all("bulk up", "CPU s/GB", &up, 1.0 / gigabytes);
        Ok(())
    }

    async fn echo(&self, report: &mut Report) -> anyhow::Result<()> {
        let (sessions, each) = (32, 800 / self.scale);
        let cpu = self.cpu(|clients| work::echo(clients, sessions as usize, each)).await?;
        report.add_all("echo of 200 bytes", "CPU us", &cpu, 1e6 / (sessions * each) as f64);
        Ok(())
    }

    async fn connections(&self, report: &mut Report) -> anyhow::Result<()> {
        let (at_a_time, each) = (16, 300 / self.scale);
        let cpu = self.cpu(|clients| work::connections(clients, at_a_time as usize, each)).await?;
        report.add_all("connection", "CPU us", &cpu, 1e6 / (at_a_time * each) as f64);
        Ok(())
    }

    /// Connections again, ours alone: with 10 routes and with 10,000.
    async fn routes(&self, report: &mut Report) -> anyhow::Result<()> {
        if !self.kinds.contains(&Kind::Pointsman) {
            return Ok(());
        }
        let (at_a_time, each) = (16, 300 / self.scale);
        let (few, many) =
            (Balancer::start_with_routes(self.endpoints, 10)?, Balancer::start_with_routes(self.endpoints, 10_000)?);
        let balancers = [few, many];
        let mut used = [Vec::new(), Vec::new()];
        for turn in 0..=TURNS {
            for index in drawn(2) {
                let balancer = &balancers[index];
                let clients = Clients::Passing(balancer.address);
                let cpu = measure(balancer, work::connections(clients, at_a_time, each)).await?;
                // The first turn warms up.
                if turn > 0 {
                    used[index].push(cpu.as_secs_f64());
                }
            }
        }
        let [few, many] = used.map(median);
        report.add("connection with 10,000 routes / with 10", "ratio", Kind::Pointsman.name(), many / few);
        Ok(())
    }

    async fn idle(&self, report: &mut Report) -> anyhow::Result<()> {
        for &kind in &self.kinds {
            let balancer = Balancer::start(kind, self.endpoints)?;
            let (each, all) = self.memory(&balancer, &Clients::Passing(balancer.address)).await?;
            report.add("idle session", "bytes", kind.name(), each);
            report.add("process with idle sessions", "MiB", kind.name(), all);
        }
        Ok(())
    }

    /// Memory: the slope between two counts of idle sessions, in bytes each, and the whole process with the greater one,
    /// in MiB.
    async fn memory(&self, balancer: &Balancer, clients: &Clients) -> anyhow::Result<(f64, f64)> {
        let (few, many) = (500, (4000 / self.scale) as usize);
        let mut sessions = work::idle(clients, few).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let before = balancer.memory()?;
        sessions.extend(work::idle(clients, many).await?);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let after = balancer.memory()?;
        Ok(((after as f64 - before as f64) / many as f64, after as f64 / (1 << 20) as f64))
    }

    /// Latency at half load: half of the messages a second that pass through the slowest balancer when as many are sent
    /// as will go. What the same client measures without a balancer is deducted.
    async fn latency(&self, report: &mut Report) -> anyhow::Result<()> {
        let balancers = self.start_all(self.preferred)?;
        let mut least = f64::INFINITY;
        for balancer in &balancers {
            least = least.min(latency::capacity(balancer.address).await?);
        }
        let time = Duration::from_secs(4) / u32::try_from(self.scale)?;
        let direct = latency::at_load(self.preferred, least / 2.0, time)?;
        for balancer in drawn(balancers.len()).map(|index| &balancers[index]) {
            let through = latency::at_load([balancer.address; 2], least / 2.0, time)?;
            let added = |share: f64| (through.at(share) - direct.at(share)) * 1e6;
            report.add("added latency, median", "us", balancer.kind.name(), added(0.5));
            report.add("added latency, 99th percentile", "us", balancer.kind.name(), added(0.99));
        }
        Ok(())
    }

    fn start_all(&self, endpoints: [SocketAddr; 2]) -> anyhow::Result<Vec<Balancer>> {
        self.kinds.iter().map(|&kind| Balancer::start(kind, endpoints)).collect()
    }

    /// CPU seconds of each balancer for one turn of `work`, passing through.
    async fn cpu<F>(&self, work: impl Fn(Clients) -> F) -> anyhow::Result<Vec<(Kind, f64)>>
    where
        F: Future<Output = std::io::Result<()>>,
    {
        let balancers = self.start_all(self.endpoints)?;
        let clients: Vec<_> = balancers.iter().map(|balancer| Clients::Passing(balancer.address)).collect();
        in_turns(&balancers, &clients, work).await
    }
}

/// CPU seconds of each balancer for one turn of `work`, the median of [`TURNS`]. All of them run; they take turns.
async fn in_turns<F>(
    balancers: &[Balancer],
    clients: &[Clients],
    work: impl Fn(Clients) -> F,
) -> anyhow::Result<Vec<(Kind, f64)>>
where
    F: Future<Output = std::io::Result<()>>,
{
    let mut used = vec![Vec::new(); balancers.len()];
    for turn in 0..=TURNS {
        for index in drawn(balancers.len()) {
            let balancer = &balancers[index];
            let cpu = measure(balancer, work(clients[index].clone())).await.context(balancer.kind.name())?;
            // The first turn warms up.
            if turn > 0 {
                used[index].push(cpu.as_secs_f64());
            }
        }
    }
    Ok(balancers.iter().map(|balancer| balancer.kind).zip(used.into_iter().map(median)).collect())
}

/// The numbers below `count` in an order drawn by lot.
fn drawn(count: usize) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::shuffle(&mut order);
    order.into_iter()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
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
