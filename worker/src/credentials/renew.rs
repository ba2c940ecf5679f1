//! A loan is renewed before it ends, for as long as its run may last; and all of them go back when it has ended.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use switchyard_core::lend::{Loan, renewed_at};
use switchyard_core::ports::backoff;
use tracing::warn;

use super::{Lent, Slot, ask};

/// The least between two loans of one name, however short they are: nobody is to be asked without a pause.
const APART: Duration = Duration::from_secs(1);
/// The pause after the first renewal in vain; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause: a vendor that is back is noticed within a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is next for a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is renewed at this moment.
    Renew(Timestamp),
    /// Nothing: it lasts as long as its run may, and no other would last longer.
    Rest,
}

/// What is next for a loan that was made at `at` and ends at `until`, of a run with this deadline.
fn next(at: Timestamp, until: Timestamp, deadline: Timestamp) -> Next {
    if until + APART >= deadline { Next::Rest } else { Next::Renew(renewed_at(at, until).max(at + APART)) }
}

/// Why a loan is not renewed.
struct Why {
    told: String,
    retryable: bool,
}

impl Lent<'_> {
    /// Looks after one loan until the run ends.
    pub(super) async fn renew(&self, slot: &Slot) -> Infallible {
        loop {
            let newest = slot.held().newest.as_ref().map(|(at, loan)| (*at, loan.until));
            let next = newest.map_or(Next::Rest, |(at, until)| next(at, until, self.assignment.deadline));
            // What was replaced may be used until its own end, and goes back then: its vendor may let it last for longer.
            let over = slot.first_end();
            match (next, newest) {
                (Next::Renew(moment), Some((_, until))) if over.is_none_or(|over| moment <= over) => {
                    self.wait_until(moment).await;
                    self.renew_until_lent(slot, until).await;
                }
                _ => match over {
                    Some(over) => {
                        self.wait_until(over).await;
                        self.give_back(slot.take_ended(self.ambient.now().max(over))).await;
                    }
                    None => std::future::pending().await,
                },
            }
        }
    }

    /// Tries again and again. A loan that ends meanwhile is taken from the program, and the job's log says so, once; the run goes
    /// on without it. What is refused for good is not asked for again: this does not return then.
    async fn renew_until_lent(&self, slot: &Slot, until: Timestamp) {
        let mut failures = 0;
        let mut ended = false;
        loop {
            let Err(why) = self.renew_once(slot).await else { break };
            failures += 1;
            let pause = backoff(FIRST_PAUSE, failures, self.ambient.chance()).min(LONGEST_PAUSE);
            let again = self.ambient.now() + pause;
            self.wait_until(match (ended, why.retryable) {
                (true, _) => again,
                // Its end is not slept through.
                (false, true) => again.min(until),
                (false, false) => until,
            })
            .await;
            if !ended && self.ambient.now() >= until {
                ended = true;
                self.take_from_program(slot, &why.told).await;
            }
            if !why.retryable {
                std::future::pending::<()>().await;
            }
        }
        if ended {
            self.say(format!("loan `{}` is lent again", slot.name)).await;
        }
    }

    async fn renew_once(&self, slot: &Slot) -> Result<(), Why> {
        let lent = self.ask(slot).await;
        lent.map_err(|unlent| Why { told: unlent.told(), retryable: unlent.is_retryable() })?;
        let written = self.files.put(slot).and_then(|()| self.files.put_profiles(&self.slots));
        // The endpoint has it; its file is tried again with the next.
        written.map_err(|error| Why { told: format!("its file cannot be written: {error}"), retryable: true })?;
        let now = self.ambient.now();
        self.give_back(slot.take_ended(now)).await;
        Ok(())
    }

    async fn take_from_program(&self, slot: &Slot, why: &str) {
        let over = slot.take_ended(self.ambient.now());
        if let Err(error) = self.files.remove(slot).and_then(|()| self.files.put_profiles(&self.slots)) {
            let job = &self.assignment.job;
            warn!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), %error, "a credential that has ended is not removed");
        }
        self.say(format!("loan `{}` has ended, and is not renewed: {why}", slot.name)).await;
        self.give_back(over).await;
    }

    async fn wait_until(&self, moment: Timestamp) {
        let left = moment.duration_since(self.ambient.now());
        self.ambient.pause(left.try_into().unwrap_or_default()).await;
    }

    /// Takes everything from the run's program, which has ended, and gives it back.
    pub async fn end(mut self) {
        // Nobody can ask or read any more before the first is given back.
        self.endpoint = None;
        self.wipe();
        self.give_back(self.slots.iter().flat_map(Slot::take_all).collect()).await;
    }

    /// Gives loans back, all at once. What cannot be within [`ask::GIVEN_BACK`] ends by itself; it is on record as lent.
    async fn give_back(&self, loans: Vec<Loan>) {
        let each = loans.iter().map(async |loan| {
            let Err(why) = ask::given_back(self.assignment, self.ambient, loan).await else { return };
            let job = &self.assignment.job;
            warn!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), loan.id = %loan.id, loan.scope = %loan.scope, error = why, "a loan is not given back");
        });
        futures_util::future::join_all(each).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_loan_is_renewed_unless_it_lasts_as_long_as_its_run_may() {
        // Ten minutes before its end, or at two thirds of a short one.
        assert_eq!(next(at(0), at(3600), at(7200)), Next::Renew(at(3000)));
        assert_eq!(next(at(0), at(90), at(7200)), Next::Renew(at(60)));
        assert_eq!(next(at(0), at(3600), at(3600)), Next::Rest);
        assert_eq!(next(at(0), at(3599), at(3600)), Next::Rest, "a broker's clock is not the worker's to the second");
        // However short it is, nobody is asked without a pause; also when it was over when it came.
        assert_eq!(next(at(10), at(11), at(3600)), Next::Renew(at(11)));
        assert_eq!(next(at(10), at(5), at(3600)), Next::Renew(at(11)));
    }
}
