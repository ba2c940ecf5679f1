//! The yard's Lambda functions. Each binary opens the yard, serves one kind of invocation, and is nothing else:
//!
//! | function | what invokes it | what it does |
//! |---|---|---|
//! | `http_api` | API Gateway, a load balancer | serves the API's router, and runs inline jobs |
//! | `finding_listener` | EventBridge, SNS, SQS, S3 | makes jobs of findings |
//! | `result_listener` | Kinesis | keeps what runs emitted, and parks what is no record |
//! | `task_listener` | ECS, EC2, `job_runner`'s failures | hears how tasks ended that did not say so themselves |
//! | `job_runner` | the yard, asynchronously | runs one built-in job |
//! | `job_reaper` | a schedule, each minute | looks after what is overdue, and keeps the clock |
//! | `fleet_scaler` | a schedule, each minute; a kick | sizes the pools of workers |
//! | `credential_broker` | whoever runs jobs, and waits | lends credentials to runs |
//!
//! A process serves one invocation at a time and is frozen between two: what an invocation began must have ended when
//! it answers, and what it counted is written then. A panic ends it, for cargo-lambda builds it so: Lambda starts another,
//! the invocation is repeated as its source has it, and whatever the first had claimed is the reaper's to find.

pub mod opened;
pub mod serve;
pub mod callers;
pub mod http;
pub mod doors;
pub mod objects;
pub mod findings;
pub mod tasks;
pub mod parked;
pub mod records;
pub mod runner;
pub mod reaper;
pub mod scaler;
pub mod broker;
