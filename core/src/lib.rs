//! x

pub mod finding;
