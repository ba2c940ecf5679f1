//! A yard in memory whose tasks are ECS's: an emulator behind the proxy's rules. RunTask is played behind them, for the
//! emulator would start a container; so are lists of tasks that it therefore knows nothing of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_aws::clients::Clients;
use switchyard_aws::launcher_ecs::{Definitions, Doors, EcsLauncher, Network, PolicyStore, Settings};
use switchyard_aws::rate::LaunchRates;
use switchyard_core::job::{Epoch, Job, JobId, Nonce, State, Tier, Work};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Acceptance, Ambient, Body, LaunchFailure, Launcher, Ledger, NewJob, TaskState};
use switchyard_core::route::{Choice, Needs, Packaging, Place, Route, Venue, Verdicts};
use switchyard_faults::{Action, Proxy, Rule, Service, When};

use crate::emulated::Emulator;
use crate::emulated::yard::{clients, clients_with, operations, proxy};

pub(crate) const ARN: &str = "arn:aws:ecs:eu-central-1:111122223333:task/yard/0123456789abcdef";

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

pub(crate) fn a_job(place: Place) -> Job {
    Job {
        id: JobId::keyed("tests", "one"),
        work: Work {
            capability: "custodian".into(),
            tier: Tier::Priority,
            labels: vec![],
            caller: "tests".into(),
            key: Some("one".into()),
            body_sha256: [5; 32],
            run_timeout: Duration::from_secs(3600),
            start_deadline: None,
            attempts: 3,
            backoff: Duration::from_secs(10),
            announce: false,
            needs: Needs {
                packaging: Packaging::TaskImage,
                expected: Some(Duration::from_secs(120)),
                memory_mib: 600,
                milli_vcpu: 250,
                docker: false,
                privileged: false,
                network_tools: false,
                static_address: false,
                isolate: true,
                interruptible: true,
                only: vec![],
                prefer: vec![],
            },
            trace: None,
        },
        state: State::Dispatched { at: at(0), looks: 0 },
        epoch: Epoch(3),
        attempts_spent: 0,
        attempts_allowed: 3,
        interruptions: 0,
        losses: 0,
        launch_failures: 0,
        route: Route { place, choice: Choice::Cheapest, verdicts: Verdicts::new() },
        permit: None,
        aged: 0,
        spent_nanodollars: 0,
        timeline: vec![],
        created: at(0),
        due: Some(at(60)),
        owed: vec![],
        revision: 1,
        nonce: Nonce(1),
    }
}

pub(crate) fn relaunched(looks: u32) -> Job {
    Job { state: State::Dispatched { at: at(0), looks }, ..a_job(Place::Fargate) }
}

pub(crate) fn settings() -> Settings {
    Settings {
        cluster: "yard".into(),
        definitions: Definitions {
            by_capability: BTreeMap::new(),
            worker: "switchyard-worker".into(),
            prefix: "switchyard-".into(),
        },
        container: "worker".into(),
        network: Network {
            subnets: vec!["subnet-a".into(), "subnet-b".into()],
            security_groups: vec!["sg-1".into()],
            public_address: false,
        },
        platform: Some("1.4.0".into()),
        spot: false,
        table: "switchyard-test".into(),
        environment: vec![("SWITCHYARD_BUCKET".into(), "yard-blobs".into())],
        policies: Some(PolicyStore { bucket: "yard-policies".into(), prefix: "policies/".into() }),
        tags: true,
        rates: LaunchRates::default(),
    }
}

pub(crate) fn a_payload(title: &str) -> String {
    let answer = json!({ "mapping": "public-bucket", "policy": "custodian/s3-block-public-access.yml" });
    json!({ "finding": { "id": "finding-1", "title": title }, "answer": answer }).to_string()
}

/// A yard in memory whose tasks are ECS's, with one job in it.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) home: Memory,
    pub(crate) launcher: EcsLauncher,
    pub(crate) job: Job,
}

impl World {
    pub(crate) async fn new(settings: Settings, job: Job, payload: &str) -> Self {
        let proxy = proxy(Emulator::MiniStack);
        let clients = clients_with(&proxy.endpoint(), "LAUNCHER", |settings| settings.attempts = 2);
        let home = Memory::new(at(1), 7);
        let body = Body::Inline(payload.to_owned());
        let accepted = home.accept(vec![NewJob { job: job.clone(), payload: body }]).await.unwrap();
        assert_eq!(accepted, [Acceptance::Accepted]);
        let launcher = launcher(&clients, &home, Arc::new(home.clone()), settings);
        Self { proxy, home, launcher, job }
    }

    pub(crate) async fn plain() -> Self {
        Self::new(settings(), a_job(Place::Fargate), "{}").await
    }

    pub(crate) async fn on_spot(job: Job) -> Self {
        Self::new(Settings { spot: true, ..settings() }, job, "{}").await
    }

    /// The same yard by another process: it knows nothing of what this one has launched, and tries as often as a yard does.
    pub(crate) fn beside(&self, settings: Settings, ambient: Arc<dyn Ambient>) -> EcsLauncher {
        launcher(&clients(&self.proxy.endpoint(), "ANOTHER"), &self.home, ambient, settings)
    }

    /// The same world, whose clients wait so long for an answer.
    pub(crate) fn waiting(self, attempt_timeout: Duration) -> Self {
        let clients = clients_with(&self.proxy.endpoint(), "LAUNCHER", |settings| {
            (settings.attempts, settings.attempt_timeout) = (2, attempt_timeout);
        });
        let launcher = launcher(&clients, &self.home, Arc::new(self.home.clone()), settings());
        Self { launcher, ..self }
    }

    /// Behind the rules the next such call that nothing else is written down for is answered so.
    pub(crate) fn play(&self, operation: &str, answer: Value) -> Rule {
        self.proxy.script().play(When::call(Service::Ecs, operation).once(), answer.to_string())
    }

    /// The next `n` such calls meet this.
    pub(crate) fn next(&self, n: u64, operation: &str, action: Action) -> Rule {
        self.proxy.script().on(When::call(Service::Ecs, operation).first(n), action)
    }

    /// The operations that were asked for so far, in order.
    pub(crate) fn operations(&self) -> Vec<String> {
        operations(&self.proxy)
    }

    /// The requests for this operation.
    pub(crate) fn asked_for(&self, operation: &str) -> Vec<Value> {
        self.proxy.records().requests(operation)
    }

    /// How many tasks were started: what the rules refuse, or answer for a client token that they know, starts none.
    pub(crate) fn started(&self) -> usize {
        self.proxy.records().all().iter().filter(|record| record.operation == "RunTask" && record.forwarded).count()
    }

    pub(crate) async fn launch(&self) -> Result<(), (LaunchFailure, String)> {
        launch(&self.launcher, &self.job).await
    }

    pub(crate) async fn find(&self) -> TaskState {
        self.launcher.find(self.job.id, self.job.epoch, Venue::Fargate).await.unwrap()
    }
}

fn launcher(clients: &Clients, home: &Memory, ambient: Arc<dyn Ambient>, settings: Settings) -> EcsLauncher {
    let doors = Doors {
        ecs: clients.ecs(),
        ledger: Arc::new(home.clone()),
        blobs: Arc::new(home.clone()),
        locate: Arc::new(|blob| format!("s3://yard-blobs/{}/{}", blob.job, blob.name)),
        ambient,
        functions: None,
    };
    EcsLauncher::new(doors, settings)
}

pub(crate) async fn launch(launcher: &EcsLauncher, job: &Job) -> Result<(), (LaunchFailure, String)> {
    launcher.launch(job).await.map_err(|failed| (failed.kind, failed.message))
}

pub(crate) fn started() -> Value {
    json!({ "tasks": [{ "taskArn": ARN, "lastStatus": "PROVISIONING" }], "failures": [] })
}

pub(crate) fn failing(reason: &str) -> Value {
    json!({ "tasks": [], "failures": [{ "arn": "a", "reason": reason, "detail": "d" }] })
}

pub(crate) fn listed(arns: &[&str]) -> Value {
    json!({ "taskArns": arns })
}

pub(crate) const NO_CAPACITY: &str =
    "Capacity is unavailable at this time. Please try again later or in a different availability zone";
