//! Room 4: claim -> run -> report, the same for every venue.
//!
//! The claim's decision is here too: a home may express it as its own conditional write, and the contract suite
//! holds that write to this function.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use futures_lite::future;
use jiff::Timestamp;
use tracing::{debug, warn};

use crate::job::{ClaimToken, Failure, Holder, Job, Run, State, Step, StopCause, TraceId, Watch};
use crate::policies::Situation;
use crate::ports::{
    Ambient, Assignment, Beat, Blobs, Body, Claim, Claimed, Desk, Emission, Executor, LoanDoor, LogLine, LogSink,
    Message, Outcome, PortError, Refusal, Report, Reported, Room, StopSignal, Usage, Voucher, persist,
};
use crate::records::Emitted;
use crate::route::Venue;

/// How often a holder shows life. Four times a lease: three may be lost.
pub const BEAT: Duration = Duration::from_secs(15);
/// A holder whose beat counter has not moved for so long, twice seen, is dead.
pub const LEASE: Duration = Duration::from_secs(60);
/// A holder that cannot get a beat acknowledged for so long ends its own runs, before anybody can bury it: the
/// lease less 15 s.
pub const FENCE: Duration = Duration::from_secs(45);
/// What a desk may take for its answer beyond the patience it was given.
const OVERDUE: Duration = Duration::from_secs(10);
/// What is added to a run's deadline before the reaper forces its end.
pub const FORCE_AFTER: Duration = Duration::from_secs(60);
/// How often a call to the desk is repeated when it may pass: for 13 to 25 s in all, well within [`FENCE`]. A disk that
/// is full for a moment must not cost a run that has ended.
const TRIES: u32 = 8;

/// Decides a claim. A job under a brake is not given: whoever asked the ledger holds it back.
///
/// # Errors
///
/// The [`Refusal`] says what the claimer makes of its doorbell.
pub fn claim(job: &Job, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Job, Refusal> {
    if job.is_settled() {
        return Err(Refusal::Settled);
    }
    if job.epoch > claim.epoch {
        return Err(Refusal::Newer);
    }
    if job.epoch < claim.epoch {
        // The record went back in time: a restored backup. Whoever restored it rings again.
        return Err(Refusal::NotNow);
    }
    match &job.state {
        // Our own token: this very claim took effect and its answer was lost. Say so again.
        State::Running(run) if run.token == claim.token => Ok(job.clone()),
        State::Running(_) => Err(Refusal::Taken),
        State::Delayed { .. } | State::Settled(_) => Err(Refusal::NotNow),
        State::Held { .. } => Err(Refusal::Braked),
        State::Dispatched { .. } if job.work.start_deadline.is_some_and(|deadline| deadline <= now) => {
            Err(Refusal::NotNow)
        }
        // What may not start needs no room.
        State::Dispatched { .. } if situation.brake(job).is_some() => Err(Refusal::Braked),
        State::Dispatched { .. } if claim.room.is_some_and(|room| !Room::of(&job.work.needs).fits_in(room)) => {
            Err(Refusal::NoRoom(Room::of(&job.work.needs)))
        }
        State::Dispatched { .. } => {
            let venue_allows = match job.route.venue() {
                Venue::Function => situation.limits().function_time,
                // An invocation says with its claim what is left of it; tasks and workers have the time.
                Venue::Inline | Venue::Fargate | Venue::Fleet => Duration::MAX,
            };
            let longest = job.work.run_timeout.min(venue_allows).min(claim.at_most.unwrap_or(Duration::MAX));
            let deadline = now + longest;
            let mut claimed = job.clone();
            let run = Run {
                holder: claim.holder.clone(),
                token: claim.token,
                at: now,
                deadline,
                stop: None,
                watch: Watch::default(),
                ended: None,
            };
            claimed.take(Step::Claim, State::Running(run), now, "claimed", claim.holder.to_string());
            claimed.launch_failures = 0;
            // It has started in time: what comes after, a retry say, is not a start any more.
            claimed.work.start_deadline = None;
            claimed.due = Some(match job.route.venue() {
                // These have no beat: the invocation that runs them ends by itself.
                Venue::Inline | Venue::Function => deadline + FORCE_AFTER,
                Venue::Fargate | Venue::Fleet => (now + LEASE).min(deadline),
            });
            Ok(claimed)
        }
    }
}

/// The runs of one holder, so that one beat can speak for all of them and its orders find the right one.
#[derive(Clone, Default)]
pub struct Runs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The runs, each with what tells it to end.
    runs: Mutex<HashMap<Message, StopSignal>>,
    /// One has entered.
    entered: Event,
    /// One is ordered back.
    back: StopSignal,
}

impl Runs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Message, StopSignal>> {
        // A panic while the map was held leaves a map; nothing in it is half done.
        self.0.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The runs there are.
    pub fn running(&self) -> Vec<Message> {
        let mut running: Vec<Message> = self.lock().keys().copied().collect();
        running.sort();
        running
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Waits until there is at least one.
    pub async fn any(&self) {
        loop {
            let entered = self.0.entered.listen();
            if !self.is_empty() {
                return;
            }
            entered.await;
        }
    }

    /// Tells one run to end, if it is there.
    pub fn stop(&self, run: Message, cause: StopCause) {
        if cause == StopCause::Drain {
            self.0.back.raise(cause);
        }
        if let Some(signal) = self.lock().get(&run) {
            signal.raise(cause);
        }
    }

    /// Waits until a run is ordered back: its machine is to be taken away, and every other run there with it.
    pub async fn ordered_back(&self) {
        self.0.back.raised().await;
    }

    /// Tells every run to end.
    pub fn stop_all(&self, cause: StopCause) {
        for signal in self.lock().values() {
            signal.raise(cause);
        }
    }

    /// Leaves every run no time: those that were told to end are killed.
    pub fn hurry_all(&self) {
        for signal in self.lock().values() {
            signal.hurry();
        }
    }

    /// `None` when this holder has that run already: the doorbell rang twice here. A second entry in the first one's
    /// place would take it out of the beat when it leaves, and the reaper would bury a living run.
    fn enter(&self, run: Message) -> Option<Entered<'_>> {
        match self.lock().entry(run) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let signal = StopSignal::default();
                place.insert(signal.clone());
                self.0.entered.notify(usize::MAX);
                Some(Entered { runs: self, run, signal })
            }
        }
    }
}

struct Entered<'a> {
    runs: &'a Runs,
    run: Message,
    signal: StopSignal,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.runs.lock().remove(&self.run);
    }
}

/// What one doorbell led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It ran, and its end is recorded, or was no longer wanted.
    Done(Reported),
    /// There was nothing to run.
    Refused(Refusal),
}

impl Ran {
    /// Whether the doorbell has said all it can say.
    pub fn is_final(self) -> bool {
        match self {
            Self::Done(_) => true,
            Self::Refused(refusal) => refusal.is_final(),
        }
    }
}

/// Who runs, and through which doors.
pub struct Holding<'a> {
    /// Where claims and reports go.
    pub desk: &'a dyn Desk,
    /// What runs the work.
    pub executor: &'a dyn Executor,
    /// Where large payloads lie.
    pub blobs: &'a dyn Blobs,
    /// Time and chance.
    pub ambient: &'a dyn Ambient,
    /// In whose name.
    pub holder: &'a Holder,
    /// The holder's runs, which its beat speaks for.
    pub runs: &'a Runs,
}

/// Claims the job a doorbell names, runs it, and reports. `at_most` is what this holder can give it.
///
/// # Errors
///
/// The desk could not be reached for the claim or the report, however often it was tried. Nothing of the job runs
/// here any more; the reaper finds out.
pub async fn run(holding: &Holding<'_>, bell: Message, at_most: Option<Duration>) -> Result<Ran, PortError> {
    match take(holding, bell, at_most, None).await? {
        Taken::Won(ready) => ready.run().await,
        Taken::Lost(refusal) => Ok(Ran::Refused(refusal)),
    }
}

/// What became of a claim, at its holder.
pub enum Taken<'a> {
    /// The job is this holder's to run.
    Won(Ready<'a>),
    /// It is not.
    Lost(Refusal),
}

/// A job that was claimed and does not run yet. It is in its holder's beat; let go, it is lost until the reaper looks.
pub struct Ready<'a> {
    holding: &'a Holding<'a>,
    entered: Entered<'a>,
    voucher: Voucher,
    job: Box<Job>,
    payload: Body,
}

/// Claims the job a doorbell names. `at_most` and `room` are what this holder can give it.
///
/// # Errors
///
/// The desk could not be reached, however often it was tried.
pub async fn take<'a>(
    holding: &'a Holding<'a>,
    bell: Message,
    at_most: Option<Duration>,
    room: Option<Room>,
) -> Result<Taken<'a>, PortError> {
    let token = ClaimToken::new(holding.ambient.random());
    let voucher = Voucher { id: bell.id, epoch: bell.epoch, token };
    let (holder, token) = (holding.holder.clone(), voucher.token.hash());
    let asked = Claim { id: bell.id, epoch: bell.epoch, holder, token, at_most, room };
    // In the beat's list before the claim: a beat that goes out while the claim's answer is under way must name it.
    let Some(entered) = holding.runs.enter(bell) else { return Ok(Taken::Lost(Refusal::Taken)) };
    let claimed = persist(holding.ambient, "claim", TRIES, || holding.desk.claim(&asked)).await?;
    Ok(match claimed {
        Claimed::Lost(refusal) => Taken::Lost(refusal),
        Claimed::Won(job, payload) => Taken::Won(Ready { holding, entered, voucher, job, payload }),
    })
}

impl Ready<'_> {
    /// What the job takes of its holder's room.
    pub fn needs(&self) -> Room {
        Room::of(&self.job.work.needs)
    }

    /// Runs it, and reports.
    ///
    /// # Errors
    ///
    /// The desk could not be reached for the report, however often it was tried.
    pub async fn run(self) -> Result<Ran, PortError> {
        let Self { holding, entered, voucher, job, payload } = self;
        let (id, epoch, trace) = (job.id, job.epoch, job.trace_id());
        let mut usage = Usage::default();
        let outcome = match fetch(holding, payload).await {
            Ok(payload) => {
                let deadline = match &job.state {
                    State::Running(run) => run.deadline,
                    State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => {
                        holding.ambient.now()
                    }
                };
                let log = DeskLog { desk: holding.desk, voucher: &voucher, trace, usage: Mutex::default() };
                let loans = LoanDoor::at(holding.desk, &voucher);
                let assignment = Assignment { job: *job, payload, deadline, stop: entered.signal.clone(), loans };
                let outcome = holding.executor.run(&assignment, &log).await;
                usage = log.usage.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                outcome
            }
            Err(error) if error.retryable => Outcome::Interrupted(format!("its payload could not be read: {error}")),
            // Given back, it would come again at once, and for ever.
            Err(error) => Outcome::Failed { failure: Failure::new("payload_lost", error.to_string()), permanent: true },
        };
        let report = Report { voucher, outcome, usage };
        // Whatever the failure: permissions and keys come back, too, and hours of work are worth the wait.
        let settle = async || {
            let settled = holding.desk.settle(&report).await;
            settled.map_err(|error| PortError { retryable: true, ..error })
        };
        let reported = persist(holding.ambient, "settle", TRIES, settle).await?;
        // The yard tells how it ended; its holder, that it has said so.
        debug!(job.id = %id, job.epoch = %epoch, trace.id = %trace, holder = %holding.holder, ?reported, "reported");
        Ok(Ran::Done(reported))
    }
}

async fn fetch(holding: &Holding<'_>, payload: Body) -> Result<String, PortError> {
    match payload {
        Body::Inline(text) => Ok(text),
        Body::Blob(blob) => {
            let text = persist(holding.ambient, "read payload", TRIES, || holding.blobs.get(&blob)).await?;
            text.ok_or_else(|| PortError::permanent("read the payload of", blob.job, "there is no such blob"))
        }
    }
}

struct DeskLog<'a> {
    desk: &'a dyn Desk,
    voucher: &'a Voucher,
    trace: TraceId,
    usage: Mutex<Usage>,
}

#[async_trait]
impl LogSink for DeskLog<'_> {
    fn used(&self, usage: Usage) {
        *self.usage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = usage;
    }

    async fn emit(&self, lines: &[Emitted]) -> Result<Emission, PortError> {
        self.desk.emit(self.voucher, lines).await
    }

    async fn write(&self, lines: Vec<LogLine>) {
        if let Err(error) = self.desk.log(self.voucher, &lines).await {
            let Voucher { id, epoch, .. } = self.voucher;
            warn!(
                job.id = %id, job.epoch = %epoch, trace.id = %self.trace, %error, lines = lines.len(), "log lines lost"
            );
        }
    }
}

/// A holder's heart: beats while there are runs, passes on the orders that come back, and ends every run itself
/// when no beat was acknowledged for [`FENCE`]. Returns when there are no runs; `counter` goes on from call to call.
pub async fn beat_while_running(holding: &Holding<'_>, counter: &mut u64) {
    let mut acknowledged = holding.ambient.now();
    let mut patience = BEAT;
    while !holding.runs.is_empty() {
        *counter += 1;
        // Listening before listing: a run that enters in between is not missed.
        let entered = holding.runs.0.entered.listen();
        let beat = Beat { holder: holding.holder.clone(), counter: *counter, running: holding.runs.running() };
        let sent = holding.ambient.now();
        let held = !patience.is_zero();
        let asking = async { Some(holding.desk.beat(&beat, patience).await) };
        // A desk that holds its answer longer than it was allowed to has not answered.
        let silence = async {
            holding.ambient.pause(patience + OVERDUE).await;
            Some(Err(PortError::retryable("beat at", "the desk", "it does not answer")))
        };
        let overtaken = async {
            if patience.is_zero() {
                future::pending::<()>().await;
            }
            entered.await;
            None
        };
        let answered = future::or(asking, future::or(overtaken, silence)).await;
        // An answer held back for runs that were listed brings no order for one that began since. The next beat names
        // it too, and is answered at once: a holder that begins runs all the time must still be acknowledged.
        patience = if answered.is_some() { BEAT } else { Duration::ZERO };
        let mut longest_pause = Duration::from_secs(1);
        match answered {
            None => {}
            Some(Ok(orders)) => {
                acknowledged = sent;
                // A desk that could have waited for something to say and did not is asked again when a beat is due.
                if orders.is_empty() && held {
                    longest_pause = BEAT;
                }
                for order in orders {
                    holding.runs.stop(order.run, order.cause);
                }
            }
            Some(Err(error)) => {
                warn!(holder = %holding.holder, %error, "no answer to a beat");
                if holding.ambient.now() > acknowledged + FENCE {
                    holding.runs.stop_all(StopCause::Stale);
                }
            }
        }
        // A desk that answered early is not asked again at once: a stopped run needs a moment to end.
        let spent = holding.ambient.now().duration_since(sent).unsigned_abs();
        let rest = if spent >= BEAT { Duration::ZERO } else { BEAT - spent };
        let pause = if holding.runs.is_empty() { Duration::ZERO } else { rest.min(longest_pause) };
        if !pause.is_zero() {
            holding.ambient.pause(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, Phase, StopCause};
    use crate::testing::{a_claim, a_job, at};

    fn here() -> Situation {
        crate::testing::limited(None)
    }

    #[test]
    fn the_first_claim_wins_and_its_repeat_wins_again() {
        let job = a_job(Venue::Fleet);
        let mine = a_claim(&job, 1);
        let claimed = claim(&job, &mine, &here(), at(5)).unwrap();
        assert_eq!(claimed.phase(), Phase::Running);
        assert_eq!(claimed.due, Some(at(5) + LEASE));
        assert_eq!(
            claim(&claimed, &mine, &here(), at(9)).as_ref(),
            Ok(&claimed),
            "the answer was lost, the claim is repeated"
        );
        assert_eq!(claim(&claimed, &a_claim(&job, 2), &here(), at(9)), Err(Refusal::Taken));
    }

    #[test]
    fn claims_that_come_too_late_or_too_early_are_refused() {
        let job = a_job(Venue::Fleet);
        let mine = a_claim(&job, 1);
        let newer = Job { epoch: Epoch(2), ..job.clone() };
        assert_eq!(claim(&newer, &mine, &here(), at(5)), Err(Refusal::Newer));
        let restored = Job { epoch: Epoch(0), ..job.clone() };
        assert_eq!(claim(&restored, &mine, &here(), at(5)), Err(Refusal::NotNow));
        let mut late = job;
        late.work.start_deadline = Some(at(5));
        assert_eq!(claim(&late, &mine, &here(), at(5)), Err(Refusal::NotNow));
    }

    #[test]
    fn a_job_under_a_brake_is_given_to_nobody_and_its_doorbell_is_done() {
        let job = a_job(Venue::Fleet);
        let limited = crate::testing::limited(Some(1));
        assert_eq!(claim(&job, &a_claim(&job, 1), &limited, at(5)), Err(Refusal::Braked));
        assert!(Refusal::Braked.is_final(), "its next dispatch rings anew");
        let allowed = Job { permit: Some(0), ..job.clone() };
        let running = claim(&allowed, &a_claim(&job, 1), &limited, at(5)).unwrap();
        assert_eq!(running.permit, Some(0));
        let held = crate::dispatch::hold(job.clone(), crate::brake::Brake::Unlisted, at(1), "unlisted", "").job;
        assert_eq!(claim(&held, &a_claim(&job, 1), &here(), at(5)), Err(Refusal::Braked));
    }

    #[test]
    fn a_claim_without_room_hears_what_the_job_needs() {
        let job = a_job(Venue::Fleet);
        let needs = Room::of(&job.work.needs);
        let offered = |room| claim(&job, &Claim { room: Some(room), ..a_claim(&job, 1) }, &here(), at(0));
        assert!(offered(needs).is_ok());
        for short in [
            Room { slots: 0, ..needs },
            Room { milli_vcpu: needs.milli_vcpu - 1, ..needs },
            Room { memory_mib: needs.memory_mib - 1, ..needs },
        ] {
            assert_eq!(offered(short), Err(Refusal::NoRoom(needs)));
        }
    }

    #[test]
    fn a_claim_takes_no_more_time_than_the_claimer_has() {
        let job = a_job(Venue::Inline);
        let mine = Claim { at_most: Some(Duration::from_secs(10)), ..a_claim(&job, 1) };
        let State::Running(run) = claim(&job, &mine, &here(), at(0)).unwrap().state else { panic!("not running") };
        assert_eq!(run.deadline, at(10));
    }

    #[test]
    fn a_function_has_900_seconds_however_long_its_job_may_run() {
        let job = a_job(Venue::Function);
        assert_eq!(job.work.run_timeout, Duration::from_secs(3600));
        let State::Running(run) = claim(&job, &a_claim(&job, 1), &here(), at(0)).unwrap().state else {
            panic!("not running")
        };
        assert_eq!(run.deadline, at(900));
        let shorter = crate::route::Limits { function_time: Duration::from_secs(60), ..here().limits().clone() };
        let State::Running(run) = claim(&job, &a_claim(&job, 1), &shorter.into(), at(0)).unwrap().state else {
            panic!("not running")
        };
        assert_eq!(run.deadline, at(60), "where `limit_seconds` says so");
    }

    #[test]
    fn orders_reach_their_run_and_no_other() {
        let runs = Runs::default();
        let job = a_job(Venue::Fleet);
        let first = Message { id: job.id, epoch: Epoch(1) };
        let second = Message { id: job.id, epoch: Epoch(2) };
        let one = runs.enter(first).unwrap();
        let two = runs.enter(second).unwrap();
        runs.stop(second, StopCause::Cancel);
        assert_eq!((one.signal.cause(), two.signal.cause()), (None, Some(StopCause::Cancel)));
        drop(two);
        assert_eq!(runs.running(), [first]);
    }

    #[test]
    fn a_doorbell_that_rings_twice_here_leaves_the_first_run_in_the_beat() {
        let runs = Runs::default();
        let run = Message { id: a_job(Venue::Fleet).id, epoch: Epoch(1) };
        let first = runs.enter(run).unwrap();
        assert!(runs.enter(run).is_none());
        assert_eq!(runs.running(), [run]);
        drop(first);
        assert!(runs.enter(run).is_some());
    }
}
