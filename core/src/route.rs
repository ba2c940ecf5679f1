//! Room 2: THE decision. Which venue runs a job, and why each other one does not.
//!
//! [`route`] is a pure function without clock, environment or log. It judges every venue; a verdict is a code, and
//! becomes a sentence only when somebody reads it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a job can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Venue {
    /// In the function that took it; on one machine, in the yard's own process.
    Inline,
    /// In `job_runner`, a function of its own; on one machine, a process of its own with the same budget.
    Function,
    /// An on-demand task; on one machine, a process.
    Fargate,
    /// A worker's slot, by way of a tier.
    Fleet,
}

impl Venue {
    /// All venues, by rank: the first of two equal ones is taken.
    pub const ALL: [Self; 4] = [Self::Inline, Self::Function, Self::Fargate, Self::Fleet];

    /// The venue's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Function => "function",
            Self::Fargate => "fargate",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a job needs of the place that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// How what runs is packaged.
    pub packaging: Packaging,
    /// How long a run is expected to take; `None` when nobody knows.
    pub expected: Option<Duration>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether it must have a task of its own.
    pub isolate: bool,
    /// Whether it bears being interrupted and run again.
    pub interruptible: bool,
    /// The venues it is pinned to; empty means any.
    pub only: Vec<Venue>,
}

/// How what runs is packaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packaging {
    /// Compiled into Switchyard.
    Builtin,
    /// A program and its arguments, run as a process.
    Command,
}

/// What the yard knows at the moment of routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// What is left of the invocation that took the job, when one did and has room: inline is impossible without.
    pub invocation_left: Option<Duration>,
    /// How often the job was interrupted already.
    pub interruptions: u32,
    /// Whether launching it as a task was tried as often as is sensible.
    pub launches_exhausted: bool,
}

/// The longest a function runs: 900 s (Lambda quotas). On one machine its process has the same budget.
pub const FUNCTION_TIME: Duration = Duration::from_secs(900);

/// What the venues can do. A home's own numbers; [`Limits::default`] are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest expected run that is taken inline. 30 s: an HTTP API answers within that (API Gateway quotas).
    pub inline_expected: Duration,
    /// What must be left of the invocation after an inline run. 5 s: to settle and to answer.
    pub inline_reserve: Duration,
    /// The most memory an inline run may need, in MiB: it shares the function that takes jobs.
    pub inline_memory_mib: u32,
    /// The longest a function may run.
    pub function_time: Duration,
    /// The most memory a function can have, in MiB (Lambda quotas).
    pub function_memory_mib: u32,
    /// The most memory a task can have, in MiB (Fargate task sizes).
    pub fargate_memory_mib: u32,
    /// The pools of the fleet.
    pub pools: Vec<Pool>,
}

/// One pool of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Whether its instances can be taken away at short notice.
    pub spot: bool,
    /// The most memory one of its slots has, in MiB.
    pub memory_mib: u32,
}

impl Limits {
    /// The limits with one pool, `standard`, on instances of one's own: one machine.
    pub fn one_machine(memory_mib: u32) -> Self {
        Self { pools: vec![Pool { name: "standard".to_owned(), spot: false, memory_mib }], ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inline_expected: Duration::from_secs(30),
            inline_reserve: Duration::from_secs(5),
            inline_memory_mib: 512,
            function_time: FUNCTION_TIME,
            function_memory_mib: 10_240,
            fargate_memory_mib: 120 * 1024,
            pools: Vec::new(),
        }
    }
}

/// Why a venue was rejected: the first of its rules that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The job is pinned to other venues.
    PinnedElsewhere,
    /// It must have a task of its own.
    Isolation,
    /// The venue cannot run what is packaged this way.
    Packaging,
    /// It needs more memory than the venue has.
    Memory,
    /// It is expected to take longer than the venue lets it, or nobody knows how long it takes.
    Time,
    /// No invocation with room is at hand.
    NoInvocation,
    /// Launching was tried as often as is sensible.
    LaunchesExhausted,
    /// No pool that it may use: it bears no interruption, or has had two.
    NoPool,
}

impl Rule {
    /// The rule as part of a sentence about a venue.
    pub fn as_text(self) -> &'static str {
        match self {
            Self::PinnedElsewhere => "the capability is pinned to other venues",
            Self::Isolation => "it must have a task of its own",
            Self::Packaging => "this venue runs built-ins only",
            Self::Memory => "it needs more memory than this venue has",
            Self::Time => "it may take longer than this venue allows, or its duration is unknown",
            Self::NoInvocation => "no invocation with room is at hand",
            Self::LaunchesExhausted => "launching it failed too often",
            Self::NoPool => "no pool that it may use",
        }
    }
}

/// The verdict on one venue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The venue.
    pub venue: Venue,
    /// Why it was rejected; `None` when it is feasible.
    pub rejected: Option<Rule>,
}

/// The venue a job goes to, with the verdict on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it goes.
    pub venue: Venue,
    /// What was found of every venue, in the order of [`Venue::ALL`].
    pub verdicts: [Verdict; 4],
}

/// No venue can run the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was found of every venue.
    pub verdicts: [Verdict; 4],
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no venue can run it:")?;
        for verdict in self.verdicts {
            let reason = verdict.rejected.map_or("feasible", Rule::as_text);
            write!(f, " {}: {reason};", verdict.venue)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Judges every venue and takes the first feasible one by preference: inline; a function; then, for what bears it, a
/// worker's slot, which is there already; then a task.
///
/// # Errors
///
/// [`Refused`], with every verdict, when no venue is feasible.
pub fn route(needs: &Needs, conditions: &Conditions, limits: &Limits) -> Result<Route, Refused> {
    let verdicts = Venue::ALL.map(|venue| Verdict { venue, rejected: judge(venue, needs, conditions, limits).err() });
    let feasible = |venue: Venue| verdicts.iter().any(|v| v.venue == venue && v.rejected.is_none());
    [Venue::Inline, Venue::Function, Venue::Fleet, Venue::Fargate]
        .into_iter()
        .find(|venue| feasible(*venue))
        .map(|venue| Route { venue, verdicts })
        .ok_or(Refused { verdicts })
}

fn judge(venue: Venue, needs: &Needs, conditions: &Conditions, limits: &Limits) -> Result<(), Rule> {
    let require = |holds: bool, rule: Rule| if holds { Ok(()) } else { Err(rule) };
    require(needs.only.is_empty() || needs.only.contains(&venue), Rule::PinnedElsewhere)?;
    let builtin = needs.packaging == Packaging::Builtin;
    match venue {
        Venue::Inline => {
            require(!needs.isolate, Rule::Isolation)?;
            require(builtin, Rule::Packaging)?;
            require(needs.memory_mib <= limits.inline_memory_mib, Rule::Memory)?;
            let left = conditions.invocation_left.ok_or(Rule::NoInvocation)?;
            let room = left.saturating_sub(limits.inline_reserve).min(limits.inline_expected);
            // Unknown is not short: what would overrun the invocation is better started elsewhere.
            require(needs.expected.is_some_and(|expected| expected <= room), Rule::Time)
        }
        Venue::Function => {
            require(!needs.isolate, Rule::Isolation)?;
            require(builtin, Rule::Packaging)?;
            require(needs.memory_mib <= limits.function_memory_mib, Rule::Memory)?;
            // Twice the expected time must fit; unknown counts as short: Lambda first, move up if needed.
            let expected = needs.expected.unwrap_or(Duration::from_secs(30));
            require(expected.saturating_mul(2) <= limits.function_time, Rule::Time)?;
            require(!conditions.launches_exhausted, Rule::LaunchesExhausted)
        }
        Venue::Fargate => {
            require(needs.memory_mib <= limits.fargate_memory_mib, Rule::Memory)?;
            require(!conditions.launches_exhausted, Rule::LaunchesExhausted)
        }
        Venue::Fleet => {
            // Once launches are exhausted, a container or process of its own on a worker will do.
            require(!needs.isolate || conditions.launches_exhausted, Rule::Isolation)?;
            pool(needs, conditions, limits).map(|_| ())
        }
    }
}

/// Two interruptions are enough: the third run goes where nothing is taken away.
pub const INTERRUPTIONS_ON_SPOT: u32 = 2;

/// The pool whose workers may run the job: the first that is large enough and not too uncertain for it.
fn pool<'a>(needs: &Needs, conditions: &Conditions, limits: &'a Limits) -> Result<&'a Pool, Rule> {
    let spot_will_do = needs.interruptible && conditions.interruptions < INTERRUPTIONS_ON_SPOT;
    let mut rule = Rule::NoPool;
    for pool in &limits.pools {
        if pool.spot && !spot_will_do {
            continue;
        }
        if needs.memory_mib <= pool.memory_mib {
            return Ok(pool);
        }
        rule = Rule::Memory;
    }
    Err(rule)
}

/// The name of the pool a job routed to the fleet goes to; `None` when no pool may take it.
pub fn pool_name<'a>(needs: &Needs, conditions: &Conditions, limits: &'a Limits) -> Option<&'a str> {
    pool(needs, conditions, limits).ok().map(|pool| pool.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(packaging: Packaging, expected_s: Option<u64>) -> Needs {
        Needs {
            packaging,
            expected: expected_s.map(Duration::from_secs),
            memory_mib: 512,
            isolate: false,
            interruptible: true,
            only: vec![],
        }
    }

    fn invoked(left_s: u64) -> Conditions {
        Conditions { invocation_left: Some(Duration::from_secs(left_s)), ..Conditions::default() }
    }

    /// The whole decision as a table, so that a change of routing is a diff somebody reviews.
    #[test]
    fn the_decision_table() {
        use Packaging::{Builtin, Command};
        let here = Limits::one_machine(8192);
        let isolated = Needs { isolate: true, ..needs(Command, Some(60)) };
        let none_left = Conditions { launches_exhausted: true, ..Conditions::default() };
        let pinned = Needs { only: vec![Venue::Fargate], ..needs(Command, Some(5)) };
        let huge = Needs { memory_mib: 200 * 1024, ..needs(Command, Some(5)) };
        let spot =
            Limits { pools: vec![Pool { name: "standard".into(), spot: true, memory_mib: 8000 }], ..Limits::default() };
        let twice = Conditions { interruptions: 2, ..Conditions::default() };
        let cases: Vec<(&str, Needs, Conditions, &Limits)> = vec![
            ("built-in 5 s", needs(Builtin, Some(5)), invoked(60), &here),
            ("built-in 5 s, no invocation", needs(Builtin, Some(5)), Conditions::default(), &here),
            ("built-in, duration unknown", needs(Builtin, None), invoked(60), &here),
            ("built-in 28 s, 10 s left", needs(Builtin, Some(28)), invoked(10), &here),
            ("built-in 120 s", needs(Builtin, Some(120)), invoked(60), &here),
            ("built-in 1000 s", needs(Builtin, Some(1000)), invoked(60), &here),
            ("command 5 s", needs(Command, Some(5)), invoked(60), &here),
            ("command, duration unknown", needs(Command, None), Conditions::default(), &here),
            ("command, isolated", isolated.clone(), Conditions::default(), &here),
            ("command, isolated, launches exhausted", isolated, none_left, &here),
            ("command pinned to fargate", pinned.clone(), Conditions::default(), &here),
            ("the same, launches exhausted", pinned, none_left, &here),
            ("command of 200 GiB", huge, Conditions::default(), &here),
            ("command after two interruptions, spot only", needs(Command, Some(5)), twice, &spot),
        ];
        let mut table = String::new();
        for (case, needs, conditions, limits) in cases {
            let outcome = route(&needs, &conditions, limits);
            let verdicts = outcome.as_ref().map_or_else(|refused| refused.verdicts, |route| route.verdicts);
            let venue = outcome.map_or("refused", |route| route.venue.as_str());
            table.push_str(&format!("{case:<44} {venue:<9}"));
            for verdict in verdicts {
                let rule = verdict.rejected.map_or("ok".to_owned(), |rule| format!("{rule:?}"));
                table.push_str(&format!(" {}={rule}", verdict.venue));
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_refusal_names_every_venue() {
        let impossible = Needs { memory_mib: u32::MAX, ..needs(Packaging::Command, None) };
        let refused = route(&impossible, &Conditions::default(), &Limits::one_machine(1024)).unwrap_err();
        let text = refused.to_string();
        for venue in Venue::ALL {
            assert!(text.contains(venue.as_str()), "{text}");
        }
    }
}
