//! Limits and pauses hold on the real program, however often it is killed: never more runs at once than a capability
//! may have, never fewer while jobs are held, and nothing that was paused starts.

#[expect(dead_code, reason = "the crash tests ask more of a yard than these do")]
mod yard;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use yard::chance::{Chance, number};
use yard::client::Client;
use yard::witness::Run;
use yard::{Yard, eventually, signal};

/// What the capability `limited` of the tests' catalog may have at once.
const LIMIT: u32 = 3;

/// The capability's line of GET /v1/yard: permits used and jobs held.
fn limited(client: &Client) -> (u64, u64) {
    let yard = client.get("/v1/yard");
    let found = yard["capabilities"].as_array().unwrap().iter().find(|line| line["capability"] == "limited");
    let line = found.unwrap_or_else(|| panic!("a limited capability is always shown: {yard}"));
    assert_eq!(line["limit"], LIMIT);
    (line["used"].as_u64().unwrap(), line["held"].as_u64().unwrap())
}

/// How the jobs ended: all of them well, but for the few that were killed as often as a job may be.
fn all_end_well(client: &Client, ids: &[String]) {
    for id in ids {
        let job = client.settled(id);
        let unlucky = job["error"]["code"] == "took_its_worker_down" && job["losses"] == 4;
        assert!(job["state"] == "succeeded" || unlucky, "{job}: {:?}", client.timeline(id));
    }
    assert_eq!(limited(client), (0, 0), "permits outlive their jobs");
}

fn most_at_once(runs: &BTreeMap<(String, u64), Run>) -> u32 {
    runs.values().map(|run| run.at_once).max().unwrap_or(0)
}

#[test]
fn a_limit_is_kept_and_reached_however_often_the_yard_is_killed() {
    let seed = Chance::seed();
    let kills = number("SWITCHYARD_TEST_KILLS").unwrap_or(8);
    println!("SWITCHYARD_TEST_SEED={seed} SWITCHYARD_TEST_KILLS={kills}");
    let mut chance = Chance::new(seed);
    // More slots than the limit: it is the limit that holds jobs back.
    let mut yard = Yard::open(8, 4);
    let client = yard.client();
    let submit = |n: u64, chance: &mut Chance| {
        let tier = if chance.percent(20) { "priority" } else { "standard" };
        client.submit(&format!("limited-{n}"), &json!({ "capability": "limited", "tier": tier })).0
    };
    let mut ids: Vec<String> = (0..40).map(|n| submit(n, &mut chance)).collect();
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(chance.between(20, 900)));
        yard.kill();
        yard.start();
        // While there are more than it may have, it has as many as it may: at once, and not at some later look.
        ids.extend((0..4).map(|n| submit(100 * kill + n, &mut chance)));
        let began = std::time::Instant::now();
        eventually("the limit to be reached after a restart", || {
            let (used, held) = limited(&client);
            assert!(used <= u64::from(LIMIT), "{used} permits are used");
            (used == u64::from(LIMIT) || held == 0).then_some(())
        });
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it took the sweep to reach the limit: {:?}",
            began.elapsed()
        );
    }
    all_end_well(&client, &ids);
    let runs = yard.witness().runs();
    assert_eq!(most_at_once(&runs), LIMIT, "{runs:?}");
    assert!(runs.values().all(|run| run.overlaps == 0 && run.starts == 1), "{runs:?}");
    yard.close_and_leave_nothing();
}

#[test]
fn what_is_paused_does_not_start_also_after_a_kill_and_goes_on_when_it_is_resumed() {
    let mut yard = Yard::open(8, 4);
    let client = yard.client();
    let submit = |name: &str, n: u32| client.submit(&format!("{name}-{n}"), &json!({ "capability": name })).0;
    let mut ids: Vec<String> = (0..12).map(|n| submit("limited", n)).collect();
    let task = submit("task", 0);
    let say = |what: &str, body: Value| {
        let answer = client.try_post(&format!("/v1/{what}"), None, &body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    client.settled(&task);
    let paused = say("pause", json!({ "scope": { "capability": "limited" }, "reason": "the scanner is down" }));
    assert_eq!(paused["pauses"][0]["reason"], "the scanner is down");
    say("pause", json!({ "scope": { "tier": "priority" } }));
    // What runs, runs to its end; then nothing of it runs.
    eventually("the last run to end", || (limited(&client).0 == 0).then_some(()));
    let before = yard_starts(&yard);
    ids.extend((100..104).map(|n| submit("limited", n)));
    let other = submit("quick", 1);
    assert_eq!(client.settled(&other)["state"], "succeeded", "another capability is not paused");
    let urgent = json!({ "capability": "quick", "tier": "priority" });
    let urgent = client.submit("urgent", &urgent).0;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(yard_starts(&yard), before + 1, "only the other capability's job has started");
    yard.kill();
    yard.start();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(yard_starts(&yard), before + 1, "a pause outlives its process");
    assert_eq!(client.get("/v1/yard")["pauses"].as_array().unwrap().len(), 2);
    let last = client.job(ids.last().unwrap());
    let why = last["why"].as_str().unwrap();
    assert_eq!(last["state"], "held");
    assert!(
        why.starts_with("held: capability limited is paused by local since ") && why.ends_with("(the scanner is down)"),
        "{why}"
    );
    assert!(client.job(&urgent)["why"].as_str().unwrap().starts_with("held: tier priority is paused by local since "));
    say("resume", json!({ "scope": { "capability": "limited" } }));
    assert_eq!(limited(&client).0, u64::from(LIMIT), "resumed at once, up to its limit");
    // Killed in the middle of going on: it goes on.
    yard.kill();
    yard.start();
    all_end_well(&client, &ids);
    assert_eq!(client.job(&urgent)["state"], "held", "the other pause is still in force");
    say("resume", json!({ "scope": { "tier": "priority" } }));
    assert_eq!(client.settled(&urgent)["state"], "succeeded");
    let again = client.try_post("/v1/resume", None, &json!({ "scope": "all" })).unwrap();
    assert_eq!((again.status, again.body["code"].as_str()), (409, Some("not_paused")));
    assert!(most_at_once(&yard.witness().runs()) <= LIMIT);
    yard.close_and_leave_nothing();
}

#[test]
fn a_limit_that_comes_while_jobs_run_without_one_is_not_exceeded() {
    let mut yard = Yard::open(10, 4);
    let client = yard.client();
    let submit = |n: u32| client.submit(&format!("hold-{n}"), &json!({ "capability": "hold" })).0;
    let mut ids: Vec<String> = (0..6).map(submit).collect();
    for id in &ids {
        client.until(id, "running");
    }
    let catalog = yard.policies().join("capabilities.yaml");
    let text = std::fs::read_to_string(&catalog).unwrap();
    let (before, after) = text.split_once("  - name: limited\n").unwrap();
    // `hold` stands last before it: what is added here is its.
    std::fs::write(&catalog, format!("{before}    limits: {{ concurrent: 2 }}\n  - name: limited\n{after}")).unwrap();
    let reloaded = client.try_post("/v1/reload", None, &json!({})).unwrap();
    assert_eq!((reloaded.status, &reloaded.body["changes"]), (200, &json!(["capability hold: changed"])));
    ids.extend((6..10).map(submit));
    let line = || {
        let yard = client.get("/v1/yard");
        let lines = yard["capabilities"].as_array().unwrap();
        lines.iter().find(|line| line["capability"] == "hold").cloned().unwrap()
    };
    std::thread::sleep(Duration::from_millis(500));
    let full = line();
    assert_eq!((&full["limit"], &full["used"], &full["held"]), (&json!(2), &json!(6), &json!(4)), "{full}");
    let why = client.job(&ids[9])["why"].as_str().unwrap().to_owned();
    assert!(why.ends_with("6 of 2 in use"), "{why}");
    let cancelled = |id: &String| {
        client.try_post(&format!("/v1/jobs/{id}/cancel"), None, &json!({})).unwrap();
        client.settled(id);
    };
    ids[..4].iter().for_each(cancelled);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(yard_starts(&yard), 6, "two run, as many as may");
    cancelled(&ids[4]);
    eventually("the next one to start", || (yard_starts(&yard) == 7).then_some(()));
    assert_eq!((&line()["used"], &line()["held"]), (&json!(2), &json!(3)));
    // Raised by a hangup: who was held for it goes on at once, and not with some later sweep.
    let began = std::time::Instant::now();
    let text = std::fs::read_to_string(&catalog).unwrap();
    std::fs::write(&catalog, text.replace("limits: { concurrent: 2 }", "limits: { concurrent: 4 }")).unwrap();
    signal(yard.pid(), Signal::HUP);
    eventually("two more to start", || (yard_starts(&yard) == 9).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(20), "it took the sweep: {:?}", began.elapsed());
    yard.witness().let_go();
    for id in &ids[5..] {
        assert_eq!(client.settled(id)["state"], "succeeded");
    }
    yard.close_and_leave_nothing();
}

/// How many runs have started.
fn yard_starts(yard: &Yard) -> usize {
    yard.witness().runs().len()
}
