//! The ports on AWS.

pub mod clients;
pub mod failure;
pub mod rate;
pub mod environment;
pub mod launcher_ecs;
pub mod fleet_autoscaling;
