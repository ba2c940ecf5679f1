//! The lanes on two emulators of SQS, one test for each trap. The contract has a file of its own.

#[path = "../emulated/mod.rs"]
mod emulated;
mod scene;

use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use serde_json::Value;
use switchyard_aws::lanes_sqs::{LaneDepth, SqsLanes, dead_queue_name, queue_name};
use switchyard_core::brake::{self, Pause, Scope};
use switchyard_core::job::{ClaimToken, Holder};
use switchyard_core::ports::{Bell, Claim, Claimed, Lane, Lanes, Message, Received, describe};
use switchyard_faults::{Action, Service, When};

use self::emulated::on_emulators;
use self::scene::Scene;

on_emulators! { Scene::open; both {
    a_batch_of_ten_with_partial_failures_sends_again_what_can_pass_and_tells_the_rest
    a_failed_entry_that_never_passes_is_told_after_its_tries
    a_call_that_fails_as_a_whole_tells_every_job
    control_characters_in_a_record_are_no_reason_to_refuse_it
    a_hint_is_seen_by_whoever_hears_the_bell
    deleting_with_a_stale_or_an_invalid_receipt_is_no_error
    a_message_that_comes_again_is_refused_by_the_claim_and_deleted
    over_limit_is_retryable_and_loses_no_message
    a_message_of_a_newer_version_is_left_and_never_deleted
    what_is_no_doorbell_is_left_for_the_dead_letters
    the_receive_count_rises_with_each_release_and_sends_no_healthy_job_to_the_dead_letters
    a_dead_letter_is_heard_and_deleted_where_it_lies
    every_message_has_a_group_and_none_is_delayed_or_extended
    a_wait_that_is_dropped_is_taken_up_by_the_next_and_asks_once
    what_comes_for_a_dropped_wait_is_given_back
    deletions_of_one_moment_go_in_one_call
    a_failed_deletion_deletes_nothing_and_says_so
    a_sweep_asks_all_servers_once_and_then_briefly
    a_paused_tier_costs_no_call
    a_queue_that_is_not_there_is_named
    a_depth_counts_what_waits_and_what_is_in_flight
} one {} }

/// Refused as a whole, with this status.
fn refused(status: u16, code: &str) -> Action {
    Action::Fail { code: code.to_owned(), status, message: "no".to_owned() }
}

/// Receives until so many came.
async fn hear(lanes: &SqsLanes, lane: &Lane, count: usize) -> Vec<Received> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.extend(lanes.receive(lane, count - heard.len(), true).await.unwrap());
    }
    heard
}

async fn a_batch_of_ten_with_partial_failures_sends_again_what_can_pass_and_tells_the_rest(scene: &Scene) {
    let jobs = scene.jobs(10).await;
    let entries = vec![(1, "InternalError", false), (3, "InvalidMessageContents", true), (7, "RequestThrottled", true)];
    scene.next("SendMessageBatch", Action::FailEntries(entries));
    let unrung = scene.ring(&jobs).await;
    let messages: Vec<Message> = unrung.iter().map(|(message, _)| *message).collect();
    assert_eq!(messages, [Message::of(&jobs[3])]);
    let error = &unrung[0].1;
    assert!(!error.retryable);
    let name = queue_name(&scene.prefix, &scene.lane());
    let told = describe(error);
    let expected = format!("cannot ring in queue {name}: InvalidMessageContents: failed by the script (request ");
    assert!(told.starts_with(&expected), "the failure, and which request it was: {told}");
    assert_eq!(scene.sizes("SendMessageBatch"), [10, 2], "only what failed, and can pass, is sent again");
    assert_eq!(scene.lanes.visible(&scene.lane()).await.unwrap(), 9);
}

async fn a_failed_entry_that_never_passes_is_told_after_its_tries(scene: &Scene) {
    let jobs = scene.jobs(2).await;
    scene.next("SendMessageBatch", Action::FailEntries(vec![(0, "InternalError", false)]));
    for _ in 0..3 {
        scene.next("SendMessageBatch", Action::fail("SomethingNew", "what it is, nobody knows"));
    }
    let unrung = scene.ring(&jobs).await;
    assert_eq!(unrung.len(), 1);
    assert_eq!((unrung[0].0, unrung[0].1.retryable), (Message::of(&jobs[0]), true), "unknown errors may pass");
    assert!(describe(&unrung[0].1).contains("SomethingNew"), "{}", describe(&unrung[0].1));
}

async fn a_call_that_fails_as_a_whole_tells_every_job(scene: &Scene) {
    let jobs = scene.jobs(12).await;
    for _ in 0..2 {
        scene.next("SendMessageBatch", refused(403, "AccessDeniedException"));
    }
    let unrung = scene.ring(&jobs).await;
    assert_eq!(unrung.len(), 12);
    assert!(unrung.iter().all(|(_, error)| !error.retryable));
}

async fn control_characters_in_a_record_are_no_reason_to_refuse_it(scene: &Scene) {
    let mut job = scene.jobs(1).await.remove(0);
    job.work.labels = vec![("kind".into(), "a\u{0}b\u{1}c\u{b}\u{1f}\u{7f}\u{85}\u{fffe}🚂".into())];
    assert!(scene.ring(std::slice::from_ref(&job)).await.is_empty());
    let heard = hear(&scene.lanes, &scene.lane(), 1).await;
    assert_eq!(heard[0].message, Message::of(&job));
    assert_eq!(scene.sightings.seen(job.id), Some(job), "character by character");
}

async fn a_hint_is_seen_by_whoever_hears_the_bell(scene: &Scene) {
    let mut jobs = scene.jobs(2).await;
    // Too long for a hint that is worth sending.
    jobs[1].timeline = vec![jobs[1].timeline[0].clone(); 1000];
    assert!(scene.ring(&jobs).await.is_empty());
    assert_eq!(scene.sightings.seen(jobs[0].id), None);
    hear(&scene.lanes, &scene.lane(), 2).await;
    assert_eq!(scene.sightings.seen(jobs[0].id).as_ref(), Some(&jobs[0]));
    assert_eq!(scene.sightings.seen(jobs[1].id), None);
}

async fn deleting_with_a_stale_or_an_invalid_receipt_is_no_error(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    scene.ring(&jobs).await;
    let first = hear(&scene.lanes, &lane, 1).await.remove(0);
    scene.lanes.release(&first).await.unwrap();
    let second = hear(&scene.lanes, &lane, 1).await.remove(0);
    assert_ne!(first.receipt, second.receipt);
    scene.lanes.delete(&first).await.unwrap();
    scene.lanes.delete(&second).await.unwrap();
    scene.lanes.delete(&second).await.unwrap();
    scene.lanes.release(&second).await.unwrap();
    let nonsense = Received { receipt: "nonsense".into(), ..second };
    scene.lanes.delete(&nonsense).await.unwrap();
    scene.lanes.release(&nonsense).await.unwrap();
}

async fn a_message_that_comes_again_is_refused_by_the_claim_and_deleted(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    for _ in 0..2 {
        scene.ring(&jobs).await;
    }
    let situation = scene.yard.situation().await;
    for (n, received) in hear(&scene.lanes, &lane, 2).await.iter().enumerate() {
        let Message { id, epoch } = received.message;
        let token = ClaimToken::new([u8::try_from(n).unwrap(); 32]).hash();
        let claim = Claim { id, epoch, holder: Holder(format!("w/{n}")), token, at_most: None, room: None };
        match scene.yard.ledger.claim(&claim, &situation, scene.yard.ambient.now()).await.unwrap() {
            Claimed::Won(..) => assert_eq!(n, 0),
            Claimed::Lost(refusal) => assert!(n == 1 && refusal.is_final(), "{refusal:?}"),
        }
        scene.lanes.delete(received).await.unwrap();
    }
    assert_eq!(scene.lanes.depth(&lane).await.unwrap(), LaneDepth::default());
}

async fn over_limit_is_retryable_and_loses_no_message(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    scene.ring(&jobs).await;
    scene.next("ReceiveMessage", refused(403, "OverLimit"));
    let error = scene.lanes.receive(&lane, 1, true).await.unwrap_err();
    assert!(error.retryable && describe(&error).contains("OverLimit"), "{}", describe(&error));
    assert_eq!(hear(&scene.lanes, &lane, 1).await[0].message, Message::of(&jobs[0]));
}

async fn send(scene: &Scene, body: &str) {
    let url = scene.url(&queue_name(&scene.prefix, &scene.lane())).await;
    scene.client.send_message().queue_url(url).message_body(body).send().await.unwrap();
}

async fn a_message_of_a_newer_version_is_left_and_never_deleted(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    send(scene, r#"{"v":2,"doors":["1"]}"#).await;
    scene.ring(&jobs).await;
    let heard = hear(&scene.lanes, &lane, 1).await;
    assert_eq!(heard[0].message, Message::of(&jobs[0]));
    scene.lanes.delete(&heard[0]).await.unwrap();
    assert_eq!(scene.lanes.receive(&lane, 10, false).await.unwrap(), []);
    let left = scene.lanes.depth(&lane).await.unwrap();
    assert_eq!((left.visible, left.in_flight), (0, 1), "hidden until its timeout, and there");
}

async fn what_is_no_doorbell_is_left_for_the_dead_letters(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    for body in ["hello", "{}", r#"{"v":1}"#] {
        send(scene, body).await;
    }
    scene.ring(&jobs).await;
    assert_eq!(hear(&scene.lanes, &lane, 1).await[0].message, Message::of(&jobs[0]));
    assert_eq!(scene.lanes.receive(&lane, 10, false).await.unwrap(), []);
    assert_eq!(scene.calls("DeleteMessageBatch"), [Value::Null; 0]);
    let left = scene.lanes.depth(&lane).await.unwrap();
    assert_eq!(left.visible + left.in_flight, 4);
}

async fn the_receive_count_rises_with_each_release_and_sends_no_healthy_job_to_the_dead_letters(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    let url = scene.url(&queue_name(&scene.prefix, &lane)).await;
    let policy = scene.client.get_queue_attributes().queue_url(url);
    let policy = policy.attribute_names(QueueAttributeName::RedrivePolicy).send().await.unwrap();
    let policy = policy.attributes().unwrap()[&QueueAttributeName::RedrivePolicy].clone();
    let policy: Value = serde_json::from_str(&policy).unwrap();
    assert_eq!(policy["maxReceiveCount"].to_string().trim_matches('"'), "1000");
    scene.ring(&jobs).await;
    for _ in 0..30 {
        let heard = hear(&scene.lanes, &lane, 1).await;
        scene.lanes.release(&heard[0]).await.unwrap();
    }
    assert_eq!(scene.lanes.receive_dead(&lane, 10).await.unwrap(), []);
    assert_eq!(scene.lanes.visible(&lane).await.unwrap(), 1);
}

async fn a_dead_letter_is_heard_and_deleted_where_it_lies(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    scene.ring(&jobs).await;
    let live = scene.url(&queue_name(&scene.prefix, &lane)).await;
    let body = scene.client.receive_message().queue_url(&live).send().await.unwrap();
    let body = body.messages()[0].body().unwrap().to_owned();
    let dead = scene.url(&dead_queue_name(&scene.prefix, &lane)).await;
    scene.client.send_message().queue_url(&dead).message_body(body).send().await.unwrap();
    let letters = scene.lanes.receive_dead(&lane, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.message).collect::<Vec<_>>(), [Message::of(&jobs[0])]);
    scene.lanes.release(&letters[0]).await.unwrap();
    let letters = scene.lanes.receive_dead(&lane, 10).await.unwrap();
    scene.lanes.delete(&letters[0]).await.unwrap();
    let left = scene.client.get_queue_attributes().queue_url(&dead).attribute_names(QueueAttributeName::All);
    let left = left.send().await.unwrap();
    let count = |name| left.attributes().unwrap().get(&name).map(String::as_str) == Some("0");
    assert!(count(QueueAttributeName::ApproximateNumberOfMessages));
    assert!(count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible));
    assert_eq!(scene.lanes.depth(&lane).await.unwrap().in_flight, 1, "the live queue is another");
}

async fn every_message_has_a_group_and_none_is_delayed_or_extended(scene: &Scene) {
    let (mut jobs, lane) = (scene.jobs(3).await, scene.lane());
    jobs[1].work.caller = "ünlü caller".into();
    assert!(scene.ring(&jobs).await.is_empty());
    for received in hear(&scene.lanes, &lane, 3).await {
        scene.lanes.release(&received).await.unwrap();
    }
    for call in scene.calls("SendMessageBatch") {
        for entry in call["Entries"].as_array().unwrap() {
            assert!(entry["MessageGroupId"].is_string() && entry["DelaySeconds"].is_null(), "{entry}");
        }
    }
    for call in scene.calls("ChangeMessageVisibilityBatch") {
        for entry in call["Entries"].as_array().unwrap() {
            assert_eq!(entry["VisibilityTimeout"], 0, "no call ever asks for more time: 12 h in all is SQS's limit");
        }
    }
    let url = scene.url(&queue_name(&scene.prefix, &lane)).await;
    let call = scene.client.receive_message().queue_url(url).max_number_of_messages(10);
    let sent = call.message_system_attribute_names(MessageSystemAttributeName::All).send().await.unwrap();
    let mut groups: Vec<&str> = sent
        .messages()
        .iter()
        .map(|sent| sent.attributes().unwrap()[&MessageSystemAttributeName::MessageGroupId].as_str())
        .collect();
    groups.sort_unstable();
    assert!(groups[0].starts_with("sha256-") && groups[1..] == ["tests", "tests"], "{groups:?}");
}

async fn a_wait_that_is_dropped_is_taken_up_by_the_next_and_asks_once(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    for _ in 0..5 {
        let waiting = scene.lanes.receive(&lane, 1, true);
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    }
    let (heard, ()) = tokio::join!(hear(&scene.lanes, &lane, 1), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.ring(&jobs).await;
    });
    assert_eq!(heard[0].message, Message::of(&jobs[0]));
    assert_eq!(scene.calls("ReceiveMessage").len(), 1);
}

async fn what_comes_for_a_dropped_wait_is_given_back(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    let waiting = scene.lanes.receive(&lane, 1, true);
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err());
    scene.ring(&jobs).await;
    scene.lanes.hush().await;
    assert_eq!(scene.calls("ChangeMessageVisibilityBatch").len(), 1);
    let left = scene.lanes.depth(&lane).await.unwrap();
    assert_eq!((left.visible, left.in_flight), (1, 0));
}

async fn deletions_of_one_moment_go_in_one_call(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(13).await, scene.lane());
    scene.ring(&jobs).await;
    let heard = hear(&scene.lanes, &lane, 13).await;
    let mut deleting = tokio::task::JoinSet::new();
    for received in heard {
        let lanes = scene.lanes.clone();
        deleting.spawn(async move { lanes.delete(&received).await });
    }
    while let Some(deleted) = deleting.join_next().await {
        deleted.unwrap().unwrap();
    }
    let mut sizes = scene.sizes("DeleteMessageBatch");
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 10]);
    assert_eq!(scene.lanes.depth(&lane).await.unwrap(), LaneDepth::default());
}

async fn a_failed_deletion_deletes_nothing_and_says_so(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(2).await, scene.lane());
    scene.ring(&jobs).await;
    let heard = hear(&scene.lanes, &lane, 2).await;
    scene.next("DeleteMessageBatch", Action::FailEntries(vec![(1, "SomethingNew", true)]));
    let (first, second) = tokio::join!(scene.lanes.delete(&heard[0]), scene.lanes.delete(&heard[1]));
    first.unwrap();
    assert!(describe(&second.unwrap_err()).contains("SomethingNew"), "each hears of its own");
    scene.next("DeleteMessageBatch", Action::FailEntries(vec![(0, "InternalError", false)]));
    scene.lanes.delete(&heard[1]).await.unwrap();
    assert_eq!(scene.lanes.depth(&lane).await.unwrap(), LaneDepth::default());
}

async fn a_sweep_asks_all_servers_once_and_then_briefly(scene: &Scene) {
    let lane = scene.lane();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(scene.lanes.receive(&lane, 10, false).await.unwrap(), []);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "not a second each");
    let waits = || -> Vec<u64> {
        scene.calls("ReceiveMessage").iter().map(|call| call["WaitTimeSeconds"].as_u64().unwrap()).collect()
    };
    assert_eq!(waits(), [1, 0, 0, 0, 0]);
    // What comes is found by the brief look, and ends the trust in it.
    let jobs = scene.jobs(1).await;
    scene.ring(&jobs).await;
    assert_eq!(scene.lanes.receive(&lane, 99, false).await.unwrap().len(), 1);
    assert_eq!(scene.lanes.receive(&lane, 10, false).await.unwrap(), []);
    assert_eq!(waits()[5..], [0, 1]);
}

async fn a_paused_tier_costs_no_call(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(1).await, scene.lane());
    scene.ring(&jobs).await;
    // Met when it comes: a poll is recorded only when it ends.
    let asked = scene.proxy.script().on(When::call(Service::Sqs, "ReceiveMessage"), Action::ResetBefore);
    let pause =
        Pause { scope: Scope::Tier(lane.tier), by: "ana".into(), at: scene.yard.ambient.now(), reason: String::new() };
    brake::pause(&scene.yard, pause).await.unwrap();
    assert_eq!(scene.lanes.receive(&lane, 10, false).await.unwrap(), []);
    let waiting = scene.lanes.receive(&lane, 10, true);
    assert!(tokio::time::timeout(Duration::from_secs(4), waiting).await.is_err());
    assert_eq!(asked.hits(), 0);
}

async fn a_queue_that_is_not_there_is_named(scene: &Scene) {
    let lane = Lane { pool: "nowhere".parse().unwrap(), ..scene.lane() };
    let name = queue_name(&scene.prefix, &lane);
    let error = scene.lanes.receive(&lane, 1, false).await.unwrap_err();
    assert!(error.to_string() == format!("cannot find queue {name}") && !error.retryable, "{}", describe(&error));
    let job = &scene.jobs(1).await[0];
    let unrung = scene.lanes.ring(&[Bell { lane, job }]).await;
    assert!(describe(&unrung[0].1).contains(&name), "{}", describe(&unrung[0].1));
}

async fn a_depth_counts_what_waits_and_what_is_in_flight(scene: &Scene) {
    let (jobs, lane) = (scene.jobs(5).await, scene.lane());
    scene.ring(&jobs).await;
    hear(&scene.lanes, &lane, 2).await;
    assert_eq!(scene.lanes.depth(&lane).await.unwrap(), LaneDepth { visible: 3, in_flight: 2, delayed: 0 });
    assert_eq!(scene.lanes.visible(&lane).await.unwrap(), 3);
}
