//! The yard on AWS: every door, put together from the names of what it stands on.

use std::sync::Arc;
use std::time::Duration;

use switchyard_core::policies::Shelf;
use switchyard_core::ports::{Ambient, FixedFleet, Launcher, NoLender, PortError, UnmappedRoom, Yard};
use switchyard_core::route::PoolName;

use crate::blobs_s3::S3Blobs;
use crate::clients::Clients;
use crate::herald_eventbridge::EventBridgeHerald;
use crate::lanes_sqs::SqsLanes;
use crate::ledger_dynamodb::{DynamoLedger, DynamoSettings, LIVE};
use crate::logs_cloudwatch::CloudWatchLogs;
use crate::siding_s3::S3Siding;
use crate::sightings::Sightings;

/// What a yard stands on in its account and region.
#[derive(Clone, Debug)]
pub struct Names {
    /// The table of records.
    pub table: String,
    /// What the names of its queues begin with.
    pub queues: String,
    /// The bucket of large payloads and results.
    pub bucket: String,
    /// The log group that runs print to.
    pub log_group: String,
    /// The event bus that settlements are announced on.
    pub bus: String,
}

impl Names {
    /// All of them called by one name.
    pub fn called(name: &str) -> Self {
        Self {
            table: name.to_owned(),
            queues: name.to_owned(),
            bucket: name.to_owned(),
            log_group: format!("/switchyard/{name}"),
            bus: name.to_owned(),
        }
    }
}

/// How the yard keeps what it is given.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// How long a settled job, and so its idempotency key, is kept.
    pub retention: Duration,
    /// Whether DynamoDB's time to live removes what is over that.
    pub by_time_to_live: bool,
    /// The room for events that no mapping answers.
    pub unmapped_room: UnmappedRoom,
    /// How long what was read of pauses and workers holds; a pause takes as long to be answered.
    pub live_for: Duration,
}

impl Default for Keeping {
    /// A week, by DynamoDB's time to live.
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            by_time_to_live: true,
            unmapped_room: UnmappedRoom::default(),
            live_for: LIVE,
        }
    }
}

/// The doors on AWS but the launcher's, which needs some of them. Clones are the same doors.
#[derive(Clone)]
pub struct Home {
    /// Records, and who works.
    pub ledger: DynamoLedger,
    /// The tiers' queues.
    pub lanes: SqsLanes,
    /// Large payloads and results.
    pub blobs: S3Blobs,
    /// What runs print.
    pub logs: CloudWatchLogs,
    /// What is no record.
    pub siding: S3Siding,
    /// Announcements.
    pub herald: Arc<EventBridgeHerald>,
    ambient: Arc<dyn Ambient>,
    names: Names,
    retention: Duration,
}

impl Home {
    /// The doors by these names. Nothing is asked of AWS yet.
    pub fn new(clients: &Clients, names: Names, keeping: Keeping, ambient: Arc<dyn Ambient>) -> Self {
        let hints: Arc<Sightings> = Arc::default();
        let settings = DynamoSettings {
            table: names.table.clone(),
            time_to_live: keeping.by_time_to_live.then_some(keeping.retention),
            unmapped_room: keeping.unmapped_room,
            live_for: keeping.live_for,
        };
        let ledger = DynamoLedger::new(clients, settings, Arc::clone(&hints), Arc::clone(&ambient));
        let records = Arc::new(ledger.clone());
        let lanes = SqsLanes::new(clients.sqs(), &names.queues, [], records, hints, Arc::clone(&ambient));
        Self {
            lanes,
            blobs: S3Blobs::new(clients, &names.bucket),
            siding: S3Siding::new(clients, &names.bucket),
            logs: CloudWatchLogs::new(clients, &names.log_group, Arc::clone(&ambient)),
            herald: Arc::new(EventBridgeHerald::new(clients, &names.bus)),
            ledger,
            ambient,
            names,
            retention: keeping.retention,
        }
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.names.table
    }

    /// Time and chance, as these doors have them.
    pub fn ambient(&self) -> &Arc<dyn Ambient> {
        &self.ambient
    }

    /// The yard behind these doors, with this launcher and these rules, that kicks nobody.
    pub fn yard(&self, launcher: Arc<dyn Launcher>, shelf: Arc<Shelf>) -> Yard {
        Yard {
            ledger: Arc::new(self.ledger.clone()),
            lanes: Arc::new(self.lanes.clone()),
            launcher,
            blobs: Arc::new(self.blobs.clone()),
            logs: Arc::new(self.logs.clone()),
            herald: Arc::<EventBridgeHerald>::clone(&self.herald),
            ambient: Arc::clone(&self.ambient),
            workers: Arc::new(self.ledger.clone()),
            fleet: Arc::new(FixedFleet),
            lender: Arc::new(NoLender),
            conveyor: None,
            siding: Arc::new(self.siding.clone()),
            shelf,
            turnstile: Arc::default(),
            meters: Arc::default(),
            retention: self.retention,
        }
    }

    /// Makes what the yard stands on where it is not there: for emulators and tests. In an account whoever deploys it does; AWS.md says how.
    ///
    /// # Errors
    ///
    /// AWS refused to make one of them.
    pub async fn declare(&self, clients: &Clients, pools: &[PoolName]) -> Result<(), PortError> {
        self.ledger.declare().await?;
        self.lanes.declare(pools).await?;
        let Names { bucket, log_group, bus, .. } = &self.names;
        let made = clients.s3().create_bucket().bucket(bucket).send().await;
        let made = made.map(drop).map_err(|error| crate::failure::failed("make bucket", bucket, &error));
        unless_there(made, &["BucketAlreadyOwnedByYou"])?;
        let made = clients.logs().create_log_group().log_group_name(log_group).send().await;
        let made = made.map(drop).map_err(|error| crate::failure::failed("make log group", log_group, &error));
        unless_there(made, &["ResourceAlreadyExistsException"])?;
        let made = clients.eventbridge().create_event_bus().name(bus).send().await;
        let made = made.map(drop).map_err(|error| crate::failure::failed("make event bus", bus, &error));
        unless_there(made, &["ResourceAlreadyExistsException"])
    }
}

/// What is there already need not be made.
fn unless_there(made: Result<(), PortError>, codes: &[&str]) -> Result<(), PortError> {
    match made {
        Err(error)
            if error
                .cause
                .downcast_ref::<crate::failure::AwsError>()
                .is_some_and(|cause| codes.contains(&cause.code.as_str())) =>
        {
            Ok(())
        }
        made => made,
    }
}
