//! What a process counted, as lines of CloudWatch's embedded metric format: on Lambda and Fargate what goes to standard
//! output is in CloudWatch Logs, which makes metrics of it.
//!
//! Lines say what was counted since the lines before, and not since the start as the API's own metrics do: processes
//! come and go, and CloudWatch adds up what they say. What stands where is no process's to say, and is left to who asks
//! the ledger. A process that counted nothing writes nothing.

use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::proto::{Bucket, Counter, Histogram, Metric, MetricFamily, MetricType};
use switchyard_core::metrics::{Meters, emf};
use switchyard_core::ports::{Ambient, Depths};

/// Writes what was counted since it last wrote.
#[derive(Debug, Default)]
pub struct EmfFlush {
    before: Vec<MetricFamily>,
}

impl EmfFlush {
    /// One that takes everything counted so far for new.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lines for what was counted since the call before; none when nothing was.
    pub fn lines(&mut self, meters: &Meters, now: Timestamp) -> String {
        let counted = meters.gather(&Depths::default(), &[], now);
        let lines = emf(&since(&self.before, &counted), now);
        self.before = counted;
        lines
    }

    /// Writes the lines, if there are any, as one write: two processes that share an output do not mix them.
    ///
    /// # Errors
    ///
    /// The output does not take them.
    pub fn flush(&mut self, meters: &Meters, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
        let lines = self.lines(meters, now);
        if lines.is_empty() {
            return Ok(());
        }
        out.write_all(lines.as_bytes())?;
        out.flush()
    }

    /// Flushes again and again, until the output takes no more, which it returns. What was counted since the last time
    /// when a process ends is for its own last [`EmfFlush::flush`].
    pub async fn keep_flushing(
        &mut self,
        meters: &Meters,
        ambient: &dyn Ambient,
        every: Duration,
        out: &mut (dyn Write + Send),
    ) -> io::Error {
        loop {
            ambient.pause(every).await;
            if let Err(error) = self.flush(meters, ambient.now(), out) {
                return error;
            }
        }
    }
}

/// The lines for how much stands where, out of everything gathered: what one process asks the ledger about for the whole
/// yard. Where nothing stands nothing is said: a metric that is told once in an hour is paid for that hour ($0.30 a month;
/// Amazon CloudWatch pricing), and an idle yard has a dozen of them at zero.
pub fn standing(gathered: &[MetricFamily], now: Timestamp) -> String {
    let gauges = gathered.iter().filter(|family| family.get_field_type() == MetricType::GAUGE);
    let told: Vec<MetricFamily> = gauges
        .filter(|family| family.name() != "switchyard_build_info")
        .filter_map(|family| {
            let mut family = family.clone();
            let some =
                family.take_metric().into_iter().filter(|metric| metric.get_gauge().get_value() != 0.0).collect();
            family.set_metric(some);
            (!family.get_metric().is_empty()).then_some(family)
        })
        .collect();
    emf(&told, now)
}

/// What was counted between the two: series that did not move are left out, and so is everything that is no count.
fn since(before: &[MetricFamily], now: &[MetricFamily]) -> Vec<MetricFamily> {
    let moved = |family: &MetricFamily| {
        let earlier = before.iter().find(|earlier| earlier.name() == family.name());
        let earlier = earlier.map(MetricFamily::get_metric).unwrap_or_default();
        let series = |metric: &Metric| {
            let earlier = earlier.iter().find(|earlier| earlier.get_label() == metric.get_label());
            let mut moved = match family.get_field_type() {
                MetricType::COUNTER => counter(earlier.map(Metric::get_counter), metric.get_counter())?,
                MetricType::HISTOGRAM => histogram(earlier.map(Metric::get_histogram), metric.get_histogram())?,
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => return None,
            };
            moved.set_label(metric.get_label().to_vec());
            Some(moved)
        };
        let moved: Vec<Metric> = family.get_metric().iter().filter_map(series).collect();
        (!moved.is_empty()).then(|| {
            let mut family = family.clone();
            family.set_metric(moved);
            family
        })
    };
    now.iter().filter_map(moved).collect()
}

fn counter(before: Option<&Counter>, now: &Counter) -> Option<Metric> {
    let counted = now.get_value() - before.map_or(0.0, Counter::get_value);
    (counted > 0.0).then(|| {
        let (mut moved, mut counter) = (Metric::default(), Counter::default());
        counter.set_value(counted);
        moved.set_counter(counter);
        moved
    })
}

fn histogram(before: Option<&Histogram>, now: &Histogram) -> Option<Metric> {
    let counted = now.get_sample_count() - before.map_or(0, Histogram::get_sample_count);
    let below = |n: usize| before.and_then(|before| before.get_bucket().get(n)).map_or(0, Bucket::cumulative_count);
    (counted > 0).then(|| {
        let (mut moved, mut histogram) = (Metric::default(), now.clone());
        let buckets = now.get_bucket().iter().enumerate().map(|(n, bucket)| {
            let mut bucket = bucket.clone();
            bucket.set_cumulative_count(bucket.cumulative_count() - below(n));
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counted);
        histogram.set_sample_sum(now.get_sample_sum() - before.map_or(0.0, Histogram::get_sample_sum));
        moved.set_histogram(histogram);
        moved
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// The values of a metric in the lines, as JSON.
    fn values(lines: &str, name: &str) -> Vec<serde_json::Value> {
        let documents = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        documents.filter_map(|document| document.get(name).cloned()).collect()
    }

    #[test]
    fn a_line_says_what_was_counted_since_the_one_before_and_nothing_when_nothing_was() {
        let (meters, mut flush) = (Meters::default(), EmfFlush::new());
        assert_eq!(flush.lines(&meters, at(1)), "", "an idle process says nothing");
        meters.refused("no_feasible_venue");
        meters.refused("no_feasible_venue");
        meters.refused("key_reused");
        assert_eq!(values(&flush.lines(&meters, at(2)), "switchyard_refused_total"), [1.0, 2.0]);
        assert_eq!(flush.lines(&meters, at(3)), "");
        meters.refused("no_feasible_venue");
        let lines = flush.lines(&meters, at(4));
        assert_eq!(values(&lines, "switchyard_refused_total"), [1.0]);
        assert!(lines.contains(r#""code":"no_feasible_venue""#) && !lines.contains("key_reused"), "{lines}");
        assert!(!lines.contains("switchyard_jobs\"") && !lines.contains("switchyard_build_info"), "{lines}");
    }

    #[test]
    fn a_distribution_is_of_what_came_since_the_line_before() {
        let (meters, mut flush) = (Meters::default(), EmfFlush::new());
        meters.answered("GET", "/health", 200, Duration::from_millis(2));
        meters.answered("GET", "/health", 200, Duration::from_millis(50));
        flush.lines(&meters, at(1));
        meters.answered("GET", "/health", 200, Duration::from_millis(50));
        let lines = flush.lines(&meters, at(2));
        let took = values(&lines, "switchyard_http_request_duration_seconds");
        assert_eq!(took.len(), 1);
        assert_eq!((&took[0]["Values"], &took[0]["Counts"]), (&serde_json::json!([0.1]), &serde_json::json!([1])));
        assert_eq!(took[0]["Count"], 1);
        assert!((took[0]["Sum"].as_f64().unwrap() - 0.05).abs() < 1e-9);
        assert_eq!(values(&lines, "switchyard_http_requests_total"), [1.0]);
    }

    #[test]
    fn what_stands_where_is_told_apart_from_what_was_counted() {
        let meters = Meters::default();
        meters.refused("x");
        let tell = |depths: &Depths| standing(&meters.gather(depths, &[], at(5)), at(5));
        assert_eq!(tell(&Depths::default()), "", "an idle yard says nothing, and costs nothing");
        let tier = switchyard_core::job::Tier::Priority;
        let waits = switchyard_core::ports::TierDepth { tier, waiting: 2, held: 0, oldest: at(1) };
        let lines = tell(&Depths { tiers: vec![waits], ..Depths::default() });
        assert_eq!(values(&lines, "switchyard_oldest_wait_seconds"), [4.0]);
        assert_eq!(values(&lines, "switchyard_jobs_waiting"), [2.0]);
        assert!(!lines.contains("switchyard_refused_total") && !lines.contains("held"), "{lines}");
    }

    #[test]
    fn what_is_flushed_ends_with_a_line_and_an_output_that_is_gone_is_told() {
        let (meters, mut flush) = (Meters::default(), EmfFlush::new());
        let mut out = Vec::new();
        flush.flush(&meters, at(1), &mut out).unwrap();
        assert!(out.is_empty());
        meters.refused("x");
        flush.flush(&meters, at(2), &mut out).unwrap();
        assert!(out.ends_with(b"}\n"));
        meters.refused("x");
        let mut full: &mut [u8] = &mut [];
        assert!(flush.flush(&meters, at(3), &mut full).is_err());
    }

    /// Counts something with every write, so that there is a next one, and takes two.
    struct Two<'a>(&'a Meters, Vec<String>);

    impl Write for Two<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1.len() == 2 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.1.push(String::from_utf8(bytes.to_vec()).unwrap());
            self.0.refused("x");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_process_flushes_once_in_so_long_until_its_output_is_gone() {
        let (meters, home) = (Meters::default(), switchyard_core::memory::Memory::new(at(0), 1));
        let mut out = Two(&meters, vec![]);
        meters.refused("x");
        let every = Duration::from_secs(60);
        let mut flush = EmfFlush::new();
        let gone = futures_lite::future::block_on(flush.keep_flushing(&meters, &home, every, &mut out));
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
        let stamps: Vec<i64> =
            out.1.iter().map(|line| values(line, "_aws")[0]["Timestamp"].as_i64().unwrap()).collect();
        assert_eq!(stamps, [60_000, 120_000]);
    }
}
