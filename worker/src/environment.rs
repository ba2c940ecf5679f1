//! What every program finds in its environment, whatever it is packaged as.

use std::path::Path;

use switchyard_core::ports::Assignment;

/// The largest payload handed over in the environment. Linux takes 128 KiB for one variable (execve(2)).
pub const ENVIRONMENT_BYTES: usize = 64 * 1024;
/// Where a payload over that lies, in the run's folder.
pub const PAYLOAD_FILE: &str = "payload.json";
/// Where a result is written, in the run's folder.
pub const RESULT_FILE: &str = "result.json";
/// Where records are emitted, one JSON object a line, in the run's folder.
pub const RECORDS_FILE: &str = "records.ndjson";

/// Whether a payload is handed over as a file.
pub fn is_large(payload: &str) -> bool {
    payload.len() > ENVIRONMENT_BYTES
}

/// The variables that say which run this is: SWITCHYARD_JOB_ID and SWITCHYARD_EPOCH, SWITCHYARD_PAYLOAD (or
/// SWITCHYARD_PAYLOAD_URI when it is over [`ENVIRONMENT_BYTES`]), SWITCHYARD_RESULT_PATH, SWITCHYARD_RECORDS_PATH, and
/// SWITCHYARD_DEADLINE (RFC 3339); and TRACEPARENT, the run as a span of its job's trace (W3C Trace Context). `folder` is the run's folder as the program sees it.
pub fn variables(assignment: &Assignment<'_>, folder: &Path) -> Vec<(&'static str, String)> {
    let payload = if is_large(&assignment.payload) {
        ("SWITCHYARD_PAYLOAD_URI", format!("file://{}", folder.join(PAYLOAD_FILE).display()))
    } else {
        ("SWITCHYARD_PAYLOAD", assignment.payload.clone())
    };
    vec![
        ("SWITCHYARD_JOB_ID", assignment.job.id.to_string()),
        ("SWITCHYARD_EPOCH", assignment.job.epoch.to_string()),
        payload,
        ("SWITCHYARD_RESULT_PATH", folder.join(RESULT_FILE).display().to_string()),
        ("SWITCHYARD_RECORDS_PATH", folder.join(RECORDS_FILE).display().to_string()),
        ("SWITCHYARD_DEADLINE", assignment.deadline.to_string()),
        ("TRACEPARENT", assignment.job.trace_id().traceparent(assignment.job.id, assignment.job.epoch)),
    ]
}

/// What the program of a task's job is handed of the task's own environment: the finding that it answers and where its
/// policy lies, where it may put what it made and send word, and the region it is in. Neither the yard's own variables
/// nor the task's credentials: those are the worker's, and a program that must call AWS needs some of its own.
const HANDED_ON: [&str; 8] = [
    "FINDING_PAYLOAD",
    "FINDING_PAYLOAD_URI",
    "POLICY_BUCKET",
    "POLICY_KEY",
    "OUTPUT_BUCKET",
    "NOTIFICATION_QUEUE_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];

/// What a task on demand hands on of its environment to the program of its job: FINDING_PAYLOAD or FINDING_PAYLOAD_URI,
/// POLICY_BUCKET, POLICY_KEY, OUTPUT_BUCKET, NOTIFICATION_QUEUE_URL, AWS_REGION and AWS_DEFAULT_REGION, those of them
/// that are set.
pub fn task_variables(environment: &[(String, String)]) -> Vec<(String, String)> {
    environment.iter().filter(|(name, _)| HANDED_ON.contains(&name.as_str())).cloned().collect()
}

/// What a task's image sets for its program: everything but what the yard (SWITCHYARD_*), ECS (ECS_*) and AWS (AWS_*)
/// set for the worker. A container that an engine runs finds the same of its image.
pub fn image_variables(environment: &[(String, String)]) -> Vec<(String, String)> {
    let of_others = |name: &str| ["SWITCHYARD_", "ECS_", "AWS_"].iter().any(|prefix| name.starts_with(prefix));
    environment.iter().filter(|(name, _)| !of_others(name) && !HANDED_ON.contains(&name.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_s_program_is_handed_its_finding_and_region_and_no_credentials() {
        let set = [
            ("FINDING_PAYLOAD", "{}"),
            ("POLICY_KEY", "policies/custodian/a.yml"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/secret"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("SWITCHYARD_TABLE", "yard"),
            ("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/secret"),
            ("PYTHONPATH", "/opt/custodian"),
        ];
        let set: Vec<_> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let names = |list: Vec<(String, String)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(task_variables(&set)), ["FINDING_PAYLOAD", "POLICY_KEY", "AWS_REGION"]);
        assert_eq!(names(image_variables(&set)), ["PYTHONPATH"]);
    }
}
