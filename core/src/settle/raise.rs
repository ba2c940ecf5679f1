//! A run that needed more than it had: the need is raised, and the job goes where there is more. And what a run cost.

use std::time::Duration;

use jiff::Timestamp;

use super::{attempt_failed, end_timed_out, timed_out};
use crate::cost;
use crate::dispatch::{self, Decided};
use crate::job::{Failure, Job, Run, TokenHash};
use crate::policies::Situation;
use crate::route::route;

/// It needed more memory than it had: an attempt is spent, and the next one has twice as much, wherever that is.
pub(super) fn out_of_memory(
    job: Job,
    failure: &Failure,
    by: Option<TokenHash>,
    situation: &Situation,
    now: Timestamp,
    chance: u64,
) -> Decided {
    // Twice what it had, which the place's sizes may have rounded up: less would be the same size again.
    let had = cost::memory_mib(job.route.place, &job.work.needs, situation.limits());
    let mut raised = job.clone();
    raised.work.needs.memory_mib = had.saturating_mul(2);
    if !fits(&raised, situation, now) {
        // No attempt can help: it ends by what happened, and not by what no place has.
        let ended = attempt_failed(job, failure, true, by, now, chance);
        return reworded(
            ended,
            "out_of_memory",
            format!("{failure}; no place that can run it has twice the {had} MiB it had"),
        );
    }
    let needs = raised.work.needs.memory_mib;
    let detail = format!("{failure}; it had {had} MiB and needs {needs} MiB from now on");
    let decided = attempt_failed(raised, failure, false, by, now, chance);
    if decided.job.is_settled() { decided } else { reworded(decided, "out_of_memory", detail) }
}

/// A run met its deadline. Where that was the place's and not the job's own, it takes longer than was expected: the
/// expectation doubles, and it goes where there is more time. That spends nothing: it had not had its time.
pub(super) fn out_of_time(job: Job, run: &Run, situation: &Situation, now: Timestamp) -> Decided {
    let by = Some(run.token);
    let had = Duration::try_from(run.deadline.duration_since(run.at)).unwrap_or(Duration::ZERO);
    if had >= job.work.run_timeout {
        return timed_out(job, by, now);
    }
    let (place, had_s) = (job.route.place, had.as_secs());
    let expected = job.work.needs.expected.unwrap_or(situation.limits().unknown);
    let longer = expected.saturating_mul(2).max(had).min(job.work.run_timeout);
    let mut raised = job.clone();
    raised.work.needs.expected = Some(longer);
    if !fits(&raised, situation, now) {
        let failure = format!("{place} had {had_s} s for it, and no place that can run it has more");
        return end_timed_out(job, Failure::new("timed_out", failure), by, now);
    }
    let longer = longer.as_secs();
    let detail = format!("{place} had {had_s} s for it; it is expected to take {longer} s from now on");
    dispatch::again(raised, situation, now, "venue_limit", &detail)
}

/// Whether any place can run the job with the needs it has now.
fn fits(job: &Job, situation: &Situation, now: Timestamp) -> bool {
    route(&job.work.needs, &dispatch::conditions(job, situation, now), situation.limits()).is_ok()
}

/// The same decision, its newest line of the timeline in other words.
fn reworded(mut decided: Decided, reason: &str, detail: String) -> Decided {
    if let Some(entry) = decided.job.timeline.last_mut() {
        (entry.reason, entry.detail) = (reason.to_owned(), detail);
    }
    decided
}

/// Adds the price of a run that ends now to what the job has cost. One that was lost is charged to its deadline at
/// most: no place lets it run longer.
pub(crate) fn charge(job: &mut Job, run: &Run, situation: &Situation, now: Timestamp) {
    let ran = Duration::try_from(now.min(run.deadline).duration_since(run.at)).unwrap_or(Duration::ZERO);
    let price = cost::actual(&job.route, ran, &job.work.needs, situation.limits());
    job.spent_nanodollars = job.spent_nanodollars.saturating_add(price);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::State;
    use crate::ports::{Claim, Outcome};
    use crate::route::{Limits, Packaging, Pin, Venue, Verdict};
    use crate::settle::{Told, lost, report};
    use crate::testing::{a_claim, a_job, a_running_job, at};

    fn tell<'a>(job: &Job, outcome: &'a Outcome) -> Told<'a> {
        let State::Running(run) = &job.state else { panic!("not running") };
        Told { epoch: job.epoch, token: Some(run.token), outcome }
    }

    /// What each escalation leads to, as the timeline tells it.
    #[test]
    fn a_run_that_needed_more_goes_where_there_is_more() {
        let killed = || Outcome::OutOfMemory(Failure::new("out_of_memory", "the kernel ended it").with_exit(137));
        let aws = Situation::from(Limits::default());
        let on = |job: &Job, outcome: &Outcome| report(job.clone(), tell(job, outcome), &aws, at(900), 0).unwrap().job;
        let built_in = |venue| {
            let mut job = a_running_job(venue, 1);
            job.work.needs.packaging = Packaging::Builtin;
            job
        };
        let mut told = String::new();
        let mut tell_of = |case: &str, job: &Job| {
            let needs = &job.work.needs;
            let expected = needs.expected.map_or("unknown".to_owned(), |expected| format!("{} s", expected.as_secs()));
            let entry = job.timeline.last().unwrap();
            told.push_str(&format!(
                "{case}: {} at epoch {}, attempts {}, needs {} MiB and {expected}\n    {}: {}\n",
                job.phase(),
                job.epoch,
                job.attempts_spent,
                needs.memory_mib,
                entry.reason,
                entry.detail,
            ));
        };
        // The smallest task has 512 MiB, whatever less was asked for.
        let mut small = built_in(Venue::Fargate);
        small.work.needs.memory_mib = 64;
        tell_of("out of memory in a task", &on(&small, &killed()));
        let job = built_in(Venue::Fleet);
        tell_of("out of memory on a worker", &on(&job, &killed()));
        let mut last = job.clone();
        last.attempts_spent = 2;
        tell_of("out of memory for the last time", &on(&last, &killed()));
        let mut vast = built_in(Venue::Fargate);
        vast.work.needs.memory_mib = 100 * 1024;
        tell_of("out of the most memory there is", &on(&vast, &killed()));
        let mut pinned = built_in(Venue::Function);
        pinned.work.needs.only = vec![Pin::Venue(Venue::Function)];
        tell_of("a function's 900 s", &on(&built_in(Venue::Function), &Outcome::TimedOut));
        tell_of("a function's 900 s, pinned to it", &on(&pinned, &Outcome::TimedOut));
        let mut inline = a_job(Venue::Inline);
        inline.work.needs.packaging = Packaging::Builtin;
        inline.work.needs.expected = Some(Duration::from_secs(5));
        let ask = Claim { at_most: Some(Duration::from_secs(29)), ..a_claim(&inline, 1) };
        let inline =
            crate::execute::claim(&inline, &ask, &crate::route::Limits::one_machine(8192).into(), at(0)).unwrap();
        tell_of("the rest of an invocation", &on(&inline, &Outcome::TimedOut));
        tell_of("its own limit", &on(&built_in(Venue::Fleet), &Outcome::TimedOut));
        insta::assert_snapshot!(told);
    }

    #[test]
    fn every_run_is_charged_where_it_ran_however_it_ended() {
        let aws = Situation::from(Limits::default());
        let mut job = a_running_job(Venue::Fargate, 1);
        job.spent_nanodollars = 7;
        let price = cost::fargate(Duration::from_secs(100), &job.work.needs, aws.limits());
        let outcomes = [
            Outcome::Succeeded(None),
            Outcome::Failed { failure: Failure::new("exit_nonzero", "1"), permanent: false },
            Outcome::Interrupted("drained".into()),
        ];
        for outcome in outcomes {
            let told = tell(&job, &outcome);
            assert_eq!(report(job.clone(), told, &aws, at(100), 0).unwrap().job.spent_nanodollars, 7 + price);
        }
        assert_eq!(lost(job.clone(), &aws, at(100), "no beat").job.spent_nanodollars, 7 + price);
        // A slot costs its share, and what waking its worker was to cost.
        let mut job = a_running_job(Venue::Fleet, 1);
        let slot = |seconds| cost::slot(Duration::from_secs(seconds), &job.work.needs, &aws.limits().pools[0]);
        let verdict = Verdict { place: job.route.place, rejected: None, start_ms: 0, nanodollars: slot(30) + 5 };
        let wanted = slot(100) + 5;
        job.route.verdicts.push(verdict);
        assert_eq!(lost(job, &aws, at(100), "no beat").job.spent_nanodollars, wanted);
    }
}
