//! How many workers a pool should have.
//!
//! One plain function, [`decide`], over what was seen of a pool, for both policies. It only ever asks for more: a pool
//! gets smaller by workers that go home, and a policy that wishes for less says so and changes nothing.
//!
//! **What counts.** The group's desired size is what there will be: instances at work, and those that boot. Workers that
//! leave are still in it, and are left out, like instances that have been there for long without a worker. What waits is
//! what the queues show; where every slot is taken they show bells of jobs that run, too (a bell comes back after two
//! minutes while its job runs), and then the ledger's own count is asked for: [`wants_count`].
//!
//! **The policy `backlog`.** An instance takes `slots × target / mean run` jobs before the last of them has waited for its
//! tier's target, and never fewer than it has slots. So many instances are wanted as take all that waits, and what runs
//! beside it. It is defined without any instance, so the first of a pool needs no metric of running ones.
//!
//! **The policy `steps`.** Fewer than 10 waiting: one less; 10 to 50: two more; over 50: five more. Taken at its word that
//! strands jobs, so that the guards hold for it as for the other: never fewer than what runs has slots for, never none
//! while there is work, and no step while instances boot.

mod seen;

use std::time::Duration;

use serde::Serialize;

pub use self::seen::{Backlog, Counted, GroupSeen, Seen, Standing, WorkerSeen};
use crate::ports::Worker;
use crate::route::{Limits, Pool, PoolName};

/// From reading to deciding: what was seen longer ago is not acted upon. The reads take a second when AWS is well; by half
/// a minute a group that was asked for has instances that the look does not show.
pub const STALE: Duration = Duration::from_secs(30);

/// How long after a kick no other is sent for the same pool. Long enough that a burst makes one, and a job that comes when
/// the first look is over waits no longer than that for the next; the boot takes eight times as long.
pub const KICK_WINDOW: Duration = Duration::from_secs(10);

/// Under so many waiting jobs the policy `steps` takes one away,
const FEW: u64 = 10;
/// up to so many it adds [`STEP`], beyond them [`LEAP`]: the step policy of CloudFormation templates that scale on depth.
const MANY: u64 = 50;
const STEP: u32 = 2;
const LEAP: u32 = 5;

/// By what a pool's size is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// So many instances as take what waits within its target.
    Backlog,
    /// A step by how much waits.
    Steps,
}

/// How one pool scales, as policies/routing.yaml has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// By what its size is decided.
    pub policy: Policy,
    /// The longest that what waits may take to be started, whatever the tier; a tier whose start target is shorter has that.
    pub backlog: Duration,
    /// How long a run takes there, in the mean.
    pub run: Duration,
    /// Jobs that one instance runs at once, until its workers say otherwise.
    pub slots: u32,
}

impl Default for Scaling {
    /// As in policies/routing.yaml, which says why.
    fn default() -> Self {
        Self { policy: Policy::Backlog, backlog: Duration::from_secs(600), run: Duration::from_secs(60), slots: 2 }
    }
}

/// What the decision goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The pool's own.
    pub scaling: Scaling,
    /// How soon a job of each tier should have started, highest first.
    pub targets: [Duration; 3],
    /// From the wish for an instance to its first claim.
    pub boot: Duration,
}

impl Rules {
    /// The rules of one pool.
    pub fn of(limits: &Limits, pool: &Pool) -> Self {
        Self { scaling: pool.scaling, targets: limits.start_targets, boot: pool.boot }
    }
}

/// Why a pool is asked to grow, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is work and nobody for it.
    First,
    /// What waits would not start within its target.
    Backlog,
    /// What is in flight has not enough slots.
    InFlight,
    /// The step policy steps up.
    Step,
    /// Something has waited for longer than its target and a boot: runs take longer than they are said to.
    Late,
    /// There are as many as it takes.
    Enough,
    /// There will be as many when those that boot are here.
    Booting,
    /// There are more than it takes. They go home by themselves.
    Fewer,
    /// The group may not be larger.
    AtMaximum,
    /// There is no work, and nobody.
    Idle,
    /// It was seen too long ago.
    Stale,
    /// The queues could not be counted.
    BacklogUnknown,
    /// The group could not be looked at.
    GroupUnknown,
    /// Who works is not known.
    WorkersUnknown,
}

impl Reason {
    /// Its code, as logs and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Backlog => "backlog",
            Self::InFlight => "in_flight",
            Self::Step => "step",
            Self::Late => "late",
            Self::Enough => "enough",
            Self::Booting => "booting",
            Self::Fewer => "fewer",
            Self::AtMaximum => "at_maximum",
            Self::Idle => "idle",
            Self::Stale => "stale",
            Self::BacklogUnknown => "backlog_unknown",
            Self::GroupUnknown => "group_unknown",
            Self::WorkersUnknown => "workers_unknown",
        }
    }
}

/// What a pool's size should be, why, and by which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// What the group's desired size is to be; `None`: as it is. Never less than it is, never over its maximum.
    pub grow_to: Option<u32>,
    /// Instances that the policy wishes for, beside those that leave.
    pub wanted: u32,
    /// Instances that there are or will be, beside those that leave and those without a worker.
    pub present: u32,
    /// Of those, how many have no worker yet.
    pub booting: u32,
    /// Instances whose worker leaves.
    pub leaving: u32,
    /// Instances that have had no worker for too long.
    pub silent: u32,
    /// What the group is to be.
    pub desired: u32,
    /// The most that it may be.
    pub maximum: u32,
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that somebody has.
    pub in_flight: u64,
}

impl Verdict {
    fn unknown(reason: Reason) -> Self {
        Self {
            reason,
            grow_to: None,
            wanted: 0,
            present: 0,
            booting: 0,
            leaving: 0,
            silent: 0,
            desired: 0,
            maximum: 0,
            waiting: 0,
            in_flight: 0,
        }
    }
}

/// Whether nobody in the pool takes work: there is no worker, or each leaves. A doorbell that rings there wakes nobody.
pub fn is_deserted(pool: PoolName, workers: &[Worker]) -> bool {
    !workers.iter().any(|worker| worker.pool == pool && !worker.leaving)
}

/// Whether the ledger's count decides: every slot is taken, so that the queues may show bells of jobs that run, and it
/// matters how many of them do, or somebody may have waited for too long. The ledger reads every open record for it; that
/// is not asked where the queues alone say enough, as they do of a long backlog.
pub fn wants_count(seen: &Seen, rules: &Rules) -> bool {
    let (Some(backlog), Some(_), Some(workers)) = (&seen.backlog, &seen.group, &seen.workers) else { return false };
    let free = workers.iter().any(|one| one.standing == Standing::Stays && one.busy < one.slots);
    let busy: u64 = workers.iter().map(|one| u64::from(one.busy)).sum();
    if free || busy == 0 || backlog.counted.is_some() || backlog.visible == [0; 3] {
        return false;
    }
    let most = decide(seen, rules);
    // Every bell that can be a running job's is one; of those the highest tiers' count most.
    let (mut left, mut waiting) = (busy, backlog.visible);
    for tier in &mut waiting {
        let of_these = left.min(*tier);
        *tier -= of_these;
        left -= of_these;
    }
    let counted = Some(Counted { waiting, oldest: [None; 3] });
    let least = decide(&Seen { backlog: Some(Backlog { counted, ..*backlog }), ..seen.clone() }, rules);
    let can_grow = most.desired < most.maximum;
    can_grow && (most.grow_to != least.grow_to || most.grow_to.is_none())
}

/// How large the pool should be.
pub fn decide(seen: &Seen, rules: &Rules) -> Verdict {
    if seen.age > STALE {
        return Verdict::unknown(Reason::Stale);
    }
    let Some(backlog) = &seen.backlog else { return Verdict::unknown(Reason::BacklogUnknown) };
    let Some(group) = &seen.group else { return Verdict::unknown(Reason::GroupUnknown) };
    let nobody = Vec::new();
    let workers = match &seen.workers {
        Some(workers) => workers,
        // Of an empty group there is nothing to know.
        None if group.desired == 0 && group.in_service == 0 => &nobody,
        None => return Verdict::unknown(Reason::WorkersUnknown),
    };
    let standing = |standing| workers.iter().filter(move |worker| worker.standing == standing);
    let count = |of| u32::try_from(standing(of).count()).unwrap_or(u32::MAX);
    let busy = |of| standing(of).map(|worker| u64::from(worker.busy)).sum::<u64>();
    let leaving = count(Standing::Leaves);
    let present = group.desired.saturating_sub(leaving).saturating_sub(group.silent);
    let booting = present.saturating_sub(count(Standing::Stays));
    let slots = slots(standing(Standing::Stays), rules.scaling.slots);
    let waiting = waiting(backlog);
    let held_elsewhere = busy(Standing::Leaves) + busy(Standing::Elsewhere);
    let in_flight = sum(&backlog.in_flight).saturating_sub(held_elsewhere).max(busy(Standing::Stays));

    // The guards, which hold for every policy.
    let there_is_work = sum(&backlog.visible) + sum(&backlog.in_flight) > 0;
    let floor = in_flight.div_ceil(u64::from(slots));
    let floor = u32::try_from(floor).unwrap_or(u32::MAX).max(u32::from(there_is_work));
    let (wish, by) = match rules.scaling.policy {
        Policy::Backlog => by_backlog(&waiting, in_flight, slots, backlog.counted.as_ref(), rules),
        Policy::Steps => (by_steps(sum(&waiting), present, booting), Reason::Step),
    };
    let (wanted, by) = if floor > wish { (floor, Reason::InFlight) } else { (wish, by) };
    let grow_to = wanted.checked_sub(present).filter(|more| *more > 0).map(|more| group.desired.saturating_add(more));
    let clamped = grow_to.map(|to| to.min(group.max)).filter(|to| *to > group.desired);
    let reason = match (grow_to, clamped) {
        (Some(_), None) => Reason::AtMaximum,
        (Some(_), Some(_)) if present == 0 => Reason::First,
        (Some(_), Some(_)) => by,
        (None, _) if present == 0 => Reason::Idle,
        (None, _) if wanted < present => Reason::Fewer,
        (None, _) if booting > 0 => Reason::Booting,
        (None, _) => Reason::Enough,
    };
    Verdict {
        reason,
        grow_to: clamped,
        wanted,
        present,
        booting,
        leaving,
        silent: group.silent,
        desired: group.desired,
        maximum: group.max,
        waiting: sum(&waiting),
        in_flight,
    }
}

fn sum(tiers: &[u64; 3]) -> u64 {
    tiers.iter().fold(0, |sum, tier| sum.saturating_add(*tier))
}

/// Slots of an instance: what its workers have in the mean, or what the rules say while there is none.
fn slots<'a>(workers: impl Iterator<Item = &'a WorkerSeen>, otherwise: u32) -> u32 {
    let (count, slots) = workers.fold((0_u64, 0_u64), |(n, slots), one| (n + 1, slots + u64::from(one.slots)));
    let mean = slots.checked_div(count).map(|mean| u32::try_from(mean).unwrap_or(u32::MAX));
    mean.unwrap_or(otherwise).max(1)
}

/// What waits by tier: what the queues show, and no more than the ledger knows to wait.
fn waiting(backlog: &Backlog) -> [u64; 3] {
    let most = backlog.counted.map_or([u64::MAX; 3], |counted| counted.waiting);
    std::array::from_fn(|tier| backlog.visible[tier].min(most[tier]))
}

/// The policy `backlog`. Exact: in whole numbers over one denominator, and rounded up once.
fn by_backlog(
    waiting: &[u64; 3],
    in_flight: u64,
    slots: u32,
    counted: Option<&Counted>,
    rules: &Rules,
) -> (u32, Reason) {
    // A day in milliseconds is 27 bits, and so many jobs are 32: three tiers' times, a run's and the jobs are within 128.
    const MOST: u64 = u32::MAX as u64;
    const DAY: u128 = 24 * 3600 * 1000;
    let millis = |time: Duration| time.as_millis().clamp(1, DAY);
    let run = millis(rules.scaling.run);
    let mut by = Reason::Backlog;
    // How long what waits in a tier may take; never less than one run, for which an instance takes as many as it has slots.
    let may_take: [u128; 3] = std::array::from_fn(|tier| {
        let target = rules.targets[tier].min(rules.scaling.backlog);
        let oldest = counted.and_then(|counted| counted.oldest[tier]).filter(|_| waiting[tier] > 0);
        if oldest.is_some_and(|waits| waits > target + rules.boot) {
            // What the runs were said to take was wrong: whoever waits is to have a slot.
            by = Reason::Late;
            return run;
        }
        millis(target).max(run)
    });
    // What runs has slots that the most urgent of what waits would need: it counts by that one's measure.
    let most_urgent = (0..3).filter(|tier| waiting[*tier] > 0).map(|tier| may_take[tier]).min();
    let Some(most_urgent) = most_urgent else { return (0, Reason::Backlog) };
    let [a, b, c] = may_take;
    let all = a * b * c;
    let jobs = (0..3).map(|tier| u128::from(waiting[tier].min(MOST)) * (all / may_take[tier])).sum::<u128>()
        + u128::from(in_flight.min(MOST)) * (all / most_urgent);
    let instances = (jobs * run).div_ceil(all * u128::from(slots));
    (u32::try_from(instances).unwrap_or(u32::MAX), by)
}

/// The policy `steps`, from what is present; it does not step while instances boot, for they have not been counted on yet.
fn by_steps(waiting: u64, present: u32, booting: u32) -> u32 {
    match waiting {
        0..FEW => present.saturating_sub(1),
        FEW.. if booting > 0 => present,
        FEW..=MANY => present.saturating_add(STEP),
        _ => present.saturating_add(LEAP),
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
