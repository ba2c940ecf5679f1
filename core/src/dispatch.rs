//! Room 3: the route is recorded; carry it out. Here a decision becomes a write, and then its acts.
//!
//! **Save, then act.** [`commit`] is the only place where the two meet. An act that fails or that a crash swallows
//! is made good by the reaper, because the record's `due` was written first.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use crate::brake::{self, Brake};
use crate::job::{Ending, Failure, Job, JobId, Owed, ResultRef, Settlement, State, Step, Tier, TokenHash};
use crate::policies::Situation;
use crate::ports::{
    Bell, Body, Kicked, Lane, LaunchFailed, LaunchFailure, Message, PortError, Saved, Yard, backoff, describe, persist,
};
use crate::route::{Conditions, PoolName, Refused, Rule, Venue, route};
use crate::scale;
use crate::tell::{self, Was};

/// How long a dispatched job waits before the reaper looks for the first time. A minute: a Fargate task takes 50 to
/// 60 s to start with a 400 MB image, and a doorbell that was heard is answered well within.
pub const FIRST_LOOK: Duration = Duration::from_secs(60);
/// Launches that may fail before the job goes to the fleet instead.
pub const LAUNCHES: u32 = 3;
/// Tries of one write whose answer does not come: about half a second in all. Whoever called tries longer.
const SAVES: u32 = 3;
/// The wait after a first failed launch; doubled by each further one.
pub const LAUNCH_BACKOFF: Duration = Duration::from_secs(5);

/// When the reaper looks at a held job at the latest: the last resort behind admissions and sweeps, which have moved
/// it long before.
pub const HELD_LOOK: Duration = Duration::from_secs(3600);
/// When the reaper pays what a crash left owing.
pub const PAY_AGAIN: Duration = Duration::from_secs(30);
/// How often a write that somebody else overtook is decided anew. Each round means that another writer succeeded.
pub(crate) const ROUNDS: u32 = 20;

/// One thing to do after the record is saved. Doing it twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Whoever took the job runs it now.
    RunHere(Message),
    /// Ring the lane's doorbell.
    Ring(Lane, Message),
    /// Launch a task for it.
    Launch(Venue, Message),
    /// Do what is owed.
    Pay(Owed),
    /// Look for the next held job of this capability: a permit came back, or a job was held.
    Admit(String),
}

/// A decision: the record as it shall be, and what to do once it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The record, not stamped yet.
    pub job: Job,
    /// What to do once it is saved.
    pub acts: Vec<Act>,
}

/// What a record asks to be done, read off the record alone: for a new dispatch, and for what is owed.
pub fn acts(job: &Job) -> Vec<Act> {
    let mut acts: Vec<Act> = job.owed.iter().cloned().map(Act::Pay).collect();
    let message = Message::of(job);
    match job.state {
        State::Dispatched { .. } => acts.push(match job.route.venue() {
            Venue::Inline => Act::RunHere(message),
            venue @ (Venue::Function | Venue::Fargate) => Act::Launch(venue, message),
            Venue::Fleet => Act::Ring(lane(job), message),
        }),
        State::Held { .. } => acts.push(Act::Admit(job.work.capability.clone())),
        State::Delayed { .. } | State::Running(_) | State::Settled(_) => {}
    }
    acts
}

/// The lane a job's doorbell rings in.
pub fn lane(job: &Job) -> Lane {
    Lane { pool: job.pool(), tier: job.work.tier.raised(job.aged) }
}

/// When the reaper first looks at a job dispatched now: never after its start deadline, nor after the moment at which
/// it rises a tier.
pub fn first_look(job: &Job, situation: &Situation, now: Timestamp) -> Timestamp {
    let due = due_in(job, now, FIRST_LOOK);
    rises_at(job, situation, waits_since(job, now)).map_or(due, |rises| due.min(rises))
}

/// When a job that waits since then rises another tier, in the fleet; never, unless the rules say so.
pub(crate) fn rises_at(job: &Job, situation: &Situation, since: Timestamp) -> Option<Timestamp> {
    let waits = situation.policies.ageing?;
    let rises = job.route.venue() == Venue::Fleet && lane(job).tier != Tier::Synchronous;
    rises.then(|| since + waits * (u32::from(job.aged) + 1))
}

/// Since when a job waits that is to wait on: sent elsewhere, held back or let go on, it has not waited less for it. A
/// run or a pause in between ends a wait, and the next begins now.
fn waits_since(job: &Job, now: Timestamp) -> Timestamp {
    match &job.state {
        State::Held { since } => *since,
        State::Dispatched { at, .. } => *at,
        State::Delayed { .. } | State::Running(_) | State::Settled(_) => now,
    }
}

/// The moment `wait` from now, or the start deadline if that comes first.
pub(crate) fn due_in(job: &Job, now: Timestamp, wait: Duration) -> Timestamp {
    let due = now + wait;
    job.work.start_deadline.map_or(due, |deadline| due.min(deadline))
}

/// The conditions of a job that no invocation holds any more: inline is not possible again.
pub fn conditions(job: &Job, situation: &Situation, now: Timestamp) -> Conditions {
    Conditions {
        tier: job.work.tier,
        start_within: job.work.start_deadline.map(|deadline| deadline.duration_since(now).unsigned_abs()),
        invocation_left: None,
        interruptions: job.interruptions,
        launches_exhausted: job.launch_failures >= LAUNCHES,
        free: situation.free(&job.work.needs),
        companions: 0,
    }
}

/// Sends a job on its way again: a new epoch at whatever venue will do now; held, where a brake is on it; or its end,
/// where no venue will do. A permit that it has goes along.
///
/// The caller has checked that the step is legal from where the job stands.
pub fn again(mut job: Job, situation: &Situation, now: Timestamp, reason: &str, detail: &str) -> Decided {
    if let Some(brake) = situation.brake(&job) {
        return hold(job, brake, now, reason, detail);
    }
    if !situation.is_limited(&job.work.capability) {
        job.permit = None;
    }
    let conditions = conditions(&job, situation, now);
    match route(&job.work.needs, &conditions, situation.limits()) {
        Ok(chosen) => {
            let place = chosen.place;
            job.route = chosen;
            let detail = if detail.is_empty() { place.to_string() } else { format!("{detail}; {place}") };
            let at = waits_since(&job, now);
            job.take(Step::Dispatch, State::Dispatched { at, looks: 0 }, now, reason, detail);
            job.due = Some(first_look(&job, situation, now));
            let acts = acts(&job);
            Decided { job, acts }
        }
        Err(refused) if lacks_engine(&refused) && !job.is_settled() && !matches!(job.state, State::Held { .. }) => {
            wait_for_engine(job, now, reason)
        }
        Err(refused) => {
            let failure = Failure::new("no_feasible_venue", refused.to_string());
            end(job, Ending::Failed, None, Some(failure), None, now, reason)
        }
    }
}

/// How long a job waits before it is looked at again whether a container engine answers: a minute, in which one starts.
const ENGINE_LOOK: Duration = Duration::from_secs(60);

/// Whether a place was refused because no container engine answers there just now.
fn lacks_engine(refused: &Refused) -> bool {
    refused.verdicts.iter().any(|verdict| verdict.rejected == Some(Rule::NoImages))
}

/// An accepted job is not failed because an engine is away: it starts after the yard, or is being upgraded.
fn wait_for_engine(mut job: Job, now: Timestamp, reason: &str) -> Decided {
    let until = now + ENGINE_LOOK;
    let freed = give_up(&mut job);
    match &mut job.state {
        State::Delayed { until: waits } => *waits = until,
        State::Held { .. } | State::Dispatched { .. } | State::Running(_) | State::Settled(_) => {
            job.take(Step::Delay, State::Delayed { until }, now, "no_engine", reason);
        }
    }
    job.due = Some(due_in(&job, now, ENGINE_LOOK));
    Decided { job, acts: freed.into_iter().collect() }
}

/// Ends a job: the final state, and what is owed for it.
pub(crate) fn end(
    mut job: Job,
    ending: Ending,
    result: Option<ResultRef>,
    error: Option<Failure>,
    token: Option<TokenHash>,
    now: Timestamp,
    reason: &str,
) -> Decided {
    let step = match ending {
        Ending::Succeeded => Step::Succeed,
        Ending::Failed => Step::Fail,
        Ending::TimedOut => Step::TimeOut,
        Ending::Cancelled => Step::Cancel,
        Ending::Expired => Step::Expire,
    };
    let detail = error.as_ref().map(Failure::to_string).unwrap_or_default();
    let settlement = Settlement { ending, at: now, result, error, token };
    job.take(step, State::Settled(settlement), now, reason, detail);
    if job.work.announce {
        job.owed.push(Owed::Announce(job.epoch));
    }
    job.due = if job.owed.is_empty() { None } else { Some(now + PAY_AGAIN) };
    let freed = give_up(&mut job);
    let acts = acts(&job).into_iter().chain(freed).collect();
    Decided { job, acts }
}

/// Takes the job's permit from it: the next held job may have it.
fn give_up(job: &mut Job) -> Option<Act> {
    job.permit.take().map(|_| Act::Admit(job.work.capability.clone()))
}

/// Whether the job runs without a permit although its capability has a limit by now: with its run, room comes back.
pub(crate) fn is_unnumbered(job: &Job, situation: &Situation) -> bool {
    matches!(job.state, State::Running(_)) && job.permit.is_none() && situation.is_limited(&job.work.capability)
}

/// The decision that ends a run; where that ran without a permit under a limit, the next held job is looked for, too.
pub(crate) fn makes_room(unnumbered: bool, mut decided: Decided) -> Decided {
    let admit = Act::Admit(decided.job.work.capability.clone());
    if unnumbered && !decided.acts.contains(&admit) {
        decided.acts.push(admit);
    }
    decided
}

/// Holds a job back until somebody admits it; it gives up its permit, and how far it had risen.
pub fn hold(mut job: Job, brake: Brake<'_>, now: Timestamp, reason: &str, detail: &str) -> Decided {
    (job.permit, job.aged) = (None, 0);
    match job.state {
        State::Held { .. } => {}
        State::Delayed { .. } | State::Dispatched { .. } | State::Running(_) | State::Settled(_) => {
            let detail = if detail.is_empty() { brake.to_string() } else { format!("{detail}; {brake}") };
            let since = waits_since(&job, now);
            job.take(Step::Hold, State::Held { since }, now, reason, detail);
        }
    }
    // A debt of an earlier run is not to wait as long as the job may.
    job.due = Some(due_in(&job, now, if job.owed.is_empty() { HELD_LOOK } else { PAY_AGAIN }));
    let acts = acts(&job);
    Decided { job, acts }
}

/// Puts a job off until `until`; the reaper dispatches it then.
pub fn delay(mut job: Job, until: Timestamp, now: Timestamp, reason: &str, detail: &str) -> Decided {
    // Its next wait begins when the delay ends: it has not waited for that one yet.
    job.aged = 0;
    job.take(Step::Delay, State::Delayed { until }, now, reason, detail);
    job.due = Some(due_in(&job, until, Duration::ZERO));
    let freed = give_up(&mut job);
    let acts = acts(&job).into_iter().chain(freed).collect();
    Decided { job, acts }
}

/// Decides what follows a failed launch: another try after a pause, the fleet, or the end.
pub fn launch_failed(
    mut job: Job,
    failed: &LaunchFailed,
    situation: &Situation,
    now: Timestamp,
    chance: u64,
) -> Decided {
    job.launch_failures = match failed.kind {
        LaunchFailure::NoPlace | LaunchFailure::Passing => job.launch_failures + 1,
        LaunchFailure::Permanent => job.launch_failures.max(LAUNCHES),
    };
    if job.launch_failures < LAUNCHES {
        let pause = backoff(LAUNCH_BACKOFF, job.launch_failures, chance);
        return delay(job, now + pause, now, "launch_failed", &failed.message);
    }
    again(job, situation, now, "launches_exhausted", &failed.message)
}

/// Saves a decision, and acts on it when it was saved. A refusal changes nothing and is the caller's to judge.
///
/// # Errors
///
/// The ledger failed; whether the write took effect is then unknown, and the record's `due` brings the reaper.
pub async fn commit(yard: &Yard, decided: Decided, result: Option<Body>) -> Result<Saved, PortError> {
    let Decided { job, acts } = decided;
    let job = job.stamped(yard.ambient.nonce());
    let saved = keep(yard, &job, result).await?;
    if saved == Saved::Saved {
        carry_out(yard, job, acts).await;
    }
    Ok(saved)
}

/// Writes a stamped record, as often as it takes to hear the answer.
pub(crate) async fn keep(yard: &Yard, job: &Job, result: Option<Body>) -> Result<Saved, PortError> {
    // The very same write again: whoever decided anew would meet its own decision and take it for another's.
    let save = || yard.ledger.save(job.clone(), result.clone());
    Ok(match persist(&*yard.ambient, "save", SAVES, save).await? {
        // Our own nonce: the write took effect, its answer was lost on the way.
        Saved::Refused(Some(current)) if current.nonce == job.nonce => Saved::Saved,
        saved => saved,
    })
}

/// Does what a saved record asks for. Nothing that fails here is lost: the record says what is due.
pub async fn carry_out(yard: &Yard, job: Job, acts: Vec<Act>) {
    let freed = act_all(yard, vec![(job, acts)]).await.into_iter().flatten();
    // One job gave up one permit at most: whatever else may go by now is the sweep's, and nobody's who waits here.
    brake::admit_all(yard, freed, 1).await;
}

/// Does all of them but the admissions, and answers for each job for which capabilities somebody must admit: an
/// admission leads to other jobs' acts, and whoever does those must not be inside this one's.
///
/// The doorbells of all the jobs ring first and together: nothing else here is what somebody waits for, and five hundred
/// calls of a queue are more than fifty.
pub(crate) async fn act_all(yard: &Yard, decided: Vec<(Job, Vec<Act>)>) -> Vec<BTreeSet<String>> {
    let mut freed = vec![BTreeSet::new(); decided.len()];
    let mut round: Vec<(usize, Job, Vec<Act>)> =
        decided.into_iter().enumerate().map(|(n, (job, acts))| (n, job, acts)).collect();
    // A launch that fails may lead to a doorbell or to another launch: the next round.
    while !round.is_empty() {
        ring(yard, &round).await;
        let mut next = Vec::new();
        for (n, job, acts) in round {
            for act in acts {
                match act {
                    // The caller of `accept` runs it; on any other way here no invocation is at hand, and none is
                    // routed so.
                    Act::RunHere(_) => {}
                    // Rung already.
                    Act::Ring(..) => {}
                    Act::Launch(venue, _) => {
                        next.extend(launch(yard, &job, venue).await.map(|Decided { job, acts }| (n, job, acts)));
                    }
                    Act::Pay(owed) => {
                        if let Err(error) = pay(yard, &job, &owed).await {
                            warn!(
                                job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), %error,
                                "not paid yet; the reaper tries again"
                            );
                        }
                    }
                    Act::Admit(capability) => drop(freed[n].insert(capability)),
                }
            }
        }
        round = next;
    }
    freed
}

/// Rings every doorbell among these acts in one call, and makes somebody come where nobody hears them.
async fn ring(yard: &Yard, round: &[(usize, Job, Vec<Act>)]) {
    let bells = round.iter().flat_map(|(_, job, acts)| {
        acts.iter().filter_map(move |act| match act {
            // Its message is the record's own: a bell is decided with the record that is saved.
            Act::Ring(lane, _) => Some(Bell { lane: *lane, job }),
            Act::RunHere(_) | Act::Launch(..) | Act::Pay(_) | Act::Admit(_) => None,
        })
    });
    let bells: Vec<Bell<'_>> = bells.collect();
    if bells.is_empty() {
        return;
    }
    let unrung = yard.lanes.ring(&bells).await;
    let rang = |bell: &&Bell<'_>| !unrung.iter().any(|(message, _)| *message == bell.message());
    let pools: BTreeSet<PoolName> = bells.iter().filter(rang).map(|bell| bell.lane.pool).collect();
    for (message, error) in unrung {
        if let Some(Bell { job, .. }) = bells.iter().find(|bell| bell.message() == message) {
            warn!(
                job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), error = %describe(&error),
                "doorbell not rung; the reaper rings it"
            );
        }
    }
    kick(yard, pools).await;
}

/// Makes workers come to those of the pools in which a bell rang and nobody hears it.
async fn kick(yard: &Yard, pools: BTreeSet<PoolName>) {
    if pools.is_empty() || yard.fleet.is_fixed() {
        return;
    }
    // Where nobody can tell who works somebody may have to come: a kick too many costs a look.
    let workers = yard.workers.list().await.unwrap_or_default();
    for pool in pools.into_iter().filter(|pool| scale::is_deserted(*pool, &workers)) {
        let kicked = yard.fleet.kick(pool).await;
        yard.meters.kicked(kicked.as_ref().ok().copied());
        match kicked {
            Ok(Kicked::Sent) => debug!(pool = %pool, "kicked: a bell rang where nobody works"),
            Ok(Kicked::Lately) => {}
            Err(error) => {
                warn!(pool = %pool, error = %describe(&error), "not kicked; the pool is looked at within a minute");
            }
        }
    }
}

/// Launches a job's task. Answers what was decided and saved where that failed.
async fn launch(yard: &Yard, job: &Job, venue: Venue) -> Option<Decided> {
    let failed = match yard.launcher.launch(job).await {
        Ok(()) => {
            debug!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), venue = %venue, "launched");
            return None;
        }
        // It stays as it is, and the reaper launches it when it is due: no try is counted.
        Err(failed) if failed.kind == LaunchFailure::NoPlace => {
            debug!(
                job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), reason = %failed,
                "not launched yet"
            );
            return None;
        }
        Err(failed) => failed,
    };
    let (now, chance) = (yard.ambient.now(), yard.ambient.chance());
    let Decided { job: next, acts } = launch_failed(job.clone(), &failed, &yard.situation().await, now, chance);
    let next = next.stamped(yard.ambient.nonce());
    match keep(yard, &next, None).await {
        Ok(Saved::Saved) => {
            tell::changed(yard, &Was::of(job), &next);
            Some(Decided { job: next, acts })
        }
        Ok(Saved::Refused(_) | Saved::PermitTaken) => None,
        Err(error) => {
            warn!(
                job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), %error,
                "failed launch not recorded; the reaper launches again"
            );
            None
        }
    }
}

/// Does what is owed, then strikes it out. A crash in between does it twice, which is harmless.
///
/// # Errors
///
/// It could not be done or struck out; `due` brings the reaper back to it.
async fn pay(yard: &Yard, job: &Job, owed: &Owed) -> Result<(), PortError> {
    match owed {
        Owed::Announce(epoch) if job.is_settled() && job.epoch == *epoch => yard.herald.announce(job).await?,
        // Retried meanwhile: what would have been announced is not so any more, and the next end is announced.
        Owed::Announce(_) => {}
        Owed::StopTask { venue, epoch } => yard.launcher.stop(job.id, *epoch, *venue).await?,
    }
    // Whoever pays has most often just written the record.
    let mut known = yard.ledger.glimpse(job.id).await?.and_then(|job| strike(job, owed));
    for _ in 0..ROUNDS {
        let struck = match known.take() {
            Some(struck) => struck,
            None => {
                let Some(job) = yard.ledger.load(job.id).await? else { return Ok(()) };
                let Some(struck) = strike(job, owed) else { return Ok(()) };
                struck
            }
        };
        let struck = struck.stamped(yard.ambient.nonce());
        if yard.ledger.save(struck, None).await? == Saved::Saved {
            return Ok(());
        }
    }
    Err(overtaken("strike out a debt of", job.id))
}

/// The record without that debt; `None` when it is not there.
pub(crate) fn strike(mut job: Job, owed: &Owed) -> Option<Job> {
    let at = job.owed.iter().position(|other| other == owed)?;
    job.owed.remove(at);
    if job.owed.is_empty() && job.is_settled() {
        job.due = None;
    }
    Some(job)
}

/// The failure of a write that was decided anew [`ROUNDS`] times in vain.
pub(crate) fn overtaken(operation: &'static str, id: JobId) -> PortError {
    PortError::retryable(operation, format!("job {id}"), "other writers were faster, again and again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, Phase};
    use crate::route::{Limits, Pin, Place};
    use crate::testing::{a_job, at};

    #[test]
    fn a_dispatch_to_the_fleet_rings_and_nothing_else() {
        let job = a_job(Venue::Fleet);
        assert_eq!(acts(&job), [Act::Ring(lane(&job), Message::of(&job))]);
    }

    #[test]
    fn a_job_in_a_container_waits_for_an_engine_that_is_away_and_spends_nothing() {
        let mut job = a_job(Venue::Fleet);
        job.work.needs.packaging = crate::route::Packaging::Image;
        let without = Situation::from(Limits::one_machine(4096));
        let mut job = again(job, &without, at(0), "holder_lost", "").job;
        for minute in 1..3 {
            assert_eq!(job.state, State::Delayed { until: at(minute * 60) });
            assert_eq!((job.due, job.attempts_spent), (Some(at(minute * 60)), 0));
            job = again(job, &without, at(minute * 60), "due", "").job;
        }
        assert_eq!(job.timeline.last().map(|entry| entry.reason.as_str()), Some("no_engine"));
        let with = Situation::from(Limits::default().on_one_machine(4096, 4000, true));
        assert_eq!(again(job, &with, at(200), "due", "").job.phase(), Phase::Dispatched);
    }

    #[test]
    fn a_failed_launch_waits_then_falls_back_to_the_fleet() {
        let mut job = a_job(Venue::Fargate);
        let throttled = LaunchFailed { message: "no capacity".into(), kind: LaunchFailure::Passing };
        let situation = Situation::from(Limits::one_machine(1024));
        for failures in 1..LAUNCHES {
            let decided = launch_failed(job, &throttled, &situation, at(0), 0);
            assert_eq!((decided.job.phase(), decided.acts.len()), (Phase::Delayed, 0));
            assert_eq!(decided.job.launch_failures, failures);
            job = again(decided.job, &situation, at(10), "due", "").job;
            job.route.place = Place::Fargate;
        }
        let decided = launch_failed(job, &throttled, &situation, at(20), 0);
        assert_eq!(decided.job.route.venue(), Venue::Fleet);
        assert_eq!(decided.job.attempts_spent, 0, "a failed launch spends no attempt");
        assert!(matches!(decided.acts[..], [Act::Ring(..)]));
    }

    /// Where a permit goes: it stays through whatever is no end, and comes back with every end, delay and hold.
    #[test]
    fn a_permit_stays_until_the_job_ends_is_delayed_or_held() {
        let limited = crate::testing::limited(Some(2));
        let mut job = crate::testing::a_running_job(Venue::Fleet, 1);
        job.permit = Some(1);
        let back = Act::Admit("file-digest".into());
        let kept = again(job.clone(), &limited, at(1), "interrupted", "");
        assert_eq!((kept.job.phase(), kept.job.permit), (Phase::Dispatched, Some(1)));
        assert!(matches!(kept.acts[..], [Act::Ring(..)]));
        let ended = end(job.clone(), Ending::Succeeded, None, None, None, at(1), "succeeded");
        assert_eq!((ended.job.permit, ended.acts), (None, vec![back.clone()]));
        let delayed = delay(job.clone(), at(9), at(1), "attempt_failed", "");
        assert_eq!((delayed.job.permit, delayed.acts), (None, vec![back.clone()]));
        let risen = Job { aged: 1, ..job.clone() };
        assert_eq!(delay(risen, at(9), at(1), "attempt_failed", "").job.aged, 0, "it rises anew, or not");
        // Its number is above a limit that was lowered: the next number is below it, if there is one.
        let lowered = again(job.clone(), &crate::testing::limited(Some(1)), at(1), "interrupted", "");
        assert_eq!((lowered.job.phase(), lowered.job.permit), (Phase::Held, None));
        assert_eq!(lowered.acts, [back]);
        job.permit = None;
        let owed = vec![Owed::StopTask { venue: Venue::Fargate, epoch: Epoch(1) }];
        let owing = again(Job { owed, ..job.clone() }, &limited, at(1), "holder_lost", "").job;
        assert_eq!((owing.phase(), owing.due), (Phase::Held, Some(at(1) + PAY_AGAIN)), "a debt does not wait with it");
        let ended = end(job.clone(), Ending::Succeeded, None, None, None, at(1), "succeeded");
        assert_eq!(ended.acts, [], "without a limit nobody is asked");
        let held = again(job, &limited, at(1), "interrupted", "").job;
        assert_eq!((held.phase(), held.due), (Phase::Held, Some(at(1) + HELD_LOOK)));
        let last = held.timeline.last().unwrap();
        assert_eq!(
            (last.reason.as_str(), last.detail.as_str()),
            ("interrupted", "its capability's limit is 2 at once")
        );
    }

    #[test]
    fn a_launch_that_can_never_work_goes_to_the_fleet_at_once_or_ends() {
        let never = LaunchFailed { message: "no such program".into(), kind: LaunchFailure::Permanent };
        let situation = Situation::from(Limits::one_machine(1024));
        let decided = launch_failed(a_job(Venue::Fargate), &never, &situation, at(0), 0);
        assert_eq!(decided.job.route.venue(), Venue::Fleet);
        let mut pinned = a_job(Venue::Fargate);
        pinned.work.needs.only = vec![Pin::Venue(Venue::Fargate)];
        let decided = launch_failed(pinned, &never, &situation, at(0), 0);
        assert_eq!(decided.job.phase(), Phase::Failed);
        assert_eq!(decided.job.due, None);
    }
}
