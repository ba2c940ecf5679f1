//! The names of everything that a task finds in its environment, in one place. Whoever launches sets them, and what a
//! task's image has as its entry point reads them; task definitions set none of them.
//!
//! A payload is not among them but for a finding's: a worker reads it with its claim, and the record stays the truth.

/// The job to claim.
pub const JOB_ID: &str = "SWITCHYARD_JOB_ID";
/// The epoch to claim it at.
pub const EPOCH: &str = "SWITCHYARD_EPOCH";
/// The table of the yard's records.
pub const TABLE: &str = "SWITCHYARD_TABLE";
/// A finding and the policy that answers it, as JSON: `{"finding": {..}, "policy_key": ".."}`.
pub const FINDING_PAYLOAD: &str = "FINDING_PAYLOAD";
/// Where that JSON lies instead, when it is too long to be handed over: `s3://bucket/key`.
pub const FINDING_PAYLOAD_URI: &str = "FINDING_PAYLOAD_URI";
/// The bucket of the policies.
pub const POLICY_BUCKET: &str = "POLICY_BUCKET";
/// The key of the policy that answers the finding.
pub const POLICY_KEY: &str = "POLICY_KEY";
