//! Rows and messages across versions: what an earlier program wrote is read, what a later one adds is passed over, and what
//! is of a later version is left to whoever can read it. An upgrade and its way back lose nothing.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use switchyard_core::job::{Job, Phase, State, TaskEndCause};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Message, describe};
use switchyard_core::settle::{REPORT_WITHIN, task_seen_to_end};
use switchyard_core::wire::{DOORBELL_VERSION, RECORD_VERSION, decode, decode_doorbell, encode, encode_doorbell};

fn recorded() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            records.push((name, std::fs::read_to_string(&path).unwrap().trim().to_owned()));
        }
    }
    records.sort();
    records
}

fn running() -> Job {
    let (_, text) = recorded().into_iter().find(|(name, _)| name == "running").unwrap();
    decode(&text).unwrap()
}

/// Puts a field that nobody knows into every object of a document.
fn with_more(value: Value) -> Value {
    match value {
        // What a caller labels its job with is the caller's.
        Value::Object(fields) => {
            let mut more: serde_json::Map<String, Value> = fields
                .into_iter()
                .map(|(name, value)| if name == "labels" { (name, value) } else { (name, with_more(value)) })
                .collect();
            more.insert("added_later".to_owned(), json!({ "by": ["a later program"] }));
            Value::Object(more)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(with_more).collect()),
        other => other,
    }
}

#[test]
fn what_an_earlier_program_wrote_is_read_and_written_as_it_was() {
    let phases: Vec<(String, Phase)> = recorded()
        .into_iter()
        .map(|(name, text)| {
            let job = decode(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(encode(&job), text, "{name}: a rollback finds what it left");
            (name, job.phase())
        })
        .collect();
    let expected = [
        ("delayed", Phase::Delayed),
        ("dispatched", Phase::Dispatched),
        ("dispatched-again", Phase::Dispatched),
        ("running", Phase::Running),
        ("stopping", Phase::Running),
        ("succeeded", Phase::Succeeded),
    ];
    assert_eq!(phases, expected.map(|(name, phase)| (name.to_owned(), phase)));
}

#[test]
fn what_a_later_program_adds_to_a_record_is_passed_over() {
    for (name, text) in recorded() {
        let later = with_more(serde_json::from_str(&text).unwrap()).to_string();
        assert_eq!(decode(&later).unwrap(), decode(&text).unwrap(), "{name}");
    }
}

#[test]
fn how_a_task_ended_is_an_addition_that_earlier_programs_pass_over() {
    let job = running();
    let State::Running(run) = job.state.clone() else { panic!("not running") };
    let situation = Situation::default();
    let now = run.at + Duration::from_secs(5);
    let end = switchyard_core::job::TaskEnd { at: now, cause: TaskEndCause::Exited, how: "exit code 0".into() };
    let noted = task_seen_to_end(job.clone(), job.epoch, run.holder.instance(), end, &situation, now, 0);
    let noted = noted.unwrap().unwrap().job;
    let text = encode(&noted);
    assert_eq!(decode(&text).unwrap(), noted);
    // What an earlier program makes of it: the same job without the addition, due when the report should have come.
    let mut earlier: Value = serde_json::from_str(&text).unwrap();
    assert!(earlier["state"].as_object_mut().unwrap().remove("ended").is_some());
    let earlier = decode(&earlier.to_string()).unwrap();
    assert_eq!((earlier.phase(), earlier.due, earlier.epoch), (Phase::Running, Some(now + REPORT_WITHIN), job.epoch));
}

#[test]
fn a_record_of_a_later_version_is_refused_and_so_stays_as_it_is() {
    for (name, text) in recorded() {
        let mut later: Value = serde_json::from_str(&text).unwrap();
        later["v"] = json!(RECORD_VERSION + 1);
        let error = decode(&later.to_string()).unwrap_err().to_string();
        assert!(error.contains("job's record"), "{name}: {error}");
    }
}

#[test]
fn a_doorbell_rings_across_versions_and_one_that_cannot_be_read_is_told_from_none() {
    let job = running();
    let message = Message::of(&job);
    for hint in [None, Some(&job)] {
        let text = encode_doorbell(message, hint);
        let later = with_more(serde_json::from_str(&text).unwrap()).to_string();
        assert_eq!(decode_doorbell(&later).unwrap().message, message, "{later}");
    }
    let mut newer: Value = serde_json::from_str(&encode_doorbell(message, None)).unwrap();
    newer["v"] = json!(DOORBELL_VERSION + 1);
    let told = |text: &str| describe(&decode_doorbell(text).unwrap_err());
    assert_ne!(told(&newer.to_string()), told("{}"), "what is newer is left to whoever can read it");
}
