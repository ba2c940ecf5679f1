//! Why a job is where it is, in one sentence: what its record, the rules and a few counts say together.

use jiff::Timestamp;

use crate::brake::{Brake, Pause};
use crate::dispatch;
use crate::job::{Job, Settlement, State};
use crate::policies::Situation;
use crate::ports::{PortError, TaskState, Yard};
use crate::route::{Place, Venue};

/// What a sentence can say besides, where somebody counted it. A list of jobs counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// How many jobs take a part of its capability's limit.
    pub permits_used: Option<usize>,
    /// How many jobs its tier and the higher ones show; a long queue is counted to a thousand.
    pub ahead: Option<u64>,
    /// What its launcher knows of its task.
    pub task: Option<TaskState>,
}

/// Counts what the sentence about this job can use.
///
/// # Errors
///
/// The home failed.
pub async fn facts(yard: &Yard, job: &Job) -> Result<Facts, PortError> {
    let mut facts = Facts::default();
    match &job.state {
        State::Held { .. } => facts.permits_used = Some(yard.ledger.permits(&job.work.capability).await?.used()),
        State::Dispatched { .. } if job.route.venue() == Venue::Fleet => {
            let own = dispatch::lane(job);
            let mut ahead = 0;
            for tier in crate::job::Tier::ALL.into_iter().filter(|tier| *tier <= own.tier) {
                ahead += yard.lanes.visible(&crate::ports::Lane { tier, ..own }).await?;
            }
            facts.ahead = Some(ahead);
        }
        State::Dispatched { .. } => match job.route.venue() {
            venue @ (Venue::Function | Venue::Fargate) => {
                facts.task = Some(yard.launcher.find(job.id, job.epoch, venue).await?);
            }
            Venue::Inline | Venue::Fleet => {}
        },
        State::Delayed { .. } | State::Running(_) | State::Settled(_) => {}
    }
    Ok(facts)
}

/// The sentence; none for a job that succeeded.
pub fn why(job: &Job, situation: &Situation, facts: &Facts) -> Option<String> {
    match &job.state {
        State::Delayed { until } => Some(delayed(job, *until)),
        State::Held { since } => Some(held(job, *since, situation, facts)),
        State::Dispatched { at, .. } => Some(dispatched(job, *at, situation, facts)),
        State::Running(run) => Some(match &run.stop {
            Some(stop) => format!("asked to end at {}; forced a minute later", shown(stop.at)),
            None => format!("running on {} until {} at the latest", run.holder, shown(run.deadline)),
        }),
        State::Settled(settlement) => settled(job, settlement),
    }
}

fn shown(at: Timestamp) -> String {
    format!("{at:.3}")
}

fn delayed(job: &Job, until: Timestamp) -> String {
    let until = shown(until);
    match job.timeline.last().map(|entry| (entry.reason.as_str(), entry.detail.as_str())) {
        Some(("attempt_failed", detail)) => format!("next attempt at {until} after {detail}"),
        Some(("no_engine", _)) => {
            format!("no container engine answers: reload the yard once one does; looked at again at {until}")
        }
        Some(("launch_failed", detail)) => format!("next launch at {until} after {detail}"),
        Some(_) | None => format!("starts at {until}, not before"),
    }
}

fn paused(pause: &Pause) -> String {
    let reason = if pause.reason.is_empty() { String::new() } else { format!(" ({})", pause.reason) };
    format!("{} is paused by {} since {}{reason}", pause.scope, pause.by, shown(pause.at))
}

fn held(job: &Job, since: Timestamp, situation: &Situation, facts: &Facts) -> String {
    let (since, capability) = (shown(since), &job.work.capability);
    match situation.brake(job) {
        Some(Brake::Paused(pause)) => format!("held: {}", paused(pause)),
        Some(Brake::Unlisted) => {
            let until = match job.work.start_deadline {
                Some(deadline) => format!("; it expires at {}", shown(deadline)),
                // It never had one, or has started once: nothing but these two ends its wait.
                None => ", until it is put back or the job is cancelled".to_owned(),
            };
            format!("held since {since}: capability {capability} is not in the catalog{until}")
        }
        Some(Brake::Limited(limit)) => match facts.permits_used {
            Some(used) if used >= usize::from(limit) => {
                format!(
                    "held since {since} by the limit of {limit} of capability {capability}: {used} of {limit} in use"
                )
            }
            Some(_) => format!("held since {since} by the limit of {limit} of capability {capability}: about to go on"),
            None => format!("held since {since} by the limit of {limit} of capability {capability}"),
        },
        None => format!("held since {since}: about to go on"),
    }
}

fn dispatched(job: &Job, at: Timestamp, situation: &Situation, facts: &Facts) -> String {
    let since = shown(at);
    // It is held as soon as somebody tries to start it.
    if let Some(Brake::Paused(pause)) = situation.brake(job) {
        return format!("waiting since {since}: {}", paused(pause));
    }
    match job.route.place {
        Place::Fleet(pool) => {
            let tier = dispatch::lane(job).tier;
            let ahead = match facts.ahead {
                // What is counted are the doorbells: its own is one of them, unless a worker has heard it just now.
                Some(2..) => format!(
                    ", one of {}{} in that tier and above",
                    facts.ahead.unwrap_or_default(),
                    if facts.ahead >= Some(1000) { " or more" } else { "" }
                ),
                Some(_) => ", next in line".to_owned(),
                None => String::new(),
            };
            format!("waiting for a slot in the {tier} tier of pool {pool} since {since}{ahead}")
        }
        Place::Inline => format!("starting inline since {since}"),
        place @ (Place::Function | Place::Fargate) => {
            let venue = place.venue();
            match facts.task {
                Some(TaskState::Waiting(0)) => format!("waiting for a place on {venue} since {since}, next in line"),
                Some(TaskState::Waiting(before)) => {
                    format!("waiting for a place on {venue} since {since}, {before} before it")
                }
                Some(TaskState::Alive) => format!("starting on {venue} since {since}"),
                // Launched once more by the reaper where that is so.
                Some(TaskState::Absent) => format!("to be launched on {venue} since {since}"),
                None => format!("waiting for a place on {venue}, or starting there, since {since}"),
            }
        }
    }
}

fn settled(job: &Job, settlement: &Settlement) -> Option<String> {
    use crate::job::Ending;
    let reason = || settlement.error.as_ref().map(|error| error.message.as_str());
    let last = job.timeline.last().map_or("", |entry| entry.reason.as_str());
    match settlement.ending {
        Ending::Succeeded => None,
        Ending::Failed if last == "failed_for_good" => Some(format!("failed for good: {}", reason()?)),
        Ending::Failed if last == "attempts_spent" => {
            Some(format!("failed {} times, as often as it may: {}", job.attempts_spent, reason()?))
        }
        Ending::Failed => Some(format!("failed: {}", reason()?)),
        Ending::TimedOut => Some(format!("ended at its time limit: {}", reason()?)),
        Ending::Cancelled if last == "forced" => Some("cancelled; its holder did not end it in time".to_owned()),
        Ending::Cancelled => Some("cancelled".to_owned()),
        Ending::Expired => Some(format!("expired: {}", reason()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brake::{Pauses, Scope};
    use crate::job::{Ending, Failure, Tier};
    use crate::ports::{LaunchFailed, LaunchFailure, Outcome};
    use crate::settle::{self, Told};
    use crate::testing::{a_job, a_running_job, at, limited};

    fn ended(ending: Ending, reason: &str, error: Option<Failure>) -> Job {
        let mut job = a_running_job(Venue::Fleet, 1);
        job.attempts_spent = 3;
        if ending == Ending::Expired {
            job = a_job(Venue::Fleet);
        }
        dispatch::end(job, ending, None, error, None, at(9), reason).job
    }

    /// Every state, brake and count: the text that API, console and command line show.
    #[test]
    fn every_sentence() {
        let free = limited(None);
        let two = limited(Some(2));
        let mut stopped = limited(Some(2));
        let pause = |scope, reason: &str| Pause { scope, by: "ana".into(), at: at(5), reason: reason.into() };
        stopped.pauses = std::sync::Arc::new(Pauses::from_iter([pause(Scope::All, "the scanner is down")]));
        let mut tier = limited(None);
        tier.pauses = std::sync::Arc::new(Pauses::from_iter([pause(Scope::Tier(Tier::Standard), "")]));
        let unlisted = Situation { policies: std::sync::Arc::default(), ..Situation::default() };
        let none = Facts::default();
        let used = |used| Facts { permits_used: Some(used), ..none };
        let ahead = |ahead| Facts { ahead: Some(ahead), ..none };
        let task = |task| Facts { task: Some(task), ..none };
        let held = dispatch::hold(a_job(Venue::Fleet), Brake::Limited(2), at(3), "limited", "").job;
        let mut hurried = held.clone();
        hurried.work.start_deadline = Some(at(700));
        let failure = Failure::new("exit_nonzero", "it exited with 1");
        let outcome = Outcome::Failed { failure: failure.clone(), permanent: false };
        let running = a_running_job(Venue::Fleet, 1);
        let told = Told { epoch: running.epoch, token: None, outcome: &outcome };
        let retrying = settle::report(running.clone(), told, &free, at(4), 0).unwrap().job;
        let throttled = LaunchFailed { message: "no capacity".into(), kind: LaunchFailure::Passing };
        let launching = dispatch::launch_failed(a_job(Venue::Fargate), &throttled, &free, at(4), 0).job;
        let mut later = launching.clone();
        later.timeline.clear();
        let stopping = settle::cancel(running.clone(), at(8), "ana").unwrap().unwrap().job;
        let mut risen = a_job(Venue::Fleet);
        risen.aged = 1;
        let cases: Vec<(&str, &Job, &Situation, Facts)> = vec![
            ("limit, all used", &held, &two, used(2)),
            ("limit, one back", &held, &two, used(1)),
            ("limit, in a list", &held, &two, none),
            ("pause", &held, &stopped, used(2)),
            ("pause of its tier", &held, &tier, none),
            ("capability gone", &held, &unlisted, none),
            ("gone, and in a hurry", &hurried, &unlisted, none),
            ("nothing holds it", &held, &free, none),
            ("attempt failed", &retrying, &free, none),
            ("launch failed", &launching, &free, none),
            ("delayed", &later, &free, none),
        ];
        let fleet = a_job(Venue::Fleet);
        let (fargate, function, inline) = (a_job(Venue::Fargate), a_job(Venue::Function), a_job(Venue::Inline));
        let ends = [
            ended(Ending::Succeeded, "succeeded", None),
            ended(Ending::Failed, "failed_for_good", Some(failure.clone())),
            ended(Ending::Failed, "attempts_spent", Some(failure.clone())),
            ended(Ending::Failed, "due", Some(Failure::new("no_feasible_venue", "no venue can run it"))),
            ended(Ending::TimedOut, "timed_out", Some(Failure::new("timed_out", "it ran into its time limit"))),
            ended(Ending::Cancelled, "cancelled", None),
            ended(Ending::Cancelled, "forced", None),
            ended(Ending::Expired, "start_deadline", Some(Failure::new("expired", "it had not started"))),
        ];
        let more: Vec<(&str, &Job, &Situation, Facts)> = vec![
            ("fleet, in a list", &fleet, &free, none),
            ("fleet, alone", &fleet, &free, ahead(1)),
            ("fleet, with others", &fleet, &free, ahead(12)),
            ("fleet, a long queue", &fleet, &free, ahead(1700)),
            ("fleet, risen", &risen, &free, none),
            ("fleet, paused", &fleet, &tier, ahead(3)),
            ("fargate, in a list", &fargate, &free, none),
            ("fargate, next", &fargate, &free, task(TaskState::Waiting(0))),
            ("fargate, others first", &fargate, &free, task(TaskState::Waiting(7))),
            ("fargate, launched", &fargate, &free, task(TaskState::Alive)),
            ("fargate, not launched", &fargate, &free, task(TaskState::Absent)),
            ("function", &function, &free, none),
            ("inline", &inline, &free, none),
            ("running", &running, &free, none),
            ("stopping", &stopping, &free, none),
        ];
        let ends: Vec<(&str, &Job, &Situation, Facts)> = ends.iter().map(|job| ("ended", job, &free, none)).collect();
        let mut text = String::new();
        for (what, job, situation, facts) in cases.into_iter().chain(more).chain(ends) {
            let sentence = why(job, situation, &facts);
            text.push_str(&format!("{what:<21} {}\n", sentence.as_deref().unwrap_or("-")));
        }
        insta::assert_snapshot!(text);
    }
}
