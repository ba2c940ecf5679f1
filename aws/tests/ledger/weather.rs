//! Conflicts, throttles, keys that are left unprocessed, indexes that lag.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use switchyard_core::brake;
use switchyard_core::intake;
use switchyard_core::job::{Job, Phase, Tier};
use switchyard_core::ports::{Acceptance, Query, Saved};
use switchyard_core::reap;
use switchyard_faults::{Action, Service, Weather, When};

use crate::on_both_emulators;
use crate::scene::{Scene, new, prepared, put, run, text};

on_both_emulators! {
    a_conflict_with_a_transaction_is_waited_out
    writes_of_one_batch_from_many_sides_conflict_and_all_get_their_answers
    throttled_writes_are_waited_out
    keys_left_unprocessed_are_asked_for_again
    lists_miss_what_an_index_does_not_show_yet_and_show_it_then
    what_an_index_shows_late_is_acted_upon_once
    held_jobs_that_an_index_does_not_show_yet_are_let_go_by_a_later_round
}

async fn a_conflict_with_a_transaction_is_waited_out(scene: Scene) {
    let conflict = || Action::fail("TransactionConflictException", "Transaction is ongoing for the item");
    let cancelled = || Action::fail("TransactionCanceledException", "Transaction cancelled [TransactionConflict]");
    let script = scene.proxy.script();
    let puts = script.on(When::call(Service::DynamoDb, "PutItem").first(3), conflict());
    let job = put(&scene.yard, "plain", "one").await;
    let updates = script.on(When::call(Service::DynamoDb, "UpdateItem").first(3), conflict());
    run(&scene.yard, &job, 1, None).await;
    let transactions = script.on(When::call(Service::DynamoDb, "TransactWriteItems").first(3), cancelled());
    let batch = ["a", "b"].map(|key| new(&scene.yard, "plain", key, &text(20))).to_vec();
    assert_eq!(scene.yard.ledger.accept(batch).await.expect("accept"), [Acceptance::Accepted, Acceptance::Accepted]);
    assert_eq!([puts.hits(), updates.hits(), transactions.hits()], [3, 3, 3]);
    assert_eq!(scene.load(job.id).await.phase(), Phase::Succeeded);
}

async fn writes_of_one_batch_from_many_sides_conflict_and_all_get_their_answers(scene: Scene) {
    // Each of four sides submits the same ten, at once: one side's are taken, job by job, and the others hear of them.
    let sides = (0..4).map(|_| {
        let batch: Vec<_> = (0..10).map(|n| new(&scene.yard, "plain", &format!("job-{n}"), &text(20))).collect();
        async { (batch.clone(), scene.yard.ledger.accept(batch).await.expect("accept")) }
    });
    let answers = join_all(sides).await;
    for n in 0..10 {
        let taken = answers.iter().filter(|(_, answers)| answers[n] == Acceptance::Accepted).count();
        assert_eq!(taken, 1, "job {n} is one side's");
    }
}

async fn throttled_writes_are_waited_out(scene: Scene) {
    let message = "The level of configured provisioned throughput for the table was exceeded.";
    let throttled = || Action::fail("ProvisionedThroughputExceededException", message);
    // One less than the tries.
    let puts = scene.proxy.script().on(When::call(Service::DynamoDb, "PutItem").first(4), throttled());
    let job = put(&scene.yard, "plain", "one").await;
    let updates = scene.proxy.script().on(When::call(Service::DynamoDb, "UpdateItem").first(4), throttled());
    run(&scene.yard, &job, 1, None).await;
    let batches = scene.proxy.script().on(When::call(Service::DynamoDb, "TransactWriteItems").first(4), throttled());
    let batch = ["a", "b"].map(|key| new(&scene.yard, "plain", key, &text(20))).to_vec();
    assert_eq!(scene.yard.ledger.accept(batch).await.expect("accept"), [Acceptance::Accepted, Acceptance::Accepted]);
    assert_eq!([puts.hits(), updates.hits(), batches.hits()], [4, 4, 4]);
    // Reads that are throttled are asked again as well, each page and each batch for itself.
    let queries = scene.proxy.script().on(When::call(Service::DynamoDb, "Query").first(4), throttled());
    let reads = scene.proxy.script().on(When::call(Service::DynamoDb, "BatchGetItem").first(4), throttled());
    assert_eq!(scene.yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list").len(), 3);
    assert_eq!([queries.hits(), reads.hits()], [4, 4]);
}

async fn keys_left_unprocessed_are_asked_for_again(scene: Scene) {
    let batch: Vec<_> = (0..30).map(|n| new(&scene.yard, "plain", &format!("job-{n}"), &text(2000))).collect();
    let ids: Vec<_> = batch.iter().map(|new| new.job.id).collect();
    scene.yard.ledger.accept(batch.clone()).await.expect("accept");
    scene.proxy.set_weather(Weather { seed: 7, partial: 0.9, ..Weather::calm() });
    let before = scene.calls("BatchGetItem");
    assert_eq!(scene.yard.ledger.load_all(&ids).await.expect("load").len(), 30);
    assert!(scene.calls("BatchGetItem") - before > 1, "some of them were left");
    for new in &batch[..5] {
        let payload = scene.yard.ledger.payload(new.job.id).await.expect("payload");
        assert_eq!(payload.as_ref(), Some(&new.payload));
    }
    assert_eq!(scene.yard.ledger.list(&Query { limit: 50, ..Query::default() }).await.expect("list").len(), 30);
    // Nothing at all of it for long is an error that passes, and no answer that is short of some.
    scene.proxy.set_weather(Weather::calm());
    let keys: Vec<_> =
        ids[..2].iter().map(|id| json!({ "pk": { "S": format!("J#{id}") }, "sk": { "S": "M" } })).collect();
    let none = json!({ "Responses": {}, "UnprocessedKeys": { (&*scene.names.table): { "Keys": keys } } });
    scene.proxy.script().on(When::call(Service::DynamoDb, "BatchGetItem"), Action::Replace(none.to_string()));
    let error = scene.yard.ledger.load_all(&ids[..2]).await.expect_err("nothing was read");
    assert!(error.retryable, "{error}");
    assert_eq!(error.to_string(), format!("cannot load 2 records in table {}", scene.names.table));
}

/// How long an index does not show what was written.
const LAG: Duration = Duration::from_secs(2);

async fn lists_miss_what_an_index_does_not_show_yet_and_show_it_then(scene: Scene) {
    scene.proxy.rules(|limits| limits.dynamodb.index_lag = LAG);
    let ledger = &scene.yard.ledger;
    let job = put(&scene.yard, "plain", "one").await;
    let soon = scene.yard.ambient.now() + Duration::from_secs(300);
    let query = Query { limit: 10, ..Query::default() };
    assert_eq!(ledger.load(job.id).await.expect("load").as_ref(), Some(&job), "the table itself never lags");
    assert_eq!(ledger.list(&query).await.expect("list"), []);
    assert_eq!(ledger.due(soon, 10).await.expect("due"), []);
    assert_eq!(ledger.count().await.expect("count"), []);
    tokio::time::sleep(LAG + Duration::from_millis(100)).await;
    assert_eq!(ledger.list(&query).await.expect("list"), std::slice::from_ref(&job));
    assert_eq!(ledger.due(soon, 10).await.expect("due"), [job.id]);
    assert_eq!(ledger.count().await.expect("count"), [(Phase::Dispatched, 1)]);
}

async fn what_an_index_shows_late_is_acted_upon_once(scene: Scene) {
    scene.proxy.rules(|limits| limits.dynamodb.index_lag = LAG);
    let job = put(&scene.yard, "plain", "one").await;
    scene.ambient.by(Duration::from_secs(90));
    assert_eq!(reap::round(&scene.yard).await.expect("round").found, 0, "not shown yet");
    tokio::time::sleep(LAG + Duration::from_millis(100)).await;
    let another = scene.another();
    let (one, two) = tokio::join!(reap::round(&scene.yard), reap::round(&another));
    let (one, two) = (one.expect("round"), two.expect("round"));
    assert_eq!(one.done + two.done, 1, "two reapers see it, and one of them acts: {one:?} {two:?}");
    let looked = scene.load(job.id).await;
    assert_eq!(looked.revision, job.revision + 1);
    // An index that still shows what was: the record says that there is nothing to do.
    let again = reap::round(&scene.yard).await.expect("round");
    assert_eq!((again.done, scene.load(job.id).await), (0, looked));
}

async fn held_jobs_that_an_index_does_not_show_yet_are_let_go_by_a_later_round(scene: Scene) {
    scene.proxy.rules(|limits| limits.dynamodb.index_lag = LAG);
    let yard = &scene.yard;
    let batch = (0..5).map(|n| prepared(yard, "limited", &format!("job-{n}"), &text(20))).collect();
    let taken = intake::accept(yard, batch).await.expect("accept");
    let jobs: Vec<Job> = taken.into_iter().map(|taken| taken.expect("taken").job).collect();
    assert_eq!(yard.ledger.held("limited", &Tier::ALL, 10).await.expect("held"), [], "nobody sees them yet");
    tokio::time::sleep(LAG + Duration::from_millis(100)).await;
    assert_eq!(brake::sweep(yard).await.expect("sweep"), 3);
    let permits = yard.ledger.permits("limited").await.expect("permits");
    assert_eq!(permits.held, [0, 1, 2], "asked of the table itself, which never lags");
    assert_eq!(brake::sweep(yard).await.expect("sweep"), 0, "as many as the limit allows");
    // One that an index shows as held and that has gone on: the record decides.
    let mut gone = None;
    for job in &jobs {
        let job = scene.load(job.id).await;
        if job.phase() == Phase::Dispatched {
            gone = Some(job);
        }
    }
    let stale = gone.expect("three went on").stamped(yard.ambient.nonce());
    let stale = Job { revision: stale.revision - 1, ..stale };
    assert!(matches!(yard.ledger.save(stale, None).await.expect("save"), Saved::Refused(Some(_))));
}
