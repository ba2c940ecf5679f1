//! THE transition table: every step from every phase.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Ending, JobId, one_line};

/// A state without what it knows: the rows of the transition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`super::State::Delayed`].
    Delayed,
    /// See [`super::State::Held`].
    Held,
    /// See [`super::State::Dispatched`].
    Dispatched,
    /// See [`super::State::Running`].
    Running,
    /// See [`Ending::Succeeded`].
    Succeeded,
    /// See [`Ending::Failed`].
    Failed,
    /// See [`Ending::TimedOut`].
    TimedOut,
    /// See [`Ending::Cancelled`].
    Cancelled,
    /// See [`Ending::Expired`].
    Expired,
}

impl Phase {
    /// Every phase, in the order a job meets them.
    pub const ALL: [Self; 9] = [
        Self::Delayed,
        Self::Held,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The phase's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Held => "held",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether a job in this phase has ended.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Delayed | Self::Held | Self::Dispatched | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled | Self::Expired => true,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a state: expected delayed, held, dispatched, running, succeeded, failed, timed_out, cancelled or expired"
)]
pub struct NotAPhase(String);

impl FromStr for Phase {
    type Err = NotAPhase;

    fn from_str(text: &str) -> Result<Self, NotAPhase> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text).ok_or_else(|| NotAPhase(one_line(text, 60)))
    }
}

impl From<Ending> for Phase {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Succeeded => Self::Succeeded,
            Ending::Failed => Self::Failed,
            Ending::TimedOut => Self::TimedOut,
            Ending::Cancelled => Self::Cancelled,
            Ending::Expired => Self::Expired,
        }
    }
}

/// What can happen to a job: the columns of the transition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is routed and sent to a venue; the epoch rises.
    Dispatch,
    /// It is put off.
    Delay,
    /// It is held back.
    Hold,
    /// A holder takes it.
    Claim,
    /// Its run did what it was asked.
    Succeed,
    /// It failed for good.
    Fail,
    /// Its run took too long.
    TimeOut,
    /// Somebody cancelled it.
    Cancel,
    /// It did not start in time.
    Expire,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 9] = [
        Self::Dispatch,
        Self::Delay,
        Self::Hold,
        Self::Claim,
        Self::Succeed,
        Self::Fail,
        Self::TimeOut,
        Self::Cancel,
        Self::Expire,
    ];

    /// The step's name in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Delay => "delay",
            Self::Hold => "hold",
            Self::Claim => "claim",
            Self::Succeed => "succeed",
            Self::Fail => "fail",
            Self::TimeOut => "time_out",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
        }
    }
}

/// THE transition table: the phase after `step` from `phase`, or `None` where the step is illegal.
pub const fn next(phase: Phase, step: Step) -> Option<Phase> {
    use Phase as P;
    use Step as S;
    match (phase, step) {
        // Due, retried at once, handed on to another venue, given back, or retried by hand.
        (P::Delayed | P::Held | P::Dispatched | P::Running, S::Dispatch) => Some(P::Dispatched),
        (P::Failed | P::TimedOut | P::Cancelled | P::Expired, S::Dispatch) => Some(P::Dispatched),
        // A success is final: doing it again is a new job.
        (P::Succeeded, S::Dispatch) => None,
        // Its capability's limit is reached or it is paused, at whatever moment it would have been dispatched.
        (P::Delayed | P::Dispatched | P::Running, S::Hold) => Some(P::Held),
        (P::Failed | P::TimedOut | P::Cancelled | P::Expired, S::Hold) => Some(P::Held),
        (P::Held | P::Succeeded, S::Hold) => None,
        // A launch that failed, a run that failed or was lost.
        (P::Dispatched | P::Running, S::Delay) => Some(P::Delayed),
        (P::Dispatched, S::Claim) => Some(P::Running),
        (P::Running, S::Succeed) => Some(P::Succeeded),
        // From dispatched: it could not be launched. From delayed: nothing can run it any more.
        (P::Delayed | P::Held | P::Dispatched | P::Running, S::Fail) => Some(P::Failed),
        (P::Running, S::TimeOut) => Some(P::TimedOut),
        (P::Delayed | P::Held | P::Dispatched | P::Running, S::Cancel) => Some(P::Cancelled),
        (P::Delayed | P::Held | P::Dispatched, S::Expire) => Some(P::Expired),
        // A running job has started: it cannot expire. One that waits for nobody cannot end by itself.
        (P::Running, S::Claim | S::Expire) => None,
        (P::Dispatched, S::Succeed | S::TimeOut) => None,
        (P::Delayed | P::Held, S::Delay | S::Claim | S::Succeed | S::TimeOut) => None,
        (
            P::Succeeded | P::Failed | P::TimedOut | P::Cancelled | P::Expired,
            S::Delay | S::Claim | S::Succeed | S::Fail | S::TimeOut | S::Cancel | S::Expire,
        ) => None,
    }
}

/// The table as text, one row a phase: shown in ARCHITECTURE.md and held to it by a test.
pub fn transition_table() -> String {
    let mut table = format!("{:<11}", "from \\ step");
    for step in Step::ALL {
        table.push_str(&format!(" {:<10}", step.as_str()));
    }
    for phase in Phase::ALL {
        let mut row = format!("{:<11}", phase.as_str());
        for step in Step::ALL {
            row.push_str(&format!(" {:<10}", next(phase, step).map_or("-", Phase::as_str)));
        }
        table.push('\n');
        table.push_str(row.trim_end());
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A step that the table does not name, or one that led to another state than the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("job {id}: a {} job cannot {}", .from.as_str(), .step.as_str())]
pub struct IllegalStep {
    /// The job.
    pub id: JobId,
    /// Where it stood.
    pub from: Phase,
    /// What was tried.
    pub step: Step,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table_is_the_one_in_architecture_md() {
        let table = transition_table();
        insta::assert_snapshot!(table);
        let document = include_str!("../../../ARCHITECTURE.md");
        assert!(document.contains(&table), "ARCHITECTURE.md must show this table:\n{table}");
    }

    #[test]
    fn every_settled_phase_but_success_can_be_retried_and_does_nothing_else() {
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_settled()) {
            let legal: Vec<Step> = Step::ALL.into_iter().filter(|step| next(phase, *step).is_some()).collect();
            let expected = if phase == Phase::Succeeded { vec![] } else { vec![Step::Dispatch, Step::Hold] };
            assert_eq!(legal, expected, "{phase}");
        }
    }

    #[test]
    fn phases_are_read_back_and_a_wrong_one_is_named() {
        for phase in Phase::ALL {
            assert_eq!(phase.as_str().parse(), Ok(phase));
        }
        assert!("done\u{1b}".parse::<Phase>().unwrap_err().to_string().starts_with("`done"));
    }
}
