//! A round of the clock: what is due of every schedule goes through the door, and how far it came is remembered.
//!
//! A tick's job is accepted first and the tick remembered after: a crash in between runs the tick again, with the same
//! key, and finds its job.

use jiff::Timestamp;
use serde_json::Value;
use tracing::{info, warn};

use super::{CALLER, Due, Overlap, Schedule, due, next, submission};
use crate::intake::{self, Sender, Taking};
use crate::job::JobId;
use crate::policies::Situation;
use crate::ports::{PortError, Yard, describe};

/// What is remembered of a schedule between two rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticked {
    /// Up to where it was evaluated.
    pub upto: Timestamp,
    /// At which times it ticked then: what gets other times starts from the moment they are first seen.
    pub times: String,
    /// The last tick that became a job.
    pub tick: Option<Timestamp>,
    /// Ticks that became none.
    pub skipped: u64,
    /// The last of them, or when they were found, and why.
    pub why: Option<(Timestamp, String)>,
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Ticks that became jobs.
    pub submitted: u64,
    /// Ticks that had their job already.
    pub repeated: u64,
    /// Ticks that nobody looked at in time, and that are not made up.
    pub missed: u64,
    /// Ticks that were left out because an earlier one's job has not ended.
    pub overlapping: u64,
    /// Ticks whose submission was refused.
    pub refused: u64,
    /// Schedules that could not be looked at to their end.
    pub errors: u64,
    /// When the next round has something to do; `None`: never, until the schedules change.
    pub next: Option<Timestamp>,
}

/// What became of a tick.
enum Became {
    Job { fresh: bool },
    Overlapping(String),
    Refused(String),
}

/// At which times a schedule ticks, as it is remembered.
fn times(schedule: &Schedule) -> String {
    if schedule.enabled { format!("{} {}", schedule.when, schedule.zone()) } else { "never".to_owned() }
}

/// What a round owes a schedule of which that much is remembered, and what is to be remembered when it is paid.
fn plan(schedule: &Schedule, past: Option<&Ticked>, now: Timestamp) -> (Due, Ticked) {
    let times = times(schedule);
    let last = past.filter(|past| past.times == times).map(|past| past.upto);
    let due = due(schedule, last, now);
    let mut ticked =
        past.cloned().unwrap_or(Ticked { upto: now, times: String::new(), tick: None, skipped: 0, why: None });
    // As long as it owes nothing, there is nothing new to remember.
    if last.is_none() || !due.ticks.is_empty() || due.skipped > 0 {
        ticked.upto = due.upto;
    }
    ticked.times = times;
    if due.skipped > 0 {
        ticked.skipped += due.skipped;
        ticked.why = Some((now, format!("missed: nobody looked at {} ticks in time", due.skipped)));
    }
    (due, ticked)
}

/// The job of a schedule's tick, whether or not there is one.
pub fn job_of(schedule: &Schedule, tick: Timestamp) -> JobId {
    JobId::keyed(CALLER, &submission(schedule, tick).1)
}

/// One round: every schedule is looked at, each for itself. Nothing that one meets keeps the others waiting.
///
/// # Errors
///
/// The ledger could not say what is remembered. A single schedule's failure is counted, and the next round goes on
/// where it stopped.
pub async fn round(yard: &Yard) -> Result<TickCounts, PortError> {
    let situation = yard.situation().await;
    let now = yard.ambient.now();
    let mut remembered = yard.ledger.last_ticks().await?;
    let mut counts = TickCounts::default();
    let mut next_round: Option<Timestamp> = None;
    for schedule in situation.policies.schedules.iter() {
        let past = remembered.remove(&schedule.name);
        let again = match look(yard, schedule, past, &situation, now, &mut counts).await {
            Ok(upto) if upto < now => Some(now),
            Ok(upto) => next(schedule, upto),
            Err(error) => {
                counts.errors += 1;
                warn!(schedule = %schedule.name, error = %describe(&error), "ticks not submitted yet");
                Some(now)
            }
        };
        next_round = [next_round, again].into_iter().flatten().min();
    }
    for gone in remembered.keys() {
        // Were it remembered, a schedule of that name would make up what passed while there was none.
        if let Err(error) = yard.ledger.ticked(gone, None).await {
            counts.errors += 1;
            warn!(schedule = %gone, error = %describe(&error), "a schedule that is gone is not forgotten");
        }
    }
    counts.next = next_round;
    yard.meters.ticked(&counts);
    if (TickCounts { next: None, ..counts }) != TickCounts::default() {
        let TickCounts { submitted, repeated, missed, overlapping, refused, errors, next: _ } = counts;
        info!(submitted, repeated, missed, overlapping, refused, errors, "ticked");
    }
    Ok(counts)
}

/// Submits what is due of one schedule, and answers up to where it is evaluated then.
async fn look(
    yard: &Yard,
    schedule: &Schedule,
    past: Option<Ticked>,
    situation: &Situation,
    now: Timestamp,
    counts: &mut TickCounts,
) -> Result<Timestamp, PortError> {
    let (due, mut ticked) = plan(schedule, past.as_ref(), now);
    let mut done = None;
    for tick in &due.ticks {
        let became = match submit(yard, schedule, ticked.tick, *tick, situation, now).await {
            Ok(became) => became,
            Err(error) => {
                if let Some(done) = done {
                    // What came before it is not run again.
                    yard.ledger.ticked(&schedule.name, Some(&Ticked { upto: done, ..ticked })).await?;
                }
                return Err(error);
            }
        };
        done = Some(*tick);
        match became {
            Became::Job { fresh } => {
                ticked.tick = Some(*tick);
                *(if fresh { &mut counts.submitted } else { &mut counts.repeated }) += 1;
            }
            Became::Overlapping(why) => {
                counts.overlapping += 1;
                info!(schedule = %schedule.name, %tick, reason = why, "a tick is left out");
                (ticked.skipped, ticked.why) = (ticked.skipped + 1, Some((*tick, format!("overlap: {why}"))));
            }
            Became::Refused(why) => {
                counts.refused += 1;
                warn!(schedule = %schedule.name, %tick, reason = why, "a tick's job is refused");
                (ticked.skipped, ticked.why) = (ticked.skipped + 1, Some((*tick, format!("refused: {why}"))));
            }
        }
    }
    counts.missed += due.skipped;
    if past.as_ref() != Some(&ticked) {
        yard.ledger.ticked(&schedule.name, Some(&ticked)).await?;
    }
    Ok(due.upto)
}

/// Takes one tick through the door.
async fn submit(
    yard: &Yard,
    schedule: &Schedule,
    previous: Option<Timestamp>,
    tick: Timestamp,
    situation: &Situation,
    now: Timestamp,
) -> Result<Became, PortError> {
    let id = job_of(schedule, tick);
    if let (Overlap::Skip, Some(previous)) = (schedule.overlap, previous.filter(|previous| *previous != tick)) {
        let earlier = yard.ledger.load(job_of(schedule, previous)).await?;
        if let Some(earlier) = earlier.filter(|job| !job.is_settled()) {
            // It may have been submitted before a crash, when the earlier one had ended: retried since.
            return Ok(match yard.ledger.load(id).await? {
                Some(_) => Became::Job { fresh: false },
                None => {
                    let (earlier, phase) = (earlier.id, earlier.phase());
                    Became::Overlapping(format!("job {earlier} of the tick at {previous} is {phase}"))
                }
            });
        }
    }
    let (submission, key) = submission(schedule, tick);
    // The key's own hash stands for the body: a tick that is run again after its schedule was edited is the same job.
    let digest = intake::canonical_sha256(&Value::from(key.as_str()));
    let sender = Sender { caller: CALLER, key: Some(&key) };
    let random = yard.ambient.random();
    let rejected = match intake::prepare(&submission, digest, sender, situation, Taking::default(), now, random) {
        Ok(prepared) => match intake::accept(yard, vec![prepared]).await?.pop() {
            Some(Ok(taken)) => return Ok(Became::Job { fresh: taken.fresh }),
            Some(Err(rejected)) => rejected,
            None => return Err(PortError::permanent("accept", format!("job {id}"), "the ledger answered for no job")),
        },
        Err(rejected) => rejected,
    };
    // What was accepted once is its job, whatever the rules say today.
    Ok(match yard.ledger.load(id).await? {
        Some(_) => Became::Job { fresh: false },
        None => Became::Refused(rejected.to_string()),
    })
}
