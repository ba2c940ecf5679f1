//! policies/routing.yaml and policies/prices.yaml: two texts in, [`Limits`] or the place and reason of what is wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::{FUNCTION_TIME, Images, Limits, POOLS, Pool, PoolName, Venue};
use crate::cost::Prices;
use crate::intake::RESERVED_CALLERS;
use crate::job::one_line;
use crate::policies::{PolicyError, Reading, Sheet, Wrong, join};
use crate::quota::{Quota, Quotas, Rate};
use crate::scale::{Policy, Scaling};

/// The longest a start target, an estimate or an idle time may be: a day. Whatever takes longer is a mistake of units.
const SECONDS_MAX: u64 = 24 * 3600;
/// The most memory that is believed, in MiB: 24 TiB, the largest instance there is.
const MEMORY_MAX_MIB: u64 = 24 * 1024 * 1024;
/// The most jobs that one instance is believed to run at once: more than the largest has processors.
const SLOTS_MAX: u64 = 1000;
/// The most dollars that a price may be. The dearest instance costs about a tenth of it an hour.
const DOLLARS_MAX: u64 = 1000;

/// policies/routing.yaml, beside its version. A new section is a new field, with a default where a file may leave it out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutingFile {
    start_targets: StartTargets,
    unknown_seconds: u64,
    inline: InlineEntry,
    function: FunctionEntry,
    fargate: FargateEntry,
    pools: Vec<PoolEntry>,
    /// Off where it is left out, or left empty.
    #[serde(default)]
    ageing_seconds: Option<u64>,
    /// None where they are left out, or left empty.
    #[serde(default)]
    quotas: Option<QuotasEntry>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct QuotasEntry {
    every: QuotaEntry,
    callers: BTreeMap<String, QuotaEntry>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct QuotaEntry {
    jobs_per_minute: Option<u64>,
    burst: Option<u64>,
    open_jobs: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartTargets {
    synchronous_seconds: u64,
    priority_seconds: u64,
    standard_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InlineEntry {
    expected_seconds: u64,
    reserve_seconds: u64,
    memory_mib: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionEntry {
    limit_seconds: u64,
    memory_mib: u64,
    start_ms: u64,
    image_start_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FargateEntry {
    memory_mib: u64,
    start_seconds: u64,
    billed_start_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolEntry {
    name: String,
    instance: String,
    on_demand_percent: u64,
    static_address: bool,
    docker: bool,
    memory_mib: u64,
    vcpu: f64,
    start_ms: u64,
    boot_seconds: u64,
    billed_boot_seconds: u64,
    idle_seconds: u64,
    /// As it comes where it is left out.
    #[serde(default)]
    scaling: ScalingEntry,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ScalingEntry {
    policy: Option<String>,
    backlog_seconds: Option<u64>,
    run_seconds: Option<u64>,
    slots: Option<u64>,
}

/// policies/prices.yaml, beside its version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PricesFile {
    region: String,
    currency: String,
    as_of: String,
    source: String,
    function: FunctionPrices,
    fargate: FargatePrices,
    instances: Vec<InstanceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionPrices {
    request: f64,
    gib_second: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FargatePrices {
    vcpu_hour: f64,
    gib_hour: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceEntry {
    r#type: String,
    on_demand_hour: f64,
    spot_hour: f64,
}

/// What one kind of instance costs, in nano-dollars an hour.
#[derive(Clone, Copy)]
struct Hourly {
    on_demand: u64,
    spot: u64,
}

type Instances = BTreeMap<String, Hourly>;

/// What policies/routing.yaml says, with the prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// What the venues can do, and what they cost.
    pub limits: Limits,
    /// How much each caller may submit.
    pub quotas: Quotas,
    /// How long a job waits in a tier of the fleet before it rises one.
    pub ageing: Option<Duration>,
}

impl Routing {
    /// Reads what the venues can do and what they cost. The files' names are for errors.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] names the first thing that is wrong and where it stands.
    pub fn parse(
        routing_file: &str,
        routing_text: &str,
        prices_file: &str,
        prices_text: &str,
    ) -> Result<Self, PolicyError> {
        Self::read(Reading::WRITTEN, (routing_file, routing_text), (prices_file, prices_text))
    }

    /// Reads files, each a name and a text, that were written or pushed.
    pub(crate) fn read(reading: Reading, routing: (&str, &str), prices: (&str, &str)) -> Result<Self, PolicyError> {
        let sheet = Sheet::read(reading, prices.0, prices.1, "what the venues cost")?;
        let (prices, instances) = sheet.fields::<PricesFile>()?.into_prices().map_err(|wrong| sheet.error(wrong))?;
        let sheet = Sheet::read(reading, routing.0, routing.1, "what the venues can do")?;
        let file: RoutingFile = sheet.fields()?;
        file.into_routing(prices, &instances).map_err(|wrong| sheet.error(wrong))
    }
}

impl RoutingFile {
    fn into_routing(self, prices: Prices, instances: &Instances) -> Result<Routing, Wrong> {
        let Self { start_targets, unknown_seconds, inline, function, fargate, pools, ageing_seconds, quotas } = self;
        let start_targets = [
            within("start_targets.synchronous_seconds", start_targets.synchronous_seconds, 1..=SECONDS_MAX)?,
            within("start_targets.priority_seconds", start_targets.priority_seconds, 1..=SECONDS_MAX)?,
            within("start_targets.standard_seconds", start_targets.standard_seconds, 1..=SECONDS_MAX)?,
        ];
        if !start_targets.is_sorted() {
            let what = "a lower tier cannot have to start sooner than a higher one";
            return wrong("start_targets.standard_seconds", what);
        }
        let function_time = FUNCTION_TIME.as_secs();
        let fargate_start = within("fargate.start_seconds", fargate.start_seconds, 0..=SECONDS_MAX)?;
        let fargate_billed = within("fargate.billed_start_seconds", fargate.billed_start_seconds, 0..=fargate_start)?;
        let start_ms = 0..=SECONDS_MAX * 1000;
        let limits = Limits {
            start_targets: start_targets.map(Duration::from_secs),
            unknown: seconds("unknown_seconds", unknown_seconds, 1..=SECONDS_MAX)?,
            images: Images::All,
            inline_expected: seconds("inline.expected_seconds", inline.expected_seconds, 0..=function_time)?,
            inline_reserve: seconds("inline.reserve_seconds", inline.reserve_seconds, 0..=60)?,
            inline_memory_mib: memory("inline.memory_mib", inline.memory_mib, 10_240)?,
            function_time: seconds("function.limit_seconds", function.limit_seconds, 1..=function_time)?,
            function_memory_mib: memory("function.memory_mib", function.memory_mib, 10_240)?,
            function_start: millis("function.start_ms", function.start_ms, start_ms.clone())?,
            function_image_start: millis("function.image_start_ms", function.image_start_ms, start_ms)?,
            fargate_memory_mib: memory("fargate.memory_mib", fargate.memory_mib, 122_880)?,
            fargate_start: Duration::from_secs(fargate_start),
            fargate_billed_start: Duration::from_secs(fargate_billed),
            pools: read_pools(pools, instances)?,
            prices,
        };
        let ageing = ageing_seconds.map(|after| seconds("ageing_seconds", after, 1..=SECONDS_MAX)).transpose()?;
        let quotas = quotas.unwrap_or_default().into_quotas().map_err(|bad| inside("quotas", bad))?;
        Ok(Routing { limits, quotas, ageing })
    }
}

fn read_pools(entries: Vec<PoolEntry>, instances: &Instances) -> Result<Vec<Pool>, Wrong> {
    if entries.len() > POOLS {
        return wrong("pools", format!("expected at most {POOLS}, there are {}", entries.len()));
    }
    let mut pools: Vec<Pool> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let at = format!("pools[{at}]");
        let pool = entry.into_pool(instances).map_err(|bad| inside(&at, bad))?;
        if let Some(first) = pools.iter().position(|other| other.name == pool.name) {
            return wrong(&join(&at, "name"), format!("`{}` is listed twice, also as pools[{first}]", pool.name));
        }
        pools.push(pool);
    }
    // By name: the order in the file decides nothing.
    pools.sort_by_key(|pool| pool.name);
    Ok(pools)
}

impl QuotasEntry {
    fn into_quotas(self) -> Result<Quotas, Wrong> {
        let every = self.every.into_quota().map_err(|bad| inside("every", bad))?;
        let mut callers = BTreeMap::new();
        for (name, entry) in self.callers {
            let at = format!("callers.{name}");
            if RESERVED_CALLERS.contains(&name.as_str()) {
                return wrong(&at, "the yard itself submits under that name, and is never refused");
            }
            callers.insert(name, entry.into_quota().map_err(|bad| inside(&at, bad))?);
        }
        Ok(Quotas { every, callers })
    }
}

impl QuotaEntry {
    fn into_quota(self) -> Result<Quota, Wrong> {
        let most = u64::from(u32::MAX);
        let number =
            |field, value| within(field, value, 1..=most).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        let rate = match (self.jobs_per_minute, self.burst) {
            (None, None) => None,
            (None, Some(_)) => return wrong("burst", "goes with jobs_per_minute"),
            (Some(jobs), burst) => {
                let jobs_per_minute = number("jobs_per_minute", jobs)?;
                let burst = burst.map_or(Ok(jobs_per_minute), |burst| number("burst", burst))?;
                Some(Rate { jobs_per_minute, burst })
            }
        };
        let open_jobs = self.open_jobs.map(|jobs| within("open_jobs", jobs, 1..=most)).transpose()?;
        Ok(Quota { rate, open_jobs })
    }
}

fn wrong<T>(path: &str, what: impl Into<String>) -> Result<T, Wrong> {
    Err((path.to_owned(), what.into()))
}

/// What is wrong in a part, by its path in the whole.
fn inside(part: &str, (path, what): Wrong) -> Wrong {
    (join(part, &path), what)
}

fn within(path: &str, value: u64, may_be: RangeInclusive<u64>) -> Result<u64, Wrong> {
    if may_be.contains(&value) {
        return Ok(value);
    }
    wrong(path, format!("expected {} to {}", may_be.start(), may_be.end()))
}

fn seconds(path: &str, value: u64, may_be: RangeInclusive<u64>) -> Result<Duration, Wrong> {
    within(path, value, may_be).map(Duration::from_secs)
}

fn millis(path: &str, value: u64, may_be: RangeInclusive<u64>) -> Result<Duration, Wrong> {
    within(path, value, may_be).map(Duration::from_millis)
}

fn memory(path: &str, mib: u64, most: u64) -> Result<u32, Wrong> {
    within(path, mib, 128..=most).map(|mib| u32::try_from(mib).unwrap_or(u32::MAX))
}

impl PoolEntry {
    fn into_pool(self, instances: &Instances) -> Result<Pool, Wrong> {
        let name: PoolName = self.name.parse().map_err(|error| ("name".to_owned(), format!("{error}")))?;
        if Venue::ALL.iter().any(|venue| venue.as_str() == name.as_str()) {
            return wrong("name", format!("`{name}` is a venue's, and a pin could not tell them apart"));
        }
        let Some(hourly) = instances.get(&self.instance) else {
            let known: Vec<&str> = instances.keys().map(String::as_str).collect();
            let instance = one_line(&self.instance, 40);
            return wrong("instance", format!("`{instance}` has no price; priced are: {}", known.join(", ")));
        };
        let percent = within("on_demand_percent", self.on_demand_percent, 0..=100)?;
        if !(0.1..=1024.0).contains(&self.vcpu) {
            return wrong("vcpu", "expected 0.1 to 1024");
        }
        let boot = within("boot_seconds", self.boot_seconds, 0..=SECONDS_MAX)?;
        let pool = Pool {
            name,
            // What may meet an instance that is taken away counts as one that is.
            spot: percent < 100,
            static_address: self.static_address,
            docker: self.docker,
            memory_mib: memory("memory_mib", self.memory_mib, MEMORY_MAX_MIB)?,
            // In the range above every value is far from where a double's steps or the cast would show.
            milli_vcpu: (self.vcpu * 1000.0).round() as u32,
            start: millis("start_ms", self.start_ms, 0..=SECONDS_MAX * 1000)?,
            boot: Duration::from_secs(boot),
            boot_billed: seconds("billed_boot_seconds", self.billed_boot_seconds, 0..=boot)?,
            idle: seconds("idle_seconds", self.idle_seconds, 0..=SECONDS_MAX)?,
            hour_nanodollars: 0,
            vcpu_hour_nanodollars: 0,
            gib_hour_nanodollars: 0,
            scaling: self.scaling.into_scaling().map_err(|bad| inside("scaling", bad))?,
        };
        Ok(pool.priced((hourly.on_demand * percent + hourly.spot * (100 - percent)) / 100))
    }
}

impl ScalingEntry {
    fn into_scaling(self) -> Result<Scaling, Wrong> {
        let Scaling { policy, backlog, run, slots } = Scaling::default();
        let policy = match self.policy.as_deref() {
            None => policy,
            Some("backlog") => Policy::Backlog,
            Some("steps") => Policy::Steps,
            Some(_) => return wrong("policy", "expected backlog or steps"),
        };
        let or = |field, value: Option<u64>, otherwise| {
            value.map_or(Ok(otherwise), |value| seconds(field, value, 1..=SECONDS_MAX))
        };
        Ok(Scaling {
            policy,
            backlog: or("backlog_seconds", self.backlog_seconds, backlog)?,
            run: or("run_seconds", self.run_seconds, run)?,
            slots: match self.slots {
                None => slots,
                Some(value) => u32::try_from(within("slots", value, 1..=SLOTS_MAX)?).unwrap_or(slots),
            },
        })
    }
}

impl PricesFile {
    fn into_prices(self) -> Result<(Prices, Instances), Wrong> {
        let Self { region, currency, as_of, source, function, fargate, instances } = self;
        if currency != "USD" {
            return wrong("currency", "expected USD; AWS's price lists are in it");
        }
        let named_well = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=40).contains(&region.len()) || !region.chars().all(named_well) {
            return wrong("region", "expected a region's name, such as us-east-1");
        }
        if as_of.parse::<jiff::civil::Date>().is_err() || as_of.len() != "2026-01-31".len() {
            return wrong("as_of", "expected a date, such as 2026-01-31");
        }
        if source.trim().is_empty() {
            return wrong("source", "expected where the prices are from");
        }
        let prices = Prices {
            region,
            as_of,
            function_request_nanodollars: price("function.request", function.request, NANO)?,
            function_gib_second_picodollars: price("function.gib_second", function.gib_second, PICO)?,
            fargate_vcpu_hour_nanodollars: price("fargate.vcpu_hour", fargate.vcpu_hour, NANO)?,
            fargate_gib_hour_nanodollars: price("fargate.gib_hour", fargate.gib_hour, NANO)?,
        };
        let mut priced = Instances::new();
        for (at, InstanceEntry { r#type: kind, on_demand_hour, spot_hour }) in instances.into_iter().enumerate() {
            let at = |field: &str| format!("instances[{at}].{field}");
            if !(1..=40).contains(&kind.len()) || !kind.chars().all(|c| named_well(c) || c == '.') {
                return wrong(&at("type"), "expected a type such as m6i.large");
            }
            let hourly = Hourly {
                on_demand: price(&at("on_demand_hour"), on_demand_hour, NANO)?,
                spot: price(&at("spot_hour"), spot_hour, NANO)?,
            };
            if priced.contains_key(&kind) {
                return wrong(&at("type"), format!("`{kind}` is listed twice"));
            }
            priced.insert(kind, hourly);
        }
        Ok((prices, priced))
    }
}

/// Decimals of a nano-dollar and of a pico-dollar.
const NANO: u32 = 9;
const PICO: u32 = 12;

/// Dollars as a whole number of their `decimals`-th part, exactly as they were written.
///
/// A number of at most 15 digits is the same again when a double is printed with as few digits as tell it apart (IEEE
/// 754 doubles keep 15), so its text is what stood in the file, and the text is taken apart.
fn price(path: &str, dollars: f64, decimals: u32) -> Result<u64, Wrong> {
    let expected =
        || (path.to_owned(), format!("expected dollars from 0 to {DOLLARS_MAX} with at most {decimals} decimals"));
    if !(0.0..=DOLLARS_MAX as f64).contains(&dollars) {
        return Err(expected());
    }
    let text = dollars.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let missing = usize::try_from(decimals).unwrap_or(0).checked_sub(part.len()).ok_or_else(expected)?;
    format!("{whole}{part}{}", "0".repeat(missing)).parse().map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_as_it_was_written() {
        let cases = [
            (0.0, NANO, 0),
            (0.000_000_2, NANO, 200),
            (0.000_016_666_7, PICO, 16_666_700),
            (0.04048, NANO, 40_480_000),
            // Times a billion as doubles these would be …00000001 and …99999999.
            (0.004_445, NANO, 4_445_000),
            (1.001, NANO, 1_001_000_000),
            (999.999_999_999, NANO, 999_999_999_999),
            (1000.0, PICO, 1_000_000_000_000_000),
        ];
        for (dollars, decimals, expected) in cases {
            assert_eq!(price("", dollars, decimals), Ok(expected), "{dollars}");
        }
        for bad in [-0.1, 1000.1, 0.000_000_000_1, f64::NAN, f64::INFINITY] {
            assert!(price("", bad, NANO).is_err(), "{bad}");
        }
    }
}
