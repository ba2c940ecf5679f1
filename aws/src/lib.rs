//! The ports on AWS.

pub mod clients;
pub mod failure;
pub mod lanes_sqs;
pub mod sightings;

#[cfg(test)]
mod testing;
