//! How tasks end that do not say so themselves, as ECS, EC2 and Lambda tell of it: late, twice, out of order, or never.
//!
//! Only an end is listened to, and it is told of one task at one epoch. A task that has stopped does not start again, so
//! that neither the order nor the number of its events changes what they say: a RUNNING that comes after its STOPPED is
//! not looked at, and a second STOPPED finds what the first one noted. An event that never comes is made up for by the
//! beats that do not come either.

use serde::Deserialize;
use serde_json::{Value, json};
use switchyard_aws::launcher_ecs::read_started_by;
use switchyard_aws::launcher_function::RunRequest;
use switchyard_core::job::TaskEndCause;
use switchyard_core::ports::{Message, PortError, Yard};
use switchyard_core::settle;
use tracing::{info, warn};

use crate::parked::Parking;

/// What task_listener works with.
pub struct TaskListener {
    /// Whose jobs they run.
    pub yard: Yard,
    /// The table of its records: by it a task knows its yard.
    pub table: String,
    /// Where goes what it cannot read.
    pub parking: Parking,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A task of this yard has ended.
    Ended {
        /// Of which run.
        run: Message,
        /// Its name, as its holder has it.
        instance: String,
        /// By what.
        cause: TaskEndCause,
        /// How.
        how: String,
    },
    /// An instance is about to be taken away.
    Interruption {
        /// Its id.
        instance: String,
    },
    /// Nothing of this yard, or nothing that has ended.
    Nothing(&'static str),
    /// Something else.
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    task_arn: String,
    last_status: String,
    #[serde(default)]
    started_by: Option<String>,
    #[serde(default)]
    stop_code: Option<String>,
    #[serde(default)]
    stopped_reason: Option<String>,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    exit_code: Option<i64>,
    #[serde(default)]
    reason: Option<String>,
}

/// An invocation that Lambda gave up, as it tells a destination ("Configuring destinations").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    request_context: FailedContext,
    request_payload: Value,
    #[serde(default)]
    response_payload: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FailedContext {
    condition: String,
    #[serde(default)]
    request_id: Option<String>,
}

/// Reads what came in.
pub fn hear(event: &Value, table: &str) -> Heard {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    match (text("source"), text("detail-type")) {
        (Some("aws.ecs"), Some("ECS Task State Change")) => match Task::deserialize(&event["detail"]) {
            Ok(task) => of_task(&task, table),
            Err(error) => Heard::Unknown(format!("its task cannot be read: {error}")),
        },
        (Some("aws.ec2"), Some("EC2 Spot Instance Interruption Warning")) => {
            match event.pointer("/detail/instance-id").and_then(Value::as_str) {
                Some(instance) => Heard::Interruption { instance: instance.to_owned() },
                None => Heard::Unknown("it names no instance".to_owned()),
            }
        }
        (None, None) => match Failed::deserialize(event) {
            Ok(failed) => of_invocation(failed),
            Err(error) => Heard::Unknown(format!("neither an event nor a failed invocation: {error}")),
        },
        (source, kind) => Heard::Unknown(format!("`{}` of `{}`", kind.unwrap_or_default(), source.unwrap_or_default())),
    }
}

fn of_task(task: &Task, table: &str) -> Heard {
    let Some((id, epoch)) = task.started_by.as_deref().and_then(|by| read_started_by(by, table)) else {
        return Heard::Nothing("a task of somebody else");
    };
    if task.last_status != "STOPPED" {
        return Heard::Nothing("a task that has not ended");
    }
    let code = task.stop_code.as_deref().unwrap_or_default();
    let killed = |container: &Container| container.reason.as_deref().is_some_and(|why| why.contains("OutOfMemory"));
    let cause = match code {
        // Amazon ECS, "Stopped task error codes".
        "SpotInterruption"
        | "TerminationNotice"
        | "InfrastructureHealth"
        | "ServiceSchedulerInitiated"
        | "UserInitiated" => TaskEndCause::TakenAway,
        _ if task.containers.iter().any(killed) => TaskEndCause::OutOfMemory,
        _ => TaskEndCause::Exited,
    };
    let exits = task.containers.iter().filter_map(|container| {
        let exit = container.exit_code.map(|exit| format!("exit code {exit}"));
        let parts: Vec<String> = exit.into_iter().chain(container.reason.clone()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    });
    let parts = [(!code.is_empty()).then(|| code.to_owned()), task.stopped_reason.clone()].into_iter().flatten();
    let how: Vec<String> = parts.chain(exits).collect();
    Heard::Ended {
        run: Message { id, epoch },
        instance: task.task_arn.rsplit('/').next().unwrap_or_default().to_owned(),
        cause,
        how: format!(
            "its task stopped: {}",
            if how.is_empty() { "no reason given".to_owned() } else { how.join("; ") }
        ),
    }
}

fn of_invocation(failed: Failed) -> Heard {
    let asked = match RunRequest::decode(&failed.request_payload) {
        Ok(asked) => asked,
        Err(error) => return Heard::Unknown(format!("an invocation failed that asked for no run: {error}")),
    };
    let said = failed.response_payload.get("errorMessage").and_then(Value::as_str).unwrap_or("no reason given");
    Heard::Ended {
        run: Message { id: asked.job, epoch: asked.epoch },
        // Without it nobody knows whether this invocation or another one runs the job; then its deadline tells.
        instance: failed.request_context.request_id.unwrap_or_default(),
        cause: TaskEndCause::Exited,
        how: format!("its invocation failed ({}): {said}", failed.request_context.condition),
    }
}

impl TaskListener {
    /// Hears one event.
    ///
    /// # Errors
    ///
    /// The yard could not be reached: Lambda brings the event again.
    pub async fn listen(&self, event: Value) -> Result<Value, PortError> {
        let heard = match hear(&event, &self.table) {
            Heard::Nothing(why) => json!({ "heard": "nothing", "reason": why }),
            Heard::Unknown(why) => {
                self.parking.park("invocation", &why, &event.to_string(), self.yard.ambient.now()).await?;
                json!({ "heard": "unknown", "reason": why })
            }
            Heard::Interruption { instance } => {
                // The worker there reads its own notice, and gives back what it runs. Where it cannot, its next beat tells it.
                let (ours, ordered) = settle::order_all_back(&self.yard, &instance).await?;
                warn!(instance, ours, tasks = ordered, "an instance is about to be taken away");
                json!({ "heard": "interruption", "instance": instance, "ours": ours, "ordered_back": ordered })
            }
            Heard::Ended { run, instance, cause, how } => {
                let changed = settle::task_stopped(&self.yard, run, &instance, cause, &how).await?;
                info!(job.id = %run.id, job.epoch = %run.epoch, changed, reason = how, "a task has ended");
                json!({ "heard": "ended", "job": run.id, "epoch": run.epoch.0, "changed": changed })
            }
        };
        Ok(heard)
    }
}
