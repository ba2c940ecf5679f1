//! `switchyard worker`: a worker of the deployed yard's fleet, until it is told to leave or has been idle for long enough.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use switchyard_aws::ledger_dynamodb::DynamoLedger;
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_core::execute::BEAT;
use switchyard_core::job::Tier;
use switchyard_core::ports::{Lane, StopSignal, Worker as Listed, Workers};
use switchyard_core::route::PoolName;
use switchyard_core::settle::YardDesk;
use switchyard_worker::fleet::{Fleet, work};
use switchyard_worker::roster::Roster;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::deployed::{Deployed, Told, hear_signals};
use crate::args::Worker;
use crate::cloud::refused;
use crate::containers;
use crate::exit::Failure;
use crate::local::{processors, raise_file_limit, room, start_logging};

/// A worker whose room does not change says so again after this. It is listed for twice as long.
const LISTED_AGAIN: Duration = Duration::from_secs(60);

pub(super) fn run(worker: &Worker) -> Result<u8, Failure> {
    if !worker.command.is_empty() {
        return Err(Failure::BadInput("a command goes with --once: without it the jobs say what runs".to_owned()));
    }
    start_logging();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    runtime.block_on(serve(worker))
}

async fn serve(worker: &Worker) -> Result<u8, Failure> {
    let Told { leave, hurry } = hear_signals()?;
    let engine = containers::engine(&worker.containers)?;
    let deployed = Deployed::open().await?;
    let pool = pool(worker, &deployed)?;
    let room = room(processors(), worker.slots);
    let holder = deployed.holder();
    let roster = Arc::new(Roster::default());
    let ambient = Arc::clone(&deployed.yard.ambient);
    for tier in Tier::ALL {
        // A queue that is not there is told now, and not again and again in the log.
        deployed.home.lanes.depth(&Lane { pool, tier }).await.map_err(refused)?;
    }
    let (ledger, since) = (&deployed.home.ledger, ambient.now());
    let listed = Listed { holder: holder.clone(), pool, capacity: room, free: room, since, leaving: false };
    ledger.enter(&listed).await.map_err(refused)?;
    containers::answers(engine.as_ref()).await;
    let fleet = Fleet {
        lanes: Arc::clone(&deployed.yard.lanes),
        desk: Arc::new(YardDesk(deployed.yard.clone())),
        executor: Arc::new(deployed.executor(engine, None, usize::try_from(room.slots).unwrap_or(usize::MAX))),
        blobs: Arc::clone(&deployed.yard.blobs),
        ambient: Arc::clone(&ambient),
        roster: Arc::clone(&roster),
        holder: holder.clone(),
        pool,
        room,
        idle: worker.idle_seconds.map(Duration::from_secs),
    };
    info!(%holder, %pool, slots = room.slots, "works");
    let mut emf = EmfFlush::new();
    let working = tokio::spawn(work(Arc::new(fleet), leave.clone()));
    tokio::select! {
        ended = working => {
            if ended.is_err() {
                warn!("the worker had panicked");
            }
        }
        never = deployed.keep_up(&mut emf) => match never {},
        never = keep_listed(ledger, &roster, &leave, listed) => match never {},
    }
    if let Err(error) = ledger.leave(&holder).await {
        warn!(%error, "this worker stays listed until its time is over");
    }
    // A poll that nobody waits for any more may have received something yet, which goes back then; else it is hidden for
    // its visibility timeout, and comes back by itself.
    let in_a_hurry = async { if leave.cause().is_none() { leave.raised().await } else { hurry.raised().await } };
    tokio::select! {
        () = deployed.home.lanes.hush() => {}
        _ = in_a_hurry => {}
    }
    deployed.count(&mut emf);
    deployed.tidy();
    info!(%holder, "went home");
    Ok(0)
}

/// The pool that is asked for, else the environment's; one that routing.yaml has.
fn pool(worker: &Worker, deployed: &Deployed) -> Result<PoolName, Failure> {
    let pool = match &worker.pool {
        Some(name) => name.parse().map_err(|error| Failure::BadInput(format!("--pool: {error}")))?,
        None => deployed.deployment.pool,
    };
    let policies = deployed.yard.shelf.policies();
    let pools: Vec<String> = policies.limits.pools.iter().map(|pool| pool.name.to_string()).collect();
    if pools.contains(&pool.to_string()) {
        return Ok(pool);
    }
    Err(Failure::BadInput(format!("the yard has no pool `{pool}`: routing.yaml has {}", pools.join(", "))))
}

/// Says in the yard's list what room this worker has: when that has changed, and from time to time. It never ends by itself.
async fn keep_listed(ledger: &DynamoLedger, roster: &Roster, leave: &StopSignal, mut said: Listed) -> Infallible {
    let mut at = Instant::now();
    let mut leaving = false;
    loop {
        tokio::select! {
            _ = leave.raised(), if !leaving => leaving = true,
            () = sleep(BEAT) => {}
        }
        let now = roster.list().await.unwrap_or_default().into_iter().next();
        let Some(now) = now.map(|worker| Listed { leaving: worker.leaving || leaving, ..worker }) else { continue };
        if now == said && at.elapsed() < LISTED_AGAIN {
            continue;
        }
        match ledger.enter(&now).await {
            Ok(()) => (said, at) = (now, Instant::now()),
            Err(error) => warn!(%error, "what room this worker has is not listed"),
        }
    }
}
