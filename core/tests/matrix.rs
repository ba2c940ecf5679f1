//! The whole decision as one table, and its laws.
//!
//! Each row of the table says what is decided about one kind of job: where it goes, by what rule, and what was found
//! of every place (its rule or `ok`, the start, the price). A change of routing is a change of this table.

use std::time::Duration;

use proptest::prelude::*;
use switchyard_core::job::Tier;
use switchyard_core::route::{
    Choice, Conditions, Limits, Needs, Packaging, Pin, Place, PoolName, Route, Rule, Venue, Verdict, route,
};

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn needs(packaging: Packaging, expected: Option<u64>) -> Needs {
    Needs {
        packaging,
        expected: expected.map(Duration::from_secs),
        memory_mib: 512,
        milli_vcpu: 250,
        docker: false,
        privileged: false,
        network_tools: false,
        static_address: false,
        isolate: false,
        interruptible: true,
        only: vec![],
        prefer: vec![],
    }
}

fn builtin(expected: Option<u64>) -> Needs {
    needs(Packaging::Builtin, expected)
}

fn custodian() -> Needs {
    Needs { isolate: true, ..needs(Packaging::TaskImage, Some(60)) }
}

fn nmap() -> Needs {
    Needs { network_tools: true, ..needs(Packaging::Image, Some(5)) }
}

fn large() -> Needs {
    Needs { memory_mib: 12 * 1024, ..needs(Packaging::TaskImage, Some(120)) }
}

fn docker() -> Needs {
    Needs { docker: true, ..needs(Packaging::Image, Some(120)) }
}

fn given(tier: Tier) -> Conditions {
    Conditions { tier, ..Conditions::default() }
}

fn invocation(tier: Tier, left: u64) -> Conditions {
    Conditions { invocation_left: Some(Duration::from_secs(left)), ..given(tier) }
}

fn standard() -> Conditions {
    given(Tier::Standard)
}

fn free(name: &str) -> Conditions {
    Conditions { free: vec![pool(name)], ..standard() }
}

/// What is asked, under which conditions, and where it must go; `None`: nowhere.
type Case = (&'static str, Needs, Conditions, Option<Place>);

/// Every row of the design's table, with the limits of the shipped files.
fn on_aws() -> Vec<Case> {
    let fleet = |name: &str| Some(Place::Fleet(pool(name)));
    let (exhausted, twice) = (
        Conditions { launches_exhausted: true, ..given(Tier::Priority) },
        Conditions { interruptions: 2, ..standard() },
    );
    let runtime_image = Needs { memory_mib: 2048, ..needs(Packaging::FunctionImage, Some(120)) };
    let task = || needs(Packaging::TaskImage, Some(120));
    let warm = Conditions { tier: Tier::Priority, ..free("standard") };
    let batch = Conditions { companions: 499, ..standard() };
    vec![
        ("built-in 5 s, synchronous", builtin(Some(5)), invocation(Tier::Synchronous, 29), Some(Place::Inline)),
        ("built-in, duration unknown", builtin(None), invocation(Tier::Standard, 29), Some(Place::Function)),
        ("built-in 28 s, 10 s left", builtin(Some(28)), invocation(Tier::Standard, 10), Some(Place::Function)),
        ("built-in 120 s", builtin(Some(120)), invocation(Tier::Standard, 29), Some(Place::Fargate)),
        ("built-in 120 s, synchronous", builtin(Some(120)), invocation(Tier::Synchronous, 29), Some(Place::Function)),
        ("runtime-API image 120 s, 2 GiB, sync.", runtime_image, given(Tier::Synchronous), Some(Place::Function)),
        ("task image 120 s", task(), standard(), Some(Place::Fargate)),
        ("task image 120 s, a slot free", task(), free("standard"), fleet("standard")),
        ("task image 120 s, batch of 500", task(), batch, fleet("standard")),
        ("Custodian on a finding", custodian(), given(Tier::Priority), Some(Place::Fargate)),
        ("Custodian on a finding, warm fleet", custodian(), warm, Some(Place::Fargate)),
        ("Custodian, launches exhausted", custodian(), exhausted, fleet("standard")),
        ("nmap 5 s, synchronous", nmap(), given(Tier::Synchronous), fleet("standard")),
        ("12 GiB task image", large(), standard(), Some(Place::Fargate)),
        ("12 GiB task image with Docker", Needs { docker: true, ..large() }, standard(), None),
        ("Docker job", docker(), standard(), fleet("standard")),
        ("Docker job after two interruptions", docker(), twice, fleet("steady")),
    ]
}

/// Beyond the design's table: pins, favours, and what only some pools have.
fn more_on_aws() -> Vec<Case> {
    let fleet = |name: &str| Some(Place::Fleet(pool(name)));
    let pinned = |pin: Pin| Needs { only: vec![pin], ..builtin(Some(120)) };
    let favoured = |pin: Pin| Needs { prefer: vec![pin], ..builtin(Some(120)) };
    let steady = Pin::Pool(pool("steady"));
    vec![
        ("pinned to the function", pinned(Pin::Venue(Venue::Function)), standard(), Some(Place::Function)),
        ("pinned to a pool", pinned(steady), standard(), fleet("steady")),
        ("pinned to a pool there is not", pinned(Pin::Pool(pool("gpu"))), standard(), None),
        ("favours a pool", favoured(steady), standard(), fleet("steady")),
        ("favours a pool, synchronous", favoured(steady), given(Tier::Synchronous), Some(Place::Function)),
        ("from a known address", Needs { static_address: true, ..builtin(Some(5)) }, standard(), fleet("static")),
        ("not interruptible, network tools", Needs { interruptible: false, ..nmap() }, standard(), fleet("steady")),
        ("privileged", Needs { privileged: true, ..needs(Packaging::Image, Some(120)) }, standard(), fleet("standard")),
        ("built-in 451 s", builtin(Some(451)), standard(), Some(Place::Fargate)),
        (
            "built-in 5 s, 2 vCPU",
            Needs { milli_vcpu: 2000, ..builtin(Some(5)) },
            invocation(Tier::Synchronous, 29),
            Some(Place::Function),
        ),
        ("built-in, 16 vCPU", Needs { milli_vcpu: 16_000, ..builtin(Some(5)) }, standard(), Some(Place::Fargate)),
        ("built-in, 17 vCPU", Needs { milli_vcpu: 17_000, ..builtin(Some(5)) }, standard(), None),
        ("command 5 s", needs(Packaging::Command, Some(5)), standard(), Some(Place::Fargate)),
        (
            "isolated built-in",
            Needs { isolate: true, ..builtin(Some(5)) },
            invocation(Tier::Standard, 29),
            Some(Place::Fargate),
        ),
    ]
}

/// The same decision on one machine.
fn on_one_machine() -> Vec<Case> {
    let fleet = Some(Place::Fleet(PoolName::STANDARD));
    let command = |expected| needs(Packaging::Command, expected);
    vec![
        ("built-in 1 s", builtin(Some(1)), invocation(Tier::Priority, 29), Some(Place::Inline)),
        ("built-in, duration unknown", builtin(None), invocation(Tier::Standard, 29), Some(Place::Function)),
        ("command 5 s", command(Some(5)), standard(), fleet),
        ("command, duration unknown", command(None), standard(), fleet),
        ("command 5 s, synchronous", command(Some(5)), given(Tier::Synchronous), Some(Place::Fargate)),
        (
            "command 5 s, synchronous, a slot free",
            command(Some(5)),
            Conditions { free: vec![PoolName::STANDARD], ..given(Tier::Synchronous) },
            fleet,
        ),
        (
            "pinned to a task",
            Needs { only: vec![Pin::Venue(Venue::Fargate)], ..command(Some(30)) },
            standard(),
            Some(Place::Fargate),
        ),
        ("isolated command", Needs { isolate: true, ..command(Some(5)) }, standard(), Some(Place::Fargate)),
        ("not interruptible", Needs { interruptible: false, ..command(Some(5)) }, standard(), fleet),
        ("any image", needs(Packaging::Image, Some(5)), standard(), None),
        ("from a known address", Needs { static_address: true, ..command(Some(5)) }, standard(), None),
        ("more memory than there is", Needs { memory_mib: 200_000, ..command(Some(5)) }, standard(), None),
    ]
}

/// What an engine adds.
fn with_a_container_engine() -> Vec<Case> {
    let fleet = Some(Place::Fleet(PoolName::STANDARD));
    let image = |expected| needs(Packaging::Image, expected);
    vec![
        ("any image", image(Some(5)), standard(), fleet),
        ("any image, privileged", Needs { privileged: true, ..image(Some(5)) }, standard(), fleet),
        ("any image, in a task of its own", Needs { isolate: true, ..image(Some(5)) }, standard(), None),
        ("task image", needs(Packaging::TaskImage, Some(5)), standard(), fleet),
        (
            "isolated task image",
            Needs { isolate: true, ..needs(Packaging::TaskImage, Some(5)) },
            standard(),
            Some(Place::Fargate),
        ),
        ("runtime-API image", needs(Packaging::FunctionImage, Some(5)), standard(), None),
        ("image with the Docker daemon inside", Needs { docker: true, ..image(Some(5)) }, standard(), None),
        ("command 5 s", needs(Packaging::Command, Some(5)), standard(), fleet),
    ]
}

fn dollars(nanodollars: u64) -> String {
    format!("${}.{:06}", nanodollars / 1_000_000_000, nanodollars % 1_000_000_000 / 1000)
}

fn seconds(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms as f64 / 1000.0) }
}

fn row((case, needs, conditions, wanted): &Case, limits: &Limits) -> String {
    let (line, verdicts) = match route(needs, conditions, limits) {
        Ok(Route { place, choice, verdicts }) => {
            assert_eq!(Some(place), *wanted, "{case}: {verdicts:?}");
            (format!("{case:<38} -> {place}: {choice:?}"), verdicts)
        }
        Err(refused) => {
            assert_eq!(None, *wanted, "{case}: {refused}");
            (format!("{case:<38} -> refused"), refused.verdicts)
        }
    };
    let found = |verdict: &Verdict| {
        let rule = verdict.rejected.map_or("ok".to_owned(), |rule| format!("{rule:?}"));
        let (start, price) = (seconds(verdict.start_ms), dollars(verdict.nanodollars));
        format!("    {:<15} {rule:<17} {start:>7}  {price}", verdict.place.to_string())
    };
    format!("{line}\n{}", verdicts.iter().map(found).collect::<Vec<_>>().join("\n"))
}

fn table(cases: &[Case], limits: &Limits) -> String {
    cases.iter().map(|case| row(case, limits)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_whole_matrix() {
    let aws = Limits::default();
    let machine = Limits::default().on_one_machine(16 * 1024, 4_000, false);
    let with_an_engine = Limits::default().on_one_machine(16 * 1024, 4_000, true);
    let text = format!(
        "== on AWS: the design's table\n{}\n\n== on AWS: pins, favours, pools\n{}\n\n== on a machine with 16 GiB and 4 processors\n{}\n\n== on the same with a container engine\n{}",
        table(&on_aws(), &aws),
        table(&more_on_aws(), &aws),
        table(&on_one_machine(), &machine),
        table(&with_a_container_engine(), &with_an_engine),
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_missed_start_target_is_said() {
    let nmap = route(&nmap(), &given(Tier::Synchronous), &Limits::default()).unwrap();
    assert_eq!((nmap.venue(), nmap.choice), (Venue::Fleet, Choice::Soonest));
    assert!(nmap.choice.as_text().contains("start target missed"));
}

fn any_pin() -> impl Strategy<Value = Pin> {
    prop_oneof![
        proptest::sample::select(&Venue::ALL[..]).prop_map(Pin::Venue),
        proptest::sample::select(&["standard", "static", "steady", "none"][..]).prop_map(|name| Pin::Pool(pool(name))),
    ]
}

prop_compose! {
    fn any_needs()(
        packaging in proptest::sample::select(&[Packaging::Builtin, Packaging::Command, Packaging::TaskImage, Packaging::FunctionImage, Packaging::Image][..]),
        expected in proptest::option::of(0_u64..5_000),
        memory_mib in 1_u32..200_000,
        milli_vcpu in 1_u32..20_000,
        flags in any::<[bool; 6]>(),
        only in proptest::collection::vec(any_pin(), 0..3),
        prefer in proptest::collection::vec(any_pin(), 0..3),
    ) -> Needs {
        let [docker, privileged, network_tools, static_address, isolate, interruptible] = flags;
        Needs {
            packaging, expected: expected.map(Duration::from_secs), memory_mib, milli_vcpu, docker, privileged,
            network_tools, static_address, isolate, interruptible, only, prefer,
        }
    }
}

prop_compose! {
    fn any_conditions()(
        tier in proptest::sample::select(&Tier::ALL[..]),
        start_within in proptest::option::of(1_u64..2_000),
        left in proptest::option::of(0_u64..60),
        interruptions in 0_u32..4,
        launches_exhausted in any::<bool>(),
        free in proptest::collection::vec(proptest::sample::select(&["standard", "static", "steady"][..]), 0..3),
        companions in 0_u32..600,
    ) -> Conditions {
        Conditions {
            tier, start_within: start_within.map(Duration::from_secs), invocation_left: left.map(Duration::from_secs),
            interruptions, launches_exhausted, free: free.into_iter().map(pool).collect(), companions,
        }
    }
}

fn verdicts(needs: &Needs, conditions: &Conditions, limits: &Limits) -> Vec<Verdict> {
    match route(needs, conditions, limits) {
        Ok(route) => route.verdicts.to_vec(),
        Err(refused) => refused.verdicts.to_vec(),
    }
}

/// One more thing asked of the place.
fn with_one_more(needs: &Needs, which: usize) -> Needs {
    let more = needs.clone();
    match which {
        0 => Needs { docker: true, ..more },
        1 => Needs { privileged: true, ..more },
        2 => Needs { network_tools: true, ..more },
        3 => Needs { static_address: true, ..more },
        4 => Needs { isolate: true, ..more },
        5 => Needs { interruptible: false, ..more },
        6 => Needs { memory_mib: more.memory_mib.saturating_mul(2), ..more },
        7 => Needs { milli_vcpu: more.milli_vcpu.saturating_mul(2), ..more },
        8 => Needs { expected: more.expected.map(|expected| expected * 2), ..more },
        // A pin that was there first: fewer, but never none, which would mean anywhere.
        _ => Needs { only: more.only.first().map_or(vec![Pin::Venue(Venue::Fargate)], |pin| vec![*pin]), ..more },
    }
}

proptest! {
    #[test]
    fn asking_for_more_never_makes_a_place_feasible(needs in any_needs(), conditions in any_conditions(), which in 0_usize..10) {
        let limits = Limits::default();
        let before = verdicts(&needs, &conditions, &limits);
        let after = verdicts(&with_one_more(&needs, which), &conditions, &limits);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before.rejected.is_none() || after.rejected.is_some(), "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_was_chosen_is_still_chosen_when_it_becomes_cheaper(needs in any_needs(), conditions in any_conditions(), per_cent in 0_u64..100) {
        let limits = Limits::default();
        let Ok(before) = route(&needs, &conditions, &limits) else { return Ok(()) };
        let mut cheaper = limits.clone();
        let less = |price: &mut u64| *price = *price * per_cent / 100;
        match before.place {
            // Both are billed by the same price; what is inline was not chosen by it.
            Place::Inline | Place::Function => {
                less(&mut cheaper.prices.function_gib_second_picodollars);
                less(&mut cheaper.prices.function_request_nanodollars);
            }
            Place::Fargate => {
                less(&mut cheaper.prices.fargate_vcpu_hour_nanodollars);
                less(&mut cheaper.prices.fargate_gib_hour_nanodollars);
            }
            Place::Fleet(name) => {
                for pool in cheaper.pools.iter_mut().filter(|pool| pool.name == name) {
                    *pool = pool.clone().priced(pool.hour_nanodollars * per_cent / 100);
                }
            }
        }
        prop_assert_eq!(route(&needs, &conditions, &cheaper).unwrap().place, before.place);
    }

    #[test]
    fn every_place_is_judged_once_and_always_alike(needs in any_needs(), conditions in any_conditions()) {
        let limits = Limits::default();
        let first = verdicts(&needs, &conditions, &limits);
        prop_assert_eq!(first.len(), 3 + limits.pools.len());
        prop_assert!(first.is_sorted_by(|a, b| a.place < b.place));
        prop_assert_eq!(route(&needs, &conditions, &limits), route(&needs, &conditions, &limits));
        match route(&needs, &conditions, &limits) {
            Ok(route) => {
                let chosen = first.iter().find(|verdict| verdict.place == route.place).unwrap();
                prop_assert_eq!(chosen.rejected, None);
            }
            Err(_) => prop_assert!(first.iter().all(|verdict| verdict.rejected.is_some())),
        }
    }

    #[test]
    fn the_order_of_pools_changes_no_choice(needs in any_needs(), conditions in any_conditions()) {
        let limits = Limits::default();
        let mut turned = limits.clone();
        turned.pools.reverse();
        let place = |limits: &Limits| route(&needs, &conditions, limits).map(|route| (route.place, route.choice)).ok();
        prop_assert_eq!(place(&limits), place(&turned));
    }
}

/// A rule that no row of the table meets would be one that nobody has looked at.
#[test]
fn the_table_meets_every_rule_that_these_limits_have() {
    let mut met: Vec<Rule> = Vec::new();
    for (cases, limits) in [
        (on_aws(), Limits::default()),
        (more_on_aws(), Limits::default()),
        (on_one_machine(), Limits::default().on_one_machine(16 * 1024, 4_000, false)),
        (with_a_container_engine(), Limits::default().on_one_machine(16 * 1024, 4_000, true)),
        (on_aws(), Limits { pools: vec![], ..Limits::default() }),
    ] {
        for (_, needs, conditions, _) in &cases {
            met.extend(verdicts(needs, conditions, &limits).iter().filter_map(|verdict| verdict.rejected));
        }
    }
    for rule in Rule::ALL {
        assert!(met.contains(&rule), "{rule:?}");
    }
}
