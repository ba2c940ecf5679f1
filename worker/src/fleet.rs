//! A worker's day: wait for a doorbell, highest tier first; claim, run, report; and so on until told to leave.

use std::sync::Arc;

use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::{Holder, StopCause, Tier};
use switchyard_core::ports::{Ambient, Blobs, Desk, Executor, Lane, Lanes, PortError, Received, StopSignal, describe};
use switchyard_core::route::PoolName;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::system::Vital;

/// A worker: slots for one pool.
pub struct Fleet {
    /// Where doorbells ring.
    pub lanes: Arc<dyn Lanes>,
    /// Where claims and reports go.
    pub desk: Arc<dyn Desk>,
    /// What runs the work.
    pub executor: Arc<dyn Executor>,
    /// Where large payloads lie.
    pub blobs: Arc<dyn Blobs>,
    /// Time and chance.
    pub ambient: Arc<dyn Ambient>,
    /// In whose name.
    pub holder: Holder,
    /// The pool it serves.
    pub pool: PoolName,
    /// How many jobs at once.
    pub slots: usize,
}

/// Works until `leave` is raised, and returns when every run has ended and is reported. What still runs then is told
/// to stop, and goes back.
pub async fn work(fleet: Arc<Fleet>, leave: StopSignal) {
    let _vital = Vital("the worker");
    let slots = Arc::new(Semaphore::new(fleet.slots));
    let runs = Runs::default();
    let heart = tokio::spawn(heart(Arc::clone(&fleet), runs.clone()));
    let mut running = JoinSet::new();
    let mut failures: u32 = 0;
    while leave.cause().is_none() {
        let free = tokio::select! {
            _ = leave.raised() => break,
            permit = Arc::clone(&slots).acquire_owned() => permit,
        };
        let Ok(free) = free else { break };
        let max = 1 + slots.available_permits();
        let received = tokio::select! {
            _ = leave.raised() => break,
            received = receive(&fleet, max) => received,
        };
        while running.try_join_next().is_some() {}
        let received = match received {
            Ok(received) => {
                failures = 0;
                received
            }
            Err(error) => {
                failures += 1;
                warn!(%error, failures, "cannot receive; trying again");
                let pause = switchyard_core::ports::backoff(execute::BEAT / 15, failures, fleet.ambient.chance());
                fleet.ambient.pause(pause).await;
                continue;
            }
        };
        let mut free = Some(free);
        for received in received {
            // Never more than there are slots: `max` counted them.
            let Some(permit) = free.take().or_else(|| Arc::clone(&slots).try_acquire_owned().ok()) else {
                give_back(&fleet, &received).await;
                continue;
            };
            let (fleet, runs) = (Arc::clone(&fleet), runs.clone());
            running.spawn(async move {
                answer(&fleet, &runs, received).await;
                drop(permit);
            });
        }
    }
    runs.stop_all(leave.cause().unwrap_or(StopCause::Drain));
    while running.join_next().await.is_some() {}
    heart.abort();
}

/// Takes up to `max` messages from the highest tier that has any. When all are empty, waits for all three at once:
/// waiting for the highest alone would starve the others.
async fn receive(fleet: &Fleet, max: usize) -> Result<Vec<Received>, PortError> {
    let lane = |tier: Tier| Lane { pool: fleet.pool, tier };
    for tier in Tier::ALL {
        let received = fleet.lanes.receive(&lane(tier), max, false).await?;
        if !received.is_empty() {
            return Ok(received);
        }
    }
    let [first, second, third] = Tier::ALL.map(lane);
    tokio::select! {
        biased;
        received = fleet.lanes.receive(&first, max, true) => received,
        received = fleet.lanes.receive(&second, max, true) => received,
        received = fleet.lanes.receive(&third, max, true) => received,
    }
}

async fn answer(fleet: &Fleet, runs: &Runs, received: Received) {
    let holding = holding(fleet, runs);
    match execute::run(&holding, received.message, None).await {
        Ok(ran) if ran.is_final() => {
            if let Err(error) = fleet.lanes.delete(&received).await {
                // It comes back, and its claim is refused for good.
                debug!(%error, "doorbell not deleted");
            }
        }
        Ok(Ran::Done(_) | Ran::Refused(_)) => {}
        Err(error) => {
            error!(job.id = %received.message.id, error = %describe(&error), "run not reported; the reaper finds out");
            give_back(fleet, &received).await;
        }
    }
}

async fn give_back(fleet: &Fleet, received: &Received) {
    if let Err(error) = fleet.lanes.release(received).await {
        debug!(%error, "doorbell not released; it is visible again after its timeout");
    }
}

fn holding<'a>(fleet: &'a Fleet, runs: &'a Runs) -> Holding<'a> {
    Holding {
        desk: fleet.desk.as_ref(),
        executor: fleet.executor.as_ref(),
        blobs: fleet.blobs.as_ref(),
        ambient: fleet.ambient.as_ref(),
        holder: &fleet.holder,
        runs,
    }
}

/// One beat for all runs, and none while there are none.
async fn heart(fleet: Arc<Fleet>, runs: Runs) {
    let _vital = Vital("the worker's heart");
    let mut counter = 0;
    loop {
        runs.any().await;
        execute::beat_while_running(&holding(&fleet, &runs), &mut counter).await;
    }
}
