//! What the API shows, and what is announced.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{FailureWire, hex, shown};
use crate::job::{Entry, Epoch, Job, JobId, Phase, State, Tier};
use crate::observe::ObservedView;
use crate::policies::Situation;
use crate::ports::{LogLine, Stream};
use crate::route::{Choice, Conditions, Explained, PoolName, Route, Rule, Venue, Verdict, reason_in};
use crate::why::{Facts, why};

/// A job as the API shows it. Times are RFC 3339; fields that do not apply are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Job))]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// The trace that it, its log lines and its program's TRACEPARENT are of (W3C Trace Context).
    #[serde(default)]
    pub trace_id: String,
    /// What runs.
    pub capability: String,
    /// Where it stands.
    pub state: Phase,
    /// How soon it must start.
    pub tier: Tier,
    /// Where it runs or ran.
    pub venue: Venue,
    /// The pool whose workers take it, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// The number of its newest dispatch.
    pub epoch: Epoch,
    /// How often it failed.
    pub attempts_spent: u32,
    /// How often it may fail.
    pub attempts_allowed: u32,
    /// How often a holder gave it back.
    pub interruptions: u32,
    /// How often its holder was lost.
    pub losses: u32,
    /// What to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who submitted it.
    pub caller: String,
    /// When it was accepted.
    pub created_at: String,
    /// When its present run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// Why it is where it is, in a sentence; none where it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureWire>,
    /// The size of its result in bytes; the result itself is at /v1/jobs/{id}/result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// What its present or last run was to cost, in nano-dollars: the price of the place it was sent to.
    #[serde(default)]
    pub estimated_nanodollars: u64,
    /// What its runs have cost, in nano-dollars.
    #[serde(default)]
    pub spent_nanodollars: u64,
    /// By what rule that place was chosen.
    pub choice: Choice,
    /// The verdict on each place at the newest dispatch.
    pub verdicts: Vec<VerdictView>,
}

impl JobView {
    /// The view of a job under these rules, with what was counted for it. An ended job is shown by its record alone.
    pub fn of(job: &Job, situation: &Situation, facts: &Facts) -> Self {
        let settlement = match &job.state {
            State::Settled(settlement) => Some(settlement),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Running(_) => None,
        };
        Self {
            id: job.id,
            trace_id: job.trace_id().to_string(),
            capability: job.work.capability.clone(),
            state: job.phase(),
            tier: job.work.tier,
            venue: job.route.venue(),
            pool: job.route.place.pool(),
            epoch: job.epoch,
            attempts_spent: job.attempts_spent,
            attempts_allowed: job.attempts_allowed,
            interruptions: job.interruptions,
            losses: job.losses,
            labels: job.work.labels.iter().cloned().collect(),
            caller: job.work.caller.clone(),
            created_at: shown(job.created),
            started_at: match &job.state {
                State::Running(run) => Some(shown(run.at)),
                State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => None,
            },
            settled_at: settlement.map(|settlement| shown(settlement.at)),
            why: why(job, situation, facts),
            error: settlement.and_then(|settlement| settlement.error.as_ref()).map(FailureWire::from),
            result_bytes: settlement.and_then(|settlement| settlement.result).map(|result| result.bytes),
            estimated_nanodollars: job.route.estimate(),
            spent_nanodollars: job.spent_nanodollars,
            choice: job.route.choice,
            verdicts: verdicts(&job.route),
        }
    }
}

/// What was found of one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Verdict))]
pub struct VerdictView {
    /// The venue.
    pub venue: Venue,
    /// The pool, of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Whether the job goes there.
    pub chosen: bool,
    /// The rule by which the place was rejected; none when it is feasible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Why it was chosen, or why not, in a sentence.
    pub reason: String,
    /// Milliseconds until the job would start there.
    pub start_ms: u64,
    /// What one run would cost there, in nano-dollars.
    pub nanodollars: u64,
}

impl VerdictView {
    fn of(verdict: &Verdict, chosen: bool, reason: String) -> Self {
        Self {
            venue: verdict.place.venue(),
            pool: verdict.place.pool(),
            chosen,
            rule: verdict.rejected,
            reason,
            start_ms: verdict.start_ms,
            nanodollars: verdict.nanodollars,
        }
    }
}

/// The verdicts of a route, as shown.
pub fn verdicts(route: &Route) -> Vec<VerdictView> {
    let view = |verdict| VerdictView::of(verdict, verdict.place == route.place, reason_in(route, verdict));
    route.verdicts.iter().map(view).collect()
}

/// What would be decided about a job, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// Where it would go; none when no place can run it.
    pub venue: Option<Venue>,
    /// The pool, of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// By what rule.
    pub choice: Option<Choice>,
    /// The decision in a sentence.
    pub reason: String,
    /// How soon it should start, in milliseconds.
    pub start_target_ms: u64,
    /// Whether it does.
    pub met: bool,
    /// What one run would cost there, in nano-dollars.
    pub estimated_nanodollars: u64,
    /// What its capability's runs have shown of their needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedView>,
    /// What was found of every place.
    pub verdicts: Vec<VerdictView>,
}

impl From<&Explained> for Explanation {
    fn from(explained: &Explained) -> Self {
        let place = explained.chosen.map(|(place, _)| place);
        let view =
            |verdict: &Verdict| VerdictView::of(verdict, Some(verdict.place) == place, explained.reason_of(verdict));
        Self {
            venue: place.map(crate::route::Place::venue),
            pool: place.and_then(crate::route::Place::pool),
            choice: explained.chosen.map(|(_, choice)| choice),
            reason: explained.reason().to_owned(),
            start_target_ms: explained.start_target_ms,
            met: explained.met(),
            estimated_nanodollars: explained.best().map_or(0, |verdict| verdict.nanodollars),
            observed: None,
            verdicts: explained.verdicts.iter().map(view).collect(),
        }
    }
}

/// Conditions that somebody who asks for an explanation puts in place of the real ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Supposed {
    /// Seconds that are left of the invocation that takes the job; 0 means that none is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation_left_seconds: Option<u64>,
    /// The pools with a slot free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_pools: Option<Vec<PoolName>>,
    /// How many more jobs come with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub companions: Option<u32>,
    /// How often it was interrupted already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruptions: Option<u32>,
    /// Whether launching it was tried as often as is sensible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launches_exhausted: Option<bool>,
}

impl Supposed {
    /// The conditions with what is supposed in their place.
    pub fn over(self, real: Conditions) -> Conditions {
        let left = self.invocation_left_seconds.map(|left| (left > 0).then(|| Duration::from_secs(left)));
        Conditions {
            invocation_left: left.unwrap_or(real.invocation_left),
            free: self.free_pools.unwrap_or(real.free),
            companions: self.companions.unwrap_or(real.companions),
            interruptions: self.interruptions.unwrap_or(real.interruptions),
            launches_exhausted: self.launches_exhausted.unwrap_or(real.launches_exhausted),
            ..real
        }
    }
}

/// One line of a job's history as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Entry))]
pub struct EntryView {
    /// When, RFC 3339.
    pub at: String,
    /// The state after it.
    pub state: Phase,
    /// The epoch after it.
    pub epoch: Epoch,
    /// Why, as a code.
    pub reason: String,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> Self {
        Self {
            at: shown(entry.at),
            state: entry.phase,
            epoch: entry.epoch,
            reason: entry.reason.clone(),
            detail: entry.detail.clone(),
        }
    }
}

impl LogView {
    /// The view of a line that the run at `epoch` printed.
    pub fn of(epoch: Epoch, line: &LogLine) -> Self {
        Self { at: shown(line.at), epoch, stream: line.stream, text: line.text.clone() }
    }
}

/// One line that a run printed, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = LogLine))]
pub struct LogView {
    /// When it was read, RFC 3339.
    pub at: String,
    /// The epoch of the run that printed it.
    pub epoch: Epoch,
    /// Standard output, standard error, or the yard.
    pub stream: Stream,
    /// The line.
    pub text: String,
}

/// A settlement as it is announced, in the envelope of an EventBridge event.
pub fn completion_event(job: &Job) -> String {
    // It has ended: no rule or count says more of it than its record.
    let view = JobView::of(job, &Situation::default(), &Facts::default());
    // Derived from what it announces: an announcement made twice can be told by its id.
    let id = hex(&Sha256::digest(format!("{}:{}", job.id, job.epoch))[..16]);
    serde_json::json!({
        "version": "0",
        "id": id,
        "detail-type": "Switchyard Job Settled",
        "source": "switchyard",
        "time": view.settled_at,
        "resources": [job.id],
        "detail": view,
    })
    .to_string()
}
