//! A yard on an emulator, and what its tests do to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_aws::clients::Clients;
use switchyard_aws::home::{Home, Keeping, Names};
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Prepared, Sender, Taking};
use switchyard_core::job::{ClaimToken, Epoch, Holder, Job, JobId, Nonce};
use switchyard_core::policies::{Policies, Shelf, Situation};
use switchyard_core::ports::{
    Acceptance, Ambient, Body, Claim, Claimed, Desk, NewJob, Outcome, Report, Reported, UnmappedRoom, Usage, Voucher,
    Yard,
};
use switchyard_core::route::Limits;
use switchyard_core::settle::YardDesk;
use switchyard_faults::{Action, Proxy, Rule, Service, When};

use crate::emulated::Emulator;
use crate::emulated::yard::{clients, names, pools, proxy, yard};

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: plain
    summary: Whatever it is given
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    retry: { attempts: 3, backoff_seconds: 1 }
  - name: limited
    summary: Three at once
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    limits: { concurrent: 3 }
"#;

/// How long an ended job is kept.
pub(crate) const RETENTION: Duration = Duration::from_secs(3600);
/// How long what was read of pauses holds: long enough for one process to act on it after another has paused.
pub(crate) const LIVE_FOR: Duration = Duration::from_millis(500);

/// The machine's time, moved on by a test.
#[derive(Default)]
pub(crate) struct Later(AtomicI64);

impl Later {
    pub(crate) fn by(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_secs()).expect("a test's time"), Ordering::SeqCst);
    }
}

#[async_trait]
impl Ambient for Later {
    fn now(&self) -> Timestamp {
        // As records keep it.
        let now = System.now() + Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs());
        Timestamp::from_millisecond(now.as_millisecond()).expect("a time")
    }

    fn random(&self) -> [u8; 32] {
        System.random()
    }

    async fn pause(&self, duration: Duration) {
        System.pause(duration).await;
    }
}

/// A yard with a table of its own.
pub(crate) struct Scene {
    pub(crate) proxy: Proxy,
    pub(crate) clients: Clients,
    pub(crate) names: Names,
    pub(crate) ambient: Arc<Later>,
    pub(crate) yard: Yard,
}

/// Runs a test on an emulator.
pub(crate) fn on<F: Future<Output = ()>>(emulator: Emulator, test: impl FnOnce(Scene) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let proxy = proxy(emulator);
        let clients = clients(&proxy.endpoint(), "FIRST");
        let (names, ambient) = (names("ledger"), Arc::new(Later::default()));
        let home = home(&clients, &names, &ambient);
        home.declare(&clients, &pools()).await.expect("declare");
        let yard = ruled(&home);
        test(Scene { proxy, clients, names, ambient, yard }).await;
    });
}

fn home(clients: &Clients, names: &Names, ambient: &Arc<Later>) -> Home {
    let keeping = Keeping {
        retention: RETENTION,
        by_time_to_live: true,
        unmapped_room: UnmappedRoom { events: 10, bytes: 8 << 20 },
        live_for: LIVE_FOR,
    };
    Home::new(clients, names.clone(), keeping, Arc::<Later>::clone(ambient))
}

fn ruled(home: &Home) -> Yard {
    let catalog = Catalog::parse("test", CAPABILITIES, &[], &Default::default()).expect("the test's own catalog");
    let policies = Policies { catalog, limits: Limits::one_machine(4096), ..Policies::default() };
    Yard { shelf: Arc::new(Shelf::new(policies)), ..yard(home) }
}

impl Scene {
    /// Another process of the same yard: its own clients, its own memory.
    pub(crate) fn another(&self) -> Yard {
        ruled(&home(&clients(&self.proxy.endpoint(), "SECOND"), &self.names, &self.ambient))
    }

    /// The answer to the next call of DynamoDB's of that name is lost. What repeats it is not known by its token either, as
    /// after ten minutes.
    pub(crate) fn lose_the_next(&self, operation: &str) -> Rule {
        self.proxy.rules(|limits| limits.dynamodb.token_lives = Duration::ZERO);
        self.proxy.script().on(When::call(Service::DynamoDb, operation).nth(1), Action::ResetAfter)
    }

    /// How many calls of that name the proxy has seen.
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        self.proxy.records().tally().of(&Service::DynamoDb, operation).requests
    }

    /// Everything under a partition key, as it lies in the table.
    pub(crate) async fn items(&self, pk: &str) -> Vec<HashMap<String, AttributeValue>> {
        let query = self.clients.dynamodb().query().table_name(&self.names.table).consistent_read(true);
        let query = query.key_condition_expression("#k = :k").expression_attribute_names("#k", "pk");
        let query = query.expression_attribute_values(":k", AttributeValue::S(pk.to_owned()));
        // A page ends at a megabyte.
        query.into_paginator().items().send().try_collect().await.expect("query")
    }

    /// Whether DynamoDB has been told when it may remove a job's record.
    pub(crate) async fn has_time_to_live(&self, id: JobId) -> bool {
        self.items(&format!("J#{id}")).await.iter().any(|item| item.contains_key("gone"))
    }

    pub(crate) async fn load(&self, id: JobId) -> Job {
        self.yard.ledger.load(id).await.expect("load").expect("it is there")
    }
}

/// A submission, prepared.
pub(crate) fn prepared(yard: &Yard, capability: &str, key: &str, payload: &Value) -> Prepared {
    let body = json!({ "capability": capability, "payload": payload });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).expect("the test's own submission");
    let situation = Situation { policies: yard.policies(), ..Situation::default() };
    let sender = Sender { caller: "tester", key: Some(key) };
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).expect("its submission")
}

/// A new job at the door of the ledger.
pub(crate) fn new(yard: &Yard, capability: &str, key: &str, payload: &Value) -> NewJob {
    let Prepared { job, payload } = prepared(yard, capability, key, payload);
    NewJob { job, payload: Body::Inline(payload) }
}

/// A payload of about so many bytes.
pub(crate) fn text(bytes: usize) -> Value {
    json!({ "text": "x".repeat(bytes) })
}

/// Puts a job into the ledger, and rings nothing.
pub(crate) async fn put(yard: &Yard, capability: &str, key: &str) -> Job {
    let new = new(yard, capability, key, &text(20));
    let job = new.job.clone();
    assert_eq!(yard.ledger.accept(vec![new]).await.expect("accept"), [Acceptance::Accepted]);
    job
}

pub(crate) fn claim(job: &Job, n: u8) -> Claim {
    let holder = Holder::new(&format!("worker-{n}"), Nonce(u64::from(n)));
    let token = ClaimToken::new([n; 32]).hash();
    Claim { id: job.id, epoch: job.epoch, holder, token, at_most: None, room: None }
}

/// Claims a job as a worker does, and ends it with this result.
pub(crate) async fn run(yard: &Yard, job: &Job, n: u8, result: Option<String>) {
    let desk = YardDesk(yard.clone());
    let claimed = desk.claim(&claim(job, n)).await.expect("claim");
    let Claimed::Won(job, _) = claimed else { panic!("it is given: {claimed:?}") };
    let voucher = Voucher { id: job.id, epoch: Epoch(job.epoch.0), token: ClaimToken::new([n; 32]) };
    let report = Report { voucher, outcome: Outcome::Succeeded(result), usage: Usage::default() };
    assert_eq!(desk.settle(&report).await.expect("settle"), Reported::Recorded);
}
