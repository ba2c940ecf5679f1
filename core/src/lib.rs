//! # The yard, with no I/O
//!
//! A job walks through rooms. Each room is a module; read them in this order.
//!
//! 1. [`intake`]: a submission, a finding or a tick becomes a [`job::Job`], accepted and routed in one durable write.
//! 2. [`route`]: THE decision, taken within that write: every venue is judged, one is chosen.
//! 3. [`dispatch`]: the route is recorded; carry it out: ring a doorbell, launch a task, or run here.
//! 4. [`execute`]: claim -> run -> report, the same for every venue.
//! 5. [`settle`]: a report becomes a final state or the next dispatch; a stale epoch is refused; debts are paid.
//! 6. [`reap`]: the night watch. Whatever is overdue goes through the same rooms again.
//!    [`sweep`] beside it: what runs and is nobody's any more, and what is believed in and is not there.
//! 7. [`shift`]: a worker's day. Which tier it asks next, what it has room for, when it goes home.
//! 8. [`scale`]: how many workers there should be.
//!
//! Between rooms 3 and 4 a job may have to wait: [`brake`] says what holds it, and when it may go on.
//!
//! What a run finds out it emits as [`records`]: judged, and kept or parked, whatever becomes of the job.
//!
//! Beside the rooms, [`lend`] decides what credential a run may borrow, and [`schedule`] says which ticks
//! are due; each goes through [`intake`] like any submission.
//!
//! In a room a short async function loads, calls a pure decision, saves, and acts; the decision is a plain function
//! over values in the same file. The time and random numbers are arguments. `async` marks the wall to the world: the
//! doors in it are the traits of [`ports`], and what is stored or sent has its versioned form in [`wire`].

pub mod job;

pub mod intake;
pub mod route;
pub mod dispatch;
pub mod brake;
pub mod execute;
pub mod settle;
pub mod records;
mod tell;
pub mod reap;
pub mod sweep;
pub mod shift;
pub mod notice;
pub mod scale;
pub mod schedule;
pub mod lend;

pub mod cost;
pub mod catalog;
pub mod metrics;
pub mod observe;
pub mod policies;
pub mod quota;
pub mod why;
pub mod finding;
pub mod mapping;
pub mod ports;
pub mod wire;

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "contract")]
pub mod memory;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_limits;
#[cfg(test)]
mod testing;
