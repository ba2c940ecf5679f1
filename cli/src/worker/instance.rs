//! The EC2 instance that a worker of the fleet is: what it says of its end, whether it is fit to work, and how it goes home.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use switchyard_aws::clients::Clients;
use switchyard_aws::environment::IMDS_ENDPOINT;
use switchyard_aws::fleet_autoscaling::{Group, Sight, StillHere};
use switchyard_core::job::StopCause;
use switchyard_core::notice::{Heed, Within, heed};
use switchyard_core::ports::{Ambient, StopSignal, describe};
use switchyard_worker::engine::Engine;
use switchyard_worker::health::{self, LOOKS};
use switchyard_worker::metadata::{LINK_LOCAL, Metadata};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::cloud::{refused, variable};
use crate::exit::Failure;

/// How often the metadata service is asked: AWS recommends five seconds (Amazon EC2 User Guide, "Spot Instance interruption
/// notices").
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether the machine is fit.
const LOOKED_EVERY: Duration = Duration::from_secs(15);
/// A service that does not answer is told of once, and again after so many looks in a row: five minutes.
const TOLD_AGAIN: u32 = 60;

/// An instance of a group.
pub(super) struct Instance {
    metadata: Metadata,
    id: String,
    group: Group,
}

impl Instance {
    /// The instance that this process is on, of the group of that name.
    ///
    /// # Errors
    ///
    /// The metadata service does not say which instance this is: a worker that could not go home must not begin.
    pub(super) async fn here(clients: &Clients, group: &str, ambient: Arc<dyn Ambient>) -> Result<Self, Failure> {
        let endpoint = variable(IMDS_ENDPOINT).filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(LINK_LOCAL);
        let wrong = |what: String| Failure::BadInput(format!("environment variable {IMDS_ENDPOINT}: {what}"));
        let metadata = Metadata::at(endpoint).map_err(wrong)?;
        let id = metadata.instance().await.map_err(refused)?;
        Ok(Self { metadata, id, group: Group::new(clients.autoscaling(), group, ambient) })
    }

    /// What it is called: `i-…`.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Asks again and again what the machine says of its end, and tells the worker: `finish` is raised for what lets runs end,
    /// `leave` for what does not, and hurried when no time is left. It never ends by itself.
    pub(super) async fn watch(&self, finish: &StopSignal, leave: &StopSignal) -> Infallible {
        let mut heeded = Heed::Stay;
        let mut hurried_at: Option<Instant> = None;
        let mut silent: u32 = 0;
        loop {
            let at = Timestamp::now();
            let (said, failed) = self.metadata.said(at).await;
            match failed {
                None => silent = 0,
                Some(error) => {
                    if silent.is_multiple_of(TOLD_AGAIN) {
                        warn!(instance = self.id, error = %describe(&error), "what the machine says of its end is not known");
                    }
                    silent += 1;
                }
            }
            let now = heed(&said, at);
            // Less time is left from look to look: that is no news.
            let is_new = std::mem::discriminant(&now) != std::mem::discriminant(&heeded);
            if now > heeded && is_new {
                warn!(instance = self.id, heed = ?now, said = ?said, "the machine says that it may end");
            }
            heeded = heeded.max(now);
            match now {
                Heed::Stay => {}
                Heed::Finish => finish.raise(StopCause::Drain),
                Heed::Leave(Within(left)) => {
                    leave.raise(StopCause::Drain);
                    let at = Instant::now() + left;
                    hurried_at = Some(hurried_at.map_or(at, |known| known.min(at)));
                }
            }
            tokio::select! {
                () = sleep(ASKED_EVERY) => {}
                () = until(hurried_at), if !leave.is_hurried() => leave.hurry(),
            }
        }
    }

    /// Whether it may go home: not at the group's minimum, where another would be started in its place.
    pub(super) async fn may_leave(&self) -> bool {
        match self.group.describe().await {
            Ok(state) => state.can_do_without_one(),
            Err(error) => {
                warn!(instance = self.id, error = %describe(&error), "whether its group can do without it is not known: it stays");
                false
            }
        }
    }

    /// Whether somebody ends it already, as the machine says or its group shows: a decrement of its own would be a second.
    async fn is_being_ended(&self) -> bool {
        let now = Timestamp::now();
        let (said, _) = self.metadata.said(now).await;
        match heed(&said, now) {
            Heed::Leave(_) => true,
            Heed::Stay | Heed::Finish => match self.group.describe().await {
                Ok(state) => state.sight(&self.id) == Sight::Gone,
                // The ladder finds out.
                Err(_) => false,
            },
        }
    }

    /// Ends this instance, and makes its group one smaller; nothing is done where somebody ends it already.
    ///
    /// # Errors
    ///
    /// It is still here after all that can be tried.
    pub(super) async fn terminate(&self) -> Result<(), StillHere> {
        let group = self.group.name();
        if self.is_being_ended().await {
            info!(instance = self.id, group, "the machine is being ended");
            return Ok(());
        }
        let left = self.group.terminate_self(&self.id).await;
        match &left {
            Ok(left) => info!(instance = self.id, group, rung = ?left.by, "the machine ends"),
            Err(still) => error!(instance = self.id, group, error = %still, "the machine cannot leave its group"),
        }
        left.map(drop)
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Looks again and again whether the machine is fit to run jobs, and raises `finish` when it is not any more: it takes
/// nothing new then, and goes home. What still runs when it is as unfit for as long once more is given back at once: a run
/// whose engine has died would else keep the machine until its own deadline. It never ends by itself.
pub(super) async fn stay_fit(
    engine: Option<Engine>,
    folder: PathBuf,
    finish: &StopSignal,
    leave: &StopSignal,
) -> Infallible {
    let mut unfit: u32 = 0;
    loop {
        sleep(LOOKED_EVERY).await;
        match health::wrong(engine.as_ref(), existing(&folder)).await {
            None => unfit = 0,
            Some(reason) => {
                unfit += 1;
                warn!(reason, looks = unfit, "this machine is not fit to run jobs");
                if unfit == LOOKS {
                    error!(reason, "this worker takes nothing new, and goes home");
                    finish.raise(StopCause::Drain);
                }
                if unfit == 2 * LOOKS {
                    error!(reason, "what runs here is given back");
                    leave.raise(StopCause::Drain);
                    leave.hurry();
                }
            }
        }
    }
}

/// The folder, or what it is to be made in.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}
