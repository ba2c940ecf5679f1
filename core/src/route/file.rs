//! policies/routing.yaml and policies/prices.yaml: two texts in, [`Limits`] or the place and reason of what is wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use super::{FUNCTION_TIME, Images, Limits, POOLS, Pool, PoolName, Venue};
use crate::cost::Prices;
use crate::intake::RESERVED_CALLERS;
use crate::job::one_line;
use crate::policies::{PolicyError, check_version, read_yaml};
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

/// policies/routing.yaml. A new section is a new field, with a default where a file may leave it out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutingFile {
    version: u32,
    start_targets: Spanned<StartTargets>,
    unknown_seconds: Spanned<u64>,
    inline: Spanned<InlineEntry>,
    function: Spanned<FunctionEntry>,
    fargate: Spanned<FargateEntry>,
    pools: Vec<Spanned<PoolEntry>>,
    /// Off where it is left out.
    #[serde(default)]
    ageing_seconds: Option<Spanned<u64>>,
    /// None where they are left out.
    #[serde(default)]
    quotas: Option<Spanned<QuotasEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotasEntry {
    #[serde(default)]
    every: QuotaEntry,
    #[serde(default)]
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

/// policies/prices.yaml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PricesFile {
    version: u32,
    region: Spanned<String>,
    currency: Spanned<String>,
    as_of: Spanned<String>,
    source: Spanned<String>,
    function: Spanned<FunctionPrices>,
    fargate: Spanned<FargatePrices>,
    instances: Vec<Spanned<InstanceEntry>>,
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
        let (prices, instances) = read_prices(prices_file, prices_text)?;
        let file: RoutingFile = read(routing_file, routing_text)?;
        check_version(routing_file, file.version)?;
        let StartTargets { synchronous_seconds, priority_seconds, standard_seconds } = file.start_targets.value;
        let at = |section: (u64, u64), path: &str| {
            let (file, path) = (routing_file.to_owned(), path.to_owned());
            move |what: String| PolicyError {
                file: file.clone(),
                line: section.0,
                column: section.1,
                message: format!("{path}{what}"),
            }
        };
        let targets = at(place(&file.start_targets), "start_targets.");
        let target = |field: &str, seconds: u64| within(field, seconds, 1..=SECONDS_MAX).map_err(&targets);
        let start_targets = [
            target("synchronous_seconds", synchronous_seconds)?,
            target("priority_seconds", priority_seconds)?,
            target("standard_seconds", standard_seconds)?,
        ];
        if !start_targets.is_sorted() {
            return Err(targets("standard_seconds: a lower tier cannot have to start sooner than a higher one".into()));
        }
        let unknown = within("unknown_seconds", file.unknown_seconds.value, 1..=SECONDS_MAX)
            .map_err(at(place(&file.unknown_seconds), ""))?;
        let wrong = at(place(&file.inline), "inline.");
        let InlineEntry { expected_seconds, reserve_seconds, memory_mib } = file.inline.value;
        let inline_expected = within("expected_seconds", expected_seconds, 0..=FUNCTION_TIME.as_secs());
        let inline_expected = inline_expected.map_err(&wrong)?;
        let inline_reserve = within("reserve_seconds", reserve_seconds, 0..=60).map_err(&wrong)?;
        let inline_memory_mib = memory(memory_mib, 10_240).map_err(&wrong)?;
        let wrong = at(place(&file.function), "function.");
        let FunctionEntry { limit_seconds, memory_mib, start_ms, image_start_ms } = file.function.value;
        let function_time = within("limit_seconds", limit_seconds, 1..=FUNCTION_TIME.as_secs()).map_err(&wrong)?;
        let function_memory_mib = memory(memory_mib, 10_240).map_err(&wrong)?;
        let function_start = within("start_ms", start_ms, 0..=SECONDS_MAX * 1000).map_err(&wrong)?;
        let function_image_start = within("image_start_ms", image_start_ms, 0..=SECONDS_MAX * 1000).map_err(&wrong)?;
        let wrong = at(place(&file.fargate), "fargate.");
        let FargateEntry { memory_mib, start_seconds, billed_start_seconds } = file.fargate.value;
        let fargate_memory_mib = memory(memory_mib, 122_880).map_err(&wrong)?;
        let fargate_start = within("start_seconds", start_seconds, 0..=SECONDS_MAX).map_err(&wrong)?;
        let fargate_billed = within("billed_start_seconds", billed_start_seconds, 0..=fargate_start).map_err(&wrong)?;
        let mut pools: Vec<Pool> = Vec::with_capacity(file.pools.len().min(POOLS));
        for entry in file.pools {
            let place = place(&entry);
            let wrong = at(place, &format!("pool `{}`: ", one_line(&entry.value.name, 40)));
            let pool = entry.value.into_pool(&instances).map_err(&wrong)?;
            if pools.iter().any(|other| other.name == pool.name) {
                return Err(wrong("is listed twice".to_owned()));
            }
            if pools.len() == POOLS {
                return Err(at(place, "")(format!("pools: expected at most {POOLS}")));
            }
            pools.push(pool);
        }
        // By name: the order in the file decides nothing.
        pools.sort_by_key(|pool| pool.name);
        let ageing = match file.ageing_seconds {
            None => None,
            Some(after) => Some(within("ageing_seconds", after.value, 1..=SECONDS_MAX).map_err(at(place(&after), ""))?),
        };
        let quotas = match file.quotas {
            None => Quotas::default(),
            Some(entry) => {
                let wrong = at(place(&entry), "quotas.");
                entry.value.into_quotas().map_err(wrong)?
            }
        };
        let limits = Limits {
            start_targets: start_targets.map(Duration::from_secs),
            unknown: Duration::from_secs(unknown),
            images: Images::All,
            inline_expected: Duration::from_secs(inline_expected),
            inline_reserve: Duration::from_secs(inline_reserve),
            inline_memory_mib,
            function_time: Duration::from_secs(function_time),
            function_memory_mib,
            function_start: Duration::from_millis(function_start),
            function_image_start: Duration::from_millis(function_image_start),
            fargate_memory_mib,
            fargate_start: Duration::from_secs(fargate_start),
            fargate_billed_start: Duration::from_secs(fargate_billed),
            pools,
            prices,
        };
        Ok(Self { limits, quotas, ageing: ageing.map(Duration::from_secs) })
    }
}

impl QuotasEntry {
    fn into_quotas(self) -> Result<Quotas, String> {
        if let Some(own) = self.callers.keys().find(|name| RESERVED_CALLERS.contains(&name.as_str())) {
            return Err(format!("callers.{own}: the yard itself submits under that name, and is never refused"));
        }
        let every = self.every.into_quota().map_err(|what| format!("every.{what}"))?;
        let named = |(name, entry): (String, QuotaEntry)| match entry.into_quota() {
            Ok(quota) => Ok((name, quota)),
            Err(what) => Err(format!("callers.{}.{what}", one_line(&name, 64))),
        };
        Ok(Quotas { every, callers: self.callers.into_iter().map(named).collect::<Result<_, String>>()? })
    }
}

impl QuotaEntry {
    fn into_quota(self) -> Result<Quota, String> {
        let number = |field: &str, value: u64| {
            let most = u64::from(u32::MAX);
            within(field, value, 1..=most).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
        };
        let rate = match (self.jobs_per_minute, self.burst) {
            (None, None) => None,
            (None, Some(_)) => return Err("burst: goes with jobs_per_minute".to_owned()),
            (Some(jobs), burst) => {
                let jobs_per_minute = number("jobs_per_minute", jobs)?;
                Some(Rate {
                    jobs_per_minute,
                    burst: burst.map_or(Ok(jobs_per_minute), |burst| number("burst", burst))?,
                })
            }
        };
        let open_jobs = self.open_jobs.map(|jobs| within("open_jobs", jobs, 1..=u64::from(u32::MAX))).transpose()?;
        Ok(Quota { rate, open_jobs })
    }
}

/// Reads the file, and names a value of a wrong kind by its field: the library knows where it stands only.
fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, PolicyError> {
    read_yaml(file, text).map_err(|error| {
        let kind = match error.message.as_str() {
            "invalid u64" => "expected a whole number, not below zero",
            "invalid floating point" => "expected a number",
            "invalid boolean" => "expected true or false",
            _ => return error,
        };
        let (line, column) = (usize::try_from(error.line), usize::try_from(error.column));
        let line = text.lines().nth(line.unwrap_or(0).saturating_sub(1)).unwrap_or_default();
        let before = line.get(..column.unwrap_or(0).saturating_sub(1)).unwrap_or_default();
        let field = before.trim_end().trim_end_matches(':').rsplit([' ', '{', ',']).next().unwrap_or_default();
        PolicyError { message: format!("{}: {kind}", one_line(field, 40)), ..error }
    })
}

fn place<T>(spanned: &Spanned<T>) -> (u64, u64) {
    (spanned.defined.line(), spanned.defined.column())
}

fn within(field: &str, value: u64, may_be: RangeInclusive<u64>) -> Result<u64, String> {
    if may_be.contains(&value) {
        return Ok(value);
    }
    Err(format!("{field}: expected {} to {}", may_be.start(), may_be.end()))
}

fn memory(mib: u64, most: u64) -> Result<u32, String> {
    within("memory_mib", mib, 128..=most).map(|mib| u32::try_from(mib).unwrap_or(u32::MAX))
}

impl PoolEntry {
    fn into_pool(self, instances: &Instances) -> Result<Pool, String> {
        let name: PoolName = self.name.parse().map_err(|error| format!("name: {error}"))?;
        if Venue::ALL.iter().any(|venue| venue.as_str() == name.as_str()) {
            return Err("name: is a venue's, and a pin could not tell them apart".to_owned());
        }
        let hourly = instances.get(&self.instance).ok_or_else(|| {
            let known: Vec<&str> = instances.keys().map(String::as_str).collect();
            let instance = one_line(&self.instance, 40);
            format!("instance: `{instance}` has no price; priced are: {}", known.join(", "))
        })?;
        let percent = within("on_demand_percent", self.on_demand_percent, 0..=100)?;
        if !(0.1..=1024.0).contains(&self.vcpu) {
            return Err("vcpu: expected 0.1 to 1024".to_owned());
        }
        let boot = within("boot_seconds", self.boot_seconds, 0..=SECONDS_MAX)?;
        let pool = Pool {
            name,
            // What may meet an instance that is taken away counts as one that is.
            spot: percent < 100,
            static_address: self.static_address,
            docker: self.docker,
            memory_mib: memory(self.memory_mib, MEMORY_MAX_MIB)?,
            // In the range above every value is far from where a double's steps or the cast would show.
            milli_vcpu: (self.vcpu * 1000.0).round() as u32,
            start: Duration::from_millis(within("start_ms", self.start_ms, 0..=SECONDS_MAX * 1000)?),
            boot: Duration::from_secs(boot),
            boot_billed: Duration::from_secs(within("billed_boot_seconds", self.billed_boot_seconds, 0..=boot)?),
            idle: Duration::from_secs(within("idle_seconds", self.idle_seconds, 0..=SECONDS_MAX)?),
            hour_nanodollars: 0,
            vcpu_hour_nanodollars: 0,
            gib_hour_nanodollars: 0,
            scaling: self.scaling.into_scaling().map_err(|what| format!("scaling.{what}"))?,
        };
        Ok(pool.priced((hourly.on_demand * percent + hourly.spot * (100 - percent)) / 100))
    }
}

impl ScalingEntry {
    fn into_scaling(self) -> Result<Scaling, String> {
        let Scaling { policy, backlog, run, slots } = Scaling::default();
        let policy = match self.policy.as_deref() {
            None => policy,
            Some("backlog") => Policy::Backlog,
            Some("steps") => Policy::Steps,
            Some(_) => return Err("policy: expected backlog or steps".to_owned()),
        };
        let seconds = |field: &str, value: Option<u64>, otherwise: Duration| match value {
            None => Ok(otherwise),
            Some(value) => within(field, value, 1..=SECONDS_MAX).map(Duration::from_secs),
        };
        Ok(Scaling {
            policy,
            backlog: seconds("backlog_seconds", self.backlog_seconds, backlog)?,
            run: seconds("run_seconds", self.run_seconds, run)?,
            slots: match self.slots {
                None => slots,
                Some(value) => u32::try_from(within("slots", value, 1..=SLOTS_MAX)?).unwrap_or(slots),
            },
        })
    }
}

fn read_prices(file: &str, text: &str) -> Result<(Prices, Instances), PolicyError> {
    let parsed: PricesFile = read(file, text)?;
    check_version(file, parsed.version)?;
    let at = |(line, column): (u64, u64), message: String| PolicyError { file: file.to_owned(), line, column, message };
    if parsed.currency.value != "USD" {
        return Err(at(place(&parsed.currency), "currency: expected USD; AWS's price lists are in it".to_owned()));
    }
    let region = &parsed.region.value;
    let named_well = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(1..=40).contains(&region.len()) || !region.chars().all(named_well) {
        return Err(at(place(&parsed.region), "region: expected a region's name, such as us-east-1".to_owned()));
    }
    if parsed.as_of.value.parse::<jiff::civil::Date>().is_err() || parsed.as_of.value.len() != "2026-01-31".len() {
        return Err(at(place(&parsed.as_of), "as_of: expected a date, such as 2026-01-31".to_owned()));
    }
    if parsed.source.value.trim().is_empty() {
        return Err(at(place(&parsed.source), "source: expected where the prices are from".to_owned()));
    }
    let section = place(&parsed.function);
    let function = |field: &str, dollars: f64, decimals: u32| {
        price(dollars, decimals).map_err(|what| at(section, format!("function.{field}: {what}")))
    };
    let section = place(&parsed.fargate);
    let fargate = |field: &str, dollars: f64| {
        price(dollars, NANO).map_err(|what| at(section, format!("fargate.{field}: {what}")))
    };
    let prices = Prices {
        region: region.clone(),
        as_of: parsed.as_of.value.clone(),
        function_request_nanodollars: function("request", parsed.function.value.request, NANO)?,
        function_gib_second_picodollars: function("gib_second", parsed.function.value.gib_second, PICO)?,
        fargate_vcpu_hour_nanodollars: fargate("vcpu_hour", parsed.fargate.value.vcpu_hour)?,
        fargate_gib_hour_nanodollars: fargate("gib_hour", parsed.fargate.value.gib_hour)?,
    };
    let mut instances = Instances::new();
    for entry in &parsed.instances {
        let InstanceEntry { r#type, on_demand_hour, spot_hour } = &entry.value;
        let shown = one_line(r#type, 40);
        let wrong = |what: String| at(place(entry), format!("instance `{shown}`: {what}"));
        if !(1..=40).contains(&r#type.len()) || !r#type.chars().all(|c| named_well(c) || c == '.') {
            return Err(wrong("type: expected a type such as m6i.large".to_owned()));
        }
        let price = |field: &str, dollars: f64| price(dollars, NANO).map_err(|what| wrong(format!("{field}: {what}")));
        let hourly =
            Hourly { on_demand: price("on_demand_hour", *on_demand_hour)?, spot: price("spot_hour", *spot_hour)? };
        if instances.insert(r#type.clone(), hourly).is_some() {
            return Err(wrong("is listed twice".to_owned()));
        }
    }
    Ok((prices, instances))
}

/// Decimals of a nano-dollar and of a pico-dollar.
const NANO: u32 = 9;
const PICO: u32 = 12;

/// Dollars as a whole number of their `decimals`-th part, exactly as they were written.
///
/// A number of at most 15 digits is the same again when a double is printed with as few digits as tell it apart (IEEE
/// 754 doubles keep 15), so its text is what stood in the file, and the text is taken apart.
fn price(dollars: f64, decimals: u32) -> Result<u64, String> {
    let expected = || format!("expected dollars from 0 to {DOLLARS_MAX} with at most {decimals} decimals");
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
            assert_eq!(price(dollars, decimals), Ok(expected), "{dollars}");
        }
        for bad in [-0.1, 1000.1, 0.000_000_000_1, f64::NAN, f64::INFINITY] {
            assert!(price(bad, NANO).is_err(), "{bad}");
        }
    }
}
