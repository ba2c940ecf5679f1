//! Both formats, read by readers that share no code with their writers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::ports::{Room, TierDepth};
use crate::route::{Limits, PoolName};

/// A series: the labels with their values, in order.
type Labels = BTreeMap<String, String>;

/// One family, as read from the text.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// The samples by name (that of a histogram's part has its suffix) and labels.
    samples: BTreeMap<(String, Labels), f64>,
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads `{a="b",c="d"} 1`, with the escapes that the format has and no others.
fn read_sample(rest: &str) -> (Labels, f64) {
    let mut labels = Labels::new();
    let value = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => loop {
            let (name, after) = rest.split_once("=\"").expect("a label's name");
            assert!(is_name(name) && !name.starts_with("__"), "no label is called `{name}`");
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let end = loop {
                match chars.next().expect("a label's value ends") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().expect("an escape ends").1 {
                        '\\' => '\\',
                        '"' => '"',
                        'n' => '\n',
                        other => panic!("there is no escape \\{other}"),
                    }),
                    (_, '\n') => panic!("a raw line feed in a label"),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(name.to_owned(), value).is_none(), "the label {name} is there twice");
            match after[end + 1..].strip_prefix(',') {
                Some(more) => rest = more,
                None => break after[end + 1..].strip_prefix('}').expect("the labels end"),
            }
        },
    };
    let value = value.strip_prefix(' ').expect("one space before the value");
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number, and no timestamp") };
    (labels, value)
}

/// Reads the text exposition format 0.0.4, and refuses whatever is not in it.
fn read(text: &str) -> BTreeMap<String, Family> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line ends with a line feed");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a text of help");
            assert!(is_name(name) && !families.contains_key(name), "{name}: HELP once, before all its series");
            families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
            now = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            let family = families.get_mut(name).expect("HELP comes first");
            assert!(family.kind.is_empty() && name == now, "{name}: TYPE once");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name}: {kind}");
            family.kind = kind.to_owned();
        } else {
            assert!(!line.starts_with('#') && !line.trim().is_empty(), "no comments, no empty lines: {line}");
            let end = line.find(['{', ' ']).expect("a value");
            let (name, rest) = line.split_at(end);
            assert!(is_name(name));
            let family = families.get_mut(&now).expect("a family");
            let part = name.strip_prefix(now.as_str()).expect("a family's series stand together");
            let parts: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(parts.contains(&part), "{name} is no part of a {}", family.kind);
            let (labels, value) = read_sample(rest);
            let twice = family.samples.insert((name.to_owned(), labels), value);
            assert!(twice.is_none(), "a series twice: {line}");
        }
    }
    families
}

/// Cumulative counts by bound, the sum and the count.
type Distribution = (Vec<(f64, f64)>, f64, f64);

/// The series of a histogram: the cumulative counts by bound, the sum and the count.
fn histogram(name: &str, family: &Family) -> BTreeMap<Labels, Distribution> {
    let mut found: BTreeMap<Labels, Distribution> = BTreeMap::new();
    for ((part, labels), value) in &family.samples {
        let mut labels = labels.clone();
        let bound = labels.remove("le");
        let entry = found.entry(labels).or_default();
        match part.strip_prefix(name).unwrap() {
            "_bucket" => {
                let bound = bound.expect("a bucket has a bound");
                entry.0.push((if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }, *value));
            }
            "_sum" => entry.1 = *value,
            _ => entry.2 = *value,
        }
    }
    for (buckets, _, count) in found.values_mut() {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1), "cumulative: {buckets:?}");
        assert_eq!(buckets.last().map(|last| (last.0, last.1)), Some((f64::INFINITY, *count)), "+Inf is the count");
    }
    found
}

const HOSTILE: &str = "a\"b\\c\nd\u{1b}[31m{},=\u{202e} é";

/// Every metric moved at least once, with a capability that no catalog would have.
fn moved() -> Vec<MetricFamily> {
    let meters = Meters::default();
    meters.taken(Tier::Standard, Venue::Fleet, true);
    meters.taken(Tier::Standard, Venue::Fleet, true);
    meters.taken(Tier::Priority, Venue::Inline, true);
    meters.taken(Tier::Priority, Venue::Inline, false);
    meters.refused("invalid_field");
    meters.answered("POST", "/v1/jobs", 202, Duration::from_millis(3));
    meters.answered("POST", "/v1/jobs", 503, Duration::from_secs(600));
    meters.event("findings", 2);
    for seconds in [0.001, 0.005, 0.2, 90.0, 1e6] {
        meters.claimed(Tier::Standard, Duration::from_secs_f64(seconds));
    }
    for outcome in ["succeeded", "failed", "interrupted", "lost"] {
        meters.ran(HOSTILE, Venue::Fleet, outcome, Duration::from_millis(300));
    }
    meters.output_dropped(70_000);
    meters.attempt_failed(HOSTILE);
    meters.retried(false);
    meters.launch_failed(Venue::Fargate);
    meters.settled(HOSTILE, Phase::Failed);
    meters.reaped(&Counts { found: 3, done: 2, already_done: 1, ..Counts::default() });
    meters.swept(&crate::sweep::Swept::default());
    let grows = crate::scale::decide(
        &crate::scale::Seen {
            backlog: Some(crate::scale::Backlog { visible: [0, 0, 100], ..Default::default() }),
            group: Some(crate::scale::GroupSeen { max: 9, ..Default::default() }),
            ..Default::default()
        },
        &crate::scale::Rules::of(&Limits::default(), &Limits::default().pools[0]),
    );
    meters.scaled(PoolName::STANDARD, &grows);
    meters.kicked(Some(Kicked::Sent));
    meters.ticked(&TickCounts { submitted: 1, ..TickCounts::default() });
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let oldest = now - Duration::from_secs(42);
    let depths = Depths {
        open: vec![(Phase::Dispatched, 4), (Phase::Running, 1)],
        tiers: vec![TierDepth { tier: Tier::Standard, waiting: 3, held: 1, oldest }],
        ..Depths::default()
    };
    let room = |slots| Room { slots, milli_vcpu: 1000, memory_mib: 512 };
    let worker = |leaving| Worker {
        holder: crate::job::Holder("worker/1".into()),
        pool: PoolName::STANDARD,
        capacity: room(4),
        free: room(3),
        since: now,
        leaving,
    };
    meters.gather(&depths, &[worker(false), worker(true)], now)
}

#[test]
fn every_metric_has_this_name_type_and_help() {
    let families = read(&text(&moved()));
    let lines: Vec<String> =
        families.iter().map(|(name, family)| format!("{name} ({}): {}", family.kind, family.help)).collect();
    insta::assert_snapshot!(lines.join("\n"));
    for (name, family) in &families {
        assert!(name.starts_with("switchyard_") && family.help.ends_with('.'), "{name}");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        let base = !["_ms", "_millis", "_kb", "_mib", "_minutes"].iter().any(|unit| name.contains(unit));
        assert!(base, "{name}: seconds and bytes are the units there are");
        assert!(!family.samples.is_empty());
    }
    let registered = Meters::default().registry.gather().len();
    assert!(registered > 0, "what has no labels is there from the start");
}

#[test]
fn the_text_is_what_an_independent_reader_takes_for_the_numbers() {
    let families = read(&text(&moved()));
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        families[name].samples[&(name.to_owned(), labels)]
    };
    let exactly = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    exactly(value("switchyard_jobs_accepted_total", &[("tier", "standard"), ("venue", "fleet")]), 2.0);
    exactly(value("switchyard_jobs_repeated_total", &[]), 1.0);
    exactly(value("switchyard_jobs_settled_total", &[("capability", HOSTILE), ("state", "failed")]), 1.0);
    exactly(value("switchyard_scaling_rounds_total", &[("pool", "standard"), ("reason", "first")]), 1.0);
    exactly(value("switchyard_instances_asked_total", &[("pool", "standard")]), 5.0);
    exactly(value("switchyard_kicks_total", &[("became", "sent")]), 1.0);
    exactly(value("switchyard_losses_total", &[("venue", "fleet")]), 1.0);
    exactly(value("switchyard_oldest_wait_seconds", &[("tier", "standard")]), 42.0);
    exactly(value("switchyard_oldest_wait_seconds", &[("tier", "priority")]), 0.0);
    exactly(value("switchyard_jobs", &[("state", "held")]), 0.0);
    exactly(value("switchyard_slots", &[("pool", "standard")]), 8.0);
    exactly(value("switchyard_slots_free", &[("pool", "standard")]), 3.0);
    let waits = histogram("switchyard_queue_wait_seconds", &families["switchyard_queue_wait_seconds"]);
    let (buckets, sum, count) = waits.values().next().unwrap();
    exactly(*count, 5.0);
    exactly(*sum, 1_000_090.206);
    exactly(buckets[0].1, 2.0);
}

#[test]
fn both_formats_say_the_same() {
    let gathered = moved();
    let at = Timestamp::from_millisecond(1_800_000_000_123).unwrap();
    let families = read(&text(&gathered));
    let lines = emf(&gathered, at);
    let mut told = BTreeSet::new();
    for line in lines.lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        assert!(line.len() < 256 * 1024);
        let root = document.as_object().unwrap();
        assert_eq!(root["_aws"]["Timestamp"], 1_800_000_000_123_i64);
        let directives = root["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        for directive in directives {
            let keys: Vec<&String> = directive.as_object().unwrap().keys().collect();
            assert_eq!(keys.len(), 3, "nothing beside what the specification names: {keys:?}");
            assert_eq!(directive["Namespace"], NAMESPACE);
            let sets = directive["Dimensions"].as_array().unwrap();
            let [set] = sets.as_slice() else { panic!("one set") };
            let names: Vec<&str> = set.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            assert!(names.len() <= DIMENSIONS_MOST);
            for name in &names {
                let value = root[*name].as_str().expect("a dimension's value is a string at the root");
                assert!((1..=1024).contains(&value.chars().count()) && !value.chars().any(char::is_control), "{value}");
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=METRICS_MOST).contains(&metrics.len()));
            for metric in metrics {
                let name = metric["Name"].as_str().unwrap();
                assert!(["Seconds", "Bytes", "Count"].contains(&metric["Unit"].as_str().unwrap()), "{metric}");
                let labels: Labels =
                    names.iter().map(|name| ((*name).to_owned(), root[*name].as_str().unwrap().to_owned())).collect();
                let clean = |labels: &Labels| -> Labels {
                    let clean = |value: &String| value.chars().filter(|c| !c.is_control()).collect();
                    labels.iter().map(|(name, value)| (name.clone(), clean(value))).collect()
                };
                let family = &families[name];
                assert!(told.insert((name.to_owned(), labels.clone())), "{name} {labels:?} twice");
                if family.kind == "histogram" {
                    assert_eq!(metric["Unit"], "Seconds");
                    let read = histogram(name, family);
                    let (buckets, sum, count) = &read[&labels];
                    let numbers = |member: &str| -> Vec<f64> {
                        let members = root[name][member].as_array().unwrap();
                        assert!(members.len() <= 100);
                        members.iter().map(|number| number.as_f64().unwrap()).collect()
                    };
                    let (values, counts) = (numbers("Values"), numbers("Counts"));
                    assert_eq!(values.len(), counts.len());
                    assert_eq!((root[name]["Sum"].as_f64(), root[name]["Count"].as_f64()), (Some(*sum), Some(*count)));
                    let largest = buckets[buckets.len() - 2].0;
                    for (bound, cumulative) in buckets {
                        let seen = values.iter().zip(&counts).filter(|(value, _)| **value <= *bound);
                        let seen: f64 = seen.map(|(_, count)| count).sum();
                        // What is over the largest bound stands at it.
                        let expected = if bound.total_cmp(&largest).is_eq() { count } else { cumulative };
                        assert!((seen - expected).abs() < 1e-9, "{name} up to {bound}: {seen}, not {expected}");
                    }
                } else {
                    let written = family.samples.iter().find(|((_, other), _)| clean(other) == labels).unwrap();
                    assert_eq!(root[name].as_f64(), Some(*written.1), "{name} {labels:?}");
                }
            }
        }
    }
    let series: usize = families
        .iter()
        .map(|(name, family)| match family.kind.as_str() {
            "histogram" => histogram(name, family).len(),
            _ => family.samples.len(),
        })
        .sum();
    assert_eq!(told.len(), series, "every series is in both");
}

#[test]
fn more_metrics_than_a_document_may_define_go_into_the_next() {
    let registry = Registry::new();
    let make = Make(&registry);
    for n in 0..METRICS_MOST + 1 {
        make.counter(&format!("switchyard_test_{n:03}_total"), "A test's.").inc();
    }
    let lines = emf(&registry.gather(), Timestamp::UNIX_EPOCH);
    let defined: Vec<usize> = lines
        .lines()
        .map(|line| {
            let document: Value = serde_json::from_str(line).unwrap();
            document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(defined, [METRICS_MOST, 1]);
}
