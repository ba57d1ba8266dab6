//! `pointsman demo`: the main job, shown and checked on this machine's loopback.
//!
//! Two TLS endpoints, pointsman in front of them and a TLS client run inside this process; what can be tried by hand is
//! printed at the end. Nothing is needed for it: no privileges, no network, no installed tool. All files are in one
//! temporary folder, which goes with the process.

mod client;
mod endpoint;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::AlertDescription;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing_appender::non_blocking::WorkerGuard;

use self::client::Seen;
use self::endpoint::Endpoint;
use super::run::Signals;
use crate::config::{self, model::Bind};
use crate::observe::program_log;
use crate::supervise::Balancer;

/// A name that no route has.
const UNKNOWN: &str = "red.demo.test";
/// How long the lines of the access log may take to be written.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the access log.
const LOOK: Duration = Duration::from_millis(50);

/// Shows the main job and checks it; serves until a signal unless it is to be shown `once`.
pub(super) fn demo(once: bool) -> ExitCode {
    match play(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(once: bool) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("pointsman-demo-").tempdir().context("no temporary folder")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut tasks = JoinSet::new();
        let endpoints = [
            Endpoint::start("blue", folder.path(), &mut tasks).await?,
            Endpoint::start("green", folder.path(), &mut tasks).await?,
        ];
        let mut stage = Stage::set(folder, endpoints)?;
        stage.introduce()?;
        tokio::select! {
            checked = stage.check() => checked?,
            name = signals.next() => bail!("{name} before the checks were done"),
        }
        if once {
            return Ok(());
        }
        stage.invite()?;
        tokio::select! {
            failed = stage.follow() => failed,
            name = signals.next() => {
                say(&format!("\n{name}: the demo ends, its files are removed."));
                Ok(())
            }
        }
    })
}

/// Everything that runs.
struct Stage {
    endpoints: [Endpoint; 2],
    config: String,
    balancer: Option<Balancer>,
    listener: SocketAddr,
    metrics: SocketAddr,
    log: std::fs::File,
    /// Goes last, with everything in it.
    _messages: WorkerGuard,
    _folder: TempDir,
}

impl Stage {
    /// Starts pointsman in front of the endpoints.
    fn set(folder: TempDir, endpoints: [Endpoint; 2]) -> anyhow::Result<Stage> {
        let log = folder.path().join("access.log");
        let config = write_config(&endpoints, &log);
        let loaded = config::parse_str("demo.toml".as_ref(), &config)?;
        let messages = program_log::init(&loaded.config.log);
        let balancer = Balancer::start(&loaded.config)?;
        let listener = balancer.addresses("edge").into_iter().find_map(|address| match address {
            Bind::Tcp(address) => Some(*address),
            Bind::Unix(_) => None,
        });
        Ok(Stage {
            listener: listener.context("the listener has no address")?,
            metrics: balancer.admin_address().context("the admin pages have no address")?,
            log: std::fs::File::open(log)?,
            balancer: Some(balancer),
            endpoints,
            config,
            _messages: messages,
            _folder: folder,
        })
    }

    /// Says what runs.
    fn introduce(&self) -> io::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "Two TLS servers, each with a fresh certificate whose key only it has:")?;
        for endpoint in &self.endpoints {
            writeln!(out, "    {:<6} {}  certificate for {}", endpoint.name, endpoint.address, endpoint.host)?;
        }
        writeln!(out, "\nThe configuration of pointsman in front of them:")?;
        tell(&self.config)?;
        writeln!(out, "\npointsman listens on {}.", self.listener)
    }

    /// Connects as clients do, and tells and checks what comes of it.
    async fn check(&mut self) -> anyhow::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "A client connects, trusts only the certificate of the name it asks for, and sees:")?;
        for endpoint in &self.endpoints {
            let seen = client::ask(self.listener, &endpoint.host, &endpoint.certificate).await;
            let seen = seen.with_context(|| format!("asking for {}", endpoint.host))?;
            let told = match &seen {
                Seen::Answer { text, certificate } => {
                    format!("{:?} -> certificate of {}", first_line(text), self.owner(certificate))
                }
                Seen::Alert(alert) => format!("alert {}", client::alert_name(*alert)),
            };
            writeln!(out, "    {:<16} -> {told}", endpoint.host)?;
            ensure!(endpoint.gave(&seen), "{} was not answered by {}", endpoint.host, endpoint.name);
        }
        let [blue, _] = &self.endpoints;
        let seen = client::ask(self.listener, UNKNOWN, &blue.certificate).await;
        let Seen::Alert(alert) = seen.with_context(|| format!("asking for {UNKNOWN}"))? else {
            bail!("{UNKNOWN} was answered, and no route has this name");
        };
        writeln!(out, "    {UNKNOWN:<16} -> no route -> alert {}", client::alert_name(alert))?;
        ensure!(alert == AlertDescription::UnrecognisedName, "{UNKNOWN} got another alert");

        writeln!(out, "\nThe access log, a line for each connection:")?;
        let lines = self.first_lines(self.endpoints.len() + 1).await?;
        tell(&lines)?;
        let asked = self.endpoints.iter().map(|endpoint| (endpoint.host.as_str(), "ok"));
        for (name, outcome) in asked.chain([(UNKNOWN, "no_route")]) {
            let (name, outcome) = (format!(" sni={name} "), format!(" outcome={outcome} "));
            let logged = lines.lines().any(|line| line.contains(&name) && line.contains(&outcome));
            ensure!(logged, "the access log has no line with{name}and{outcome}");
        }
        writeln!(out, "\nEvery connection went where it should.")?;
        Ok(())
    }

    /// Who holds the key of a certificate.
    fn owner(&self, certificate: &[u8]) -> &str {
        let owner = self.endpoints.iter().find(|endpoint| endpoint.certificate.as_ref() == certificate);
        owner.map_or("nobody here", |endpoint| &endpoint.host)
    }

    /// The access log, once it has `count` lines.
    async fn first_lines(&mut self, count: usize) -> anyhow::Result<String> {
        let until = Instant::now() + PATIENCE;
        let mut lines = String::new();
        loop {
            self.log.read_to_string(&mut lines)?;
            if lines.lines().count() >= count && lines.ends_with('\n') {
                return Ok(lines);
            }
            ensure!(Instant::now() < until, "the access log has fewer than {count} lines:\n{lines}");
            sleep(LOOK).await;
        }
    }

    /// Says what to try by hand.
    fn invite(&self) -> io::Result<()> {
        let mut out = io::stdout();
        let (listener, port, metrics) = (self.listener, self.listener.port(), self.metrics);
        writeln!(out, "\nTry it from another terminal:")?;
        for Endpoint { host, file, .. } in &self.endpoints {
            let (ca, to) = (file.display(), listener.ip());
            writeln!(out, "    curl --cacert {ca} --resolve {host}:{port}:{to} https://{host}:{port}/")?;
        }
        for Endpoint { host, file, .. } in &self.endpoints {
            let ca = file.display();
            writeln!(out, "    openssl s_client -connect {listener} -servername {host} -CAfile {ca} </dev/null")?;
        }
        writeln!(out, "    openssl s_client -connect {listener} -servername {UNKNOWN} </dev/null")?;
        writeln!(out, "    curl http://{metrics}/metrics")?;
        writeln!(out, "\nServing until Ctrl-C. The access log goes on:")
    }

    /// Tells what comes to the access log, for ever.
    async fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let mut lines = String::new();
            self.log.read_to_string(&mut lines)?;
            tell(&lines)?;
            sleep(LOOK).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(balancer) = self.balancer.take() {
            balancer.end();
            balancer.join();
        }
    }
}

fn write_config(endpoints: &[Endpoint], log: &Path) -> String {
    let mut config = format!(
        r#"[listener.edge]
bind = "127.0.0.1:0"            # 0: any free port

[admin]
http = "127.0.0.1:0"            # metrics

[log]
access = {log:?}
format = "text"
level = "warn"
"#
    );
    for Endpoint { name, host, address, .. } in endpoints {
        config += &format!(
            r#"
[route.{name}]
listener = "edge"
sni = "{host}"
pool = "{name}"

[pool.{name}]
endpoints = ["{address}"]
"#
        );
    }
    config
}

/// Says lines that are not the demo's own words.
fn tell(lines: &str) -> io::Result<()> {
    lines.lines().try_for_each(|line| writeln!(io::stdout(), "{}{line}", if line.is_empty() { "" } else { "    " }))
}

/// Says something that is not worth an error if nobody listens.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
