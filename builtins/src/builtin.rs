//! The functions compiled into Switchyard, by the name a catalog uses for them.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use switchyard_core::catalog::{Builtin, Capability, Program, no_settings};
use switchyard_core::finding::triage;
use switchyard_core::job::{Failure, StopCause};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ambient, Assignment, Executor, LogSink, Outcome, describe};

use crate::http_check;

/// Every built-in there is: what `run: { builtin: … }` may name.
pub const ALL: &[Builtin] = &[
    Builtin { name: "finding-triage", check: no_settings },
    Builtin { name: "http-check", check: http_check::check_settings },
];

/// What a built-in is given.
pub struct Call<'a> {
    /// The job's payload.
    pub payload: &'a Value,
    /// What the catalog sets for it, which its check has found good.
    pub settings: &'a Value,
    /// The rules in force when it started.
    pub policies: &'a Policies,
    /// When it started.
    pub now: Timestamp,
}

/// Runs built-ins and nothing else: the executor of a function, which has no room of its own for programs and images, and
/// carries nothing for them.
pub struct BuiltinExecutor {
    /// The rules in force.
    pub shelf: Arc<Shelf>,
    /// Time.
    pub ambient: Arc<dyn Ambient>,
}

#[async_trait]
impl Executor for BuiltinExecutor {
    async fn run(&self, assignment: &Assignment<'_>, _log: &dyn LogSink) -> Outcome {
        let policies = self.shelf.policies();
        let (capability, payload) = match looked_up(&policies, assignment) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        match &capability.run {
            Program::Builtin { name, settings } => {
                run_assigned(name, settings, &payload, &policies, assignment, self.ambient.as_ref()).await
            }
            // Taken while it was a built-in: the catalog says otherwise since.
            Program::Command { .. } | Program::Image { .. } => {
                let message = format!("`{}` is no built-in any more, and only those run here", capability.name);
                failed("not_a_builtin", message, false)
            }
        }
    }
}

/// What an assignment runs, and on what.
pub fn looked_up<'a>(policies: &'a Policies, assignment: &Assignment<'_>) -> Result<(&'a Capability, Value), Outcome> {
    let name = &assignment.job.work.capability;
    let Some(capability) = policies.catalog.get(name) else {
        let message = format!("the catalog has no capability `{name}` any more: put it back and retry the job");
        return Err(failed("unknown_capability", message, false));
    };
    match serde_json::from_str(&assignment.payload) {
        Ok(payload) => Ok((capability, payload)),
        Err(error) => Err(failed("payload_not_json", error.to_string(), true)),
    }
}

/// Runs a built-in to its end, within the assignment's deadline.
pub async fn run_assigned(
    name: &str,
    settings: &Value,
    payload: &Value,
    policies: &Policies,
    assignment: &Assignment<'_>,
    ambient: &dyn Ambient,
) -> Outcome {
    let call = Call { payload, settings, policies, now: ambient.now() };
    let left = assignment.deadline.duration_since(ambient.now());
    tokio::select! {
        biased;
        cause = assignment.stop.raised() => match cause {
            StopCause::Deadline => Outcome::TimedOut,
            StopCause::Cancel | StopCause::Stale | StopCause::Drain => Outcome::Stopped(cause),
        },
        ran = run(name, &call) => match ran {
            Ok(result) => Outcome::Succeeded(Some(result.to_string())),
            Err(BuiltinFailed { failure, permanent }) => Outcome::Failed { failure, permanent },
        },
        () = tokio::time::sleep(left.try_into().unwrap_or_default()) => Outcome::TimedOut,
    }
}

/// A run that came to nothing, and whether another attempt cannot help.
pub fn failed(code: &str, message: String, permanent: bool) -> Outcome {
    Outcome::Failed { failure: Failure::new(code, message), permanent }
}

/// How a built-in failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltinFailed {
    /// Why.
    pub failure: Failure,
    /// Whether another attempt cannot help.
    pub permanent: bool,
}

/// Runs a built-in. Dropped before it has ended, it leaves nothing running: that is how its deadline and a request to
/// stop end it.
///
/// # Errors
///
/// The [`Failure`] of the run, and whether another attempt can help.
pub async fn run(name: &str, call: &Call<'_>) -> Result<Value, BuiltinFailed> {
    let permanent = |failure| BuiltinFailed { failure, permanent: true };
    match name {
        "finding-triage" => triage::run(call.payload, &call.policies.mappings)
            .map_err(|error| permanent(Failure::new("invalid_finding", describe(&error)))),
        "http-check" => http_check::run(call.payload, call.settings, call.now).await,
        other => Err(permanent(Failure::new("unknown_builtin", format!("this program has no built-in `{other}`")))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn run_on(name: &str, payload: &Value) -> Result<Value, BuiltinFailed> {
        let (settings, policies) = (json!({}), Policies::default());
        run(name, &Call { payload, settings: &settings, policies: &policies, now: Timestamp::UNIX_EPOCH }).await
    }

    #[tokio::test]
    async fn every_listed_builtin_is_there() {
        for Builtin { name, .. } in ALL {
            let outcome = run_on(name, &json!({})).await;
            assert!(outcome.is_err_and(|failed| failed.failure.code != "unknown_builtin"), "{name}");
        }
        assert!(run_on("nothing", &json!({})).await.is_err_and(|failed| failed.failure.code == "unknown_builtin"));
    }

    #[tokio::test]
    async fn a_finding_is_triaged() {
        let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
        let triage = run_on("finding-triage", &json!({ "event": event })).await.unwrap();
        assert_eq!(triage["triages"].as_array().map(Vec::len), Some(1), "{triage}");
    }
}
