//! An item holds 400 KB, a transaction takes 100 items and 4 MB.

use serde_json::json;
use switchyard_core::ports::{Acceptance, Body, NewJob, Unmapped};

use crate::on_both_emulators;
use crate::scene::{Scene, new, put, run, text};

on_both_emulators! {
    a_payload_and_a_result_of_64_kib_of_escapes_fit_into_their_items
    an_event_of_a_mebibyte_is_cut_into_pieces_and_read_back
    a_batch_of_230_jobs_is_three_transactions
    a_batch_of_60_jobs_with_payloads_of_their_own_is_two_transactions
    what_was_there_before_is_dropped_from_a_transaction_by_its_reason_and_the_rest_is_accepted
}

async fn a_payload_and_a_result_of_64_kib_of_escapes_fit_into_their_items(scene: Scene) {
    // Each quotation mark is two bytes of the payload's JSON, and four where that is a JSON text itself.
    let escapes = json!({ "t": "\"".repeat(Body::INLINE_BYTES / 2 - 10) });
    let text = escapes.to_string();
    assert!((Body::INLINE_BYTES - 20..=Body::INLINE_BYTES).contains(&text.len()), "{}", text.len());
    let new = new(&scene.yard, "plain", "escapes", &escapes);
    let job = new.job.clone();
    assert_eq!(scene.yard.ledger.accept(vec![new]).await.expect("accept"), [Acceptance::Accepted]);
    run(&scene.yard, &job, 1, Some(text.clone())).await;
    let (payload, result) =
        (scene.yard.ledger.payload(job.id).await, scene.yard.ledger.result(job.id, job.epoch).await);
    for body in [payload, result] {
        assert_eq!(body.expect("read"), Some(Body::Inline(text.clone())));
    }
}

async fn an_event_of_a_mebibyte_is_cut_into_pieces_and_read_back(scene: Scene) {
    let detail = json!({ "detail": "ä🚂".repeat((1 << 20) / 6) });
    let event = Unmapped::new(&detail, "test", "Test", "because", scene.yard.ambient.now());
    assert!(event.event.len() > 1_040_000, "{}", event.event.len());
    scene.yard.ledger.keep_unmapped(event.clone()).await.expect("keep");
    assert_eq!(scene.items(&format!("U#{}", event.id)).await.len(), 4, "the event, and its text in three");
    let read = scene.yard.ledger.unmapped_event(event.id).await.expect("load");
    assert!(read.as_ref() == Some(&event), "the same, to the byte");
    scene.yard.ledger.forget_unmapped(&[event.id]).await.expect("forget");
    assert!(scene.items(&format!("U#{}", event.id)).await.is_empty(), "and no piece of it stays");
}

fn batch(scene: &Scene, jobs: usize, bytes: usize) -> Vec<NewJob> {
    (0..jobs).map(|n| new(&scene.yard, "plain", &format!("job-{n}"), &text(bytes))).collect()
}

async fn accepted_in(scene: &Scene, batch: Vec<NewJob>) -> u64 {
    let (before, jobs) = (scene.calls("TransactWriteItems"), batch.len());
    let answers = scene.yard.ledger.accept(batch.clone()).await.expect("accept");
    assert_eq!(answers, vec![Acceptance::Accepted; jobs]);
    for new in [&batch[0], &batch[jobs - 1]] {
        let payload = scene.yard.ledger.payload(new.job.id).await.expect("payload");
        assert_eq!(payload.as_ref(), Some(&new.payload));
    }
    scene.calls("TransactWriteItems") - before
}

async fn a_batch_of_230_jobs_is_three_transactions(scene: Scene) {
    assert_eq!(accepted_in(&scene, batch(&scene, 230, 20)).await, 3);
}

async fn a_batch_of_60_jobs_with_payloads_of_their_own_is_two_transactions(scene: Scene) {
    assert_eq!(accepted_in(&scene, batch(&scene, 60, 2000)).await, 2);
}

async fn what_was_there_before_is_dropped_from_a_transaction_by_its_reason_and_the_rest_is_accepted(scene: Scene) {
    let old = [put(&scene.yard, "plain", "job-3").await, put(&scene.yard, "plain", "job-7").await];
    let batch = batch(&scene, 10, 2000);
    let before = scene.calls("TransactWriteItems");
    let answers = scene.yard.ledger.accept(batch.clone()).await.expect("accept");
    assert_eq!(scene.calls("TransactWriteItems") - before, 2, "one is refused, one is not");
    for (n, (answer, new)) in answers.iter().zip(&batch).enumerate() {
        let there = old.iter().find(|old| old.id == new.job.id);
        let expected = there.map_or(Acceptance::Accepted, |old| Acceptance::Existing(Box::new(old.clone())));
        assert_eq!(*answer, expected, "{n}");
        let payload = scene.yard.ledger.payload(new.job.id).await.expect("payload");
        let kept = if there.is_some() { Body::Inline(text(20).to_string()) } else { new.payload.clone() };
        assert_eq!(payload, Some(kept), "{n}: a refused one leaves no payload over the old one's");
    }
}
