//! The names of everything that the processes of a deployed yard find in their environment, in one place: functions,
//! tasks and workers. `template.yaml` sets them, a launch adds those of its job, and [`crate::deployment`] reads them.
//!
//! A payload is not among them but for a finding's: a worker reads it with its claim, and the record stays the truth.
//! Nor is a secret: the credentials of a function are Lambda's own to set, and all others are asked for.

/// The table of the yard's records.
pub const TABLE: &str = "SWITCHYARD_TABLE";
/// What the names of its queues begin with.
pub const QUEUES: &str = "SWITCHYARD_QUEUES";
/// The bucket of large payloads and results, and of what could not be read and is parked.
pub const BUCKET: &str = "SWITCHYARD_BUCKET";
/// The log group that runs print to.
pub const LOG_GROUP: &str = "SWITCHYARD_LOG_GROUP";
/// The event bus that settlements are announced on.
pub const BUS: &str = "SWITCHYARD_BUS";
/// Days a settled job, and so its idempotency key, is kept; 7 where it is not set.
pub const RETENTION_DAYS: &str = "SWITCHYARD_RETENTION_DAYS";
/// The function that runs jobs of the venue `function`, by name or ARN. Not set: this process launches none.
pub const JOB_RUNNER: &str = "SWITCHYARD_JOB_RUNNER";
/// The memory that function has, in MiB: no job that needs more is sent to it, whatever routing.yaml says.
pub const JOB_RUNNER_MEMORY_MIB: &str = "SWITCHYARD_JOB_RUNNER_MEMORY_MIB";
/// The function that sizes pools, by name or ARN: a bell that rings where nobody works kicks it. Not set: this process
/// kicks nobody, and the minute's look does it.
pub const FLEET_SCALER: &str = "SWITCHYARD_FLEET_SCALER";
/// The function that lends credentials, by name or ARN. Not set: what this process runs is lent none.
pub const BROKER: &str = "SWITCHYARD_BROKER";
/// What the names of secrets begin with that the broker reads: `PREFIX/NAME` in Secrets Manager, `/PREFIX/NAME` in Parameter
/// Store.
pub const VAULT: &str = "SWITCHYARD_VAULT";
/// The stream that carries what runs emit, by name. Not set: it is kept by whoever runs the job.
pub const RECORD_STREAM: &str = "SWITCHYARD_RECORD_STREAM";
/// In front of a capability's name: the family of the task definition of its task image.
pub const TASK_PREFIX: &str = "SWITCHYARD_TASK_PREFIX";
/// `true`: tasks get a public address, which they need in a subnet whose way out is an internet gateway.
pub const TASK_PUBLIC_ADDRESS: &str = "SWITCHYARD_TASK_PUBLIC_ADDRESS";
/// `true`: jobs that bear being interrupted are started on Fargate Spot first.
pub const TASK_SPOT: &str = "SWITCHYARD_TASK_SPOT";
/// Who is an operator: globs over callers' names, by commas, such as `role/admin-*,user/ana`. Not set: nobody.
pub const OPERATORS: &str = "SWITCHYARD_OPERATORS";
/// Who is a submitter: globs as in [`OPERATORS`]. Whoever is neither is a viewer.
pub const SUBMITTERS: &str = "SWITCHYARD_SUBMITTERS";
/// The pool that a worker serves.
pub const POOL: &str = "SWITCHYARD_POOL";
/// What the names of the pools' Auto Scaling groups begin with: `PREFIX-POOL`. Not set: this process knows of no group.
pub const GROUPS: &str = "SWITCHYARD_GROUPS";
/// The Auto Scaling group that a worker's instance is of. Not set: it is of none, and leaves by ending.
pub const GROUP: &str = "SWITCHYARD_GROUP";

/// The cluster that tasks are launched in. Not set: this process launches none.
pub const ECS_CLUSTER: &str = "ECS_CLUSTER";
/// The task definition that runs built-ins and commands: the worker alone.
pub const ECS_TASK_DEFINITION: &str = "ECS_TASK_DEFINITION";
/// The subnets that tasks are put into, by commas.
pub const ECS_SUBNETS: &str = "ECS_SUBNETS";
/// The security groups of tasks, by commas.
pub const ECS_SECURITY_GROUP: &str = "ECS_SECURITY_GROUP";

/// The bucket of the yard's policies: `policies.json` is all of them in one object, and below [`POLICY_PREFIX`] lie those
/// that a task reads by itself. A task that answers a finding is told it with its launch, too.
pub const POLICY_BUCKET: &str = "POLICY_BUCKET";
/// In front of a policy's path in the policies folder, in the policies' bucket.
pub const POLICY_PREFIX: &str = "policies/";

/// The job to claim: set by a launch.
pub const JOB_ID: &str = "SWITCHYARD_JOB_ID";
/// The epoch to claim it at: set by a launch.
pub const EPOCH: &str = "SWITCHYARD_EPOCH";
/// A finding and the policy that answers it, as JSON: `{"finding": {..}, "policy_key": ".."}`. Set by a launch.
pub const FINDING_PAYLOAD: &str = "FINDING_PAYLOAD";
/// Where that JSON lies instead, when it is too long to be handed over: `s3://bucket/key`. Set by a launch.
pub const FINDING_PAYLOAD_URI: &str = "FINDING_PAYLOAD_URI";
/// The key of the policy that answers the finding: set by a launch.
pub const POLICY_KEY: &str = "POLICY_KEY";

/// Where a task asks who it is, as ECS sets it (Amazon ECS, "Task metadata endpoint version 4"). It is nobody else's.
pub const ECS_METADATA: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// Where the metadata service of an EC2 instance answers instead of at its link-local address (AWS SDKs and Tools Reference
/// Guide, "IMDS credential provider").
pub const IMDS_ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// The region, as Lambda and ECS set it.
pub const REGION: &str = "AWS_REGION";
/// Where all of AWS's services answer instead, such as an emulator. With a service's name behind it,
/// `AWS_ENDPOINT_URL_SQS` say, where that one does (AWS SDKs and Tools Reference Guide, "Service-specific endpoints").
pub const ENDPOINT_URL: &str = "AWS_ENDPOINT_URL";
/// A file of certificates, as PEM, that are trusted instead of the system's (AWS SDKs and Tools Reference Guide, "General
/// configuration settings"). A function's own file has Amazon's alone: a system's 145 take a third of the time until a
/// first request is signed. In a function its path may begin at [`TASK_ROOT`].
pub const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// The folder of a function's code, as Lambda sets it ("Defined runtime environment variables").
pub const TASK_ROOT: &str = "LAMBDA_TASK_ROOT";
