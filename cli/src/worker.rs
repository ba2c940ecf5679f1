//! `switchyard worker`: runs jobs, for the yard that is deployed on AWS or as the child of one on this machine.

mod child;
mod deployed;
mod fleet;
mod instance;
mod task;

use crate::args::Worker;
use crate::exit::Failure;

pub(crate) fn run(worker: &Worker) -> Result<u8, Failure> {
    match (&worker.child, worker.once) {
        (Some(child), _) => child::run(child, &worker.containers),
        (None, true) => task::run(worker),
        (None, false) => fleet::run(worker),
    }
}
