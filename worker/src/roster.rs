//! Who works in this process, as each worker last said.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use switchyard_core::job::Holder;
use switchyard_core::ports::{PortError, Room, Worker, Workers};

/// The workers of this process.
#[derive(Debug, Default)]
pub struct Roster(Mutex<BTreeMap<Holder, Worker>>);

impl Roster {
    /// Notes what a worker says of itself.
    pub fn enter(&self, worker: Worker) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(worker.holder.clone(), worker);
    }

    /// Notes what room a worker has now, and whether it takes anything new.
    pub fn change(&self, holder: &Holder, free: Room, leaving: bool) {
        if let Some(worker) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(holder) {
            (worker.free, worker.leaving) = (free, leaving);
        }
    }

    /// Strikes out a worker that went home.
    pub fn leave(&self, holder: &Holder) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(holder);
    }
}

#[async_trait]
impl Workers for Roster {
    async fn list(&self) -> Result<Vec<Worker>, PortError> {
        // A panic while the lock was held leaves a map without half-done entries.
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect())
    }
}
