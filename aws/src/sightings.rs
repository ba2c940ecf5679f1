//! Jobs as this process saw them last. A conditional write needs the record that it changes; what a doorbell brought
//! along, or what was read or written a moment ago, spares reading it first. It may be old: the ledger's condition then
//! refuses the write and answers with the record there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use switchyard_core::job::{Job, JobId};

/// Jobs that are remembered, the longest unseen out first: about 3 KiB each, and more than a worker or a function
/// has under way between two writes to the same job.
pub const SIGHTINGS: usize = 10_000;

/// What was seen of jobs. Shared by whoever sees records and whoever writes them.
#[derive(Debug)]
pub struct Sightings {
    seen: Mutex<Seen>,
    most: usize,
}

#[derive(Debug, Default)]
struct Seen {
    jobs: HashMap<JobId, (u64, Job)>,
    /// By when they were noted, the oldest first.
    order: BTreeMap<u64, JobId>,
    noted: u64,
}

impl Default for Sightings {
    fn default() -> Self {
        Self::of_at_most(SIGHTINGS)
    }
}

impl Sightings {
    /// Room for so many jobs.
    pub fn of_at_most(most: usize) -> Self {
        Self { seen: Mutex::default(), most: most.max(1) }
    }

    fn seen_so_far(&self) -> MutexGuard<'_, Seen> {
        // Whatever panics in between leaves an entry too few at worst, and each is only a hint.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the record, unless a later one was seen.
    pub fn note(&self, job: &Job) {
        let mut seen = self.seen_so_far();
        let seen = &mut *seen;
        seen.noted += 1;
        let noted = seen.noted;
        let (at, known) = seen.jobs.entry(job.id).or_insert_with(|| (noted, job.clone()));
        // What was seen first stays at the same revision: it may be our own, and the other a doorbell's hint.
        if known.revision < job.revision {
            known.clone_from(job);
        }
        seen.order.remove(&std::mem::replace(at, noted));
        seen.order.insert(noted, job.id);
        if seen.order.len() > self.most
            && let Some((_, oldest)) = seen.order.pop_first()
        {
            seen.jobs.remove(&oldest);
        }
    }

    /// The job as it was seen last.
    pub fn seen(&self, id: JobId) -> Option<Job> {
        self.seen_so_far().jobs.get(&id).map(|(_, job)| job.clone())
    }

    /// Forgets the job: it has ended here, or what was seen of it was wrong.
    pub fn forget(&self, id: JobId) {
        let mut seen = self.seen_so_far();
        if let Some((noted, _)) = seen.jobs.remove(&id) {
            seen.order.remove(&noted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_job;

    fn job(n: usize, revision: u64) -> Job {
        Job { revision, ..a_job(&n.to_string()) }
    }

    #[test]
    fn the_later_revision_stays_whichever_comes_first() {
        let sightings = Sightings::default();
        for revision in [2, 3, 1] {
            sightings.note(&job(0, revision));
        }
        assert_eq!(sightings.seen(job(0, 0).id), Some(job(0, 3)));
        sightings.forget(job(0, 0).id);
        assert_eq!(sightings.seen(job(0, 0).id), None);
        sightings.note(&job(0, 1));
        assert_eq!(sightings.seen(job(0, 0).id), Some(job(0, 1)), "what was forgotten is no measure");
    }

    #[test]
    fn the_longest_unseen_makes_room() {
        let sightings = Sightings::of_at_most(3);
        for n in [0, 1, 2, 0, 3] {
            sightings.note(&job(n, 1));
        }
        let known: Vec<usize> = (0..4).filter(|n| sightings.seen(job(*n, 1).id).is_some()).collect();
        assert_eq!(known, [0, 2, 3]);
        sightings.forget(job(2, 1).id);
        sightings.note(&job(4, 1));
        assert!(sightings.seen(job(0, 1).id).is_some(), "what was forgotten takes no room");
    }
}
