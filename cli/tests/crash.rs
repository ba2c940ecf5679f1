//! The yard is killed, again and again, and keeps its word: no accepted job is lost, none ends twice, attempts are
//! counted right, and nothing that a run started outlives it.

mod yard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use yard::chance::{Chance, number};
use yard::client::{Client, is_settled};
use yard::witness::Run;
use yard::{Yard, eventually, is_alive, signal};

/// Losses after which a job is taken for the reason of them (`settle::LOSSES`).
const LOSSES: u64 = 4;
/// Entries a timeline keeps (`job::TIMELINE_ENTRIES`): a longer one has lost its middle and cannot be counted.
const TIMELINE_ENTRIES: usize = 40;

/// One submission of the storm, and what its submitter was told.
#[derive(Debug)]
struct Accepted {
    key: String,
    body: Value,
    id: String,
    cancelled: bool,
}

/// What the storm did beside what it proved.
#[derive(Debug, Default)]
struct Weather {
    kills: u64,
    restarts: Duration,
    slowest_restart: Duration,
}

/// Jobs flow while the yard is killed at random moments and started again at once.
/// How often the threads of a process have been switched onto a processor (proc(5), `/proc/pid/task/tid/status`).
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |status: String| -> u64 {
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
    };
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok()).map(of_task).sum()
}

#[test]
fn a_run_that_began_while_another_ran_hears_its_cancel_at_once() {
    let mut yard = Yard::open(2, 2);
    let client = yard.client();
    let hold = |key: &str| client.submit(key, &json!({ "capability": "hold", "payload": {} })).0;
    let first = hold("first");
    client.until(&first, "running");
    let second = hold("second");
    client.until(&second, "running");
    // Past the moment in which a beat would have gone out anyway.
    std::thread::sleep(Duration::from_secs(2));
    let asked = Instant::now();
    client.try_post(&format!("/v1/jobs/{second}/cancel"), None, &json!({})).unwrap();
    assert_eq!(client.settled(&second)["state"], "cancelled");
    // A beat is due every 15 s: an order that waited for the next one would take about that long.
    assert!(asked.elapsed() < Duration::from_secs(8), "heard after {:?}", asked.elapsed());
    client.try_post(&format!("/v1/jobs/{first}/cancel"), None, &json!({})).unwrap();
    client.settled(&first);
    yard.close_and_leave_nothing();
}

#[test]
fn policies_and_records_may_change_under_a_yard() {
    let mut yard = Yard::open(2, 2);
    let client = yard.client();
    let later = json!({ "capability": "quick", "payload": {}, "delay_seconds": 3600 });
    let (kept, _) = client.submit("kept", &later);
    let (spoilt, _) = client.submit("spoilt", &later);
    // Half-edited policies: tasks have what the yard read when it opened.
    let policies = yard.policies().join("capabilities.yaml");
    let catalog = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, "version: 1\ncapabilities: [").unwrap();
    let (task, _) = client.submit("task", &json!({ "capability": "task", "payload": {} }));
    assert_eq!(client.settled(&task)["state"], "succeeded");
    yard.close_and_leave_nothing();
    // The capability is gone, and one record is of a version that nobody knows.
    std::fs::write(&policies, catalog.replace("name: quick\n", "name: other\n")).unwrap();
    let spoil = "UPDATE jobs SET record = replace(record, '\"v\":2', '\"v\":9') WHERE record LIKE '%' || ?1 || '%'";
    assert_eq!(yard.database().execute(spoil, [&spoilt]).unwrap(), 1);
    yard.start();
    assert_eq!(client.submit("kept", &later).0, kept, "a known key is answered whatever the catalog says");
    let refused = client.try_post("/v1/jobs", Some("new"), &later).unwrap();
    assert_eq!((refused.status, refused.body["code"].as_str()), (422, Some("unknown_capability")));
    let listed = client.jobs("");
    assert!(listed.contains_key(&kept) && !listed.contains_key(&spoilt), "one bad record hides no other");
    yard.close_and_leave_nothing();
}

#[test]
fn a_yard_with_nothing_to_do_does_nothing() {
    let mut yard = Yard::open(2, 2);
    let client = yard.client();
    let quick = |key: &str| client.submit(key, &json!({ "capability": "quick", "payload": {} })).0;
    client.settled(&quick("first"));
    // One that waits for its moment is one timer, and no reason to look again and again.
    client.submit("later", &json!({ "capability": "quick", "payload": {}, "delay_seconds": 3600 }));
    // The last beat of the worker may still be waiting for its answer: a quarter of a minute, once.
    std::thread::sleep(Duration::from_secs(1));
    let before = switches(yard.pid());
    std::thread::sleep(Duration::from_secs(4));
    let woken = switches(yard.pid()) - before;
    println!("switches of an idle yard in 4 s: {woken}");
    // A loop that polled once a second would be seen: each round wakes more than one thread.
    assert!(woken < 8, "an idle yard was switched onto a processor {woken} times in 4 s");
    // And it is awake at once when there is something to do.
    client.settled(&quick("second"));
    yard.close_and_leave_nothing();
}

#[test]
fn a_yard_killed_again_and_again_keeps_every_job_it_accepted() {
    let seed = Chance::seed();
    let kills = number("SWITCHYARD_TEST_KILLS").unwrap_or(25);
    let jobs = number("SWITCHYARD_TEST_JOBS").unwrap_or(1000);
    println!("SWITCHYARD_TEST_SEED={seed} SWITCHYARD_TEST_KILLS={kills} SWITCHYARD_TEST_JOBS={jobs}");
    let began = Instant::now();
    let mut yard = Yard::open(4, 4);
    let (accepted, weather) = storm(&mut yard, seed, kills, jobs);
    let flowed = began.elapsed();
    let listed = drained(&yard.client());
    let drained = began.elapsed();
    let retries = same_keys_give_the_same_jobs(&yard.client(), &accepted);
    let facts = audit(&yard, &accepted, &listed);
    announcements_were_made(&yard, &accepted, &listed);
    let closing = yard.close_and_leave_nothing();
    println!(
        "{} kills, {} jobs; {flowed:.1?} of storm, {drained:.1?} until all had ended, {:.1?} in all; restarts {:.0?} on \
         average, {:.0?} at most; closing {closing:.0?}; {retries} keys sent again; {facts:?}",
        weather.kills,
        accepted.len(),
        began.elapsed(),
        weather.restarts / u32::try_from(weather.kills.max(1)).unwrap(),
        weather.slowest_restart,
    );
}

/// What submission number `n` asks for, and whether it is cancelled as soon as it is accepted.
fn submission(n: u64, chance: &mut Chance) -> (Value, bool) {
    let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
    let (capability, payload, cancelled) = match chance.between(1, 100) {
        1..=60 => ("quick", json!({ "n": n }), false),
        61..=72 => ("flaky", json!({ "n": n }), false),
        73..=80 => ("task", json!({ "n": n }), false),
        81..=82 => ("slow", json!({ "n": n }), false),
        83..=92 => ("finding-triage", json!({ "event": event }), false),
        93 => ("slow", json!({ "n": n }), true),
        _ => ("quick", json!({ "n": n }), true),
    };
    let mut body = json!({ "capability": capability, "payload": payload, "announce": chance.percent(20) });
    if chance.percent(6) {
        body["delay_seconds"] = json!(1);
    }
    if chance.percent(10) {
        body["tier"] = json!("priority");
    }
    (body, cancelled)
}

/// Submits from many threads while the yard is killed; answers what was accepted.
fn storm(yard: &mut Yard, seed: u64, kills: u64, jobs: u64) -> (Vec<Accepted>, Weather) {
    let (next, killed) = (AtomicU64::new(0), AtomicU64::new(0));
    let accepted = Mutex::new(Vec::new());
    let mut weather = Weather::default();
    let submit = |thread: u64, client: &Client| {
        let mut chance = Chance::new(seed ^ (thread + 1));
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= jobs {
                return;
            }
            // Spread over the whole storm: so many jobs for each kill, at no particular moment of it.
            while killed.load(Ordering::Relaxed) * jobs < n.saturating_sub(jobs / kills.max(1)) * kills {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_millis(chance.between(0, 60)));
            let (body, cancelled) = submission(n, &mut chance);
            let key = format!("storm-{n}");
            let (id, _) = client.submit(&key, &body);
            if cancelled {
                // May fail with the yard, or come too late: then the job ends like any other.
                let _ = client.try_post(&format!("/v1/jobs/{id}/cancel"), None, &json!({}));
            }
            if chance.percent(5) {
                assert_eq!(client.submit(&key, &body).0, id, "{key}: the same key is the same job");
            }
            accepted.lock().unwrap().push(Accepted { key, body, id, cancelled });
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (client, submit) = (yard.client(), &submit);
            scope.spawn(move || submit(thread, &client));
        }
        let mut chance = Chance::new(seed);
        for kill in 1..=kills {
            std::thread::sleep(Duration::from_millis(chance.between(20, 250)));
            yard.kill();
            let restart = yard.start();
            weather.restarts += restart;
            weather.slowest_restart = weather.slowest_restart.max(restart);
            weather.kills = kill;
            killed.store(kill, Ordering::Relaxed);
        }
    });
    (accepted.into_inner().unwrap(), weather)
}

/// Every job, once all have ended.
fn drained(client: &Client) -> BTreeMap<String, Value> {
    let began = Instant::now();
    loop {
        let waiting: Vec<Value> = ["delayed", "held", "dispatched", "running"]
            .into_iter()
            .flat_map(|state| client.jobs(&format!("&state={state}")).into_values())
            .collect();
        if waiting.is_empty() {
            return client.jobs("");
        }
        if began.elapsed() > Duration::from_secs(180) {
            let shown: Vec<String> = waiting
                .iter()
                .take(20)
                .map(|job| {
                    format!(
                        "{} {} {} epoch {}: {}",
                        job["id"], job["capability"], job["state"], job["epoch"], job["why"]
                    )
                })
                .collect();
            panic!("{} jobs have not ended after {:?}:\n{}", waiting.len(), began.elapsed(), shown.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The same keys again, after everything: nothing new comes of it. Answers how many.
fn same_keys_give_the_same_jobs(client: &Client, accepted: &[Accepted]) -> usize {
    let again: Vec<&Accepted> = accepted.iter().step_by(10).collect();
    for job in &again {
        assert_eq!(client.submit(&job.key, &job.body), (job.id.clone(), 1), "{}: the same key, the same job", job.key);
    }
    again.len()
}

/// What the audit counted.
#[derive(Debug, Default)]
struct Facts {
    succeeded: u64,
    cancelled: u64,
    took_its_worker_down: u64,
    losses: u64,
    attempts_spent: u64,
    timelines_cut: u64,
}

/// Holds what the yard says of every job against what was accepted and what the jobs themselves wrote down.
fn audit(yard: &Yard, accepted: &[Accepted], listed: &BTreeMap<String, Value>) -> Facts {
    let client = yard.client();
    let runs = yard.witness().runs();
    let mut facts = Facts::default();
    let mut wrong = Vec::new();
    let ids: BTreeSet<&String> = accepted.iter().map(|job| &job.id).collect();
    if ids.len() != accepted.len() {
        wrong.push("two keys gave one job".to_owned());
    }
    wrong.extend(listed.keys().filter(|id| !ids.contains(id)).map(|id| format!("{id}: nobody submitted it")));
    for ((id, epoch), run) in &runs {
        if !ids.contains(id) || run.starts != 1 || run.ends + run.failures > 1 || run.overlaps > 0 {
            wrong.push(format!("{id}: its run at epoch {epoch} must be one, of a job that was accepted: {run:?}"));
        }
    }
    for job in accepted {
        let Some(view) = listed.get(&job.id) else {
            wrong.push(format!("{}: job {} was accepted and is not there", job.key, job.id));
            continue;
        };
        let timeline = client.timeline(&job.id);
        let of_job: Vec<(u64, &Run)> =
            runs.iter().filter(|((id, _), _)| *id == job.id).map(|((_, epoch), run)| (*epoch, run)).collect();
        let mut faults = Vec::new();
        judge_end(job, view, &of_job, &mut faults, &mut facts);
        judge_timeline(view, &timeline, &of_job, &mut faults, &mut facts);
        if !faults.is_empty() {
            let told: Vec<String> = timeline.iter().map(Value::to_string).collect();
            wrong.push(format!("{} {view}\n  {}\n  {of_job:?}\n  {}", job.key, faults.join("; "), told.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{} defects:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    // A job must be lost four times before its own end: in a storm of this strength few are.
    assert!(facts.took_its_worker_down * 20 <= accepted.len() as u64, "{facts:?}");
    facts
}

/// How the job ended, and whether it may have.
fn judge_end(job: &Accepted, view: &Value, runs: &[(u64, &Run)], faults: &mut Vec<String>, facts: &mut Facts) {
    let losses = view["losses"].as_u64().unwrap();
    let spent = view["attempts_spent"].as_u64().unwrap();
    facts.losses += losses;
    facts.attempts_spent += spent;
    match view["state"].as_str().unwrap() {
        "succeeded" => {
            facts.succeeded += 1;
            let ended = runs.iter().any(|(epoch, run)| view["epoch"] == *epoch && run.ends == 1);
            if job.body["capability"] != "finding-triage" && !ended {
                faults.push("it succeeded at an epoch whose run did not come to its end".to_owned());
            }
        }
        "cancelled" if job.cancelled => facts.cancelled += 1,
        "failed" if view["error"]["code"] == "took_its_worker_down" && losses == LOSSES => {
            facts.took_its_worker_down += 1;
        }
        other => faults.push(format!("it {other}")),
    }
    if losses > LOSSES {
        faults.push(format!("it was lost {losses} times"));
    }
    if view["interruptions"] != 0 {
        faults.push("it was interrupted, and nobody interrupted it".to_owned());
    }
    let failures: u64 = runs.iter().map(|(_, run)| u64::from(run.failures)).sum();
    if spent > failures {
        faults.push(format!("{spent} attempts are spent, and it failed {failures} times"));
    }
}

/// Whether the job's history is one that can be.
fn judge_timeline(view: &Value, timeline: &[Value], runs: &[(u64, &Run)], faults: &mut Vec<String>, facts: &mut Facts) {
    let ends = timeline.iter().filter(|entry| is_settled(entry)).count();
    if ends != 1 || !timeline.last().is_some_and(is_settled) {
        faults.push(format!("it ended {ends} times, or went on after its end"));
    }
    if timeline.len() >= TIMELINE_ENTRIES {
        facts.timelines_cut += 1;
        return;
    }
    let count = |reasons: &[&str]| {
        timeline.iter().filter(|entry| reasons.contains(&entry["reason"].as_str().unwrap_or_default())).count() as u64
    };
    let mut expect = |what: &str, counted: u64| {
        if view[what] != counted {
            faults.push(format!("{what} is {}, the timeline has {counted}", view[what]));
        }
    };
    expect("attempts_spent", count(&["attempt_failed", "attempts_spent", "failed_for_good", "timed_out"]));
    expect("losses", count(&["holder_lost", "took_its_worker_down"]));
    expect("interruptions", count(&["interrupted"]));
    let claimed: Vec<u64> = timeline
        .iter()
        .filter(|entry| entry["reason"] == "claimed")
        .map(|entry| entry["epoch"].as_u64().unwrap())
        .collect();
    if claimed.windows(2).any(|pair| pair[0] >= pair[1]) {
        faults.push(format!("an epoch was claimed twice: {claimed:?}"));
    }
    if let Some((epoch, _)) = runs.iter().find(|(epoch, _)| !claimed.contains(epoch)) {
        faults.push(format!("epoch {epoch} ran and was not claimed"));
    }
}

/// Every announced end is in the events file, by the time that the yard pays what a crash left owing.
fn announcements_were_made(yard: &Yard, accepted: &[Accepted], listed: &BTreeMap<String, Value>) {
    let announced = accepted.iter().filter(|job| job.body["announce"] == true && listed.contains_key(&job.id));
    let announced: BTreeSet<&str> = announced.map(|job| job.id.as_str()).collect();
    assert!(!announced.is_empty());
    eventually("every announcement", || {
        let events = yard.events();
        let told: BTreeSet<&str> = events.iter().filter_map(|event| event["detail"]["id"].as_str()).collect();
        if let Some(other) = told.difference(&announced).next() {
            panic!("job {other} was announced, and nobody asked for it");
        }
        // Half a minute is what the yard takes for it: the file is long, and need not be read so often.
        std::thread::sleep(Duration::from_millis(200));
        (told == announced).then_some(())
    });
}

/// SIGTERM: what runs is given back, at no cost to the job, and the next start finishes it.
#[test]
fn a_yard_that_is_asked_to_close_gives_back_what_it_runs() {
    let mut yard = Yard::open(2, 2);
    let client = yard.client();
    let submit = |key: &str, capability: &str| client.submit(key, &json!({ "capability": capability })).0;
    let ids = [submit("a", "hold"), submit("b", "hold"), submit("c", "hold-task"), submit("d", "hold-task")];
    let held: Vec<u32> = ids.iter().flat_map(|id| yard.witness().held(id, 1)).collect();
    // These wait for a place, and go on waiting.
    let waiting = [submit("e", "quick"), submit("f", "task")];
    assert_eq!((held.len(), held.iter().all(|pid| is_alive(*pid))), (8, true));
    let took = yard.close_and_leave_nothing();
    // Nothing here needs its grace of 10 s, and nobody is connected but an idle client.
    assert!(took < Duration::from_secs(8), "{took:?}");
    yard.witness().let_go();
    yard.start();
    for id in &ids {
        let job = client.settled(id);
        let told = client.timeline(id);
        assert_eq!(job["state"], "succeeded", "{told:?}");
        let counts = ["epoch", "interruptions", "attempts_spent", "losses"].map(|what| job[what].as_u64().unwrap());
        assert_eq!(counts, [2, 1, 0, 0], "{told:?}");
        let reasons: Vec<&str> = told.iter().filter_map(|entry| entry["reason"].as_str()).collect();
        assert_eq!(reasons[1..], ["claimed", "interrupted", "claimed", "succeeded"]);
    }
    for id in &waiting {
        let job = client.settled(id);
        let counts = ["epoch", "interruptions", "attempts_spent", "losses"].map(|what| job[what].as_u64().unwrap());
        assert_eq!((job["state"].as_str(), counts), (Some("succeeded"), [1, 0, 0, 0]), "{:?}", client.timeline(id));
    }
    assert!(yard.witness().runs().values().all(|run| run.overlaps == 0));
    yard.close_and_leave_nothing();
}

/// SIGTERM while tasks are on their way up, before they have claimed: nothing of the jobs has failed.
#[test]
fn a_task_that_has_to_leave_before_it_claimed_has_failed_nothing() {
    let seed = Chance::seed();
    println!("SWITCHYARD_TEST_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut yard = Yard::open(1, 3);
    let client = yard.client();
    let mut ids = Vec::new();
    for round in 0..10 {
        let submit = |n| client.submit(&format!("{round}-{n}"), &json!({ "capability": "task" })).0;
        ids.extend((0..3).map(submit));
        std::thread::sleep(Duration::from_millis(chance.between(0, 30)));
        yard.close_and_leave_nothing();
        yard.start();
    }
    for id in &ids {
        let job = client.settled(id);
        let told = client.timeline(id);
        assert_eq!(job["state"], "succeeded", "{told:?}");
        assert_eq!((&job["attempts_spent"], &job["losses"]), (&json!(0), &json!(0)), "{told:?}");
        let expected = ["accepted", "claimed", "interrupted", "succeeded"];
        let other = told.iter().find(|entry| !expected.contains(&entry["reason"].as_str().unwrap_or_default()));
        assert_eq!(other, None, "{told:?}");
    }
    yard.close_and_leave_nothing();
}

/// A task that is killed has failed an attempt, and what it had started goes with it.
#[test]
fn a_killed_task_takes_its_command_along_and_is_tried_again() {
    let mut yard = Yard::open(1, 1);
    let client = yard.client();
    let (id, _) = client.submit("a", &json!({ "capability": "hold-task" }));
    let held = yard.witness().held(&id, 1);
    client.until(&id, "running");
    yard.witness().let_go();
    signal(yard.worker_of(&id), Signal::KILL);
    let job = client.settled(&id);
    let told = client.timeline(&id);
    assert_eq!(job["state"], "succeeded", "{told:?}");
    assert_eq!((&job["attempts_spent"], &job["losses"], &job["epoch"]), (&json!(1), &json!(0), &json!(2)), "{told:?}");
    let failed: Vec<&Value> = told.iter().filter(|entry| entry["reason"] == "attempt_failed").collect();
    assert_eq!(failed.len(), 1, "{told:?}");
    assert!(failed[0]["detail"].as_str().unwrap().starts_with("ended_without_report"), "{told:?}");
    assert!(held.iter().all(|pid| !is_alive(*pid)), "the command outlives its worker");
    assert!(yard.witness().runs().values().all(|run| run.overlaps == 0));
    yard.close_and_leave_nothing();
}

/// The yard is killed while runs have processes that left their group and session: all are gone before the job
/// runs again.
#[test]
fn a_killed_yard_s_processes_are_gone_before_their_jobs_run_again() {
    let mut yard = Yard::open(1, 1);
    let client = yard.client();
    let ids = ["hold", "hold-task"].map(|name| client.submit(name, &json!({ "capability": name })).0);
    let held: Vec<u32> = ids.iter().flat_map(|id| yard.witness().held(id, 1)).collect();
    yard.kill();
    assert!(held.iter().any(|pid| is_alive(*pid)), "a killed yard takes nothing along: else this proves nothing");
    yard.start();
    assert!(held.iter().all(|pid| !is_alive(*pid)), "a process of the killed yard is alive when the next one answers");
    for id in &ids {
        yard.witness().held(id, 2);
    }
    yard.witness().let_go();
    for id in &ids {
        let job = client.settled(id);
        assert_eq!(
            (&job["state"], &job["losses"], &job["attempts_spent"]),
            (&json!("succeeded"), &json!(1), &json!(0))
        );
    }
    let runs = yard.witness().runs();
    assert_eq!(runs.len(), 4, "{runs:?}");
    assert!(runs.values().all(|run| run.overlaps == 0), "{runs:?}");
    yard.close_and_leave_nothing();
}

/// An answer is a promise: the yard is killed the moment it has given one.
#[test]
fn a_yard_killed_right_after_its_answer_has_the_job() {
    let mut yard = Yard::open(2, 2);
    let client = yard.client();
    let kinds = ["quick", "task", "flaky", "finding-triage"];
    let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
    let ids: Vec<String> = (0..20)
        .map(|n| {
            let capability = kinds[n % kinds.len()];
            let payload = if capability == "finding-triage" { json!({ "event": event }) } else { json!({}) };
            let body = json!({ "capability": capability, "payload": payload });
            let answer = client.try_post("/v1/jobs", Some(&format!("promise-{n}")), &body).unwrap();
            yard.kill();
            assert!(matches!(answer.status, 200 | 202), "{answer:?}");
            yard.start();
            let id = answer.body["id"].as_str().unwrap().to_owned();
            assert_eq!(client.job(&id)["capability"], capability);
            id
        })
        .collect();
    for id in &ids {
        let job = client.settled(id);
        // Killed so often in so short a time, one may be running each time.
        let unlucky = job["error"]["code"] == "took_its_worker_down" && job["losses"] == LOSSES;
        assert!(job["state"] == "succeeded" || unlucky, "{job}: {:?}", client.timeline(id));
    }
    assert_eq!(client.jobs("").len(), ids.len());
    yard.close_and_leave_nothing();
}

/// A folder is one process's, while that lives and no longer.
#[test]
fn a_second_yard_on_a_folder_is_refused_until_the_first_is_gone() {
    let mut yard = Yard::open(1, 1);
    let (id, _) = yard.client().submit("a", &json!({ "capability": "quick" }));
    let second = yard.second();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(8), "{said}");
    let (folder, process) = (yard.data().display().to_string(), format!("process {}:", yard.pid()));
    assert!(said.contains(&folder) && said.contains(&process), "{said}");
    // It went without a trace: the first is where it was.
    assert_eq!(yard.client().settled(&id)["state"], "succeeded");
    yard.kill();
    yard.start();
    assert_eq!(yard.client().job(&id)["state"], "succeeded");
    yard.close_and_leave_nothing();
}
