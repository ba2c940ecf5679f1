//! CloudWatch's embedded metric format: JSON lines that CloudWatch Logs turns into metrics. From the «Specification:
//! Embedded metric format» of the CloudWatch user guide; distributions as statistic sets with `Values` and `Counts`, as
//! the OpenTelemetry collector writes them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType};
use serde_json::{Map, Value, json};

/// The namespace of every metric.
pub const NAMESPACE: &str = "Switchyard";
/// Metric definitions in one document.
pub const METRICS_MOST: usize = 100;
/// Dimensions in one set.
pub const DIMENSIONS_MOST: usize = 30;
/// Characters of a dimension's value: a CloudWatch limit.
const VALUE_MOST: usize = 1024;

/// A metric of a family, as the format has its value.
type Named<'a> = (&'a MetricFamily, Value);

/// The metrics as one document a line, with one set of dimensions each: the labels of its series. Counters are totals
/// since the start of the process, as in the other format; what was counted in between is their difference.
pub fn emf(families: &[MetricFamily], at: Timestamp) -> String {
    let mut by_labels: BTreeMap<Vec<(&str, &str)>, Vec<Named<'_>>> = BTreeMap::new();
    for family in families {
        for metric in family.get_metric() {
            let labels = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
            by_labels.entry(labels).or_default().push((family, value(family.get_field_type(), metric)));
        }
    }
    let mut lines = String::new();
    for (labels, metrics) in &by_labels {
        for some in metrics.chunks(METRICS_MOST) {
            lines.push_str(&document(labels, some, at).to_string());
            lines.push('\n');
        }
    }
    lines
}

fn document(labels: &[(&str, &str)], metrics: &[Named<'_>], at: Timestamp) -> Value {
    let mut document = Map::new();
    let dimensions: Vec<&str> = labels.iter().map(|(name, _)| *name).take(DIMENSIONS_MOST).collect();
    let defined: Vec<Value> =
        metrics.iter().map(|(family, _)| json!({ "Name": family.name(), "Unit": unit(family) })).collect();
    let directive = json!({ "Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": defined });
    document.insert("_aws".into(), json!({ "Timestamp": at.as_millisecond(), "CloudWatchMetrics": [directive] }));
    for (name, value) in labels.iter().take(DIMENSIONS_MOST) {
        // CloudWatch drops a dimension whose value is empty, and the document with it; controls it does not take.
        let safe: String = value.chars().filter(|c| !c.is_control()).take(VALUE_MOST).collect();
        let safe = if safe.trim().is_empty() { "-".to_owned() } else { safe };
        document.insert((*name).to_owned(), safe.into());
    }
    for (family, value) in metrics {
        document.insert(family.name().to_owned(), value.clone());
    }
    Value::Object(document)
}

/// The unit that the name's suffix says.
fn unit(family: &MetricFamily) -> &'static str {
    let name = family.name().trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "Seconds"
    } else if name.ends_with("_bytes") {
        "Bytes"
    } else {
        "Count"
    }
}

fn value(kind: MetricType, metric: &Metric) -> Value {
    match kind {
        MetricType::COUNTER => json!(metric.get_counter().get_value()),
        MetricType::HISTOGRAM => distribution(metric.get_histogram()),
        // None of the others is ever registered.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => json!(metric.get_gauge().get_value()),
    }
}

/// A histogram as values and how often each was seen: a bucket stands for its upper bound, the last for the largest
/// bound there is, so that no percentile reads lower than it is while it is within the buckets.
fn distribution(histogram: &Histogram) -> Value {
    let (mut values, mut counts): (Vec<f64>, Vec<u64>) = (Vec::new(), Vec::new());
    let (mut below, mut largest) = (0, 0.0);
    let mut seen = |value: f64, count: u64| match values.last() {
        _ if count == 0 => {}
        Some(last) if last.total_cmp(&value).is_eq() => {
            if let Some(counted) = counts.last_mut() {
                *counted += count;
            }
        }
        Some(_) | None => {
            values.push(value);
            counts.push(count);
        }
    };
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        seen(bucket.upper_bound(), bucket.cumulative_count() - below);
        (below, largest) = (bucket.cumulative_count(), bucket.upper_bound());
    }
    seen(largest, histogram.get_sample_count() - below);
    let (least, most) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
    json!({
        "Values": values, "Counts": counts,
        "Min": least, "Max": most, "Sum": histogram.get_sample_sum(), "Count": histogram.get_sample_count(),
    })
}
