//! Nanoseconds and allocations of choosing a mapping, with 10 to 10,000 mappings that differ in several ways, and the
//! same by looking at each of them in turn.
//!
//! Prints one JSON line: the form that bench/run.py reads. With `--passes N` it goes through every shape so often with
//! the index alone; bench/run.py runs it twice under valgrind with different N, and the difference is the instructions
//! of a choice.
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use switchyard_core::finding::{Finding, Resource, Severity, Standing};
use switchyard_core::mapping::{Mapping, Mappings};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// What the nth mapping asks.
type Asks = fn(usize) -> Value;

/// What mappings differ in. The one in the middle is the finding's.
const SHAPES: [(&str, Asks); 7] = [
    ("account", |n| json!({ "account": account(n), "finding_type": "Recon:EC2/*" })),
    ("type", |n| json!({ "finding_type": format!("Recon:EC2/Probe{n:05}") })),
    ("glob_prefix", |n| json!({ "finding_type": format!("Recon:EC2/Probe{n:05}*") })),
    ("glob_suffix", |n| json!({ "finding_type": format!("*/Probe{n:05}.Unusual") })),
    ("glob_infix", |n| json!({ "finding_type": format!("*{n:05}*") })),
    ("severity", |n| json!({ "finding_type": "Recon:*", "severity_at_least": Severity::ALL[n % 5].as_str() })),
    ("mixed", mixed),
];

fn account(n: usize) -> String {
    format!("{n:012}")
}

/// As an organisation has them: a few for everybody, and some for each account.
fn mixed(n: usize) -> Value {
    match n % 5 {
        0 => json!({ "account": account(n), "resource_type": "AwsEc2Instance", "finding_type": "Recon:EC2/*" }),
        1 => json!({ "account": account(n), "finding_type": ["Trojan:*", "Backdoor:*"], "severity_at_least": "high" }),
        2 => json!({ "source": "aws.config", "finding_type": format!("our-rule-{n}"), "region": "eu-west-1" }),
        3 => json!({ "detail_type": "GuardDuty Finding", "account": account(n), "region": ["eu-west-1", "us-east-1"] }),
        _ => json!({ "finding_type": format!("S3.{n}"), "resource_type": "AwsS3Bucket" }),
    }
}

fn mappings(asks: Asks, count: usize) -> Mappings {
    let entry = |n| json!({ "name": format!("m{n}"), "match": asks(n), "policies": ["custodian/x.yml"] });
    let file = json!({ "version": 1, "mappings": (0..count).map(entry).collect::<Vec<_>>() }).to_string();
    let policies = BTreeSet::from(["custodian/x.yml".to_owned()]);
    Mappings::parse("policy-mappings.json", &file, &policies).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn finding(count: usize) -> Finding {
    // One that every shape has a mapping for, and of `mixed` one of the first kind.
    let middle = count / 2 / 5 * 5;
    Finding {
        source: "aws.guardduty".to_owned(),
        detail_type: "GuardDuty Finding".to_owned(),
        finding_type: format!("Recon:EC2/Probe{middle:05}.Unusual"),
        other_types: vec![format!("Recon:EC2/Probe{middle:05}")],
        title: String::new(),
        severity: Some(Severity::Critical),
        account: account(middle),
        region: "eu-west-1".to_owned(),
        resources: vec![],
        id: "one".to_owned(),
        updated_at: None,
        standing: Standing::Active,
        signals: vec![],
    }
}

/// The same choice as most would write it: each mapping in turn, the best so far kept.
fn linear<'a>(mappings: &'a Mappings, finding: &Finding, resource: &Resource) -> Option<&'a Mapping> {
    let among = |wanted: &[String], found: &str| wanted.is_empty() || wanted.iter().any(|one| one == found);
    let mut best = None;
    for mapping in mappings.iter() {
        let asked = &mapping.matches;
        let fits = among(&asked.resource_type, &resource.kind)
            && among(&asked.account, &finding.account)
            && among(&asked.region, &finding.region)
            && among(&asked.detail_type, &finding.detail_type)
            && among(&asked.source, &finding.source)
            && asked.severity_at_least.is_none_or(|least| finding.severity.is_some_and(|severity| severity >= least));
        if !fits {
            continue;
        }
        let matching = asked.finding_type.iter().filter(|glob| finding.types().any(|name| matches(glob, name)));
        let of_type = matching.map(|one| (!one.contains('*'), one.len())).max();
        if of_type.is_none() && !asked.finding_type.is_empty() {
            continue;
        }
        let given = [&asked.resource_type, &asked.account, &asked.region].map(|list| !list.is_empty());
        let telling = [&asked.detail_type, &asked.source].map(|list| !list.is_empty());
        let key = (of_type, given, asked.severity_at_least, telling);
        if best.as_ref().is_none_or(|(found, _)| key > *found) {
            best = Some((key, mapping));
        }
    }
    best.map(|(_, mapping)| mapping)
}

/// Only `*`, which is all that these globs have.
fn matches(glob: &str, text: &str) -> bool {
    let Some((front, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(front) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let Some(end) = pieces.pop() else { return true };
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(end)
}

/// Nanoseconds of each call.
fn timed(calls: usize, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / calls as f64
}

fn main() {
    let mut args = std::env::args().skip(1);
    let passes: Option<usize> = match (args.next().as_deref(), args.next()) {
        (None, None) => None,
        (Some("--passes"), Some(passes)) => Some(passes.parse().expect("--passes: a number")),
        _ => panic!("usage: mapping [--passes N]"),
    };
    let resource = Resource { kind: "AwsEc2Instance".to_owned(), id: "i-0".to_owned() };
    let (mut shapes, mut allocations, mut choices, mut seconds) = (serde_json::Map::new(), 0, 0_u64, 0.0);
    let (mut growth, mut largest) = (0.0_f64, 0.0_f64);
    for (shape, asks) in SHAPES {
        let (mut indexed, mut by_hand) = (Vec::new(), Vec::new());
        // To fill a hash table takes other instructions each time: of ten thousand too many to count a choice beside.
        for count in SIZES.into_iter().filter(|count| passes.is_none() || *count == 1_000) {
            let (mappings, finding) = (mappings(asks, count), finding(count));
            let chosen = mappings.choose(&finding, Some(&resource)).map(|mapping| &mapping.name);
            assert!(chosen.is_some(), "{shape}, {count}: something answers");
            let calls = passes.unwrap_or(100_000);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let choose = || {
                black_box(mappings.choose(black_box(&finding), Some(black_box(&resource))));
            };
            let nanoseconds = timed(calls, choose);
            allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
            choices += calls as u64;
            seconds += nanoseconds * calls as f64 / 1e9;
            indexed.push(nanoseconds.round());
            if passes.is_none() {
                assert_eq!(
                    linear(&mappings, &finding, &resource).map(|mapping| &mapping.name),
                    chosen,
                    "{shape}, {count}"
                );
                let choose = || {
                    black_box(linear(black_box(&mappings), &finding, black_box(&resource)));
                };
                by_hand.push(timed(1_000_000 / count, choose).round());
            }
        }
        growth = growth.max(indexed[indexed.len() - 1] / indexed[0]);
        largest = largest.max(indexed[indexed.len() - 1]);
        shapes.insert(shape.to_owned(), json!({ "choose": indexed, "linear": by_hand }));
    }
    let line = json!({
        "name": "mapping",
        "jobs": choices,
        "jobs_per_second": (choices as f64 / seconds).round(),
        "ns_per_choice": largest,
        "growth": growth,
        "allocations": allocations,
        "ns_at_10_100_1000_10000": shapes,
        "notes": "7 shapes of 10 to 10,000 mappings; ns of the slowest at 10,000, and what that is to 10",
        "durability": "none",
    });
    println!("{line}");
}
