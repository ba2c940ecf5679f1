//! The home in memory passes the contract; and whatever answer of its ledger is lost, a job ends as if it had come.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_lite::future::block_on;
use jiff::Timestamp;
use serde_json::json;
use switchyard_core::catalog::Catalog;
use switchyard_core::contract::{Case, UNMAPPED_ROOM};
use switchyard_core::contract_suite;
use switchyard_core::dispatch;
use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::intake::{self, Prepared, Sender, Taking};
use switchyard_core::job::{Epoch, Failure, Holder, Job, Phase};
use switchyard_core::lend::{Answer, Loan, LoanRequest};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{
    Assignment, Beat, Body, Claim, Claimed, Desk, Emission, Executor, LaunchFailed, LaunchFailure, LogLine, LogSink,
    Message, Order, Outcome, PortError, Report, Reported, Usage, Voucher, Yard,
};
use switchyard_core::reap;
use switchyard_core::records::Emitted;
use switchyard_core::route::{Limits, Place, Venue};
use switchyard_core::settle::{self, YardDesk};

contract_suite!(on_memory);

fn on_memory(case: Case) {
    let (home, yard) = home();
    home.make_unmapped_room(UNMAPPED_ROOM);
    block_on(case(&yard));
}

fn home() -> (Memory, Yard) {
    let text = "version: 1\ncapabilities:\n  - name: knock\n    summary: Knocks\n    run: { command: [echo] }\n";
    let catalog = Catalog::parse("test", text, &[], &BTreeMap::new()).unwrap();
    let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 1);
    let yard = home.yard(catalog, Limits::one_machine(1024));
    (home, yard)
}

fn prepared(yard: &Yard) -> Prepared {
    let body = json!({ "capability": "knock", "announce": true });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).unwrap();
    let sender = Sender { caller: "tests", key: Some("one") };
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    let situation = Situation { policies: yard.policies(), ..Situation::default() };
    intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap()
}

async fn submit(yard: &Yard) -> Job {
    intake::accept(yard, vec![prepared(yard)]).await.unwrap().remove(0).unwrap().job
}

/// What a reader, a worker and the outside can see of the job, whenever it happened.
async fn seen(home: &Memory, yard: &Yard, job: &Job) -> String {
    let record = yard.ledger.load(job.id).await.unwrap().unwrap();
    let steps: Vec<&str> = record.timeline.iter().map(|entry| entry.reason.as_str()).collect();
    format!(
        "{} at epoch {}, {} failed, {} interrupted, {} lost, owed {:?}, due {}, {steps:?}, result {:?}, bells {}, told {}",
        record.phase(),
        record.epoch,
        record.attempts_spent,
        record.interruptions,
        record.losses,
        record.owed,
        record.due.is_some(),
        yard.ledger.result(job.id, Epoch(1)).await.unwrap(),
        yard.lanes.visible(&dispatch::lane(&record)).await.unwrap(),
        home.announced().len(),
    )
}

/// Ends every run in the same way.
struct Ends(Outcome);

#[async_trait]
impl Executor for Ends {
    async fn run(&self, _assignment: &Assignment<'_>, _log: &dyn LogSink) -> Outcome {
        self.0.clone()
    }
}

/// A desk behind which so many answers are lost at the next claim, and at the next settlement.
struct Lossy {
    home: Memory,
    desk: YardDesk,
    at_claim: u64,
    at_settle: u64,
}

#[async_trait]
impl Desk for Lossy {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, PortError> {
        // A repeated claim is the same loss going on: only the first one starts it.
        let first = self.desk.0.ledger.load(claim.id).await?.is_some_and(|job| job.phase() == Phase::Dispatched);
        if first {
            self.home.lose(self.at_claim);
        }
        self.desk.claim(claim).await
    }

    async fn beat(&self, beat: &Beat, patience: Duration) -> Result<Vec<Order>, PortError> {
        self.desk.beat(beat, patience).await
    }

    async fn log(&self, voucher: &Voucher, lines: &[LogLine]) -> Result<(), PortError> {
        self.desk.log(voucher, lines).await
    }

    async fn emit(&self, voucher: &Voucher, lines: &[Emitted]) -> Result<Emission, PortError> {
        self.desk.emit(voucher, lines).await
    }

    async fn settle(&self, report: &Report) -> Result<Reported, PortError> {
        let first = self.desk.0.ledger.load(report.voucher.id).await?.is_some_and(|job| job.phase() == Phase::Running);
        if first {
            self.home.lose(self.at_settle);
        }
        self.desk.settle(report).await
    }

    async fn borrow(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        self.desk.borrow(request).await
    }

    async fn give_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        self.desk.give_back(voucher, loan).await
    }
}

/// One job through one run that ends like this, with so many answers lost.
async fn one_run(outcome: &Outcome, at_claim: u64, at_settle: u64) -> (Memory, Yard, Job, Ran) {
    let (home, yard) = home();
    let job = submit(&yard).await;
    let bell = yard.lanes.receive(&dispatch::lane(&job), 1, false).await.unwrap().remove(0);
    let lossy = Lossy { home: home.clone(), desk: YardDesk(yard.clone()), at_claim, at_settle };
    let (executor, holder, runs) = (Ends(outcome.clone()), Holder("worker/1".into()), Runs::default());
    let holding = Holding {
        desk: &lossy,
        executor: &executor,
        blobs: &*yard.blobs,
        ambient: &*yard.ambient,
        holder: &holder,
        runs: &runs,
    };
    let ran = execute::run(&holding, bell.message, None).await.unwrap();
    yard.lanes.delete(&bell).await.unwrap();
    (home, yard, job, ran)
}

fn outcomes() -> [Outcome; 4] {
    let failure = Failure::new("exit_nonzero", "it exited with 1");
    [
        Outcome::Succeeded(Some("7".into())),
        Outcome::Failed { failure: failure.clone(), permanent: false },
        Outcome::Failed { failure, permanent: true },
        Outcome::Interrupted("the machine goes away".into()),
    ]
}

#[test]
fn an_acceptance_whose_answer_was_lost_is_sent_again_and_rings_once() {
    block_on(async {
        let (home, yard) = home();
        let prepared = prepared(&yard);
        home.lose(1);
        let lost = intake::accept(&yard, vec![prepared.clone()]).await.unwrap_err();
        assert!(lost.retryable);
        let taken = intake::accept(&yard, vec![prepared]).await.unwrap().remove(0).unwrap();
        assert!(taken.fresh, "it is ours: whoever took it must ring");
        let (other, calm) = self::home();
        let job = submit(&calm).await;
        assert_eq!(seen(&home, &yard, &taken.job).await, seen(&other, &calm, &job).await);
    });
}

#[test]
fn a_run_ends_as_if_every_answer_had_come() {
    block_on(async {
        for outcome in outcomes() {
            let (home, yard, job, ran) = one_run(&outcome, 0, 0).await;
            let expected = (seen(&home, &yard, &job).await, ran);
            for (at_claim, at_settle) in [(1, 0), (2, 0), (5, 0), (0, 1), (0, 2), (1, 1), (2, 2)] {
                let (home, yard, job, ran) = one_run(&outcome, at_claim, at_settle).await;
                let place = format!("{outcome:?}, {at_claim} lost at the claim, {at_settle} at the settlement");
                assert_eq!((seen(&home, &yard, &job).await, ran), expected, "{place}");
            }
        }
    });
}

/// Then whoever wrote cannot know that its write took effect, and the record's `due` brings the reaper.
#[test]
fn when_a_settlement_hears_nothing_at_all_the_reaper_does_what_it_left() {
    block_on(async {
        for outcome in outcomes() {
            let mut ends = Vec::new();
            for at_settle in [0, 3, 4, 6] {
                let (home, yard, job, _) = one_run(&outcome, 0, at_settle).await;
                for _ in 0..3 {
                    home.advance(Duration::from_secs(200));
                    reap::round(&yard).await.unwrap();
                }
                let record = yard.ledger.load(job.id).await.unwrap().unwrap();
                let heard = !record.is_settled() && yard.lanes.visible(&dispatch::lane(&record)).await.unwrap() > 0;
                let told = record.is_settled() && !home.announced().is_empty();
                assert!(heard || told, "{outcome:?}, {at_settle} lost: rung again or told to the outside");
                ends.push((record.phase(), record.epoch, record.attempts_spent, record.losses, record.owed));
            }
            assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{outcome:?} ends in one way: {ends:?}");
        }
    });
}

#[test]
fn a_cancellation_ends_as_if_every_answer_had_come() {
    block_on(async {
        for running in [false, true] {
            let mut ends = Vec::new();
            for lost in 0..3 {
                let (home, yard) = home();
                let job = submit(&yard).await;
                let run = Message { id: job.id, epoch: job.epoch };
                let (holder, token) = (Holder("worker/1".into()), [1; 32]);
                let token = switchyard_core::job::ClaimToken::new(token);
                if running {
                    let claim = Claim {
                        id: job.id,
                        epoch: job.epoch,
                        holder: holder.clone(),
                        token: token.hash(),
                        at_most: None,
                        room: None,
                    };
                    yard.ledger.claim(&claim, &yard.situation().await, yard.ambient.now()).await.unwrap();
                }
                home.lose(lost);
                let answered = settle::cancel_job(&yard, job.id, "tests").await.unwrap();
                assert_eq!(Some(&answered), yard.ledger.load(job.id).await.unwrap().as_ref());
                if running {
                    let beat = Beat { holder, counter: 1, running: vec![run] };
                    let desk = YardDesk(yard.clone());
                    let orders = desk.beat(&beat, Duration::ZERO).await.unwrap();
                    assert_eq!(orders.len(), 1, "its holder hears of it");
                    home.lose(lost);
                    let outcome = Outcome::Stopped(orders[0].cause);
                    let voucher = Voucher { id: job.id, epoch: job.epoch, token };
                    assert_eq!(
                        desk.settle(&Report { voucher, outcome, usage: Usage::default() }).await.unwrap(),
                        Reported::Recorded
                    );
                }
                ends.push(seen(&home, &yard, &job).await);
            }
            assert!(ends[0].starts_with("cancelled"), "{}", ends[0]);
            assert!(ends.iter().all(|end| *end == ends[0]), "{ends:#?}");
        }
    });
}

#[test]
fn a_retry_by_hand_rings_as_if_every_answer_had_come() {
    block_on(async {
        let mut ends = Vec::new();
        for lost in 0..3 {
            let (home, yard, job, _) = one_run(&outcomes()[2], 0, 0).await;
            home.lose(lost);
            settle::retry_job(&yard, job.id, "tests").await.unwrap();
            ends.push(seen(&home, &yard, &job).await);
        }
        assert!(ends[0].contains("dispatched at epoch 2") && ends[0].contains("bells 1"), "{}", ends[0]);
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:#?}");
    });
}

#[test]
fn a_job_whose_payload_is_gone_fails_for_good_and_does_not_go_round() {
    block_on(async {
        let (_, yard) = home();
        let Prepared { job, .. } = prepared(&yard);
        let blob = yard.blobs.put(job.id, "payload-1", "{}").await.unwrap();
        let new = switchyard_core::ports::NewJob { job: job.clone(), payload: Body::Blob(blob) };
        yard.ledger.accept(vec![new]).await.unwrap();
        yard.blobs.forget(job.id).await.unwrap();
        let (desk, executor) = (YardDesk(yard.clone()), Ends(Outcome::Succeeded(None)));
        let (holder, runs) = (Holder("worker/1".into()), Runs::default());
        let holding = Holding {
            desk: &desk,
            executor: &executor,
            blobs: &*yard.blobs,
            ambient: &*yard.ambient,
            holder: &holder,
            runs: &runs,
        };
        execute::run(&holding, Message { id: job.id, epoch: job.epoch }, None).await.unwrap();
        let ended = yard.ledger.load(job.id).await.unwrap().unwrap();
        assert_eq!(ended.phase(), Phase::Failed);
    });
}

#[test]
fn a_launch_without_a_place_waits_in_the_ledger_and_counts_as_no_failure() {
    let (home, yard) = home();
    block_on(async {
        let mut prepared = prepared(&yard);
        prepared.job.route.place = Place::Fargate;
        let full = LaunchFailed { message: "too many wait".into(), kind: LaunchFailure::NoPlace };
        home.refuse_launches(Some(full));
        let job = intake::accept(&yard, vec![prepared]).await.unwrap().remove(0).unwrap().job;
        for _ in 0..10 {
            home.advance(Duration::from_secs(3600));
            reap::round(&yard).await.unwrap();
        }
        let waiting = yard.ledger.load(job.id).await.unwrap().unwrap();
        assert_eq!((waiting.phase(), waiting.launch_failures, waiting.epoch), (Phase::Dispatched, 0, Epoch(1)));
        home.refuse_launches(None);
        home.advance(Duration::from_secs(3600));
        reap::round(&yard).await.unwrap();
        assert_eq!(home.launches(), [(Venue::Fargate, Message { id: job.id, epoch: Epoch(1) })]);
    });
}
