//! The balancers: started with a configuration from `benches/peers`, pinned to one CPU, measured from outside.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::client::Identity;

/// The CPU that balancers run on; the load and the endpoints run on the other.
pub const ITS_CPU: usize = 1;

/// Which balancer, and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The release build of this tree, defaults.
    Pointsman,
    /// HAProxy, defaults.
    Haproxy,
    /// HAProxy, splice on, pipes of 1 MiB.
    HaproxyTuned,
    /// nginx stream, defaults: when a client has finished, both connections are closed.
    Nginx,
    /// nginx stream, told to let the endpoint go on (`proxy_half_close on`), as all the others do.
    NginxHalfClose,
}

impl Kind {
    /// All, ours first.
    pub const ALL: [Kind; 5] = [Kind::Pointsman, Kind::Haproxy, Kind::HaproxyTuned, Kind::Nginx, Kind::NginxHalfClose];

    /// Those that end TLS: what is decrypted cannot be spliced.
    pub const ENDING_TLS: [Kind; 3] = [Kind::Pointsman, Kind::Haproxy, Kind::Nginx];

    /// All but ours.
    pub const PEERS: [Kind; 4] = [Kind::Haproxy, Kind::HaproxyTuned, Kind::Nginx, Kind::NginxHalfClose];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pointsman => "pointsman",
            Kind::Haproxy => "haproxy",
            Kind::HaproxyTuned => "haproxy-tuned",
            Kind::Nginx => "nginx",
            Kind::NginxHalfClose => "nginx-half-close",
        }
    }

    /// The configuration to pass TLS through with, in `benches/peers`.
    fn passing(self) -> &'static str {
        match self {
            Kind::Pointsman => "pointsman.toml",
            Kind::Haproxy => "haproxy.cfg",
            Kind::HaproxyTuned => "haproxy-tuned.cfg",
            Kind::Nginx | Kind::NginxHalfClose => "nginx.conf",
        }
    }

    /// The configuration to end TLS with.
    fn ending_tls(self) -> &'static str {
        match self {
            Kind::Pointsman => "pointsman-tls.toml",
            Kind::Haproxy | Kind::HaproxyTuned => "haproxy-tls.cfg",
            Kind::Nginx | Kind::NginxHalfClose => "nginx-tls.conf",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Kind::Pointsman => &["run", "@CONFIG@"],
            Kind::Haproxy | Kind::HaproxyTuned => &["-db", "-f", "@CONFIG@"],
            Kind::Nginx | Kind::NginxHalfClose => &["-p", "@FOLDER@", "-c", "@CONFIG@"],
        }
    }

    fn binary(self) -> String {
        let of = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.into());
        match self {
            Kind::Pointsman => of("POINTSMAN", env!("CARGO_BIN_EXE_pointsman")),
            Kind::Haproxy | Kind::HaproxyTuned => of("HAPROXY", "haproxy"),
            Kind::Nginx | Kind::NginxHalfClose => of("NGINX", "nginx"),
        }
    }

    /// What the binary says of its version.
    pub fn version(self) -> anyhow::Result<String> {
        let flag = if self == Kind::Pointsman { "--version" } else { "-v" };
        let output = Command::new(self.binary()).arg(flag).output().with_context(|| self.binary())?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
    }
}

/// A running balancer; killed by Drop.
pub struct Balancer {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Child,
    folder: PathBuf,
}

/// What a balancer has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// CPU time of all its threads.
    pub cpu: Duration,
}

impl Balancer {
    /// Starts one in front of these endpoints and waits until it listens.
    pub fn start(kind: Kind, endpoints: [SocketAddr; 2]) -> anyhow::Result<Balancer> {
        let (template, name) = (kind.passing(), kind.name());
        Balancer::start_in(name, kind, template, endpoints, |text, _| Ok(text))
    }

    /// Starts one that ends TLS with this certificate.
    pub fn start_ending_tls(kind: Kind, endpoints: [SocketAddr; 2], identity: &Identity) -> anyhow::Result<Balancer> {
        let name = format!("{}-tls", kind.name());
        Balancer::start_in(&name, kind, kind.ending_tls(), endpoints, |text, folder| {
            let file = folder.join("identity.pem");
            std::fs::write(&file, &identity.pem)?;
            Ok(text.replace("@IDENTITY@", &file.to_string_lossy()))
        })
    }

    /// Starts ours with so many routes of one name each, beside the one that is used.
    pub fn start_with_routes(endpoints: [SocketAddr; 2], count: usize) -> anyhow::Result<Balancer> {
        let route =
            |index| format!("[route.r{index}]\nlistener = \"edge\"\nsni = \"n{index}.example\"\npool = \"web\"\n");
        let routes: String = (1..count).map(route).collect();
        let (name, kind) = (format!("routes-{count}"), Kind::Pointsman);
        Balancer::start_in(&name, kind, kind.passing(), endpoints, |text, _| Ok(text + &routes))
    }

    /// `complete` makes the configuration out of its template, and may put files beside it.
    fn start_in(
        name: &str,
        kind: Kind,
        template: &str,
        endpoints: [SocketAddr; 2],
        complete: impl FnOnce(String, &Path) -> anyhow::Result<String>,
    ) -> anyhow::Result<Balancer> {
        let folder = std::env::temp_dir().join(format!("side-by-side-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.join(template);
        let fill = |text: &str| {
            text.replace("@LISTEN@", &address.to_string())
                .replace("@ENDPOINT_A@", &endpoints[0].to_string())
                .replace("@ENDPOINT_B@", &endpoints[1].to_string())
                .replace("@FOLDER@", &folder.to_string_lossy())
                .replace("@CONFIG@", &config.to_string_lossy())
                .replace("@MODULE@", nginx_module())
                .replace("@HALF_CLOSE@", if kind == Kind::NginxHalfClose { "on" } else { "off" })
        };
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let text = complete(fill(&std::fs::read_to_string(peers.join(template))?), &folder)?;
        std::fs::write(&config, text)?;
        let child = Command::new("taskset")
            .args(["-c", &ITS_CPU.to_string(), &kind.binary()])
            .args(kind.arguments().iter().map(|argument| fill(argument)))
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("stdout"))?)
            .stderr(File::create(folder.join("stderr"))?)
            .spawn()
            .context("taskset")?;
        let mut balancer = Balancer { kind, address, child, folder };
        balancer.wait_until_it_listens()?;
        Ok(balancer)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > until || self.child.try_wait()?.is_some() {
                let said = std::fs::read_to_string(self.folder.join("stderr"))?;
                bail!("{} does not listen: {said}", self.kind.name());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// CPU time of every thread of every process of it, to the nanosecond.
    pub fn used(&self) -> anyhow::Result<Used> {
        let mut nanoseconds = 0;
        for process in self.processes()? {
            for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
                let ran: u64 = stat.split(' ').next().context("schedstat is empty")?.parse()?;
                nanoseconds += ran;
            }
        }
        Ok(Used { cpu: Duration::from_nanos(nanoseconds) })
    }

    /// Memory of all its processes, shared pages by share (PSS), in bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let mut kilobytes = 0;
        for process in self.processes()? {
            let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no Pss")?;
            let count: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
            kilobytes += count;
        }
        Ok(kilobytes * 1024)
    }

    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(&process) = found.get(next) {
            let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
            for child in children.split_whitespace() {
                found.push(child.parse()?);
            }
            next += 1;
        }
        Ok(found)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // nginx's workers end with their master only if it may tell them. The first signal may mean a drain, the next
        // one means now.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
            std::thread::sleep(Duration::from_millis(30));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where distributions put nginx's stream module, if it is not built in.
fn nginx_module() -> &'static str {
    if std::env::var_os("NGINX").is_none() && Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists() {
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;"
    } else {
        ""
    }
}
