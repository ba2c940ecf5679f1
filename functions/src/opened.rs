//! The yard as a function opens it: what its environment says is read and checked when the process starts; the doors are
//! opened, and the policies read, by its first invocation. A process that Lambda started ahead and never invokes has cost a
//! millisecond, and one that cannot reach AWS yet is not thrown away for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::provider::SharedCredentialsProvider;
use switchyard_api::admit::Callers;
use switchyard_api::edge::{Edge, EdgeLimits};
use switchyard_api::{Api, Budget, Inline, Invocation};
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::credentials;
use switchyard_aws::deployment::{Deployment, EnvironmentError, Launching};
use switchyard_aws::home::Home;
use switchyard_aws::policies_s3::S3Policies;
use switchyard_builtins::builtin::{self, BuiltinExecutor};
use switchyard_builtins::system::System;
use switchyard_core::job::{Holder, Nonce};
use switchyard_core::policies::{Reload, Shelf};
use switchyard_core::ports::{Ambient, Desk, Executor, PortError, Yard};
use switchyard_core::settle::YardDesk;
use tokio::sync::Semaphore;

/// What an invocation keeps for its answer, its settlement and what it has counted.
const RESERVE: Duration = Duration::from_secs(2);
/// The longest that an answer over HTTP is held back: API Gateway gives up after 30 s (HTTP API quotas).
const WAIT: Duration = Duration::from_secs(25);

/// The yard that this process's environment tells of, not opened yet.
pub struct Place {
    deployment: Deployment,
    settings: Settings,
    credentials: SharedCredentialsProvider,
}

impl Place {
    /// Reads and checks the environment. Nothing is asked of AWS, and nothing is made that a first invocation may never
    /// need.
    ///
    /// # Errors
    ///
    /// A variable is missing or wrong.
    pub fn from_environment() -> Result<Self, EnvironmentError> {
        let get = |name: &str| std::env::var(name).ok();
        let deployment = Deployment::read(&get)?;
        Ok(Self { deployment, settings: Settings::read(&get)?, credentials: credentials::of_function()? })
    }
}

/// The yard, open.
pub struct Opened {
    /// What the environment says of it.
    pub deployment: Deployment,
    /// How AWS is reached.
    pub clients: Clients,
    /// Its doors on AWS.
    pub home: Home,
    /// Its control side.
    pub yard: Yard,
    /// Its policies.
    pub policies: Arc<S3Policies>,
    /// The invocation that is under way.
    pub invocation: Invocation,
    /// This process's own number.
    pub boot: Nonce,
}

impl Opened {
    /// Opens the yard: its doors, with what it launches by, and its policies.
    ///
    /// # Errors
    ///
    /// The certificates or the policies cannot be read, or are broken, or nobody has pushed policies. The invocation is repeated as its source has it, and opens it again.
    pub async fn open(place: &Place, launching: Launching) -> Result<Self, PortError> {
        let deployment = place.deployment.clone();
        let settings = place.settings.clone().trust();
        let settings = settings.map_err(|error| PortError::permanent("open", "the yard", error))?;
        let clients = Clients::new(settings, place.credentials.clone());
        let ambient: Arc<dyn Ambient> = Arc::new(System);
        let shelf = Arc::new(Shelf::default());
        let parse = deployment.parser(builtin::ALL);
        let policies = S3Policies::new(&clients, &deployment.policies, Arc::clone(&shelf), parse, Arc::clone(&ambient));
        policies.load().await?;
        let (home, yard) = deployment.open(&clients, shelf, Arc::clone(&ambient), launching);
        let boot = ambient.nonce();
        Ok(Self {
            deployment,
            clients,
            home,
            yard,
            policies: Arc::new(policies),
            invocation: Invocation::default(),
            boot,
        })
    }

    /// What runs jobs in this process: built-ins, and no programs or images.
    pub fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(BuiltinExecutor { shelf: Arc::clone(&self.yard.shelf), ambient: Arc::clone(&self.yard.ambient) })
    }

    /// The desk of jobs that run in this process.
    pub fn desk(&self) -> Arc<dyn Desk> {
        Arc::new(YardDesk(self.yard.clone()))
    }

    /// What the router serves, and whoever delivers events without it.
    pub fn api(&self, callers: Arc<dyn Callers>) -> Arc<Api> {
        Arc::new(Api {
            yard: self.yard.clone(),
            inline: Inline {
                desk: self.desk(),
                executor: self.executor(),
                holder: Holder::new("inline", self.boot),
                // One request at a time; one that brings many findings runs theirs in turn.
                places: Arc::new(Semaphore::new(1)),
                budget: Budget::Rest(self.invocation.clone()),
            },
            callers,
            edge: Edge::new(EdgeLimits { wait: WAIT, ..EdgeLimits::default() }),
            rules: Arc::clone(&self.policies) as Arc<dyn Reload>,
            compute: "lambda",
        })
    }

    /// An invocation begins, and may take so long: its policies are asked for again when they may be old.
    pub async fn begin(&self, left: Duration) {
        self.invocation.begin(Instant::now() + left.saturating_sub(RESERVE));
        self.policies.refresh().await;
    }
}
