//! The access log: one line for every connection that has ended.
//!
//! A worker hands over the [`Record`] by value and goes on: it never formats, writes or waits. One thread formats what
//! is queued, every 20 ms while records come, and writes many lines with one call. A record that finds the queue full
//! is lost and counted, and so is a line that could not be written (broken pipe, full disk); the loss is told once a
//! minute at most. The thread goes on whatever happens: a disk that has room again gets whole lines again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use metrics::Counter;
use rustix::event::{PollFd, PollFlags, poll};

use super::line::{write_json, write_text};
use super::record::Record;
use crate::config::model::{AccessTarget, LogFormat};

/// Records that may wait for the thread. The queue takes memory for those that do, less than 5 MiB for all; what their
/// clients said comes on top.
pub const QUEUE: usize = 16_384;

/// Bytes after which a batch is written even if more is queued.
const BATCH: usize = 64 * 1024;

/// Between the first record that comes after a rest and the writing of it, with all that have come meanwhile.
const NAP: Duration = Duration::from_millis(20);

/// The least time between two complaints about lines lost.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Where workers leave their records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Option<Queue>,
    dropped: Counter,
}

/// A queue that holds [`QUEUE`] records at the most, and no memory for those that it does not hold.
#[derive(Clone, Debug)]
struct Queue {
    /// `None` only wakes the thread.
    records: Sender<Option<Record>>,
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    /// Queues a record, unless the queue is full or the thread has ended.
    fn push(&self, record: Record) -> bool {
        let room = self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        let queued = room && self.records.send(Some(record)).is_ok();
        if !queued {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        queued
    }
}

/// The thread's end of the log, for whoever stops the process.
#[derive(Debug)]
#[must_use = "without finish() the lines still queued are lost at exit"]
pub struct Finish {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    queue: Queue,
    stopping: Arc<AtomicBool>,
    /// Nothing is ever sent: it is disconnected when the thread ends.
    ended: Receiver<()>,
}

impl AccessLog {
    /// Opens `target` and starts the thread; `dropped` counts lines lost. `off` starts nothing.
    ///
    /// # Errors
    /// The file cannot be opened for appending (a FIFO without a reader is refused with ENXIO, it is not waited for),
    /// the standard stream is closed, or no thread can be started.
    pub fn start(target: &AccessTarget, format: LogFormat, dropped: Counter) -> io::Result<(AccessLog, Finish)> {
        let file = match target {
            AccessTarget::Off => return Ok((AccessLog { queue: None, dropped }, Finish { running: None })),
            AccessTarget::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            AccessTarget::Stderr => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            AccessTarget::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)?,
        };
        AccessLog::start_on(file, format, dropped)
    }

    fn start_on(file: File, format: LogFormat, dropped: Counter) -> io::Result<(AccessLog, Finish)> {
        let (sender, records) = channel();
        let queue = Queue { records: sender, waiting: Arc::default() };
        let (alive, ended) = sync_channel(0);
        let stopping = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            records,
            waiting: queue.waiting.clone(),
            stopping: stopping.clone(),
            format,
            batch: Vec::with_capacity(BATCH),
            sink: Sink { file, torn: false, lost: 0, complained: None, dropped: dropped.clone() },
        };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            // The queue and the file are closed before the end is told.
            drop(writer);
            drop(alive);
        })?;
        let running = Running { queue: queue.clone(), stopping, ended };
        Ok((AccessLog { queue: Some(queue), dropped }, Finish { running: Some(running) }))
    }

    /// Whether records are wanted at all: with `off` they need not be put together.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a record, or drops and counts it. Never waits.
    pub fn log(&self, record: Record) {
        if let Some(queue) = &self.queue
            && !queue.push(record)
        {
            self.dropped.increment(1);
        }
    }
}

impl Finish {
    /// Writes what was queued before the call and ends the thread. Waits for `deadline` at most, then leaves the rest:
    /// a reader of stdout that no longer reads must not keep the process alive. Whether everything was done in time.
    pub fn finish(self, deadline: Duration) -> bool {
        let Some(running) = self.running else { return true };
        running.stopping.store(true, Ordering::Release);
        // Where the thread has ended there is nobody to wake.
        let _ = running.queue.records.send(None);
        let ended = running.ended.recv_timeout(deadline);
        ended == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    }
}

/// The thread's side.
struct Writer {
    records: Receiver<Option<Record>>,
    waiting: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    format: LogFormat,
    batch: Vec<u8>,
    sink: Sink,
}

impl Writer {
    fn run(&mut self) {
        loop {
            // The flag first: what was queued before it was set is then certainly seen below.
            let stopping = self.stopping.load(Ordering::Acquire);
            let drained = self.fill();
            self.sink.write(&self.batch);
            self.batch.clear();
            if !drained {
                continue;
            }
            if stopping {
                return;
            }
            if self.stopping.load(Ordering::Acquire) {
                // What was to wake this thread may have been taken already.
                continue;
            }
            match self.records.recv() {
                Ok(record) => self.format(record),
                Err(_) => return,
            }
            nap();
        }
    }

    /// Formats what is queued, up to a batch. Whether nothing was left.
    fn fill(&mut self) -> bool {
        while self.batch.len() < BATCH {
            match self.records.try_recv() {
                Ok(record) => self.format(record),
                Err(_) => return true,
            }
        }
        false
    }

    fn format(&mut self, record: Option<Record>) {
        let Some(record) = record else { return };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match self.format {
            LogFormat::Json => write_json(&record, &mut self.batch),
            LogFormat::Text => write_text(&record, &mut self.batch),
        }
    }
}

/// Lets records gather: waking this thread for every one of them would cost more than serving a short connection.
#[expect(clippy::disallowed_methods, reason = "this thread has no sessions")]
fn nap() {
    std::thread::sleep(NAP);
}

/// A file that takes whole lines as long as it can, and counts those it cannot.
struct Sink {
    file: File,
    /// The file ends in the middle of a line.
    torn: bool,
    /// Lines lost since the last complaint.
    lost: u64,
    complained: Option<Instant>,
    dropped: Counter,
}

impl Sink {
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut rest = lines;
        if let Err(error) = self.mend().and_then(|()| write_some(&self.file, &mut rest)) {
            let written = lines.get(..lines.len() - rest.len()).unwrap_or_default();
            self.torn = written.last().map_or(self.torn, |last| *last != b'\n');
            let lost = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.dropped.increment(lost);
            self.lost += lost;
            self.complain(&error, Instant::now());
        }
    }

    /// Ends a line that an earlier error has cut, so that the next one stands alone.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            write_some(&self.file, &mut &b"\n"[..])?;
            self.torn = false;
        }
        Ok(())
    }

    fn complain(&mut self, error: &io::Error, now: Instant) {
        if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            tracing::warn!(lost = self.lost, %error, "access log lines could not be written");
            self.lost = 0;
            self.complained = Some(now);
        }
    }
}

/// Writes all of `rest`; after an error `rest` is what did not go out. A non-blocking file is waited for.
fn write_some(mut file: &File, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(&file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
    use std::os::fd::OwnedFd;
    use std::time::SystemTime;

    use super::*;
    use crate::observe::metrics::Metrics;
    use crate::observe::outcome::{Outcome, Side};

    const SOON: Duration = Duration::from_secs(10);

    fn record(id: u64) -> Record {
        Record {
            id,
            start: SystemTime::UNIX_EPOCH,
            listener: "edge".into(),
            client: None,
            proxy: None,
            hello: None,
            handshake: None,
            endpoint_handshake: None,
            route: None,
            pool: None,
            endpoint: None,
            outcome: Outcome::Ok,
            by: Side::Client,
            connect: None,
            total: Duration::ZERO,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    fn on_pipe(metrics: &Metrics) -> (PipeReader, AccessLog, Finish) {
        let (reader, writer) = pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let (log, finish) =
            AccessLog::start_on(file, LogFormat::Json, metrics.process().access_log_dropped.clone()).unwrap();
        (reader, log, finish)
    }

    fn dropped(metrics: &Metrics) -> u64 {
        let page = metrics.render();
        let line = page.lines().find(|line| line.starts_with("pointsman_access_log_dropped_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_file_gets_every_line_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let metrics = Metrics::new();
        let target = AccessTarget::File(path.clone());
        let counter = metrics.process().access_log_dropped.clone();
        let (log, finish) = AccessLog::start(&target, LogFormat::Text, counter).unwrap();
        assert!(log.is_on());
        for id in 1..=5_000 {
            log.log(record(id));
        }
        assert!(finish.finish(SOON));
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written.lines().count(), 5_000);
        for (line, id) in written.lines().zip(1..) {
            assert!(line.contains(&format!(" id={id} ")), "{line}");
        }
        assert_eq!(dropped(&metrics), 0);
        log.log(record(5_001));
        assert_eq!(dropped(&metrics), 1, "a record after the end is lost and counted");
    }

    #[test]
    fn a_line_is_written_soon_when_nothing_else_is_queued() {
        let (reader, log, finish) = on_pipe(&Metrics::new());
        let mut reader = BufReader::new(reader);
        for id in 1..=3 {
            log.log(record(id));
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.contains(&format!("\"id\":{id},")), "{line}");
        }
        assert!(finish.finish(SOON));
    }

    #[test]
    fn a_stuck_reader_neither_blocks_a_worker_nor_the_end() {
        let metrics = Metrics::new();
        let (mut reader, log, finish) = on_pipe(&metrics);
        let sent = QUEUE as u64 + 5_000;
        for id in 1..=sent {
            log.log(record(id));
        }
        let lost = dropped(&metrics);
        assert!(lost > 0, "the queue never filled");
        assert!(!finish.finish(Duration::from_millis(50)));

        // The reader wakes up: whatever was taken comes out whole.
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        let all = reading.join().unwrap().unwrap();
        assert_eq!(all.lines().count() as u64 + lost, sent);
    }

    #[test]
    fn the_thread_outlives_a_broken_pipe() {
        let metrics = Metrics::new();
        let (reader, log, finish) = on_pipe(&metrics);
        drop(reader);
        for id in 1..=3 {
            log.log(record(id));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(finish.finish(SOON));
        assert_eq!(dropped(&metrics), 3);
    }

    #[test]
    fn a_line_cut_by_an_error_is_mended_and_counted() {
        // A pipe that is full and whose reader goes away takes a part of a batch, then fails.
        let metrics = Metrics::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (reader, writer) = pipe().unwrap();
        let counter = metrics.process().access_log_dropped.clone();
        let file = File::from(OwnedFd::from(writer));
        let mut sink = Sink { file, torn: false, lost: 0, complained: None, dropped: counter };
        let lines = b"0123456789\n".repeat(20_000);
        let closing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(reader);
        });
        sink.write(&lines);
        closing.join().unwrap();
        assert!(sink.torn, "65,536 bytes end inside a line");
        let lost = dropped(&metrics);
        assert_eq!(lost, 20_000 - 65_536 / 11);

        sink.file = File::create(&path).unwrap();
        sink.write(b"next\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"\nnext\n");
        assert_eq!(dropped(&metrics), lost);
    }

    #[test]
    fn complaints_come_once_a_minute() {
        let file = File::open("/dev/null").unwrap();
        let mut sink = Sink { file, torn: false, lost: 0, complained: None, dropped: Counter::noop() };
        let (start, error) = (Instant::now(), io::Error::from(io::ErrorKind::BrokenPipe));
        for (seconds, left) in [(0, 0), (1, 1), (59, 2), (60, 0), (61, 1)] {
            sink.lost += 1;
            sink.complain(&error, start + Duration::from_secs(seconds));
            assert_eq!(sink.lost, left, "after {seconds} s");
        }
    }

    #[test]
    fn a_full_queue_is_as_large_as_documented() {
        assert!(QUEUE * size_of::<Option<Record>>() <= 5 << 20, "{} bytes a record", size_of::<Option<Record>>());
    }

    #[test]
    fn off_is_off_and_what_cannot_be_opened_is_an_error() {
        let (log, finish) = AccessLog::start(&AccessTarget::Off, LogFormat::Json, Counter::noop()).unwrap();
        assert!(!log.is_on());
        log.log(record(1));
        assert!(finish.finish(Duration::ZERO));

        let missing = AccessTarget::File("/nonexistent/access.log".into());
        let error = AccessLog::start(&missing, LogFormat::Json, Counter::noop()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
