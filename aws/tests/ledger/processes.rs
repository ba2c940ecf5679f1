//! Two processes of one yard, each with its own memory of what it saw; and whoever can put a message into a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchyard_aws::lanes_sqs::queue_name;
use switchyard_core::brake::{self, Pause, Scope};
use switchyard_core::dispatch;
use switchyard_core::job::{Job, Phase};
use switchyard_core::ports::{Bell, Claimed, Desk, Message, Refusal};
use switchyard_core::settle::YardDesk;
use switchyard_core::wire::encode_doorbell;

use crate::on_both_emulators;
use crate::scene::{Scene, claim, put, run};

on_both_emulators! {
    a_pause_that_one_process_has_answered_is_obeyed_by_the_other_at_once
    a_limit_is_never_exceeded_by_two_processes
    what_one_process_has_claimed_is_refused_at_the_other
    a_forged_hint_changes_nothing_and_the_claim_starts_from_the_true_record
}

async fn a_pause_that_one_process_has_answered_is_obeyed_by_the_other_at_once(scene: Scene) {
    let another = scene.another();
    let job = put(&scene.yard, "plain", "one").await;
    let busy = Arc::new(AtomicBool::new(true));
    // The other reads what is paused all the time, and so holds what it read a moment before.
    let reader = tokio::spawn({
        let (ledger, busy) = (Arc::clone(&another.ledger), Arc::clone(&busy));
        async move {
            while busy.load(Ordering::SeqCst) {
                ledger.pauses().await.expect("pauses");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    });
    let (by, reason, at) = ("ana".to_owned(), String::new(), scene.yard.ambient.now());
    let pause = Pause { scope: Scope::All, by, at, reason };
    scene.yard.ledger.set_pause(&Scope::All, Some(&pause)).await.expect("pause");
    let claimed = YardDesk(another.clone()).claim(&claim(&job, 1)).await.expect("claim");
    assert_eq!(claimed, Claimed::Lost(Refusal::Braked));
    assert_eq!(scene.load(job.id).await.phase(), Phase::Held);
    busy.store(false, Ordering::SeqCst);
    reader.await.expect("it ends");
}

async fn a_limit_is_never_exceeded_by_two_processes(scene: Scene) {
    let another = scene.another();
    let mut jobs: Vec<Job> = Vec::new();
    for n in 0..9 {
        jobs.push(put(&scene.yard, "limited", &format!("job-{n}")).await);
    }
    let mut rounds = 0;
    while !jobs.is_empty() {
        let (one, two) = tokio::join!(brake::sweep(&scene.yard), brake::sweep(&another));
        one.expect("sweep");
        two.expect("sweep");
        let permits = scene.yard.ledger.permits("limited").await.expect("permits");
        let (mut sent, mut waiting) = (Vec::new(), Vec::new());
        for job in jobs {
            let job = scene.load(job.id).await;
            if job.phase() == Phase::Dispatched { &mut sent } else { &mut waiting }.push(job);
        }
        assert_eq!((permits.used(), sent.len()), (3, 3), "never more, and as many as there may be");
        for (n, job) in sent.iter().enumerate() {
            run(if n % 2 == 0 { &scene.yard } else { &another }, job, 1, None).await;
        }
        // As each of them ended, the next was let go.
        jobs = waiting;
        rounds += 1;
    }
    assert_eq!(rounds, 3);
    assert_eq!(scene.yard.ledger.permits("limited").await.expect("permits").used(), 0);
}

async fn what_one_process_has_claimed_is_refused_at_the_other(scene: Scene) {
    let another = scene.another();
    let job = put(&scene.yard, "plain", "one").await;
    // The other has seen it wait, and starts from that.
    assert_eq!(another.ledger.glimpse(job.id).await.expect("glimpse").as_ref(), Some(&job));
    let won = YardDesk(scene.yard.clone()).claim(&claim(&job, 1)).await.expect("claim");
    assert!(matches!(won, Claimed::Won(..)));
    let lost = YardDesk(another.clone()).claim(&claim(&job, 2)).await.expect("claim");
    assert_eq!(lost, Claimed::Lost(Refusal::Taken));
    let Claimed::Won(running, _) = won else { return };
    assert_eq!(scene.load(job.id).await, *running);
}

async fn a_forged_hint_changes_nothing_and_the_claim_starts_from_the_true_record(scene: Scene) {
    let job = put(&scene.yard, "plain", "one").await;
    let another = scene.another();
    // Whoever can read the queue knows its revision and its nonce, too.
    let mut forged = Job { attempts_allowed: 99, spent_nanodollars: 7, ..job.clone() };
    forged.work.caller = "mallory".into();
    forged.work.needs.memory_mib += 1;
    let lane = dispatch::lane(&job);
    let sqs = scene.clients.sqs();
    let url = sqs.get_queue_url().queue_name(queue_name(&scene.names.queues, &lane)).send().await.expect("a queue");
    let body = encode_doorbell(Message::of(&job), Some(&forged));
    let sent = sqs.send_message().queue_url(url.queue_url.expect("a URL")).message_body(body);
    sent.message_group_id("mallory").send().await.expect("sent");
    let heard = another.lanes.receive(&lane, 1, true).await.expect("receive").remove(0);
    assert_eq!(heard.message, Message::of(&job));
    let claimed = YardDesk(another.clone()).claim(&claim(&job, 1)).await.expect("claim");
    let Claimed::Won(running, _) = claimed else { panic!("{claimed:?}") };
    assert_eq!(running.work, job.work, "the true record's");
    assert_eq!((running.attempts_allowed, running.spent_nanodollars), (job.attempts_allowed, 0));
    assert_eq!(scene.load(job.id).await, *running);
    // The true bell is heard too, and has nothing more to say.
    assert!(another.lanes.ring(&[Bell { lane, job: &job }]).await.is_empty());
    another.lanes.delete(&heard).await.expect("delete");
    let again = YardDesk(scene.yard.clone()).claim(&claim(&job, 2)).await.expect("claim");
    assert_eq!(again, Claimed::Lost(Refusal::Taken));
}
