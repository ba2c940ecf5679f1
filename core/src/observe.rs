//! What runs show of their needs: seconds and memory of each capability at the 95th percentile.
//!
//! Kept in memory, and by a home beside its records; nothing a job waits for. What is observed is suggested, or with
//! `learn: on` raises what is declared. It never lowers it: a run that needed less says nothing about the next.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use serde::{Deserialize, Serialize};

use crate::catalog::Capability;
use crate::ports::Usage;
use crate::route::{Limits, Needs};

/// Capabilities that are observed; of more the first so many. Each takes 1.6 KiB.
pub const CAPABILITIES: usize = 1000;
/// Runs before anything is suggested or learnt: of fewer, the 95th percentile is the largest.
pub const RUNS_LEAST: u64 = 20;
/// Runs after which all counts are halved, so that what a capability did long ago fades.
const RUNS_MOST: u64 = 10_000;

/// Sub-buckets of each power of two, as a power of two: eight.
const SUB_BITS: u32 = 3;
/// Values from here on count as the largest: 2^27 ms are 37 h, and 2^27 MiB 128 TiB.
const VALUE_BITS: u32 = 27;
const BUCKETS: usize = ((VALUE_BITS - SUB_BITS + 1) << SUB_BITS) as usize;

/// How often which values came: log-linear buckets, eight to each power of two. A value is answered as the largest of
/// its bucket: never less than it was, and at most an eighth more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS) - 1);
    let exponent = value.checked_ilog2().unwrap_or(0);
    let index = match exponent.checked_sub(SUB_BITS) {
        None => value,
        Some(shift) => (u64::from(shift) << SUB_BITS) + (value >> shift),
    };
    usize::try_from(index).unwrap_or(BUCKETS - 1)
}

/// The largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match (bucket >> SUB_BITS).checked_sub(1) {
        None => bucket,
        Some(shift) => (((1 << SUB_BITS) + (bucket & ((1 << SUB_BITS) - 1)) + 1) << shift) - 1,
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        if self.total() >= RUNS_MOST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        self.counts[bucket(value)] += 1;
    }

    /// How many values are counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The value that 95 of 100 do not exceed, an eighth too large at most; `None` without values.
    pub fn p95(&self) -> Option<u64> {
        let rank = (self.total() * 95).div_ceil(100);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank && seen > 0
        });
        found.map(largest)
    }

    fn pairs(&self) -> Vec<(usize, u32)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect()
    }

    fn of_pairs(pairs: &[(usize, u32)]) -> Option<Self> {
        let mut histogram = Self::default();
        for (bucket, count) in pairs {
            *histogram.counts.get_mut(*bucket)? = *count;
        }
        Some(histogram)
    }
}

/// What the runs of one capability showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// How long they took, in milliseconds.
    pub millis: Histogram,
    /// The most memory they had, in MiB, of those that lived long enough to be asked.
    pub memory_mib: Histogram,
}

/// As it is stored: the buckets that are not empty, each with its count.
#[derive(Serialize, Deserialize)]
struct ObservedWire {
    v: u32,
    ms: Vec<(usize, u32)>,
    mib: Vec<(usize, u32)>,
}

impl Observed {
    /// As a home stores it.
    pub fn encode(&self) -> String {
        let wire = ObservedWire { v: 1, ms: self.millis.pairs(), mib: self.memory_mib.pairs() };
        serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("counts are always JSON: {error}"))
    }

    /// What [`Observed::encode`] made; `None` for anything else. It can be observed anew.
    pub fn decode(text: &str) -> Option<Self> {
        let ObservedWire { v, ms, mib } = serde_json::from_str(text).ok()?;
        (v == 1).then_some(())?;
        Some(Self { millis: Histogram::of_pairs(&ms)?, memory_mib: Histogram::of_pairs(&mib)? })
    }

    /// The 95th percentile of how long runs take, in whole seconds, once there are enough of them.
    pub fn seconds(&self) -> Option<u64> {
        if self.millis.total() < RUNS_LEAST {
            return None;
        }
        self.millis.p95().map(|millis| millis.div_ceil(1000))
    }

    /// The 95th percentile of the memory they had, once there are enough of them.
    pub fn memory_mib(&self) -> Option<u32> {
        if self.memory_mib.total() < RUNS_LEAST {
            return None;
        }
        self.memory_mib.p95().and_then(|mib| u32::try_from(mib).ok())
    }

    /// The declared needs, raised to what was observed where that is more.
    pub fn raised(&self, declared: &Needs, limits: &Limits) -> Needs {
        let seconds = self.seconds().map(Duration::from_secs);
        // While nobody knows the duration it counts as something: only more than that is news.
        let counts_as = declared.expected.unwrap_or(limits.unknown);
        Needs {
            expected: if seconds > Some(counts_as) { seconds } else { declared.expected },
            memory_mib: declared.memory_mib.max(self.memory_mib().unwrap_or(0)),
            ..declared.clone()
        }
    }

    /// As the API shows it beside what is declared.
    pub fn view(&self, declared: &Needs, limits: &Limits) -> ObservedView {
        let raised = self.raised(declared, limits);
        let mut suggests = Vec::new();
        if let (true, Some(expected)) = (raised.expected != declared.expected, raised.expected) {
            suggests.push(format!("expected_seconds: {}", expected.as_secs()));
        }
        if raised.memory_mib != declared.memory_mib {
            suggests.push(format!("memory_mib: {}", raised.memory_mib));
        }
        ObservedView {
            runs: self.millis.total(),
            p95_seconds: self.seconds(),
            p95_memory_mib: self.memory_mib(),
            suggests: (!suggests.is_empty()).then(|| suggests.join(", ")),
        }
    }
}

/// What the runs of a capability showed, as the API has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObservedView {
    /// How many runs are counted.
    pub runs: u64,
    /// 95 of 100 take no longer; once there are enough runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_seconds: Option<u64>,
    /// 95 of 100 have no more memory; once there are enough runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_memory_mib: Option<u32>,
    /// What to write into the catalog, where it declares less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggests: Option<String>,
}

/// What every capability's runs showed. One mutex: it is held for the time it takes to count.
#[derive(Debug, Default)]
pub struct Observations {
    kept: Mutex<BTreeMap<String, (Observed, bool)>>,
    changed: Event,
}

impl Observations {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, (Observed, bool)>> {
        // A panic in between leaves counts, of which one may be missing.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a run that succeeded. One that did not says little about what the next needs.
    pub fn note(&self, capability: &str, took: Duration, usage: Usage) {
        let mut kept = self.kept();
        if !kept.contains_key(capability) {
            if kept.len() >= CAPABILITIES {
                return;
            }
            kept.insert(capability.to_owned(), Default::default());
        }
        if let Some((observed, dirty)) = kept.get_mut(capability) {
            observed.millis.add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            if let Some(mib) = usage.max_rss_mib {
                observed.memory_mib.add(u64::from(mib));
            }
            *dirty = true;
        }
        drop(kept);
        self.changed.notify(usize::MAX);
    }

    /// What was stored by an earlier process.
    pub fn load(&self, capability: String, observed: Observed) {
        let mut kept = self.kept();
        if kept.len() < CAPABILITIES {
            kept.insert(capability, (observed, false));
        }
    }

    /// What a capability's runs showed; `None` when none was counted.
    pub fn of(&self, capability: &str) -> Option<Observed> {
        self.kept().get(capability).map(|(observed, _)| observed.clone())
    }

    /// What a capability's jobs need by its `learn`: the declared needs, or these raised to what was observed.
    pub fn needs(&self, capability: &Capability, limits: &Limits) -> Needs {
        match capability.learn {
            crate::catalog::Learn::Off | crate::catalog::Learn::Suggest => capability.needs.clone(),
            crate::catalog::Learn::On => self
                .of(&capability.name)
                .map_or_else(|| capability.needs.clone(), |observed| observed.raised(&capability.needs, limits)),
        }
    }

    /// What changed since it was asked last, as a home stores it.
    pub fn take_changed(&self) -> Vec<(String, String)> {
        let mut kept = self.kept();
        let changed = kept.iter_mut().filter(|(_, (_, dirty))| *dirty).map(|(name, (observed, dirty))| {
            *dirty = false;
            (name.clone(), observed.encode())
        });
        changed.collect()
    }

    /// Hears of the next run that is counted.
    pub fn changes(&self) -> EventListener {
        self.changed.listen()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::Venue;

    fn observed(runs: u64, took: Duration, mib: u32) -> Observed {
        let observations = Observations::default();
        for _ in 0..runs {
            observations.note("c", took, Usage { max_rss_mib: Some(mib), ..Usage::default() });
        }
        observations.of("c").unwrap()
    }

    proptest! {
        #[test]
        fn the_answer_is_never_too_small_and_at_most_an_eighth_too_large(mut values in proptest::collection::vec(0_u64..1 << 27, 1..300)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let exact = values[(values.len() * 95).div_ceil(100) - 1];
            let answered = histogram.p95().unwrap();
            prop_assert!(answered >= exact && answered <= exact + exact / 8, "{exact} {answered}");
        }

        #[test]
        fn what_is_stored_is_read_back(values in proptest::collection::vec(any::<u64>(), 0..100)) {
            let mut observed = Observed::default();
            for value in values {
                observed.millis.add(value);
                observed.memory_mib.add(value / 3);
            }
            prop_assert_eq!(Observed::decode(&observed.encode()), Some(observed));
        }

        #[test]
        fn needs_are_raised_and_never_lowered(seconds in 0_u64..5000, mib in 0_u32..20_000, expected in proptest::option::of(0_u64..5000), memory_mib in 1_u32..20_000) {
            let declared = Needs {
                expected: expected.map(Duration::from_secs), memory_mib,
                ..crate::testing::a_job(Venue::Fleet).work.needs
            };
            let raised = observed(30, Duration::from_secs(seconds), mib).raised(&declared, &Limits::default());
            prop_assert!(raised.memory_mib >= declared.memory_mib && raised.memory_mib >= mib);
            prop_assert!(raised.expected >= declared.expected);
            prop_assert!(expected.is_none() || raised.expected >= Some(Duration::from_secs(seconds)));
            prop_assert_eq!(Needs { expected: declared.expected, memory_mib, ..raised }, declared);
        }
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for index in 0..BUCKETS {
            assert_eq!(bucket(largest(index)), index);
            assert_eq!(bucket(largest(index) + 1), (index + 1).min(BUCKETS - 1));
        }
    }

    #[test]
    fn what_was_long_ago_fades() {
        let mut histogram = Histogram::default();
        (0..RUNS_MOST).for_each(|_| histogram.add(1000));
        (0..RUNS_MOST * 5).for_each(|_| histogram.add(8));
        assert_eq!(histogram.p95(), Some(8));
        assert!(histogram.total() <= RUNS_MOST);
    }

    #[test]
    fn few_runs_say_nothing_and_enough_of_them_suggest() {
        let declared = crate::testing::a_job(Venue::Fleet).work.needs;
        let limits = Limits::default();
        let few = observed(RUNS_LEAST - 1, Duration::from_secs(300), 2000);
        assert_eq!(few.raised(&declared, &limits), declared);
        assert_eq!(few.view(&declared, &limits).suggests, None);
        let many = observed(RUNS_LEAST, Duration::from_secs(300), 2000);
        let view = many.view(&declared, &limits);
        assert_eq!((view.runs, view.p95_seconds, view.p95_memory_mib), (RUNS_LEAST, Some(328), Some(2047)));
        assert_eq!(view.suggests.as_deref(), Some("expected_seconds: 328, memory_mib: 2047"));
        // Less than what an unknown duration counts as is no news.
        let short = observed(RUNS_LEAST, Duration::from_secs(3), 1);
        assert_eq!(short.view(&declared, &limits).suggests, None);
    }

    #[test]
    fn capabilities_are_bounded_and_changes_are_told_once() {
        let observations = Observations::default();
        for nth in 0..=CAPABILITIES {
            observations.note(&format!("c{nth}"), Duration::ZERO, Usage::default());
        }
        assert_eq!(observations.take_changed().len(), CAPABILITIES);
        assert_eq!(observations.take_changed(), []);
        observations.note("c3", Duration::ZERO, Usage::default());
        assert_eq!(observations.take_changed().len(), 1);
    }
}
