//! A yard with work in it, which then meets bad luck; and what must be so when that is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use jiff::Timestamp;
use serde_json::json;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::home::{Home, Names};
use switchyard_aws::launcher_ecs::{Definitions, Doors, EcsLauncher, Network, Settings as Tasks};
use switchyard_aws::rate::LaunchRates;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::execute::{self, Holding, Runs};
use switchyard_core::intake::{self, Sender, Taken, Taking};
use switchyard_core::job::{ClaimToken, Holder, Job, JobId, Nonce, Phase, Tier};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{
    Ambient, Assignment, Body, Claim, Claimed, Desk, Executor, Lane, LogSink, Outcome, PortError, Query, Report,
    Reported, Usage, Voucher, Yard,
};
use switchyard_core::reap;
use switchyard_core::route::{Limits, PoolName};
use switchyard_core::settle::YardDesk;
use switchyard_faults::{Proxy, Service};

use crate::emulated::Emulator;
use crate::emulated::yard::{home, names, pools, proxy};

/// What must be in no error: the key that signs,
pub(crate) const SECRET_KEY: &str = "SecretKeyOfNobody";
/// the token of the session,
pub(crate) const SESSION_TOKEN: &str = "SessionTokenOfNobody";
/// and what people's payloads say.
pub(crate) const PAYLOAD: &str = "PayloadOfNobody";

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: plain
    summary: Whatever it is given
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    retry: { attempts: 3, backoff_seconds: 1 }
"#;

/// The machine's time, moved on by a test.
#[derive(Default)]
struct Later(AtomicI64);

#[async_trait]
impl Ambient for Later {
    fn now(&self) -> Timestamp {
        System.now() + Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs())
    }

    fn random(&self) -> [u8; 32] {
        System.random()
    }

    async fn pause(&self, duration: Duration) {
        System.pause(duration).await;
    }
}

/// Makes the payload its result.
struct Echo;

#[async_trait]
impl Executor for Echo {
    async fn run(&self, assignment: &Assignment<'_>, _log: &dyn LogSink) -> Outcome {
        Outcome::Succeeded(Some(assignment.payload.clone()))
    }
}

/// Clients with a session's credentials, whose tries are few and short: bad luck lasts longer than they do.
pub(crate) fn clients_of(endpoint: &str, change: impl FnOnce(&mut Settings)) -> Clients {
    let (key, token) = (SECRET_KEY, Some(SESSION_TOKEN.to_owned()));
    let credentials = Credentials::new("LUCKLESS", key, token, None, "test");
    let mut settings = Settings {
        endpoint: Some(endpoint.to_owned()),
        attempts: 2,
        attempt_timeout: Duration::from_secs(5),
        ..Settings::new("us-east-1")
    };
    change(&mut settings);
    Clients::new(settings, SharedCredentialsProvider::new(credentials))
}

/// A job's payload: a text of so many bytes.
fn payload(bytes: usize) -> String {
    json!({ "text": PAYLOAD.repeat(bytes / PAYLOAD.len() + 1) }).to_string()
}

/// What is too large for a record.
const LARGE: usize = 100_000;

/// A yard on MiniStack in which one job waits and one runs.
pub(crate) struct Scene {
    pub(crate) proxy: Proxy,
    pub(crate) names: Names,
    pub(crate) yard: Yard,
    pub(crate) waiting: Job,
    pub(crate) running: Job,
    ambient: Arc<Later>,
    token: ClaimToken,
}

/// What was tried while luck was bad.
pub(crate) struct Tried {
    small: Result<Taken, PortError>,
    large: Result<Taken, PortError>,
    settled: Result<Reported, PortError>,
}

impl Scene {
    pub(crate) async fn open() -> Self {
        let proxy = proxy(Emulator::MiniStack);
        let (names, ambient) = (names("luck"), Arc::new(Later::default()));
        let clients = clients_of(&proxy.endpoint(), |_| {});
        let home = home(&clients, names.clone(), Arc::<Later>::clone(&ambient));
        home.declare(&clients, &pools()).await.expect("declare");
        let yard = ruled(&clients, &home, Arc::<Later>::clone(&ambient));
        let waiting = submit(&yard, "waiting", 20).await.expect("accept").job;
        let running = submit(&yard, "running", LARGE).await.expect("accept").job;
        let (token, holder) = (ClaimToken::new([7; 32]), Holder::new("worker", Nonce(1)));
        let claim =
            Claim { id: running.id, epoch: running.epoch, holder, token: token.hash(), at_most: None, room: None };
        let Claimed::Won(running, _) = YardDesk(yard.clone()).claim(&claim).await.expect("claim") else {
            panic!("nobody else is there")
        };
        Self { proxy, names, yard, waiting, running: *running, ambient, token }
    }

    /// The same yard by other clients or other names.
    pub(crate) fn elsewhere(&self, clients: &Clients, names: Names) -> Yard {
        let ambient: Arc<dyn Ambient> = Arc::<Later>::clone(&self.ambient);
        ruled(clients, &home(clients, names, Arc::clone(&ambient)), ambient)
    }

    fn report(&self) -> Report {
        let voucher = Voucher { id: self.running.id, epoch: self.running.epoch, token: self.token.clone() };
        Report { voucher, outcome: Outcome::Succeeded(Some(payload(LARGE))), usage: Usage::default() }
    }

    /// Submits a small job and a large one, and reports the end of the one that runs.
    pub(crate) async fn work_on(&self, troubled: &Yard) -> Tried {
        let desk = YardDesk(troubled.clone());
        let report = self.report();
        let (small, large, settled) =
            tokio::join!(submit(troubled, "small", 20), submit(troubled, "large", LARGE), desk.settle(&report));
        Tried { small, large, settled }
    }

    /// What was accepted is there as it was; what failed can be done again, and is then done once; and everything comes
    /// to its end, without anybody doing anything but what a yard does by itself.
    pub(crate) async fn nothing_is_lost(&self, tried: Tried) {
        self.proxy.script().clear();
        let yard = &self.yard;
        let waiting = yard.ledger.load(self.waiting.id).await.expect("load");
        assert_eq!(waiting.as_ref(), Some(&self.waiting), "what was accepted stays as it was");
        for (key, bytes, tried) in [("small", 20, tried.small), ("large", LARGE, tried.large)] {
            let id = JobId::keyed("tester", key);
            let there = yard.ledger.load(id).await.expect("load");
            if let Some(job) = &there {
                assert!(text_of(yard, yard.ledger.payload(job.id).await.expect("payload")).await == payload(bytes));
            }
            let again = submit(yard, key, bytes).await.expect("again, under its key");
            match (tried, there) {
                (Ok(taken), Some(_)) => assert!(taken.fresh && !again.fresh && again.job.id == taken.job.id, "{key}"),
                (Err(_), there) => assert_eq!(again.fresh, there.is_none(), "{key}: whole, or not there at all"),
                (Ok(_), None) => panic!("{key}: accepted and lost"),
            }
        }
        if let Ok(reported) = tried.settled {
            assert_eq!(reported, Reported::Recorded);
        }
        let again = YardDesk(yard.clone()).settle(&self.report()).await.expect("reported again");
        assert_eq!(again, Reported::Recorded);
        let listed = yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list");
        assert_eq!(listed.len(), 4, "each job once, however often it was submitted");
        for (id, bytes) in [(self.waiting.id, 20), (self.running.id, LARGE)]
            .into_iter()
            .chain([("small", 20), ("large", LARGE)].map(|(key, bytes)| (JobId::keyed("tester", key), bytes)))
        {
            let job = self.recover(id).await;
            assert_eq!((job.phase(), job.attempts_spent, job.losses), (Phase::Succeeded, 0, 0), "{job:#?}");
            let result = yard.ledger.result(job.id, job.epoch).await.expect("result");
            assert!(text_of(yard, result).await == payload(bytes), "the result of its run");
        }
        let announced = self.proxy.records().all();
        let announced = announced.iter().filter(|record| {
            record.service == Service::Events && record.operation == "PutEvents" && record.status == Some(200)
        });
        assert!(announced.count() >= 4, "each is announced");
    }

    /// The reaper and a worker bring a job to its end, a minute a round.
    async fn recover(&self, id: JobId) -> Job {
        for _ in 0..20 {
            let job = self.yard.ledger.load(id).await.expect("load").expect("it is there");
            if job.is_settled() && job.owed.is_empty() {
                return job;
            }
            reap::round(&self.yard).await.expect("round");
            work(&self.yard).await;
            self.ambient.0.fetch_add(65, Ordering::SeqCst);
        }
        panic!("{id} does not come to its end: {:#?}", self.yard.ledger.load(id).await)
    }
}

async fn text_of(yard: &Yard, body: Option<Body>) -> String {
    match body.expect("it is there") {
        Body::Inline(text) => text,
        Body::Blob(blob) => yard.blobs.get(&blob).await.expect("get").expect("it is there"),
    }
}

fn ruled(clients: &Clients, home: &Home, ambient: Arc<dyn Ambient>) -> Yard {
    let doors = Doors {
        ecs: clients.ecs(),
        ledger: Arc::new(home.ledger.clone()),
        blobs: Arc::new(home.blobs.clone()),
        locate: Arc::new(|blob| format!("s3://yard/{}/{}", blob.job, blob.name)),
        ambient,
        functions: None,
    };
    let tasks = Tasks {
        // None is declared: this cluster is in nobody's account.
        cluster: home.table().to_owned(),
        definitions: Definitions {
            by_capability: Default::default(),
            worker: "switchyard-worker".to_owned(),
            prefix: "switchyard-".to_owned(),
        },
        container: "worker".to_owned(),
        network: Network { subnets: vec!["subnet-a".to_owned()], security_groups: vec![], public_address: false },
        platform: None,
        spot: false,
        table: home.table().to_owned(),
        environment: vec![],
        policies: None,
        tags: false,
        rates: LaunchRates::default(),
    };
    let catalog = Catalog::parse("test", CAPABILITIES, &[], &Default::default()).expect("the test's own catalog");
    let policies = Policies { catalog, limits: Limits::one_machine(4096), ..Policies::default() };
    home.yard(Arc::new(EcsLauncher::new(doors, tasks)), Arc::new(Shelf::new(policies)))
}

async fn submit(yard: &Yard, key: &str, bytes: usize) -> Result<Taken, PortError> {
    let given: serde_json::Value = serde_json::from_str(&payload(bytes)).expect("JSON");
    let body = json!({ "capability": "plain", "payload": given, "announce": true });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).expect("the test's own submission");
    let sender = Sender { caller: "tester", key: Some(key) };
    let situation = yard.situation().await;
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    let now = Timestamp::from_millisecond(now.as_millisecond()).expect("a time as records keep it");
    let prepared = intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random)
        .expect("the test's own submission");
    Ok(intake::accept(yard, vec![prepared]).await?.remove(0).expect("no other submission has its key"))
}

pub(crate) fn lane() -> Lane {
    Lane { pool: PoolName::STANDARD, tier: Tier::Standard }
}

async fn work(yard: &Yard) {
    let heard = yard.lanes.receive(&lane(), 10, false).await.expect("receive");
    let (desk, holder, runs) = (YardDesk(yard.clone()), Holder::new("another", yard.ambient.nonce()), Runs::default());
    let holding = Holding {
        desk: &desk,
        executor: &Echo,
        blobs: &*yard.blobs,
        ambient: &*yard.ambient,
        holder: &holder,
        runs: &runs,
    };
    for received in &heard {
        if execute::run(&holding, received.message, None).await.expect("run").is_final() {
            yard.lanes.delete(received).await.expect("delete");
        }
    }
}
