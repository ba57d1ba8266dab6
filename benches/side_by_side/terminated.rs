//! The works where TLS ends at the balancer: handshakes, bulk, small messages, memory.

use crate::balancer::{Balancer, Kind};
use crate::client::Clients;
use crate::report::Report;
use crate::{Bench, in_turns, work};

/// Clients at a time that make handshakes.
const CLIENTS: usize = 16;

impl Bench {
    pub async fn terminated(&self, work: &str, report: &mut Report) -> anyhow::Result<()> {
        if work == "tls-idle" {
            return self.idle_in_tls(report).await;
        }
        let balancers =
            self.kinds_ending_tls().map(|kind| self.ending_tls(kind)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut clients = Vec::new();
        for balancer in &balancers {
            clients.push(match work {
                "tls-resumed" => Clients::resuming(balancer.address, &self.identity, CLIENTS).await?,
                _ => Clients::full(balancer.address, &self.identity)?,
            });
        }
        match work {
            "tls-bulk" => {
                let (sessions, each) = (4, (80 << 20) / self.scale);
                let gigabytes = (sessions * each) as f64 / 1e9;
                let down = in_turns(&balancers, &clients, |to| work::bulk_down(to, sessions as usize, each)).await?;
                report.add_all("tls bulk down", "CPU s/GB", &down, 1.0 / gigabytes);
                let up = in_turns(&balancers, &clients, |to| work::bulk_up(to, sessions as usize, each)).await?;
                report.add_all("tls bulk up", "CPU s/GB", &up, 1.0 / gigabytes);
            }
            "tls-echo" => {
                let (sessions, each) = (32, 800 / self.scale);
                let cpu = in_turns(&balancers, &clients, |to| work::echo(to, sessions as usize, each)).await?;
                report.add_all("tls echo of 200 bytes", "CPU us", &cpu, 1e6 / (sessions * each) as f64);
            }
            _ => {
                let line = if work == "tls-full" { "tls full" } else { "tls resumed" };
                let each = 60 / self.scale;
                let cpu = in_turns(&balancers, &clients, |to| work::connections(to, CLIENTS, each)).await?;
                report.add_all(line, "CPU us", &cpu, 1e6 / (CLIENTS as u64 * each) as f64);
            }
        }
        Ok(())
    }

    async fn idle_in_tls(&self, report: &mut Report) -> anyhow::Result<()> {
        for kind in self.kinds_ending_tls() {
            let balancer = self.ending_tls(kind)?;
            let (each, all) = self.memory(&balancer, &Clients::full(balancer.address, &self.identity)?).await?;
            report.add("tls idle session", "bytes", kind.name(), each);
            report.add("process with tls idle sessions", "MiB", kind.name(), all);
        }
        Ok(())
    }

    fn kinds_ending_tls(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().copied().filter(|kind| Kind::ENDING_TLS.contains(kind))
    }

    fn ending_tls(&self, kind: Kind) -> anyhow::Result<Balancer> {
        Balancer::start_ending_tls(kind, self.endpoints, &self.identity)
    }
}
