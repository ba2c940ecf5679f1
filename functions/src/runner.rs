//! One job of the venue `function`: claimed, run and reported within one invocation.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard_aws::launcher_function::RunRequest;
use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::Holder;
use switchyard_core::ports::{Message, PortError, Reported};

use crate::opened::Opened;
use crate::serve::Invoked;

/// What is kept of the invocation for the report, however often it has to be sent: the desk is tried for up to 25 s.
const REPORT: Duration = Duration::from_secs(30);

/// An invocation that came to nothing: Lambda tells `task_listener`, and the reaper finds out in any case.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It does not ask for a run.
    #[error("this invocation does not ask for a run: {0}")]
    NotARun(String),
    /// The yard could not be reached.
    #[error("the run of job {id} at epoch {epoch} is not reported", id = run.id, epoch = run.epoch)]
    Desk {
        /// Which run.
        run: Message,
        /// Why.
        #[source]
        cause: PortError,
    },
}

/// Runs the job that the invocation names, and answers what became of it.
///
/// # Errors
///
/// [`RunnerError`].
pub async fn run(opened: &Opened, invocation: Invoked) -> Result<Value, RunnerError> {
    let request = RunRequest::decode(&invocation.event).map_err(|error| RunnerError::NotARun(error.to_string()))?;
    let run = Message { id: request.job, epoch: request.epoch };
    let (desk, executor) = (opened.desk(), opened.executor());
    // By the invocation's own id: whoever hears that it failed knows which run that was.
    let holder = Holder::new(&invocation.id, opened.boot);
    let holding = Holding {
        desk: desk.as_ref(),
        executor: executor.as_ref(),
        blobs: opened.yard.blobs.as_ref(),
        ambient: opened.yard.ambient.as_ref(),
        holder: &holder,
        runs: &Runs::default(),
    };
    let ran = execute::run(&holding, run, Some(invocation.left.saturating_sub(REPORT))).await;
    let became = match ran.map_err(|cause| RunnerError::Desk { run, cause })? {
        Ran::Done(Reported::Recorded) => "recorded",
        Ran::Done(Reported::Stale) => "stale",
        Ran::Refused(_) => "refused",
    };
    Ok(json!({ "job": run.id, "epoch": run.epoch.0, "became": became }))
}
