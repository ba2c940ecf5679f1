//! What is seen of a pool: plain values, from whatever home.

use std::time::Duration;

use crate::job::Tier;
use crate::ports::{Depths, Worker};

/// What a pool's queues hold, about: they count by samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Doorbells that a receive could return now, by tier, highest first.
    pub visible: [u64; 3],
    /// Doorbells that somebody has, by tier.
    pub in_flight: [u64; 3],
    /// What the ledger said, where it was asked.
    pub counted: Option<Counted>,
}

/// Jobs of the fleet that wait for a worker, by the ledger. Of all pools together: its index knows no pools, and a pool has
/// no more of them than its queues show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many, by tier, highest first.
    pub waiting: [u64; 3],
    /// How long the oldest has waited, by tier; `None`: nothing waits, or what is held hides it.
    pub oldest: [Option<Duration>; 3],
}

impl Counted {
    /// What of the ledger's depths matters here. `now` is when they were counted.
    pub fn of(depths: &Depths, now: jiff::Timestamp) -> Self {
        let mut counted = Self::default();
        for depth in &depths.tiers {
            let tier = rank(depth.tier);
            counted.waiting[tier] = depth.waiting;
            let waits = now.duration_since(depth.oldest).unsigned_abs();
            counted.oldest[tier] = (depth.held == 0 && depth.oldest < now).then_some(waits);
        }
        counted
    }
}

/// A tier's place in arrays by tier.
fn rank(tier: Tier) -> usize {
    usize::from(tier.rank())
}

/// A pool's group of instances, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSeen {
    /// The least that it may be.
    pub min: u32,
    /// What it is to be.
    pub desired: u32,
    /// The most that it may be.
    pub max: u32,
    /// Instances that start.
    pub coming: u32,
    /// Instances that run.
    pub in_service: u32,
    /// Instances that somebody has set aside; the desired size does not count them.
    pub aside: u32,
    /// Instances that end; nor these.
    pub leaving: u32,
    /// Of those that run, how many have had no worker for longer than one takes to come: they are no help.
    pub silent: u32,
}

/// Where a worker stands with its pool's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its instance is in the group, and it takes work.
    Stays,
    /// Its instance is in the group, and it takes nothing new any more.
    Leaves,
    /// Its instance is not in the group: it has ended by now, or somebody runs that worker by hand.
    Elsewhere,
}

/// One worker, as far as the size of its pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Jobs that it can run at once.
    pub slots: u32,
    /// Of those, how many it runs or has in hand.
    pub busy: u32,
    /// Where it stands.
    pub standing: Standing,
}

impl WorkerSeen {
    /// A worker as it last said of itself, whose instance the group has, or not.
    pub fn of(worker: &Worker, in_group: bool) -> Self {
        let standing = match (in_group, worker.leaving) {
            (false, _) => Standing::Elsewhere,
            (true, true) => Standing::Leaves,
            (true, false) => Standing::Stays,
        };
        let busy = worker.capacity.slots.saturating_sub(worker.free.slots);
        Self { slots: worker.capacity.slots, busy, standing }
    }
}

/// All that was seen of a pool. What could not be read is `None`, and keeps the size as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How long ago the first of it was read.
    pub age: Duration,
    /// What waits.
    pub backlog: Option<Backlog>,
    /// The group.
    pub group: Option<GroupSeen>,
    /// Who works.
    pub workers: Option<Vec<WorkerSeen>>,
}
