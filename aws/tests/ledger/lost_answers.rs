//! A write that took effect and whose answer was lost is sent again by the SDK, and is then refused by its own condition.

use switchyard_core::brake;
use switchyard_core::job::{Job, Phase};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Acceptance, Body, Claimed, Saved, Unmapped};
use switchyard_core::quota::Rate;

use crate::on_both_emulators;
use crate::scene::{Scene, claim, new, put, run, text};

on_both_emulators! {
    an_acceptance_whose_answer_was_lost_is_recognised_by_its_nonce
    acceptances_in_a_transaction_whose_answer_was_lost_are_recognised_by_their_nonces
    a_save_whose_answer_was_lost_is_recognised_by_its_nonce
    a_permit_and_a_result_in_a_transaction_whose_answer_was_lost_are_recognised_by_the_record_s_nonce
    a_claim_whose_answer_was_lost_is_won_and_brings_its_payload
    an_unmapped_event_whose_answer_was_lost_is_counted_once
    a_draw_whose_answer_was_lost_is_drawn_once
    a_removal_whose_answer_was_lost_is_done
}

async fn an_acceptance_whose_answer_was_lost_is_recognised_by_its_nonce(scene: Scene) {
    let new = new(&scene.yard, "plain", "one", &text(20));
    let lost = scene.lose_the_next("PutItem");
    assert_eq!(scene.yard.ledger.accept(vec![new.clone()]).await.expect("accept"), [Acceptance::Accepted]);
    assert_eq!((lost.hits(), scene.load(new.job.id).await), (1, new.job));
}

async fn acceptances_in_a_transaction_whose_answer_was_lost_are_recognised_by_their_nonces(scene: Scene) {
    let old = put(&scene.yard, "plain", "old").await;
    let batch = ["a", "old", "b"].map(|key| new(&scene.yard, "plain", key, &text(2000)));
    let lost = scene.lose_the_next("TransactWriteItems");
    let two = vec![batch[0].clone(), batch[2].clone()];
    assert_eq!(scene.yard.ledger.accept(two).await.expect("accept"), [Acceptance::Accepted, Acceptance::Accepted]);
    assert_eq!(lost.hits(), 1);
    let all = scene.yard.ledger.accept(batch.to_vec()).await.expect("accept");
    let existing = |job: &Job| Acceptance::Existing(Box::new(job.clone()));
    assert_eq!(all, [Acceptance::Accepted, existing(&old), Acceptance::Accepted], "by their nonces still");
    for new in [&batch[0], &batch[2]] {
        let payload = scene.yard.ledger.payload(new.job.id).await.expect("payload");
        assert_eq!(payload.as_ref(), Some(&new.payload));
    }
}

async fn a_save_whose_answer_was_lost_is_recognised_by_its_nonce(scene: Scene) {
    let job = put(&scene.yard, "plain", "one").await;
    let next = Job { aged: 1, ..job }.stamped(scene.yard.ambient.nonce());
    let lost = scene.lose_the_next("UpdateItem");
    assert_eq!(scene.yard.ledger.save(next.clone(), None).await.expect("save"), Saved::Saved);
    assert_eq!((lost.hits(), scene.load(next.id).await), (1, next.clone()));
    let another = next.clone().stamped(scene.yard.ambient.nonce());
    let another = Job { revision: next.revision, ..another };
    let refused = scene.yard.ledger.save(another, None).await.expect("save");
    assert_eq!(refused, Saved::Refused(Some(Box::new(next))), "another's write of the same revision is none of ours");
}

async fn a_permit_and_a_result_in_a_transaction_whose_answer_was_lost_are_recognised_by_the_record_s_nonce(
    scene: Scene,
) {
    let job = put(&scene.yard, "limited", "one").await;
    assert_eq!(job.phase(), Phase::Held);
    let situation = Situation { policies: scene.yard.policies(), ..Situation::default() };
    let admitted = brake::admission(job, Some(2), &situation, scene.yard.ambient.now()).job;
    let admitted = admitted.stamped(scene.yard.ambient.nonce());
    let lost = scene.lose_the_next("TransactWriteItems");
    assert_eq!(scene.yard.ledger.save(admitted.clone(), None).await.expect("save"), Saved::Saved);
    assert_eq!((lost.hits(), scene.yard.ledger.permits("limited").await.expect("permits").held), (1, vec![2]));
    // Its end gives the permit back and brings a result of its own, in one transaction whose answer is lost too.
    let lost = scene.lose_the_next("TransactWriteItems");
    let result = text(5000).to_string();
    run(&scene.yard, &admitted, 1, Some(result.clone())).await;
    assert_eq!(lost.hits(), 1);
    assert_eq!(scene.yard.ledger.permits("limited").await.expect("permits").used(), 0);
    let kept = scene.yard.ledger.result(admitted.id, admitted.epoch).await.expect("result");
    assert_eq!(kept, Some(Body::Inline(result)));
}

async fn a_claim_whose_answer_was_lost_is_won_and_brings_its_payload(scene: Scene) {
    for (key, bytes) in [("near", 20), ("beside", 5000)] {
        let new = new(&scene.yard, "plain", key, &text(bytes));
        scene.yard.ledger.accept(vec![new.clone()]).await.expect("accept");
        let lost = scene.lose_the_next("UpdateItem");
        let situation = Situation { policies: scene.yard.policies(), ..Situation::default() };
        let claimed = scene.yard.ledger.claim(&claim(&new.job, 1), &situation, scene.yard.ambient.now()).await;
        let claimed = claimed.expect("claim");
        let Claimed::Won(job, payload) = claimed else { panic!("{key}: {claimed:?}") };
        assert_eq!((lost.hits(), payload, scene.load(job.id).await), (1, new.payload, *job), "{key}");
    }
}

async fn an_unmapped_event_whose_answer_was_lost_is_counted_once(scene: Scene) {
    let now = scene.yard.ambient.now();
    let event = Unmapped::new(&text(100), "test", "Test", "because", now);
    let lost = scene.lose_the_next("TransactWriteItems");
    scene.yard.ledger.keep_unmapped(event.clone()).await.expect("keep");
    assert_eq!(lost.hits(), 1);
    let count = scene.yard.ledger.unmapped_count().await.expect("count");
    assert_eq!((count.events, count.bytes), (1, event.event.len() as u64));
    // It comes again, and the answer to that is lost.
    let lost = scene.lose_the_next("UpdateItem");
    scene.yard.ledger.keep_unmapped(event.clone()).await.expect("keep");
    let kept = scene.yard.ledger.unmapped_event(event.id).await.expect("load").expect("it is there");
    assert_eq!((lost.hits(), kept.seen), (1, 2));
}

async fn a_draw_whose_answer_was_lost_is_drawn_once(scene: Scene) {
    let (ledger, now) = (&scene.yard.ledger, scene.yard.ambient.now());
    let rate = Rate { jobs_per_minute: 1, burst: 2 };
    for _ in 0..2 {
        let lost = scene.lose_the_next("PutItem");
        assert_eq!(ledger.draw("tester", 1, rate, now).await.expect("draw"), Ok(()), "two, and each counts once");
        assert_eq!(lost.hits(), 1);
    }
    assert!(ledger.draw("tester", 1, rate, now).await.expect("draw").is_err(), "and no third");
}

async fn a_removal_whose_answer_was_lost_is_done(scene: Scene) {
    let job = put(&scene.yard, "plain", "one").await;
    run(&scene.yard, &job, 1, Some(text(5000).to_string())).await;
    let lost = scene.lose_the_next("TransactWriteItems");
    scene.yard.ledger.forget(&[job.id]).await.expect("forget");
    assert_eq!(lost.hits(), 1);
    assert!(scene.items(&format!("J#{}", job.id)).await.is_empty());
    assert_eq!(scene.yard.ledger.glimpse(job.id).await.expect("glimpse"), None, "nor is it remembered");
}
