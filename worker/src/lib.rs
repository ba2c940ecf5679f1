//! Runs jobs: compiled-in functions and commands, in a worker's slots or one at a time.
//!
//! Everything here sees the yard through a [`switchyard_core::ports::Desk`] only, so that the same code runs in the
//! yard's own process, in a child, in a task and on an instance.

pub mod capture;
pub mod command;
pub mod container;
pub mod credentials;
pub mod engine;
pub mod environment;
pub mod executor;
pub mod fleet;
pub mod health;
pub mod metadata;
pub mod network;
pub mod once;
pub mod policies;
pub mod process;
pub mod records;
pub mod result;
pub mod roster;
pub mod scratch;
pub mod tool;
