//! What an operator edits, as one value: read whole, and swapped whole while the yard runs.

use std::sync::{Arc, PoisonError, RwLock};

use crate::catalog::Catalog;
use crate::observe::Observations;
use crate::ports::Worker;
use crate::route::{Limits, Needs, PoolName};

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What may run.
    pub catalog: Catalog,
    /// What the venues can do, and what they cost.
    pub limits: Limits,
}

/// Where the rules in force lie. Whoever decides takes them once, and decides by those: a reload in the middle of a
/// decision changes nothing of it.
#[derive(Debug, Default)]
pub struct Shelf {
    policies: RwLock<Arc<Policies>>,
    observed: Arc<Observations>,
}

impl Shelf {
    /// A shelf with these rules on it.
    pub fn new(policies: Policies) -> Self {
        Self { policies: RwLock::new(Arc::new(policies)), observed: Arc::default() }
    }

    /// The rules in force now.
    pub fn policies(&self) -> Arc<Policies> {
        // A panic while the lock was held leaves one value or the other.
        Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What runs have shown of their needs, beside what the rules declare.
    pub fn observed(&self) -> &Arc<Observations> {
        &self.observed
    }

    /// Puts other rules into force.
    pub fn replace(&self, policies: Policies) {
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
    }
}

/// What a decision about a job must know besides the job.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// The rules in force.
    pub policies: Arc<Policies>,
    /// Who works.
    pub workers: Vec<Worker>,
    /// What runs have shown of their needs.
    pub observed: Arc<Observations>,
}

impl Situation {
    /// What the venues can do.
    pub fn limits(&self) -> &Limits {
        &self.policies.limits
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

impl From<Limits> for Situation {
    /// No workers, no catalog: these limits alone.
    fn from(limits: Limits) -> Self {
        Self { policies: Arc::new(Policies { limits, ..Policies::default() }), ..Self::default() }
    }
}
