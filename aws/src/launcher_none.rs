//! The launcher of processes that may launch nothing: tasks, workers and the function that runs jobs have no permission
//! to start others. What they report can lead to a launch all the same, a retry's say: it stays as it is in the record,
//! and the reaper, which may, launches it within a minute of its being due.

use async_trait::async_trait;
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::ports::{LaunchFailed, LaunchFailure, Launcher, PortError, TaskState};
use switchyard_core::route::Venue;

/// Launches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLauncher;

#[async_trait]
impl Launcher for NoLauncher {
    /// Answers that there is no place here, which counts as no try.
    async fn launch(&self, _: &Job) -> Result<(), LaunchFailed> {
        let message = "this process launches nothing: the reaper does".to_owned();
        Err(LaunchFailed { message, kind: LaunchFailure::NoPlace })
    }

    async fn find(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<TaskState, PortError> {
        let why = "this process may not ask for tasks";
        Err(PortError::retryable("find the task of", format!("job {id} at epoch {epoch} ({venue})"), why))
    }

    /// Answers that it is not done, so that it stays owed and the reaper does it.
    async fn stop(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<(), PortError> {
        let why = "this process may not end tasks: the reaper does";
        Err(PortError::retryable("stop the task of", format!("job {id} at epoch {epoch} ({venue})"), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_job;

    #[test]
    fn a_launch_waits_for_the_reaper_and_a_debt_stays() {
        futures_lite::future::block_on(async {
            let job = a_job("tests");
            assert_eq!(NoLauncher.launch(&job).await.unwrap_err().kind, LaunchFailure::NoPlace);
            assert!(NoLauncher.stop(job.id, job.epoch, Venue::Fargate).await.unwrap_err().retryable);
            assert!(NoLauncher.find(job.id, job.epoch, Venue::Fargate).await.unwrap_err().retryable);
        });
    }
}
