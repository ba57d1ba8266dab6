//! What is told about a connection: its one outcome, its line in the access log, its share in the metrics.
//!
//! Nothing here may ever slow a session: what cannot be taken at once is dropped and counted.

pub mod access_log;
pub mod line;
pub mod metrics;
pub mod outcome;
pub mod program_log;
pub mod record;
