//! The ports on AWS.

pub mod clients;
pub mod failure;
pub mod ledger_dynamodb;
pub mod sightings;
