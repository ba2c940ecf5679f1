//! Jobs of the venue `function`: an asynchronous invocation each, of the one function that has the built-ins compiled in.
//!
//! Lambda promises neither one delivery nor any, and cannot be asked what became of an invocation. So launching the same
//! (job, epoch) again invokes again, and the claim decides: the second of two finds the job taken, and has cost some
//! milliseconds. Lambda itself retries none of them (the function's event configuration says so): what failed is the
//! yard's to repeat.

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::ports::{LaunchFailed, LaunchFailure, Launcher, PortError, TaskState};
use switchyard_core::route::{Packaging, Venue};

use crate::clients::Clients;
use crate::failure;

/// The version of [`RunRequest`] that this program writes, and the newest it reads.
const VERSION: u32 = 1;

/// What the function is invoked with: which run is asked for. A payload it reads with its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// The job.
    pub job: JobId,
    /// The epoch to claim it at.
    pub epoch: Epoch,
}

/// An invocation that asks for no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARun {
    /// A newer program asks.
    #[error("it is version {0}; this program reads version {VERSION}")]
    Version(u64),
    /// Something else asks.
    #[error("expected {{\"version\":{VERSION},\"job\":ID,\"epoch\":NUMBER}}: {0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    job: String,
    epoch: u32,
}

impl RunRequest {
    /// The invocation's payload.
    pub fn encode(self) -> String {
        let wire = Wire { version: VERSION, job: self.job.to_string(), epoch: self.epoch.0 };
        serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("texts and numbers are always JSON: {error}"))
    }

    /// What [`RunRequest::encode`] wrote. Fields that a newer program added are passed over.
    ///
    /// # Errors
    ///
    /// [`NotARun`].
    pub fn decode(payload: &Value) -> Result<Self, NotARun> {
        if let Some(version) = payload.get("version").and_then(Value::as_u64)
            && version > u64::from(VERSION)
        {
            return Err(NotARun::Version(version));
        }
        let malformed = |error: String| NotARun::Malformed(error);
        let wire = Wire::deserialize(payload).map_err(|error| malformed(error.to_string()))?;
        let job = wire.job.parse().map_err(|error| malformed(format!("job: {error}")))?;
        Ok(Self { job, epoch: Epoch(wire.epoch) })
    }
}

/// Invokes the function. Clones invoke the same one.
#[derive(Clone, Debug)]
pub struct FunctionLauncher {
    client: Client,
    function: String,
}

impl FunctionLauncher {
    /// A launcher of runs in this function, by name or ARN.
    pub fn new(clients: &Clients, function: &str) -> Self {
        Self { client: clients.lambda(), function: function.to_owned() }
    }
}

#[async_trait]
impl Launcher for FunctionLauncher {
    async fn launch(&self, job: &Job) -> Result<(), LaunchFailed> {
        match job.work.needs.packaging {
            Packaging::Builtin => {}
            Packaging::Command | Packaging::TaskImage | Packaging::FunctionImage | Packaging::Image => {
                let message = "this yard's function runs built-ins, and no images or programs".to_owned();
                return Err(LaunchFailed { message, kind: LaunchFailure::Permanent });
            }
        }
        let payload = RunRequest { job: job.id, epoch: job.epoch }.encode();
        let invoke = self.client.invoke().function_name(&self.function).invocation_type(InvocationType::Event);
        match invoke.payload(Blob::new(payload)).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let (cause, retryable) = failure::read(&error);
                let kind = if retryable { LaunchFailure::Passing } else { LaunchFailure::Permanent };
                Err(LaunchFailed { message: format!("function {} is not invoked: {cause}", self.function), kind })
            }
        }
    }

    /// Nobody can tell, and so it is launched again whenever the reaper looks at a job that nobody has claimed.
    async fn find(&self, _: JobId, _: Epoch, _: Venue) -> Result<TaskState, PortError> {
        Ok(TaskState::Absent)
    }

    /// An invocation cannot be ended from outside: it ends by itself, and what it reports then is stale.
    async fn stop(&self, _: JobId, _: Epoch, _: Venue) -> Result<(), PortError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for_is_read_as_it_was_written() {
        let asked = RunRequest { job: JobId::keyed("tests", "function"), epoch: Epoch(7) };
        let mut payload: Value = serde_json::from_str(&asked.encode()).unwrap();
        assert_eq!(RunRequest::decode(&payload), Ok(asked));
        payload["deadline"] = json!("a newer program's");
        assert_eq!(RunRequest::decode(&payload), Ok(asked));
        payload["version"] = json!(2);
        assert_eq!(RunRequest::decode(&payload), Err(NotARun::Version(2)));
    }

    #[test]
    fn what_asks_for_no_run_is_told_what_would() {
        for payload in [
            json!(null),
            json!({}),
            json!([1]),
            json!({ "version": 1 }),
            json!({ "version": 1, "job": "x", "epoch": 1 }),
            json!({ "version": 1, "job": JobId::keyed("a", "b").to_string(), "epoch": -1 }),
            json!({ "version": 1, "job": JobId::keyed("a", "b").to_string(), "epoch": 1.5 }),
        ] {
            let error = RunRequest::decode(&payload).unwrap_err();
            assert!(error.to_string().starts_with(r#"expected {"version":1,"job":ID,"epoch":NUMBER}: "#), "{error}");
        }
    }
}
