//! A worker at work: does what its [`Shift`] says. Wait for a doorbell, highest tier first; claim, run, report; and so
//! on until told to leave, or until nothing has come for long enough.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use switchyard_core::execute::{self, Holding, Ran, Runs, Taken};
use switchyard_core::job::{Holder, StopCause, Tier};
use switchyard_core::ports::{
    Ambient, Blobs, Desk, Executor, Lane, Lanes, Message, PortError, Received, Refusal, Room, StopSignal, Worker,
    backoff, describe,
};
use switchyard_core::route::PoolName;
use switchyard_core::shift::{Act, Back, Next, Shift, Start};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::roster::Roster;
use switchyard_builtins::system::Vital;

/// How long a job that is larger than this worker is kept from it. Released at once it would be back at once; a worker
/// that it fits waits no longer for it than a boot takes anyway.
const DECLINED: Duration = Duration::from_secs(10);

/// A worker: room in one pool.
#[derive(Clone)]
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
    /// Where it says what room it has.
    pub roster: Arc<Roster>,
    /// In whose name.
    pub holder: Holder,
    /// The pool it serves.
    pub pool: PoolName,
    /// How many jobs at once, and how much of them.
    pub room: Room,
    /// How long it waits idle before it goes home; `None`: it stays until it is told to leave.
    pub idle: Option<Duration>,
    /// Raised when it is to take nothing new, and to go home when what runs has ended.
    pub finish: StopSignal,
}

/// Works until `leave` is raised or it goes home, and returns when every run has ended and is reported. What still
/// runs when it is told to leave is told to stop, and goes back; once that is hurried, it is killed first.
pub async fn work(fleet: Arc<Fleet>, leave: StopSignal) {
    let _vital = Vital("the worker");
    let shift = Mutex::new(Shift::new(fleet.room));
    fleet.roster.enter(Worker {
        holder: fleet.holder.clone(),
        pool: fleet.pool,
        capacity: fleet.room,
        free: fleet.room,
        since: fleet.ambient.now(),
        leaving: false,
    });
    let duty = Arc::new(Duty { fleet, shift, changed: Notify::new(), runs: Runs::default(), leave });
    let heart = tokio::spawn(heart(Arc::clone(&duty)));
    let last_call = tokio::spawn(last_call(Arc::clone(&duty)));
    let recalled = tokio::spawn(recalled(Arc::clone(&duty)));
    day(&duty).await;
    for task in [heart, last_call, recalled] {
        task.abort();
    }
    duty.fleet.roster.leave(&duty.fleet.holder);
}

/// What the worker's loop and its runs share.
struct Duty {
    fleet: Arc<Fleet>,
    shift: Mutex<Shift>,
    /// Room came back that somebody waits for.
    changed: Notify,
    runs: Runs,
    leave: StopSignal,
}

impl Duty {
    fn shift(&self) -> std::sync::MutexGuard<'_, Shift> {
        // Every change of a shift is made whole before anything in it can panic.
        self.shift.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the shift, and says so in the roster.
    fn tell<T>(&self, change: impl FnOnce(&mut Shift) -> T) -> T {
        let mut shift = self.shift();
        let told = change(&mut shift);
        self.fleet.roster.change(&self.fleet.holder, shift.free(), shift.is_leaving());
        told
    }

    /// Changes the shift, and wakes the loop when it has to look again.
    fn give(&self, change: impl FnOnce(&mut Shift) -> bool) {
        if self.tell(change) {
            self.changed.notify_one();
        }
    }

    /// Tells that a start came to nothing. Answers whether it was in hand.
    fn lost(&self, start: &Start) -> bool {
        let was_in_hand = self.tell(|shift| shift.lost(start));
        if was_in_hand {
            self.changed.notify_one();
        }
        was_in_hand
    }

    fn lane(&self, tier: Tier) -> Lane {
        Lane { pool: self.fleet.pool, tier }
    }

    fn holding(&self) -> Holding<'_> {
        let Fleet { desk, executor, blobs, ambient, holder, .. } = self.fleet.as_ref();
        Holding {
            desk: desk.as_ref(),
            executor: executor.as_ref(),
            blobs: blobs.as_ref(),
            ambient: ambient.as_ref(),
            holder,
            runs: &self.runs,
        }
    }
}

/// Leaves when one run is ordered back: the yard has heard that this machine is to be taken away, whatever the machine says.
async fn recalled(duty: Arc<Duty>) {
    duty.runs.ordered_back().await;
    warn!(holder = %duty.fleet.holder, "a run is ordered back: this worker leaves");
    duty.leave.raise(StopCause::Drain);
}

/// Leaves what runs no time once there is none.
async fn last_call(duty: Arc<Duty>) {
    duty.leave.hurried().await;
    duty.runs.hurry_all();
}

async fn day(duty: &Arc<Duty>) {
    let mut running = JoinSet::new();
    let mut failures: u32 = 0;
    let mut told = false;
    let mut finishes = false;
    // Since the loop first found it idle after the last message or run.
    let mut idle_since = None;
    let mut renews_at = None;
    loop {
        while running.try_join_next().is_some() {}
        if !told && let Some(cause) = duty.leave.cause() {
            told = true;
            duty.runs.stop_all(cause);
        }
        if !finishes && (told || duty.fleet.finish.cause().is_some()) {
            finishes = true;
            if let Some(in_hand) = duty.tell(Shift::leave) {
                give_back(&duty.fleet, &in_hand).await;
            }
        }
        renews_at = renew(duty, renews_at, &mut running);
        let next = duty.shift().next();
        let received = match next {
            Next::Home => break,
            Next::Rest => {
                idle_since = None;
                tokio::select! {
                    biased;
                    _ = duty.leave.raised(), if !told => {}
                    _ = duty.fleet.finish.raised(), if !finishes => {}
                    () = duty.changed.notified() => {}
                    () = until(renews_at) => {}
                }
                continue;
            }
            Next::Start(start) => {
                idle_since = None;
                duty.tell(|_| ());
                running.spawn(answer(Arc::clone(duty), start));
                continue;
            }
            Next::Look(tier, max) => look(duty, tier, max).await,
            Next::Wait(tiers, max) => {
                idle_since = duty.shift().is_idle().then(|| idle_since.unwrap_or_else(Instant::now));
                let patience = duty.fleet.idle.zip(idle_since).map(|(idle, since)| since + idle);
                tokio::select! {
                    // What it is told goes before what it may receive.
                    biased;
                    _ = duty.leave.raised() => continue,
                    _ = duty.fleet.finish.raised() => continue,
                    () = duty.changed.notified() => continue,
                    () = until(renews_at) => continue,
                    () = until(patience) => {
                        duty.tell(Shift::tire);
                        idle_since = None;
                        continue;
                    }
                    received = wait(duty, &tiers, max) => Ok(received),
                }
            }
        };
        match received {
            Ok(received) => {
                failures = 0;
                if !received.is_empty() {
                    idle_since = None;
                }
                let acts = if received.is_empty() {
                    duty.shift().heard(received)
                } else {
                    duty.tell(|shift| shift.heard(received))
                };
                for act in acts {
                    match act {
                        Act::Start(start) => drop(running.spawn(answer(Arc::clone(duty), start))),
                        Act::Release(received) => give_back(&duty.fleet, &received).await,
                    }
                }
            }
            Err(error) => {
                failures += 1;
                warn!(%error, failures, "cannot receive; trying again");
                let pause = backoff(execute::BEAT / 15, failures, duty.fleet.ambient.chance());
                tokio::select! {
                    _ = duty.leave.raised(), if !told => {}
                    _ = duty.fleet.finish.raised(), if !finishes => {}
                    () = duty.fleet.ambient.pause(pause) => {}
                }
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// Tries what is in hand again when it is time for that, and says when that is next.
fn renew(duty: &Arc<Duty>, at: Option<Instant>, running: &mut JoinSet<()>) -> Option<Instant> {
    let mut shift = duty.shift();
    if !shift.has_in_hand() {
        return None;
    }
    let now = Instant::now();
    match at {
        Some(at) if at > now => return Some(at),
        Some(_) => {
            // Not told to the roster: its room is back in a moment, and nobody is to be routed elsewhere for that.
            if let Some(start) = shift.renew() {
                running.spawn(answer(Arc::clone(duty), start));
            }
        }
        None => {}
    }
    Some(now + execute::BEAT)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn look(duty: &Duty, tier: Tier, max: u32) -> Result<Vec<Received>, PortError> {
    duty.fleet.lanes.receive(&duty.lane(tier), at_most(max), false).await
}

/// Waits for all these tiers at once: waiting for the highest alone would starve the others. The first that answers
/// with something counts, the highest if several do; the others' receives are dropped, which hides nothing.
async fn wait(duty: &Duty, tiers: &[Tier], max: u32) -> Vec<Received> {
    let mut asked: Vec<_> = tiers.iter().map(|tier| Some(Box::pin(listen(duty, *tier, max)))).collect();
    poll_fn(|context| {
        for slot in &mut asked {
            let Some(receive) = slot else { continue };
            match receive.as_mut().poll(context) {
                Poll::Pending => {}
                Poll::Ready(none) if none.is_empty() => *slot = None,
                Poll::Ready(received) => return Poll::Ready(received),
            }
        }
        if asked.iter().all(Option::is_none) { Poll::Ready(Vec::new()) } else { Poll::Pending }
    })
    .await
}

/// Waits for one tier, however often that fails: a tier that is broken must not keep the others from being heard.
async fn listen(duty: &Duty, tier: Tier, max: u32) -> Vec<Received> {
    let mut failures: u32 = 0;
    loop {
        match duty.fleet.lanes.receive(&duty.lane(tier), at_most(max), true).await {
            Ok(received) => return received,
            Err(error) => {
                failures += 1;
                warn!(%tier, %error, failures, "cannot receive; trying again");
                let pause = backoff(execute::BEAT / 15, failures, duty.fleet.ambient.chance());
                duty.fleet.ambient.pause(pause.min(execute::BEAT)).await;
            }
        }
    }
}

fn at_most(max: u32) -> usize {
    usize::try_from(max).unwrap_or(usize::MAX)
}

/// Room that a start holds, until it is dropped.
struct Holds<'a> {
    duty: &'a Duty,
    room: Room,
}

impl Drop for Holds<'_> {
    fn drop(&mut self) {
        // Who may go home counts from the end of the last run.
        let goes_home = self.duty.fleet.idle.is_some();
        self.duty.give(|shift| shift.given(self.room) || (goes_home && shift.is_idle()));
    }
}

async fn answer(duty: Arc<Duty>, start: Start) {
    let fleet = &duty.fleet;
    let holding = duty.holding();
    let (message, offer) = (start.received.message, start.offer);
    let mut holds = Holds { duty: &duty, room: offer };
    let ran = match execute::take(&holding, message, None, Some(offer)).await {
        Ok(Taken::Won(ready)) => {
            let needs = ready.needs();
            holds.room = needs;
            duty.give(|shift| shift.claimed(&start, needs));
            // Told to leave between its doorbell and its claim.
            if let Some(cause) = duty.leave.cause() {
                duty.runs.stop(message, cause);
                if duty.leave.is_hurried() {
                    duty.runs.hurry_all();
                }
            }
            ready.run().await
        }
        Ok(Taken::Lost(Refusal::NoRoom(needs))) => {
            // The shift takes its room back itself.
            holds.room = Room::default();
            return no_room(&duty, start, needs).await;
        }
        Ok(Taken::Lost(refusal)) => {
            if duty.lost(&start) && !refusal.is_final() {
                // It was here for long: whoever comes next may have it now.
                give_back(fleet, &start.received).await;
            }
            Ok(Ran::Refused(refusal))
        }
        Err(error) => {
            duty.lost(&start);
            Err(error)
        }
    };
    // Nothing of it runs any more: the next job need not wait for a queue that gathers deletions.
    drop(holds);
    match ran {
        Ok(ran) if ran.is_final() => {
            if let Err(error) = fleet.lanes.delete(&start.received).await {
                // It comes back, and its claim is refused for good.
                debug!(%error, "doorbell not deleted");
            }
        }
        Ok(Ran::Done(_) | Ran::Refused(_)) => {}
        Err(error) => {
            error!(job.id = %message.id, job.epoch = %message.epoch, error = %describe(&error), "run not reported; the reaper finds out");
            give_back(fleet, &start.received).await;
        }
    }
}

/// The job needs more than it was offered: it waits in hand until there is so much, or goes back.
async fn no_room(duty: &Duty, start: Start, needs: Room) {
    let Message { id, epoch } = start.received.message;
    debug!(job.id = %id, job.epoch = %epoch, ?needs, room = ?start.offer, "no room for it now");
    let back = duty.tell(|shift| shift.refused(start, needs));
    duty.changed.notify_one();
    match back {
        None => {}
        Some(Back::Release(received)) => give_back(&duty.fleet, &received).await,
        Some(Back::Decline(received)) => {
            let (Message { id, epoch }, room) = (received.message, duty.fleet.room);
            warn!(job.id = %id, job.epoch = %epoch, ?needs, ?room, "a job is larger than this worker, and goes back");
            tokio::select! {
                _ = duty.leave.raised() => {}
                () = duty.fleet.ambient.pause(DECLINED) => {}
            }
            give_back(&duty.fleet, &received).await;
        }
    }
}

async fn give_back(fleet: &Fleet, received: &Received) {
    if let Err(error) = fleet.lanes.release(received).await {
        debug!(%error, "doorbell not released; it is visible again after its timeout");
    }
}

/// One beat for all runs, and none while there are none.
async fn heart(duty: Arc<Duty>) {
    let _vital = Vital("the worker's heart");
    let mut counter = 0;
    loop {
        duty.runs.any().await;
        execute::beat_while_running(&duty.holding(), &mut counter).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use switchyard_core::catalog::Catalog;
    use switchyard_core::intake::{self, Sender, Taking};
    use switchyard_core::job::{Job, Nonce, Phase};
    use switchyard_core::memory::Memory;
    use switchyard_core::ports::{Assignment, LogSink, Outcome, Workers, Yard};
    use switchyard_core::route::Limits;
    use switchyard_core::settle::{self, YardDesk};
    use tokio::sync::Semaphore;

    use super::*;
    use switchyard_builtins::system::System;

    const CATALOG: &str = "version: 1
capabilities:
  - { name: small, summary: half of the worker, run: { command: [\"true\"] }, needs: { memory_mib: 50, vcpu: 0.5 } }
  - { name: large, summary: all of it, run: { command: [\"true\"] }, needs: { memory_mib: 100, vcpu: 1 } }
  - { name: huge, summary: more than it has, run: { command: [\"true\"] }, needs: { memory_mib: 101, vcpu: 1 } }
";
    const ROOM: Room = Room { slots: 2, milli_vcpu: 1000, memory_mib: 100 };

    /// Ends a run when there is a permit for it, or when it is told to stop.
    struct Gate(Semaphore);

    #[async_trait]
    impl Executor for Gate {
        async fn run(&self, assignment: &Assignment<'_>, _: &dyn LogSink) -> Outcome {
            tokio::select! {
                cause = assignment.stop.raised() => Outcome::Stopped(cause),
                permit = self.0.acquire() => {
                    permit.expect("the gate stays").forget();
                    Outcome::Succeeded(None)
                }
            }
        }
    }

    struct Scene {
        yard: Yard,
        fleet: Arc<Fleet>,
        gate: Arc<Gate>,
        leave: StopSignal,
    }

    fn scene(idle: Option<Duration>) -> Scene {
        let catalog = Catalog::parse("test", CATALOG, &[], &BTreeMap::new()).unwrap();
        let home = Memory::new(System.now(), 1);
        // Real time: a heart that no time passes for would never rest.
        let yard = Yard { ambient: Arc::new(System), ..home.yard(catalog, Limits::one_machine(1024)) };
        let gate = Arc::new(Gate(Semaphore::new(0)));
        let fleet = Fleet {
            lanes: Arc::clone(&yard.lanes),
            desk: Arc::new(YardDesk(yard.clone())),
            executor: Arc::clone(&gate) as Arc<dyn Executor>,
            blobs: Arc::clone(&yard.blobs),
            ambient: Arc::new(System),
            roster: Arc::new(Roster::default()),
            holder: Holder::new("worker", Nonce(1)),
            pool: PoolName::STANDARD,
            room: ROOM,
            idle,
            finish: StopSignal::default(),
        };
        Scene { yard, fleet: Arc::new(fleet), gate, leave: StopSignal::default() }
    }

    impl Scene {
        async fn submit(&self, capability: &str, tier: &str) -> Job {
            let body = format!(r#"{{"capability":"{capability}","payload":{{}},"tier":"{tier}"}}"#);
            let (submission, digest) = intake::read(body.as_bytes()).unwrap();
            let (sender, now) = (Sender { caller: "tests", key: None }, System.now());
            let situation = self.yard.situation().await;
            let taking = Taking::default();
            let mut prepared =
                intake::prepare(&submission, digest, sender, &situation, taking, now, System.random()).unwrap();
            prepared.job.route.place = switchyard_core::route::Place::Fleet(PoolName::STANDARD);
            intake::accept(&self.yard, vec![prepared]).await.unwrap().remove(0).unwrap().job
        }

        async fn until(&self, job: &Job, phase: Phase) {
            loop {
                let now = self.yard.ledger.load(job.id).await.unwrap().unwrap();
                if now.phase() == phase {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        async fn free(&self) -> Room {
            self.fleet.roster.list().await.unwrap()[0].free
        }
    }

    #[tokio::test]
    async fn a_large_job_waits_in_hand_and_only_a_higher_tier_passes_it() {
        let scene = scene(None);
        let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
        let first = scene.submit("small", "standard").await;
        scene.until(&first, Phase::Running).await;
        assert_eq!(scene.free().await, Room { slots: 1, milli_vcpu: 500, memory_mib: 50 });
        let large = scene.submit("large", "priority").await;
        // Time for its claim: it is refused, and waits.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let later = scene.submit("small", "standard").await;
        let higher = scene.submit("small", "synchronous").await;
        scene.until(&higher, Phase::Running).await;
        assert_eq!(scene.free().await, Room::default());
        scene.gate.0.add_permits(2);
        scene.until(&first, Phase::Succeeded).await;
        scene.until(&higher, Phase::Succeeded).await;
        scene.until(&large, Phase::Running).await;
        let waits = scene.yard.ledger.load(later.id).await.unwrap().unwrap();
        assert_eq!(waits.phase(), Phase::Dispatched, "it arrived later and is of a lower tier");
        scene.gate.0.add_permits(2);
        scene.until(&later, Phase::Succeeded).await;
        scene.leave.raise(StopCause::Drain);
        worker.await.unwrap();
        assert_eq!(scene.fleet.roster.list().await.unwrap(), [], "it is gone");
    }

    #[tokio::test]
    async fn a_drained_worker_gives_back_what_it_runs_and_what_it_has_in_hand() {
        let scene = scene(None);
        let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
        let (huge, small) = (scene.submit("huge", "priority").await, scene.submit("small", "standard").await);
        scene.until(&small, Phase::Running).await;
        let large = scene.submit("large", "standard").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let lane = |tier| Lane { pool: PoolName::STANDARD, tier };
        assert_eq!(scene.yard.lanes.visible(&lane(Tier::Standard)).await.unwrap(), 0, "one runs, one is in hand");
        scene.leave.raise(StopCause::Drain);
        worker.await.unwrap();
        let jobs = [&huge, &small, &large].map(|job| scene.yard.ledger.load(job.id));
        for (job, epoch) in jobs.into_iter().zip([1, 2, 1]) {
            let job = job.await.unwrap().unwrap();
            assert_eq!((job.phase(), job.epoch.0), (Phase::Dispatched, epoch));
        }
        for (tier, rings) in Tier::ALL.into_iter().zip([0, 1, 2]) {
            assert_eq!(scene.yard.lanes.visible(&lane(tier)).await.unwrap(), rings, "{tier}");
        }
    }

    #[tokio::test]
    async fn a_worker_that_finishes_takes_nothing_new_and_lets_what_runs_end() {
        let scene = scene(None);
        let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
        let runs = scene.submit("small", "standard").await;
        scene.until(&runs, Phase::Running).await;
        scene.fleet.finish.raise(StopCause::Drain);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let late = scene.submit("small", "synchronous").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!worker.is_finished());
        assert!(scene.fleet.roster.list().await.unwrap()[0].leaving, "nobody counts on it");
        scene.gate.0.add_permits(1);
        worker.await.unwrap();
        scene.until(&runs, Phase::Succeeded).await;
        assert_eq!(scene.yard.ledger.load(late.id).await.unwrap().unwrap().phase(), Phase::Dispatched);
    }

    #[tokio::test]
    async fn one_run_that_is_ordered_back_sends_the_whole_worker_home() {
        let scene = scene(None);
        let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
        let (one, other) = (scene.submit("small", "standard").await, scene.submit("small", "standard").await);
        scene.until(&one, Phase::Running).await;
        scene.until(&other, Phase::Running).await;
        let holder = &scene.fleet.holder;
        while scene.yard.ledger.last_beat(holder).await.unwrap().is_none_or(|beat| beat.running.len() < 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ordered = settle::order_all_back(&scene.yard, holder.instance()).await.unwrap();
        assert_eq!(ordered, (false, 0), "a home in memory lists no workers of this roster");
        let yard = Yard { workers: Arc::clone(&scene.fleet.roster) as Arc<dyn Workers>, ..scene.yard.clone() };
        assert_eq!(settle::order_all_back(&yard, holder.instance()).await.unwrap(), (true, 2));
        // With its next beat, at the latest.
        tokio::time::timeout(execute::BEAT * 2, worker).await.unwrap().unwrap();
        for job in [&one, &other] {
            let back = scene.yard.ledger.load(job.id).await.unwrap().unwrap();
            assert_eq!((back.phase(), back.attempts_spent, back.interruptions), (Phase::Dispatched, 0, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_cancelled_in_hand_does_not_keep_its_tier_shut() {
        let scene = scene(None);
        let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
        let long = scene.submit("small", "standard").await;
        scene.until(&long, Phase::Running).await;
        let large = scene.submit("large", "standard").await;
        let waits = scene.submit("small", "standard").await;
        // Long enough for its claim to be tried again and again: it is still to be waited for.
        tokio::time::sleep(execute::BEAT * 4).await;
        assert_eq!(scene.yard.ledger.load(waits.id).await.unwrap().unwrap().phase(), Phase::Dispatched);
        assert_eq!(scene.free().await, Room { slots: 1, milli_vcpu: 500, memory_mib: 50 });
        settle::cancel_job(&scene.yard, large.id, "tests").await.unwrap();
        let cancelled = Instant::now();
        let started = tokio::time::timeout(execute::BEAT * 10, scene.until(&waits, Phase::Running)).await;
        assert!(started.is_ok(), "its tier is still shut");
        assert!(cancelled.elapsed() <= execute::BEAT + Duration::from_secs(1), "{:?}", cancelled.elapsed());
        let runs = scene.yard.ledger.load(long.id).await.unwrap().unwrap();
        assert_eq!(runs.phase(), Phase::Running);
        scene.leave.raise(StopCause::Drain);
        worker.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_goes_home_when_it_was_idle_long_enough_after_its_last_run() {
        const IDLE: Duration = Duration::from_secs(600);
        // With a slot to spare it waits for more while it runs the last one; without it rests.
        for capability in ["small", "large"] {
            let scene = scene(Some(IDLE));
            let worker = tokio::spawn(work(Arc::clone(&scene.fleet), scene.leave.clone()));
            let job = scene.submit(capability, "standard").await;
            scene.until(&job, Phase::Running).await;
            tokio::time::sleep(IDLE * 3).await;
            assert!(!worker.is_finished(), "it runs something");
            scene.gate.0.add_permits(1);
            let ended = Instant::now();
            worker.await.unwrap();
            scene.until(&job, Phase::Succeeded).await;
            let waited = ended.elapsed();
            assert!(waited >= IDLE && waited < IDLE + Duration::from_secs(1), "{capability}: {waited:?}");
            assert_eq!(scene.leave.cause(), None, "nobody told it to");
        }
    }
}
