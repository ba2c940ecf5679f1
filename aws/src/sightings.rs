//! Records as this process saw them last. A conditional write may start from one and spare a read: it takes effect only
//! when nobody has written since, and else is answered with the record as it is. Nothing else may rest on them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use switchyard_core::job::{Job, JobId};

/// Records kept at most: some 20 MB of them. A worker needs those of its runs, whoever takes a batch those of the batch.
const MOST: usize = 10_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct Sightings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    jobs: HashMap<JobId, Job>,
    /// In the order in which they were first seen; what was forgotten since is skipped.
    order: VecDeque<JobId>,
}

impl Sightings {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic in between leaves maps that agree well enough: every reader checks.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a record, unless a newer one was seen.
    pub fn note(&self, job: &Job) {
        let mut kept = self.kept();
        if kept.jobs.get(&job.id).is_some_and(|seen| seen.revision >= job.revision) {
            return;
        }
        if kept.jobs.insert(job.id, job.clone()).is_none() {
            kept.order.push_back(job.id);
        }
        while kept.order.len() > MOST {
            if let Some(oldest) = kept.order.pop_front() {
                kept.jobs.remove(&oldest);
            }
        }
    }

    /// The record as it was seen last.
    pub fn seen(&self, id: JobId) -> Option<Job> {
        self.kept().jobs.get(&id).cloned()
    }

    /// Forgets a record: it was refused as old, or its job has ended.
    pub fn forget(&self, id: JobId) {
        self.kept().jobs.remove(&id);
    }
}
