//! Night watch: whatever is overdue goes through the same rooms again.
//!
//! Repair is the normal path. The reaper asks the home what it must know about a job, decides, saves, acts, and
//! answers with counts. It never compares two machines' clocks: a holder is judged by whether its beat counter moved
//! between two looks of the reaper's own.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::brake;
use crate::dispatch::{self, Act, Decided, commit, due_in};
use crate::execute::{FORCE_AFTER, LEASE};
use crate::job::{Ending, Failure, Holder, Job, JobId, Run, State, Step, Stop, StopCause};
use crate::policies::Situation;
use crate::ports::{Beat, Lane, Message, PortError, Saved, TaskState, Yard, describe};
use crate::records::REGISTER_KEPT;
use crate::route::{self, Rule, Venue};
use crate::settle::{self, REPORT_WITHIN};
use crate::tell::{self, Was};

/// Looks at a holder that did not move before it is dead.
pub const MISSES: u32 = 2;
/// Looks at a job that waits in a tier before its doorbell rings again although the tier shows messages.
pub const LOOKS: u32 = 3;
/// Jobs looked at in one round. The next round starts at once while there are more.
pub const ROUND: usize = 500;

/// What must be known before an overdue job can be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// The holder's newest beat.
    Beat(Holder),
    /// How many messages its lane shows.
    Lane(Lane),
    /// What became of the task for it.
    Task(Venue, Message),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Nothing was asked.
    Nothing,
    /// The newest beat, if there ever was one.
    Beat(Option<Beat>),
    /// Messages visible in the lane.
    Visible(u64),
    /// The task.
    Task(TaskState),
}

/// What the reaper must know about this job now.
pub fn ask(job: &Job) -> Ask {
    match &job.state {
        State::Delayed { .. } | State::Held { .. } | State::Settled(_) => Ask::Nothing,
        State::Dispatched { .. } => match job.route.venue() {
            Venue::Inline => Ask::Nothing,
            venue @ (Venue::Function | Venue::Fargate) => Ask::Task(venue, Message { id: job.id, epoch: job.epoch }),
            Venue::Fleet => Ask::Lane(dispatch::lane(job)),
        },
        State::Running(run) => match job.route.venue() {
            Venue::Inline | Venue::Function => Ask::Nothing,
            Venue::Fargate | Venue::Fleet => Ask::Beat(run.holder.clone()),
        },
    }
}

/// Decides what becomes of an overdue job. `None`: it is not overdue, or there is nothing to change.
pub fn look(job: Job, fact: &Fact, situation: &Situation, now: Timestamp) -> Option<Decided> {
    if job.due.is_none_or(|due| due > now) {
        return None;
    }
    match job.state.clone() {
        State::Settled(settlement) => {
            let acts: Vec<Act> = job.owed.iter().cloned().map(Act::Pay).collect();
            // Half as long again as it has been owed, an hour at most: a bus that is gone must not fill every round.
            let owing = now.duration_since(settlement.at).unsigned_abs() / 2;
            let wait = owing.clamp(dispatch::PAY_AGAIN, Duration::from_secs(3600));
            let due = if acts.is_empty() { None } else { Some(now + wait) };
            Some(Decided { job: Job { due, ..job }, acts })
        }
        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } if expired(&job, now) => {
            let failure = Failure::new("expired", "it had not started when its start deadline passed");
            Some(dispatch::end(job, Ending::Expired, None, Some(failure), None, now, "start_deadline"))
        }
        State::Delayed { until } if until > now => {
            // Something is owed from an earlier run; its moment has not come.
            let acts = job.owed.iter().cloned().map(Act::Pay).collect();
            Some(Decided { job: Job { due: Some(due_in(&job, until, Duration::ZERO)), ..job }, acts })
        }
        // A held one stays so while its brake is on; asked whether it may go all the same.
        State::Delayed { .. } | State::Held { .. } => Some(dispatch::again(job, situation, now, "due", "")),
        State::Dispatched { at, looks } => Some(look_at_waiting(job, fact, at, looks + 1, situation, now)),
        State::Running(run) => Some(look_at_running(job, run, fact, situation, now)),
    }
}

fn expired(job: &Job, now: Timestamp) -> bool {
    job.work.start_deadline.is_some_and(|deadline| deadline <= now)
}

/// A job that nobody has claimed yet.
fn look_at_waiting(
    mut job: Job,
    fact: &Fact,
    at: Timestamp,
    looks: u32,
    situation: &Situation,
    now: Timestamp,
) -> Decided {
    if let Some(brake) = situation.brake(&job) {
        return dispatch::hold(job, brake, now, brake.code(), "");
    }
    if let Some(rule) = outgrown(&job, situation) {
        return move_on(job, rule, situation, now);
    }
    let rises = dispatch::rises_at(&job, situation, at);
    if rises.is_some_and(|rises| rises <= now) {
        return rise(job, at, situation, now);
    }
    let mut acts: Vec<Act> = job.owed.iter().cloned().map(Act::Pay).collect();
    let message = Message { id: job.id, epoch: job.epoch };
    match job.route.venue() {
        // The invocation that was to run it is over.
        Venue::Inline => {
            return dispatch::again(job, situation, now, "handed_on", "the invocation ended before it ran");
        }
        venue @ (Venue::Function | Venue::Fargate) => {
            if !matches!(fact, Fact::Task(TaskState::Alive | TaskState::Waiting(_))) {
                acts.push(Act::Launch(venue, message));
            }
        }
        Venue::Fleet => {
            if *fact == Fact::Visible(0) || looks >= LOOKS {
                acts.push(Act::Ring(dispatch::lane(&job), message));
            }
        }
    }
    // Doubled from look to look, an hour at most: a long queue is not a reason to ask every minute.
    let wait = dispatch::FIRST_LOOK.saturating_mul(1_u32.checked_shl(looks).unwrap_or(u32::MAX));
    let due = due_in(&job, now, wait.min(Duration::from_secs(3600)));
    job.due = Some(rises.map_or(due, |rises| due.min(rises)));
    job.state = State::Dispatched { at, looks };
    Decided { job, acts }
}

/// The rule by which the pool that a job waits in cannot run it any more: no worker there would ever take it.
fn outgrown(job: &Job, situation: &Situation) -> Option<Rule> {
    match job.route.venue() {
        // Whoever launches finds out, and each launch is another's decision.
        Venue::Inline | Venue::Function | Venue::Fargate => None,
        Venue::Fleet => route::still_runs(job.route.place, &job.work.needs, situation.limits()).err(),
    }
}

/// Sends a job on from a pool that cannot run it any more: to another place, or to its end.
fn move_on(job: Job, rule: Rule, situation: &Situation, now: Timestamp) -> Decided {
    let detail = format!("{}: {}", job.route.place, rule.as_text());
    dispatch::again(job, situation, now, "pool_outgrown", &detail)
}

/// A job that waited so long that the rules let it rise: it rings in the next higher tier, at a new epoch.
fn rise(mut job: Job, since: Timestamp, situation: &Situation, now: Timestamp) -> Decided {
    job.aged += 1;
    let waited = now.duration_since(since).as_secs();
    let detail = format!("waited {waited} s; {} tier", dispatch::lane(&job).tier);
    job.take(Step::Dispatch, State::Dispatched { at: since, looks: 0 }, now, "aged", detail);
    job.due = Some(dispatch::first_look(&job, situation, now));
    let acts = dispatch::acts(&job);
    Decided { job, acts }
}

/// A job that somebody runs, or is said to.
fn look_at_running(mut job: Job, mut run: Run, fact: &Fact, situation: &Situation, now: Timestamp) -> Decided {
    if let Some(end) = run.ended.clone() {
        if now < end.at + REPORT_WITHIN {
            // Nobody is left to ask, and nothing to force: only its report can still come.
            job.due = Some(end.at + REPORT_WITHIN);
            return Decided { job, acts: vec![] };
        }
        if let Some(decided) = settle::report_is_missing(job.clone(), &end, situation, now) {
            return decided;
        }
    }
    let beats = has_beat(&job);
    let shows_life = beats.then(|| watch(&mut run, &job, fact));
    // Ordered back because its instance goes: whether its holder does that or is gone, its beats tell.
    let asked = run.stop.clone().filter(|stop| stop.cause != StopCause::Drain);
    if let Some(stop) = &asked {
        if now >= stop.at + FORCE_AFTER {
            // A holder that has not beaten since it was asked, a lease ago, has not overrun: nobody was there to end it.
            if stop.cause == StopCause::Deadline && beats && run.watch.misses > 0 {
                return lost(job, &run, situation, now);
            }
            return force(job, &run, stop.cause, situation, now);
        }
    } else if now >= run.deadline + FORCE_AFTER && !beats {
        // An invocation cannot be asked: it ended by itself, or what runs there ends with it.
        return settle::lost(job, situation, now, "its invocation ended without a report");
    } else if now >= run.deadline {
        run.stop = Some(Stop { cause: StopCause::Deadline, at: now });
        job.due = Some(now + FORCE_AFTER);
        job.state = State::Running(run);
        job.note(None, now, "stop_requested", "its time is over");
        return Decided { job, acts: vec![] };
    }
    if shows_life == Some(false) {
        return lost(job, &run, situation, now);
    }
    let wait = if beats { LEASE } else { LEASE.max(FORCE_AFTER) };
    let end = asked.map_or(run.deadline, |stop| stop.at + FORCE_AFTER);
    job.due = Some((now + wait).min(end.max(now)));
    job.state = State::Running(run);
    let acts = job.owed.iter().cloned().map(Act::Pay).collect();
    Decided { job, acts }
}

/// Whether the holder shows life with this run in it, seen from the looks so far and this one.
fn watch(run: &mut Run, job: &Job, fact: &Fact) -> bool {
    let beat = match fact {
        Fact::Beat(beat) => beat.as_ref(),
        Fact::Nothing | Fact::Visible(_) | Fact::Task(_) => None,
    };
    let run_id = Message { id: job.id, epoch: job.epoch };
    let moved = beat.is_some_and(|beat| beat.counter > run.watch.counter && beat.running.contains(&run_id));
    if let Some(beat) = beat {
        run.watch.counter = run.watch.counter.max(beat.counter);
    }
    run.watch.misses = if moved { 0 } else { run.watch.misses + 1 };
    run.watch.misses < MISSES
}

fn lost(job: Job, run: &Run, situation: &Situation, now: Timestamp) -> Decided {
    let holder = run.holder.to_string();
    settle::lost(job, situation, now, &format!("{holder} shows no life"))
}

fn has_beat(job: &Job) -> bool {
    match job.route.venue() {
        Venue::Fargate | Venue::Fleet => true,
        Venue::Inline | Venue::Function => false,
    }
}

/// The holder was asked and did not answer in time: the record ends without it.
fn force(mut job: Job, run: &Run, cause: StopCause, situation: &Situation, now: Timestamp) -> Decided {
    let unnumbered = dispatch::is_unnumbered(&job, situation);
    settle::charge(&mut job, run, situation, now);
    settle::owe_stop(&mut job);
    let ended = match cause {
        StopCause::Cancel | StopCause::Stale | StopCause::Drain => {
            dispatch::end(job, Ending::Cancelled, None, None, None, now, "forced")
        }
        StopCause::Deadline => {
            job.attempts_spent += 1;
            let failure = Failure::new("timed_out", "it ran over its time limit and its holder did not end it");
            dispatch::end(job, Ending::TimedOut, None, Some(failure), None, now, "forced")
        }
    };
    dispatch::makes_room(unnumbered, ended)
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that were due.
    pub found: u64,
    /// Jobs changed.
    pub done: u64,
    /// Jobs that somebody else moved on meanwhile.
    pub already_done: u64,
    /// Jobs that could not be looked at.
    pub errors: u64,
    /// Settled jobs removed after their retention.
    pub forgotten: u64,
    /// Held jobs sent on although nobody had just made room for them: what a crash or a change of the rules left.
    pub admitted: u64,
}

/// One round: every overdue job is looked at once, each for itself; what was kept long enough is forgotten, and what
/// is held and may go is sent on.
///
/// # Errors
///
/// The ledger could not list what is due. A single job's failure is counted, and met again at its `due`.
pub async fn round(yard: &Yard) -> Result<Counts, PortError> {
    let due = yard.ledger.due(yard.ambient.now(), ROUND).await?;
    let mut counts = Counts { found: due.len() as u64, ..Counts::default() };
    for id in due {
        match look_again(yard, id).await {
            Ok(true) => counts.done += 1,
            Ok(false) => counts.already_done += 1,
            Err(error) => {
                counts.errors += 1;
                warn!(job.id = %id, %error, "overdue job not looked at");
            }
        }
    }
    // The sweep is the one repair for what is held: nothing before it may keep it from its turn.
    match forget(yard).await {
        Ok(forgotten) => counts.forgotten = forgotten,
        Err(error) => {
            counts.errors += 1;
            warn!(error = %describe(&error), "nothing was forgotten in this round");
        }
    }
    counts.admitted = brake::sweep(yard).await?;
    yard.meters.reaped(&counts);
    if counts != Counts::default() {
        let Counts { found, done, already_done, errors, forgotten, admitted } = counts;
        info!(found, done, already_done, errors, forgotten, admitted, "reaped");
    }
    Ok(counts)
}

async fn look_again(yard: &Yard, id: JobId) -> Result<bool, PortError> {
    let Some(job) = yard.ledger.load(id).await? else { return Ok(false) };
    let fact = match ask(&job) {
        Ask::Nothing => Fact::Nothing,
        Ask::Beat(holder) => Fact::Beat(yard.ledger.last_beat(&holder).await?),
        Ask::Lane(lane) => Fact::Visible(yard.lanes.visible(&lane).await?),
        Ask::Task(venue, message) => Fact::Task(yard.launcher.find(message.id, message.epoch, venue).await?),
    };
    let was = Was::of(&job);
    let Some(decided) = look(job, &fact, &yard.situation().await, yard.ambient.now()) else { return Ok(false) };
    save(yard, &was, decided).await
}

/// Saves a decision and tells of it; answers whether it was saved.
async fn save(yard: &Yard, was: &Was, decided: Decided) -> Result<bool, PortError> {
    let next = decided.job.clone();
    let saved = commit(yard, decided, None).await? == Saved::Saved;
    if saved {
        tell::changed(yard, was, &next);
    }
    Ok(saved)
}

async fn forget(yard: &Yard) -> Result<u64, PortError> {
    let before = yard.ambient.now() - yard.retention;
    let ids = yard.ledger.forgettable(before, ROUND).await?;
    let mut gone = Vec::with_capacity(ids.len());
    for id in ids {
        match forget_beside(yard, id, before).await {
            Ok(true) => gone.push(id),
            Ok(false) => {}
            // Each for itself: one whose log cannot be removed keeps no other, and is met again in the next round.
            Err(error) => warn!(job.id = %id, error = %describe(&error), "a settled job is not forgotten yet"),
        }
    }
    yard.ledger.forget(&gone).await?;
    // What nobody sees any more is no job, and is not counted as one.
    yard.ledger.forget_registered(yard.ambient.now() - REGISTER_KEPT, ROUND).await?;
    Ok(gone.len() as u64)
}

/// Removes what lies beside a record that may go. Answers whether it may: an index may still show what another reaper
/// forgot, and its key may be a new job's by now.
async fn forget_beside(yard: &Yard, id: JobId, before: Timestamp) -> Result<bool, PortError> {
    let job = yard.ledger.load(id).await?;
    let over = job.is_some_and(|job| match &job.state {
        State::Settled(settlement) => settlement.at < before && job.due.is_none(),
        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Running(_) => false,
    });
    if over {
        // The record goes last: a crash in between leaves something that the next round finds.
        yard.blobs.forget(id).await?;
        yard.logs.forget(id).await?;
    }
    Ok(over)
}

/// After a restart of a home that lost every holder with itself: runs are lost at once, without waiting for beats,
/// and dispatches that rested on the old process are carried out again. Delayed jobs and tiers need nothing.
///
/// The home calls this once, before anything new is accepted, and after it ended whatever still ran.
///
/// # Errors
///
/// The ledger failed: the home must not open.
pub async fn after_restart(yard: &Yard, unsettled: Vec<JobId>) -> Result<Counts, PortError> {
    let mut counts = Counts { found: unsettled.len() as u64, ..Counts::default() };
    for id in unsettled {
        let job = match yard.ledger.load(id).await {
            Ok(Some(job)) => job,
            Ok(None) => continue,
            // A record that cannot be read must not keep the others from their way.
            Err(error) if !error.retryable => {
                counts.errors += 1;
                warn!(job.id = %id, error = %describe(&error), "a job cannot be taken up");
                continue;
            }
            Err(error) => return Err(error),
        };
        let was = Was::of(&job);
        let Some(decided) = restarted(job, &yard.situation().await, yard.ambient.now()) else {
            counts.already_done += 1;
            continue;
        };
        save(yard, &was, decided).await?;
        counts.done += 1;
    }
    counts.admitted = brake::sweep(yard).await?;
    Ok(counts)
}

/// What a restart of the whole home means for one job.
fn restarted(job: Job, situation: &Situation, now: Timestamp) -> Option<Decided> {
    match &job.state {
        State::Running(run) => match run.stop.as_ref().map(|stop| stop.cause) {
            // Asked to end, and ended with the process.
            Some(cause @ (StopCause::Cancel | StopCause::Deadline)) => {
                let run = run.clone();
                Some(force(job, &run, cause, situation, now))
            }
            Some(StopCause::Stale | StopCause::Drain) | None => {
                Some(settle::lost(job, situation, now, "the yard was restarted"))
            }
        },
        State::Dispatched { at, .. } => match job.route.venue() {
            Venue::Inline | Venue::Function | Venue::Fargate => {
                let at = *at;
                Some(look_at_waiting(job, &Fact::Task(TaskState::Absent), at, 1, situation, now))
            }
            // Its doorbell is the record; but the yard may have opened with less than it had.
            Venue::Fleet => outgrown(&job, situation).map(|rule| move_on(job, rule, situation, now)),
        },
        State::Delayed { .. } | State::Held { .. } | State::Settled(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, Owed, Phase};
    use crate::route::{Limits, Pin};
    use crate::testing::{a_job, a_running_job, at};

    fn here() -> Situation {
        Limits::one_machine(8192).into()
    }

    fn beat(job: &Job, counter: u64, named: bool) -> Fact {
        let State::Running(run) = &job.state else { panic!("not running") };
        let running = if named { vec![Message { id: job.id, epoch: job.epoch }] } else { vec![] };
        Fact::Beat(Some(Beat { holder: run.holder.clone(), counter, running }))
    }

    #[test]
    fn nothing_is_touched_before_it_is_due() {
        let mut job = a_job(Venue::Fleet);
        job.due = Some(at(60));
        assert_eq!(look(job, &Fact::Visible(0), &here(), at(59)), None);
    }

    #[test]
    fn a_waiting_job_rings_at_once_when_its_tier_is_empty_else_at_the_third_look() {
        let mut job = a_job(Venue::Fleet);
        job.due = Some(at(0));
        let bell = Act::Ring(dispatch::lane(&job), Message { id: job.id, epoch: Epoch(1) });
        let empty = look(job.clone(), &Fact::Visible(0), &here(), at(0)).unwrap();
        assert_eq!(empty.acts, std::slice::from_ref(&bell));
        let mut gaps = vec![];
        let mut now = at(0);
        for seen in 1..=8 {
            let decided = look(job, &Fact::Visible(3), &here(), now).unwrap();
            assert_eq!(decided.acts, if seen >= LOOKS { vec![bell.clone()] } else { vec![] }, "look {seen}");
            let due = decided.job.due.unwrap();
            gaps.push(due.duration_since(now).as_secs());
            (job, now) = (decided.job, due);
        }
        assert_eq!(gaps, [120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(job.epoch, Epoch(1), "ringing again is not a new dispatch");
    }

    #[test]
    fn a_holder_is_dead_after_two_looks_without_movement() {
        let mut job = a_running_job(Venue::Fleet, 1);
        job.due = Some(at(60));
        let alive = look(job.clone(), &beat(&job, 4, true), &here(), at(60)).unwrap().job;
        let once = look(alive.clone(), &beat(&alive, 4, true), &here(), at(120)).unwrap().job;
        assert_eq!(once.phase(), Phase::Running);
        // It moved after all: the count starts anew.
        let moved = look(once.clone(), &beat(&once, 5, true), &here(), at(180)).unwrap().job;
        let State::Running(run) = &moved.state else { panic!() };
        assert_eq!(run.watch.misses, 0);
        let twice = look(once.clone(), &beat(&once, 4, true), &here(), at(180)).unwrap().job;
        assert_eq!(
            (twice.phase(), twice.epoch, twice.losses, twice.attempts_spent),
            (Phase::Dispatched, Epoch(2), 1, 0)
        );
    }

    #[test]
    fn a_living_holder_that_does_not_name_the_run_has_lost_it() {
        let mut job = a_running_job(Venue::Fleet, 1);
        for (counter, now) in [(4, 60), (8, 120)] {
            job.due = Some(at(now));
            job = look(job.clone(), &beat(&job, counter, false), &here(), at(now)).unwrap().job;
        }
        assert_eq!((job.phase(), job.losses), (Phase::Dispatched, 1));
    }

    #[test]
    fn a_run_over_its_time_is_asked_then_forced_and_its_task_stopped() {
        let mut job = a_running_job(Venue::Fargate, 1);
        let State::Running(run) = &job.state else { panic!() };
        let deadline = run.deadline;
        job.due = Some(deadline);
        let asked = look(job.clone(), &beat(&job, 9, true), &here(), deadline).unwrap().job;
        assert_eq!((asked.phase(), asked.due), (Phase::Running, Some(deadline + FORCE_AFTER)));
        let forced = look(asked.clone(), &beat(&asked, 12, true), &here(), deadline + FORCE_AFTER).unwrap();
        assert_eq!((forced.job.phase(), forced.job.attempts_spent), (Phase::TimedOut, 1));
        assert_eq!(forced.acts, [Act::Pay(Owed::StopTask { venue: Venue::Fargate, epoch: Epoch(1) })]);
    }

    #[test]
    fn a_holder_that_died_before_its_run_s_time_was_over_has_lost_it_and_the_job_pays_nothing() {
        for (last, phase, losses, spent) in [(4, Phase::Dispatched, 1, 0), (5, Phase::TimedOut, 0, 1)] {
            let mut job = a_running_job(Venue::Fleet, 1);
            let State::Running(run) = &job.state else { panic!() };
            let deadline = run.deadline;
            job.due = Some(at(60));
            // Its last sign of life, before its time is over.
            let mut job = look(job.clone(), &beat(&job, 4, true), &here(), at(60)).unwrap().job;
            job.due = Some(deadline);
            let asked = look(job.clone(), &beat(&job, 4, true), &here(), deadline).unwrap().job;
            assert_eq!(asked.phase(), Phase::Running);
            let ended = look(asked.clone(), &beat(&asked, last, true), &here(), deadline + FORCE_AFTER).unwrap().job;
            assert_eq!((ended.phase(), ended.losses, ended.attempts_spent), (phase, losses, spent));
        }
    }

    #[test]
    fn a_run_whose_task_has_ended_without_a_report_has_failed_a_minute_later() {
        use crate::job::TaskEndCause::{Exited, OutOfMemory, TakenAway};
        for (cause, spent, interruptions, reason) in
            [(Exited, 1, 0, "attempt_failed"), (OutOfMemory, 1, 0, "out_of_memory"), (TakenAway, 0, 1, "interrupted")]
        {
            let mut job = a_running_job(Venue::Fargate, 1);
            let State::Running(run) = &job.state else { panic!() };
            let instance = run.holder.instance().to_owned();
            let end = crate::job::TaskEnd { at: at(50), cause, how: "SpotInterruption".into() };
            let noted = settle::task_seen_to_end(job.clone(), job.epoch, &instance, end, &here(), at(50), 0);
            job = noted.unwrap().unwrap().job;
            job.due = Some(at(60));
            let early = look(job, &Fact::Beat(None), &here(), at(60)).unwrap().job;
            assert_eq!((early.phase(), early.due), (Phase::Running, Some(at(110))), "its report may be under way");
            let ended = look(early, &Fact::Beat(None), &here(), at(110)).unwrap().job;
            assert_eq!((ended.attempts_spent, ended.interruptions, ended.losses), (spent, interruptions, 0));
            assert_eq!(ended.timeline.last().unwrap().reason, reason);
        }
    }

    #[test]
    fn an_expired_job_never_starts() {
        let mut job = a_job(Venue::Fleet);
        job.work.start_deadline = Some(at(30));
        job.due = Some(at(30));
        assert_eq!(look(job, &Fact::Visible(1), &here(), at(30)).unwrap().job.phase(), Phase::Expired);
    }

    #[test]
    fn an_inline_job_whose_invocation_ended_is_handed_on() {
        let mut job = a_job(Venue::Inline);
        job.due = Some(at(60));
        job.work.needs.packaging = crate::route::Packaging::Builtin;
        let decided = look(job, &Fact::Nothing, &here(), at(60)).unwrap();
        assert_eq!((decided.job.route.venue(), decided.job.epoch), (Venue::Function, Epoch(2)));
    }

    #[test]
    fn a_launch_is_repeated_only_when_no_task_is_alive() {
        let mut job = a_job(Venue::Fargate);
        job.due = Some(at(60));
        let message = Message { id: job.id, epoch: Epoch(1) };
        let absent = look(job.clone(), &Fact::Task(TaskState::Absent), &here(), at(60)).unwrap();
        assert_eq!(absent.acts, [Act::Launch(Venue::Fargate, message)]);
        for there in [TaskState::Alive, TaskState::Waiting(3)] {
            assert_eq!(look(job.clone(), &Fact::Task(there), &here(), at(60)).unwrap().acts, []);
        }
    }

    #[test]
    fn a_job_that_its_pool_became_too_small_for_goes_on_or_ends() {
        let small = Situation::from(Limits { pools: vec![], ..Limits::one_machine(8192) });
        let shrunk = Situation::from(Limits { fargate_memory_mib: 8192, ..Limits::one_machine(511) });
        for (situation, says) in [(&small, Rule::NoPool), (&shrunk, Rule::Memory)] {
            let job = Job { due: Some(at(60)), ..a_job(Venue::Fleet) };
            let looked = look(job.clone(), &Fact::Visible(1), situation, at(60)).unwrap();
            for decided in [looked, restarted(job.clone(), situation, at(60)).unwrap()] {
                assert_eq!((decided.job.route.venue(), decided.job.epoch), (Venue::Fargate, Epoch(2)));
                assert!(matches!(decided.acts[..], [Act::Launch(Venue::Fargate, _)]));
                let last = decided.job.timeline.last().unwrap();
                let detail = format!("fleet/standard: {}; fargate", says.as_text());
                assert_eq!((last.reason.as_str(), last.detail.as_str()), ("pool_outgrown", detail.as_str()));
            }
            let mut pinned = job;
            pinned.work.needs.only = vec![Pin::Venue(Venue::Fleet)];
            let looked = look(pinned.clone(), &Fact::Visible(1), situation, at(60)).unwrap();
            for decided in [looked, restarted(pinned, situation, at(60)).unwrap()] {
                let State::Settled(ended) = &decided.job.state else { panic!("{:?}", decided.job.state) };
                assert_eq!(ended.ending, Ending::Failed);
                assert_eq!(ended.error.as_ref().unwrap().code, "no_feasible_venue");
            }
        }
    }

    fn ageing(after: Option<Duration>) -> Situation {
        let mut situation = here();
        let policies = crate::policies::Policies { ageing: after, ..(*situation.policies).clone() };
        situation.policies = policies.into();
        situation
    }

    #[test]
    fn where_ageing_is_on_a_waiting_job_rises_tier_by_tier_to_the_highest() {
        let situation = ageing(Some(Duration::from_secs(100)));
        let mut job = dispatch::again(a_running_job(Venue::Fleet, 1), &situation, at(0), "interrupted", "").job;
        let mut told = vec![];
        let mut now = at(0);
        while now < at(400) {
            now = job.due.unwrap();
            let decided = look(job, &Fact::Visible(0), &situation, now).unwrap();
            let [Act::Ring(lane, message)] = &decided.acts[..] else { panic!("{:?}", decided.acts) };
            told.push((now.duration_since(at(0)).as_secs(), lane.tier, message.epoch.0));
            job = decided.job;
        }
        use crate::job::Tier::{Priority, Standard, Synchronous};
        let first = [(60, Standard, 2), (100, Priority, 3), (160, Priority, 3), (200, Synchronous, 4)];
        assert_eq!(told[..4], first, "never later than it rises");
        assert!(told[4..].iter().all(|(_, tier, epoch)| (*tier, *epoch) == (Synchronous, 4)), "{told:?}");
        assert_eq!((job.aged, job.work.tier), (2, Standard), "its own tier stays what was asked for");
        let tasks = look(Job { due: Some(at(500)), ..a_job(Venue::Fargate) }, &Fact::Nothing, &situation, at(500));
        assert_eq!(tasks.unwrap().job.aged, 0, "only the fleet has tiers");
    }

    #[test]
    fn a_waiting_job_that_was_paused_is_held_and_rings_nowhere() {
        let pause = brake::Pause { scope: brake::Scope::All, by: "ana".into(), at: at(0), reason: String::new() };
        let situation = Situation { pauses: std::sync::Arc::new([pause].into_iter().collect()), ..here() };
        for venue in [Venue::Fleet, Venue::Fargate, Venue::Inline] {
            let mut job = a_job(venue);
            job.due = Some(at(60));
            let fact = if venue == Venue::Fargate { Fact::Task(TaskState::Absent) } else { Fact::Visible(0) };
            let held = look(job, &fact, &situation, at(60)).unwrap();
            assert_eq!((held.job.phase(), held.job.epoch), (Phase::Held, Epoch(1)));
            assert_eq!(held.acts, [Act::Admit("file-digest".into())], "no bell, no launch");
            let again = look(held.job.clone(), &Fact::Nothing, &situation, held.job.due.unwrap()).unwrap().job;
            assert_eq!((again.state.clone(), again.timeline.len()), (held.job.state, held.job.timeline.len()));
        }
    }

    proptest::proptest! {
        /// Ageing is off by default, and then tiers are strict: however long a job waits, it never rises.
        #[test]
        fn without_ageing_no_job_ever_rises(looks in proptest::collection::vec((0_u64..100_000, 0_u64..3), 1..40)) {
            let situation = ageing(None);
            let mut job = a_job(Venue::Fleet);
            for (later, visible) in looks {
                let now = job.due.unwrap() + Duration::from_secs(later);
                job = look(job, &Fact::Visible(visible), &situation, now).unwrap().job;
                proptest::prop_assert_eq!((job.aged, dispatch::lane(&job).tier), (0, job.work.tier));
            }
        }
    }

    #[test]
    fn a_restart_loses_runs_repeats_launches_and_leaves_the_rest() {
        let lost = restarted(a_running_job(Venue::Fleet, 1), &here(), at(9)).unwrap().job;
        assert_eq!((lost.phase(), lost.losses, lost.attempts_spent), (Phase::Dispatched, 1, 0));
        let launched = restarted(a_job(Venue::Fargate), &here(), at(9)).unwrap();
        assert!(matches!(launched.acts[..], [Act::Launch(Venue::Fargate, _)]));
        assert_eq!(restarted(a_job(Venue::Fleet), &here(), at(9)), None);
    }
}
