//! The real program under policies that change: read again while it runs, refused when they are broken; and what runs
//! by the clock, also after a crash.

#[expect(dead_code, reason = "shared with tests that ask for more")]
mod common_bad;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common_bad::{Ended, Home, Yard, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// One more capability, on the worker and as a task, that says `word`.
fn saying(word: &str) -> String {
    let one = |name: &str, pin: &str| {
        format!(
            "  - name: {name}\n    summary: s\n    run: {{ command: [echo, {word}] }}\n    route: {{ only: [{pin}] }}\n"
        )
    };
    one("say", "fleet") + &one("say-task", "fargate")
}

fn write(home: &Home, file: &str, text: &str) {
    std::fs::write(home.policies().join(file), text).unwrap();
}

fn run(home: &Home, args: &[&str]) -> Ended {
    Ended::of(home.switchyard().args(args))
}

/// What both jobs that say something print.
fn said(yard: &Yard<'_>) -> Vec<String> {
    let say = |capability: &str| {
        let id = yard.submit_more(json!({ "capability": capability }));
        assert_eq!(yard.settled(&id)["state"], "succeeded");
        let log = yard.get(&format!("/v1/jobs/{id}/logs")).json();
        log["lines"][0]["text"].as_str().unwrap().to_owned()
    };
    ["say", "say-task"].map(say).to_vec()
}

fn hang_up(yard: &Yard<'_>) {
    let pid = i32::try_from(yard.child.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

#[test]
fn policies_are_loaded_again_while_the_yard_runs_and_broken_ones_change_nothing() {
    let home = Home::new();
    let catalog = std::fs::read_to_string(home.policies().join("capabilities.yaml")).unwrap();
    let yard = home.start();
    let in_force = || yard.get("/v1/capabilities").json();
    let first = in_force();
    assert!(first["loaded_at"].is_string() && first["refused"].is_null(), "{first}");
    let refused = yard.post("/v1/jobs", &json!({ "capability": "say" }));
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("unknown_capability")));

    write(&home, "capabilities.yaml", &(catalog.clone() + &saying("one")));
    let reloaded = run(&home, &["reload"]);
    assert_eq!(
        (reloaded.code, reloaded.stdout.as_str()),
        (Some(0), "capability say: added\ncapability say-task: added\n")
    );
    assert_eq!(said(&yard), ["one", "one"], "what starts from now on has the new rules");
    let second = in_force();
    assert_ne!(first["digest"], second["digest"]);
    assert_eq!(run(&home, &["reload"]).stdout, "nothing changed\n");

    let broken = catalog.replace("name: sh\n", "name: SH\n").replace("memory_mib: 4000000", "memory_mib: many");
    write(&home, "capabilities.yaml", &broken);
    let refused = run(&home, &["reload"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    let file = home.policies().join("capabilities.yaml").display().to_string();
    let expected = [
        "switchyard: the rules in force stay: those that were read are broken (invalid_policies)".to_owned(),
        format!("{file}:10:5: capabilities[1].name: expected 1 to 64 lower-case letters, digits and `-`"),
        format!(
            "{file}:34:14: capabilities[4].needs.memory_mib: invalid type: string \"many\", expected a whole number from 0 to 4294967295"
        ),
    ];
    assert_eq!(refused.stderr.lines().collect::<Vec<_>>(), expected);
    let answer = yard.ask("POST", "/v1/reload", b"");
    assert_eq!((answer.status, &answer.json()["violations"]), (422, &json!(expected[1..])));
    let now = in_force();
    assert_eq!(now["digest"], second["digest"]);
    assert_eq!(now["refused"]["violations"], json!(expected[1..]));
    assert!(run(&home, &["capabilities"]).stdout.contains(&expected[1]));
    assert!(home.log().contains("the policies are not loaded again"));
    assert_eq!(said(&yard), ["one", "one"], "the old rules stay, for tasks too");

    write(&home, "capabilities.yaml", &(catalog.clone() + &saying("two")));
    hang_up(&yard);
    eventually("they are loaded", || in_force()["refused"].is_null().then_some(()));
    assert_eq!(said(&yard), ["two", "two"]);
    std::fs::remove_file(home.policies().join("capabilities.yaml")).unwrap();
    hang_up(&yard);
    eventually("they are refused", || in_force()["refused"].is_object().then_some(()));
    assert_eq!(said(&yard), ["two", "two"]);
    assert_eq!(yard.stop(), Some(0));
}

/// The text of a JSON value; empty when it is none.
trait Text {
    fn text(&self) -> &str;
}

impl Text for Value {
    fn text(&self) -> &str {
        self.as_str().unwrap_or_default()
    }
}

#[test]
fn policies_that_are_built_in_cannot_be_loaded_again() {
    let home = Home::new();
    let yard = home.start_with(|command| {
        *command = home.switchyard();
        command.args(["local", "--listen", "127.0.0.1:0"]);
    });
    let refused = run(&home, &["reload"]);
    assert_eq!(refused.code, Some(4));
    assert!(refused.said().contains("(nothing_to_reload)"), "{}", refused.said());
    hang_up(&yard);
    eventually("it is said", || home.log().contains("the policies are not loaded again").then_some(()));
    assert_eq!(yard.get("/v1/schedules").json(), json!({ "schedules": [] }));
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn a_folder_is_judged_whole_and_without_a_yard() {
    let home = Home::new();
    let check = |args: &[&str]| Ended::of(home.switchyard().args(args).arg(home.policies()));
    let schedules = "version: 1\nschedules:\n  - { name: a, rate_minutes: 1, capability: environment }\n";
    write(&home, "schedules.yaml", schedules);
    for args in [&["policies", "check"][..], &["capabilities", "--check"]] {
        let sound = check(args);
        let expected =
            format!("{}: 6 capabilities, 1 schedules and 0 mappings, all sound\n", home.policies().display());
        assert_eq!((sound.code, sound.stdout), (Some(0), expected));
    }
    write(&home, "schedules.yaml", &schedules.replace("environment", "sh"));
    write(&home, "schemas/finding-triage.json", "{\n");
    let broken = check(&["policies", "check"]);
    assert_eq!(broken.code, Some(2));
    let told = broken.stderr.replace(&home.policies().display().to_string(), "[policies]");
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("[policies]/schemas/finding-triage.json:2: not JSON: "), "{told}");
    assert!(told.contains("[policies]/schedules.yaml:3:5: schedules[0].payload: \"script\" is a required"), "{told}");
}

/// The schedules of the yard, by name.
fn schedule(yard: &Yard<'_>, name: &str) -> Value {
    let all = yard.get("/v1/schedules").json()["schedules"].as_array().unwrap().clone();
    all.into_iter().find(|schedule| schedule["name"] == name).unwrap()
}

/// As if nobody had looked at the schedules for so long.
fn forget_hours(home: &Home, hours: i64) {
    let database = rusqlite::Connection::open(home.data().join("yard.db")).unwrap();
    let sql = "UPDATE yard SET value = json_set(value, '$.upto', json_extract(value, '$.upto') - ?1)
               WHERE name LIKE 'schedule:%'";
    assert_eq!(database.execute(sql, [hours * 3_600_000]).unwrap(), 3);
}

#[test]
fn ticks_that_were_missed_are_made_up_at_the_start_and_once_however_often_it_crashes() {
    let home = Home::new();
    // Daily, and twelve hours from now: half past, where the clock is half an hour ahead and never changes.
    let hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600;
    let cron = format!("30 {} * * *", (hour + 12 + 5) % 24);
    let often =
        |name: &str, fields: &str| format!("  - {{ name: {name}, cron: {cron}, time_zone: Asia/Kolkata, {fields} }}\n");
    let schedules = [
        often("again", "capability: environment, missed: all"),
        often("huge", "capability: huge"),
        often("never", "capability: environment, missed: skip"),
    ];
    write(&home, "schedules.yaml", &format!("version: 1\nschedules:\n{}", schedules.concat()));
    let yard = home.start();
    assert_eq!(schedule(&yard, "again")["last_job"], Value::Null);
    assert_eq!(yard.jobs(), []);
    assert_eq!(yard.stop(), Some(0));

    // Three days, three ticks.
    forget_hours(&home, 72);
    let mut yard = home.start();
    let jobs = eventually("missed ticks become jobs", || Some(yard.jobs()).filter(|jobs| jobs.len() >= 3));
    assert_eq!(jobs.len(), 3);
    for (id, _) in &jobs {
        let job = yard.settled(id);
        assert_eq!((&job["state"], &job["labels"]), (&json!("succeeded"), &json!({ "schedule": "again" })));
    }
    let again = eventually("it is remembered", || {
        Some(schedule(&yard, "again")).filter(|schedule| schedule["last_job_state"] == "succeeded")
    });
    assert_eq!((&again["when"], &again["time_zone"]), (&json!(cron), &json!("Asia/Kolkata")));
    assert!(again["next_tick"].text() > again["last_tick"].text(), "{again}");
    let huge = eventually("a refusal is shown", || Some(schedule(&yard, "huge")).filter(|s| s["skipped"] == 3));
    assert!(huge["last_skip"]["why"].text().starts_with("refused: no venue can run it"), "{huge}");
    let never = eventually("the last one is looked at", || {
        Some(schedule(&yard, "never")).filter(|schedule| schedule["skipped"] == 3)
    });
    assert_eq!(never["last_skip"]["why"], "missed: nobody looked at 3 ticks in time");
    let table = run(&home, &["schedules"]).stdout;
    assert!(table.contains("Asia/Kolkata") && table.contains("huge skipped at "), "{table}");

    // Its memory of the ticks is lost with the power: their jobs are there.
    yard.child.kill().unwrap();
    yard.child.wait().unwrap();
    drop(yard);
    forget_hours(&home, 72);
    let yard = home.start();
    eventually("the ticks are run again", || home.log().contains("\"repeated\":3").then_some(()));
    assert_eq!(yard.jobs().len(), 3);
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn a_schedule_that_a_reload_brings_fires_by_itself() {
    let home = Home::new();
    let yard = home.start();
    let schedules = "version: 1\nschedules:\n  - { name: minutely, rate_minutes: 1, capability: task, payload: { script: sleep 90 }, overlap: skip }\n";
    write(&home, "schedules.yaml", schedules);
    assert_eq!(run(&home, &["reload"]).stdout, "schedule minutely: added\n");
    // The next whole minute, and some time for a busy machine.
    let until = Instant::now() + Duration::from_secs(75);
    let job = loop {
        if let Some(job) = yard.jobs().pop() {
            break job.0;
        }
        assert!(Instant::now() < until, "no tick within a minute: {}", home.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    let minutely = eventually("it is remembered", || {
        Some(schedule(&yard, "minutely")).filter(|schedule| !schedule["last_job"].is_null())
    });
    assert_eq!(minutely["last_job"], json!(job));
    // A caller's key that looks like a tick's makes a job of the caller's own.
    let body = json!({ "capability": "environment" });
    let key = format!("minutely@{}", minutely["last_tick"].text());
    let (token, body) = (format!("Bearer {}", yard.token), body.to_string());
    let headers: [(&str, &[u8]); 2] = [("authorization", token.as_bytes()), ("idempotency-key", key.as_bytes())];
    let answer = yard.send("POST", "/v1/jobs", &headers, body.as_bytes()).unwrap();
    assert!(answer.status == 200 || answer.status == 202, "{answer:?}");
    assert_ne!(answer.json()["id"], json!(job));
    let cancelled = yard.ask("POST", &format!("/v1/jobs/{job}/cancel"), b"");
    // Done at once, where its task has not claimed it yet.
    assert!(matches!(cancelled.status, 200 | 202), "{cancelled:?}");
    assert_eq!(yard.settled(&job)["state"], "cancelled");
}
