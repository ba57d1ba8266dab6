//! The admin socket: a unix socket for commands, see [`super::command`].
//!
//! Only root and the user that the process runs as are answered, whatever the file's mode has become. A client may never
//! hurt: at most 16 connections at once, a request has 64 KiB at the most, and a silent connection ends after 30 s.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::answer;
use super::command::LONGEST;
use crate::listen::sockets::{self, SocketFile};
use crate::supervise::shared::Shared;

/// Connections at once.
const CONNECTIONS: usize = 16;
/// For a request, and for taking its answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the socket at `path`, for its owner alone. The file goes with the guard.
///
/// # Errors
/// Those of bind(2), chmod(2) and listen(2).
pub(crate) fn open(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    let socket = sockets::unix(path)?;
    let file = SocketFile::at(path)?;
    // Nobody can connect before it listens.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(CONNECTIONS as i32)?;
    Ok((socket.into(), file))
}

/// Answers until `stop`.
pub(crate) async fn serve(listener: UnixListener, shared: Arc<Shared>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(place) = stop.run_until_cancelled(places.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if !stream.peer_cred().is_ok_and(|peer| is_allowed(&peer)) {
            continue;
        }
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        connections.spawn(async move {
            // What goes wrong on a connection is its client's affair.
            let _ = stop.run_until_cancelled(converse(stream, &shared)).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

fn is_allowed(peer: &UCred) -> bool {
    peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw()
}

/// Answers one request after the other.
async fn converse(mut stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut request = Vec::new();
        let mut bounded = (&mut reader).take(LONGEST as u64);
        if timeout(SILENCE, bounded.read_until(b'\n', &mut request)).await?? == 0 {
            return Ok(());
        }
        if request.last() != Some(&b'\n') && request.len() == LONGEST {
            let answer = format!("{{\"error\":\"a request has at most {LONGEST} bytes\"}}\n");
            return timeout(SILENCE, writer.write_all(answer.as_bytes())).await?;
        }
        let mut answer = answer(shared, &request).await;
        answer.push('\n');
        timeout(SILENCE, writer.write_all(answer.as_bytes())).await??;
    }
}
