//! What the venues can do and what they cost: the numbers of policies/routing.yaml and policies/prices.yaml.

use std::time::Duration;

use super::{Conditions, PoolName};
use crate::cost::{self, Prices};
use crate::job::Tier;
use crate::scale::Scaling;

/// Pools a fleet has at most: a verdict on each is kept with every job.
pub const POOLS: usize = 8;

/// The longest a function runs: 900 s (Lambda quotas). On one machine its process has the same budget.
pub const FUNCTION_TIME: Duration = Duration::from_secs(900);

/// What the venues can do. A home's own numbers; [`Limits::default`] are those of the shipped files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How soon a job of each tier should have started, highest first: somebody waits for the answer (5 s); soon (90 s,
    /// in which a task starts or an instance boots); in its turn (600 s, in which anything does, so that the price alone
    /// decides).
    pub start_targets: [Duration; 3],
    /// What a run of unknown duration counts as: as long as what is taken inline, so that a function gets it first.
    pub unknown: Duration,
    /// Which container images can be run.
    pub images: Images,
    /// The longest expected run that is taken inline. 30 s: an HTTP API answers within that (API Gateway quotas).
    pub inline_expected: Duration,
    /// What must be left of the invocation after an inline run. 5 s: to settle and to answer.
    pub inline_reserve: Duration,
    /// The most memory an inline run may need, in MiB: it shares the function that takes jobs. Its processors are those
    /// that come with so much memory.
    pub inline_memory_mib: u32,
    /// The longest a function may run. Twice the expected time must fit: what is expected is a mean, and a run that is
    /// cut is paid for and done again.
    pub function_time: Duration,
    /// The most memory a function can have, in MiB: 10,240 (Lambda quotas).
    pub function_memory_mib: u32,
    /// From the invocation to the handler of a function that must start first.
    pub function_start: Duration,
    /// The same for a container image as a function, whose layers are fetched first.
    pub function_image_start: Duration,
    /// The most memory a task can have, in MiB: 120 GiB (Fargate task sizes).
    pub fargate_memory_mib: u32,
    /// From the launch of a task to its first instruction: 50 to 60 s with an image of 400 MB.
    pub fargate_start: Duration,
    /// The part of that which is billed: Fargate's clock starts with the pull of the image (AWS Fargate pricing).
    pub fargate_billed_start: Duration,
    /// The pools of the fleet, by name; at most [`POOLS`].
    pub pools: Vec<Pool>,
    /// What runs cost.
    pub prices: Prices,
}

/// Which container images a home can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// None: there is no container engine.
    None,
    /// All but those that speak the Lambda Runtime API: an engine runs them, and nothing plays that API.
    Containers,
    /// All.
    All,
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
    /// The part of the boot that is billed: EC2's clock starts when the instance runs. None where nothing boots.
    pub boot_billed: Duration,
    /// How long a worker waits for more before it goes home.
    pub idle: Duration,
    /// The price of one instance, in nano-dollars an hour.
    pub hour_nanodollars: u64,
    /// What a processor of it costs, in nano-dollars an hour: its price by its processors.
    pub vcpu_hour_nanodollars: u64,
    /// What a GiB of it costs, in nano-dollars an hour: its price by the memory that jobs can have.
    pub gib_hour_nanodollars: u64,
    /// How many workers it has. Where nothing boots, nobody asks.
    pub scaling: Scaling,
}

impl Pool {
    /// The pool at this price of one instance.
    pub fn priced(self, hour_nanodollars: u64) -> Self {
        let a_unit = |units: u32, size: u64| hour_nanodollars.saturating_mul(size) / u64::from(units.max(1));
        Self {
            hour_nanodollars,
            vcpu_hour_nanodollars: a_unit(self.milli_vcpu, 1000),
            gib_hour_nanodollars: a_unit(self.memory_mib, 1024),
            ..self
        }
    }
}

impl Limits {
    /// The shipped limits on a machine with this much memory, and more processors than any job asks for.
    pub fn one_machine(memory_mib: u32) -> Self {
        Self::default().on_one_machine(memory_mib, 64_000, false)
    }

    /// These limits on a machine of one's own, which is its only pool, `standard`: nothing boots, nothing is taken away,
    /// and images are run where there is a container engine. Prices stay as they are, so that a laptop decides as AWS
    /// would: a slot costs what the same share of the pool `standard` (or of the first there is) does.
    pub fn on_one_machine(self, memory_mib: u32, milli_vcpu: u32, containers: bool) -> Self {
        let named = self.pools.iter().find(|pool| pool.name == PoolName::STANDARD);
        let priced = named.or(self.pools.first());
        let (hour, vcpu_hour, gib_hour) = priced
            .map_or((0, 0, 0), |pool| (pool.hour_nanodollars, pool.vcpu_hour_nanodollars, pool.gib_hour_nanodollars));
        let machine = Pool {
            name: PoolName::STANDARD,
            spot: false,
            static_address: false,
            docker: false,
            memory_mib,
            milli_vcpu,
            start: Duration::from_millis(5),
            // Nobody knows when a busy slot is free again. Half a minute stands for it: too long for somebody who waits
            // for the answer, and short for everybody else. It wakes no instance, and costs nothing.
            boot: Duration::from_secs(30),
            boot_billed: Duration::ZERO,
            idle: Duration::ZERO,
            hour_nanodollars: hour,
            vcpu_hour_nanodollars: vcpu_hour,
            gib_hour_nanodollars: gib_hour,
            scaling: Scaling::default(),
        };
        Self {
            images: if containers { Images::Containers } else { Images::None },
            // Wherever it runs here, it runs in this machine's memory.
            function_memory_mib: self.function_memory_mib.min(memory_mib),
            fargate_memory_mib: self.fargate_memory_mib.min(memory_mib),
            // A process of one's own: fork, exec and a socket.
            function_start: Duration::from_millis(100),
            fargate_start: Duration::from_millis(100),
            pools: vec![machine],
            ..self
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
        cost::millis(duration)
    }
}

impl Default for Limits {
    /// As in policies/routing.yaml and policies/prices.yaml, which say why.
    fn default() -> Self {
        let pool = |name: &str, memory_mib: u32, hour_nanodollars: u64| {
            let name = name.parse().unwrap_or(PoolName::STANDARD);
            let pool = Pool {
                name,
                spot: true,
                static_address: false,
                docker: true,
                memory_mib,
                milli_vcpu: 2_000,
                start: Duration::from_millis(200),
                boot: Duration::from_secs(75),
                boot_billed: Duration::from_secs(50),
                idle: Duration::from_secs(300),
                hour_nanodollars: 0,
                vcpu_hour_nanodollars: 0,
                gib_hour_nanodollars: 0,
                scaling: Scaling::default(),
            };
            pool.priced(hour_nanodollars)
        };
        Self {
            start_targets: [Duration::from_secs(5), Duration::from_secs(90), Duration::from_secs(600)],
            unknown: Duration::from_secs(30),
            images: Images::All,
            inline_expected: Duration::from_secs(30),
            inline_reserve: Duration::from_secs(5),
            inline_memory_mib: 512,
            function_time: FUNCTION_TIME,
            function_memory_mib: 10_240,
            function_start: Duration::from_millis(500),
            function_image_start: Duration::from_secs(3),
            fargate_memory_mib: 120 * 1024,
            fargate_start: Duration::from_secs(55),
            fargate_billed_start: Duration::from_secs(45),
            pools: vec![
                pool("standard", 7_168, 38_400_000),
                Pool { static_address: true, ..pool("static", 7_168, 49_920_000) },
                Pool { spot: false, ..pool("steady", 3_072, 41_600_000) },
            ],
            prices: Prices::default(),
        }
    }
}
