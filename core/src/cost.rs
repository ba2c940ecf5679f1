//! What a run costs at each place: prices as data, integers throughout.
//!
//! Costs are marginal: what the bill grows by because this job runs there. AWS bills functions by the millisecond, and
//! tasks and instances by the second (AWS Lambda, AWS Fargate and Amazon EC2 pricing).

use std::time::Duration;

use crate::route::{Limits, Needs, Place, Pool, Route};

/// Memory that comes with one processor of a function, in MiB (AWS Lambda: "Configure Lambda function memory").
const FUNCTION_MIB_PER_VCPU: u64 = 1_769;
/// The least memory of a function, in MiB (Lambda quotas).
const FUNCTION_LEAST_MIB: u32 = 128;
/// The shortest task that is billed: one minute (AWS Fargate pricing).
const FARGATE_LEAST_S: u64 = 60;

/// What AWS charges, in US dollars of one region: policies/prices.yaml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    /// The region they are of.
    pub region: String,
    /// The day they were looked up, such as `2026-11-01`.
    pub as_of: String,
    /// One invocation of a function, in nano-dollars.
    pub function_request_nanodollars: u64,
    /// A GiB of a function's memory for a second, in pico-dollars.
    pub function_gib_second_picodollars: u64,
    /// A processor of a task for an hour, in nano-dollars.
    pub fargate_vcpu_hour_nanodollars: u64,
    /// A GiB of a task's memory for an hour, in nano-dollars.
    pub fargate_gib_hour_nanodollars: u64,
}

impl Default for Prices {
    /// As in policies/prices.yaml, which says where they are from.
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            as_of: "2026-11-01".to_owned(),
            function_request_nanodollars: 200,
            function_gib_second_picodollars: 16_666_700,
            fargate_vcpu_hour_nanodollars: 40_480_000,
            fargate_gib_hour_nanodollars: 4_445_000,
        }
    }
}

/// A run inside the function that took the job, which is paid for already but for the time.
pub fn inline(run: Duration, limits: &Limits) -> u64 {
    function_time(run, limits.inline_memory_mib, &limits.prices)
}

/// A function of its own.
pub fn function(run: Duration, needs: &Needs, limits: &Limits) -> u64 {
    let time = function_time(run, function_memory_mib(needs), &limits.prices);
    limits.prices.function_request_nanodollars + time
}

/// The memory a function must have, in MiB: what the job needs, or what its processors come with.
pub fn function_memory_mib(needs: &Needs) -> u32 {
    let for_vcpu = u64::from(needs.milli_vcpu) * FUNCTION_MIB_PER_VCPU / 1000;
    needs.memory_mib.max(u32::try_from(for_vcpu).unwrap_or(u32::MAX)).max(FUNCTION_LEAST_MIB)
}

fn function_time(run: Duration, memory_mib: u32, prices: &Prices) -> u64 {
    let millis = millis(run);
    // 900 s of 10 GiB at 17 micro-dollars stay below 2^58; what no function runs saturates.
    let pico = millis.saturating_mul(u64::from(memory_mib)).saturating_mul(prices.function_gib_second_picodollars);
    pico / 1024 / 1000 / 1000
}

/// The size of a task in Fargate's own steps: (thousandths of a processor, MiB).
pub type TaskSize = (u32, u32);

/// Fargate's sizes: processors, the least, the most and the step of memory in MiB (Amazon ECS: "Task CPU and memory").
const FARGATE_SIZES: [(u32, u32, u32, u32); 7] = [
    (250, 512, 2_048, 512),
    (500, 1_024, 4_096, 1_024),
    (1_000, 2_048, 8_192, 1_024),
    (2_000, 4_096, 16_384, 1_024),
    (4_000, 8_192, 30_720, 1_024),
    (8_000, 16_384, 61_440, 4_096),
    (16_000, 32_768, 122_880, 8_192),
];

/// The smallest task that the job fits into; `None` when none does.
pub fn fargate_size(needs: &Needs) -> Option<TaskSize> {
    let fits = |size: &&(u32, u32, u32, u32)| needs.milli_vcpu <= size.0 && needs.memory_mib <= size.2;
    let (milli_vcpu, least, _, step) = FARGATE_SIZES.iter().find(fits)?;
    Some((*milli_vcpu, needs.memory_mib.max(*least).next_multiple_of(*step)))
}

/// A task: billed by the second from the pull of its image on, a minute at least.
pub fn fargate(run: Duration, needs: &Needs, limits: &Limits) -> u64 {
    let Some((milli_vcpu, memory_mib)) = fargate_size(needs) else { return 0 };
    let seconds = seconds(limits.fargate_billed_start).saturating_add(seconds(run)).max(FARGATE_LEAST_S);
    let vcpu_hour = limits.prices.fargate_vcpu_hour_nanodollars.saturating_mul(u64::from(milli_vcpu)) / 1000;
    let gib_hour = limits.prices.fargate_gib_hour_nanodollars.saturating_mul(u64::from(memory_mib)) / 1024;
    seconds.saturating_mul(vcpu_hour + gib_hour) / 3600
}

/// A slot of a worker that is there: its share of the instance, by whichever of memory and processors is more.
pub fn slot(run: Duration, needs: &Needs, pool: &Pool) -> u64 {
    let vcpu_hour = pool.vcpu_hour_nanodollars.saturating_mul(u64::from(needs.milli_vcpu)) / 1000;
    let gib_hour = pool.gib_hour_nanodollars.saturating_mul(u64::from(needs.memory_mib)) / 1024;
    seconds(run).saturating_mul(vcpu_hour.max(gib_hour)) / 3600
}

/// Waking a worker: what is billed of its boot, and its idle time before it goes home, shared by the jobs that wake it
/// together.
pub fn wake(pool: &Pool, companions: u32) -> u64 {
    let seconds = seconds(pool.boot_billed) + seconds(pool.idle);
    seconds.saturating_mul(pool.hour_nanodollars) / 3600 / (u64::from(companions) + 1)
}

/// What a run has cost at the place of its route, by the time it took.
///
/// What waking its worker was to cost stays as it was estimated: whose job a boot was for is known at the dispatch only.
pub fn actual(route: &Route, ran: Duration, needs: &Needs, limits: &Limits) -> u64 {
    match route.place {
        Place::Inline => inline(ran, limits),
        Place::Function => function(ran, needs, limits),
        Place::Fargate => fargate(ran, needs, limits),
        Place::Fleet(name) => limits.pools.iter().find(|pool| pool.name == name).map_or(0, |pool| {
            let expected = slot(needs.expected.unwrap_or(limits.unknown), needs, pool);
            slot(ran, needs, pool) + route.estimate().saturating_sub(expected)
        }),
    }
}

/// The memory a run has at a place, in MiB: at least what its job needs, and what the place's sizes round that up to.
pub fn memory_mib(place: Place, needs: &Needs, limits: &Limits) -> u32 {
    match place {
        Place::Inline => limits.inline_memory_mib.max(needs.memory_mib),
        Place::Function => function_memory_mib(needs),
        Place::Fargate => fargate_size(needs).map_or(needs.memory_mib, |(_, memory_mib)| memory_mib),
        Place::Fleet(_) => needs.memory_mib,
    }
}

/// Nano-dollars as people read them: three digits that matter below a dollar, cents above, nothing finer than there is.
pub fn dollars(nanodollars: u64) -> String {
    const DOLLAR: u64 = 1_000_000_000;
    let (whole, part) = (nanodollars / DOLLAR, nanodollars % DOLLAR);
    if whole > 0 {
        return format!("${whole}.{:02}", part / 10_000_000);
    }
    let digits = format!("{part:09}");
    let zeros = digits.bytes().take_while(|digit| *digit == b'0').count();
    let shown = digits[..(zeros + 3).min(9)].trim_end_matches('0');
    if shown.is_empty() { "$0".to_owned() } else { format!("$0.{shown}") }
}

/// Milliseconds. Not by way of 128 bits, as the standard library has it: a decision does this a dozen times.
pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(u64::from(duration.subsec_millis()))
}

/// Whole seconds, begun ones counted.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_shown_with_the_digits_that_matter() {
        let cases = [
            (0, "$0"),
            (7, "$0.000000007"),
            (200, "$0.0000002"),
            (411_416, "$0.000411"),
            (38_400_000, "$0.0384"),
            (999_999_999, "$0.999"),
            (1_234_567_890, "$1.23"),
            (2_000_000_000, "$2.00"),
        ];
        for (nanodollars, shown) in cases {
            assert_eq!(dollars(nanodollars), shown);
        }
    }

    #[test]
    fn a_task_is_paid_for_from_the_pull_of_its_image_and_a_minute_at_least() {
        let limits = Limits::default();
        let needs = crate::testing::a_job(crate::route::Venue::Fargate).work.needs;
        let cost = |seconds| fargate(Duration::from_secs(seconds), &needs, &limits);
        // A quarter of a processor and half a GiB: $0.0123425 an hour.
        assert_eq!((cost(0), cost(15), cost(16)), (205_708, 205_708, 209_136));
        assert_eq!(cost(120), 12_342_500 * 165 / 3600);
    }
}
