//! `switchyard worker --once` as the entry point of a task on ECS: one job of the deployed yard, then the end.

use std::time::Duration;

use serde_json::Value;
use switchyard_aws::environment::{ECS_METADATA, EPOCH, JOB_ID};
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_core::execute::{Holding, Ran, Runs};
use switchyard_core::job::Epoch;
use switchyard_core::ports::Message;
use switchyard_core::settle::YardDesk;
use switchyard_worker::executor::Task;
use switchyard_worker::once;
use tracing::{info, warn};
use ureq::Agent;

use super::deployed::{Deployed, hear_signals};
use crate::args::Worker;
use crate::cloud::{refused, variable};
use crate::exit::Failure;
use crate::local::start_logging;

/// The longest that ECS may take to say which task this is. The agent that answers is on the same host.
const WHO_AM_I: Duration = Duration::from_secs(2);

pub(super) fn run(worker: &Worker) -> Result<u8, Failure> {
    start_logging();
    let message = message()?;
    let task_id = task_id();
    let task = Task::read(&environment(), worker.command.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    runtime.block_on(async {
        let leave = hear_signals()?;
        let deployed = Deployed::open().await?;
        if leave.cause().is_some() {
            // Nothing was claimed: whoever looks after the job launches it again.
            return Ok(0);
        }
        let executor = deployed.executor(None, Some(task), 0);
        let holder = task_id.map_or_else(|| deployed.holder(), |id| deployed.holder_named(&id));
        let (desk, runs) = (YardDesk(deployed.yard.clone()), Runs::default());
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

/// This task's id, by which ECS tells the yard of its end: the claim is made in its name. Without it an end is not told
/// from that of another task of the same run, and the missing beats tell instead.
fn task_id() -> Option<String> {
    let id = asked(&variable(ECS_METADATA).filter(|endpoint| !endpoint.is_empty())?);
    if id.is_none() {
        warn!("ECS does not say which task this is: its end is noticed by missing beats alone");
    }
    id
}

/// What the metadata endpoint answers. Its address is a secret of this container, and so is its answer: neither is logged.
fn asked(endpoint: &str) -> Option<String> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(WHO_AM_I)).build().into();
    let mut answer = agent.get(format!("{endpoint}/task")).call().ok()?;
    let task: Value = answer.body_mut().read_json().ok()?;
    of_arn(task.get("TaskARN")?.as_str()?)
}

/// A task's id: the last part of its ARN (Amazon ECS, "Amazon Resource Names (ARNs) and IDs").
fn of_arn(arn: &str) -> Option<String> {
    let id = arn.strip_prefix("arn:")?.rsplit_once('/')?.1;
    (!id.is_empty()).then(|| id.to_owned())
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one request with this, and gives back its first line.
    fn answering(status: &str, body: &str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v4/0123-45", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let first = lines.next().unwrap();
            lines.find(String::is_empty).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            first
        });
        (endpoint, served)
    }

    #[test]
    fn ecs_is_asked_which_task_this_is() {
        let arn = "arn:aws:ecs:eu-central-1:111122223333:task/yard/0123456789abcdef0123456789abcdef";
        let told = format!(r#"{{"Cluster":"yard","TaskARN":"{arn}","Family":"yard-worker"}}"#);
        for (status, body, expected) in [
            ("200 OK", told.as_str(), Some("0123456789abcdef0123456789abcdef")),
            ("500 Internal Server Error", told.as_str(), None),
            ("200 OK", r#"{"TaskARN":7}"#, None),
            ("200 OK", "{", None),
        ] {
            let (endpoint, served) = answering(status, body);
            assert_eq!(asked(&endpoint).as_deref(), expected, "{status} {body}");
            assert_eq!(served.join().unwrap(), "GET /v4/0123-45/task HTTP/1.1");
        }
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(asked(&format!("http://{nobody}/v4/x")), None);
    }

    #[test]
    fn a_task_is_called_by_the_last_part_of_its_arn() {
        let id = of_arn("arn:aws:ecs:eu-central-1:111122223333:task/yard/0123456789abcdef0123456789abcdef");
        assert_eq!(id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!(
            of_arn("arn:aws:ecs:eu-central-1:111122223333:task/0123").as_deref(),
            Some("0123"),
            "the short form"
        );
        for odd in ["", "0123", "task/0123", "arn:aws:ecs", "arn:aws:ecs:r:1:task/"] {
            assert_eq!(of_arn(odd), None, "{odd}");
        }
    }
}
