//! Coarse time: seconds since the worker started, as one number that costs nothing to read.

use std::cell::Cell;
use std::rc::Rc;

/// Seconds since the worker started, moved on by its sweep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Rc<Cell<u32>>);

impl Clock {
    /// Seconds since the worker started, at most about one behind.
    pub(crate) fn now(&self) -> u32 {
        self.0.get()
    }

    /// Sets the time; only the sweep does.
    pub(crate) fn set(&self, seconds: u32) {
        self.0.set(seconds);
    }
}
