//! What `benches/instructions` and `benches/certificates` measure and cannot reach from outside. No part of the library's interface.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use rustls::SignatureScheme;

use crate::balance::random_two::Urn;
use crate::balance::{Load, least_connections, maglev, round_robin};
use crate::config;
use crate::forward::{Forward, Tools};
use crate::observe::metrics::Metrics;
use crate::pool::Pool;
use crate::stream::{Family, Stream};
use crate::table::{Entry, Identity, Limits};
use crate::tls::certificates;
use crate::tls::pair::Pair;
use crate::wire::name::{Name, Written};

/// Picks by least connections among `endpoints`, each pick being a session that stays. Returns the last index.
pub fn least_connections(endpoints: usize, picks: usize) -> Option<usize> {
    let mut loads = vec![Load { weight: 1, active: 0, recent: 0 }; endpoints];
    let mut last = None;
    for position in 0..picks {
        let (index, _) = least_connections::pick(loads.iter().copied(), position, |_| true)?;
        loads.get_mut(index)?.active += 1;
        last = Some(index);
    }
    last
}

/// Picks in turn among `endpoints`. Returns the last index.
pub fn round_robin(endpoints: usize, picks: usize) -> Option<usize> {
    let turns = round_robin::turns(&vec![1; endpoints]);
    (0..picks).fold(None, |_, position| black_box(round_robin::pick(&turns, || position, |_| true)))
}

/// Picks of two drawn by lot among `endpoints`. Returns the last index.
pub fn random_two(endpoints: usize, picks: usize) -> Option<usize> {
    let (urn, mut dice) = (Urn::new((0..endpoints).map(|_| 1)), fastrand::Rng::with_seed(1));
    let load = |_| Load { weight: 1, active: 0, recent: 0 };
    (0..picks).fold(None, |_, _| black_box(urn.pick(|below| dice.u32(..below), load, |_| true))).map(|(index, _)| index)
}

/// Picks by a hash among `endpoints`. Returns the last index.
pub fn maglev(endpoints: usize, picks: usize) -> Option<usize> {
    let table = maglev_table(endpoints);
    (0..picks as u64).fold(None, |_, client| black_box(table.pick(maglev::key(&client.to_be_bytes()), |_| true).ok()))
}

/// Makes the table of `endpoints` so many times.
pub fn maglev_tables(endpoints: usize, times: usize) {
    (0..times).for_each(|_| drop(black_box(maglev_table(endpoints))));
}

fn maglev_table(endpoints: usize) -> maglev::Table {
    let names: Vec<String> = (0..endpoints).map(|index| format!("10.0.{}.{}:443", index / 250, index % 250)).collect();
    maglev::Table::new(names.iter().map(|name| (name.as_str(), 1)))
}

/// Makes a pool of so many endpoints, so many times. `None`: its configuration is refused.
pub fn pools(endpoints: usize, times: usize) -> Option<()> {
    (0..times).try_for_each(|_| pool(endpoints).map(|pool| drop(black_box(pool))))
}

/// Leases of a pool of so many endpoints by least connections, each given back at once. `None`: its configuration is
/// refused, or nobody can be chosen.
pub fn leases(endpoints: usize, times: usize) -> Option<()> {
    lease_only(&pool(endpoints)?, times)
}

/// What is counted of [`leases`]: making a pool sets a clock, which takes as long as it takes.
#[inline(never)]
fn lease_only(pool: &Pool, times: usize) -> Option<()> {
    (0..times).try_for_each(|_| pool.lease(0, &[]).ok().map(|lease| drop(black_box(lease))))
}

fn pool(endpoints: usize) -> Option<Pool> {
    let names = (0..endpoints).map(|index| format!("\"10.0.{}.{}:443\"", index / 250, index % 250));
    let list = names.collect::<Vec<_>>().join(",");
    let text = format!(
        "listener.l.bind = '127.0.0.1:1'\nroute.r = {{ listener = 'l', pool = 'p' }}\npool.p.endpoints = [{list}]"
    );
    let model = config::parse_str("counted.toml".as_ref(), &text).ok()?.config.pools.pop()?;
    let pool = Pool::new(&model, &Metrics::new(), &Arc::default());
    pool.settle(Instant::now());
    Some(pool)
}

/// One session of the forwarder over socket pairs: so many messages of 200 bytes go to the endpoint and come back.
///
/// # Errors
/// Those of the sockets.
pub fn session(messages: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ((mut client, near_client), (mut endpoint, near_endpoint)) = (pair()?, pair()?);
        let (tools, entry) = (Tools::new(1), Entry::new(Identity::nobody(), 0, Limits::default()));
        let mut forward = pin!(Forward::new(&near_client, &near_endpoint, None, &tools, &entry));
        let mut cross = async |from: &mut UnixStream, to: &mut UnixStream| {
            let mut message = [7; 200];
            from.write_all(&message)?;
            loop {
                std::future::poll_fn(|cx| Poll::Ready(forward.as_mut().poll(cx).is_ready())).await;
                match to.read(&mut message) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                    read => return read,
                }
            }
        };
        for _ in 0..messages {
            cross(&mut client, &mut endpoint).await?;
            cross(&mut endpoint, &mut client).await?;
        }
        Ok(())
    })
}

fn pair() -> io::Result<(UnixStream, Stream)> {
    let (far, near) = UnixStream::pair()?;
    far.set_nonblocking(true)?;
    near.set_nonblocking(true)?;
    Ok((far, Stream::new(OwnedFd::from(near), Family::Unix)?))
}

/// The certificates of a route.
pub struct Certificates(certificates::Certificates);

impl Certificates {
    /// Those in `folder`.
    ///
    /// # Errors
    /// What is wrong with the first file that is not right.
    pub fn load(folder: &Path) -> Result<Certificates, String> {
        let (loaded, problems) =
            certificates::Certificates::load(&[folder.to_owned()], Vec::new(), None, SystemTime::now());
        match problems.first() {
            Some(found) => Err(found.problem.to_string()),
            None => Ok(Certificates(loaded)),
        }
    }

    /// Looks at all files again; how many problems there are.
    pub fn look(&self) -> usize {
        self.0.look(SystemTime::now()).1.len()
    }

    /// Whether a client that asks for `name` gets a certificate.
    pub fn find(&self, name: &str) -> bool {
        self.pair(name).is_some()
    }

    /// Whether its key signs.
    pub fn sign(&self, name: &str) -> bool {
        let signer = self.pair(name).and_then(|pair| pair.certified().key.choose_scheme(&SCHEMES));
        signer.is_some_and(|signer| signer.sign(b"transcript").is_ok())
    }

    fn pair(&self, name: &str) -> Option<Arc<Pair>> {
        let Ok(Written::Name(name)) = Name::read(name.as_bytes()) else { return None };
        self.0.find(Some(&name), &SCHEMES, SystemTime::now())
    }
}

const SCHEMES: [SignatureScheme; 2] = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];
