//! Runs that are ordered back, because their holder's instance is about to be taken away: the second way on which a worker
//! hears of that, beside its instance's own metadata.

use jiff::Timestamp;

use super::{AskError, decide_and_save};
use crate::dispatch::Decided;
use crate::job::{Epoch, Holder, Job, State, Stop, StopCause};
use crate::ports::{PortError, Yard};

/// Decides that a run is ordered back from its holder, whose instance is about to be taken away. `None`: it is no run of
/// that holder any more, or was asked to end already.
pub fn order_back(mut job: Job, epoch: Epoch, holder: &Holder, now: Timestamp) -> Option<Decided> {
    match &mut job.state {
        State::Running(run) if job.epoch == epoch && run.holder == *holder && run.stop.is_none() => {
            run.stop = Some(Stop { cause: StopCause::Drain, at: now });
            job.note(None, now, "ordered_back", "its instance is about to be taken away");
            Some(Decided { job, acts: vec![] })
        }
        State::Running(_)
        | State::Delayed { .. }
        | State::Held { .. }
        | State::Dispatched { .. }
        | State::Settled(_) => None,
    }
}

/// Orders back what the workers of an instance run that is about to be taken away, as their last beats named it. Their next
/// beat brings the order, and a worker that is ordered to give one run back gives all of them back. Answers whether there
/// are such workers, and how many runs were ordered back.
///
/// # Errors
///
/// The home failed: whoever told may tell again, and what is ordered back already stays so.
pub async fn order_all_back(yard: &Yard, instance: &str) -> Result<(bool, usize), PortError> {
    let workers = yard.workers.list().await?;
    let holders = workers.into_iter().map(|worker| worker.holder).filter(|holder| holder.instance() == instance);
    let (mut ours, mut ordered) = (false, 0);
    for holder in holders {
        ours = true;
        let beat = yard.ledger.last_beat(&holder).await?;
        for run in beat.map(|beat| beat.running).unwrap_or_default() {
            let decide = |job: Job| Ok(order_back(job, run.epoch, &holder, yard.ambient.now()));
            match decide_and_save(yard, run.id, decide).await {
                Ok(job) => {
                    let back = |stop: &Stop| stop.cause == StopCause::Drain;
                    let is_back = match &job.state {
                        State::Running(now) => now.holder == holder && now.stop.as_ref().is_some_and(back),
                        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => {
                            false
                        }
                    };
                    ordered += usize::from(is_back);
                }
                Err(AskError::NotFound(_) | AskError::Conflict { .. }) => {}
                Err(AskError::Port(error)) => return Err(error),
            }
        }
    }
    Ok((ours, ordered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Phase;
    use crate::reap::{self, Fact};
    use crate::route::{Limits, Venue};
    use crate::settle::cancel;
    use crate::testing::{a_running_job, at};

    fn holder(job: &Job) -> Holder {
        let State::Running(run) = &job.state else { panic!("not running") };
        run.holder.clone()
    }

    fn stop(job: &Job) -> Option<StopCause> {
        let State::Running(run) = &job.state else { panic!("not running") };
        run.stop.as_ref().map(|stop| stop.cause)
    }

    #[test]
    fn a_run_is_ordered_back_once_and_from_its_own_holder() {
        let job = a_running_job(Venue::Fleet, 1);
        let ordered = order_back(job.clone(), job.epoch, &holder(&job), at(5)).unwrap().job;
        assert_eq!(stop(&ordered), Some(StopCause::Drain));
        assert_eq!(ordered.due, job.due, "its holder is looked at as before");
        assert_eq!(order_back(ordered.clone(), job.epoch, &holder(&job), at(6)), None);
        assert_eq!(order_back(job.clone(), job.epoch, &Holder("i-2/1".into()), at(5)), None);
        assert_eq!(order_back(job.clone(), Epoch(job.epoch.0 + 1), &holder(&job), at(5)), None);
        let cancelled = cancel(ordered, at(6), "ana").unwrap().unwrap().job;
        assert_eq!(stop(&cancelled), Some(StopCause::Cancel), "whoever cancels is heard all the same");
    }

    #[test]
    fn one_that_was_ordered_back_and_never_came_is_lost_with_its_holder_and_not_cancelled() {
        let job = a_running_job(Venue::Fleet, 1);
        let mut job = order_back(job.clone(), job.epoch, &holder(&job), at(5)).unwrap().job;
        let situation = Limits::one_machine(8192).into();
        for round in 1..10 {
            job = reap::look(job, &Fact::Beat(None), &situation, at(120 * round)).expect("it is due").job;
            if job.phase() != Phase::Running {
                break;
            }
        }
        assert_eq!((job.phase(), job.losses, job.attempts_spent), (Phase::Dispatched, 1, 0));
    }
}
