//! What is written down of every request for a credential: who asked, for what, for which job, and what became of it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Refused, Scope};
use crate::job::{Epoch, Job, JobId, State, one_line};
use crate::ports::Voucher;

/// Names one record of a loan; ordered by time (RFC 9562, version 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LoanId(Uuid);

impl LoanId {
    /// A new id.
    pub fn ordered(now: Timestamp, random: [u8; 32]) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let mut chance = [0; 10];
        chance.copy_from_slice(&random[..10]);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid())
    }

    /// The id's 16 bytes, as a database stores them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id whose bytes these are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for LoanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for LoanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoanId({self})")
    }
}

/// A text that is no id of a loan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a loan's id: expected a UUID, as the list of loans shows it")]
pub struct NotALoanId(String);

impl FromStr for LoanId {
    type Err = NotALoanId;

    fn from_str(text: &str) -> Result<Self, NotALoanId> {
        // One spelling alone: what people paste is what was shown.
        let parsed = Uuid::try_parse(text).ok().map(Self);
        parsed.filter(|id| id.to_string() == text).ok_or_else(|| NotALoanId(one_line(text, 60)))
    }
}

/// What became of a request, or of a loan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoanOutcome {
    /// It was lent.
    Lent {
        /// Until when.
        until: Timestamp,
        /// What the vendor calls it in its own records; no secret.
        reference: Option<String>,
        /// Whether the vendor can end it before its time.
        revocable: bool,
    },
    /// It was not.
    Refused(Refused),
    /// An earlier loan was given back.
    Returned {
        /// Which.
        loan: LoanId,
        /// Whether its vendor ended the credential; one that its vendor cannot end lasts until its own end.
        revoked: bool,
    },
}

impl LoanOutcome {
    /// Its name, in records and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Lent { .. } => "lent",
            Self::Refused(_) => "refused",
            Self::Returned { .. } => "returned",
        }
    }
}

/// One record. Nothing in it is secret; it is never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanNote {
    /// Its name.
    pub id: LoanId,
    /// When, to the millisecond.
    pub at: Timestamp,
    /// For which job, as whoever asked said.
    pub job: JobId,
    /// At which epoch, as whoever asked said.
    pub epoch: Epoch,
    /// The job's capability; empty for a job that is not there.
    pub capability: String,
    /// Who submitted the job; empty for a job that is not there.
    pub caller: String,
    /// Who runs the job, as its record says; empty where nobody does.
    pub holder: String,
    /// What was asked for.
    pub scope: Scope,
    /// What became of it.
    pub outcome: LoanOutcome,
}

impl LoanNote {
    /// The record of what became of a request.
    pub(super) fn new(
        id: LoanId,
        now: Timestamp,
        job: Option<&Job>,
        voucher: &Voucher,
        scope: &Scope,
        outcome: LoanOutcome,
    ) -> Self {
        let holder = job.and_then(|job| match &job.state {
            State::Running(run) => Some(run.holder.to_string()),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Settled(_) => None,
        });
        let work = job.map(|job| &job.work);
        Self {
            id,
            at: Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
            job: voucher.id,
            epoch: voucher.epoch,
            capability: work.map(|work| work.capability.clone()).unwrap_or_default(),
            caller: work.map(|work| work.caller.clone()).unwrap_or_default(),
            holder: holder.unwrap_or_default(),
            scope: scope.kept(),
            outcome,
        }
    }
}

/// Which records of loans to list: the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoanQuery {
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those at or after this moment.
    pub since: Option<Timestamp>,
    /// Only those before this one: where the last page ended.
    pub before: Option<LoanId>,
    /// At most so many; 1 to 500.
    pub limit: usize,
}

impl LoanQuery {
    /// Whether this record is asked for, however many are.
    pub fn wants(&self, note: &LoanNote) -> bool {
        self.job.is_none_or(|job| note.job == job)
            && self.since.is_none_or(|since| note.at >= since)
            && self.before.is_none_or(|before| note.id < before)
    }
}
