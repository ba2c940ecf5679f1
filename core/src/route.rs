//! Room 2: THE decision. Which place runs a job, and why each other one does not.
//!
//! [`route`] is a pure function without clock, environment, log or allocation. It judges every place: a verdict is a
//! code and integers (milliseconds to start, nano-dollars), and becomes a sentence only when somebody reads it.
//!
//! 1. Each place is judged; the first of its rules that fails is the reason.
//! 2. None feasible: refused, with every verdict.
//! 3. A place the capability favours, if it starts in time; else inline, if feasible; else, for an unknown duration, a
//!    function: it starts at once, and a run that meets the function's limit moves up.
//! 4. Of those that start within the tier's target the cheapest, then the one of lower rank; when none does, the one
//!    that starts soonest.

mod explain;
mod file;
mod limits;
mod place;
mod verdict;

use std::time::Duration;

pub use self::explain::{Explained, explain, reason_in, starting};
pub use self::file::Routing;
pub use self::limits::{FUNCTION_TIME, Images, Limits, POOLS, Pool};
pub use self::place::{NotAPoolName, Packaging, Pin, Place, PoolName, Venue};
pub use self::verdict::{Choice, Refused, Route, Rule, Verdict, Verdicts};
use crate::cost;
use crate::job::Tier;

/// What a job needs of the place that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// How what runs is packaged.
    pub packaging: Packaging,
    /// How long a run is expected to take; `None` when nobody knows.
    pub expected: Option<Duration>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors, in thousandths of one.
    pub milli_vcpu: u32,
    /// Whether it talks to a Docker daemon itself.
    pub docker: bool,
    /// Whether it must run privileged.
    pub privileged: bool,
    /// Whether it opens raw sockets or otherwise needs more of the network than connections.
    pub network_tools: bool,
    /// Whether its connections must come from a known address.
    pub static_address: bool,
    /// Whether it must have a task of its own.
    pub isolate: bool,
    /// Whether it bears being interrupted and run again.
    pub interruptible: bool,
    /// The places it is pinned to; empty means any.
    pub only: Vec<Pin>,
    /// The places it is better run at, where they start in time.
    pub prefer: Vec<Pin>,
}

/// What the yard knows at the moment of routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// How soon it must start.
    pub tier: Tier,
    /// How soon it must start besides what its tier asks.
    pub start_within: Option<Duration>,
    /// What is left of the invocation that took the job, when one did and has room: inline is impossible without.
    pub invocation_left: Option<Duration>,
    /// How often the job was interrupted already.
    pub interruptions: u32,
    /// Whether launching it as a task was tried as often as is sensible.
    pub launches_exhausted: bool,
    /// The pools with a slot free that it fits into.
    pub free: Vec<PoolName>,
    /// How many more jobs come with it, and share what it takes to wake a worker.
    pub companions: u32,
}

/// Two interruptions are enough: the third run goes where nothing is taken away.
pub const INTERRUPTIONS_ON_SPOT: u32 = 2;

/// Judges every place and takes one, as the module says.
///
/// # Errors
///
/// [`Refused`], with every verdict, when no place is feasible.
#[expect(clippy::result_large_err, reason = "a refusal is as large as a route; boxing it would be the only allocation")]
pub fn route(needs: &Needs, conditions: &Conditions, limits: &Limits) -> Result<Route, Refused> {
    let mut verdicts = Verdicts::new();
    for place in [Place::Inline, Place::Function, Place::Fargate] {
        verdicts.push(judge(place, None, needs, conditions, limits));
    }
    for pool in &limits.pools {
        verdicts.push(judge(Place::Fleet(pool.name), Some(pool), needs, conditions, limits));
    }
    if limits.pools.is_empty() {
        verdicts.push(judge(Place::Fleet(PoolName::STANDARD), None, needs, conditions, limits));
    }
    let target = limits.start_target(conditions);
    match choose(&verdicts, needs, limits.millis(target)) {
        Some((place, choice)) => Ok(Route { place, choice, verdicts }),
        None => Err(Refused { verdicts }),
    }
}

fn choose(verdicts: &Verdicts, needs: &Needs, target_ms: u64) -> Option<(Place, Choice)> {
    let feasible = || verdicts.iter().filter(|verdict| verdict.rejected.is_none());
    let in_time = || feasible().filter(|verdict| verdict.start_ms <= target_ms);
    let cheapest = |verdict: &&Verdict| (verdict.nanodollars, verdict.place);
    if !needs.prefer.is_empty() {
        let favoured = |verdict: &&Verdict| needs.prefer.iter().any(|pin| pin.covers(verdict.place));
        if let Some(verdict) = in_time().filter(favoured).min_by_key(cheapest) {
            return Some((verdict.place, Choice::Favoured));
        }
    }
    if feasible().any(|verdict| verdict.place == Place::Inline) {
        return Some((Place::Inline, Choice::Inline));
    }
    if needs.expected.is_none() && feasible().any(|verdict| verdict.place == Place::Function) {
        return Some((Place::Function, Choice::UnknownDuration));
    }
    if let Some(verdict) = in_time().min_by_key(cheapest) {
        return Some((verdict.place, Choice::Cheapest));
    }
    let soonest = feasible().min_by_key(|verdict| (verdict.start_ms, verdict.nanodollars, verdict.place))?;
    Some((soonest.place, Choice::Soonest))
}

fn judge(place: Place, pool: Option<&Pool>, needs: &Needs, conditions: &Conditions, limits: &Limits) -> Verdict {
    let free = pool.is_some_and(|pool| conditions.free.contains(&pool.name));
    let start = match (place, pool) {
        (Place::Inline, _) => Duration::ZERO,
        (Place::Function, _) if needs.packaging == Packaging::FunctionImage => limits.function_image_start,
        (Place::Function, _) => limits.function_start,
        (Place::Fargate, _) => limits.fargate_start,
        (Place::Fleet(_), Some(pool)) if free => pool.start,
        (Place::Fleet(_), Some(pool)) => pool.boot,
        (Place::Fleet(_), None) => Duration::ZERO,
    };
    let run = needs.expected.unwrap_or(limits.unknown);
    let nanodollars = match (place, pool) {
        (Place::Inline, _) => cost::inline(run, limits),
        (Place::Function, _) => cost::function(run, needs, limits),
        (Place::Fargate, _) => cost::fargate(run, needs, limits),
        (Place::Fleet(_), Some(pool)) if free => cost::slot(run, needs, pool),
        (Place::Fleet(_), Some(pool)) => cost::slot(run, needs, pool) + cost::wake(pool, conditions.companions),
        (Place::Fleet(_), None) => 0,
    };
    let rejected = reject(place, pool, needs, conditions, limits).err();
    Verdict { place, rejected, start_ms: limits.millis(start), nanodollars }
}

/// Whether a place where a job waits could still run it, whatever has happened to the job: a pool may have gone since,
/// or become smaller.
///
/// # Errors
///
/// The first rule that fails.
pub fn still_runs(place: Place, needs: &Needs, limits: &Limits) -> Result<(), Rule> {
    // A slot does for one that must be by itself, when its launches failed: it would not wait there else.
    let launches_exhausted = place.venue() == Venue::Fleet;
    // What the invocation has left is not asked of a place where it waits; nor are interruptions: it may start once more.
    let invocation_left = Some(Duration::MAX);
    let conditions = Conditions { launches_exhausted, invocation_left, ..Conditions::default() };
    let pool = limits.pools.iter().find(|pool| place == Place::Fleet(pool.name));
    reject(place, pool, needs, &conditions, limits)
}

/// The first rule that fails.
fn reject(
    place: Place,
    pool: Option<&Pool>,
    needs: &Needs,
    conditions: &Conditions,
    limits: &Limits,
) -> Result<(), Rule> {
    let require = |holds: bool, rule: Rule| if holds { Ok(()) } else { Err(rule) };
    require(needs.only.is_empty() || needs.only.iter().any(|pin| pin.covers(place)), Rule::PinnedElsewhere)?;
    if place.venue() != Venue::Fargate {
        // Once launches are exhausted, a container or process of its own on a worker will do.
        let slot_will_do = place.venue() == Venue::Fleet && conditions.launches_exhausted;
        require(!needs.isolate || slot_will_do, Rule::Isolation)?;
    }
    if place.venue() != Venue::Fleet {
        require(!needs.docker, Rule::Docker)?;
        require(!needs.privileged, Rule::Privileged)?;
        require(!needs.network_tools, Rule::NetworkTools)?;
        require(!needs.static_address, Rule::StaticAddress)?;
    }
    match limits.images {
        Images::None => require(!needs.packaging.is_image(), Rule::NoImages)?,
        Images::Containers => require(needs.packaging != Packaging::FunctionImage, Rule::NoRuntimeApi)?,
        Images::All => {}
    }
    require(needs.packaging.runs_at(place.venue()), Rule::Packaging)?;
    match place {
        Place::Inline => {
            require(needs.memory_mib <= limits.inline_memory_mib, Rule::Memory)?;
            require(cost::function_memory_mib(needs) <= limits.inline_memory_mib, Rule::Vcpu)?;
            let left = conditions.invocation_left.ok_or(Rule::NoInvocation)?;
            let room = left.saturating_sub(limits.inline_reserve).min(limits.inline_expected);
            // Unknown is not short: what would overrun the invocation is better started elsewhere.
            require(needs.expected.is_some_and(|expected| expected <= room), Rule::Time)
        }
        Place::Function => {
            require(needs.memory_mib <= limits.function_memory_mib, Rule::Memory)?;
            require(cost::function_memory_mib(needs) <= limits.function_memory_mib, Rule::Vcpu)?;
            // Twice the expected time must fit; unknown counts as short: a function first, move up if needed.
            let expected = needs.expected.unwrap_or(limits.unknown);
            require(expected.saturating_mul(2) <= limits.function_time, Rule::Time)?;
            require(!conditions.launches_exhausted, Rule::LaunchesExhausted)
        }
        Place::Fargate => {
            require(needs.memory_mib <= limits.fargate_memory_mib, Rule::Memory)?;
            require(cost::fargate_size(needs).is_some(), Rule::Vcpu)?;
            require(!conditions.launches_exhausted, Rule::LaunchesExhausted)
        }
        Place::Fleet(_) => {
            let pool = pool.ok_or(Rule::NoPool)?;
            require(needs.memory_mib <= pool.memory_mib, Rule::Memory)?;
            require(needs.milli_vcpu <= pool.milli_vcpu, Rule::Vcpu)?;
            require(pool.docker || !needs.docker, Rule::Docker)?;
            require(pool.static_address || !needs.static_address, Rule::StaticAddress)?;
            let spot_will_do = needs.interruptible && conditions.interruptions < INTERRUPTIONS_ON_SPOT;
            require(spot_will_do || !pool.spot, Rule::Spot)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_still_runs_what_it_has_the_means_for_whatever_happened_to_the_job() {
        let needs = crate::testing::a_job(Venue::Fleet).work.needs;
        let still = |needs: &Needs, limits: &Limits| still_runs(Place::Fleet(PoolName::STANDARD), needs, limits);
        let limits = Limits::default();
        assert_eq!(still(&needs, &limits), Ok(()));
        assert_eq!(still(&Needs { isolate: true, ..needs.clone() }, &limits), Ok(()), "its launches failed");
        assert_eq!(still(&Needs { memory_mib: 7_169, ..needs.clone() }, &limits), Err(Rule::Memory));
        assert_eq!(still(&Needs { milli_vcpu: 2_001, ..needs.clone() }, &limits), Err(Rule::Vcpu));
        assert_eq!(still(&needs, &Limits { pools: vec![], ..limits }), Err(Rule::NoPool));
    }

    #[test]
    fn a_refusal_names_every_venue() {
        let needs = Needs { memory_mib: u32::MAX, ..crate::testing::a_job(Venue::Fleet).work.needs };
        let refused = route(&needs, &Conditions::default(), &Limits::one_machine(1024)).unwrap_err();
        let text = refused.to_string();
        for venue in Venue::ALL {
            assert!(text.contains(venue.as_str()), "{text}");
        }
    }
}
