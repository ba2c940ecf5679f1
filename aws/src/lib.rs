//! The ports on AWS.

pub mod clients;
pub mod failure;
