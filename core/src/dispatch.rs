//! Room 3: the route is recorded; carry it out. Here a decision becomes a write, and then its acts.
//!
//! **Save, then act.** [`commit`] is the only place where the two meet. An act that fails or that a crash swallows
//! is made good by the reaper, because the record's `due` was written first.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use crate::execute::persist;
use crate::job::{Ending, Failure, Job, Owed, Settlement, State, Step, Venue};
use crate::ports::{Body, Lane, LaunchFailed, Message, PortError, Saved, Yard};
use crate::route::{Conditions, Limits, pool_name, route};
use crate::settle;

/// How long a dispatched job waits before the reaper looks for the first time. A minute: a Fargate task takes 50 to
/// 60 s to start with a 400 MB image, and a doorbell that was heard is answered well within.
pub const FIRST_LOOK: Duration = Duration::from_secs(60);
/// Launches that may fail before the job goes to the fleet instead.
pub const LAUNCHES: u32 = 3;
/// Tries of one write whose answer does not come: about half a second in all. Whoever called tries longer.
const SAVES: u32 = 3;
/// The wait after a first failed launch; doubled by each further one.
pub const LAUNCH_BACKOFF: Duration = Duration::from_secs(5);

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
    if let State::Dispatched { .. } = job.state {
        let message = Message { id: job.id, epoch: job.epoch };
        acts.push(match job.route.venue {
            Venue::Inline => Act::RunHere(message),
            venue @ (Venue::Function | Venue::Fargate) => Act::Launch(venue, message),
            Venue::Fleet => Act::Ring(lane(job), message),
        });
    }
    acts
}

/// The lane a job's doorbell rings in.
pub fn lane(job: &Job) -> Lane {
    Lane { pool: job.work.pool.clone(), tier: job.work.tier }
}

/// When the reaper first looks at a job dispatched now: never after its start deadline.
pub fn first_look(job: &Job, now: Timestamp) -> Timestamp {
    due_in(job, now, FIRST_LOOK)
}

/// The moment `wait` from now, or the start deadline if that comes first.
pub(crate) fn due_in(job: &Job, now: Timestamp, wait: Duration) -> Timestamp {
    let due = now + wait;
    job.work.start_deadline.map_or(due, |deadline| due.min(deadline))
}

/// The conditions of a job that no invocation holds any more: inline is not possible again.
pub fn conditions(job: &Job) -> Conditions {
    Conditions {
        invocation_left: None,
        interruptions: job.interruptions,
        launches_exhausted: job.launch_failures >= LAUNCHES,
    }
}

/// Sends a job on its way again: a new epoch at whatever venue will do now; or its end, where none will.
///
/// The caller has checked that the step is legal from where the job stands.
pub fn again(mut job: Job, limits: &Limits, now: Timestamp, reason: &str, detail: &str) -> Decided {
    let conditions = conditions(&job);
    match route(&job.work.needs, &conditions, limits) {
        Ok(chosen) => {
            job.route = chosen;
            if let Some(pool) = pool_name(&job.work.needs, &conditions, limits) {
                job.work.pool = pool.to_owned();
            }
            let detail =
                if detail.is_empty() { chosen.venue.to_string() } else { format!("{detail}; {}", chosen.venue) };
            legal(job.step(Step::Dispatch, State::Dispatched { at: now, looks: 0 }, now, reason, detail));
            job.due = Some(first_look(&job, now));
            let acts = acts(&job);
            Decided { job, acts }
        }
        Err(refused) => {
            let failure = Failure::new("no_feasible_venue", refused.to_string());
            settle::end(job, Ending::Failed, None, Some(failure), None, now, reason)
        }
    }
}

/// Puts a job off until `until`; the reaper dispatches it then.
pub fn delay(mut job: Job, until: Timestamp, now: Timestamp, reason: &str, detail: &str) -> Decided {
    legal(job.step(Step::Delay, State::Delayed { until }, now, reason, detail));
    job.due = Some(due_in(&job, until, Duration::ZERO));
    let acts = acts(&job);
    Decided { job, acts }
}

/// Decides what follows a failed launch: another try after a pause, the fleet, or the end.
pub fn launch_failed(mut job: Job, failed: &LaunchFailed, limits: &Limits, now: Timestamp, chance: u64) -> Decided {
    job.launch_failures = if failed.retryable { job.launch_failures + 1 } else { job.launch_failures.max(LAUNCHES) };
    if job.launch_failures < LAUNCHES {
        let pause = backoff(LAUNCH_BACKOFF, job.launch_failures, chance);
        return delay(job, now + pause, now, "launch_failed", &failed.message);
    }
    again(job, limits, now, "launches_exhausted", &failed.message)
}

/// The `n`-th pause (from 1) of a doubling series that starts at `first`: between half and all of it, so that jobs
/// which failed together do not return together; at most an hour.
pub fn backoff(first: Duration, n: u32, chance: u64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = u64::try_from(doubled.min(Duration::from_secs(3600)).as_millis()).unwrap_or(3_600_000);
    let half = whole / 2;
    Duration::from_millis(whole - half + chance % (half + 1))
}

/// Says that a step cannot be illegal here, and why it is a defect of this crate if it is.
pub(crate) fn legal(stepped: Result<(), crate::job::IllegalStep>) {
    if let Err(illegal) = stepped {
        // A room decides a step only after matching on the state it starts from.
        unreachable!("a decision took an illegal step: {illegal}");
    }
}

/// Saves a decision, and acts on it when it was saved. A refusal changes nothing and is the caller's to judge.
///
/// # Errors
///
/// The ledger failed; whether the write took effect is then unknown, and the record's `due` brings the reaper.
pub async fn commit(yard: &Yard, decided: Decided, result: Option<Body>) -> Result<Saved, PortError> {
    let Decided { job, acts } = decided;
    let job = job.stamped(yard.ambient.nonce());
    // The very same write again: whoever decided anew would meet its own decision and take it for another's.
    let save = || yard.ledger.save(job.clone(), result.clone());
    let saved = match persist(&*yard.ambient, "save", SAVES, save).await? {
        // Our own nonce: the write took effect, its answer was lost on the way.
        Saved::Refused(Some(current)) if current.nonce == job.nonce => Saved::Saved,
        saved => saved,
    };
    if saved == Saved::Saved {
        carry_out(yard, job, acts).await;
    }
    Ok(saved)
}

/// Does what a saved record asks for. Nothing that fails here is lost: the record says what is due.
pub async fn carry_out(yard: &Yard, job: Job, acts: Vec<Act>) {
    for act in acts {
        match act {
            // The caller of `accept` runs it; on any other way here no invocation is at hand, and none is routed so.
            Act::RunHere(_) => {}
            Act::Ring(lane, message) => {
                if let Err(error) = yard.lanes.ring(&lane, message).await {
                    warn!(job.id = %job.id, job.epoch = %job.epoch, %error, "doorbell not rung; the reaper rings it");
                }
            }
            Act::Launch(venue, _) => match yard.launcher.launch(&job).await {
                Ok(()) => debug!(job.id = %job.id, job.epoch = %job.epoch, venue = %venue, "launched"),
                Err(failed) => {
                    let decided =
                        launch_failed(job.clone(), &failed, &yard.limits, yard.ambient.now(), yard.ambient.chance());
                    // The next decision acts for itself; boxed, because it may lead to a launch again.
                    if let Err(error) = Box::pin(commit(yard, decided, None)).await {
                        warn!(job.id = %job.id, %error, "failed launch not recorded; the reaper launches again");
                    }
                }
            },
            Act::Pay(owed) => {
                if let Err(error) = settle::pay(yard, &job, &owed).await {
                    warn!(job.id = %job.id, %error, "not paid yet; the reaper tries again");
                }
            }
        }
    }
}

/// The settlement's state, for those who only build it.
pub(crate) fn settled(settlement: Settlement) -> State {
    State::Settled(settlement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, Phase};
    use crate::testing::{a_job, at};

    #[test]
    fn a_dispatch_to_the_fleet_rings_and_nothing_else() {
        let job = a_job(Venue::Fleet);
        let message = Message { id: job.id, epoch: Epoch(1) };
        assert_eq!(acts(&job), [Act::Ring(lane(&job), message)]);
    }

    #[test]
    fn a_failed_launch_waits_then_falls_back_to_the_fleet() {
        let mut job = a_job(Venue::Fargate);
        let throttled = LaunchFailed { message: "no capacity".into(), retryable: true };
        let limits = Limits::one_machine(1024);
        for failures in 1..LAUNCHES {
            let decided = launch_failed(job, &throttled, &limits, at(0), 0);
            assert_eq!((decided.job.phase(), decided.acts.len()), (Phase::Delayed, 0));
            assert_eq!(decided.job.launch_failures, failures);
            job = again(decided.job, &limits, at(10), "due", "").job;
            job.route.venue = Venue::Fargate;
        }
        let decided = launch_failed(job, &throttled, &limits, at(20), 0);
        assert_eq!(decided.job.route.venue, Venue::Fleet);
        assert_eq!(decided.job.attempts_spent, 0, "a failed launch spends no attempt");
        assert!(matches!(decided.acts[..], [Act::Ring(..)]));
    }

    #[test]
    fn a_launch_that_can_never_work_goes_to_the_fleet_at_once_or_ends() {
        let never = LaunchFailed { message: "no such program".into(), retryable: false };
        let limits = Limits::one_machine(1024);
        let decided = launch_failed(a_job(Venue::Fargate), &never, &limits, at(0), 0);
        assert_eq!(decided.job.route.venue, Venue::Fleet);
        let mut pinned = a_job(Venue::Fargate);
        pinned.work.needs.only = vec![Venue::Fargate];
        let decided = launch_failed(pinned, &never, &limits, at(0), 0);
        assert_eq!(decided.job.phase(), Phase::Failed);
        assert_eq!(decided.job.due, None);
    }

    #[test]
    fn backoff_doubles_is_spread_and_ends_at_an_hour() {
        let ten = Duration::from_secs(10);
        assert_eq!(backoff(ten, 1, 0), Duration::from_secs(5));
        assert_eq!(backoff(ten, 1, 5000), Duration::from_secs(10));
        assert_eq!(backoff(ten, 3, 0), Duration::from_secs(20));
        assert_eq!(backoff(ten, 40, u64::MAX - 1).as_secs() / 3600, 0);
        assert!(backoff(ten, 40, 0) >= Duration::from_secs(1800));
        assert_eq!(backoff(Duration::ZERO, 3, 7), Duration::ZERO);
    }
}
