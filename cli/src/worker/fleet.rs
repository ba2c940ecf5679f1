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
use switchyard_worker::credentials::{Vault, seal};
use switchyard_worker::fleet::{Fleet, work};
use switchyard_worker::roster::Roster;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::deployed::{Deployed, hear_signals};
use super::instance::{Instance, stay_fit};
use crate::args::Worker;
use crate::cloud::refused;
use crate::containers;
use crate::exit::{CANNOT_LEAVE, Failure};
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
    let leave = hear_signals()?;
    let engine = containers::engine(&worker.containers)?;
    // Before anything runs: what this process finds in its environment is its own.
    seal();
    let deployed = Deployed::open().await?;
    if let Err(error) = Vault::usual().sweep() {
        warn!(%error, "credentials of earlier runs are left behind");
    }
    let pool = pool(worker, &deployed)?;
    let room = room(processors(), worker.slots);
    let roster = Arc::new(Roster::default());
    let ambient = Arc::clone(&deployed.yard.ambient);
    let instance = match &deployed.deployment.group {
        Some(group) => Some(Instance::here(&deployed.clients, group, Arc::clone(&ambient)).await?),
        None => None,
    };
    // By its id, by which AWS tells of its end.
    let holder = instance.as_ref().map_or_else(|| deployed.holder(), |instance| deployed.holder_named(instance.id()));
    for tier in Tier::ALL {
        // A queue that is not there is told now, and not again and again in the log.
        deployed.home.lanes.depth(&Lane { pool, tier }).await.map_err(refused)?;
    }
    let (ledger, since) = (&deployed.home.ledger, ambient.now());
    let listed = Listed { holder: holder.clone(), pool, capacity: room, free: room, since, leaving: false };
    ledger.enter(&listed).await.map_err(refused)?;
    containers::answers(engine.as_ref()).await;
    let finish = StopSignal::default();
    let fleet = Arc::new(Fleet {
        lanes: Arc::clone(&deployed.yard.lanes),
        desk: Arc::new(YardDesk(deployed.yard.clone())),
        executor: Arc::new(deployed.executor(engine.clone(), None, usize::try_from(room.slots).unwrap_or(usize::MAX))),
        blobs: Arc::clone(&deployed.yard.blobs),
        ambient: Arc::clone(&ambient),
        roster: Arc::clone(&roster),
        holder: holder.clone(),
        pool,
        room,
        idle: idle(worker, &deployed, pool, instance.is_some()),
        finish: finish.clone(),
    });
    info!(%holder, %pool, slots = room.slots, "works");
    let mut emf = EmfFlush::new();
    let watch = async {
        match &instance {
            Some(instance) => tokio::select! {
                never = instance.watch(&finish, &leave) => never,
                never = stay_fit(engine, deployed.scratch(), &finish, &leave) => never,
            },
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = days(&fleet, instance.as_ref(), &leave, ledger, &listed) => {}
        never = deployed.keep_up(&mut emf) => match never {},
        never = keep_listed(ledger, &roster, &leave, listed.clone()) => match never {},
        never = watch => match never {},
    }
    let goes_by_itself = leave.cause().is_none();
    let told = match &instance {
        // Until its machine is gone it is one that leaves, and not one that boots: nobody waits for it.
        Some(_) if !goes_by_itself => ledger.enter(&Listed { leaving: true, ..listed.clone() }).await,
        Some(_) | None => ledger.leave(&holder).await,
    };
    if let Err(error) = told {
        warn!(%error, "this worker stays listed until its time is over");
    }
    // A poll that nobody waits for any more may have received something yet, which goes back then; else it is hidden for
    // its visibility timeout, and comes back by itself.
    let in_a_hurry = async {
        if goes_by_itself {
            leave.raised().await;
        } else {
            leave.hurried().await;
        }
    };
    tokio::select! {
        () = deployed.home.lanes.hush() => {}
        () = in_a_hurry => {}
    }
    deployed.count(&mut emf);
    deployed.tidy();
    // Whoever is told to leave, by its machine, its group or a person, is ended by them: a decrement of its own would be a
    // second one.
    if let Some(instance) = instance.filter(|_| goes_by_itself)
        && instance.terminate().await.is_err()
    {
        return Ok(CANNOT_LEAVE);
    }
    info!(%holder, "went home");
    Ok(0)
}

/// Works day after day until it is told to leave, or is idle and may go: an instance that its group must have stays, and asks
/// again when it was idle for as long once more.
async fn days(
    fleet: &Arc<Fleet>,
    instance: Option<&Instance>,
    leave: &StopSignal,
    ledger: &DynamoLedger,
    listed: &Listed,
) {
    loop {
        if tokio::spawn(work(Arc::clone(fleet), leave.clone())).await.is_err() {
            warn!("the worker had panicked");
            return;
        }
        // One that finishes goes whatever its group must have: another comes in its place.
        let goes = leave.cause().is_some() || fleet.finish.cause().is_some();
        match instance {
            Some(instance) if !goes && !instance.may_leave().await => {
                info!(instance = instance.id(), "idle, and its group must have it: it stays");
            }
            Some(_) if !goes => {
                // From now on nobody who rings takes it for somebody who hears; and whoever rang before is heard.
                let leaving = Listed { leaving: true, ..listed.clone() };
                if let Err(error) = ledger.enter(&leaving).await {
                    warn!(%error, "that this worker leaves is not listed");
                }
                let last = Fleet { idle: Some(Duration::ZERO), ..Fleet::clone(fleet) };
                if tokio::spawn(work(Arc::new(last), leave.clone())).await.is_err() {
                    warn!("the worker had panicked");
                }
                return;
            }
            Some(_) | None => return,
        }
    }
}

/// How long it waits idle before it goes home: as it is told, else as routing.yaml says of its pool where it is an instance
/// of a group, else for ever.
fn idle(worker: &Worker, deployed: &Deployed, pool: PoolName, is_instance: bool) -> Option<Duration> {
    let policies = deployed.yard.shelf.policies();
    let of_pool = || policies.limits.pools.iter().find(|known| known.name == pool).map(|known| known.idle);
    match worker.idle_seconds {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if is_instance => of_pool(),
        None => None,
    }
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
