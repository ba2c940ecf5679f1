//! What people and scripts use the program for besides one job at a time: files of submissions, watching, completions;
//! and a yard whose log or policies are not what they should be.

#[expect(dead_code, reason = "other tests use what this one does not")]
mod common_bad;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common_bad::{Ended, Home};
use serde_json::Value;
use switchyard_builtins::system::System;
use switchyard_core::ports::{Ledger, Unmapped};
use switchyard_embedded::folder::Folder;
use switchyard_embedded::ledger_sqlite::SqliteLedger;
use switchyard_embedded::store::Store;

fn lines(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_file_of_submissions_has_an_outcome_a_line_and_is_not_doubled() {
    let home = Home::new();
    let _yard = home.start();
    let file = home.path().join("jobs.ndjson");
    let good = |n: usize| format!(r#"{{"capability":"sh","payload":{{"script":"exit 0","filler":{n}}}}}"#);
    let mut text: Vec<String> = (0..1200).map(good).collect();
    text[3] = "not JSON".to_owned();
    text[700] = r#"{"capability":"nosuch"}"#.to_owned();
    text[701] = "[1]".to_owned();
    text.insert(10, String::new());
    std::fs::write(&file, text.join("\n")).unwrap();
    let run = |command: &mut std::process::Command| {
        // More than a pipe takes: read while it runs.
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    };
    let submit = |more: &[&str]| {
        let mut command = home.switchyard();
        run(command.args(["submit", "--key", "nightly", "--batch"]).arg(&file).args(more))
    };
    let first = submit(&["--wait"]);
    assert_eq!(first.code, Some(2), "{first:?}");
    assert!(first.stdout.contains("1197 accepted (0 of them before), 3 rejected"), "{}", first.stdout);
    assert!(first.stdout.contains("1197 of 1197 succeeded"), "{}", first.stdout);
    for told in ["line 4: not JSON", "line 702: there is no capability `nosuch`", "line 703: expected a JSON object"] {
        assert!(first.stderr.contains(told), "{told}: {}", first.stderr);
    }
    // Again, as after an answer that was lost; and as a program reads it.
    let again = submit(&["--json"]);
    let outcomes = lines(&again);
    assert_eq!((again.code, outcomes.len()), (Some(2), 1200));
    let found = |line: u64| outcomes.iter().find(|outcome| outcome["line"] == line).unwrap();
    assert_eq!((found(1)["status"].as_u64(), found(1)["job"]["state"].as_str()), (Some(200), Some("succeeded")));
    assert_eq!((found(702)["status"].as_u64(), found(702)["code"].as_str()), (Some(422), Some("unknown_capability")));
    let counted = run(home.switchyard().args(["jobs", "--limit", "5000", "--json"]));
    let jobs: Vec<Value> = serde_json::from_str(&counted.stdout).unwrap();
    assert_eq!(jobs.len(), 1197, "the same keys, the same jobs");
}

#[test]
fn a_capability_on_the_command_line_makes_each_line_its_payload_and_failures_are_told() {
    let home = Home::new();
    let _yard = home.start();
    let file = home.path().join("payloads");
    std::fs::write(&file, "{\"script\":\"exit 0\"}\n{\"script\":\"exit 3\"}\n").unwrap();
    let ended = Ended::of(home.switchyard().args(["submit", "sh", "--wait", "--batch"]).arg(&file));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("1 of 2 succeeded") && ended.stderr.contains(" failed: "), "{ended:?}");
}

#[test]
fn a_watched_job_is_shown_until_it_has_ended_and_says_how() {
    let home = Home::new();
    let yard = home.start();
    let id = yard.submit("sh", "sleep 4; exit 4");
    let watched = Ended::of(home.switchyard().args(["job", &id, "--watch"]));
    assert_eq!(watched.code, Some(1), "it did not succeed");
    assert!(watched.stdout.contains("running") && watched.stdout.contains("failed"), "{}", watched.stdout);
    assert!(!watched.stdout.contains('\u{1b}'), "where no terminal is, nothing drives one");
}

#[test]
fn a_task_that_waits_for_a_place_says_so_and_how_many_are_before_it() {
    let home = Home::new();
    // Four places.
    let yard = home.start();
    let running: Vec<String> = (0..4).map(|_| yard.submit("task", "sleep 30")).collect();
    running.iter().for_each(|id| drop(yard.running(id)));
    let waiting: Vec<String> = (0..2).map(|_| yard.submit("task", "exit 0")).collect();
    let why = |id: &str| yard.job(id)["why"].as_str().unwrap_or_default().to_owned();
    assert!(why(&waiting[0]).ends_with(", next in line"), "{}", why(&waiting[0]));
    let second = why(&waiting[1]);
    assert!(
        second.starts_with("waiting for a place on fargate since ") && second.ends_with(", 1 before it"),
        "{second}"
    );
    running.iter().for_each(|id| drop(Ended::of(home.switchyard().args(["cancel", id]))));
    waiting.iter().for_each(|id| assert_eq!(yard.settled(id)["state"], "succeeded"));
}

#[test]
fn every_shell_has_its_completions_and_tables_have_no_colours_where_none_are_wanted() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Ended::of(home.switchyard().args(["completions", shell]));
        assert!(script.code == Some(0) && script.stdout.contains("explain"), "{shell}: {script:?}");
    }
    let yard = home.start();
    yard.settled(&yard.submit("sh", "exit 0"));
    let table = Ended::of(home.switchyard().args(["jobs"]).env("NO_COLOR", "1").env("TERM", "xterm-256color"));
    assert!(table.stdout.contains("succeeded") && !table.stdout.contains('\u{1b}'), "{table:?}");
}

#[test]
fn a_log_that_cannot_be_written_costs_the_log_and_nothing_else() {
    let home = Home::new();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = home.local().stdout(full()).stderr(full()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !home.data().join("endpoint").exists() {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "the yard opens all the same");
        std::thread::sleep(Duration::from_millis(10));
    }
    let run = Ended::of(home.switchyard().args(["submit", "sh", r#"{"script":"exit 0"}"#, "--wait"]));
    assert_eq!(run.code, Some(0), "{run:?}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn policies_that_would_block_their_reader_are_refused_and_hold_nothing_up() {
    let home = Home::new();
    let mut yard = home.start();
    let pipe = home.policies().join("schedules.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reload = Ended::of(home.switchyard().args(["reload"]));
    assert!(reload.code != Some(0) && reload.stderr.contains("no regular file"), "{reload:?}");
    std::fs::remove_file(&pipe).unwrap();
    let reload = Ended::of(home.switchyard().args(["reload"]));
    assert_eq!(reload.code, Some(0), "{reload:?}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&yard.child), rustix::process::Signal::TERM)
        .unwrap();
    assert!(yard.ended_within(Duration::from_secs(30)).is_some(), "the yard closes");
}

#[test]
fn unmapped_events_are_listed_and_one_is_printed_as_a_file_that_can_be_replayed() {
    let home = Home::new();
    let event =
        serde_json::json!({ "source": "my.app", "detail-type": "Order\u{9b}2J", "detail": { "by": "\u{9b}2J" } });
    let kept = {
        let folder = Folder::open(&home.data()).unwrap();
        let store = Arc::new(Store::open(&folder.database()).unwrap());
        let ledger = SqliteLedger::new(Arc::clone(&store), Arc::new(System));
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let unmapped = Unmapped::new(&event, "my.app", "Order\u{9b}2J", "no mapping answers it", now);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ledger.keep_unmapped(unmapped.clone())).unwrap();
        store.close();
        unmapped.id.to_string()
    };
    let _yard = home.start();
    let run = |args: &[&str]| Ended::of(home.switchyard().args(args));
    let listed = run(&["unmapped"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    for told in [kept.as_str(), "2026-01-31T12:00:00.000Z", "my.app", "Order 2J", "no mapping answers it"] {
        assert!(listed.stdout.contains(told), "{told}: {}", listed.stdout);
    }
    let page: Value = serde_json::from_str(&run(&["unmapped", "--json", "--limit", "1"]).stdout).unwrap();
    assert_eq!((&page["kept"], &page["events"][0]["id"]), (&1.into(), &kept.as_str().into()));
    let shown = run(&["unmapped", &kept]);
    assert!(!shown.stdout.contains('\u{9b}'), "{shown:?}");
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap(), event);
    let file = home.path().join("event.json");
    std::fs::write(&file, &shown.stdout).unwrap();
    let replayed = Ended::of(home.switchyard().arg("replay").arg(&file));
    assert!(replayed.stdout.contains("my.app"), "{replayed:?}");
    for (args, told) in [
        (["unmapped", "0000000000000000000000000000000f"].as_slice(), "no unmapped event 0000"),
        (&["unmapped", "nonsense"], "is not an unmapped event's id"),
        (&["unmapped", "--limit", "501"], "501"),
    ] {
        let refused = run(args);
        assert!(refused.code != Some(0) && refused.stderr.contains(told), "{args:?}: {refused:?}");
    }
}
