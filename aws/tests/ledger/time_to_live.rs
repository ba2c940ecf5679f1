//! What DynamoDB removes by itself, when it gets round to it, and what it must not.

use std::time::Duration;

use switchyard_core::intake;
use switchyard_core::job::Epoch;
use switchyard_core::ports::{Acceptance, Body, LogLine, Query, Stream};
use switchyard_core::reap;
use switchyard_faults::Service;

use crate::on_both_emulators;
use crate::scene::{RETENTION, Scene, new, prepared, put, run, text};

on_both_emulators! {
    only_what_has_ended_owes_nothing_and_has_nothing_beside_it_has_a_time_to_live
    a_key_past_its_time_to_live_is_free_although_nobody_has_removed_it
    what_has_something_beside_it_is_forgotten_by_the_reaper_payload_and_results_and_all
    the_reaper_queries_and_never_scans
}

/// Past the retention, to the second.
const OVER: Duration = Duration::from_secs(RETENTION.as_secs() + 5);

async fn only_what_has_ended_owes_nothing_and_has_nothing_beside_it_has_a_time_to_live(scene: Scene) {
    let yard = &scene.yard;
    let small = put(yard, "plain", "small").await;
    assert!(!scene.has_time_to_live(small.id).await, "it waits");
    run(yard, &small, 1, Some("1".to_owned())).await;
    assert!(scene.has_time_to_live(small.id).await, "it has ended");
    let payload = new(yard, "plain", "payload", &text(5000));
    yard.ledger.accept(vec![payload.clone()]).await.expect("accept");
    run(yard, &payload.job, 1, None).await;
    assert!(!scene.has_time_to_live(payload.job.id).await, "its payload lies beside it");
    let result = put(yard, "plain", "result").await;
    run(yard, &result, 1, Some(text(5000).to_string())).await;
    assert!(!scene.has_time_to_live(result.id).await, "its result lies beside it");
    let blob = put(yard, "plain", "blob").await;
    run(yard, &blob, 1, Some(text(100_000).to_string())).await;
    assert!(!scene.has_time_to_live(blob.id).await, "its result lies in the bucket");
}

async fn a_key_past_its_time_to_live_is_free_although_nobody_has_removed_it(scene: Scene) {
    let yard = &scene.yard;
    let old = put(yard, "plain", "same").await;
    run(yard, &old, 1, Some("1".to_owned())).await;
    scene.ambient.by(OVER);
    assert_eq!(scene.items(&format!("J#{}", old.id)).await.len(), 1, "DynamoDB takes days for some");
    assert_eq!(yard.ledger.load(old.id).await.expect("load"), None, "it is told of no longer");
    assert_eq!(yard.ledger.load_all(&[old.id]).await.expect("load"), []);
    assert_eq!(yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list"), []);
    // Its submission again, and so large a one that no item would hold it.
    let again = prepared(yard, "plain", "same", &text(900_000));
    let taken = intake::accept(yard, vec![again]).await.expect("accept").remove(0).expect("a new one");
    assert!(taken.fresh && taken.job.id == old.id, "the key is free");
    assert!(matches!(yard.ledger.payload(old.id).await.expect("payload"), Some(Body::Blob(_))));
    assert!(!scene.has_time_to_live(old.id).await, "the new one has not ended");
    let result = yard.ledger.result(old.id, Epoch(1)).await.expect("result");
    assert_eq!(result, None, "nothing of the old one is left in it");
}

async fn what_has_something_beside_it_is_forgotten_by_the_reaper_payload_and_results_and_all(scene: Scene) {
    let yard = &scene.yard;
    let beside = new(yard, "plain", "beside", &text(5000));
    assert_eq!(yard.ledger.accept(vec![beside.clone()]).await.expect("accept"), [Acceptance::Accepted]);
    run(yard, &beside.job, 1, Some(text(6000).to_string())).await;
    let large = prepared(yard, "plain", "large", &text(100_000));
    let large = intake::accept(yard, vec![large]).await.expect("accept").remove(0).expect("taken").job;
    let line = LogLine { at: yard.ambient.now(), stream: Stream::Stdout, text: "at work".to_owned() };
    yard.logs.append(large.id, large.epoch, &[line]).await.expect("append");
    run(yard, &large, 1, Some(text(100_000).to_string())).await;
    let ids = [beside.job.id, large.id];
    let blob = yard.ledger.payload(large.id).await.expect("payload");
    let Some(Body::Blob(blob)) = blob else { panic!("it is too large for the table: {blob:?}") };
    assert_eq!(reap::round(yard).await.expect("round").forgotten, 0, "not yet");
    scene.ambient.by(OVER);
    assert_eq!(reap::round(yard).await.expect("round").forgotten, 2);
    for id in ids {
        assert!(scene.items(&format!("J#{id}")).await.is_empty(), "record, payload and result");
    }
    assert_eq!(yard.blobs.get(&blob).await.expect("get"), None);
    assert_eq!(yard.logs.read(large.id, "").await.expect("read").lines, []);
    assert_eq!(reap::round(yard).await.expect("round").forgotten, 0, "once");
}

async fn the_reaper_queries_and_never_scans(scene: Scene) {
    for key in ["a", "b", "c"] {
        put(&scene.yard, "plain", key).await;
    }
    put(&scene.yard, "limited", "held").await;
    scene.ambient.by(Duration::from_secs(90));
    let mark = scene.proxy.records().mark();
    assert!(reap::round(&scene.yard).await.expect("round").found >= 3);
    let tally = scene.proxy.records().tally_since(mark);
    assert!(tally.of(&Service::DynamoDb, "Query").requests > 0);
    assert_eq!(tally.of(&Service::DynamoDb, "Scan").requests, 0);
}
