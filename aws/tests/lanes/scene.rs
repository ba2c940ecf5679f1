//! A home whose lanes are SQS's and everything else is in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use switchyard_aws::lanes_sqs::SqsLanes;
use switchyard_aws::sightings::Sightings;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::contract::UNMAPPED_ROOM;
use switchyard_core::dispatch;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::Job;
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Ambient, Bell, Body, Lane, Lanes, Message, NewJob, PortError, Yard};
use switchyard_core::route::Limits;
use switchyard_faults::{Action, Proxy, Service, When};

use crate::emulated::yard::{clients, lane, pools, proxy};
use crate::emulated::{Emulator, unique};

/// A fresh home with queues of its own.
pub(crate) struct Scene {
    pub(crate) lanes: SqsLanes,
    pub(crate) yard: Yard,
    pub(crate) client: aws_sdk_sqs::Client,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) proxy: Proxy,
    pub(crate) prefix: String,
    home: Memory,
}

impl Scene {
    pub(crate) async fn open(emulator: Emulator) -> Self {
        let proxy = proxy(emulator);
        let client = clients(&proxy.endpoint(), "LANES").sqs();
        let text = "version: 1\ncapabilities:\n  - { name: knock, summary: Knocks, run: { command: [echo] } }\n";
        let catalog = Catalog::parse("test", text, &[], &BTreeMap::new()).unwrap();
        let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 1);
        home.make_unmapped_room(UNMAPPED_ROOM);
        let in_memory = home.yard(catalog, Limits::one_machine(1024));
        let sightings = Arc::new(Sightings::default());
        let prefix = unique("lanes");
        let ledger = Arc::clone(&in_memory.ledger);
        let lanes = SqsLanes::new(client.clone(), &prefix, [], ledger, Arc::clone(&sightings), Arc::new(System));
        lanes.declare(&pools()).await.unwrap();
        let yard = Yard { lanes: Arc::new(lanes.clone()), ..in_memory };
        Self { lanes, yard, client, sightings, proxy, prefix, home }
    }

    /// The next call of that operation that nothing else is written down for meets this.
    pub(crate) fn next(&self, operation: &str, action: Action) {
        self.proxy.script().on(When::call(Service::Sqs, operation).once(), action);
    }

    /// The calls of that operation so far.
    pub(crate) fn calls(&self, operation: &str) -> Vec<Value> {
        self.proxy.records().requests(operation)
    }

    /// How many entries each call of that operation had.
    pub(crate) fn sizes(&self, operation: &str) -> Vec<usize> {
        self.calls(operation).iter().map(|call| call["Entries"].as_array().unwrap().len()).collect()
    }

    /// So many jobs, in the ledger; no bell has rung.
    pub(crate) async fn jobs(&self, count: usize) -> Vec<Job> {
        let (submission, digest) = intake::read(br#"{"capability":"knock"}"#).unwrap();
        let situation = Situation { policies: self.yard.policies(), ..Situation::default() };
        let sender = Sender { caller: "tests", key: None };
        let one = |_| {
            let (now, random) = (self.home.now(), self.home.random());
            let prepared =
                intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
            NewJob { job: prepared.job, payload: Body::Inline(prepared.payload) }
        };
        let new: Vec<_> = (0..count).map(one).collect();
        let jobs = new.iter().map(|new| new.job.clone()).collect();
        self.yard.ledger.accept(new).await.unwrap();
        jobs
    }

    /// The lane of all its jobs.
    pub(crate) fn lane(&self) -> Lane {
        lane()
    }

    /// Rings for these jobs.
    pub(crate) async fn ring(&self, jobs: &[Job]) -> Vec<(Message, PortError)> {
        let bells: Vec<Bell<'_>> = jobs.iter().map(|job| Bell { lane: dispatch::lane(job), job }).collect();
        self.lanes.ring(&bells).await
    }

    /// The URL of a queue of that name.
    pub(crate) async fn url(&self, name: &str) -> String {
        self.client.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap()
    }
}
