//! The program's own messages: written to stderr, in the format of the access log.
//!
//! A thread of its own writes them, so that nobody waits for stderr; what it cannot take in time is lost. What a client
//! has sent is only ever logged with `?` (escaped), never with `%`.

use std::io;

use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::model::{Log, LogFormat};

/// Messages that may wait for stderr. Room for them is set aside at the start.
const QUEUE: usize = 1024;

/// Starts logging for the whole process. The first call holds; later ones (tests) change nothing. Dropping what it
/// returns waits, for a second at most, until everything is written.
#[must_use = "messages that are not written yet are lost at the end"]
pub fn init(log: &Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(io::stderr());
    let _ = subscriber(log, writer).try_init();
    guard
}

fn subscriber<W>(log: &Log, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(log.level).with_ansi(false).with_writer(writer);
    // Other crates tell much that is of no use to anybody here, such as each step of each look-up.
    let others = log.level.min(Level::WARN);
    let levels = Targets::new().with_target(env!("CARGO_CRATE_NAME"), log.level).with_default(others);
    match log.format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish().with(levels)),
        LogFormat::Text => Box::new(builder.finish().with(levels)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::model::AccessTarget;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: Level, format: LogFormat) -> String {
        let log = Log { level, access: AccessTarget::Off, format };
        let written = Written::default();
        let writer = written.clone();
        tracing::subscriber::with_default(subscriber(&log, move || writer.clone()), || {
            tracing::debug!("too detailed");
            tracing::info!(listener = "edge", sent = ?"a\nb", "listening");
            tracing::info!(target: "hickory_net::udp", "a step");
            tracing::warn!(target: "hickory_net::udp", "trouble");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn level_and_format_are_the_configured_ones() {
        let text = written(Level::INFO, LogFormat::Text);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("INFO") && text.contains("listening listener=\"edge\" sent=\"a\\nb\""), "{text}");

        let json = written(Level::INFO, LogFormat::Json);
        let first = json.lines().next().unwrap();
        let read: serde_json::Value = serde_json::from_str(first).unwrap();
        assert_eq!(read["message"], "listening", "{json}");
        assert_eq!(read["listener"], "edge", "{json}");
        assert_eq!(read["level"], "INFO", "{json}");
    }

    #[test]
    fn other_crates_only_tell_of_trouble() {
        for (level, expected) in [
            (Level::ERROR, ""),
            (Level::WARN, "trouble"),
            (Level::INFO, "listening trouble"),
            (Level::TRACE, "too detailed listening trouble"),
        ] {
            let text = written(level, LogFormat::Text);
            let told = ["too detailed", "listening", "a step", "trouble"];
            let told: Vec<&str> = told.into_iter().filter(|told| text.contains(told)).collect();
            assert_eq!(told.join(" "), expected, "{level}: {text}");
        }
    }

    #[test]
    fn a_second_call_is_tolerated() {
        let log = Log { level: tracing::Level::WARN, access: AccessTarget::Off, format: LogFormat::Text };
        let _first = init(&log);
        let _second = init(&log);
    }
}
