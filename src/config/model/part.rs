//! Parts of pools. A pool that routes lead to by role is at work once for each role, over the same endpoints and with the
//! same probes; what is made of their answers is each part's own.

use std::sync::Arc;

use super::{Expect, Health, Pool, Probe, Role};

/// Which endpoints of a pool a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The primary.
    Primary,
    /// Its replicas.
    Replica,
    /// Its replicas and, while none of them can serve, the primary.
    ReplicaOrPrimary,
}

impl Part {
    /// What it is called behind the name of the pool.
    pub const fn word(self) -> &'static str {
        match self {
            Part::Primary => "primary",
            Part::Replica => "replica",
            Part::ReplicaOrPrimary => "replica-or-primary",
        }
    }

    /// What an endpoint has to be; `None`: either.
    pub const fn role(self) -> Option<Role> {
        match self {
            Part::Primary => Some(Role::Primary),
            Part::Replica => Some(Role::Replica),
            Part::ReplicaOrPrimary => None,
        }
    }
}

impl Probe {
    /// Whether it finds out what an endpoint is to the others.
    pub(crate) fn tells_role(&self) -> bool {
        match self {
            Probe::Postgres(probe) => probe.login.is_some(),
            Probe::Patroni(_) | Probe::Mysql(_) | Probe::Redis(_) => true,
            Probe::Tcp | Probe::Http(_) | Probe::Script(_) => false,
        }
    }
}

impl Pool {
    /// What an endpoint has to be; `None`: either, or nobody asks.
    pub fn role(&self) -> Option<Role> {
        self.health.as_ref().and_then(|health| health.expect.role)
    }

    /// The part of this pool, which is one as it is written, for which `part` stands.
    pub(crate) fn part(&self, part: Part) -> Pool {
        let own = |health: &Arc<Health>| {
            let expect = Expect { role: part.role(), ..health.expect.clone() };
            Arc::new(Health { expect, ..Health::clone(health) })
        };
        Pool {
            name: format!("{}/{}", self.written, part.word()),
            part: Some(part),
            health: self.health.as_ref().map(own),
            single_writer: self.single_writer && part == Part::Primary,
            ..self.clone()
        }
    }
}
