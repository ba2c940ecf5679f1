//! The ports on AWS.

pub mod clients;
pub mod failure;
pub mod environment;
pub mod deployment;
pub mod credentials;
pub mod quiet;
pub mod policies_s3;
pub mod rate;
pub mod sightings;
pub mod ledger_dynamodb;
pub mod lanes_sqs;
pub mod launcher_ecs;
pub mod launcher_function;
pub mod launcher_none;
pub mod fleet_autoscaling;
pub mod inventory;
pub mod fleet_scaler;
pub mod kicks_lambda;
pub mod lender_lambda;
pub mod blobs_s3;
pub mod siding_s3;
pub mod conveyor_kinesis;
pub mod logs_cloudwatch;
pub mod herald_eventbridge;
pub mod metrics_emf;
pub mod vault_secrets;
pub mod roles_sts;
pub mod identity_sts;
pub mod home;

#[cfg(test)]
mod testing;
