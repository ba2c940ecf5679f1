//! Looks at a pool: what it grows to, what keeps its size, and two looks at once.

use switchyard_core::brake::{Pause, Scope};
use switchyard_core::job::{ClaimToken, Holder};
use switchyard_core::ports::{Claim, Claimed, Query};
use switchyard_core::route::PoolName;
use switchyard_core::scale::Reason;
use switchyard_faults::{Action, Service, When};

use crate::scene::{LOOK, SET, Scene, look};

#[tokio::test]
async fn a_pool_grows_from_none_to_its_maximum_and_no_further() {
    Scene::with(3, async |scene| {
        let idle = scene.look().await.verdict.unwrap();
        assert_eq!((idle.reason, scene.count(SET)), (Reason::Idle, 0), "no work, no call");
        scene.submit(100).await;
        let first = scene.look().await.verdict.unwrap();
        assert_eq!((first.reason, first.wanted, first.grow_to), (Reason::First, 5, Some(3)));
        for _ in 0..2 {
            let full = scene.look().await.verdict.unwrap();
            assert_eq!((full.reason, full.booting, full.grow_to), (Reason::AtMaximum, 3, None));
        }
        assert_eq!((scene.sizes(), scene.desired().await), (vec!["3".to_owned()], 3));
    })
    .await;
}

#[tokio::test]
async fn two_looks_at_once_ask_for_no_more_than_one() {
    Scene::with(20, async |scene| {
        scene.submit(100).await;
        let other = scene.another_scaler();
        let (one, two) = tokio::join!(scene.look(), look(&other, &scene.yard));
        assert!(one.failures.is_empty() && two.failures.is_empty());
        assert_eq!(scene.desired().await, 5);
        assert!(scene.sizes().iter().all(|size| size == "5"), "{:?}", scene.sizes());
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_keeps_the_size_and_is_told() {
    let cases = [
        (Service::AutoScaling, LOOK, "Throttling", Reason::GroupUnknown),
        (Service::Sqs, "GetQueueAttributes", "OverLimit", Reason::BacklogUnknown),
    ];
    Scene::with(20, async |scene| {
        scene.submit(100).await;
        for (service, operation, code, reason) in cases {
            let fails = scene.proxy.script().on(When::call(service, operation), Action::fail(code, "not now"));
            let looked = scene.look().await;
            assert_eq!(looked.verdict.unwrap().reason, reason);
            assert!(!looked.failures.is_empty() && looked.failures.iter().all(|one| one.operation != "grow group"));
            fails.lift();
        }
        assert_eq!(scene.count(SET), 0);
        // Of an empty group there is nothing to know of workers.
        let fails = When::call(Service::DynamoDb, "Query").client("SCALER");
        let fails = scene.proxy.script().on(fails, Action::fail("ResourceNotFoundException", "not now"));
        let looked = scene.look().await;
        assert_eq!((looked.verdict.unwrap().grow_to, looked.failures.len()), (Some(5), 1));
        // Of another there is.
        scene.submit(500).await;
        assert_eq!(scene.look().await.verdict.unwrap().reason, Reason::WorkersUnknown);
        fails.lift();
        assert_eq!(scene.look().await.verdict.unwrap().grow_to, Some(20));
    })
    .await;
}

#[tokio::test]
async fn a_group_that_cannot_be_set_is_told_and_set_at_the_next_look() {
    Scene::with(20, async |scene| {
        scene.submit(1).await;
        let busy = Action::fail("ScalingActivityInProgress", "not now");
        scene.proxy.script().on(When::call(Service::AutoScaling, SET).first(1), busy);
        let refused = scene.look().await;
        assert_eq!(refused.failures.iter().map(|one| one.operation).collect::<Vec<_>>(), ["grow group"]);
        assert!(scene.look().await.failures.is_empty());
        assert_eq!(scene.desired().await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_pool_without_a_group_is_no_error_and_said_once() {
    Scene::with(20, async |scene| {
        let policies = scene.yard.policies();
        let limits = &policies.limits;
        for first in [true, false] {
            let looked = scene.scaler.round(limits, Some("steady".parse().unwrap()), &*scene.yard.ambient).await;
            let [steady] = &looked.pools[..] else { panic!("{looked:?}") };
            assert_eq!((steady.verdict, steady.first_without, steady.failures.len()), (None, first, 0));
        }
        let nowhere = scene.scaler.round(limits, Some("nowhere".parse().unwrap()), &*scene.yard.ambient).await;
        assert!(nowhere.pools.is_empty() && nowhere.failures.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_pool_whose_workers_leave_gets_others_beside_them() {
    Scene::with(20, async |scene| {
        scene.submit(40).await;
        assert_eq!(scene.look().await.verdict.unwrap().grow_to, Some(2));
        let (_, instances) = scene.group().await;
        scene.enter(&instances[0], 0, false).await;
        scene.enter(&instances[1], 0, true).await;
        let verdict = scene.look().await.verdict.unwrap();
        assert_eq!((verdict.present, verdict.leaving, verdict.grow_to), (1, 1, Some(3)));
    })
    .await;
}

#[tokio::test]
async fn bells_of_jobs_that_run_are_not_taken_for_jobs_that_wait() {
    Scene::with(20, async |scene| {
        scene.submit(40).await;
        assert_eq!(scene.look().await.verdict.unwrap().grow_to, Some(2));
        let (_, instances) = scene.group().await;
        for instance in &instances {
            scene.enter(instance, 2, false).await;
        }
        // All forty are claimed, by a pool of many slots say, and their bells lie in the queue again.
        let jobs = scene.yard.ledger.list(&Query { limit: 100, ..Query::default() }).await.unwrap();
        let situation = scene.yard.situation().await;
        for job in &jobs[..38] {
            let claim = Claim {
                id: job.id,
                epoch: job.epoch,
                holder: Holder(format!("{}/0", instances[0])),
                token: ClaimToken::new([7; 32]).hash(),
                at_most: None,
                room: None,
            };
            let claimed = scene.yard.ledger.claim(&claim, &situation, scene.yard.ambient.now()).await.unwrap();
            assert!(matches!(claimed, Claimed::Won(..)), "{claimed:?}");
        }
        let verdict = scene.look().await.verdict.unwrap();
        assert_eq!((verdict.waiting, verdict.reason, verdict.grow_to), (2, Reason::Enough, None), "the ledger's count");
        // And where it cannot be had, nothing is done.
        let indexed = When::call(Service::DynamoDb, "Query").client("SCALER").containing("\"due\"");
        scene.proxy.script().on(indexed, Action::fail("ResourceNotFoundException", "not now"));
        let looked = scene.look().await;
        assert_eq!((looked.verdict.unwrap().reason, looked.failures.len()), (Reason::BacklogUnknown, 1));
        assert_eq!(looked.pool, PoolName::STANDARD);
    })
    .await;
}

#[tokio::test]
async fn what_is_paused_brings_nobody_and_comes_when_it_goes_on() {
    Scene::with(10, async |scene| {
        let pause = Pause { scope: Scope::All, by: "ana".into(), at: scene.yard.ambient.now(), reason: String::new() };
        scene.submit(40).await;
        scene.yard.ledger.set_pause(&Scope::All, Some(&pause)).await.unwrap();
        for _ in 0..2 {
            let verdict = scene.look().await.verdict.unwrap();
            assert_eq!((verdict.waiting, verdict.grow_to), (0, None), "its bells ring on, and nobody may answer them");
        }
        scene.yard.ledger.set_pause(&Scope::All, None).await.unwrap();
        assert!(scene.look().await.verdict.unwrap().grow_to.is_some());
    })
    .await;
}
