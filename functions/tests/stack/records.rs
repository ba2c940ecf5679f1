//! What jobs emit, by the stream and its event source mapping to the registers.

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::records::Emitted;
use switchyard_core::wire::encode_emitted;

use crate::deployed::{Deployed, User, block, env, said, wait};

/// The ids of the assets that this capability saw.
fn assets(yard: &Deployed) -> Vec<String> {
    let output = yard.cli(User::Viewer, &["assets", "--capability", "stack-emits", "--limit", "500", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_str().expect("an id").to_owned();
    text.lines().map(of).collect()
}

fn records(yard: &Deployed, id: &str) -> Vec<Value> {
    let output = yard.cli(User::Viewer, &["records", id, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub(crate) fn emitted(yard: &Deployed) {
    let id = yard.submit("stack-emits", &json!({}));
    let job = yard.ended(&id, 60);
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let found = wait(90, "what it emitted", || {
        let found = assets(yard);
        if found.len() >= 300 { Ok(found) } else { Err(format!("{} assets", found.len())) }
    });
    assert_eq!(found.len(), 300);
    assert_eq!(records(yard, &id).len(), 301, "and a metric");
    let parked = wait(30, "what is no record", || {
        let parked = yard.parked_records(&id);
        if parked.len() >= 2 { Ok(parked) } else { Err(format!("{parked:#?}")) }
    });
    let mut codes: Vec<&str> = parked.iter().map(|one| one["code"].as_str().expect("a code")).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["not_emitted", "not_json"], "{parked:#?}");
}

pub(crate) fn streamed(yard: &Deployed) {
    let id = yard.submit("stack-emits-nothing", &json!({}));
    yard.ended(&id, 60);
    let job: JobId = id.parse().expect("an id");
    let line = |n: u64, line: String| {
        encode_emitted(&Emitted { job, epoch: Epoch(1), n, at: Timestamp::now(), line }).into_bytes()
    };
    let good = |n: u64| line(n, format!(r#"{{"kind":"finding","id":"stack:{n}"}}"#));
    // Out of order, twice, another under the same number, oversize, malformed and foreign ones between good ones.
    let data: Vec<Vec<u8>> = vec![
        good(5),
        good(2),
        b"malformed park-me".to_vec(),
        good(5),
        line(5, r#"{"kind":"finding","id":"stack:other"}"#.to_owned()),
        vec![0xff, 0xfe, 0xfd],
        line(6, format!(r#"{{"kind":"finding","id":"stack:6","of":"{}"}}"#, "x".repeat(300_000))),
        line(7, "{".to_owned()),
        good(1),
        good(9),
    ];
    let kinesis = yard.clients.kinesis();
    let entry = |data: &Vec<u8>| {
        let entry = PutRecordsRequestEntry::builder().partition_key(&id).data(Blob::new(data.clone()));
        entry.build().expect("an entry")
    };
    let entries: Vec<PutRecordsRequestEntry> = data.iter().map(entry).collect();
    for _ in 0..2 {
        let put = kinesis.put_records().stream_name(env("SWITCHYARD_RECORD_STREAM")).set_records(Some(entries.clone()));
        assert_eq!(block(put.send()).expect("put").failed_record_count(), Some(0));
    }
    let kept = wait(90, "every good record", || {
        let mut kept: Vec<u64> = records(yard, &id).iter().filter_map(|record| record["n"].as_u64()).collect();
        kept.sort_unstable();
        if kept.len() >= 4 { Ok(kept) } else { Err(format!("{kept:?}")) }
    });
    assert_eq!(kept, [1, 2, 5, 9], "once each");
    let parked = wait(30, "every bad one with its reason", || {
        let parked = yard.parked_records(&id);
        if parked.len() >= 3 { Ok(parked) } else { Err(format!("{parked:#?}")) }
    });
    let mut codes: Vec<&str> = parked.iter().map(|one| one["code"].as_str().expect("a code")).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes, ["conflict", "not_json", "too_large"], "{codes:?}");
    wait(30, "what is no record at all", || {
        let parked = yard.parked_records("sequence ");
        let foreign = |one: &&Value| one["code"] == "unreadable";
        if parked.iter().filter(foreign).count() >= 2 { Ok(()) } else { Err(format!("{parked:#?}")) }
    });
}
