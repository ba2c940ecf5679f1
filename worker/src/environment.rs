//! What every program finds in its environment, whatever it is packaged as.

use std::path::Path;

use switchyard_core::ports::Assignment;

/// The largest payload handed over in the environment. Linux takes 128 KiB for one variable (execve(2)).
pub const ENVIRONMENT_BYTES: usize = 64 * 1024;
/// Where a payload over that lies, in the run's folder.
pub const PAYLOAD_FILE: &str = "payload.json";
/// Where a result is written, in the run's folder.
pub const RESULT_FILE: &str = "result.json";

/// Whether a payload is handed over as a file.
pub fn is_large(payload: &str) -> bool {
    payload.len() > ENVIRONMENT_BYTES
}

/// The variables that say which run this is: SWITCHYARD_JOB_ID and SWITCHYARD_EPOCH, SWITCHYARD_PAYLOAD (or
/// SWITCHYARD_PAYLOAD_URI when it is over [`ENVIRONMENT_BYTES`]), SWITCHYARD_RESULT_PATH, and SWITCHYARD_DEADLINE (RFC
/// 3339); and TRACEPARENT, the run as a span of its job's trace (W3C Trace Context). `folder` is the run's folder as the program sees it.
pub fn variables(assignment: &Assignment, folder: &Path) -> Vec<(&'static str, String)> {
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
        ("SWITCHYARD_DEADLINE", assignment.deadline.to_string()),
        ("TRACEPARENT", assignment.job.trace_id().traceparent(assignment.job.id, assignment.job.epoch)),
    ]
}
