//! Puts the doors of one machine together, and keeps the night watch and the clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use switchyard_builtins::system::Vital;
use switchyard_core::brake;
use switchyard_core::job::Nonce;
use switchyard_core::lend::Broker;
use switchyard_core::observe::Observed;
use switchyard_core::policies::{Files, Shelf};
use switchyard_core::ports::{Ambient, Desk, FixedFleet, NoLender, PortError, Vendors, Workers, Yard};
use switchyard_core::reap::{self, Counts};
use switchyard_core::schedule;
use switchyard_core::settle::YardDesk;
use switchyard_worker::credentials::Vault;
use switchyard_worker::engine::Engine;
use switchyard_worker::process::{sweep, sweep_folder};
use switchyard_worker::roster::Roster;
use switchyard_worker::scratch::remove_all;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::alarm::Alarm;
use crate::blobs_folder::FolderBlobs;
use crate::desk_local::LocalDesk;
use crate::folder::{Folder, Lock, LockError, write_policies};
use crate::herald_file::FileHerald;
use crate::lanes_sqlite::SqliteLanes;
use crate::launcher_process::{ProcessLauncher, TaskProgram};
use crate::ledger_sqlite::SqliteLedger;
use crate::logs_folder::FolderLogs;
use crate::siding_folder::FolderSiding;
use crate::store::{self, Store};

/// How a home is set up.
#[derive(Clone)]
pub struct Setup {
    /// The rules in force at first.
    pub shelf: Arc<Shelf>,
    /// The files that those rules were read from, unless they are built in: what tasks get, however the folder is
    /// edited while the yard runs.
    pub policies: Option<Files>,
    /// How tasks are started.
    pub task: TaskProgram,
    /// Tasks at once.
    pub tasks: usize,
    /// How long settled jobs are kept.
    pub retention: Duration,
    /// The container engine, where one is used.
    pub engine: Option<Engine>,
    /// Where credentials come from, where runs may borrow any.
    pub vendors: Option<Arc<dyn Vendors>>,
}

/// Why a yard cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The folder cannot be made.
    #[error("cannot make the yard's folder {folder}")]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The folder is another process's.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] store::OpenError),
    /// What an earlier process left cannot be ended.
    #[error("processes of the yard's last run cannot be ended")]
    Orphans(#[source] std::io::Error),
    /// There is no alarm for the clock.
    #[error("cannot make a timer")]
    Alarm(#[source] std::io::Error),
    /// The database cannot be read.
    #[error("cannot take up the yard's jobs")]
    Ledger(#[from] PortError),
}

/// A yard on this machine, open.
pub struct Home {
    /// Its doors.
    pub yard: Yard,
    /// Its ledger, with what only this home's has.
    pub ledger: SqliteLedger,
    /// The desk of holders in this process.
    pub desk: Arc<dyn Desk>,
    /// Where everything lies.
    pub folder: Folder,
    /// The yard's id: the first part of every process's mark.
    pub id: String,
    /// This start's nonce: the second part of every holder's name.
    pub boot: Nonce,
    /// Who works: the workers of this process enter themselves.
    pub roster: Arc<Roster>,
    /// What taking up the yard's jobs did.
    pub taken_up: Counts,
    launcher: ProcessLauncher,
    reaper: JoinHandle<()>,
    clock: JoinHandle<()>,
    observer: JoinHandle<()>,
    _lock: Lock,
}

impl Home {
    /// Opens the yard at `root`: takes its lock, ends what an earlier process left running, and takes up its jobs.
    ///
    /// # Errors
    ///
    /// [`HomeError`] says what is in the way and what to do.
    pub async fn open(root: &Path, setup: Setup, ambient: Arc<dyn Ambient>) -> Result<Self, HomeError> {
        let folder = Folder::open(root).map_err(|cause| HomeError::Folder { folder: root.to_owned(), cause })?;
        let lock = Lock::take(&folder)?;
        if let Some(policies) = &setup.policies {
            let written = write_policies(&folder.policies(), policies);
            written.map_err(|cause| HomeError::Folder { folder: folder.policies(), cause })?;
        }
        let store = Arc::new(Store::open(&folder.database())?);
        let ledger = SqliteLedger::new(store, Arc::clone(&ambient));
        let id = ledger.yard_id().await?;
        ledger.read_pauses()?;
        // Before any job is looked at: none may run twice because its first run was still alive.
        let swept = sweep(&format!("{id}:")).map_err(HomeError::Orphans)?;
        let strays = sweep_folder(&folder.scratch()).map_err(HomeError::Orphans)?;
        let containers = sweep_containers(setup.engine.as_ref(), &id).await;
        if let Err(error) = clear(&folder.scratch()) {
            // Nothing reads what is left: every run gets an empty folder.
            warn!(%error, folder = %folder.scratch().display(), "what earlier runs left is not removed");
        }
        if let Err(error) = Vault::usual().sweep() {
            warn!(%error, "credentials of earlier runs are left behind");
        }
        let boot = ambient.nonce();
        let launcher = ProcessLauncher::new(
            setup.task,
            setup.tasks,
            id.clone(),
            boot,
            folder.clone(),
            ledger.clone(),
            setup.engine,
        );
        let roster = Arc::new(Roster::default());
        let yard = Yard {
            ledger: Arc::new(ledger.clone()),
            lanes: Arc::new(SqliteLanes::new(ledger.clone())),
            launcher: Arc::new(launcher.clone()),
            blobs: Arc::new(FolderBlobs::new(&folder)),
            logs: Arc::new(FolderLogs::new(&folder)),
            herald: Arc::new(FileHerald::new(&folder)),
            ambient,
            workers: Arc::clone(&roster) as Arc<dyn Workers>,
            // Its workers are in this process.
            fleet: Arc::new(FixedFleet),
            lender: Arc::new(NoLender),
            // Whoever runs a job is on this machine, and so is the ledger.
            conveyor: None,
            siding: Arc::new(FolderSiding::new(&folder)),
            shelf: setup.shelf,
            turnstile: Arc::default(),
            meters: Arc::default(),
            retention: setup.retention,
        };
        let yard = match setup.vendors {
            // Its own broker: it decides by the same records and rules.
            Some(vendors) => Yard { lender: Arc::new(Broker { yard: yard.clone(), vendors }), ..yard },
            None => yard,
        };
        let desk: Arc<dyn Desk> = Arc::new(LocalDesk::new(YardDesk(yard.clone()), ledger.clone()));
        launcher.serve(yard.clone(), Arc::clone(&desk));
        let taken_up = reap::after_restart(&yard, ledger.unsettled()?).await?;
        let orphans = swept + strays;
        info!(found = taken_up.found, done = taken_up.done, orphans, containers, "the yard is open");
        let reaper = tokio::spawn(night_watch(yard.clone(), ledger.clone()));
        for (capability, text) in ledger.observed()? {
            match Observed::decode(&text) {
                Some(observed) => yard.shelf.observed().load(capability, observed),
                None => warn!(capability, "what was observed of it cannot be read, and is observed anew"),
            }
        }
        let observer = tokio::spawn(keep_observed(yard.clone(), ledger.clone()));
        let clock = tokio::spawn(clock(yard.clone(), Alarm::new().map_err(HomeError::Alarm)?));
        Ok(Self {
            yard,
            ledger,
            desk,
            folder,
            id,
            boot,
            roster,
            taken_up,
            launcher,
            reaper,
            clock,
            observer,
            _lock: lock,
        })
    }

    /// Closes the yard: tasks give their jobs back, and everything said is written.
    pub async fn close(self) {
        self.launcher.close().await;
        self.reaper.abort();
        self.clock.abort();
        self.observer.abort();
        if let Err(error) = self.ledger.keep_observed(self.yard.shelf.observed().take_changed()).await {
            warn!(%error, "what was observed in the last minute is not kept");
        }
        let store = Arc::clone(&self.ledger.store);
        // Joins a thread: not on one that others wait for.
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            warn!("the database did not close cleanly; nothing that was answered is lost");
        }
    }
}

/// Removes the containers that earlier starts left. An engine that does not answer keeps nobody from opening: no image
/// is run before it answers, and then what other starts left is removed first.
async fn sweep_containers(engine: Option<&Engine>, yard: &str) -> usize {
    let Some(engine) = engine else { return 0 };
    engine.sweep_yard(yard).await.unwrap_or_else(|error| {
        warn!(%error, host = engine.host(), "containers that earlier runs left are not removed now");
        0
    })
}

/// Empties a folder.
fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_all(&path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// When to sweep next, if anything is held: at the moment kept from an earlier look, else half a minute from now.
/// Whatever is looked at in between does not put it off.
fn sweep_at(kept: Option<Timestamp>, held: bool, now: Timestamp) -> Option<Timestamp> {
    held.then(|| kept.unwrap_or(now + brake::SWEEP))
}

/// Sleeps until something is due, and reaps. No clock ticks while nothing is.
///
/// It is also the one who sweeps when the rules were replaced, whoever replaced them, or a pause was lifted: what fails
/// then is repeated, and nobody waits for it.
async fn night_watch(yard: Yard, ledger: SqliteLedger) {
    let _vital = Vital("the night watch");
    let mut failures = 0;
    let mut replaced = yard.shelf.changed();
    // At once after the start, whose own sweep did as much as one does.
    let mut sweep = Some(yard.ambient.now());
    loop {
        // Armed for ever first: whatever is saved while the next moment is looked up rings the bell.
        ledger.bells.arm(None);
        let looked = ledger.next_due(yard.retention).and_then(|next| Ok((next, ledger.holds_any()?)));
        let (next, held) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                failures += 1;
                warn!(%error, "the night watch cannot see what is due");
                pause(&yard, failures).await;
                continue;
            }
        };
        let now = yard.ambient.now();
        // While jobs are held, somebody looks whether they may go: what made room may have ended before it said so.
        sweep = sweep_at(sweep, held, now);
        let next = next.into_iter().chain(sweep).min();
        ledger.bells.arm(next);
        let wait = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        tokio::select! {
            () = sleep(wait) => {}
            () = ledger.bells.due.notified() => continue,
            () = &mut replaced => {
                // Heard from here on: rules that are replaced in the middle of a sweep are swept for once more.
                replaced = yard.shelf.changed();
                sweep = Some(now);
                continue;
            }
            () = ledger.bells.brakes.notified() => {
                sweep = Some(now);
                continue;
            }
        }
        match reap::round(&yard).await {
            Ok(counts) => {
                // Whatever moved something may not have moved all.
                sweep = (counts.admitted > 0).then_some(now);
                failures = if counts.errors == 0 { 0 } else { failures + 1 };
                if failures > 0 {
                    pause(&yard, failures).await;
                }
            }
            // The sweep's moment stays: it is made up for as soon as the home answers.
            Err(error) => {
                failures += 1;
                warn!(%error, "the night watch failed");
                pause(&yard, failures).await;
            }
        }
    }
}

/// Sleeps until the next tick of any schedule, and submits what is due. Other schedules wake it; nothing else does.
async fn clock(yard: Yard, alarm: Alarm) {
    let _vital = Vital("the clock");
    let mut failures = 0;
    loop {
        // Heard from here on: schedules that change in the middle of a round are looked at in the next.
        let changed = yard.shelf.changed();
        let next = match schedule::round(&yard).await {
            Ok(counts) if counts.errors == 0 => {
                failures = 0;
                counts.next
            }
            Ok(_) => {
                failures += 1;
                pause(&yard, failures).await;
                continue;
            }
            Err(error) => {
                failures += 1;
                warn!(%error, "the clock cannot see what is remembered of schedules");
                pause(&yard, failures).await;
                continue;
            }
        };
        tokio::select! {
            rung = alarm.wait(next) => if let Err(error) = rung {
                failures += 1;
                warn!(%error, "the clock's alarm failed");
                pause(&yard, failures).await;
            },
            () = changed => {}
        }
    }
}

/// How often what was observed is written at most: a crash costs the last minute of it, and a job nothing.
const OBSERVED_EVERY: Duration = Duration::from_secs(60);

/// Writes what runs showed, a while after they did. No clock ticks while nothing runs.
async fn keep_observed(yard: Yard, ledger: SqliteLedger) {
    let observed = yard.shelf.observed();
    loop {
        let changed = observed.changes();
        let rows = observed.take_changed();
        if rows.is_empty() {
            changed.await;
        } else if let Err(error) = ledger.keep_observed(rows).await {
            warn!(%error, "what was observed is not kept; the next run of each capability brings it again");
        }
        tokio::time::sleep(OBSERVED_EVERY).await;
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn pause(yard: &Yard, failures: u32) {
    let pause = switchyard_core::ports::backoff(Duration::from_secs(1), failures.min(6), yard.ambient.chance());
    yard.ambient.pause(pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_a_sweep_is_not_put_off_by_whoever_rings_before() {
        let start = Timestamp::UNIX_EPOCH;
        let mut sweep = None;
        for second in 0..30 {
            sweep = sweep_at(sweep, true, start + Duration::from_secs(second));
            assert_eq!(sweep, Some(start + brake::SWEEP));
        }
        assert_eq!(sweep_at(sweep, false, start), None, "nothing is held, and nobody looks");
    }
}
