//! What a pool does with sessions that stay, and with clients that nobody can serve yet.

use std::time::Duration;

/// What a pool does with a client while no endpoint can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Where no endpoint can be chosen.
    pub no_endpoint: NoEndpoint,
    /// How long a client waits for a place at endpoints that have their `max_connections`; zero: not at all.
    pub queue: Duration,
    /// Clients that wait at once, 1 to 65,536.
    pub most_waiting: usize,
}

/// What happens to a client where no endpoint can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// It is sent away.
    Close,
    /// Its listeners refuse connections for as long as that lasts.
    Refuse,
    /// It waits for so long.
    Hold(Duration),
}

/// `[pool.NAME.sessions]`: what happens to sessions whose endpoint is no longer to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Probes no longer reach it, or it was taken into maintenance.
    pub on_down: Leave,
    /// It answered a probe, and the answer was that it should not serve.
    pub on_demotion: Leave,
    /// It drains.
    pub on_drain: Leave,
    /// It is no longer among the pool's endpoints.
    pub on_removal: Leave,
    /// Endpoints of a better priority serve again.
    pub on_recovery: Leave,
    /// A session without a byte for so long is idle: then a plain close loses nothing.
    pub idle: Duration,
    /// The longest that [`Leave::Deadline`] waits for that.
    pub deadline: Duration,
    /// Sessions that are older are closed once they are idle; `None`: off.
    pub max_age: Option<MaxAge>,
}

/// How old sessions get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxAge {
    /// The age; each session's own is up to `jitter_percent` more or less.
    pub age: Duration,
    /// 0 to 50.
    pub jitter_percent: u32,
    /// The most sessions of the pool that are closed in a minute for their age, 1 to 1,000,000.
    pub per_minute: u32,
}

/// How a session leaves its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// Not at all.
    #[default]
    Keep,
    /// Once it is idle.
    WhenIdle,
    /// Once it is idle, and at the latest when the deadline is over.
    Deadline,
    /// At once.
    Now,
}

impl Default for Shortage {
    fn default() -> Shortage {
        Shortage { no_endpoint: NoEndpoint::Close, queue: Duration::from_secs(5), most_waiting: 1024 }
    }
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            on_down: Leave::Keep,
            on_demotion: Leave::Keep,
            on_drain: Leave::Keep,
            on_removal: Leave::Keep,
            on_recovery: Leave::Keep,
            idle: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
            max_age: None,
        }
    }
}
