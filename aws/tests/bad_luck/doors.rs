//! Every door's calls, and how their failures are told.

use std::fmt::Write as _;

use switchyard_core::job::{ClaimToken, Epoch, Holder, Job, JobId, Nonce, Tier};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{
    Beat, Bell, BlobRef, Body, Claim, Lane, LaunchFailure, LogLine, NewJob, PortError, Query, Received, Stream,
    Unmapped, Yard, describe,
};
use switchyard_core::quota::Rate;
use switchyard_core::route::{Place, PoolName, Venue};
use switchyard_faults::Service;

use crate::scene::{PAYLOAD, SECRET_KEY, SESSION_TOKEN, Scene};

/// How each door fails, a line each: whether trying again can help, and what is said. A call that does not fail has
/// none.
pub(crate) async fn told(scene: &Scene, yard: &Yard, services: &[Service]) -> String {
    let mut lines = String::new();
    for service in services {
        let errors = match service {
            Service::DynamoDb => ledger(scene, yard).await,
            Service::Sqs => lanes(scene, yard).await,
            Service::S3 => blobs(scene, yard).await,
            Service::Logs => logs(scene, yard).await,
            Service::Events => vec![yard.herald.announce(&scene.waiting).await.err()],
            Service::Ecs => tasks(scene, yard).await,
            other => panic!("no door leads to {other}"),
        };
        for error in errors.into_iter().flatten() {
            let kind = if error.retryable { "passing" } else { "lasting" };
            writeln!(lines, "{kind} {}", scrubbed(scene, &error)).expect("a text has room");
        }
    }
    lines
}

/// An error's text without what is another at each run. None tells a secret, whichever way it is shown.
pub(crate) fn scrubbed(scene: &Scene, error: &PortError) -> String {
    let text = describe(error);
    for secret in [SECRET_KEY, SESSION_TOKEN, PAYLOAD] {
        assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{secret} in {error:?}");
    }
    let mut text = text.replace(&scene.names.table, "yard").replace(&scene.proxy.endpoint(), "[endpoint]");
    for job in [&scene.waiting, &scene.running] {
        text = text.replace(&job.id.to_string(), "[job]");
    }
    // How a connection breaks is the kernel's affair: reset, or closed in the middle of an answer.
    let ends = [" (request ", ": io error: client error (SendRequest)"];
    text.truncate(ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len()));
    text
}

fn claim(job: &Job) -> Claim {
    let holder = Holder::new("luckless", Nonce(9));
    // Of an epoch that is to come: should it be heard, it is refused.
    let (epoch, token) = (Epoch(job.epoch.0 + 1), ClaimToken::new([9; 32]).hash());
    Claim { id: job.id, epoch, holder, token, at_most: None, room: None }
}

fn new(job: &Job, bytes: usize) -> NewJob {
    NewJob { job: job.clone(), payload: Body::Inline(PAYLOAD.repeat(bytes / PAYLOAD.len())) }
}

/// Nothing here changes anything, should it succeed: what is accepted is there, what is saved is stale.
async fn ledger(scene: &Scene, yard: &Yard) -> Vec<Option<PortError>> {
    let (ledger, job, now) = (&*yard.ledger, &scene.waiting, yard.ambient.now());
    let holder = Holder::new("luckless", Nonce(9));
    let beat = Beat { holder: holder.clone(), counter: 1, running: vec![] };
    let event = Unmapped::new(&serde_json::json!({ "detail": PAYLOAD }), "test", "Test", "because", now);
    let rate = Rate { jobs_per_minute: 100, burst: 100 };
    let situation = Situation::default();
    let query = Query { limit: 10, ..Query::default() };
    let claim = claim(job);
    let ids = [job.id];
    let (one, two) = tokio::join!(
        async {
            tokio::join!(
                ledger.accept(vec![new(job, 20)]),
                ledger.accept(vec![new(job, 2000), new(&scene.running, 2000)]),
                ledger.load(job.id),
                ledger.load_all(&ids),
                ledger.save(job.clone(), None),
                ledger.save(job.clone(), Some(Body::Inline(PAYLOAD.repeat(100)))),
                ledger.claim(&claim, &situation, now),
                ledger.payload(job.id),
                ledger.result(job.id, Epoch(1)),
                ledger.due(now, 10),
                ledger.list(&query),
                ledger.count(),
            )
        },
        async {
            tokio::join!(
                ledger.permits("plain"),
                ledger.holding(),
                ledger.pauses(),
                ledger.depths(now),
                ledger.open_jobs("tester", 10),
                ledger.draw("tester", 1, rate, now),
                ledger.spend(now),
                ledger.beat(&beat),
                ledger.last_beat(&holder),
                ledger.forgettable(now, 10),
                ledger.last_ticks(),
                ledger.forget(&ids),
                ledger.keep_unmapped(event.clone()),
                ledger.unmapped(None, 10),
                ledger.unmapped_count(),
            )
        }
    );
    vec![
        one.0.err(),
        one.1.err(),
        one.2.err(),
        one.3.err(),
        one.4.err(),
        one.5.err(),
        one.6.err(),
        one.7.err(),
        one.8.err(),
        one.9.err(),
        one.10.err(),
        one.11.err(),
        two.0.err(),
        two.1.err(),
        two.2.err(),
        two.3.err(),
        two.4.err(),
        two.5.err(),
        two.6.err(),
        two.7.err(),
        two.8.err(),
        two.9.err(),
        two.10.err(),
        two.11.err(),
        two.12.err(),
        two.13.err(),
        two.14.err(),
    ]
}

async fn lanes(scene: &Scene, yard: &Yard) -> Vec<Option<PortError>> {
    let lane = Lane { pool: PoolName::STANDARD, tier: Tier::Priority };
    let bells = [Bell { lane, job: &scene.running }];
    let received = Received { message: bells[0].message(), lane, receipt: "AQEB".to_owned() };
    let (rung, heard, deleted, released, visible) = tokio::join!(
        yard.lanes.ring(&bells),
        yard.lanes.receive(&lane, 10, false),
        yard.lanes.delete(&received),
        yard.lanes.release(&received),
        yard.lanes.visible(&lane),
    );
    let rung = rung.into_iter().next().map(|(_, error)| error);
    vec![rung, heard.err(), deleted.err(), released.err(), visible.err()]
}

async fn blobs(scene: &Scene, yard: &Yard) -> Vec<Option<PortError>> {
    let (none, blob) = (scene.waiting.id, BlobRef { job: scene.waiting.id, name: "none".to_owned(), bytes: 1 });
    let (put, got, forgot) =
        tokio::join!(yard.blobs.put(none, "luckless", PAYLOAD), yard.blobs.get(&blob), yard.blobs.forget(none));
    vec![put.err(), got.err(), forgot.err()]
}

async fn logs(scene: &Scene, yard: &Yard) -> Vec<Option<PortError>> {
    let id: JobId = scene.waiting.id;
    let lines = [LogLine { at: yard.ambient.now(), stream: Stream::Stdout, text: PAYLOAD.to_owned() }];
    let (appended, read, forgot) =
        tokio::join!(yard.logs.append(id, Epoch(1), &lines), yard.logs.read(id, ""), yard.logs.forget(id));
    vec![appended.err(), read.err(), forgot.err()]
}

async fn tasks(scene: &Scene, yard: &Yard) -> Vec<Option<PortError>> {
    let mut job = scene.waiting.clone();
    job.route.place = Place::Fargate;
    // One after the other: what was launched a moment ago is not looked for.
    let found = yard.launcher.find(job.id, job.epoch, Venue::Fargate).await;
    let stopped = yard.launcher.stop(job.id, job.epoch, Venue::Fargate).await;
    let launched = yard.launcher.launch(&job).await.map_err(|failed| {
        let retryable = failed.kind != LaunchFailure::Permanent;
        PortError { operation: "launch", subject: format!("job {}", job.id), retryable, cause: failed.into() }
    });
    vec![found.err(), stopped.err(), launched.err()]
}
