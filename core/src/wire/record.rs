//! A job's record as it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FailureWire, Ms, WireCause, WireError, bad, from_hex, from_ms, from_ms_opt, hex, ms};
use crate::job::{
    Ending, Entry, Epoch, Failure, Holder, Job, JobId, Nonce, Owed, Phase, ResultRef, Run, Settlement, State, Step,
    Stop, StopCause, TaskEnd, TaskEndCause, Tier, TokenHash, Watch, Work,
};
use crate::route::{Choice, Needs, Packaging, Pin, Place, PoolName, Route, Rule, Venue, Verdict, Verdicts};

/// The version of the stored record. Version 1, which had no pools, prices and permits, is read too.
pub const RECORD_VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    id: JobId,
    capability: String,
    tier: Tier,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<(String, String)>,
    caller: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    body_sha256: String,
    run_timeout_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_deadline: Option<Ms>,
    attempts: u32,
    backoff_s: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    announce: bool,
    needs: NeedsWire,
    state: StateWire,
    epoch: Epoch,
    attempts_spent: u32,
    attempts_allowed: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    interruptions: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    losses: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    launch_failures: u32,
    venue: Venue,
    pool: PoolName,
    /// Not in version 1.
    #[serde(default = "cheapest")]
    choice: Choice,
    #[serde(default)]
    judged: Vec<VerdictWire>,
    /// Version 1 only: a rule or nothing for each venue, by rank.
    #[serde(default, skip_serializing)]
    verdicts: Vec<Option<Rule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permit: Option<u16>,
    #[serde(default, skip_serializing_if = "is_zero_u8")]
    aged: u8,
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    spent: u64,
    timeline: Vec<EntryWire>,
    created: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<Ms>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owed: Vec<OwedWire>,
    revision: u64,
    nonce: String,
    /// Of jobs that a request brought; earlier programs wrote none, and ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

/// (venue, pool of the fleet, rule it was rejected by, milliseconds to start, nano-dollars): short, because every job
/// has one for each place.
type VerdictWire = (Venue, Option<PoolName>, Option<Rule>, u64, u64);

fn cheapest() -> Choice {
    Choice::Cheapest
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_u8(number: &u8) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct NeedsWire {
    packaging: Packaging,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_s: Option<u64>,
    memory_mib: u32,
    #[serde(default = "quarter")]
    milli_vcpu: u32,
    #[serde(default, skip_serializing_if = "is_false")]
    docker: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    privileged: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    network_tools: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    static_address: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    isolate: bool,
    interruptible: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    only: Vec<Pin>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prefer: Vec<Pin>,
}

/// What a job of version 1 is taken to need of processors: the catalog's default.
fn quarter() -> u32 {
    250
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum StateWire {
    Delayed {
        until: Ms,
    },
    Held {
        since: Ms,
    },
    Dispatched {
        at: Ms,
        #[serde(default, skip_serializing_if = "is_zero")]
        looks: u32,
    },
    Running {
        holder: Holder,
        token: String,
        at: Ms,
        deadline: Ms,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<(StopCause, Ms)>,
        #[serde(default)]
        watch: (u64, u32),
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<(Ms, TaskEndCause, String)>,
    },
    Settled {
        ending: Ending,
        at: Ms,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<(Epoch, u64)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<FailureWire>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct EntryWire {
    at: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    phase: Phase,
    epoch: Epoch,
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwedWire {
    Announce(Epoch),
    StopTask(Venue, Epoch),
}

/// A job's record as it is stored.
pub fn encode(job: &Job) -> String {
    let Work { capability, tier, labels, caller, key, body_sha256, .. } = job.work.clone();
    let needs = &job.work.needs;
    let record = Record {
        v: RECORD_VERSION,
        id: job.id,
        capability,
        tier,
        labels,
        caller,
        key,
        body_sha256: hex(&body_sha256),
        run_timeout_s: job.work.run_timeout.as_secs(),
        start_deadline: job.work.start_deadline.map(ms),
        attempts: job.work.attempts,
        backoff_s: job.work.backoff.as_secs(),
        announce: job.work.announce,
        needs: NeedsWire {
            packaging: needs.packaging,
            expected_s: needs.expected.map(|expected| expected.as_secs()),
            memory_mib: needs.memory_mib,
            milli_vcpu: needs.milli_vcpu,
            docker: needs.docker,
            privileged: needs.privileged,
            network_tools: needs.network_tools,
            static_address: needs.static_address,
            isolate: needs.isolate,
            interruptible: needs.interruptible,
            only: needs.only.clone(),
            prefer: needs.prefer.clone(),
        },
        state: state_wire(&job.state),
        epoch: job.epoch,
        attempts_spent: job.attempts_spent,
        attempts_allowed: job.attempts_allowed,
        interruptions: job.interruptions,
        losses: job.losses,
        launch_failures: job.launch_failures,
        venue: job.route.venue(),
        pool: job.pool(),
        choice: job.route.choice,
        judged: job
            .route
            .verdicts
            .iter()
            .map(|found| (found.place.venue(), found.place.pool(), found.rejected, found.start_ms, found.nanodollars))
            .collect(),
        verdicts: Vec::new(),
        permit: job.permit,
        aged: job.aged,
        spent: job.spent_nanodollars,
        timeline: job.timeline.iter().map(entry_wire).collect(),
        created: ms(job.created),
        due: job.due.map(ms),
        owed: job
            .owed
            .iter()
            .map(|owed| match owed {
                Owed::Announce(epoch) => OwedWire::Announce(*epoch),
                Owed::StopTask { venue, epoch } => OwedWire::StopTask(*venue, *epoch),
            })
            .collect(),
        revision: job.revision,
        nonce: job.nonce.to_string(),
        trace: job.work.trace.map(|trace| trace.to_string()),
    };
    serde_json::to_string(&record).unwrap_or_else(|error| {
        // Strings, numbers and arrays only: there is no key or number that JSON cannot hold.
        unreachable!("a record is always JSON: {error}")
    })
}

fn state_wire(state: &State) -> StateWire {
    match state {
        State::Delayed { until } => StateWire::Delayed { until: ms(*until) },
        State::Held { since } => StateWire::Held { since: ms(*since) },
        State::Dispatched { at, looks } => StateWire::Dispatched { at: ms(*at), looks: *looks },
        State::Running(run) => StateWire::Running {
            holder: run.holder.clone(),
            token: hex(&run.token.0),
            at: ms(run.at),
            deadline: ms(run.deadline),
            stop: run.stop.as_ref().map(|stop| (stop.cause, ms(stop.at))),
            watch: (run.watch.counter, run.watch.misses),
            ended: run.ended.as_ref().map(|ended| (ms(ended.at), ended.cause, ended.how.clone())),
        },
        State::Settled(settlement) => StateWire::Settled {
            ending: settlement.ending,
            at: ms(settlement.at),
            result: settlement.result.map(|result| (result.epoch, result.bytes)),
            error: settlement.error.as_ref().map(FailureWire::from),
            token: settlement.token.map(|token| hex(&token.0)),
        },
    }
}

fn entry_wire(entry: &Entry) -> EntryWire {
    let Entry { at, step, phase, epoch, reason, detail } = entry.clone();
    EntryWire { at: ms(at), step, phase, epoch, reason, detail }
}

/// The job whose record this is.
///
/// # Errors
///
/// [`WireError`]: it is no record, or one of a newer version.
pub fn decode(text: &str) -> Result<Job, WireError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let what = "a job's record";
    let record: Record = serde_json::from_str(text).map_err(|error| {
        // A newer record may fail on a field long before its version is compared: say what matters.
        match serde_json::from_str::<Version>(text) {
            Ok(Version { v }) if v > RECORD_VERSION => {
                bad(what, WireCause::Version { found: v, known: RECORD_VERSION })
            }
            Ok(_) | Err(_) => bad(what, error),
        }
    })?;
    if !(1..=RECORD_VERSION).contains(&record.v) {
        return Err(bad(what, WireCause::Version { found: record.v, known: RECORD_VERSION }));
    }
    job_of(record).map_err(|cause| bad(what, cause))
}

fn place_of(venue: Venue, pool: PoolName) -> Place {
    match venue {
        Venue::Inline => Place::Inline,
        Venue::Function => Place::Function,
        Venue::Fargate => Place::Fargate,
        Venue::Fleet => Place::Fleet(pool),
    }
}

fn job_of(record: Record) -> Result<Job, WireCause> {
    let verdicts = if record.v == 1 {
        let old = Venue::ALL.into_iter().zip(record.verdicts);
        let verdict =
            |(venue, rejected)| Verdict { place: place_of(venue, record.pool), rejected, start_ms: 0, nanodollars: 0 };
        old.map(verdict).collect()
    } else {
        let mut verdicts = Verdicts::new();
        for (venue, pool, rejected, start_ms, nanodollars) in record.judged {
            let place = place_of(venue, pool.unwrap_or(PoolName::STANDARD));
            let verdict = Verdict { place, rejected, start_ms, nanodollars };
            verdicts.try_push(verdict).map_err(|_| WireCause::Field("judged"))?;
        }
        verdicts
    };
    let state = match record.state {
        StateWire::Delayed { until } => State::Delayed { until: from_ms(until)? },
        StateWire::Held { since } => State::Held { since: from_ms(since)? },
        StateWire::Dispatched { at, looks } => State::Dispatched { at: from_ms(at)?, looks },
        StateWire::Running { holder, token, at, deadline, stop, watch: (counter, misses), ended } => {
            State::Running(Run {
                holder,
                token: TokenHash(from_hex(&token, "token")?),
                at: from_ms(at)?,
                deadline: from_ms(deadline)?,
                stop: stop.map(|(cause, at)| from_ms(at).map(|at| Stop { cause, at })).transpose()?,
                watch: Watch { counter, misses },
                ended: ended.map(|(at, cause, how)| from_ms(at).map(|at| TaskEnd { at, cause, how })).transpose()?,
            })
        }
        StateWire::Settled { ending, at, result, error, token } => State::Settled(Settlement {
            ending,
            at: from_ms(at)?,
            result: result.map(|(epoch, bytes)| ResultRef { epoch, bytes }),
            error: error.map(Failure::from),
            token: token.map(|token| from_hex(&token, "token").map(TokenHash)).transpose()?,
        }),
    };
    let timeline = record.timeline.into_iter().map(|entry| {
        let EntryWire { at, step, phase, epoch, reason, detail } = entry;
        Ok(Entry { at: from_ms(at)?, step, phase, epoch, reason, detail })
    });
    Ok(Job {
        id: record.id,
        work: Work {
            capability: record.capability,
            tier: record.tier,
            labels: record.labels,
            caller: record.caller,
            key: record.key,
            body_sha256: from_hex(&record.body_sha256, "body_sha256")?,
            run_timeout: Duration::from_secs(record.run_timeout_s),
            start_deadline: from_ms_opt(record.start_deadline)?,
            attempts: record.attempts,
            backoff: Duration::from_secs(record.backoff_s),
            announce: record.announce,
            needs: Needs {
                packaging: record.needs.packaging,
                expected: record.needs.expected_s.map(Duration::from_secs),
                memory_mib: record.needs.memory_mib,
                milli_vcpu: record.needs.milli_vcpu,
                docker: record.needs.docker,
                privileged: record.needs.privileged,
                network_tools: record.needs.network_tools,
                static_address: record.needs.static_address,
                isolate: record.needs.isolate,
                interruptible: record.needs.interruptible,
                only: record.needs.only,
                prefer: record.needs.prefer,
            },
            trace: record.trace.map(|trace| trace.parse().map_err(|_| WireCause::Field("trace"))).transpose()?,
        },
        state,
        epoch: record.epoch,
        attempts_spent: record.attempts_spent,
        attempts_allowed: record.attempts_allowed,
        interruptions: record.interruptions,
        losses: record.losses,
        launch_failures: record.launch_failures,
        route: Route { place: place_of(record.venue, record.pool), choice: record.choice, verdicts },
        permit: record.permit,
        aged: record.aged,
        spent_nanodollars: record.spent,
        timeline: timeline.collect::<Result<_, WireCause>>()?,
        created: from_ms(record.created)?,
        due: from_ms_opt(record.due)?,
        owed: record
            .owed
            .into_iter()
            .map(|owed| match owed {
                OwedWire::Announce(epoch) => Owed::Announce(epoch),
                OwedWire::StopTask(venue, epoch) => Owed::StopTask { venue, epoch },
            })
            .collect(),
        revision: record.revision,
        nonce: Nonce(u64::from_str_radix(&record.nonce, 16).map_err(|_| WireCause::Field("nonce"))?),
    })
}
