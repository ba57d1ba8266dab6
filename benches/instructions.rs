//! Instructions of what every connection does, counted by callgrind and held against ceilings. Counts do not depend on
//! the speed of the machine or on what else it does.
//!
//!     cargo bench --bench instructions             # everything that is quick to set up
//!     cargo bench --bench instructions -- --all    # with a million names, which takes minutes
//!
//! Each case runs in a process of its own with some repetitions and with twice as many; the difference is what so many
//! repetitions take, without the setting up. Ceilings are a little above what was counted last: who goes over one
//! either mends that or raises it and says why.

#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use pointsman::config::parse_str;
use pointsman::counted;
use pointsman::route::Router;
use pointsman::wire::client_hello::{ClientHello, Reader};

const HELLO: &[u8] = include_bytes!("../tests/data/hellos/chromium-156-a.bin");

/// Name, repetitions, ceiling in instructions a repetition.
const CASES: [(&str, usize, u64); 22] = [
    ("hello", 1_000, 3_000),
    ("route among 1 name", 1_000, 620),
    ("route among 10,000 names", 1_000, 620),
    ("route among 1,000,000 names", 1_000, 620),
    ("least connections, 2 endpoints", 1_000, 200),
    ("least connections, 100 endpoints", 1_000, 3_700),
    ("least connections, 1,000 endpoints", 200, 39_000),
    ("round robin, 2 endpoints", 1_000, 100),
    ("round robin, 100 endpoints", 1_000, 100),
    ("round robin, 1,000 endpoints", 1_000, 100),
    ("random two, 2 endpoints", 1_000, 200),
    ("random two, 100 endpoints", 1_000, 230),
    ("random two, 1,000 endpoints", 1_000, 280),
    ("maglev, 2 endpoints", 1_000, 250),
    ("maglev, 100 endpoints", 1_000, 250),
    ("maglev, 1,000 endpoints", 1_000, 250),
    ("maglev table, 1,000 endpoints", 5, 14_000_000),
    ("lease, 2 endpoints", 400_000, 450),
    ("lease, 100 endpoints", 20_000, 13_500),
    ("pool from its configuration, 10,000 endpoints", 1, 800_000_000),
    ("session: one message there and back", 500, 6_000),
    ("log line", 1_000, 12_000),
];

#[derive(Parser)]
struct Arguments {
    /// Count also what takes minutes to set up
    #[arg(long)]
    all: bool,
    /// Run this case, not under callgrind
    #[arg(long, hide = true)]
    case: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    times: usize,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(case) = arguments.case {
        run(&case, arguments.times)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.bench {
        // Started as a test: there is nothing to test here.
        return Ok(ExitCode::SUCCESS);
    }
    let mut over = 0;
    println!("| what | instructions | ceiling |");
    println!("|---|---|---|");
    for (case, times, ceiling) in CASES {
        if case.contains("1,000,000") && !arguments.all {
            continue;
        }
        let each = (counted(case, 2 * times)? - counted(case, times)?) / times as u64;
        let verdict = if each > ceiling { " **exceeded**" } else { "" };
        over += u32::from(each > ceiling);
        println!("| {case} | {each} | {ceiling}{verdict} |");
    }
    Ok(if over > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Instructions of a whole process that runs the case so often.
fn counted(case: &str, times: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--case", case, "--times", &times.to_string()])
        .output()
        .context("valgrind is needed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case}: {said}");
    let line = said.lines().find_map(|line| line.split_once("Collected : ")).context("callgrind says no count")?;
    Ok(line.1.trim().parse()?)
}

fn run(case: &str, times: usize) -> anyhow::Result<()> {
    let (what, amount) = case.split_once(", ").unwrap_or((case, ""));
    let endpoints =
        || -> anyhow::Result<usize> { Ok(amount.split(' ').next().unwrap_or_default().replace(',', "").parse()?) };
    match what {
        "hello" => {
            for _ in 0..times {
                black_box(Reader::default().advance(black_box(HELLO))?);
            }
        }
        "least connections" => drop(black_box(counted::least_connections(endpoints()?, times))),
        "round robin" => drop(black_box(counted::round_robin(endpoints()?, times))),
        "random two" => drop(black_box(counted::random_two(endpoints()?, times))),
        "maglev" => drop(black_box(counted::maglev(endpoints()?, times))),
        "maglev table" => counted::maglev_tables(endpoints()?, times),
        "lease" => counted::leases(endpoints()?, times).context("nobody was chosen")?,
        "pool from its configuration" => counted::pools(endpoints()?, times).context("the pool was refused")?,
        "session: one message there and back" => counted::session(times)?,
        "log line" => {
            let hello = hello()?;
            let mut line = Vec::new();
            for id in 0..times {
                line.clear();
                pointsman::observe::line::write_json(&record(id as u64, &hello), &mut line);
                black_box(&line);
            }
        }
        _ => {
            let Some(names) = case.strip_prefix("route among ").and_then(|rest| rest.split(' ').next()) else {
                bail!("there is no case {case:?}")
            };
            route(names.replace(',', "").parse()?, times)?;
        }
    }
    Ok(())
}

fn hello() -> anyhow::Result<ClientHello> {
    Reader::default().advance(HELLO)?.context("the hello is complete")
}

fn route(names: usize, times: usize) -> anyhow::Result<()> {
    let mut text = String::from(
        "[listener.edge]\nbind = '127.0.0.1:1'\n[pool.web]\nendpoints = ['127.0.0.1:2']\n[route.web]\nlistener = 'edge'\n\
         pool = 'web'\nsni = ['www.hello.example',\n",
    );
    for index in 1..names {
        text.push_str(&format!("'shop-{index}.example.com',\n"));
    }
    text.push(']');
    let config = parse_str(Path::new("bench.toml"), &text)?.config;
    let (router, hello) = (Router::new(&config, 0), hello()?);
    for _ in 0..times {
        let client = black_box("192.0.2.1".parse().ok());
        black_box(router.find(hello.server_name.as_ref(), &hello.alpn, client)?);
    }
    Ok(())
}

fn record(id: u64, hello: &ClientHello) -> pointsman::observe::record::Record {
    use pointsman::observe::outcome::{Outcome, Side};
    use pointsman::observe::record::{Record, Said};
    let said = Said { sni: Some("www.hello.example".into()), alpn: hello.alpn.clone(), ..Said::default() };
    let client = "192.0.2.1:40000".parse().ok();
    Record {
        id,
        hello: Some(Said { versions: hello.versions.clone(), ..said }),
        handshake: None,
        route: Some("web".into()),
        pool: Some("web".into()),
        endpoint: Some("10.0.0.1:443".into()),
        bytes_up: 1_957,
        bytes_down: 123_456,
        ..Record::unserved(id, &"edge".into(), client, Outcome::Ok, Side::Client)
    }
}
