//! What is told of a job whose record has changed: a line in the log, and numbers. Every change tells of itself once it
//! is saved, wherever it was decided; nothing is decided here.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::intake::Taken;
use crate::job::{Ending, Entry, Epoch, Holder, Job, Phase, Settlement, State};
use crate::ports::Yard;
use crate::route::Venue;

/// A job as it was before a decision took it.
#[derive(Clone, Debug)]
pub(crate) struct Was {
    phase: Phase,
    run: Option<(Holder, Timestamp)>,
    venue: Venue,
    epoch: Epoch,
    attempts_spent: u32,
    interruptions: u32,
    losses: u32,
    launch_failures: u32,
}

impl Was {
    pub(crate) fn of(job: &Job) -> Self {
        let run = match &job.state {
            State::Running(run) => Some((run.holder.clone(), run.at)),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => None,
        };
        Self {
            phase: job.phase(),
            run,
            venue: job.route.venue(),
            epoch: job.epoch,
            attempts_spent: job.attempts_spent,
            interruptions: job.interruptions,
            losses: job.losses,
            launch_failures: job.launch_failures,
        }
    }
}

/// How the run that `was` ended, in a word; `None` where none did.
fn outcome(was: &Was, job: &Job) -> Option<&'static str> {
    let phase = job.phase();
    if was.phase != Phase::Running || phase == Phase::Running {
        return None;
    }
    Some(if job.losses > was.losses {
        "lost"
    } else if job.interruptions > was.interruptions {
        "interrupted"
    } else if phase.is_settled() {
        phase.as_str()
    } else if job.attempts_spent > was.attempts_spent {
        "failed"
    } else {
        // Its place's limit came before its own: it goes on where it has longer, or more.
        "outgrown"
    })
}

/// How long a job that was claimed just now had waited since it could start: held back, sent elsewhere or risen a tier
/// it went on waiting; a run or a pause between attempts began another wait.
fn waited(job: &Job) -> Duration {
    let ends_a_wait = |entry: &&Entry| match entry.phase {
        Phase::Running | Phase::Delayed => true,
        phase => phase.is_settled(),
    };
    let Some((claimed, before)) = job.timeline.split_last() else { return Duration::ZERO };
    let began = match before.iter().rposition(|entry| ends_a_wait(&entry)) {
        None => before.first(),
        Some(last) => before.get(last + 1),
    };
    began.map_or(Duration::ZERO, |began| Duration::try_from(claimed.at.duration_since(began.at)).unwrap_or_default())
}

/// Tells of a submission that is at rest in the ledger.
pub(crate) fn taken(yard: &Yard, Taken { job, fresh }: &Taken) {
    yard.meters.taken(job.work.tier, job.route.venue(), *fresh);
    let (capability, tier, venue) = (job.work.capability.as_str(), job.work.tier, job.route.venue());
    debug!(
        job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), capability, %tier, %venue, fresh,
        "job accepted"
    );
}

/// Tells of a claim that was won.
pub(crate) fn claimed(yard: &Yard, job: &Job) {
    yard.meters.claimed(job.work.tier, waited(job));
}

/// Tells of a change that is saved.
pub(crate) fn changed(yard: &Yard, was: &Was, job: &Job) {
    let capability = job.work.capability.as_str();
    let trace = job.trace_id();
    for _ in was.attempts_spent..job.attempts_spent {
        yard.meters.attempt_failed(capability);
    }
    if let (Some(outcome), Some((holder, at))) = (outcome(was, job), &was.run) {
        let took = Duration::try_from(yard.ambient.now().duration_since(*at)).unwrap_or_default();
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        yard.meters.ran(capability, was.venue, outcome, took);
        // The attempts before it were spent; a run that spends none is the same attempt as the next.
        let attempt = was.attempts_spent + 1;
        info!(
            job.id = %job.id, job.epoch = %was.epoch, trace.id = %trace, capability, venue = %was.venue, %holder,
            outcome, attempt, duration_ms, "run ended"
        );
        let reason = job.timeline.last().map_or("", |entry| entry.reason.as_str());
        if matches!(outcome, "lost" | "interrupted") {
            let (interruptions, losses) = (job.interruptions, job.losses);
            warn!(
                job.id = %job.id, job.epoch = %was.epoch, trace.id = %trace, capability, venue = %was.venue, %holder,
                outcome, reason, interruptions, losses, "a run did not come to its end"
            );
        }
    }
    if job.launch_failures > was.launch_failures {
        yard.meters.launch_failed(was.venue);
        let error = job.timeline.last().map_or("", |entry| entry.detail.as_str());
        let failures = job.launch_failures;
        warn!(
            job.id = %job.id, job.epoch = %was.epoch, trace.id = %trace, capability, venue = %was.venue, failures,
            error, "a launch failed"
        );
    }
    match (was.phase.is_settled(), &job.state) {
        (false, State::Settled(settlement)) => ended(yard, job, settlement),
        (false, State::Delayed { .. }) if job.attempts_spent > was.attempts_spent => yard.meters.retried(false),
        (true, State::Held { .. } | State::Dispatched { .. }) => {
            yard.meters.retried(true);
            info!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %trace, capability, "retried by hand");
        }
        (
            _,
            State::Delayed { .. }
            | State::Held { .. }
            | State::Dispatched { .. }
            | State::Running(_)
            | State::Settled(_),
        ) => {}
    }
}

/// A job has come to its end.
fn ended(yard: &Yard, job: &Job, settlement: &Settlement) {
    let (phase, capability, trace) = (job.phase(), job.work.capability.as_str(), job.trace_id());
    yard.meters.settled(capability, phase);
    let code = settlement.error.as_ref().map_or("", |failure| failure.code.as_str());
    let attempts = job.attempts_spent;
    match settlement.ending {
        Ending::Failed | Ending::TimedOut | Ending::Expired => warn!(
            job.id = %job.id, job.epoch = %job.epoch, trace.id = %trace, capability, state = %phase, code, attempts,
            "job failed"
        ),
        Ending::Succeeded | Ending::Cancelled => debug!(
            job.id = %job.id, job.epoch = %job.epoch, trace.id = %trace, capability, state = %phase, attempts,
            "job ended"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Outcome;
    use crate::route::Limits;
    use crate::settle::{self, Told};
    use crate::testing::{a_claim, a_job, a_running_job, at};
    use crate::{dispatch, execute};

    #[test]
    fn each_end_of_a_run_has_one_word() {
        let situation = Limits::one_machine(8192).into();
        let job = a_running_job(Venue::Fleet, 1);
        let was = Was::of(&job);
        let told = |outcome: &Outcome| {
            let told = Told { epoch: job.epoch, token: None, outcome };
            let decided = settle::report(job.clone(), told, &situation, at(4), 0).unwrap();
            super::outcome(&was, &decided.job)
        };
        let failure = || crate::job::Failure::new("exit_nonzero", "exit 3");
        assert_eq!(told(&Outcome::Succeeded(None)), Some("succeeded"));
        assert_eq!(told(&Outcome::Failed { failure: failure(), permanent: true }), Some("failed"));
        assert_eq!(told(&Outcome::Failed { failure: failure(), permanent: false }), Some("failed"));
        assert_eq!(told(&Outcome::TimedOut), Some("timed_out"));
        assert_eq!(told(&Outcome::Interrupted(String::new())), Some("interrupted"));
        let lost = settle::lost(job.clone(), &situation, at(5), "no beat").job;
        assert_eq!(super::outcome(&was, &lost), Some("lost"));
        let asked = settle::cancel(job.clone(), at(3), "local").unwrap().unwrap().job;
        assert_eq!(super::outcome(&was, &asked), None, "it runs on until its holder ends it");
        let waiting = a_job(Venue::Fleet);
        let cancelled = settle::cancel(waiting.clone(), at(3), "local").unwrap().unwrap().job;
        assert_eq!(super::outcome(&Was::of(&waiting), &cancelled), None, "nothing ran");
    }

    #[test]
    fn a_wait_goes_on_through_brakes_and_not_through_runs_and_pauses() {
        let situation = crate::testing::limited(None);
        let claimed = |job: &Job, now| execute::claim(job, &a_claim(job, 1), &situation, now).unwrap();
        let job = a_job(Venue::Fleet);
        assert_eq!(waited(&claimed(&job, at(7))).as_secs(), 7);
        let held = dispatch::hold(job.clone(), crate::brake::Brake::Unlisted, at(10), "unlisted", "").job;
        let admitted = dispatch::again(held, &situation, at(20), "admitted", "").job;
        assert_eq!(waited(&claimed(&admitted, at(21))).as_secs(), 21);
        let delayed = dispatch::delay(claimed(&job, at(7)), at(90), at(8), "attempt_failed", "").job;
        let again = dispatch::again(delayed, &situation, at(90), "due", "").job;
        assert_eq!(waited(&claimed(&again, at(95))).as_secs(), 5);
    }
}
