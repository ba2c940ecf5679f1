//! A deployed yard, as a worker or a task has it: opened by what its environment says.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use switchyard_aws::clients::Clients;
use switchyard_aws::conveyor_kinesis::KinesisConveyor;
use switchyard_aws::deployment::{Deployment, nothing};
use switchyard_aws::home::Home;
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_aws::policies_s3::S3Policies;
use switchyard_builtins::builtin;
use switchyard_builtins::system::System;
use switchyard_core::job::{Holder, Nonce, StopCause};
use switchyard_core::policies::Shelf;
use switchyard_core::ports::{Ambient, StopSignal, Yard};
use switchyard_worker::credentials::Vault;
use switchyard_worker::engine::Engine;
use switchyard_worker::executor::{LocalExecutor, Task};
use switchyard_worker::scratch::Scratch;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::cloud::{clients, refused, unset, variable};
use crate::exit::Failure;

/// How often the rules are asked for again, and what was counted is written.
const EVERY: Duration = Duration::from_secs(60);

/// The yard, open.
pub(super) struct Deployed {
    /// What the environment says of it.
    pub(super) deployment: Deployment,
    /// How AWS is reached.
    pub(super) clients: Clients,
    /// Its doors.
    pub(super) home: Home,
    /// Its control side. It launches nothing: what a report leads to, the reaper launches.
    pub(super) yard: Yard,
    /// This start of this process.
    pub(super) boot: Nonce,
    policies: S3Policies,
}

impl Deployed {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// A variable is missing or wrong; the policies cannot be read, or are broken, or nobody has pushed any.
    pub(super) async fn open() -> Result<Self, Failure> {
        let deployment = Deployment::read(&variable).map_err(unset)?;
        let clients = clients()?;
        let ambient: Arc<dyn Ambient> = Arc::new(System);
        let shelf = Arc::new(Shelf::default());
        let parse = deployment.parser(builtin::ALL);
        let bucket = &deployment.policies;
        let policies = S3Policies::new(&clients, bucket, Arc::clone(&shelf), parse, Arc::clone(&ambient));
        policies.load().await.map_err(refused)?;
        // Whatever its environment says: a worker has no permission to launch.
        let (home, mut yard) = deployment.open(&clients, shelf, Arc::clone(&ambient), nothing);
        if let Some(stream) = &deployment.record_stream {
            yard.conveyor = Some(Arc::new(KinesisConveyor::new(&clients, stream, Arc::clone(&ambient))));
        }
        Ok(Self { deployment, clients, home, yard, boot: ambient.nonce(), policies })
    }

    /// In whose name this process claims: its machine's, and this start's.
    pub(super) fn holder(&self) -> Holder {
        // EC2 and ECS name a machine after its address or id (proc_sys_kernel(5), `hostname`).
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || ['-', '.'].contains(c)).collect();
        self.holder_named(if name.is_empty() { "worker" } else { &name })
    }

    /// The same by another name than the machine's.
    pub(super) fn holder_named(&self, instance: &str) -> Holder {
        Holder::new(instance, self.boot)
    }

    /// What runs jobs here. `keep` folders of runs are kept for those that follow.
    pub(super) fn executor(&self, engine: Option<Engine>, task: Option<Task>, keep: usize) -> LocalExecutor {
        LocalExecutor {
            shelf: Arc::clone(&self.yard.shelf),
            scratch: Scratch::new(&self.scratch(), keep),
            vault: Vault::usual(),
            yard: self.deployment.names.table.clone(),
            boot: self.boot,
            engine,
            task,
            ambient: Arc::clone(&self.yard.ambient),
        }
    }

    /// The folder that the folders of runs lie in.
    pub(super) fn scratch(&self) -> PathBuf {
        std::env::temp_dir().join(format!("switchyard-{}", self.boot))
    }

    /// What has to be done again and again while this process works. It never ends by itself.
    pub(super) async fn keep_up(&self, emf: &mut EmfFlush) -> Infallible {
        loop {
            self.yard.ambient.pause(EVERY).await;
            self.policies.refresh().await;
            self.count(emf);
        }
    }

    /// Writes what was counted to standard output, which is in CloudWatch where this runs on ECS.
    pub(super) fn count(&self, emf: &mut EmfFlush) {
        let written = emf.flush(&self.yard.meters, self.yard.ambient.now(), &mut std::io::stdout());
        if let Err(error) = written {
            warn!(%error, "what was counted is not written");
        }
    }

    /// Leaves nothing behind on this machine.
    pub(super) fn tidy(&self) {
        let folder = self.scratch();
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(%error, folder = %folder.display(), "the folder of runs is left behind")
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Hears SIGTERM and SIGINT: at the first what runs is given back, at the second it has no grace, and nothing is waited for
/// that comes back by itself. ECS sends SIGTERM 30 s before it ends a task (`stopTimeout`), also for a spot interruption.
///
/// # Errors
///
/// Signals cannot be heard.
pub(super) fn hear_signals() -> Result<StopSignal, Failure> {
    let hear = |kind| signal(kind).map_err(|cause| Failure::io("hear signals", cause));
    let (mut interrupt, mut terminate) = (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
    let leave = StopSignal::default();
    let told = leave.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if again {
                info!("told again to leave: at once");
                told.hurry();
            } else {
                info!("told to leave: what runs is given back");
                told.raise(StopCause::Drain);
            }
        }
    });
    Ok(leave)
}
