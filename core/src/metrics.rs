//! What is counted of a yard, defined once and written in two formats: Prometheus' text exposition and CloudWatch's
//! embedded metric format.
//!
//! Nothing is decided by a number of these, and no timer moves one: counters move where things happen, and how much
//! stands where is asked of the ledger when somebody reads the metrics.

mod emf;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

pub use self::emf::{DIMENSIONS_MOST, METRICS_MOST, NAMESPACE, emf};
use crate::job::{Phase, Tier};
use crate::lend::{Kind, LoanOutcome};
use crate::ports::{Depths, Kicked, Worker};
use crate::reap::Counts;
use crate::records::Code;
use crate::route::{PoolName, Venue};
use crate::scale::Verdict;
use crate::schedule::TickCounts;
use crate::sweep::{Swept, Tally};

/// The media type of [`text`]'s format.
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a doorbell that is answered at once to a job that waits for an hour, in seconds.
const WAITS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
/// From a built-in to a night's work, in seconds; 900 is a function's limit.
const RUNS: &[f64] = &[0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0];
/// From a look at a record to an answer that was held back as long as one may be, in seconds.
const REQUESTS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0];

/// The counters and histograms of one yard, in a registry of its own.
pub struct Meters {
    registry: Registry,
    accepted: IntCounterVec,
    repeated: IntCounter,
    refused: IntCounterVec,
    settled: IntCounterVec,
    runs: IntCounterVec,
    attempts_failed: IntCounterVec,
    retries: IntCounterVec,
    interruptions: IntCounterVec,
    losses: IntCounterVec,
    launch_failures: IntCounterVec,
    reaped: IntCounterVec,
    swept: IntCounterVec,
    events: IntCounterVec,
    findings: IntCounter,
    ticks: IntCounterVec,
    output_dropped: IntCounter,
    scaled: IntCounterVec,
    instances: IntCounterVec,
    kicks: IntCounterVec,
    loans: IntCounterVec,
    records: IntCounterVec,
    records_parked: IntCounterVec,
    requests: IntCounterVec,
    waited: HistogramVec,
    ran: HistogramVec,
    answered: HistogramVec,
}

/// Puts metrics into a registry. Each name is written once below, so nothing that this refuses can happen.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn put<M: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let put = made.and_then(|metric| self.0.register(Box::new(metric.clone())).map(|()| metric));
        put.unwrap_or_else(|error| unreachable!("a metric is defined wrongly: {error}"))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.put(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.put(IntCounter::new(name, help))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.put(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.put(GaugeVec::new(Opts::new(name, help), labels))
    }
}

impl Default for Meters {
    fn default() -> Self {
        let registry = Registry::new();
        let make = Make(&registry);
        Self {
            accepted: make.counters("switchyard_jobs_accepted_total", "Jobs accepted.", &["tier", "venue"]),
            repeated: make
                .counter("switchyard_jobs_repeated_total", "Submissions that led to a job which was accepted before."),
            refused: make.counters(
                "switchyard_refused_total",
                "Requests answered with a problem, and submissions of a batch refused, by the problem's code.",
                &["code"],
            ),
            settled: make.counters("switchyard_jobs_settled_total", "Jobs that ended.", &["capability", "state"]),
            runs: make.counters("switchyard_runs_total", "Runs that ended.", &["capability", "venue", "outcome"]),
            attempts_failed: make.counters(
                "switchyard_attempts_failed_total",
                "Attempts that failed, and were spent.",
                &["capability"],
            ),
            retries: make.counters(
                "switchyard_retries_total",
                "Jobs sent on after a failed attempt, by the rules, or again after their end, by hand.",
                &["by"],
            ),
            interruptions: make.counters(
                "switchyard_interruptions_total",
                "Runs that their holder gave back.",
                &["venue"],
            ),
            losses: make.counters("switchyard_losses_total", "Runs whose holder was lost without notice.", &["venue"]),
            launch_failures: make.counters("switchyard_launch_failures_total", "Launches that failed.", &["venue"]),
            reaped: make.counters(
                "switchyard_reaper_jobs_total",
                "Jobs that the night watch looked at, by what it did.",
                &["did"],
            ),
            swept: make.counters(
                "switchyard_swept_total",
                "Workers, machines and tasks that the sweep looked at and found wrong, by what it did.",
                &["what", "did"],
            ),
            events: make.counters("switchyard_events_total", "Events delivered, by how they were read.", &["reading"]),
            findings: make.counter("switchyard_findings_total", "Jobs that findings led to, new or known."),
            ticks: make.counters("switchyard_ticks_total", "Ticks of schedules, by what became of them.", &["became"]),
            output_dropped: make.counter(
                "switchyard_output_dropped_bytes_total",
                "Output of runs that was over its limit and not kept.",
            ),
            scaled: make.counters(
                "switchyard_scaling_rounds_total",
                "Looks at the size of a pool, by what they came to.",
                &["pool", "reason"],
            ),
            instances: make.counters(
                "switchyard_instances_asked_total",
                "Instances that pools were asked to grow by.",
                &["pool"],
            ),
            kicks: make.counters(
                "switchyard_kicks_total",
                "Doorbells that rang where nobody works, by what was done about it.",
                &["became"],
            ),
            loans: make.counters(
                "switchyard_loans_total",
                "Requests for credentials, and credentials given back, by what became of them.",
                &["kind", "became"],
            ),
            records: make.counters(
                "switchyard_records_total",
                "Lines that runs emitted and that were judged, by what became of them.",
                &["became"],
            ),
            records_parked: make.counters(
                "switchyard_records_parked_total",
                "Lines that runs emitted and that are no records, by the reason's code.",
                &["code"],
            ),
            requests: make.counters(
                "switchyard_http_requests_total",
                "Requests answered, by the route's template and the status's class.",
                &["method", "route", "status"],
            ),
            waited: make.histograms(
                "switchyard_queue_wait_seconds",
                "From when a job could start to its claim.",
                &["tier"],
                WAITS,
            ),
            ran: make.histograms("switchyard_run_duration_seconds", "From a claim to its run's end.", &["venue"], RUNS),
            answered: make.histograms(
                "switchyard_http_request_duration_seconds",
                "From a request to its answer, also where that was held back for it.",
                &["route"],
                REQUESTS,
            ),
            registry,
        }
    }
}

impl Meters {
    /// What became of submissions at the door.
    pub(crate) fn taken(&self, tier: Tier, venue: Venue, fresh: bool) {
        if fresh {
            self.accepted.with_label_values(&[tier.as_str(), venue.as_str()]).inc();
        } else {
            self.repeated.inc();
        }
    }

    /// What became of a request for a credential.
    pub(crate) fn loan(&self, kind: Kind, outcome: &LoanOutcome) {
        let became = match outcome {
            LoanOutcome::Refused(refused) => refused.code.as_str(),
            LoanOutcome::Lent { .. } | LoanOutcome::Returned { .. } => outcome.as_str(),
        };
        self.loans.with_label_values(&[kind.as_str(), became]).inc();
    }

    /// Something was refused with the code of this problem.
    pub fn refused(&self, code: &str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// A request was answered. `route` is the template of its path, never the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let class = match status {
            0..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.with_label_values(&[method, route, class]).inc();
        self.answered.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// An event was delivered, read so, and led to so many jobs.
    pub fn event(&self, reading: &str, jobs: usize) {
        self.events.with_label_values(&[reading]).inc();
        self.findings.inc_by(jobs as u64);
    }

    /// A claim was won by a job that had waited so long.
    pub(crate) fn claimed(&self, tier: Tier, waited: Duration) {
        self.waited.with_label_values(&[tier.as_str()]).observe(waited.as_secs_f64());
    }

    /// A run ended.
    pub(crate) fn ran(&self, capability: &str, venue: Venue, outcome: &str, took: Duration) {
        self.runs.with_label_values(&[capability, venue.as_str(), outcome]).inc();
        self.ran.with_label_values(&[venue.as_str()]).observe(took.as_secs_f64());
        match outcome {
            "interrupted" => self.interruptions.with_label_values(&[venue.as_str()]).inc(),
            "lost" => self.losses.with_label_values(&[venue.as_str()]).inc(),
            _ => {}
        }
    }

    /// Output of a run was not kept.
    pub(crate) fn output_dropped(&self, bytes: u64) {
        self.output_dropped.inc_by(bytes);
    }

    /// An attempt was spent.
    pub(crate) fn attempt_failed(&self, capability: &str) {
        self.attempts_failed.with_label_values(&[capability]).inc();
    }

    /// A job goes on after a failed attempt, or after its end.
    pub(crate) fn retried(&self, by_hand: bool) {
        self.retries.with_label_values(&[if by_hand { "hand" } else { "rule" }]).inc();
    }

    /// A launch failed.
    pub(crate) fn launch_failed(&self, venue: Venue) {
        self.launch_failures.with_label_values(&[venue.as_str()]).inc();
    }

    /// A job ended.
    pub(crate) fn settled(&self, capability: &str, state: Phase) {
        self.settled.with_label_values(&[capability, state.as_str()]).inc();
    }

    /// A bell rang where nobody works; `None`: whoever sizes the pool could not be told.
    pub(crate) fn kicked(&self, kicked: Option<Kicked>) {
        let became = match kicked {
            Some(Kicked::Sent) => "sent",
            Some(Kicked::Lately) => "lately",
            None => "failed",
        };
        self.kicks.with_label_values(&[became]).inc();
    }

    /// The size of a pool was looked at, and where it is to grow, it was asked to.
    pub fn scaled(&self, pool: PoolName, verdict: &Verdict) {
        self.scaled.with_label_values(&[pool.as_str(), verdict.reason.as_str()]).inc();
        if let Some(to) = verdict.grow_to {
            let more = to.saturating_sub(verdict.desired);
            self.instances.with_label_values(&[pool.as_str()]).inc_by(u64::from(more));
        }
    }

    /// Emitted lines were judged: so many are kept now, were kept before, must come again.
    pub(crate) fn records(&self, stored: u64, known: u64, failed: u64) {
        for (became, n) in [("stored", stored), ("known", known), ("failed", failed)] {
            // What never happens is not shown.
            if n > 0 {
                self.records.with_label_values(&[became]).inc_by(n);
            }
        }
    }

    /// Something that is no record is parked.
    pub fn record_parked(&self, code: Code) {
        self.records.with_label_values(&["parked"]).inc();
        self.records_parked.with_label_values(&[code.as_str()]).inc();
    }

    /// A round of the night watch.
    pub(crate) fn reaped(&self, counts: &Counts) {
        let Counts { found: _, done, already_done, errors, forgotten, admitted } = *counts;
        for (did, n) in [
            ("changed", done),
            ("left", already_done),
            ("failed", errors),
            ("forgotten", forgotten),
            ("admitted", admitted),
        ] {
            self.reaped.with_label_values(&[did]).inc_by(n);
        }
    }

    /// A round of the sweep.
    pub(crate) fn swept(&self, swept: &Swept) {
        for (what, tally) in swept.kinds() {
            let Tally { found: _, marked, unmarked, done, already_done, errors } = tally;
            for (did, n) in [
                ("marked", marked),
                ("unmarked", unmarked),
                ("ended", done),
                ("gone", already_done),
                ("failed", errors),
            ] {
                self.swept.with_label_values(&[what, did]).inc_by(n);
            }
        }
    }

    /// A round of the clock.
    pub(crate) fn ticked(&self, counts: &TickCounts) {
        let TickCounts { submitted, repeated, missed, overlapping, refused, errors: _, next: _ } = *counts;
        for (became, n) in [
            ("submitted", submitted),
            ("repeated", repeated),
            ("missed", missed),
            ("overlapping", overlapping),
            ("refused", refused),
        ] {
            self.ticks.with_label_values(&[became]).inc_by(n);
        }
    }

    /// All of it, with how much stands where at this moment: in the order of their names.
    pub fn gather(&self, depths: &Depths, workers: &[Worker], now: Timestamp) -> Vec<MetricFamily> {
        let standing = Registry::new();
        stand(&Make(&standing), depths, workers, now);
        let mut families = self.registry.gather();
        families.extend(standing.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        families
    }
}

/// Counts as a gauge holds them: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a double in every format there is")]
fn gauge(count: u64) -> f64 {
    count as f64
}

/// What stands where, read off the ledger and the roster.
fn stand(make: &Make<'_>, depths: &Depths, workers: &[Worker], now: Timestamp) {
    let open = make.gauges("switchyard_jobs", "Jobs that have not ended.", &["state"]);
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.is_settled()) {
        let count = depths.open.iter().find(|(open, _)| *open == phase).map_or(0, |(_, count)| *count);
        open.with_label_values(&[phase.as_str()]).set(gauge(count));
    }
    let waiting = make.gauges("switchyard_jobs_waiting", "Jobs that wait for a worker of the fleet.", &["tier"]);
    let held = make.gauges("switchyard_jobs_held", "Jobs that a brake holds back.", &["tier"]);
    let oldest = make.gauges(
        "switchyard_oldest_wait_seconds",
        "For how long the oldest job of the tier has waited or been held.",
        &["tier"],
    );
    for tier in Tier::ALL {
        let depth = depths.tiers.iter().find(|depth| depth.tier == tier);
        let age = depth.map_or(0.0, |depth| now.duration_since(depth.oldest).as_secs_f64().max(0.0));
        waiting.with_label_values(&[tier.as_str()]).set(gauge(depth.map_or(0, |depth| depth.waiting)));
        held.with_label_values(&[tier.as_str()]).set(gauge(depth.map_or(0, |depth| depth.held)));
        oldest.with_label_values(&[tier.as_str()]).set(age);
    }
    let count = make.gauges("switchyard_workers", "Workers that are known.", &["pool"]);
    let slots = make.gauges("switchyard_slots", "Jobs that the workers can run at once.", &["pool"]);
    let free = make.gauges("switchyard_slots_free", "Of those, how many they could take now.", &["pool"]);
    for worker in workers {
        let pool = worker.pool.to_string();
        count.with_label_values(&[&pool]).inc();
        slots.with_label_values(&[&pool]).add(f64::from(worker.capacity.slots));
        let takes = if worker.leaving { 0 } else { worker.free.slots };
        free.with_label_values(&[&pool]).add(f64::from(takes));
    }
    let build = make.gauges("switchyard_build_info", "What runs; always 1.", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// The text exposition format, version 0.0.4.
pub fn text(families: &[MetricFamily]) -> String {
    let text = TextEncoder::new().encode_to_string(families);
    text.unwrap_or_else(|error| unreachable!("what a registry gathered has names and values: {error}"))
}

#[cfg(test)]
mod tests;
