//! A yard in memory whose tasks are ECS's, and what ECS answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use switchyard_aws::launcher_ecs::{Definitions, Doors, EcsLauncher, Network, PolicyStore, Settings};
use switchyard_aws::rate::LaunchRates;
use switchyard_core::job::{Epoch, Job, JobId, Nonce, State, Tier, Work};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Acceptance, Ambient, Body, LaunchFailure, Launcher, Ledger, NewJob, TaskState};
use switchyard_core::route::{Choice, Needs, Packaging, Place, Route, Venue, Verdicts};

use crate::support::{Answer, Aws};

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

pub(crate) fn doors(aws: &Aws, home: &Memory, ambient: Arc<dyn Ambient>) -> Doors {
    Doors {
        ecs: aws.clients().ecs(),
        ledger: Arc::new(home.clone()),
        blobs: Arc::new(home.clone()),
        locate: Arc::new(|blob| format!("s3://yard-blobs/{}/{}", blob.job, blob.name)),
        ambient,
        functions: None,
    }
}

/// A yard in memory whose tasks are ECS's, as `aws` plays it, with one job in it.
pub(crate) struct World {
    pub(crate) aws: Aws,
    pub(crate) home: Memory,
    pub(crate) launcher: EcsLauncher,
    pub(crate) job: Job,
}

impl World {
    pub(crate) async fn new(settings: Settings, job: Job, payload: &str) -> Self {
        let aws = Aws::start().await;
        let home = Memory::new(at(1), 7);
        let body = Body::Inline(payload.to_owned());
        let accepted = home.accept(vec![NewJob { job: job.clone(), payload: body }]).await.unwrap();
        assert_eq!(accepted, [Acceptance::Accepted]);
        let launcher = EcsLauncher::new(doors(&aws, &home, Arc::new(home.clone())), settings);
        Self { aws, home, launcher, job }
    }

    pub(crate) async fn plain() -> Self {
        Self::new(settings(), a_job(Place::Fargate), "{}").await
    }

    pub(crate) async fn on_spot(job: Job) -> Self {
        Self::new(Settings { spot: true, ..settings() }, job, "{}").await
    }

    pub(crate) async fn launch(&self) -> Result<(), (LaunchFailure, String)> {
        self.launcher.launch(&self.job).await.map_err(|failed| (failed.kind, failed.message))
    }

    pub(crate) async fn find(&self) -> TaskState {
        self.launcher.find(self.job.id, self.job.epoch, Venue::Fargate).await.unwrap()
    }

    pub(crate) async fn stop(&self) {
        self.launcher.stop(self.job.id, self.job.epoch, Venue::Fargate).await.unwrap();
    }
}

pub(crate) fn started() -> Answer {
    Answer::Json(200, json!({ "tasks": [{ "taskArn": ARN, "lastStatus": "PROVISIONING" }], "failures": [] }))
}

pub(crate) fn failing(reason: &str) -> Answer {
    Answer::Json(200, json!({ "tasks": [], "failures": [{ "arn": "a", "reason": reason, "detail": "d" }] }))
}

pub(crate) fn listed(arns: &[&str]) -> Answer {
    Answer::Json(200, json!({ "taskArns": arns }))
}

pub(crate) const NO_CAPACITY: &str =
    "Capacity is unavailable at this time. Please try again later or in a different availability zone";
