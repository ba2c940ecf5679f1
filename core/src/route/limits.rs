//! What the venues can do and what they cost: the numbers of policies/routing.yaml and policies/prices.yaml.

use std::time::Duration;

use super::{Conditions, PoolName};
use crate::cost::Prices;
use crate::job::Tier;

/// Pools a fleet has at most: a verdict on each is kept with every job.
pub const POOLS: usize = 8;

/// The longest a function runs: 900 s (Lambda quotas). On one machine its process has the same budget.
pub const FUNCTION_TIME: Duration = Duration::from_secs(900);

/// What the venues can do. A home's own numbers; [`Limits::default`] are the documented ones, without pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How soon a job of each tier should have started, highest first.
    pub start_targets: [Duration; 3],
    /// What a run of unknown duration counts as.
    pub unknown: Duration,
    /// Whether container images can be run at all.
    pub images: bool,
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
    /// From the invocation to the handler of a function that must start first.
    pub function_start: Duration,
    /// The same for a container image as a function.
    pub function_image_start: Duration,
    /// The most memory a task can have, in MiB (Fargate task sizes).
    pub fargate_memory_mib: u32,
    /// From the launch of a task to its first instruction.
    pub fargate_start: Duration,
    /// The pools of the fleet, by name; at most [`POOLS`].
    pub pools: Vec<Pool>,
    /// What runs cost.
    pub prices: Prices,
}

/// One pool of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Whether its instances can be taken away at short notice.
    pub spot: bool,
    /// Whether its workers' connections come from a known address.
    pub static_address: bool,
    /// Whether a job may talk to a Docker daemon there.
    pub docker: bool,
    /// The memory of one worker that jobs can have, in MiB.
    pub memory_mib: u32,
    /// The processors of one worker, in thousandths of one.
    pub milli_vcpu: u32,
    /// From the doorbell to the claim where a slot is free.
    pub start: Duration,
    /// The same where an instance must boot first.
    pub boot: Duration,
    /// How long a worker waits for more before it goes home.
    pub idle: Duration,
    /// The price of one instance, in nano-dollars an hour.
    pub hour_nanodollars: u64,
}

impl Limits {
    /// The limits with one pool, `standard`, on a machine of one's own: nothing boots, nothing is taken away, and no
    /// container is run.
    pub fn one_machine(memory_mib: u32) -> Self {
        Self {
            images: false,
            // A process of one's own: fork, exec and a socket.
            function_start: Duration::from_millis(100),
            fargate_start: Duration::from_millis(100),
            pools: vec![Pool {
                name: PoolName::STANDARD,
                spot: false,
                static_address: false,
                docker: false,
                memory_mib,
                milli_vcpu: 64_000,
                start: Duration::from_millis(5),
                // Nobody knows when a busy slot is free again. Half a minute stands for it: too long for somebody who
                // waits for the answer, and short for everybody else.
                boot: Duration::from_secs(30),
                idle: Duration::ZERO,
                hour_nanodollars: 0,
            }],
            ..Self::default()
        }
    }

    /// Within what time a job under these conditions should have started.
    pub fn start_target(&self, conditions: &Conditions) -> Duration {
        let [synchronous, priority, standard] = self.start_targets;
        let target = match conditions.tier {
            Tier::Synchronous => synchronous,
            Tier::Priority => priority,
            Tier::Standard => standard,
        };
        conditions.start_within.map_or(target, |within| within.min(target))
    }

    /// A duration as verdicts have it.
    pub(super) fn millis(&self, duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Somebody waits for the answer; soon; in its turn.
            start_targets: [Duration::from_secs(5), Duration::from_secs(90), Duration::from_secs(600)],
            unknown: Duration::from_secs(30),
            images: true,
            inline_expected: Duration::from_secs(30),
            inline_reserve: Duration::from_secs(5),
            inline_memory_mib: 512,
            function_time: FUNCTION_TIME,
            function_memory_mib: 10_240,
            function_start: Duration::from_millis(500),
            function_image_start: Duration::from_secs(3),
            fargate_memory_mib: 120 * 1024,
            fargate_start: Duration::from_secs(55),
            pools: Vec::new(),
            prices: Prices::default(),
        }
    }
}
