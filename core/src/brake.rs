//! What keeps a job from starting although nothing is wrong with it: a pause, its capability's limit, a capability
//! that has left the catalog.
//!
//! Jobs under a brake are [`State::Held`] wherever they would be dispatched. Where a
//! capability has a limit, what a dispatched or running job has of it is a **permit**: a number below the limit that
//! one job holds at a time, taken in the very write that dispatches it and given up in the write that settles, delays
//! or holds it. Permits are never lent, counted or reset, so no crash can leak one: what is used is what records say. A job
//! that was claimed before there was a limit runs without one, and takes as much of the limit until it ends.
//!
//! Nobody owes an admission. Whoever gave up a permit looks for the next held job after its write; when it crashed
//! before, the [`sweep`] of the next round does. One repair for whatever made room: an end, a crash, a raised limit, a
//! resumption, a capability put back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use event_listener::Event;
use jiff::Timestamp;
use tracing::{debug, warn};

use crate::catalog::Catalog;
use crate::dispatch::{self, Act, Decided, ROUNDS};
use crate::job::{Ending, Failure, Job, Phase, State, Tier};
use crate::policies::Situation;
use crate::ports::{Permits, PortError, Saved, Yard, describe};
use crate::tell::{self, Was};

/// How often a home sweeps while jobs are held: what a crash between a write and its admission costs at most.
pub const SWEEP: Duration = Duration::from_secs(30);
/// Held jobs sent on in one pass where no limit bounds it: their writes share a few commits.
const PASS: usize = 100;
/// Held jobs sent on in one sweep, all capabilities together. What is more is the next one's, which comes at once:
/// between two of them whatever else is overdue has its turn.
pub const ADMISSIONS: usize = 500;

/// What a pause is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every job.
    All,
    /// The jobs of a tier.
    Tier(Tier),
    /// The jobs of a capability.
    Capability(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Tier(tier) => write!(f, "tier {tier}"),
            Self::Capability(name) => write!(f, "capability {name}"),
        }
    }
}

/// Somebody's word that jobs must not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Which jobs.
    pub scope: Scope,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// Why; empty when nobody said.
    pub reason: String,
}

/// The pauses in force, one for each scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<Scope, Pause>);

impl Pauses {
    /// The widest pause over the jobs of a capability in a tier.
    pub fn over(&self, capability: &str, tier: Tier) -> Option<&Pause> {
        self.0.values().find(|pause| match &pause.scope {
            Scope::All => true,
            Scope::Tier(paused) => *paused == tier,
            Scope::Capability(name) => name == capability,
        })
    }

    /// Whether no job of the tier may start: a worker need not even listen there.
    pub fn tier_paused(&self, tier: Tier) -> bool {
        self.0.contains_key(&Scope::All) || self.0.contains_key(&Scope::Tier(tier))
    }

    /// Puts a pause into force, in the place of an earlier one of its scope.
    pub fn set(&mut self, pause: Pause) {
        self.0.insert(pause.scope.clone(), pause);
    }

    /// Lifts the pause of a scope, and answers it.
    pub fn lift(&mut self, scope: &Scope) -> Option<Pause> {
        self.0.remove(scope)
    }

    /// The pause of exactly this scope.
    pub fn get(&self, scope: &Scope) -> Option<&Pause> {
        self.0.get(scope)
    }

    /// The pauses, the widest first.
    pub fn iter(&self) -> impl Iterator<Item = &Pause> {
        self.0.values()
    }
}

impl FromIterator<Pause> for Pauses {
    fn from_iter<I: IntoIterator<Item = Pause>>(pauses: I) -> Self {
        Self(pauses.into_iter().map(|pause| (pause.scope.clone(), pause)).collect())
    }
}

/// Why a job may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brake<'a> {
    /// Somebody paused it.
    Paused(&'a Pause),
    /// Its capability may have so many at once, and the job holds no permit.
    Limited(u16),
    /// Its capability is not in the catalog: it waits until it is put back, or its start deadline passes. A job that
    /// has started once has no such deadline any more: only somebody's cancellation ends its wait.
    Unlisted,
}

impl Brake<'_> {
    /// The reason as a timeline has it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Paused(_) => "paused",
            Self::Limited(_) => "limited",
            Self::Unlisted => "unlisted",
        }
    }
}

impl fmt::Display for Brake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(pause) => write!(f, "{} is paused by {}", pause.scope, pause.by),
            Self::Limited(limit) => write!(f, "its capability's limit is {limit} at once"),
            Self::Unlisted => f.write_str("its capability is not in the catalog"),
        }
    }
}

/// Whether a brake keeps the job from starting now. A job that has risen is under the pauses of its own tier and of
/// the one it has risen to.
pub fn brake<'a>(job: &Job, pauses: &'a Pauses, catalog: &Catalog) -> Option<Brake<'a>> {
    let (capability, tier) = (&job.work.capability, job.work.tier);
    if let Some(pause) = pauses.over(capability, tier).or_else(|| pauses.over(capability, tier.raised(job.aged))) {
        return Some(Brake::Paused(pause));
    }
    match catalog.get(capability) {
        None => Some(Brake::Unlisted),
        // A permit above a limit that was lowered holds no longer than its run.
        Some(listed) => {
            listed.concurrent.filter(|limit| job.permit.is_none_or(|permit| permit >= *limit)).map(Brake::Limited)
        }
    }
}

/// The permits to give out now, lowest first, at most `most`. Where the limit came or was lowered under jobs that run,
/// none until enough of them have ended.
pub fn free_permits(limit: u16, taken: &Permits, most: usize) -> Vec<u16> {
    let room = usize::from(limit).saturating_sub(taken.used());
    let taken: BTreeSet<u16> = taken.held.iter().copied().collect();
    (0..limit).filter(|permit| !taken.contains(permit)).take(room.min(most)).collect()
}

/// Decides what becomes of a held job whose turn it is: sent on with its permit, or ended where it is too late.
pub fn admission(job: Job, permit: Option<u16>, situation: &Situation, now: Timestamp) -> Decided {
    if job.work.start_deadline.is_some_and(|deadline| deadline <= now) {
        let failure = Failure::new("expired", "it was still held when its start deadline passed");
        return dispatch::end(job, Ending::Expired, None, Some(failure), None, now, "start_deadline");
    }
    dispatch::again(Job { permit, ..job }, situation, now, "admitted", "")
}

/// Lets one task at a time admit jobs of a capability. Nothing depends on it but speed: two that admit at once would
/// choose the same jobs, and one of them in vain.
#[derive(Debug, Default)]
pub struct Turnstile {
    inside: Mutex<BTreeSet<String>>,
    left: Event,
}

struct Turn<'a>(&'a Turnstile, &'a str);

impl Turnstile {
    fn inside(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A panic in between leaves a set without half-done entries.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter<'a>(&'a self, capability: &'a str) -> Turn<'a> {
        loop {
            // Listening before looking: whoever leaves in between is not missed.
            let left = self.left.listen();
            if self.inside().insert(capability.to_owned()) {
                return Turn(self, capability);
            }
            left.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.inside().remove(self.1);
        self.0.left.notify(usize::MAX);
    }
}

/// Sends on the held jobs of a capability that may go, at most so many: highest tier first, then oldest. Answers how
/// many it moved.
///
/// # Errors
///
/// The ledger failed: what may go waits for the next sweep.
pub async fn admit(yard: &Yard, capability: &str, most: usize) -> Result<u64, PortError> {
    let (mut moved, mut left) = (0, most);
    for _ in 0..ROUNDS {
        if left == 0 {
            break;
        }
        let Some(saved) = pass(yard, capability, left.min(PASS)).await? else { break };
        let mut goes = Vec::with_capacity(saved.len());
        for (job, _) in &saved {
            moved += 1;
            debug!(job.id = %job.id, job.epoch = %job.epoch, trace.id = %job.trace_id(), permit = ?job.permit, "admitted");
            goes.push(job.phase() == Phase::Dispatched);
        }
        let freed = dispatch::act_all(yard, saved).await;
        // What takes no room after all, because it expired or its launch failed at once, leaves it to the next.
        left = left.saturating_sub(goes.iter().zip(freed).filter(|(goes, freed)| **goes && freed.is_empty()).count());
    }
    Ok(moved)
}

/// One look and its writes, alone at the turnstile: the jobs that were moved, with their acts, or `None` where there
/// is nothing to move. The acts come after the turn: one of them may lead back here.
async fn pass(yard: &Yard, capability: &str, most: usize) -> Result<Option<Vec<(Job, Vec<Act>)>>, PortError> {
    let situation = yard.situation().await;
    let Some(listed) = situation.policies.catalog.get(capability) else { return Ok(None) };
    let open: Vec<Tier> =
        Tier::ALL.into_iter().filter(|tier| situation.pauses.over(capability, *tier).is_none()).collect();
    if open.is_empty() {
        return Ok(None);
    }
    let _turn = yard.turnstile.enter(capability).await;
    let permits: Vec<Option<u16>> = match listed.concurrent {
        None => vec![None; most],
        Some(limit) => {
            let taken = yard.ledger.permits(capability).await?;
            free_permits(limit, &taken, most).into_iter().map(Some).collect()
        }
    };
    if permits.is_empty() {
        return Ok(None);
    }
    let held = yard.ledger.held(capability, &open, permits.len()).await?;
    if held.is_empty() {
        return Ok(None);
    }
    let now = yard.ambient.now();
    let writes = held.into_iter().zip(permits).map(|(job, permit)| {
        let was = Was::of(&job);
        let Decided { job, acts } = admission(job, permit, &situation, now);
        let job = job.stamped(yard.ambient.nonce());
        async move { (dispatch::keep(yard, &job, None).await, was, job, acts) }
    });
    let (mut saved, mut failed) = (Vec::new(), None);
    for (kept, was, job, acts) in together(writes).await {
        match kept {
            Ok(Saved::Saved) => {
                tell::changed(yard, &was, &job);
                saved.push((job, acts));
            }
            // Somebody else was faster: the next pass sees what is left.
            Ok(Saved::Refused(_) | Saved::PermitTaken) => {}
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        // What was saved is acted upon, whatever became of the others.
        Some(error) if saved.is_empty() => Err(error),
        Some(_) | None => Ok(Some(saved)),
    }
}

/// Waits for all of them at once, so that their writes can share a commit; answers in their order.
async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        let mut all = Poll::Ready(());
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(ready) => *output = Some(ready),
                Poll::Pending => all = Poll::Pending,
            }
        }
        all
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// Admits at most so many for each of these capabilities. A failure is logged and left to the next sweep.
pub(crate) async fn admit_all(yard: &Yard, capabilities: impl IntoIterator<Item = String>, most: usize) -> u64 {
    let mut moved = 0;
    for capability in capabilities {
        match admit(yard, &capability, most).await {
            Ok(some) => moved += some,
            Err(error) => warn!(%capability, error = %describe(&error), "no job admitted; the next sweep tries again"),
        }
    }
    moved
}

/// Admits what may go of all that is held, about [`ADMISSIONS`] of it. Answers how many jobs it moved: unless that is
/// none, there may be more, and whoever sweeps does so again once it has done what else is due.
///
/// A home calls this at its start, every [`SWEEP`] while jobs are held, and whenever the rules were replaced or a pause
/// was lifted.
///
/// # Errors
///
/// The ledger could not say what is held.
pub async fn sweep(yard: &Yard) -> Result<u64, PortError> {
    let held = yard.ledger.holding().await?;
    // In equal shares: a capability that may send on very many must not keep the others waiting.
    let share = (ADMISSIONS / held.len().max(1)).max(1);
    Ok(admit_all(yard, held, share).await)
}

/// Pauses: no claim of a job under the pause is granted that is asked for after this was answered.
///
/// # Errors
///
/// The ledger failed: whether the pause is in force is unknown, and it can be asked for again.
pub async fn pause(yard: &Yard, pause: Pause) -> Result<(), PortError> {
    yard.ledger.set_pause(&pause.scope, Some(&pause)).await
}

/// Lifts a pause, and sends on what was held by it, as much as one sweep does; the home's next ones do the rest.
/// Answers the pause there was.
///
/// # Errors
///
/// The ledger failed. When the pause was lifted before, the next sweep does the rest.
pub async fn resume(yard: &Yard, scope: &Scope) -> Result<Option<Pause>, PortError> {
    let lifted = yard.ledger.pauses().await?.get(scope).cloned();
    yard.ledger.set_pause(scope, None).await?;
    sweep(yard).await?;
    Ok(lifted)
}

/// Decides about a dispatched job that met a brake when somebody claimed it. `None`: it is not dispatched, or no
/// brake is on it any more.
pub(crate) fn hold_back(job: Job, situation: &Situation, now: Timestamp) -> Option<Decided> {
    let State::Dispatched { .. } = job.state else { return None };
    let brake = situation.brake(&job)?;
    Some(dispatch::hold(job, brake, now, brake.code(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, Step};
    use crate::route::{Limits, Venue};
    use crate::testing::{a_job, a_running_job, at, limited};

    fn pause_of(scope: Scope) -> Pause {
        Pause { scope, by: "ana".into(), at: at(5), reason: "the scanner is down".into() }
    }

    fn everywhere() -> [Scope; 3] {
        [Scope::All, Scope::Tier(Tier::Standard), Scope::Capability("file-digest".into())]
    }

    #[test]
    fn each_brake_and_what_lifts_it() {
        let job = a_job(Venue::Fleet);
        let listed = limited(None).policies.catalog.clone();
        for scope in everywhere() {
            let pauses: Pauses = [pause_of(scope.clone())].into_iter().collect();
            assert_eq!(brake(&job, &pauses, &listed), Some(Brake::Paused(&pause_of(scope))));
        }
        let others = [Scope::Tier(Tier::Priority), Scope::Capability("other".into())].map(pause_of);
        let others: Pauses = others.into_iter().collect();
        assert_eq!(brake(&job, &others, &listed), None);
        // Risen into a paused tier it waits, as it does under a pause of its own.
        assert!(brake(&Job { aged: 1, ..job.clone() }, &others, &listed).is_some());
        assert_eq!(brake(&job, &Pauses::default(), &Catalog::default()), Some(Brake::Unlisted));
        let limit = limited(Some(2)).policies.catalog.clone();
        let with = |permit| brake(&Job { permit, ..job.clone() }, &others, &limit);
        assert_eq!(
            [with(None), with(Some(1)), with(Some(2))],
            [Some(Brake::Limited(2)), None, Some(Brake::Limited(2))]
        );
    }

    #[test]
    fn the_lowest_free_permits_are_given_and_none_while_a_lowered_limit_is_exceeded() {
        let free =
            |limit, held: &[u16], without, most| free_permits(limit, &Permits { held: held.to_vec(), without }, most);
        assert_eq!(free(3, &[], 0, 9), [0, 1, 2]);
        assert_eq!(free(3, &[0, 2], 0, 9), [1]);
        assert_eq!(free(5, &[1], 0, 2), [0, 2]);
        assert_eq!(free(3, &[0, 1, 2], 0, 9), [] as [u16; 0]);
        // Lowered from five to two: three run, and two must end before the next may start.
        assert_eq!(free(2, &[2, 3, 4], 0, 9), [] as [u16; 0]);
        assert_eq!(free(2, &[4], 0, 9), [0]);
        // The limit came while some ran: they have no number, and take a place all the same.
        assert_eq!(free(3, &[1], 1, 9), [0]);
        assert_eq!(free(3, &[], 6, 9), [] as [u16; 0]);
    }

    #[test]
    fn an_admission_takes_its_permit_and_a_new_epoch_in_one_write() {
        let situation = limited(Some(2));
        let held = dispatch::hold(a_job(Venue::Fleet), Brake::Limited(2), at(1), "limited", "").job;
        assert_eq!((held.phase(), held.epoch, held.permit), (Phase::Held, Epoch(1), None));
        let sent = admission(held.clone(), Some(1), &situation, at(2));
        assert_eq!((sent.job.phase(), sent.job.epoch, sent.job.permit), (Phase::Dispatched, Epoch(2), Some(1)));
        assert!(matches!(sent.acts[..], [Act::Ring(..)]));
        let mut late = held;
        late.work.start_deadline = Some(at(2));
        let ended = admission(late, Some(1), &situation, at(2));
        assert_eq!((ended.job.phase(), ended.job.permit), (Phase::Expired, None));
    }

    #[test]
    fn a_job_without_a_limit_holds_no_permit_and_asks_for_no_admission() {
        let situation = limited(None);
        let sent = dispatch::again(a_running_job(Venue::Fleet, 1), &situation, at(9), "interrupted", "");
        assert_eq!(sent.job.permit, None);
        assert!(matches!(sent.acts[..], [Act::Ring(..)]));
        let mut had = a_running_job(Venue::Fleet, 1);
        had.permit = Some(0);
        let sent = dispatch::again(had, &situation, at(9), "interrupted", "");
        assert_eq!(sent.job.permit, None, "the limit was removed, and its permit with it");
    }

    #[test]
    fn a_job_that_was_paused_or_lost_its_listing_is_held_when_it_is_claimed() {
        let mut job = a_job(Venue::Fleet);
        job.permit = Some(0);
        let mut paused = limited(Some(1));
        paused.pauses = std::sync::Arc::new([pause_of(Scope::All)].into_iter().collect());
        let held = hold_back(job.clone(), &paused, at(9)).unwrap();
        assert_eq!((held.job.phase(), held.job.permit, held.job.epoch), (Phase::Held, None, Epoch(1)));
        assert_eq!(held.acts, [Act::Admit("file-digest".into())], "its permit is another's now");
        let last = held.job.timeline.last().unwrap();
        assert_eq!((last.step, last.reason.as_str()), (Some(Step::Hold), "paused"));
        assert_eq!(hold_back(job.clone(), &limited(Some(1)), at(9)), None);
        assert_eq!(hold_back(a_running_job(Venue::Fleet, 1), &paused, at(9)), None, "what runs, runs to its end");
        let nothing: Situation = Situation { policies: std::sync::Arc::default(), ..Limits::default().into() };
        assert_eq!(hold_back(job, &nothing, at(9)).unwrap().job.timeline.last().unwrap().reason, "unlisted");
    }

    #[test]
    fn a_tier_is_paused_by_its_own_pause_and_by_one_over_everything() {
        let of = |scope| Pauses::from_iter([pause_of(scope)]);
        assert!(of(Scope::All).tier_paused(Tier::Priority));
        assert!(of(Scope::Tier(Tier::Priority)).tier_paused(Tier::Priority));
        assert!(!of(Scope::Tier(Tier::Standard)).tier_paused(Tier::Priority));
        assert!(!of(Scope::Capability("x".into())).tier_paused(Tier::Priority));
        let mut pauses = of(Scope::All);
        assert_eq!((pauses.lift(&Scope::All).is_some(), pauses.lift(&Scope::All)), (true, None));
    }
}
