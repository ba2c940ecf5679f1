//! What an answer of RunTask means. ECS says no in two ways, with an exception and with `failures` in an answer of HTTP
//! 200; both end in one of four causes.

use aws_sdk_ecs::error::SdkError;
use aws_sdk_ecs::operation::run_task::{RunTaskError, RunTaskOutput};
use switchyard_core::ports::LaunchFailure;

use crate::failure;

/// What was heard of a call of RunTask.
pub(super) enum Heard {
    /// These tasks are there, or will be.
    Tasks(Vec<String>),
    /// The client token is these tasks' already, and they were started with other parameters: the settings have changed
    /// meanwhile. They will do.
    Conflict(Vec<String>),
    /// There is no task.
    Refused(Cause, String),
    /// There may be one: no answer came, or one that says nothing.
    Nothing(String),
}

/// Why a task was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is no room for it there; elsewhere there may be.
    Capacity,
    /// We call too fast.
    Throttled,
    /// It may work later.
    Passing,
    /// It will fail again until somebody changes something.
    Permanent,
}

impl Cause {
    /// What the yard makes of it.
    pub fn kind(self) -> LaunchFailure {
        match self {
            Self::Capacity | Self::Throttled | Self::Passing => LaunchFailure::Passing,
            Self::Permanent => LaunchFailure::Permanent,
        }
    }
}

/// What ECS says in words only. In lower case; the first that is found counts.
const WORDS: [(&str, Cause); 14] = [
    // "Capacity is unavailable at this time. Please try again later or in a different availability zone".
    ("capacity is unavailable", Cause::Capacity),
    // "You've reached the limit on the number of vCPUs you can run concurrently": on-demand and spot have a quota each.
    ("limit on the number of", Cause::Capacity),
    // The quota of tasks in PROVISIONING is the cluster's: what they run on does not matter.
    ("provisioning", Cause::Passing),
    ("throttl", Cause::Throttled),
    ("rate exceeded", Cause::Throttled),
    ("taskdefinition not found", Cause::Permanent),
    ("task definition not found", Cause::Permanent),
    ("taskdefinition is inactive", Cause::Permanent),
    ("task definition is inactive", Cause::Permanent),
    ("task definition does not", Cause::Permanent),
    ("unable to describe task definition", Cause::Permanent),
    ("no fargate configuration", Cause::Permanent),
    ("invalid 'cpu' setting", Cause::Permanent),
    ("overrides length", Cause::Permanent),
];

fn words(text: &str) -> Option<Cause> {
    let text = text.to_lowercase();
    WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, cause)| *cause)
}

/// What an entry of `failures` means (Amazon ECS, "API failure reasons"). What is not named there is taken to pass: three
/// launches in vain lead to the fleet, and giving a job up for words that nobody foresaw would lose it.
pub fn of_failure(reason: &str) -> Cause {
    match reason {
        // Nothing on which it could be placed, or nothing that answers.
        "AGENT" | "LOCATION" => Cause::Passing,
        // Something that is named in the request is not there, is no longer in use, or can never be met.
        "MISSING" | "INACTIVE" | "ATTRIBUTE" => Cause::Permanent,
        // RESOURCE:CPU, RESOURCE:MEMORY, RESOURCE:ENI, RESOURCE:FARGATE...
        reason if reason.starts_with("RESOURCE:") => Cause::Capacity,
        reason => words(reason).unwrap_or(Cause::Passing),
    }
}

/// What an exception means (RunTask, "Errors", and the errors that all operations have).
pub fn of_error(code: &str, message: &str) -> Cause {
    match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => Cause::Throttled,
        // "These errors are usually caused by a client action": quotas and capacity as well as what nobody can run.
        "ClientException" => words(message).unwrap_or(Cause::Passing),
        code if failure::passes(code, message) => Cause::Passing,
        // InvalidParameterException, AccessDeniedException, ClusterNotFoundException, PlatformUnknownException,
        // PlatformTaskDefinitionIncompatibilityException, UnsupportedFeatureException, BlockedException...
        _ => Cause::Permanent,
    }
}

/// What an answer says.
pub(super) fn heard(output: &RunTaskOutput) -> Heard {
    let arns: Vec<String> = output.tasks().iter().filter_map(|task| task.task_arn().map(str::to_owned)).collect();
    if !arns.is_empty() {
        return Heard::Tasks(arns);
    }
    let Some(failed) = output.failures().first() else {
        let why = "ECS answered with neither a task nor a failure".to_owned();
        return Heard::Refused(Cause::Passing, why);
    };
    let reason = failed.reason().unwrap_or_default();
    let detail = failed.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    Heard::Refused(of_failure(reason), format!("ECS started no task: {reason}{detail}"))
}

/// What a failed call says, once the SDK has tried it as often as it does. The last try's answer counts: were an earlier
/// one's lost, the same client token meets its task.
pub(super) fn heard_error(error: &SdkError<RunTaskError>, cluster: &str) -> Heard {
    if let Some(RunTaskError::ConflictException(conflict)) = error.as_service_error() {
        return Heard::Conflict(conflict.resource_ids().to_vec());
    }
    let (said, _) = failure::read(error);
    let why = format!("cannot start a task in cluster {cluster}: {said}");
    match error {
        SdkError::ServiceError(service) if service.raw().status().is_server_error() => Heard::Nothing(why),
        SdkError::ServiceError(_) => Heard::Refused(of_error(&said.code, &said.message), why),
        SdkError::ConstructionFailure(_) => Heard::Refused(Cause::Permanent, why),
        _ => Heard::Nothing(why),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn every_reason_and_every_exception_is_one_of_four_causes() {
        let mut table = String::new();
        for reason in [
            "RESOURCE:CPU",
            "RESOURCE:MEMORY",
            "RESOURCE:ENI",
            "RESOURCE:FARGATE",
            "AGENT",
            "LOCATION",
            "MISSING",
            "INACTIVE",
            "ATTRIBUTE",
            "Capacity is unavailable at this time. Please try again later or in a different availability zone",
            "You've reached the limit on the number of tasks you can run concurrently",
            "You've reached the limit on the number of vCPUs you can run concurrently",
            "Rate exceeded",
            "",
            "SOMETHING NEW",
        ] {
            let cause = of_failure(reason);
            writeln!(table, "failures[]  {cause:?}/{:?}  <-  {reason}", cause.kind()).unwrap();
        }
        for (code, message) in [
            ("ServerException", "Service Unavailable"),
            ("ThrottlingException", "Rate exceeded"),
            ("ClientException", "The maximum number of tasks in the PROVISIONING state has been reached"),
            ("ClientException", "Capacity is unavailable at this time"),
            ("ClientException", "TaskDefinition not found."),
            ("ClientException", "TaskDefinition is inactive"),
            ("ClientException", "No Fargate configuration exists for given values"),
            ("ClientException", "Container Overrides length must be at most 8192"),
            ("ClientException", "something new"),
            ("InvalidParameterException", "No subnets"),
            ("AccessDeniedException", "not authorized to perform: iam:PassRole"),
            ("ClusterNotFoundException", "Cluster not found."),
            ("PlatformUnknownException", ""),
            ("PlatformTaskDefinitionIncompatibilityException", ""),
            ("UnsupportedFeatureException", ""),
            ("BlockedException", "Your account is currently blocked"),
            ("ExpiredTokenException", "The security token included in the request is expired"),
            ("SomethingNewException", ""),
        ] {
            let cause = of_error(code, message);
            writeln!(table, "{code}  {cause:?}/{:?}  <-  {message}", cause.kind()).unwrap();
        }
        insta::assert_snapshot!(table);
    }
}
