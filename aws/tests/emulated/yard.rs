//! A yard on an emulator, behind a fault proxy of its own.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::home::{Home, Keeping, Names};
use switchyard_core::contract::UNMAPPED_ROOM;
use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::{Epoch, Holder, Job, JobId, Tier};
use switchyard_core::ports::{Ambient, Executor, Lane, LaunchFailed, Launcher, Message, PortError, TaskState, Yard};
use switchyard_core::route::{PoolName, Venue};
use switchyard_core::settle::YardDesk;
use switchyard_faults::{Proxy, Settings as ProxySettings};

use super::{Emulator, unique};

/// The proxy before an emulator. Each test has its own, so that its records, its script and its weather are the test's.
pub(crate) fn proxy(emulator: Emulator) -> Proxy {
    let settings = ProxySettings { keep_requests: true, ..ProxySettings::new(emulator.endpoint()) };
    Proxy::start(settings).expect("a proxy on loopback")
}

/// The operations that were asked for so far, in the order in which they were answered.
pub(crate) fn operations(proxy: &Proxy) -> Vec<String> {
    proxy.records().all().into_iter().map(|record| record.operation).collect()
}

/// Clients that reach AWS by this endpoint, under a name that the proxy tells them by.
pub(crate) fn clients(endpoint: &str, client: &str) -> Clients {
    clients_with(endpoint, client, |_| {})
}

/// The same, set up otherwise.
pub(crate) fn clients_with(endpoint: &str, client: &str, change: impl FnOnce(&mut Settings)) -> Clients {
    let credentials = Credentials::new(client, "secret", None, None, "test");
    let mut settings = Settings {
        endpoint: Some(endpoint.to_owned()),
        // A transaction of a hundred items takes moto seconds.
        attempt_timeout: Duration::from_secs(60),
        ..Settings::new("us-east-1")
    };
    change(&mut settings);
    Clients::new(settings, SharedCredentialsProvider::new(credentials))
}

/// A home by these names. What is paused and who works is read anew nearly each time, and a pause is answered as soon.
pub(crate) fn home(clients: &Clients, names: Names, ambient: Arc<dyn Ambient>) -> Home {
    home_as(clients, names, ambient, Duration::from_millis(20))
}

/// The same, where what was read of these holds so long.
pub(crate) fn home_as(clients: &Clients, names: Names, ambient: Arc<dyn Ambient>, live_for: Duration) -> Home {
    let keeping = Keeping {
        retention: Duration::from_secs(3600),
        by_time_to_live: false,
        unmapped_room: UNMAPPED_ROOM,
        live_for,
    };
    Home::new(clients, names, keeping, ambient)
}

/// Names that nobody else uses.
pub(crate) fn names(what: &str) -> Names {
    Names::called(&unique(what))
}

/// Pools of the tests' queues.
pub(crate) fn pools() -> Vec<PoolName> {
    ["standard", "steady"].map(|pool| pool.parse().expect("a pool's name")).to_vec()
}

/// Launches nothing: for what is not about launching.
pub(crate) struct NoTasks;

#[async_trait::async_trait]
impl Launcher for NoTasks {
    async fn launch(&self, _job: &Job) -> Result<(), LaunchFailed> {
        Ok(())
    }

    async fn find(&self, _id: JobId, _epoch: Epoch, _venue: Venue) -> Result<TaskState, PortError> {
        Ok(TaskState::Absent)
    }

    async fn stop(&self, _id: JobId, _epoch: Epoch, _venue: Venue) -> Result<(), PortError> {
        Ok(())
    }
}

/// The yard of a home that launches nothing, under no rules of its own.
pub(crate) fn yard(home: &Home) -> Yard {
    home.yard(Arc::new(NoTasks), Arc::default())
}

/// The lane of jobs that ask for nothing special.
pub(crate) fn lane() -> Lane {
    Lane { pool: PoolName::STANDARD, tier: Tier::Standard }
}

/// Takes what rings in that lane, runs it, and gives its doorbells up, as a worker of that name does. Answers how many
/// doorbells it heard.
pub(crate) async fn work(yard: &Yard, worker: &str, executor: &dyn Executor, wait: bool) -> usize {
    let heard = yard.lanes.receive(&lane(), 10, wait).await.expect("receive");
    for received in &heard {
        if run(yard, worker, executor, received.message).await.is_final() {
            yard.lanes.delete(received).await.expect("delete");
        }
    }
    heard.len()
}

/// Claims a job, runs it and reports, as a worker or a task of that name does.
pub(crate) async fn run(yard: &Yard, holder: &str, executor: &dyn Executor, message: Message) -> Ran {
    let (desk, holder) = (YardDesk(yard.clone()), Holder::new(holder, yard.ambient.nonce()));
    let runs = Runs::default();
    let holding =
        Holding { desk: &desk, executor, blobs: &*yard.blobs, ambient: &*yard.ambient, holder: &holder, runs: &runs };
    execute::run(&holding, message, None).await.expect("run")
}
