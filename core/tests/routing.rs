//! policies/routing.yaml and policies/prices.yaml: the shipped files, what is refused and how it is told, and the
//! published schemas against the parser.

use std::path::Path;

use serde_json::Value;
use switchyard_core::policies::PolicyError;
use switchyard_core::route::{Images, Limits, Pool, PoolName, Routing};

fn policies(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(file)).unwrap()
}

fn parse(routing: &str, prices: &str) -> Result<Limits, PolicyError> {
    Routing::parse("routing.yaml", routing, "prices.yaml", prices).map(|routing| routing.limits)
}

fn shipped() -> Limits {
    parse(&policies("routing.yaml"), &policies("prices.yaml")).unwrap()
}

#[test]
fn the_limits_built_in_are_those_of_the_shipped_files() {
    assert_eq!(Limits::default(), shipped());
}

#[test]
fn the_order_of_pools_in_the_file_changes_nothing() {
    let text = policies("routing.yaml");
    let (head, pools) = text.split_once("pools:\n").unwrap();
    let mut pools: Vec<&str> = pools.split("\n\n").collect();
    pools.reverse();
    let turned = format!("{head}pools:\n{}\n", pools.join("\n\n"));
    assert_ne!(turned, text);
    assert_eq!(parse(&turned, &policies("prices.yaml")).unwrap(), shipped());
}

#[test]
fn a_machine_of_ones_own_keeps_the_thresholds_and_the_prices_of_a_slot() {
    let aws = shipped();
    let own = aws.clone().on_one_machine(32 * 1024, 8_000, false);
    assert_eq!(
        (own.start_targets, own.function_time, &own.prices),
        (aws.start_targets, aws.function_time, &aws.prices)
    );
    let [standard] = &own.pools[..] else { panic!("{:?}", own.pools) };
    let there = aws.pools.iter().find(|pool| pool.name == PoolName::STANDARD).unwrap();
    let rates = |pool: &Pool| (pool.vcpu_hour_nanodollars, pool.gib_hour_nanodollars);
    assert_eq!((standard.name, rates(standard)), (PoolName::STANDARD, rates(there)));
    assert_eq!((standard.memory_mib, standard.milli_vcpu, own.images), (32 * 1024, 8_000, Images::None));
    assert_eq!(Limits::one_machine(1024), aws.on_one_machine(1024, 64_000, false));
}

/// The shipped file with one text in place of another.
fn with(file: &str, from: &str, to: &str) -> String {
    let text = policies(file);
    assert!(text.contains(from), "{file} has no `{from}`");
    text.replacen(from, to, 1)
}

/// Files that the schema refuses as the parser does: (file, what stands there, what is put there).
const BROKEN: [(&str, &str, &str); 51] = [
    ("routing.yaml", "version: 1", "version: 2"),
    ("routing.yaml", "version: 1\n", ""),
    ("routing.yaml", "unknown_seconds: 30", "unknown: 30"),
    ("routing.yaml", "unknown_seconds: 30", "unknown_seconds: 0"),
    ("routing.yaml", "unknown_seconds: 30", "unknown_seconds: soon"),
    ("routing.yaml", "synchronous_seconds: 5 ", "synchronous_seconds: 0 "),
    ("routing.yaml", "standard_seconds: 600", "standard_seconds: 86401"),
    ("routing.yaml", "  priority_seconds: 90", "  #"),
    ("routing.yaml", "  expected_seconds: 30 ", "  expected_seconds: 901 "),
    ("routing.yaml", "  reserve_seconds: 5 ", "  reserve_seconds: -5 "),
    ("routing.yaml", "  limit_seconds: 900", "  limit_seconds: 1000"),
    ("routing.yaml", "  memory_mib: 10240", "  memory_mib: 10241"),
    ("routing.yaml", "  start_ms: 500", "  start_ms: 0.5"),
    ("routing.yaml", "  memory_mib: 122880", "  memory_mib: 64"),
    ("routing.yaml", "  billed_start_seconds: 45", "  billed_seconds: 45"),
    ("routing.yaml", "- name: static", "- name: Static"),
    ("routing.yaml", "- name: static", "- name: fleet"),
    ("routing.yaml", "    instance: t3.medium\n", ""),
    ("routing.yaml", "on_demand_percent: 20", "on_demand_percent: 120"),
    ("routing.yaml", "    docker: true", "    docker: perhaps"),
    ("routing.yaml", "    memory_mib: 7168", "    memory_mib: 100"),
    ("routing.yaml", "    vcpu: 2", "    vcpu: 0.01"),
    ("routing.yaml", "    vcpu: 2", "    vcpu: 2\n    gpus: 1"),
    ("routing.yaml", "    boot_seconds: 75", "    boot_seconds: 90000"),
    ("routing.yaml", "policy: backlog", "policy: hope"),
    ("routing.yaml", "policy: backlog", "cooldown_seconds: 300"),
    ("routing.yaml", "backlog_seconds: 600", "backlog_seconds: 0"),
    ("routing.yaml", "run_seconds: 60", "run_seconds: 86401"),
    ("routing.yaml", "slots: 2 ", "slots: 0 "),
    ("routing.yaml", "slots: 2 }", "slots: 1001 }"),
    (
        "routing.yaml",
        "scaling: { policy: backlog, backlog_seconds: 600, run_seconds: 60, slots: 2 }",
        "scaling: [backlog, 600, 60, 2]",
    ),
    ("routing.yaml", "# ageing_seconds: 1800", "quotas: [{ open_jobs: 5 }]"),
    ("routing.yaml", "# ageing_seconds: 1800", "ageing_seconds: 0"),
    ("routing.yaml", "# ageing_seconds: 1800", "quotas: { every: { burst: 5 } }"),
    ("routing.yaml", "# ageing_seconds: 1800", "quotas: { callers: { ci: { jobs_per_minute: 0 } } }"),
    ("routing.yaml", "# ageing_seconds: 1800", "quotas: { callers: { findings: { open_jobs: 5 } } }"),
    ("prices.yaml", "version: 1", "version: 3"),
    ("prices.yaml", "region: us-east-1", "region: US East"),
    ("prices.yaml", "region: us-east-1\n", ""),
    ("prices.yaml", "currency: USD", "currency: EUR"),
    ("prices.yaml", "as_of: 2026-11-01", "as_of: yesterday"),
    (
        "prices.yaml",
        "source: AWS's price lists for AWS Lambda, AWS Fargate and Amazon EC2 (Linux, x86); spot as said below",
        "source: \" \"",
    ),
    ("prices.yaml", "request: 0.0000002", "request: free"),
    ("prices.yaml", "request: 0.0000002", "requests: 0.0000002"),
    ("prices.yaml", "gib_second: 0.0000166667", "gib_second: -1"),
    ("prices.yaml", "vcpu_hour: 0.04048", "vcpu_hour: 4048"),
    ("prices.yaml", "type: m6i.large", "type: M6i"),
    ("prices.yaml", "on_demand_hour: 0.096", "on_demand_hour: dear"),
    ("prices.yaml", "spot_hour: 0.0384", "spot: 0.0384"),
    ("prices.yaml", "instances:", "instance:"),
    ("prices.yaml", "{ type: m6i.large, on_demand_hour: 0.096, spot_hour: 0.0384 }", "[m6i.large, 0.096, 0.0384]"),
];

/// What only the parser sees.
const UNSOUND: [(&str, &str, &str); 9] = [
    ("routing.yaml", "priority_seconds: 90", "priority_seconds: 700"),
    ("routing.yaml", "billed_start_seconds: 45", "billed_start_seconds: 56"),
    ("routing.yaml", "billed_boot_seconds: 50", "billed_boot_seconds: 76"),
    ("routing.yaml", "- name: static", "- name: standard"),
    ("routing.yaml", "instance: t3.medium", "instance: t3.large"),
    ("prices.yaml", "as_of: 2026-11-01", "as_of: 2026-11-31"),
    ("prices.yaml", "request: 0.0000002", "request: 0.00000000025"),
    ("prices.yaml", "vcpu_hour: 0.04048", "vcpu_hour: 0.0404800001"),
    ("prices.yaml", "type: t3.medium", "type: m6i.large"),
];

fn read((file, from, to): (&str, &str, &str)) -> (String, Result<Limits, PolicyError>) {
    let text = with(file, from, to);
    let parsed = match file {
        "routing.yaml" => parse(&text, &policies("prices.yaml")),
        _ => parse(&policies("routing.yaml"), &text),
    };
    (text, parsed)
}

#[test]
fn what_is_wrong_is_named_with_file_line_and_path() {
    let many: String = (0..9).map(|n| format!("  - {{ name: p{n}, instance: t3.medium, on_demand_percent: 0, static_address: false, docker: true, memory_mib: 512, vcpu: 1, start_ms: 1, boot_seconds: 1, billed_boot_seconds: 1, idle_seconds: 1 }}\n")).collect();
    let text = policies("routing.yaml");
    let many = format!("{}pools:\n{many}", text.split_once("pools:\n").unwrap().0);
    let mut told: Vec<String> = BROKEN
        .into_iter()
        .chain(UNSOUND)
        .map(|case| format!("{}: {} -> {}\n    {}", case.0, case.1, case.2, read(case).1.unwrap_err()))
        .collect();
    told.push(format!("nine pools\n    {}", parse(&many, &policies("prices.yaml")).unwrap_err()));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn the_published_schemas_agree_with_the_parser() {
    for file in ["routing.yaml", "prices.yaml"] {
        let schema = policies(&format!("schema/{}.schema.json", file.trim_end_matches(".yaml")));
        let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();
        let published = |text: &str| schema.is_valid(&serde_saphyr::from_str::<Value>(text).unwrap());
        assert!(published(&policies(file)), "{file}");
        for case in BROKEN.into_iter().filter(|case| case.0 == file) {
            let (text, parsed) = read(case);
            assert!(!published(&text) && parsed.is_err(), "{case:?}: {parsed:?}");
        }
        for case in UNSOUND.into_iter().filter(|case| case.0 == file) {
            let (text, parsed) = read(case);
            assert!(published(&text) && parsed.is_err(), "{case:?}: {parsed:?}");
        }
    }
    // At the ends of what may be, the schema and the parser take the same.
    let good = [
        ("routing.yaml", "unknown_seconds: 30", "unknown_seconds: 86400"),
        ("routing.yaml", "  reserve_seconds: 5 ", "  reserve_seconds: 0 "),
        ("routing.yaml", "    vcpu: 2", "    vcpu: 0.1"),
        ("routing.yaml", "policy: backlog", "policy: steps"),
        ("routing.yaml", "# ageing_seconds: 1800", "ageing_seconds:"),
        ("routing.yaml", "# ageing_seconds: 1800", "quotas:"),
        ("routing.yaml", "run_seconds: 60 ", "run_seconds: 86400 "),
        ("routing.yaml", "slots: 2 ", "slots: 1000 "),
        ("routing.yaml", "    scaling: { policy: backlog, backlog_seconds: 600, run_seconds: 60, slots: 2 }\n", ""),
        ("routing.yaml", "policy: backlog, backlog_seconds: 600, run_seconds: 60, slots: 2", ""),
        ("prices.yaml", "on_demand_hour: 0.096", "on_demand_hour: 1000"),
        ("prices.yaml", "request: 0.0000002", "request: 0"),
    ];
    for case in good {
        let (text, parsed) = read(case);
        assert!(parsed.is_ok(), "{case:?}: {parsed:?}");
        let schema = policies(&format!("schema/{}.schema.json", case.0.trim_end_matches(".yaml")));
        let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();
        assert!(schema.is_valid(&serde_saphyr::from_str::<Value>(&text).unwrap()), "{case:?}");
    }
}
