//! What operators have said of an endpoint at run time. It is kept under the endpoint's name, whatever becomes of the
//! endpoint itself, until an operator takes it back.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::config::model::MAX_WEIGHT;

/// Whether an operator lets an endpoint serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It serves if it is fit.
    Ready,
    /// No new sessions; those that it has follow `on_drain`.
    Drain,
    /// It counts as down, whatever probes find.
    Maintenance,
}

/// What operators have said of one endpoint.
#[derive(Debug)]
pub(crate) struct Operator {
    mode: AtomicU8,
    /// The weight to use; [`u32::MAX`]: the configured one.
    weight: AtomicU32,
}

impl Default for Operator {
    fn default() -> Operator {
        Operator { mode: AtomicU8::new(Mode::Ready as u8), weight: AtomicU32::new(u32::MAX) }
    }
}

impl Operator {
    /// Whether it may serve.
    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == Mode::Drain as u8 => Mode::Drain,
            mode if mode == Mode::Maintenance as u8 => Mode::Maintenance,
            _ => Mode::Ready,
        }
    }

    /// Sets whether it may serve. True if that is new.
    pub(crate) fn set_mode(&self, mode: Mode) -> bool {
        self.mode.swap(mode as u8, Ordering::Relaxed) != mode as u8
    }

    /// The weight to use instead of the configured one.
    pub(crate) fn weight(&self) -> Option<u16> {
        u16::try_from(self.weight.load(Ordering::Relaxed)).ok()
    }

    /// Sets the weight, at most [`MAX_WEIGHT`]; `None`: the configured one.
    pub(crate) fn set_weight(&self, weight: Option<u16>) {
        self.weight.store(weight.map_or(u32::MAX, |weight| weight.min(MAX_WEIGHT).into()), Ordering::Relaxed);
    }

    /// Whether nothing was said, or all was taken back.
    pub(crate) fn is_default(&self) -> bool {
        self.mode() == Mode::Ready && self.weight().is_none()
    }
}

impl Mode {
    /// The word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Mode::Ready => "ready",
            Mode::Drain => "drain",
            Mode::Maintenance => "maint",
        }
    }
}
