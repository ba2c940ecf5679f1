//! Doorbells ring together: a home pays for calls of a queue, not for bells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_lite::future::block_on;
use jiff::Timestamp;
use serde_json::json;
use switchyard_core::brake::{self, Pause, Scope};
use switchyard_core::catalog::Catalog;
use switchyard_core::dispatch;
use switchyard_core::intake::{self, Prepared, Sender, Taking};
use switchyard_core::job::{Epoch, Holder};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{
    Bell, Fleet, Kicked, Lane, Lanes, LaunchFailed, LaunchFailure, Message, PortError, Query, Received, Room, Worker,
    Yard,
};
use switchyard_core::reap;
use switchyard_core::route::{Limits, Place, PoolName};
use switchyard_core::settle;

/// The lanes of a home, with a count of the calls that ring, and bells that do not.
struct Counted {
    home: Memory,
    calls: Mutex<Vec<usize>>,
    mute: Mutex<usize>,
}

#[async_trait]
impl Lanes for Counted {
    async fn ring(&self, bells: &[Bell<'_>]) -> Vec<(Message, PortError)> {
        self.calls.lock().unwrap().push(bells.len());
        let mute = std::mem::take(&mut *self.mute.lock().unwrap()).min(bells.len());
        self.home.ring(&bells[mute..]).await;
        let failed = |bell: &Bell<'_>| (bell.message(), PortError::retryable("ring", "a lane", "it is mute"));
        bells[..mute].iter().map(failed).collect()
    }

    async fn receive(&self, lane: &Lane, max: usize, wait: bool) -> Result<Vec<Received>, PortError> {
        self.home.receive(lane, max, wait).await
    }

    async fn delete(&self, received: &Received) -> Result<(), PortError> {
        self.home.delete(received).await
    }

    async fn release(&self, received: &Received) -> Result<(), PortError> {
        self.home.release(received).await
    }

    async fn visible(&self, lane: &Lane) -> Result<u64, PortError> {
        self.home.visible(lane).await
    }
}

fn home() -> (Memory, Arc<Counted>, Yard) {
    let text = "version: 1\ncapabilities:\n  - { name: knock, summary: Knocks, run: { command: [echo] } }\n";
    let catalog = Catalog::parse("test", text, &[], &BTreeMap::new()).unwrap();
    let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 1);
    let lanes = Arc::new(Counted { home: home.clone(), calls: Mutex::default(), mute: Mutex::default() });
    let yard = Yard { lanes: Arc::clone(&lanes) as Arc<dyn Lanes>, ..home.yard(catalog, Limits::one_machine(1024)) };
    (home, lanes, yard)
}

fn prepared(yard: &Yard, pauses: bool, count: usize) -> Vec<Prepared> {
    let body = json!({ "capability": "knock" });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).unwrap();
    let sender = Sender { caller: "tests", key: None };
    let situation = if pauses {
        block_on(yard.situation())
    } else {
        Situation { policies: yard.policies(), ..Situation::default() }
    };
    let one = |_| {
        let (now, random) = (yard.ambient.now(), yard.ambient.random());
        intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap()
    };
    (0..count).map(one).collect()
}

#[test]
fn five_hundred_jobs_of_one_batch_ring_in_one_call() {
    let (_, lanes, yard) = home();
    let batch = prepared(&yard, false, 500);
    let lane = dispatch::lane(&batch[0].job);
    block_on(async {
        intake::accept(&yard, batch).await.unwrap();
        assert_eq!(*lanes.calls.lock().unwrap(), [500]);
        assert_eq!(yard.lanes.visible(&lane).await.unwrap(), 500);
    });
}

#[test]
fn jobs_that_are_admitted_together_ring_in_one_call() {
    let (home, lanes, yard) = home();
    let pause = Pause { scope: Scope::All, by: "ana".into(), at: yard.ambient.now(), reason: String::new() };
    block_on(brake::pause(&yard, pause)).unwrap();
    let batch = prepared(&yard, true, 60);
    block_on(async {
        intake::accept(&yard, batch).await.unwrap();
        assert_eq!(*lanes.calls.lock().unwrap(), [0_usize; 0], "what is held rings nowhere");
        home.advance(Duration::from_secs(1));
        brake::resume(&yard, &Scope::All).await.unwrap();
        assert_eq!(*lanes.calls.lock().unwrap(), [60]);
    });
}

#[test]
fn a_bell_that_did_not_ring_is_rung_by_the_reaper() {
    let (home, lanes, yard) = home();
    let batch = prepared(&yard, false, 3);
    let (first, lane) = (batch[0].job.id, dispatch::lane(&batch[0].job));
    block_on(async {
        *lanes.mute.lock().unwrap() = 1;
        let taken = intake::accept(&yard, batch).await.unwrap();
        assert!(taken.iter().all(Result::is_ok), "what the ledger has is accepted");
        let heard = yard.lanes.receive(&lane, 10, false).await.unwrap();
        assert_eq!(heard.len(), 2, "the others rang");
        for received in &heard {
            settle::cancel_job(&yard, received.message.id, "tests").await.unwrap();
        }
        home.advance(dispatch::FIRST_LOOK);
        reap::round(&yard).await.unwrap();
        let heard = yard.lanes.receive(&lane, 10, false).await.unwrap();
        assert_eq!(
            heard.iter().map(|received| received.message).collect::<Vec<_>>(),
            [Message { id: first, epoch: Epoch(1) }]
        );
    });
}

#[test]
fn launches_that_fail_for_good_ring_for_the_fleet_in_one_call() {
    let (home, lanes, yard) = home();
    let mut batch = prepared(&yard, false, 12);
    for prepared in &mut batch {
        prepared.job.route.place = Place::Fargate;
    }
    home.refuse_launches(Some(LaunchFailed { message: "no such image".into(), kind: LaunchFailure::Permanent }));
    block_on(async {
        intake::accept(&yard, batch).await.unwrap();
        assert_eq!(*lanes.calls.lock().unwrap(), [12], "after all launches, together");
        let jobs = yard.ledger.list(&Query { limit: 20, ..Query::default() }).await.unwrap();
        assert!(jobs.iter().all(|job| matches!(job.route.place, Place::Fleet(_))));
    });
}

/// A fleet that notes who was kicked, and fails when it is told to.
#[derive(Default)]
struct Noted {
    kicks: Mutex<Vec<PoolName>>,
    fails: Mutex<bool>,
}

#[async_trait]
impl Fleet for Noted {
    async fn kick(&self, pool: PoolName) -> Result<Kicked, PortError> {
        self.kicks.lock().unwrap().push(pool);
        match *self.fails.lock().unwrap() {
            true => Err(PortError::retryable("kick pool", pool, "it sleeps")),
            false => Ok(Kicked::Sent),
        }
    }
}

fn with_fleet(yard: Yard) -> (Arc<Noted>, Yard) {
    let fleet = Arc::new(Noted::default());
    (Arc::clone(&fleet), Yard { fleet, ..yard })
}

#[test]
fn a_batch_that_rings_where_nobody_works_kicks_once() {
    let (_, _, yard) = home();
    let (fleet, yard) = with_fleet(yard);
    block_on(async {
        intake::accept(&yard, prepared(&yard, false, 1000)).await.unwrap();
        assert_eq!(*fleet.kicks.lock().unwrap(), [PoolName::STANDARD]);
    });
}

#[test]
fn a_worker_that_takes_work_needs_no_kick_and_one_that_leaves_does() {
    let (home, _, yard) = home();
    let (fleet, yard) = with_fleet(yard);
    let room = Room { slots: 2, milli_vcpu: 2000, memory_mib: 1024 };
    let worker = |pool: &str, leaving| Worker {
        holder: Holder("i-1/0".to_owned()),
        pool: pool.parse().unwrap(),
        capacity: room,
        free: Room::default(),
        since: yard.ambient.now(),
        leaving,
    };
    block_on(async {
        for (workers, kicks) in [
            (vec![worker("standard", false)], 0),
            (vec![worker("standard", true)], 1),
            (vec![worker("standard", true), worker("steady", false)], 1),
            (vec![worker("standard", true), worker("standard", false)], 0),
        ] {
            home.set_workers(workers.clone());
            fleet.kicks.lock().unwrap().clear();
            intake::accept(&yard, prepared(&yard, false, 1)).await.unwrap();
            assert_eq!(fleet.kicks.lock().unwrap().len(), kicks, "{workers:?}");
        }
    });
}

#[test]
fn a_kick_that_fails_loses_nothing_and_a_bell_that_did_not_ring_kicks_nobody() {
    let (_, lanes, yard) = home();
    let (fleet, yard) = with_fleet(yard);
    block_on(async {
        *fleet.fails.lock().unwrap() = true;
        let taken = intake::accept(&yard, prepared(&yard, false, 1)).await.unwrap();
        assert!(taken.iter().all(Result::is_ok));
        assert_eq!(fleet.kicks.lock().unwrap().len(), 1);
        *lanes.mute.lock().unwrap() = 1;
        intake::accept(&yard, prepared(&yard, false, 1)).await.unwrap();
        assert_eq!(fleet.kicks.lock().unwrap().len(), 1, "there is nothing to hear yet");
    });
    let text = switchyard_core::metrics::text(&yard.meters.gather(&Default::default(), &[], yard.ambient.now()));
    assert!(text.contains("switchyard_kicks_total{became=\"failed\"} 1"), "{text}");
}
