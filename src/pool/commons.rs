//! What all endpoints of a pool have in common, those included that have left it while sessions stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::parts::Parts;
use super::waiting::Waiting;
use crate::config::model::{MaxAge, Pool, Sessions};

/// What the endpoints of one pool share.
#[derive(Debug)]
pub(crate) struct Commons {
    /// Name of the pool.
    pub(crate) pool: Arc<str>,
    /// What becomes of sessions whose endpoint is no longer to be used.
    pub(crate) sessions: Sessions,
    /// Clients that wait because nobody can be chosen.
    pub(crate) held: Waiting,
    /// Clients that wait because all who can be chosen are full.
    pub(crate) queued: Arc<Waiting>,
    /// What it shares with the other parts of the pool as it is written; `None`: it is the whole pool.
    pub(super) parts: Option<Arc<Parts>>,
    /// Sessions of all endpoints, counted only where their number is bounded by it.
    pub(super) active: Option<AtomicU32>,
    /// Sessions that may be closed for their age, in thousandths.
    aged: AtomicU32,
    /// Something that choices go by has changed, and the control side has not looked yet.
    stirred: AtomicBool,
    bell: Arc<Bell>,
}

/// How the control side is told to look.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// A pool has other endpoints.
    pub(crate) sets: Notify,
    /// An endpoint is in another state.
    pub(crate) states: Notify,
}

impl Commons {
    /// Of a pool as configured, without endpoints.
    pub(super) fn new(pool: &Pool, parts: Option<&Arc<Parts>>, bell: &Arc<Bell>) -> Commons {
        let queued = parts.and_then(|parts| parts.queue(&pool.name)).cloned();
        Commons {
            pool: pool.name.as_str().into(),
            sessions: pool.sessions,
            held: Waiting::new(pool.shortage.most_waiting, false),
            queued: queued.unwrap_or_else(|| Arc::new(Waiting::new(pool.shortage.most_waiting, true))),
            parts: parts.cloned(),
            active: pool.balance.is_bounded().then(AtomicU32::default),
            aged: AtomicU32::new(0),
            stirred: AtomicBool::new(false),
            bell: Arc::clone(bell),
        }
    }

    /// An endpoint has changed: the control side is to look.
    pub(crate) fn stir(&self) {
        self.stirred.store(true, Ordering::Relaxed);
        self.bell.states.notify_one();
    }

    /// Whether something has changed that was not looked at.
    pub(super) fn is_stirred(&self) -> bool {
        self.stirred.load(Ordering::Relaxed)
    }

    /// The same, and from here on it was looked at.
    pub(super) fn was_stirred(&self) -> bool {
        self.stirred.swap(false, Ordering::Relaxed)
    }

    /// The pool has other endpoints.
    pub(super) fn replaced(&self) {
        self.stir();
        self.bell.sets.notify_one();
    }

    /// A session has left a place at an endpoint with a limit; `failed`: nothing came of it, so that this is no news to
    /// those who have tried in vain.
    pub(super) fn place_left(&self, failed: bool) {
        let wake = |queue: &Waiting| if failed { queue.wake_untried() } else { queue.wake_first() };
        match &self.parts {
            None => wake(&self.queued),
            Some(parts) => parts.queues().for_each(wake),
        }
    }

    /// Lets one session be closed for its age, if there were not too many lately.
    pub(crate) fn may_age(&self) -> bool {
        self.aged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(ONE)).is_ok()
    }

    /// Lets it pass for [`Commons::may_age`].
    pub(super) fn passed(&self, time: Duration) {
        let Some(MaxAge { per_minute, .. }) = self.sessions.max_age else { return };
        let earned = u64::from(per_minute) * u64::from(ONE) * time.as_millis() as u64 / 60_000;
        // Never more at once than a second's worth.
        let most = u64::from(per_minute.div_ceil(60)) * u64::from(ONE);
        let left = u64::from(self.aged.load(Ordering::Relaxed)) + earned;
        self.aged.store(u32::try_from(left.min(most)).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// One session, in the unit of [`Commons::may_age`].
const ONE: u32 = 1000;
