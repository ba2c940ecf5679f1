//! Room 5: report -> final state or next dispatch. A stale epoch is refused; what is owed is written down and paid.
//!
//! Cancelling and retrying by hand are here too: they are other ways to a final state or a next dispatch.

mod raise;
mod back;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tracing::info;

use crate::brake;
use crate::dispatch::{self, Decided, ROUNDS, commit, end, overtaken};
use crate::job::{
    Ending, Epoch, Failure, Job, JobId, Owed, Phase, ResultRef, State, Stop, StopCause, TaskEnd, TaskEndCause,
    TokenHash,
};
use crate::lend::{Answer, Loan, LoanRequest};
use crate::policies::Situation;
use crate::ports::{
    Beat, Body, Claim, Claimed, Desk, Emission, LaunchFailed, LaunchFailure, LogLine, Message, Order, Outcome,
    PortError, Refusal, Report, Reported, Saved, Usage, Voucher, Yard, backoff,
};
use crate::records::{self, Became, Emitted};
use crate::route::{Venue, route};
use crate::tell::{self, Was};

pub use self::back::{order_all_back, order_back};
pub(crate) use self::raise::charge;
use self::raise::{out_of_memory, out_of_time};

/// Losses without notice after which a job is taken for the reason of them.
pub const LOSSES: u32 = 4;

/// A report from a run that the job no longer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This very run settled the job before: its answer was lost, nothing more to do.
    Already,
    /// The job moved on: whatever the run did is not its result.
    Stale,
}

/// What a report says, without the secret that came with it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The epoch of the run.
    pub epoch: Epoch,
    /// The hash of the token shown; `None` when the yard itself knows that the run ended.
    pub token: Option<TokenHash>,
    /// How it ended.
    pub outcome: &'a Outcome,
}

/// Decides what a report leads to.
///
/// # Errors
///
/// [`Refused`] when the report is not from the job's present run.
pub fn report(
    job: Job,
    told: Told<'_>,
    situation: &Situation,
    now: Timestamp,
    chance: u64,
) -> Result<Decided, Refused> {
    let run = match &job.state {
        State::Running(run) if job.epoch == told.epoch && told.token.is_none_or(|token| token == run.token) => {
            run.clone()
        }
        State::Settled(settlement)
            if job.epoch == told.epoch && told.token.is_some() && settlement.token == told.token =>
        {
            return Err(Refused::Already);
        }
        State::Running(_)
        | State::Delayed { .. }
        | State::Held { .. }
        | State::Dispatched { .. }
        | State::Settled(_) => {
            return Err(Refused::Stale);
        }
    };
    let mut job = job;
    let unnumbered = dispatch::is_unnumbered(&job, situation);
    charge(&mut job, &run, situation, now);
    let by = Some(run.token);
    let asked = run.stop.as_ref().map(|stop| stop.cause);
    let decided = match told.outcome {
        // Done is done, even if somebody asked it to stop meanwhile.
        Outcome::Succeeded(result) => {
            let result = result.as_ref().map(|text| ResultRef { epoch: job.epoch, bytes: text.len() as u64 });
            end(job, Ending::Succeeded, result, None, by, now, "succeeded")
        }
        // Its place's limit came before somebody's wish to end it: it goes nowhere else.
        Outcome::TimedOut | Outcome::Stopped(StopCause::Deadline) if asked == Some(StopCause::Cancel) => {
            timed_out(job, by, now)
        }
        Outcome::TimedOut | Outcome::Stopped(StopCause::Deadline) => out_of_time(job, &run, situation, now),
        Outcome::Stopped(StopCause::Cancel) => cancelled(job, by, now, "cancelled"),
        Outcome::Failed { failure, permanent } => match asked {
            Some(StopCause::Cancel) => cancelled(job, by, now, "cancelled"),
            Some(StopCause::Deadline) => out_of_time(job, &run, situation, now),
            Some(StopCause::Stale | StopCause::Drain) | None => {
                attempt_failed(job, failure, *permanent, by, now, chance)
            }
        },
        Outcome::OutOfMemory(failure) => match asked {
            Some(StopCause::Cancel) => cancelled(job, by, now, "cancelled"),
            Some(StopCause::Deadline) => out_of_time(job, &run, situation, now),
            Some(StopCause::Stale | StopCause::Drain) | None => out_of_memory(job, failure, by, situation, now, chance),
        },
        Outcome::Interrupted(_) | Outcome::Stopped(StopCause::Drain | StopCause::Stale) => match asked {
            Some(StopCause::Cancel) => cancelled(job, by, now, "cancelled"),
            Some(StopCause::Deadline) => out_of_time(job, &run, situation, now),
            Some(StopCause::Stale | StopCause::Drain) | None => {
                let detail = match told.outcome {
                    Outcome::Interrupted(why) => crate::job::one_line(why, Failure::MESSAGE_BYTES),
                    Outcome::Succeeded(_)
                    | Outcome::Failed { .. }
                    | Outcome::OutOfMemory(_)
                    | Outcome::TimedOut
                    | Outcome::Stopped(_) => "its holder leaves".to_owned(),
                };
                let job = Job { interruptions: job.interruptions + 1, ..job };
                dispatch::again(job, situation, now, "interrupted", &detail)
            }
        },
    };
    Ok(dispatch::makes_room(unnumbered, decided))
}

/// The job itself failed once more: for good, or until the next attempt.
fn attempt_failed(
    job: Job,
    failure: &Failure,
    permanent: bool,
    by: Option<TokenHash>,
    now: Timestamp,
    chance: u64,
) -> Decided {
    let job = Job { attempts_spent: job.attempts_spent + 1, ..job };
    if permanent || job.attempts_spent >= job.attempts_allowed {
        let reason = if permanent { "failed_for_good" } else { "attempts_spent" };
        return end(job, Ending::Failed, None, Some(failure.clone()), by, now, reason);
    }
    let before = job.attempts_allowed.saturating_sub(job.work.attempts);
    let pause = backoff(job.work.backoff, job.attempts_spent.saturating_sub(before), chance);
    dispatch::delay(job, now + pause, now, "attempt_failed", &failure.to_string())
}

fn timed_out(job: Job, by: Option<TokenHash>, now: Timestamp) -> Decided {
    let limit = job.work.run_timeout.as_secs();
    let failure = Failure::new("timed_out", format!("it ran into its time limit ({limit} s at most)"));
    end_timed_out(job, failure, by, now)
}

fn end_timed_out(job: Job, failure: Failure, by: Option<TokenHash>, now: Timestamp) -> Decided {
    let job = Job { attempts_spent: job.attempts_spent + 1, ..job };
    end(job, Ending::TimedOut, None, Some(failure), by, now, "timed_out")
}

fn cancelled(job: Job, by: Option<TokenHash>, now: Timestamp, reason: &str) -> Decided {
    end(job, Ending::Cancelled, None, None, by, now, reason)
}

/// Decides what becomes of a run whose holder is gone without a word. Spends no attempt; but a job that takes its
/// workers down is stopped.
pub fn lost(mut job: Job, situation: &Situation, now: Timestamp, detail: &str) -> Decided {
    let unnumbered = dispatch::is_unnumbered(&job, situation);
    job.losses += 1;
    if let State::Running(run) = job.state.clone() {
        charge(&mut job, &run, situation, now);
    }
    owe_stop(&mut job);
    if job.losses >= LOSSES {
        let failure =
            Failure::new("took_its_worker_down", format!("{} holders in turn were lost while they ran it", job.losses));
        let ended = end(job, Ending::Failed, None, Some(failure), None, now, "took_its_worker_down");
        return dispatch::makes_room(unnumbered, ended);
    }
    dispatch::makes_room(unnumbered, dispatch::again(job, situation, now, "holder_lost", detail))
}

/// Decides what becomes of a job whose task ended without a report.
///
/// # Errors
///
/// [`Refused::Stale`] when the job is not at that epoch any more, or was settled meanwhile.
pub fn ended_without_report(
    job: Job,
    epoch: Epoch,
    how: &str,
    situation: &Situation,
    now: Timestamp,
    chance: u64,
) -> Result<Decided, Refused> {
    if job.epoch != epoch {
        return Err(Refused::Stale);
    }
    match &job.state {
        State::Running(_) => {
            let failure = Failure::new("ended_without_report", how);
            let outcome = Outcome::Failed { failure, permanent: false };
            report(job, Told { epoch, token: None, outcome: &outcome }, situation, now, chance)
        }
        // It never got as far as its claim: that is a launch that failed, not an attempt.
        State::Dispatched { .. } => {
            let failed = LaunchFailed { message: how.to_owned(), kind: LaunchFailure::Passing };
            Ok(dispatch::launch_failed(job, &failed, situation, now, chance))
        }
        State::Delayed { .. } | State::Held { .. } | State::Settled(_) => Err(Refused::Stale),
    }
}

/// How long after a task has ended its report is waited for: what it sent last may still be under way.
pub const REPORT_WITHIN: Duration = Duration::from_secs(60);

/// Decides what becomes of a job of which a task was seen to end: `instance`, as its holder would be called. Two tasks may
/// have been launched for one run, and the one that came too late ends at once: its end says nothing of the run. A run's own
/// report, which may be under way, comes before
/// what others saw; so it is only noted, and the reaper ends the run when [`REPORT_WITHIN`] has passed. `None`: that was
/// noted before.
///
/// # Errors
///
/// [`Refused::Stale`] when the job is not at that epoch any more, or was settled meanwhile.
pub fn task_seen_to_end(
    mut job: Job,
    epoch: Epoch,
    instance: &str,
    end: TaskEnd,
    situation: &Situation,
    now: Timestamp,
    chance: u64,
) -> Result<Option<Decided>, Refused> {
    if job.epoch != epoch {
        return Err(Refused::Stale);
    }
    match &mut job.state {
        State::Running(run) if run.holder.instance() != instance => Err(Refused::Stale),
        State::Running(run) if run.ended.is_some() => Ok(None),
        State::Running(run) => {
            let how = end.how.clone();
            run.ended = Some(end);
            job.due = Some(now + REPORT_WITHIN);
            job.note(None, now, "task_ended", how);
            Ok(Some(Decided { job, acts: vec![] }))
        }
        State::Dispatched { .. } | State::Delayed { .. } | State::Held { .. } | State::Settled(_) => {
            ended_without_report(job, epoch, &end.how, situation, now, chance).map(Some)
        }
    }
}

/// Decides what becomes of a run that has not reported although its task has ended: a failed attempt, whatever its exit
/// code; an interruption where it was taken away; more memory, where it ended for that.
pub(crate) fn report_is_missing(job: Job, end: &TaskEnd, situation: &Situation, now: Timestamp) -> Option<Decided> {
    let outcome = match end.cause {
        TaskEndCause::TakenAway => Outcome::Interrupted(end.how.clone()),
        TaskEndCause::OutOfMemory => Outcome::OutOfMemory(Failure::new("out_of_memory", &end.how)),
        TaskEndCause::Exited => {
            Outcome::Failed { failure: Failure::new("ended_without_report", &end.how), permanent: false }
        }
    };
    // The nonce of the last write is as good as any number drawn now, and the reaper's decisions draw none.
    let (epoch, chance) = (job.epoch, job.nonce.0);
    report(job, Told { epoch, token: None, outcome: &outcome }, situation, now, chance).ok()
}

/// Decides a cancellation: at once where nobody runs it, else as a request to the holder.
///
/// `None` means that there is nothing to do: it is being cancelled already.
///
/// # Errors
///
/// The ended job, unchanged: it cannot be cancelled any more.
pub fn cancel(mut job: Job, now: Timestamp, by: &str) -> Result<Option<Decided>, Box<Job>> {
    match &mut job.state {
        State::Settled(_) => Err(Box::new(job)),
        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } => {
            let reason = "cancelled";
            Ok(Some(end(job, Ending::Cancelled, None, None, None, now, reason)))
        }
        State::Running(run) if run.stop.as_ref().is_some_and(|stop| stop.cause != StopCause::Drain) => Ok(None),
        State::Running(run) => {
            run.stop = Some(Stop { cause: StopCause::Cancel, at: now });
            job.due = Some(now + crate::execute::FORCE_AFTER);
            job.note(None, now, "cancel_requested", by);
            Ok(Some(Decided { job, acts: vec![] }))
        }
    }
}

/// Decides a retry by hand: a new dispatch, with as many attempts again as the job had at first.
///
/// # Errors
///
/// The job, unchanged: it has not ended, or it succeeded, or no venue can run it any more.
pub fn retry(job: Job, situation: &Situation, now: Timestamp, by: &str) -> Result<Decided, Box<Job>> {
    match &job.state {
        State::Settled(settlement) if settlement.ending != Ending::Succeeded => {
            let mut again = job.clone();
            again.attempts_allowed = job.attempts_spent + job.work.attempts;
            (again.interruptions, again.losses, again.launch_failures) = (0, 0, 0);
            // The old deadline has passed or means nothing now: whoever retries by hand wants it to run.
            again.work.start_deadline = None;
            again.aged = 0;
            // Pinned to inline, or the yard has become smaller: an ended job cannot fail once more.
            match route(&again.work.needs, &dispatch::conditions(&again, situation, now), situation.limits()) {
                Ok(_) => Ok(dispatch::again(again, situation, now, "retried", by)),
                Err(_) => Err(Box::new(job)),
            }
        }
        State::Settled(_)
        | State::Delayed { .. }
        | State::Held { .. }
        | State::Dispatched { .. }
        | State::Running(_) => Err(Box::new(job)),
    }
}

/// Adds the end of a possibly living task to what is owed, where the venue has tasks.
pub(crate) fn owe_stop(job: &mut Job) {
    let venue = job.route.venue();
    match venue {
        Venue::Function | Venue::Fargate => {
            let owed = Owed::StopTask { venue, epoch: job.epoch };
            if !job.owed.contains(&owed) {
                job.owed.push(owed);
            }
        }
        // A worker learns from its beat that the run is stale; an invocation ends by itself.
        Venue::Inline | Venue::Fleet => {}
    }
}

/// What somebody asked of a job could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such job.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The job stands where that cannot be done.
    #[error("job {id} is {phase}: it cannot be {verb}")]
    Conflict {
        /// The job.
        id: JobId,
        /// Where it stands.
        phase: crate::job::Phase,
        /// What was asked: `cancelled`, `retried`.
        verb: &'static str,
    },
    /// The home failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Cancels a job, or asks its holder to end it.
///
/// # Errors
///
/// [`AskError`]: no such job, it has ended, or the home failed.
pub async fn cancel_job(yard: &Yard, id: JobId, by: &str) -> Result<Job, AskError> {
    decide_and_save(yard, id, |job| {
        let conflict = |job: &Job| AskError::Conflict { id, phase: job.phase(), verb: "cancelled" };
        cancel(job, yard.ambient.now(), by).map_err(|job| conflict(&job))
    })
    .await
}

/// Retries a job that ended without success.
///
/// # Errors
///
/// [`AskError`]: no such job, it has not ended or succeeded, or the home failed.
pub async fn retry_job(yard: &Yard, id: JobId, by: &str) -> Result<Job, AskError> {
    let situation = yard.situation().await;
    decide_and_save(yard, id, |job| {
        let conflict = |job: &Job| AskError::Conflict { id, phase: job.phase(), verb: "retried" };
        // Past its retention it may be forgotten at any moment, its payload before its record.
        if let State::Settled(settlement) = &job.state
            && settlement.at + yard.retention <= yard.ambient.now()
        {
            return Err(AskError::NotFound(id));
        }
        retry(job, &situation, yard.ambient.now(), by).map(Some).map_err(|job| conflict(&job))
    })
    .await
}

/// Loads, decides, saves; and again from the start when somebody else wrote in between.
async fn decide_and_save(
    yard: &Yard,
    id: JobId,
    decide: impl Fn(Job) -> Result<Option<Decided>, AskError>,
) -> Result<Job, AskError> {
    for _ in 0..ROUNDS {
        let job = yard.ledger.load(id).await?.ok_or(AskError::NotFound(id))?;
        let Some(decided) = decide(job.clone())? else { return Ok(job) };
        let wanted = decided.job.clone();
        if commit(yard, decided, None).await? == Saved::Saved {
            tell::changed(yard, &Was::of(&job), &wanted);
            return Ok(yard.ledger.load(id).await?.unwrap_or(wanted));
        }
    }
    Err(overtaken("change", id).into())
}

/// Records the end of a run: the desk's own work, wherever the report came from.
///
/// # Errors
///
/// The home failed; the same report can be made again.
pub async fn settle(yard: &Yard, id: JobId, told: Told<'_>) -> Result<Reported, PortError> {
    settle_used(yard, id, told, Usage::default()).await
}

/// The same, with what the run used.
async fn settle_used(yard: &Yard, id: JobId, told: Told<'_>, usage: Usage) -> Result<Reported, PortError> {
    let mut result = None;
    // Its holder claimed it a while ago, and most often nobody has written since: the write finds out.
    let mut known = yard.ledger.glimpse(id).await?;
    let mut certain = false;
    for _ in 0..ROUNDS {
        let job = match known.take() {
            Some(job) => job,
            None => {
                certain = true;
                let Some(job) = yard.ledger.load(id).await? else { return Ok(Reported::Stale) };
                job
            }
        };
        let situation = yard.situation().await;
        let run = match &job.state {
            State::Running(run) => Some((job.work.capability.clone(), run.at)),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => None,
        };
        let (was, trace) = (Was::of(&job), job.trace_id());
        let decided = match report(job, told, &situation, yard.ambient.now(), yard.ambient.chance()) {
            Err(_) if !certain => continue,
            Err(Refused::Already) => return Ok(Reported::Recorded),
            Err(Refused::Stale) => {
                info!(job.id = %id, job.epoch = %told.epoch, trace.id = %trace, "a stale report was refused");
                return Ok(Reported::Stale);
            }
            Ok(decided) => decided,
        };
        if let (None, Outcome::Succeeded(Some(text))) = (&result, told.outcome) {
            result = Some(keep(yard, id, told.epoch, text).await?);
        }
        let next = decided.job.clone();
        match commit(yard, decided, result.clone()).await? {
            Saved::Saved => {}
            Saved::Refused(None) => return Ok(Reported::Stale),
            Saved::Refused(Some(current)) => {
                (known, certain) = (Some(*current), true);
                continue;
            }
            Saved::PermitTaken => continue,
        }
        tell::changed(yard, &was, &next);
        yard.meters.output_dropped(usage.output_dropped_bytes);
        if let (Some((capability, at)), Outcome::Succeeded(_)) = (run, told.outcome) {
            let took = Duration::try_from(yard.ambient.now().duration_since(at)).unwrap_or(Duration::ZERO);
            yard.shelf.observed().note(&capability, took, usage);
        }
        return Ok(Reported::Recorded);
    }
    Err(overtaken("settle", id))
}

/// Puts a large result into the blob store, before the record names it.
async fn keep(yard: &Yard, id: JobId, epoch: Epoch, text: &str) -> Result<Body, PortError> {
    if text.len() <= Body::INLINE_BYTES {
        return Ok(Body::Inline(text.to_owned()));
    }
    Ok(Body::Blob(yard.blobs.put(id, &format!("result-{epoch}"), text).await?))
}

/// Records that a task ended, by whatever the launcher saw of it. Harmless when its run has reported.
///
/// # Errors
///
/// The home failed; the reaper finds out later.
pub async fn task_ended(yard: &Yard, id: JobId, epoch: Epoch, how: &str) -> Result<(), PortError> {
    for _ in 0..ROUNDS {
        let Some(job) = yard.ledger.load(id).await? else { return Ok(()) };
        let now = yard.ambient.now();
        let (situation, chance) = (yard.situation().await, yard.ambient.chance());
        let was = Was::of(&job);
        let Ok(decided) = ended_without_report(job, epoch, how, &situation, now, chance) else {
            return Ok(());
        };
        let next = decided.job.clone();
        if commit(yard, decided, None).await? == Saved::Saved {
            tell::changed(yard, &was, &next);
            return Ok(());
        }
    }
    Err(overtaken("settle", id))
}

/// Records that a run's task was seen to end, as [`task_seen_to_end`] decides. Told again, late, or of an earlier epoch
/// it changes nothing. Answers whether it changed something.
///
/// # Errors
///
/// The home failed: whoever told must tell again, or the reaper finds out by the missing beats.
pub async fn task_stopped(
    yard: &Yard,
    run: Message,
    instance: &str,
    cause: TaskEndCause,
    how: &str,
) -> Result<bool, PortError> {
    for _ in 0..ROUNDS {
        let Some(job) = yard.ledger.load(run.id).await? else { return Ok(false) };
        let now = yard.ambient.now();
        let (situation, chance) = (yard.situation().await, yard.ambient.chance());
        let was = Was::of(&job);
        let how = crate::job::one_line(how, Failure::MESSAGE_BYTES);
        let end = TaskEnd { at: now, cause, how };
        let Ok(Some(decided)) = task_seen_to_end(job, run.epoch, instance, end, &situation, now, chance) else {
            return Ok(false);
        };
        let next = decided.job.clone();
        if commit(yard, decided, None).await? == Saved::Saved {
            tell::changed(yard, &was, &next);
            return Ok(true);
        }
    }
    Err(overtaken("note the end of a task of", run.id))
}

/// The desk of whoever has the yard itself at hand.
#[derive(Clone)]
pub struct YardDesk(pub Yard);

impl YardDesk {
    /// Whether a voucher's run is still the job's.
    async fn holds(&self, voucher: &Voucher) -> Result<bool, PortError> {
        let holds = |job: Option<Job>| {
            job.is_some_and(|job| match &job.state {
                State::Running(run) => job.epoch == voucher.epoch && run.token == voucher.token.hash(),
                State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => false,
            })
        };
        // What is kept by epoch harms no other run, should this one have been buried since it was seen.
        let ledger = &self.0.ledger;
        Ok(holds(ledger.glimpse(voucher.id).await?) || holds(ledger.load(voucher.id).await?))
    }
}

#[async_trait]
impl Desk for YardDesk {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, PortError> {
        let yard = &self.0;
        for _ in 0..ROUNDS {
            let rules = yard.rules().await?;
            match yard.ledger.claim(claim, &rules, yard.ambient.now()).await? {
                Claimed::Lost(Refusal::Braked) => {}
                Claimed::Won(job, payload) => {
                    tell::claimed(yard, &job);
                    return Ok(Claimed::Won(job, payload));
                }
                lost @ Claimed::Lost(_) => return Ok(lost),
            }
            let Some(job) = yard.ledger.load(claim.id).await? else { return Ok(Claimed::Lost(Refusal::Unknown)) };
            if job.phase() == Phase::Held {
                return Ok(Claimed::Lost(Refusal::Braked));
            }
            // Held before its doorbell is given up: nothing else would bring it back before its next look.
            if let Some(decided) = brake::hold_back(job, &rules, yard.ambient.now())
                && commit(yard, decided, None).await? == Saved::Saved
            {
                return Ok(Claimed::Lost(Refusal::Braked));
            }
        }
        Err(overtaken("claim", claim.id))
    }

    async fn beat(&self, beat: &Beat, _patience: Duration) -> Result<Vec<Order>, PortError> {
        self.0.ledger.beat(beat).await?;
        let ids: Vec<JobId> = beat.running.iter().map(|run| run.id).collect();
        let jobs = self.0.ledger.load_all(&ids).await?;
        let of = |run: &Message| order(*run, &beat.holder, jobs.iter().find(|job| job.id == run.id));
        Ok(beat.running.iter().filter_map(of).collect())
    }

    async fn log(&self, voucher: &Voucher, lines: &[LogLine]) -> Result<(), PortError> {
        if self.holds(voucher).await? { self.0.logs.append(voucher.id, voucher.epoch, lines).await } else { Ok(()) }
    }

    async fn emit(&self, voucher: &Voucher, lines: &[Emitted]) -> Result<Emission, PortError> {
        let yard = &self.0;
        if !self.holds(voucher).await? {
            return Ok(Emission::Stale);
        }
        // A run speaks of itself alone.
        if lines.iter().any(|line| (line.job, line.epoch) != (voucher.id, voucher.epoch)) {
            return Err(PortError::permanent("emit records of", voucher.id, "they are another run's"));
        }
        if let Some(conveyor) = &yard.conveyor {
            conveyor.carry(lines).await?;
            return Ok(Emission::Taken(Vec::new()));
        }
        let mut refused = Vec::new();
        for (line, became) in lines.iter().zip(records::take(yard, "run", lines).await) {
            match became {
                Became::Stored | Became::Known => {}
                Became::Refused(why) => refused.push((line.n, why)),
                Became::Later(why) => return Err(PortError::retryable("keep records of", voucher.id, why)),
            }
        }
        Ok(Emission::Taken(refused))
    }

    async fn settle(&self, report: &Report) -> Result<Reported, PortError> {
        let Report { voucher, outcome, usage } = report;
        let told = Told { epoch: voucher.epoch, token: Some(voucher.token.hash()), outcome };
        settle_used(&self.0, voucher.id, told, *usage).await
    }

    async fn borrow(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        self.0.lender.lend(request).await
    }

    async fn give_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        self.0.lender.take_back(voucher, loan).await
    }
}

/// What a holder must be told about a run it says it runs.
pub(crate) fn order(run: Message, holder: &crate::job::Holder, job: Option<&Job>) -> Option<Order> {
    let stale = Some(Order { run, cause: StopCause::Stale });
    let Some(job) = job else { return stale };
    match &job.state {
        State::Running(now) if job.epoch == run.epoch && now.holder == *holder => {
            now.stop.as_ref().map(|stop| Order { run, cause: stop.cause })
        }
        // Not claimed yet: the holder lists what it is about to claim, too.
        State::Dispatched { .. } if job.epoch == run.epoch => None,
        // Settled by a report of this very epoch: the holder is about to notice. Forced to its end: it must hear.
        State::Settled(settlement) if job.epoch == run.epoch && settlement.token.is_some() => None,
        State::Running(_)
        | State::Dispatched { .. }
        | State::Delayed { .. }
        | State::Held { .. }
        | State::Settled(_) => stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Act;
    use crate::route::{Limits, Pin};
    use crate::testing::{a_job, a_running_job, at};

    fn tell<'a>(job: &Job, outcome: &'a Outcome) -> Told<'a> {
        let State::Running(run) = &job.state else { panic!("not running") };
        Told { epoch: job.epoch, token: Some(run.token), outcome }
    }

    fn decide(job: &Job, outcome: &Outcome) -> Decided {
        report(job.clone(), tell(job, outcome), &Limits::one_machine(8192).into(), at(100), 0).unwrap()
    }

    fn failed(permanent: bool) -> Outcome {
        Outcome::Failed { failure: Failure::new("exit_nonzero", "it exited with 1"), permanent }
    }

    fn ended_as(job: &Job, instance: &str, cause: TaskEndCause) -> Result<Option<Decided>, Refused> {
        let end = TaskEnd { at: at(50), cause, how: "EssentialContainerExited, exit code 0".into() };
        task_seen_to_end(job.clone(), job.epoch, instance, end, &Limits::one_machine(8192).into(), at(50), 0)
    }

    #[test]
    fn a_task_that_was_seen_to_end_leaves_its_run_a_minute_for_its_report() {
        let job = a_running_job(Venue::Fargate, 1);
        let State::Running(run) = &job.state else { panic!("not running") };
        let instance = run.holder.instance().to_owned();
        let noted = ended_as(&job, &instance, TaskEndCause::Exited).unwrap().unwrap();
        assert_eq!((noted.job.phase(), noted.job.due, noted.acts.len()), (Phase::Running, Some(at(110)), 0));
        assert_eq!(ended_as(&noted.job, &instance, TaskEndCause::TakenAway), Ok(None), "told twice, it is told once");
        assert_eq!(
            ended_as(&job, "another-task", TaskEndCause::Exited),
            Err(Refused::Stale),
            "the one that came too late"
        );
        let reported = decide(&noted.job, &Outcome::Succeeded(None)).job;
        assert_eq!(reported.phase(), Phase::Succeeded, "its report comes first");
        let older = TaskEnd { at: at(50), cause: TaskEndCause::Exited, how: String::new() };
        let situation = Limits::one_machine(8192).into();
        let before = Epoch(job.epoch.0 - 1);
        assert_eq!(task_seen_to_end(job, before, &instance, older, &situation, at(50), 0), Err(Refused::Stale));
        let waiting = a_job(Venue::Fargate);
        let failed = ended_as(&waiting, "any", TaskEndCause::Exited).unwrap().unwrap().job;
        assert_eq!((failed.launch_failures, failed.attempts_spent), (1, 0), "it never claimed: a failed launch");
    }

    /// Each report from each asked-for stop: the phase it leads to, what it spends, and the exact acts.
    #[test]
    fn what_each_report_leads_to() {
        let outcomes = [
            Outcome::Succeeded(Some("{}".into())),
            failed(false),
            failed(true),
            Outcome::OutOfMemory(Failure::new("out_of_memory", "the kernel ended it")),
            Outcome::TimedOut,
            Outcome::Stopped(StopCause::Cancel),
            Outcome::Stopped(StopCause::Deadline),
            Outcome::Stopped(StopCause::Drain),
            Outcome::Interrupted("the machine goes away".into()),
        ];
        let mut table = String::new();
        for asked in [None, Some(StopCause::Cancel), Some(StopCause::Deadline)] {
            for outcome in &outcomes {
                let mut job = a_running_job(Venue::Fleet, 1);
                if let (State::Running(run), Some(cause)) = (&mut job.state, asked) {
                    run.stop = Some(Stop { cause, at: at(50) });
                }
                let decided = decide(&job, outcome);
                let (attempts, interruptions) = (decided.job.attempts_spent, decided.job.interruptions);
                let acts: Vec<String> = decided
                    .acts
                    .iter()
                    .map(|act| format!("{act:?}"))
                    .map(|act| act.chars().take(24).collect())
                    .collect();
                table.push_str(&format!(
                    "asked {asked:?}, {outcome:?}\n    -> {} at epoch {}, attempts {attempts}, interruptions {interruptions}, acts {acts:?}\n",
                    decided.job.phase(),
                    decided.job.epoch,
                ));
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_report_from_another_run_changes_nothing() {
        let job = a_running_job(Venue::Fleet, 1);
        let outcome = Outcome::Succeeded(None);
        let other_token = Told { token: Some(TokenHash([9; 32])), ..tell(&job, &outcome) };
        let other_epoch = Told { epoch: Epoch(7), ..tell(&job, &outcome) };
        for told in [other_token, other_epoch] {
            assert_eq!(report(job.clone(), told, &Limits::one_machine(1).into(), at(0), 0), Err(Refused::Stale));
        }
        let settled = decide(&job, &outcome).job;
        let again = report(settled, tell(&job, &outcome), &Limits::one_machine(1).into(), at(0), 0);
        assert_eq!(again, Err(Refused::Already), "the answer to the first report was lost");
    }

    #[test]
    fn attempts_run_out_and_a_retry_by_hand_grants_as_many_again() {
        let mut job = a_running_job(Venue::Fleet, 1);
        job.work.attempts = 2;
        job.attempts_allowed = 2;
        job.attempts_spent = 1;
        let dead = decide(&job, &failed(false)).job;
        assert_eq!((dead.phase(), dead.attempts_spent), (Phase::Failed, 2));
        let retried = retry(dead, &Limits::one_machine(8192).into(), at(200), "local").unwrap();
        assert_eq!(
            (retried.job.phase(), retried.job.epoch, retried.job.attempts_allowed),
            (Phase::Dispatched, Epoch(2), 4)
        );
        assert!(matches!(retried.acts[..], [Act::Ring(..)]));
        let done = decide(&a_running_job(Venue::Fleet, 1), &Outcome::Succeeded(None)).job;
        assert!(retry(done, &Limits::one_machine(8192).into(), at(200), "local").is_err(), "a success is final");
    }

    #[test]
    fn an_ended_job_that_no_venue_can_run_any_more_stays_as_it_ended() {
        let mut job = a_running_job(Venue::Inline, 1);
        job.work.needs.only = vec![Pin::Venue(Venue::Inline)];
        let dead = decide(&job, &failed(true)).job;
        let refused = retry(dead.clone(), &Limits::one_machine(8192).into(), at(200), "local");
        assert_eq!(refused, Err(Box::new(dead)));
    }

    #[test]
    fn the_fourth_loss_is_the_job_s_own() {
        let situation: Situation = Limits::one_machine(8192).into();
        let mut job = a_running_job(Venue::Fargate, 1);
        job.losses = LOSSES - 2;
        let again = lost(job.clone(), &situation, at(0), "no beat");
        assert_eq!((again.job.phase(), again.job.attempts_spent), (Phase::Dispatched, 0));
        assert!(again.acts.contains(&Act::Pay(Owed::StopTask { venue: Venue::Fargate, epoch: Epoch(1) })));
        job.losses = LOSSES - 1;
        let ended = lost(job, &situation, at(0), "no beat").job;
        assert_eq!(ended.phase(), Phase::Failed);
    }

    #[test]
    fn an_announced_job_owes_its_announcement_until_it_is_struck_out() {
        let mut job = a_running_job(Venue::Fleet, 1);
        job.work.announce = true;
        let decided = decide(&job, &Outcome::Succeeded(None));
        assert_eq!(decided.acts, [Act::Pay(Owed::Announce(Epoch(1)))]);
        assert_eq!(decided.job.due, Some(at(100) + dispatch::PAY_AGAIN));
        let struck = dispatch::strike(decided.job, &Owed::Announce(Epoch(1))).unwrap();
        assert_eq!((struck.due, struck.owed.len()), (None, 0));
        assert!(dispatch::strike(struck, &Owed::Announce(Epoch(1))).is_none(), "paid twice, struck out once");
    }

    #[test]
    fn cancelling_is_at_once_or_a_request() {
        let waiting = cancel(a_job(Venue::Fleet), at(1), "local").unwrap().unwrap();
        assert_eq!((waiting.job.phase(), waiting.acts), (Phase::Cancelled, vec![]));
        let asked = cancel(a_running_job(Venue::Fleet, 1), at(1), "local").unwrap().unwrap().job;
        assert_eq!((asked.phase(), asked.due), (Phase::Running, Some(at(61))));
        assert_eq!(cancel(asked, at(2), "local"), Ok(None));
    }

    #[test]
    fn a_task_that_ended_without_a_word_failed_its_attempt_or_its_launch() {
        let situation: Situation = Limits::one_machine(8192).into();
        let running = a_running_job(Venue::Fargate, 1);
        let decided = ended_without_report(running, Epoch(1), "exit 0", &situation, at(0), 0).unwrap();
        assert_eq!((decided.job.phase(), decided.job.attempts_spent), (Phase::Delayed, 1));
        let waiting = a_job(Venue::Fargate);
        let decided = ended_without_report(waiting.clone(), Epoch(1), "exit 1", &situation, at(0), 0).unwrap();
        assert_eq!((decided.job.attempts_spent, decided.job.launch_failures), (0, 1));
        assert_eq!(ended_without_report(waiting, Epoch(9), "exit 1", &situation, at(0), 0), Err(Refused::Stale));
    }

    #[test]
    fn a_beat_learns_of_stops_and_of_stale_runs() {
        let job = a_running_job(Venue::Fleet, 1);
        let State::Running(run) = &job.state else { panic!() };
        let here = Message { id: job.id, epoch: job.epoch };
        assert_eq!(order(here, &run.holder, Some(&job)), None);
        let elsewhere = crate::job::Holder("other/2".into());
        assert_eq!(order(here, &elsewhere, Some(&job)), Some(Order { run: here, cause: StopCause::Stale }));
        assert_eq!(order(here, &run.holder, None), Some(Order { run: here, cause: StopCause::Stale }));
        let asked = cancel(job.clone(), at(1), "local").unwrap().unwrap().job;
        assert_eq!(order(here, &run.holder, Some(&asked)), Some(Order { run: here, cause: StopCause::Cancel }));
    }
}
