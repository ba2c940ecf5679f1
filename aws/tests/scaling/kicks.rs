//! A bell that rings where nobody works: one kick of a burst, and nothing lost where it fails.

use switchyard_faults::{Action, Service, When};

use crate::scene::{INVOKE, LOOK, SET, Scene, accept, prepared, submit};

/// The operations of a client since a moment, in the order in which they were answered.
fn since(scene: &Scene, mark: switchyard_faults::Mark, client: &str) -> Vec<String> {
    let records = scene.proxy.records().since(mark).into_iter();
    records.filter(|record| record.client == client).map(|record| record.operation).collect()
}

#[tokio::test]
async fn a_thousand_jobs_in_bulk_make_one_kick_and_one_capacity_call() {
    Scene::with(60, async |scene| {
        scene.submit(500).await;
        scene.submit(500).await;
        assert_eq!(scene.count(INVOKE), 1, "one kick of the burst");
        // The kick's look, and those of the minutes in which the instances boot.
        for _ in 0..3 {
            assert!(scene.look().await.failures.is_empty());
        }
        assert_eq!(scene.sizes(), ["50"], "1,000 jobs of a minute, within ten minutes, on two slots");
        assert_eq!(scene.desired().await, 50);
        assert_eq!(scene.proxy.records().requests(SET)[0]["HonorCooldown"], "false", "nothing is waited for");
    })
    .await;
}

#[tokio::test]
async fn from_the_door_to_the_capacity_call_there_are_these_requests() {
    Scene::with(10, async |scene| {
        // The process has taken a job before: it knows its queue, and who works.
        scene.enter("i-elsewhere", 0, false).await;
        scene.submit(1).await;
        scene.home.ledger.leave(&switchyard_core::job::Holder("i-elsewhere/0".to_owned())).await.unwrap();
        let batch = prepared(&scene.yard, 1).await;
        let mark = scene.proxy.records().mark();
        accept(&scene.yard, batch).await;
        assert_eq!(since(scene, mark, "YARD"), ["PutItem", "SendMessageBatch", "PutItem", INVOKE]);

        let (warm, mark) = (scene.look().await, scene.proxy.records().mark());
        assert_eq!(warm.verdict.unwrap().grow_to, Some(1));
        submit(&scene.yard, 1).await;
        assert_eq!(since(scene, mark, "YARD"), ["PutItem", "SendMessageBatch"], "nobody else pays for the kick");

        // The queues are known from the look before.
        submit(&scene.yard, 40).await;
        let mark = scene.proxy.records().mark();
        assert_eq!(scene.look().await.verdict.unwrap().grow_to, Some(3));
        let mut read = since(scene, mark, "SCALER");
        assert_eq!(read.pop().as_deref(), Some(SET), "after all that is read");
        read.sort();
        let mut expected = vec![LOOK, "Query"];
        // Those of the pools with queues; of the third it is asked each time whether they are there by now.
        expected.extend(["GetQueueAttributes"; 6]);
        expected.extend(["GetQueueUrl"; 3]);
        expected.sort_unstable();
        assert_eq!(read, expected, "all of it at once");
    })
    .await;
}

#[tokio::test]
async fn of_two_processes_one_kicks() {
    Scene::with(10, async |scene| {
        let (early, late) = (scene.another(), scene.another());
        // It has read who works, and what was kicked, before the kick.
        let batch = prepared(&early, 1).await;
        scene.submit(1).await;
        let mark = scene.proxy.records().mark();
        accept(&early, batch).await;
        let ops = since(scene, mark, "OTHER");
        assert_eq!(
            ops.iter().filter(|one| *one == "PutItem").count(),
            2,
            "the job, and a kick that is refused: {ops:?}"
        );
        let mark = scene.proxy.records().mark();
        submit(&late, 1).await;
        let ops = since(scene, mark, "OTHER");
        assert_eq!(ops.iter().filter(|one| *one == "PutItem").count(), 1, "it reads of the kick: {ops:?}");
        assert_eq!(scene.count(INVOKE), 1);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_leaves_is_nobody_and_one_that_stays_is_somebody() {
    Scene::with(10, async |scene| {
        scene.enter("i-1", 0, false).await;
        scene.submit(1).await;
        assert_eq!(scene.count(INVOKE), 0);
        scene.enter("i-1", 0, true).await;
        scene.submit(1).await;
        assert_eq!(scene.count(INVOKE), 1);
    })
    .await;
}

#[tokio::test]
async fn a_kick_that_fails_loses_nothing_and_is_not_tried_for_every_job() {
    Scene::with(10, async |scene| {
        let lambda = When::call(Service::named("lambda"), INVOKE);
        scene.proxy.script().on(lambda, Action::fail("ResourceNotFoundException", "no such function"));
        scene.submit(3).await;
        scene.submit(3).await;
        assert_eq!(scene.count(INVOKE), 1);
        assert_eq!(scene.look().await.verdict.unwrap().grow_to, Some(1), "the minute's look does it");
    })
    .await;
}

#[tokio::test]
async fn a_kick_whose_note_was_written_and_not_answered_is_a_kick() {
    Scene::with(10, async |scene| {
        let note = When::call(Service::DynamoDb, "PutItem").containing("live#kick#").nth(1);
        let lost = scene.proxy.script().on(note, Action::ResetAfter);
        scene.submit(1).await;
        assert_eq!((lost.hits(), scene.count(INVOKE)), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_kick_that_nobody_answers_keeps_no_job_for_longer_than_two_seconds() {
    Scene::with(10, async |scene| {
        let batch = prepared(&scene.yard, 1).await;
        scene.proxy.script().on(When::call(Service::named("lambda"), INVOKE), Action::HoldBefore);
        let began = std::time::Instant::now();
        accept(&scene.yard, batch).await;
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "the call's own patience is a minute here");
    })
    .await;
}
