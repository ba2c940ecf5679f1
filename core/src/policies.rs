//! What an operator edits, as one value: read whole, and swapped whole while the yard runs.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::brake::{Brake, Pauses, brake};
use crate::catalog::Catalog;
use crate::job::Job;
use crate::ports::Worker;
use crate::quota::Quotas;
use crate::route::{Limits, Needs, PoolName};

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What may run.
    pub catalog: Catalog,
    /// What the venues can do, and what they cost.
    pub limits: Limits,
    /// How much each caller may submit.
    pub quotas: Quotas,
    /// How long a job waits in a tier of the fleet before it rises one; `None`: tiers are strict for ever.
    pub ageing: Option<Duration>,
}

/// Where the rules in force lie. Whoever decides takes them once, and decides by those: a reload in the middle of a
/// decision changes nothing of it.
#[derive(Debug, Default)]
pub struct Shelf(RwLock<Arc<Policies>>);

impl Shelf {
    /// A shelf with these rules on it.
    pub fn new(policies: Policies) -> Self {
        Self(RwLock::new(Arc::new(policies)))
    }

    /// The rules in force now.
    pub fn policies(&self) -> Arc<Policies> {
        // A panic while the lock was held leaves one value or the other.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other rules into force.
    pub fn replace(&self, policies: Policies) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
    }
}

/// What a decision about a job must know besides the job.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// The rules in force.
    pub policies: Arc<Policies>,
    /// Who works.
    pub workers: Vec<Worker>,
    /// The pauses in force.
    pub pauses: Arc<Pauses>,
}

impl Situation {
    /// What the venues can do.
    pub fn limits(&self) -> &Limits {
        &self.policies.limits
    }

    /// Whether a capability's jobs need permits.
    pub fn is_limited(&self, capability: &str) -> bool {
        self.policies.catalog.get(capability).is_some_and(|listed| listed.concurrent.is_some())
    }

    /// What keeps this job from starting now.
    pub fn brake(&self, job: &Job) -> Option<Brake<'_>> {
        brake(job, &self.pauses, &self.policies.catalog)
    }

    /// The pools with a worker that has room for such a job now.
    pub fn free(&self, needs: &Needs) -> Vec<PoolName> {
        let mut free: Vec<PoolName> =
            self.workers.iter().filter(|worker| worker.has_room_for(needs)).map(|worker| worker.pool).collect();
        free.sort_unstable();
        free.dedup();
        free
    }
}
