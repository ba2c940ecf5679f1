//! Blobs, logs and the herald against emulators: the cases of the contract that are about them, and what is AWS's own.
//! Failures are in a file of their own.

mod support;
mod failures;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_eventbridge::types::Target;
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use serde_json::Value;
use switchyard_aws::blobs_s3::S3Blobs;
use switchyard_aws::clients::Clients;
use switchyard_aws::herald_eventbridge::EventBridgeHerald;
use switchyard_aws::logs_cloudwatch::CloudWatchLogs;
use switchyard_core::contract;
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::ports::{BlobRef, Blobs, Herald, LogLine, Logs, PortError, Stream, describe};
use switchyard_core::wire;

use self::support::{Answer, clients, memory, on, serve, unique, yard};

/// Makes one test of each function for each emulator; those of `one` for one of them, which is many times as fast where
/// a test takes a thousand calls. The function is given where it answers.
macro_rules! on_emulators {
    (both { $($both:ident)* } one { $($one:ident)* }) => {
        mod ministack { $crate::on_emulators! { @tests "SWITCHYARD_TEST_MINISTACK" "ministack::" $($both)* $($one)* } }
        mod moto { $crate::on_emulators! { @tests "SWITCHYARD_TEST_MOTO" "moto::" $($both)* } }
    };
    (@tests $variable:literal $prefix:literal $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                super::on($variable, concat!($prefix, stringify!($name)), super::$name);
            }
        )*
    };
}
use on_emulators;

on_emulators! {
    both {
        the_contract_of_blobs_logs_and_herald_holds
        a_blob_is_one_object_under_its_job
        a_blob_that_was_changed_or_cut_is_corrupt
        a_log_longer_than_a_batch_is_read_whole_and_in_order
        what_a_program_prints_is_kept_to_the_byte
        runs_are_read_in_the_order_of_their_epochs_and_a_later_one_is_found
        a_log_whose_answers_were_lost_has_each_line_once
        a_cursor_from_outside_is_a_place_like_any_other
        lines_too_old_for_cloudwatch_lose_themselves_and_no_other
        a_settlement_arrives_on_the_bus_as_it_is_announced
        a_bucket_group_or_bus_that_is_not_there_is_named
    }
    one {
        more_blobs_than_one_call_deletes_are_forgotten
        more_runs_than_one_call_lists_are_read_and_forgotten
    }
}

/// The cases of the contract that blobs, logs and herald have a part in; the other doors lead to memory.
const CASES: [&str; 9] = [
    "blobs_are_kept_replaced_and_forgotten",
    "logs_are_read_in_order_from_a_cursor",
    "a_long_log_is_read_page_by_page",
    "an_announcement_is_taken",
    "a_run_reports_what_its_executor_made_and_printed",
    "large_payloads_and_results_go_through_blobs",
    "log_lines_of_a_run_that_is_over_are_dropped",
    "an_announced_settlement_owes_nothing_in_the_end",
    "a_key_is_free_again_after_its_retention",
];

async fn bucket(clients: &Clients) -> String {
    let name = unique("switchyard-blobs");
    let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
        .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::EuCentral1)
        .build();
    clients.s3().create_bucket().bucket(&name).create_bucket_configuration(place).send().await.unwrap();
    name
}

async fn group(clients: &Clients) -> String {
    let name = unique("/switchyard/jobs");
    clients.logs().create_log_group().log_group_name(&name).send().await.unwrap();
    name
}

async fn bus(clients: &Clients) -> String {
    let name = unique("switchyard");
    clients.eventbridge().create_event_bus().name(&name).send().await.unwrap();
    name
}

fn logs_in(clients: &Clients, group: &str) -> CloudWatchLogs {
    CloudWatchLogs::new(clients, group, Arc::new(memory()))
}

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

async fn the_contract_of_blobs_logs_and_herald_holds(endpoint: String) {
    let clients = clients(&endpoint);
    for case in CASES {
        let logs = logs_in(&clients, &group(&clients).await);
        let blobs = S3Blobs::new(&clients, &bucket(&clients).await);
        let herald = EventBridgeHerald::new(&clients, &bus(&clients).await);
        contract::named(case)(&yard(Arc::new(blobs), Arc::new(logs), Arc::new(herald))).await;
    }
}

async fn a_blob_is_one_object_under_its_job(endpoint: String) {
    let clients = clients(&endpoint);
    let bucket = bucket(&clients).await;
    let blobs = S3Blobs::new(&clients, &bucket);
    blobs.put(job("one"), "result-1", "{\"a\":1}").await.unwrap();
    let key = format!("jobs/{}/result-1", job("one"));
    let object = clients.s3().head_object().bucket(&bucket).key(key).send().await.unwrap();
    assert_eq!(object.content_type(), Some("application/json"));
    assert_eq!(object.content_length(), Some(7));
    let error = blobs.put(job("one"), "../two/result-1", "{}").await.unwrap_err();
    assert!(!error.retryable, "{}", describe(&error));
}

async fn a_blob_that_was_changed_or_cut_is_corrupt(endpoint: String) {
    let clients = clients(&endpoint);
    let bucket = bucket(&clients).await;
    let blobs = S3Blobs::new(&clients, &bucket);
    let blob = blobs.put(job("one"), "result-1", "whole").await.unwrap();
    let key = format!("jobs/{}/result-1", job("one"));
    for (bytes, why) in [
        (&b"cut"[..], "it is corrupt: 5 bytes were stored, and 3 are there"),
        (b"whole and more", "it is corrupt: 5 bytes were stored, and 14 are there"),
        (b"wh\xffle", "it is corrupt: it is not UTF-8"),
    ] {
        let put = clients.s3().put_object().bucket(&bucket).key(&key).body(bytes.to_vec().into());
        put.send().await.unwrap();
        let error = blobs.get(&blob).await.unwrap_err();
        let told = describe(&error);
        assert!(told.contains(why) && told.contains(&bucket) && !error.retryable, "{told}");
    }
}

async fn more_blobs_than_one_call_deletes_are_forgotten(endpoint: String) {
    let clients = clients(&endpoint);
    let blobs = S3Blobs::new(&clients, &bucket(&clients).await);
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

async fn a_log_longer_than_a_batch_is_read_whole_and_in_order(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
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

async fn what_a_program_prints_is_kept_to_the_byte(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
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

async fn runs_are_read_in_the_order_of_their_epochs_and_a_later_one_is_found(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
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

async fn more_runs_than_one_call_lists_are_read_and_forgotten(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
    for epoch in 1..54 {
        logs.append(job("retried"), Epoch(epoch), &[line(now(), "x")]).await.unwrap();
    }
    let (read, _) = read_from(&logs, job("retried"), "").await;
    assert!(read.iter().map(|(epoch, _)| *epoch).eq(1..54), "{read:?}");
    logs.forget(job("retried")).await.unwrap();
    assert_eq!(read_from(&logs, job("retried"), "").await.0, []);
}

async fn a_log_whose_answers_were_lost_has_each_line_once(endpoint: String) {
    let puts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&puts);
    let lossy = serve(&endpoint, move |head, _| {
        let is_put = head.contains("Logs_20140328.PutLogEvents");
        // Every second put takes effect and nobody hears of it.
        let lose = is_put && counted.fetch_add(1, Ordering::SeqCst) % 2 == 1;
        if lose { Answer::HangUp } else { Answer::PassOn }
    });
    let (direct, lossy) = (clients(&endpoint), clients(&lossy.await));
    let group = group(&direct).await;
    let logs = logs_in(&lossy, &group);
    let at = now();
    for part in 0..4 {
        let lines = ["x".to_owned(), "x".to_owned(), format!("part {part}")].map(|text| line(at, &text));
        logs.append(job("lossy"), Epoch(1), &lines).await.unwrap();
    }
    let stored = direct.logs().filter_log_events().log_group_name(&group).send().await.unwrap();
    assert!(stored.events().len() > 12, "an answer was lost, and lines are stored twice");
    let (read, _) = read_from(&logs, job("lossy"), "").await;
    let texts: Vec<&str> = read.iter().map(|(_, text)| text.as_str()).collect();
    let whole = ["x", "x", "part 0", "x", "x", "part 1", "x", "x", "part 2", "x", "x", "part 3"];
    assert_eq!(texts, whole);
}

async fn a_cursor_from_outside_is_a_place_like_any_other(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
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

async fn lines_too_old_for_cloudwatch_lose_themselves_and_no_other(endpoint: String) {
    let clients = clients(&endpoint);
    let logs = logs_in(&clients, &group(&clients).await);
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

async fn a_settlement_arrives_on_the_bus_as_it_is_announced(endpoint: String) {
    let clients = clients(&endpoint);
    let (bus, queue) = (bus(&clients).await, unique("announced"));
    let sqs = clients.sqs();
    let url = sqs.create_queue().queue_name(&queue).send().await.unwrap().queue_url.unwrap();
    let attributes = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let arn = attributes.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
    let events = clients.eventbridge();
    let rule = events.put_rule().name("settled").event_bus_name(&bus).event_pattern(r#"{"source":["switchyard"]}"#);
    rule.send().await.unwrap();
    let target = Target::builder().id("1").arn(arn).build().unwrap();
    events.put_targets().rule("settled").event_bus_name(&bus).targets(target).send().await.unwrap();
    let job = settled().await;
    EventBridgeHerald::new(&clients, &bus).announce(&job).await.unwrap();
    let heard = sqs.receive_message().queue_url(&url).wait_time_seconds(10).send().await.unwrap();
    let heard: Value = serde_json::from_str(heard.messages()[0].body().unwrap()).unwrap();
    let announced: Value = serde_json::from_str(&wire::completion_event(&job)).unwrap();
    for field in ["source", "detail-type", "resources", "detail"] {
        assert_eq!(heard[field], announced[field], "{field}");
    }
}

async fn a_bucket_group_or_bus_that_is_not_there_is_named(endpoint: String) {
    for (what, error) in failures::calls(&failures::nowhere(&clients(&endpoint))).await {
        let told = describe(&error);
        assert!(told.contains(&format!("no-such-{what}")), "{told}");
        assert!(!error.retryable, "nothing but a person changes it: {told}");
    }
}
