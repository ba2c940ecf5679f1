//! The tiers: an index over dispatched jobs. A doorbell is the commit itself, and a lease lives in the memory of the
//! one process that has the file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::params;
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{Bell, Lane, Lanes, Message, PortError, Received};

use crate::ledger_sqlite::{SqliteLedger, lane_name};

/// How long a received message stays hidden from others: as long as on AWS.
const VISIBILITY: Duration = Duration::from_secs(120);

/// The lanes of a ledger. Clones are the same lanes.
#[derive(Clone)]
pub struct SqliteLanes {
    ledger: SqliteLedger,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Until when a received message is hidden.
    leases: HashMap<Message, Instant>,
    /// Lanes without any job, and how many commits had rung them then.
    empty: HashMap<String, u64>,
}

impl SqliteLanes {
    /// The lanes of `ledger`.
    pub fn new(ledger: SqliteLedger) -> Self {
        Self { ledger, kept: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic in between leaves maps without half-done entries.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The messages that are visible, oldest first, at most `max`; leased at once when `lease`.
    fn look(&self, lane: &Lane, max: usize, lease: bool) -> Result<Vec<Message>, PortError> {
        let sql = "SELECT id, epoch FROM jobs WHERE lane = ?1 ORDER BY rang, id";
        // The claim would refuse them one by one; so the queue of a paused tier costs nothing at all.
        if lease && self.ledger.is_paused(lane.tier) {
            return Ok(Vec::new());
        }
        // Held while reading: two receivers must not find the same message.
        let mut kept = self.kept();
        let name = lane_name(lane);
        // Counted before looking: a commit in between makes the next one look again.
        let rung = self.ledger.bells.rung(&name);
        if kept.empty.get(&name) == Some(&rung) {
            return Ok(Vec::new());
        }
        let Kept { leases, empty } = &mut *kept;
        let now = Instant::now();
        let mut any = false;
        let found = self.ledger.store.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![name])?;
            let mut found = Vec::new();
            while found.len() < max
                && let Some(row) = rows.next()?
            {
                any = true;
                let message = Message { id: JobId::from_bytes(row.get(0)?), epoch: Epoch(row.get(1)?) };
                if leases.get(&message).is_none_or(|until| *until <= now) {
                    found.push(message);
                }
            }
            Ok(found)
        });
        let found = found.map_err(|error| error.at("receive from", &name))?;
        if !any && max > 0 {
            empty.insert(name, rung);
        }
        if lease {
            leases.extend(found.iter().map(|message| (*message, now + VISIBILITY)));
        }
        Ok(found)
    }
}

#[async_trait]
impl Lanes for SqliteLanes {
    async fn ring(&self, bells: &[Bell<'_>]) -> Vec<(Message, PortError)> {
        let mut kept = self.kept();
        for bell in bells {
            // The record is there; whoever held a lease on it and let it lie has had its time.
            kept.leases.remove(&bell.message());
        }
        drop(kept);
        self.ledger.bells.lanes.notify_waiters();
        Vec::new()
    }

    async fn receive(&self, lane: &Lane, max: usize, wait: bool) -> Result<Vec<Received>, PortError> {
        loop {
            let rung = self.ledger.bells.lanes.notified();
            tokio::pin!(rung);
            // Listening before looking: a doorbell in between is not missed.
            rung.as_mut().enable();
            let found = if max == 0 { Vec::new() } else { self.look(lane, max, true)? };
            if !found.is_empty() || !wait {
                let received = |message| Received { message, lane: *lane, receipt: String::new() };
                return Ok(found.into_iter().map(received).collect());
            }
            rung.await;
        }
    }

    async fn delete(&self, received: &Received) -> Result<(), PortError> {
        self.kept().leases.remove(&received.message);
        Ok(())
    }

    async fn release(&self, received: &Received) -> Result<(), PortError> {
        self.kept().leases.remove(&received.message);
        self.ledger.bells.lanes.notify_waiters();
        Ok(())
    }

    async fn visible(&self, lane: &Lane) -> Result<u64, PortError> {
        // The reaper asks whether there are any: counting a long queue would cost more than it tells.
        Ok(self.look(lane, 1000, false)?.len() as u64)
    }
}
