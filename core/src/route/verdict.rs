//! What was found of each place, and what was chosen.

use std::fmt;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use super::{POOLS, Place, Venue};

/// Why a place was rejected: the first of its rules that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The job is pinned to other places.
    PinnedElsewhere,
    /// It must have a task of its own.
    Isolation,
    /// It talks to a Docker daemon, and there is none.
    Docker,
    /// It must run privileged.
    Privileged,
    /// It needs raw sockets or network tools.
    NetworkTools,
    /// Its connections must come from a known address.
    StaticAddress,
    /// This home runs no container images.
    NoImages,
    /// It speaks the Lambda Runtime API, and nothing of this home does.
    NoRuntimeApi,
    /// The place cannot run what is packaged this way.
    Packaging,
    /// It needs more memory than the place has.
    Memory,
    /// It needs more processors than the place has.
    Vcpu,
    /// It is expected to take longer than the place lets it, or nobody knows how long it takes.
    Time,
    /// No invocation with room is at hand.
    NoInvocation,
    /// Launching was tried as often as is sensible.
    LaunchesExhausted,
    /// The pool's instances can be taken away: the job bears no interruption, or has had two.
    Spot,
    /// There is no pool of workers.
    NoPool,
}

impl Rule {
    /// Every rule, in the order in which places are held against them.
    pub const ALL: [Self; 16] = [
        Self::PinnedElsewhere,
        Self::Isolation,
        Self::Docker,
        Self::Privileged,
        Self::NetworkTools,
        Self::StaticAddress,
        Self::NoImages,
        Self::NoRuntimeApi,
        Self::Packaging,
        Self::Memory,
        Self::Vcpu,
        Self::Time,
        Self::NoInvocation,
        Self::LaunchesExhausted,
        Self::Spot,
        Self::NoPool,
    ];

    /// The rule as part of a sentence about a place.
    pub fn as_text(self) -> &'static str {
        match self {
            Self::PinnedElsewhere => "the capability is pinned to other places",
            Self::Isolation => "it must have a task of its own",
            Self::Docker => "it talks to a Docker daemon, and there is none here",
            Self::Privileged => "it must run privileged, which only a worker lets it",
            Self::NetworkTools => "it needs raw sockets or network tools, which only a worker has",
            Self::StaticAddress => "its connections must come from a known address",
            Self::NoImages => "no container images are run here",
            Self::NoRuntimeApi => "its image speaks the Lambda Runtime API, which nothing here does",
            Self::Packaging => "it is packaged in a way this place cannot run",
            Self::Memory => "it needs more memory than this place has",
            Self::Vcpu => "it needs more processors than this place has",
            Self::Time => "it may take longer than this place allows, or its duration is unknown",
            Self::NoInvocation => "no invocation with room is at hand",
            Self::LaunchesExhausted => "launching it failed too often",
            Self::Spot => "its instances can be taken away, and the job must not be interrupted (again)",
            Self::NoPool => "there is no pool of workers",
        }
    }
}

/// What was found of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The place.
    pub place: Place,
    /// Why it was rejected; `None` when it is feasible.
    pub rejected: Option<Rule>,
    /// The milliseconds until the job would start there.
    pub start_ms: u64,
    /// What one run would cost there, in nano-dollars: in micro-dollars, as bills have it, most functions are free.
    pub nanodollars: u64,
}

/// A verdict on every place: three venues and each pool.
pub type Verdicts = ArrayVec<Verdict, { 3 + POOLS }>;

/// By what rule the place was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The capability favours it, and it starts in time.
    Favoured,
    /// It fits into the invocation that took it.
    Inline,
    /// Nobody knows how long it takes: a function starts at once, and what meets its limit moves up.
    UnknownDuration,
    /// The cheapest of those that start in time.
    Cheapest,
    /// None starts in time; this one soonest.
    Soonest,
}

impl Choice {
    /// The rule as a sentence about what was chosen.
    pub fn as_text(self) -> &'static str {
        match self {
            Self::Favoured => "favoured by its capability, and it starts in time",
            Self::Inline => "it fits into the invocation that took it",
            Self::UnknownDuration => "its duration is unknown: a function first",
            Self::Cheapest => "the cheapest that starts in time",
            Self::Soonest => "start target missed: it starts here soonest",
        }
    }
}

/// The place a job goes to, with the verdict on each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it goes.
    pub place: Place,
    /// By what rule.
    pub choice: Choice,
    /// What was found of every place, in the order of rank.
    pub verdicts: Verdicts,
}

impl Route {
    /// The venue it goes to.
    pub fn venue(&self) -> Venue {
        self.place.venue()
    }

    /// What one run was to cost there, in nano-dollars.
    pub fn estimate(&self) -> u64 {
        self.verdicts.iter().find(|verdict| verdict.place == self.place).map_or(0, |verdict| verdict.nanodollars)
    }
}

/// No place can run the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was found of every place.
    pub verdicts: Verdicts,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no venue can run it:")?;
        for (nth, verdict) in self.verdicts.iter().enumerate() {
            let reason = verdict.rejected.map_or("feasible", Rule::as_text);
            let end = if nth + 1 == self.verdicts.len() { "" } else { ";" };
            write!(f, " {}: {reason}{end}", verdict.place)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}
