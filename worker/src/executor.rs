//! The executor of one machine: a job's capability says whether a built-in, a command or a container runs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use switchyard_core::catalog::{Capability, ImageKind, Program};
use switchyard_core::job::Nonce;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ambient, Assignment, Executor, LogSink, Outcome};

use crate::credentials::{Handed, Lent, Reader, Vault};
use crate::engine::Engine;
use crate::environment::{image_variables, task_variables};
use crate::scratch::Scratch;
use crate::{command, container};
use switchyard_builtins::builtin::{self, failed, looked_up};

/// The longest that a program in a task has between SIGTERM and SIGKILL: ECS ends a task 30 s after it told it to leave
/// (`stopTimeout`, its default), and the run must be given back before that.
const TASK_GRACE: Duration = Duration::from_secs(20);

/// What a task on demand is to what it runs. Its container is the image of the job's capability, with the worker as entry
/// point: there is no engine in it, and none is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// What a program finds in its environment of the task's: see [`task_variables`].
    pub handed_on: Vec<(String, String)>,
    /// What it finds besides where it is the image's own: see [`image_variables`].
    pub of_image: Vec<(String, String)>,
    /// The command that the image has for itself: what runs where the capability has no `args`.
    pub command: Vec<String>,
}

impl Task {
    /// The task that finds these variables in its environment, and whose image has this command.
    pub fn read(environment: &[(String, String)], command: Vec<String>) -> Self {
        Self { handed_on: task_variables(environment), of_image: image_variables(environment), command }
    }
}

/// Runs built-ins in this process, commands as processes of their own, and images where there is an engine.
pub struct LocalExecutor {
    /// The rules in force.
    pub shelf: Arc<Shelf>,
    /// Where the runs' folders come from.
    pub scratch: Scratch,
    /// Where what runs borrow is kept.
    pub vault: Vault,
    /// The yard's id: the first part of every process's mark.
    pub yard: String,
    /// This start of the yard, for the labels of containers.
    pub boot: Nonce,
    /// The container engine, where one is used.
    pub engine: Option<Engine>,
    /// The task on demand that this process is; `None`: it is none, and task images are run as any others are.
    pub task: Option<Task>,
    /// Time.
    pub ambient: Arc<dyn Ambient>,
}

#[async_trait]
impl Executor for LocalExecutor {
    async fn run(&self, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome {
        let policies = self.shelf.policies();
        let (capability, payload) = match looked_up(&policies, assignment) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        if capability.borrows.is_empty() {
            return self.start(&policies, capability, &payload, assignment, &Handed::default(), log).await;
        }
        let reader = match &capability.run {
            Program::Image { kind, .. } if *kind != ImageKind::Task || self.task.is_none() => Reader::Container,
            Program::Image { .. } | Program::Command { .. } | Program::Builtin { .. } => Reader::Process,
        };
        let wanted = match capability.loans(&payload) {
            Ok(wanted) => wanted,
            Err(error) => return failed("invalid_payload", error.to_string(), true),
        };
        let ambient = self.ambient.as_ref();
        let lent = match Lent::take(&self.vault, wanted, reader, assignment, ambient, log).await {
            Ok(lent) => lent,
            Err(outcome) => return outcome,
        };
        let running = self.start(&policies, capability, &payload, assignment, lent.handed(), log);
        let outcome = lent.during(running).await;
        lent.end().await;
        outcome
    }
}

impl LocalExecutor {
    /// Runs a capability with what its program is handed.
    async fn start(
        &self,
        policies: &Policies,
        capability: &Capability,
        payload: &Value,
        assignment: &Assignment<'_>,
        handed: &Handed,
        log: &dyn LogSink,
    ) -> Outcome {
        let name = &capability.name;
        match &capability.run {
            Program::Builtin { name, settings } => {
                builtin::run_assigned(name, settings, payload, policies, assignment, self.ambient.as_ref()).await
            }
            Program::Image { kind: ImageKind::Task, reference, .. } if let Some(task) = &self.task => {
                let args = match capability.arguments(payload) {
                    Ok(args) => args,
                    Err(error) => return failed("invalid_payload", error.to_string(), true),
                };
                let words = if args.is_empty() { task.command.clone() } else { args };
                let Some((program, args)) = words.split_first() else {
                    let message =
                        format!("neither capability `{name}` nor its image {reference} says what runs: give it `args`");
                    return failed("no_command", message, true);
                };
                let variables = [task.of_image.as_slice(), &task.handed_on, &handed.variables].concat();
                self.command(capability, program, args.to_vec(), &variables, assignment, log).await
            }
            Program::Image { kind, reference, container, .. } => {
                let Some(engine) = &self.engine else {
                    // Taken while there was one, by a yard that was started without it since.
                    let message =
                        format!("no container engine is used here to run {reference}: start the yard with one");
                    return failed("no_engine", message, true);
                };
                let args = match capability.arguments(payload) {
                    Ok(args) => args,
                    Err(error) => return failed("invalid_payload", error.to_string(), true),
                };
                let run = container::Container {
                    engine,
                    image: reference,
                    kind: *kind,
                    args,
                    handed,
                    grant: container,
                    grace: capability.grace,
                    permanent_exits: &capability.retry.permanent_exits,
                    yard: &self.yard,
                    boot: self.boot,
                    ambient: self.ambient.as_ref(),
                };
                container::run(&run, assignment, log).await
            }
            Program::Command { program, .. } => match capability.arguments(payload) {
                Ok(args) => {
                    let of_task = self.task.as_ref().map_or(&[][..], |task| &task.handed_on);
                    let variables = [of_task, &handed.variables].concat();
                    self.command(capability, program, args, &variables, assignment, log).await
                }
                Err(error) => failed("invalid_payload", error.to_string(), true),
            },
        }
    }

    async fn command(
        &self,
        capability: &Capability,
        program: &str,
        args: Vec<String>,
        variables: &[(String, String)],
        assignment: &Assignment<'_>,
        log: &dyn LogSink,
    ) -> Outcome {
        let run = command::Command {
            program,
            args,
            variables,
            grace: if self.task.is_some() { capability.grace.min(TASK_GRACE) } else { capability.grace },
            permanent_exits: &capability.retry.permanent_exits,
            scratch: &self.scratch,
            yard: &self.yard,
            ambient: self.ambient.as_ref(),
        };
        command::run(&run, assignment, log).await
    }
}
