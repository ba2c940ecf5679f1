//! Workers as the API shows them.

use serde::{Deserialize, Serialize};

use super::shown;
use crate::job::{Epoch, Holder, Job, JobId, State};
use crate::ports::{Room, Worker};
use crate::route::PoolName;

/// A worker as the API shows it. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerView {
    /// In whose name it claims.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub holder: Holder,
    /// The pool it serves.
    pub pool: PoolName,
    /// What it has in all: jobs at once, thousandths of a processor, MiB of memory.
    pub capacity: Room,
    /// What of that is taken.
    pub used: Room,
    /// Since when it works.
    pub since: String,
    /// Whether it takes nothing new any more.
    pub leaving: bool,
    /// What it runs, the oldest run first.
    pub runs: Vec<RunView>,
}

/// One run of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunView {
    /// The job.
    pub job: JobId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What runs.
    pub capability: String,
    /// Since when.
    pub since: String,
}

impl WorkerView {
    /// The view of a worker whose last beat named these jobs: those that are its to run still.
    pub fn of(worker: &Worker, named: &[Job]) -> Self {
        let run = |job: &Job| match &job.state {
            State::Running(run) if run.holder == worker.holder => Some(RunView {
                job: job.id,
                epoch: job.epoch,
                capability: job.work.capability.clone(),
                since: shown(run.at),
            }),
            State::Running(_)
            | State::Delayed { .. }
            | State::Held { .. }
            | State::Dispatched { .. }
            | State::Settled(_) => None,
        };
        let mut runs: Vec<RunView> = named.iter().filter_map(run).collect();
        runs.sort_by(|a, b| (&a.since, a.job).cmp(&(&b.since, b.job)));
        Self {
            holder: worker.holder.clone(),
            pool: worker.pool,
            capacity: worker.capacity,
            used: worker.capacity.less(worker.free),
            since: shown(worker.since),
            leaving: worker.leaving,
            runs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Venue;
    use crate::testing::{a_job, a_running_job, at};

    #[test]
    fn a_worker_shows_what_is_its_own_and_runs() {
        let running = a_running_job(Venue::Fleet, 1);
        let State::Running(run) = &running.state else { panic!("not running") };
        let capacity = Room { slots: 2, milli_vcpu: 2000, memory_mib: 900 };
        let mut worker = Worker {
            holder: run.holder.clone(),
            pool: PoolName::STANDARD,
            capacity,
            free: capacity.less(Room::of(&running.work.needs)),
            since: at(0),
            leaving: false,
        };
        let named = [a_job(Venue::Fleet), running.clone()];
        let view = WorkerView::of(&worker, &named);
        assert_eq!((view.used, view.runs.len()), (Room::of(&running.work.needs), 1));
        assert_eq!(view.runs[0].job, running.id);
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<WorkerView>(&text).unwrap(), view);
        worker.holder = Holder("another/1".to_owned());
        assert_eq!(WorkerView::of(&worker, &named).runs, []);
    }
}
