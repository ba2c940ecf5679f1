//! Tiers are strict and room is kept, on the real program under load.

#[expect(dead_code, reason = "this test kills nothing, and needs only a part of what the crash tests do")]
mod yard;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Barrier;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use yard::Yard;
use yard::chance::{Chance, number};
use yard::client::Client;

const TIERS: [&str; 3] = ["synchronous", "priority", "standard"];

/// A job as it was submitted, and what became of it, in milliseconds since 1970.
#[derive(Debug)]
struct Seen {
    tier: usize,
    /// When its submitter had the answer: by then its doorbell had rung.
    answered: i64,
    claimed: i64,
    settled: i64,
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// When the timeline's entry with that reason was written.
fn at(timeline: &[Value], reason: &str) -> i64 {
    let entry = timeline.iter().find(|entry| entry["reason"] == reason);
    let entry = entry.unwrap_or_else(|| panic!("no `{reason}` in {timeline:?}"));
    let at: jiff::Timestamp = entry["at"].as_str().unwrap().parse().unwrap();
    at.as_millisecond()
}

/// Adds a capability of the witness's script to the yard's catalog, on workers only.
fn add(yard: &Yard, name: &str, kind: &str, memory_mib: u64) {
    let folder = yard.policies();
    let mut catalog = OpenOptions::new().append(true).open(folder.join("capabilities.yaml")).unwrap();
    let script = folder.join("run.sh");
    write!(
        catalog,
        "  - name: {name}\n    summary: On a worker\n    run: {{ command: [/bin/sh, \"{}\", {kind}] }}\n    \
         needs: {{ expected_seconds: 1, timeout_seconds: 600, memory_mib: {memory_mib} }}\n    \
         route: {{ only: [fleet] }}\n",
        script.display()
    )
    .unwrap();
}

fn submit(client: &Client, key: &str, capability: &str, tier: &str) -> String {
    client.submit(key, &json!({ "capability": capability, "payload": {}, "tier": tier })).0
}

#[test]
fn no_job_starts_while_one_of_a_higher_tier_waits() {
    let seed = Chance::seed();
    let each = number("SWITCHYARD_TEST_JOBS").unwrap_or(30);
    println!("SWITCHYARD_TEST_SEED={seed} SWITCHYARD_TEST_JOBS={each}");
    let mut yard = Yard::new(1, 1);
    add(&yard, "slot", "quick", 16);
    add(&yard, "slot-hold", "hold", 16);
    yard.start();
    let client = yard.client();
    // Holds the slot until all tiers are full, whatever this machine is busy with.
    let hold = submit(&client, "hold", "slot-hold", "standard");
    yard.witness().held(&hold, 1);
    let full = Barrier::new(TIERS.len() + 1);
    let submitting = |tier: usize, client: Client| {
        let mut chance = Chance::new(seed ^ tier as u64);
        let mut answered = Vec::new();
        for n in 0..each {
            let id = submit(&client, &format!("{tier}-{n}"), "slot", TIERS[tier]);
            answered.push((id, tier, now_ms()));
            if n == each / 2 {
                full.wait();
            }
            // Then about as fast as one slot drains: the tiers fill on, and run empty too.
            std::thread::sleep(Duration::from_millis(chance.between(0, if n < each / 2 { 5 } else { 60 })));
        }
        answered
    };
    let answered: Vec<(String, usize, i64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TIERS.len())
            .map(|tier| {
                let client = yard.client();
                scope.spawn(move || submitting(tier, client))
            })
            .collect();
        full.wait();
        yard.witness().let_go();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut seen: Vec<Seen> = answered
        .into_iter()
        .map(|(id, tier, answered)| {
            assert_eq!(client.settled(&id)["state"], "succeeded");
            let timeline = client.timeline(&id);
            Seen { tier, answered, claimed: at(&timeline, "claimed"), settled: at(&timeline, "succeeded") }
        })
        .collect();
    seen.sort_by_key(|job| (job.claimed, job.settled));
    let (mut passed, mut contested) = (0, 0);
    for pair in 1..seen.len() {
        let (before, started) = (&seen[pair - 1], &seen[pair]);
        assert!(before.settled <= started.claimed, "one slot runs one job: {before:?} {started:?}");
        // Who waited when the slot was still taken: the sweep that started this one saw them all.
        let waiting: Vec<&Seen> = seen[pair + 1..].iter().filter(|other| other.answered < before.settled).collect();
        let higher = waiting.iter().find(|other| other.tier < started.tier);
        assert!(higher.is_none(), "{started:?} started while {higher:?} waited; before it ran {before:?}");
        passed +=
            usize::from(waiting.iter().any(|other| other.tier > started.tier && other.answered < started.answered));
        contested += usize::from(waiting.iter().any(|other| other.tier != started.tier));
    }
    println!(
        "of {} starts, {contested} had other tiers waiting, {passed} went before an older job of a lower one",
        seen.len()
    );
    assert!(passed >= 5 && contested >= 20, "the slot was not under load");
    assert_eq!(yard.witness().runs().len(), seen.len() + 1);
    yard.close_and_leave_nothing();
}

#[test]
fn a_large_job_is_not_starved_and_only_a_higher_tier_passes_it() {
    let mut yard = Yard::open(2, 1);
    let client = yard.client();
    let workers = client.get("/v1/workers");
    let worker = &workers["workers"][0];
    let memory = worker["capacity"]["memory_mib"].as_u64().unwrap();
    assert_eq!((worker["capacity"]["slots"].as_u64(), worker["used"]["slots"].as_u64()), (Some(2), Some(0)));
    yard.close_and_leave_nothing();
    add(&yard, "small-hold", "hold", 16);
    add(&yard, "small", "quick", 16);
    add(&yard, "large", "quick", memory);
    add(&yard, "huge", "quick", memory + 1);
    yard.start();
    let hold = submit(&client, "hold", "small-hold", "standard");
    yard.witness().held(&hold, 1);
    let large = submit(&client, "large", "large", "priority");
    let refused = client.try_post("/v1/jobs", None, &json!({ "capability": "huge" })).unwrap();
    assert_eq!((refused.status, refused.body["code"].as_str()), (422, Some("no_feasible_venue")));
    // Time for the large one's claim.
    std::thread::sleep(Duration::from_millis(300));
    let later: Vec<String> = (0..6).map(|n| submit(&client, &format!("later-{n}"), "small", "standard")).collect();
    let same = submit(&client, "same", "small", "priority");
    let higher = submit(&client, "higher", "small", "synchronous");
    assert_eq!(client.settled(&higher)["state"], "succeeded", "there is a slot for it");
    std::thread::sleep(Duration::from_millis(300));
    for id in later.iter().chain([&large, &same]) {
        assert_eq!(client.job(id)["state"], "dispatched", "{:?}", client.timeline(id));
    }
    let worker = client.get("/v1/workers")["workers"][0].clone();
    let runs: Vec<&Value> = worker["runs"].as_array().unwrap().iter().map(|run| &run["job"]).collect();
    assert_eq!((worker["used"]["slots"].as_u64(), runs), (Some(1), vec![&json!(hold)]));
    // Asked to close with one in hand: nothing of it is lost, and it has its turn after the next start.
    yard.close_and_leave_nothing();
    yard.witness().let_go();
    yard.start();
    let mut claims = BTreeMap::new();
    for id in later.iter().chain([&hold, &large, &same]) {
        let job = client.settled(id);
        let counts = ["interruptions", "attempts_spent", "losses"].map(|what| job[what].as_u64().unwrap());
        assert_eq!((job["state"].as_str(), counts), (Some("succeeded"), [u64::from(*id == hold), 0, 0]));
        let claimed = client.timeline(id).iter().rposition(|entry| entry["reason"] == "claimed").unwrap();
        claims.insert(id.clone(), at(&client.timeline(id)[claimed..], "claimed"));
    }
    assert!(later.iter().all(|id| claims[id] >= claims[&large]), "of a lower tier: {claims:?}");
    yard.close_and_leave_nothing();
}

#[test]
fn a_job_that_is_larger_than_the_yard_after_a_restart_is_not_stuck() {
    // Each slot brings a processor, where the machine has fewer.
    let processors = u16::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let mut yard = Yard::new(processors + 1, 1);
    add(&yard, "small-hold", "hold", 16);
    let large = |name: &str, route: &str| {
        let mut catalog = OpenOptions::new().append(true).open(yard.policies().join("capabilities.yaml")).unwrap();
        write!(
            catalog,
            "  - name: {name}\n    summary: Larger than the machine\n    run: {{ command: [\"true\"] }}\n    \
             needs: {{ expected_seconds: 1, timeout_seconds: 600, memory_mib: 16, vcpu: {} }}\n    route: {route}\n",
            processors + 1
        )
        .unwrap();
    };
    large("large", "{ prefer: [fleet] }");
    large("large-pinned", "{ only: [fleet] }");
    yard.start();
    let client = yard.client();
    let hold = submit(&client, "hold", "small-hold", "priority");
    yard.witness().held(&hold, 1);
    let larger = ["large", "large-pinned"].map(|name| submit(&client, name, name, "standard"));
    for id in &larger {
        assert_eq!(client.job(id)["venue"], "fleet", "{:?}", client.timeline(id));
    }
    yard.close_and_leave_nothing();
    yard.slots = 1;
    yard.witness().let_go();
    yard.start();
    let [moved, pinned] = larger.each_ref().map(|id| client.settled(id));
    assert_eq!(
        (pinned["state"].as_str(), pinned["error"]["code"].as_str()),
        (Some("failed"), Some("no_feasible_venue"))
    );
    // The largest task has 16 processors.
    if processors < 16 {
        assert_eq!((moved["state"].as_str(), moved["venue"].as_str()), (Some("succeeded"), Some("fargate")));
    }
    yard.close_and_leave_nothing();
}

#[test]
fn small_jobs_that_keep_coming_do_not_starve_a_large_one() {
    let mut yard = Yard::open(2, 1);
    let client = yard.client();
    let memory = client.get("/v1/workers")["workers"][0]["capacity"]["memory_mib"].as_u64().unwrap();
    yard.close_and_leave_nothing();
    add(&yard, "small", "quick", 16);
    add(&yard, "large", "quick", memory);
    yard.start();
    let small = |n: u32| submit(&client, &format!("small-{n}"), "small", "standard");
    let mut smalls: Vec<String> = (0..10).map(small).collect();
    let large = submit(&client, "large", "large", "standard");
    let answered = smalls.len();
    smalls.extend((10..40).map(small));
    assert_eq!(client.settled(&large)["state"], "succeeded");
    let claimed = at(&client.timeline(&large), "claimed");
    let before = smalls[answered..].iter().filter(|id| {
        client.settled(id);
        at(&client.timeline(id), "claimed") < claimed
    });
    // One may have been received together with it.
    let before = before.count();
    assert!(before <= 2, "{before} small ones of its tier that came later started before it");
    yard.close_and_leave_nothing();
}
