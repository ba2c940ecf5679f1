//! `switchyard worker --once` as the entry point of a task on ECS: one job of the deployed yard, then the end.

use switchyard_aws::environment::{EPOCH, JOB_ID};
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_core::execute::{Holding, Ran, Runs};
use switchyard_core::job::Epoch;
use switchyard_core::ports::Message;
use switchyard_core::settle::YardDesk;
use switchyard_worker::executor::Task;
use switchyard_worker::once;
use tracing::info;

use super::deployed::{Deployed, hear_signals};
use crate::args::Worker;
use crate::cloud::{refused, variable};
use crate::exit::Failure;
use crate::local::start_logging;

pub(super) fn run(worker: &Worker) -> Result<u8, Failure> {
    start_logging();
    let message = message()?;
    let task = Task::read(&environment(), worker.command.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    runtime.block_on(async {
        let leave = hear_signals()?.leave;
        let deployed = Deployed::open().await?;
        if leave.cause().is_some() {
            // Nothing was claimed: whoever looks after the job launches it again.
            return Ok(0);
        }
        let executor = deployed.executor(None, Some(task), 0);
        let (desk, holder, runs) = (YardDesk(deployed.yard.clone()), deployed.holder(), Runs::default());
        let holding = Holding {
            desk: &desk,
            executor: &executor,
            blobs: deployed.yard.blobs.as_ref(),
            ambient: deployed.yard.ambient.as_ref(),
            holder: &holder,
            runs: &runs,
        };
        let mut emf = EmfFlush::new();
        let ran = tokio::select! {
            ran = once::run(holding, message, leave, &runs) => ran,
            never = deployed.keep_up(&mut emf) => match never {},
        };
        deployed.count(&mut emf);
        deployed.tidy();
        match ran.map_err(refused)? {
            Ran::Done(reported) => info!(job.id = %message.id, job.epoch = %message.epoch, ?reported, "done"),
            Ran::Refused(refusal) => {
                info!(job.id = %message.id, job.epoch = %message.epoch, ?refusal, "there was nothing to run");
            }
        }
        Ok(0)
    })
}

/// The job that this task was launched for.
fn message() -> Result<Message, Failure> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (Some(id), Some(epoch)) = (set(JOB_ID), set(EPOCH)) else {
        return Err(Failure::BadInput(format!(
            "worker --once: {JOB_ID} and {EPOCH} must say which job to run; whoever launches a task sets them"
        )));
    };
    let id = id.parse().map_err(|error| Failure::BadInput(format!("{JOB_ID}: {error}")))?;
    let epoch = epoch.parse().map_err(|_| Failure::BadInput(format!("{EPOCH}: expected a number, such as 1")))?;
    Ok(Message { id, epoch: Epoch(epoch) })
}

/// Variables that are texts: those that are none are nobody's of the yard.
fn environment() -> Vec<(String, String)> {
    let texts = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(texts).collect()
}
