//! Blobs, logs and the herald on two emulators: what is AWS's own. Failures are in a file of their own, as is the contract.

#[path = "../emulated/mod.rs"]
mod emulated;
mod place;
mod failures;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eventbridge::types::Target;
use jiff::Timestamp;
use serde_json::Value;
use switchyard_aws::blobs_s3::S3Blobs;
use switchyard_aws::herald_eventbridge::EventBridgeHerald;
use switchyard_aws::logs_cloudwatch::CloudWatchLogs;
use switchyard_core::contract;
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::ports::{BlobRef, Blobs, Herald, LogLine, Logs, PortError, Stream, describe};
use switchyard_core::wire;
use switchyard_faults::{Action, Service, When};

use self::emulated::on_emulators;
use self::place::{Place, memory, yard};

on_emulators! { Place::open; both {
    a_blob_is_one_object_under_its_job
    a_blob_that_was_changed_or_cut_is_corrupt
    a_log_longer_than_a_batch_is_read_whole_and_in_order
    what_a_program_prints_is_kept_to_the_byte
    runs_are_read_in_the_order_of_their_epochs_and_a_later_one_is_found
    a_log_whose_answers_were_lost_has_each_line_once
    a_cursor_from_outside_is_a_place_like_any_other
    lines_too_old_for_cloudwatch_lose_themselves_and_no_other
    a_settlement_arrives_on_the_bus_as_it_is_announced
} one {
    more_blobs_than_one_call_deletes_are_forgotten
    more_runs_than_one_call_lists_are_read_and_forgotten
} }

fn job(key: &str) -> JobId {
    JobId::keyed("tests", key)
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap()
}

fn line(at: Timestamp, text: &str) -> LogLine {
    LogLine { at, stream: Stream::Stdout, text: text.to_owned() }
}

/// The whole log from `cursor` on, as its texts by epoch, and where it ends.
async fn read_from(logs: &CloudWatchLogs, job: JobId, cursor: &str) -> (Vec<(u32, String)>, String) {
    let (mut texts, mut next) = (Vec::new(), cursor.to_owned());
    loop {
        let page = logs.read(job, &next).await.unwrap();
        next = page.next;
        if page.lines.is_empty() {
            return (texts, next);
        }
        texts.extend(page.lines.into_iter().map(|(epoch, line)| (epoch.0, line.text)));
    }
}

async fn a_blob_is_one_object_under_its_job(place: &Place) {
    let bucket = place.bucket().await;
    let blobs = S3Blobs::new(&place.clients, &bucket);
    blobs.put(job("one"), "result-1", "{\"a\":1}").await.unwrap();
    let key = format!("jobs/{}/result-1", job("one"));
    let object = place.clients.s3().head_object().bucket(&bucket).key(key).send().await.unwrap();
    assert_eq!(object.content_type(), Some("application/json"));
    assert_eq!(object.content_length(), Some(7));
    let error = blobs.put(job("one"), "../two/result-1", "{}").await.unwrap_err();
    assert!(!error.retryable, "{}", describe(&error));
}

async fn a_blob_that_was_changed_or_cut_is_corrupt(place: &Place) {
    let bucket = place.bucket().await;
    let blobs = S3Blobs::new(&place.clients, &bucket);
    let blob = blobs.put(job("one"), "result-1", "whole").await.unwrap();
    let key = format!("jobs/{}/result-1", job("one"));
    for (bytes, why) in [
        (&b"cut"[..], "it is corrupt: 5 bytes were stored, and 3 are there"),
        (b"whole and more", "it is corrupt: 5 bytes were stored, and 14 are there"),
        (b"wh\xffle", "it is corrupt: it is not UTF-8"),
    ] {
        let put = place.clients.s3().put_object().bucket(&bucket).key(&key).body(bytes.to_vec().into());
        put.send().await.unwrap();
        let error = blobs.get(&blob).await.unwrap_err();
        let told = describe(&error);
        assert!(told.contains(why) && told.contains(&bucket) && !error.retryable, "{told}");
    }
}

async fn more_blobs_than_one_call_deletes_are_forgotten(place: &Place) {
    let blobs = S3Blobs::new(&place.clients, &place.bucket().await);
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..1003 {
        let blobs = blobs.clone();
        puts.spawn(async move { blobs.put(job("many"), &format!("result-{n}"), "x").await.unwrap() });
        if puts.len() >= 8 {
            puts.join_next().await;
        }
    }
    let last = puts.join_all().await.pop().unwrap();
    let other = blobs.put(job("other"), "result-1", "x").await.unwrap();
    blobs.forget(job("many")).await.unwrap();
    assert_eq!(blobs.get(&last).await.unwrap(), None);
    let first = BlobRef { job: job("many"), name: "result-0".to_owned(), bytes: 1 };
    assert_eq!(blobs.get(&first).await.unwrap(), None);
    assert!(blobs.get(&other).await.unwrap().is_some(), "another job's stays");
}

async fn a_log_longer_than_a_batch_is_read_whole_and_in_order(place: &Place) {
    let logs = place.logs().await;
    // More than a batch's events, and than its bytes; several in each moment.
    let texts: Vec<String> = (0..12_000).map(|n| format!("{n} {}", "y".repeat(150))).collect();
    let start = now();
    let lines: Vec<LogLine> =
        texts.iter().zip(0..).map(|(text, n)| line(start + Duration::from_millis(n / 700), text)).collect();
    logs.append(job("long"), Epoch(1), &lines).await.unwrap();
    logs.append(job("long"), Epoch(1), &[line(start + Duration::from_millis(17), "last")]).await.unwrap();
    let (read, _) = read_from(&logs, job("long"), "").await;
    assert_eq!(read.len(), 12_001);
    assert!(read.iter().map(|(_, text)| text).eq(texts.iter().chain(["last".to_owned()].iter())), "in order");
}

async fn what_a_program_prints_is_kept_to_the_byte(place: &Place) {
    let logs = place.logs().await;
    let hostile = ["\u{1b}[31mred\u{1b}[0m", "", " ", "\u{0}\u{1}\u{7f}\t", "{\"t\":\"x\"}", "Ω≈🚂\u{2028}", "a\rb"];
    let streams = [Stream::Stdout, Stream::Stderr, Stream::Yard];
    let at = now();
    let lines: Vec<LogLine> = hostile
        .iter()
        .zip(streams.iter().cycle())
        .map(|(text, stream)| LogLine { at, stream: *stream, text: (*text).to_owned() })
        .collect();
    logs.append(job("hostile"), Epoch(1), &lines).await.unwrap();
    let page = logs.read(job("hostile"), "").await.unwrap();
    assert!(page.lines.into_iter().map(|(_, line)| line).eq(lines));
}

async fn runs_are_read_in_the_order_of_their_epochs_and_a_later_one_is_found(place: &Place) {
    let logs = place.logs().await;
    let at = now();
    // Of names, 10 comes before 2; the times say nothing.
    for epoch in [10, 2, 1] {
        let at = at - Duration::from_secs(u64::from(epoch));
        logs.append(job("runs"), Epoch(epoch), &[line(at, &format!("run {epoch}"))]).await.unwrap();
    }
    let (read, end) = read_from(&logs, job("runs"), "").await;
    assert_eq!(read, [1, 2, 10].map(|epoch| (epoch, format!("run {epoch}"))));
    assert_eq!(read_from(&logs, job("runs"), &end).await.0, [], "nothing more yet");
    logs.append(job("runs"), Epoch(10), &[line(at, "late")]).await.unwrap();
    logs.append(job("runs"), Epoch(11), &[line(at, "again")]).await.unwrap();
    let (read, _) = read_from(&logs, job("runs"), &end).await;
    assert_eq!(read, [(10, "late".to_owned()), (11, "again".to_owned())]);
    logs.forget(job("runs")).await.unwrap();
    assert_eq!(read_from(&logs, job("runs"), "").await.0, []);
    assert_eq!(read_from(&logs, job("runs"), &end).await.0, [], "a cursor into what is forgotten");
}

async fn more_runs_than_one_call_lists_are_read_and_forgotten(place: &Place) {
    let logs = place.logs().await;
    for epoch in 1..54 {
        logs.append(job("retried"), Epoch(epoch), &[line(now(), "x")]).await.unwrap();
    }
    let (read, _) = read_from(&logs, job("retried"), "").await;
    assert!(read.iter().map(|(epoch, _)| *epoch).eq(1..54), "{read:?}");
    logs.forget(job("retried")).await.unwrap();
    assert_eq!(read_from(&logs, job("retried"), "").await.0, []);
}

async fn a_log_whose_answers_were_lost_has_each_line_once(place: &Place) {
    // Every second put takes effect and nobody hears of it.
    for nth in [2, 4, 6] {
        place.proxy.script().on(When::call(Service::Logs, "PutLogEvents").nth(nth), Action::ResetAfter);
    }
    let group = place.group().await;
    let logs = place.logs_in(&group);
    let at = now();
    for part in 0..4 {
        let lines = ["x".to_owned(), "x".to_owned(), format!("part {part}")].map(|text| line(at, &text));
        logs.append(job("lossy"), Epoch(1), &lines).await.unwrap();
    }
    let stored = place.clients.logs().filter_log_events().log_group_name(&group).send().await.unwrap();
    assert!(stored.events().len() > 12, "an answer was lost, and lines are stored twice");
    let (read, _) = read_from(&logs, job("lossy"), "").await;
    let texts: Vec<&str> = read.iter().map(|(_, text)| text.as_str()).collect();
    let whole = ["x", "x", "part 0", "x", "x", "part 1", "x", "x", "part 2", "x", "x", "part 3"];
    assert_eq!(texts, whole);
}

async fn a_cursor_from_outside_is_a_place_like_any_other(place: &Place) {
    let logs = place.logs().await;
    let start = now();
    let lines: Vec<LogLine> = (0..3).map(|n| line(start + Duration::from_millis(n), &format!("line {n}"))).collect();
    logs.append(job("cursors"), Epoch(1), &lines).await.unwrap();
    for cursor in ["x", "2.9", "1.0.0..", "-1.-1", "9999999999999"] {
        assert_eq!(read_from(&logs, job("cursors"), cursor).await.0.len(), 3, "{cursor} is the start");
    }
    assert_eq!(read_from(&logs, job("cursors"), "1.4294967295.0..").await.0, [], "a run that never was");
    let end = read_from(&logs, job("cursors"), "").await.1;
    logs.append(job("cursors"), Epoch(1), &[line(start + Duration::from_millis(3), "line 3")]).await.unwrap();
    // AWS's token is a day old: from the time of the last line on, and without the lines that were read.
    let (known, _) = end.rsplit_once(".f/").expect("the token is last");
    let (read, _) = read_from(&logs, job("cursors"), &format!("{known}.nonsense")).await;
    assert_eq!(read, [(1, "line 3".to_owned())]);
}

async fn lines_too_old_for_cloudwatch_lose_themselves_and_no_other(place: &Place) {
    let logs = place.logs().await;
    let at = now();
    let lines = [line(at - Duration::from_secs(20 * 86_400), "too old"), line(at, "kept")];
    logs.append(job("old"), Epoch(1), &lines).await.unwrap();
    let (read, _) = read_from(&logs, job("old"), "").await;
    assert!(read.contains(&(1, "kept".to_owned())), "{read:?}");
}

/// A job that settled.
async fn settled() -> Job {
    let herald = Arc::new(Caught::default());
    let doors = memory();
    let (blobs, logs) = (Arc::new(doors.clone()), Arc::new(doors));
    contract::named("an_announcement_is_taken")(&yard(blobs, logs, Arc::<Caught>::clone(&herald))).await;
    herald.0.lock().unwrap().pop().unwrap()
}

/// Keeps what is announced.
#[derive(Default)]
struct Caught(std::sync::Mutex<Vec<Job>>);

#[async_trait::async_trait]
impl Herald for Caught {
    async fn announce(&self, job: &Job) -> Result<(), PortError> {
        self.0.lock().unwrap().push(job.clone());
        Ok(())
    }
}

async fn a_settlement_arrives_on_the_bus_as_it_is_announced(place: &Place) {
    let (bus, (url, arn)) = (place.bus().await, place.queue().await);
    let (events, sqs) = (place.clients.eventbridge(), place.clients.sqs());
    let rule = events.put_rule().name("settled").event_bus_name(&bus).event_pattern(r#"{"source":["switchyard"]}"#);
    rule.send().await.unwrap();
    let target = Target::builder().id("1").arn(arn).build().unwrap();
    events.put_targets().rule("settled").event_bus_name(&bus).targets(target).send().await.unwrap();
    let job = settled().await;
    EventBridgeHerald::new(&place.clients, &bus).announce(&job).await.unwrap();
    let heard = sqs.receive_message().queue_url(&url).wait_time_seconds(10).send().await.unwrap();
    let heard: Value = serde_json::from_str(heard.messages()[0].body().unwrap()).unwrap();
    let announced: Value = serde_json::from_str(&wire::completion_event(&job)).unwrap();
    for field in ["source", "detail-type", "resources", "detail"] {
        assert_eq!(heard[field], announced[field], "{field}");
    }
}
