//! Folders for credentials: in memory, on no disk, and nobody else's.
//!
//! A process has one, with a name that cannot be guessed, and in it one for each run. It is locked for as long as the process
//! lives: a lock goes with its process, whatever its number is and however it ended, so that what is not locked is nobody's.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::statfs;
use rustix::process::geteuid;
use switchyard_core::ports::{Ambient, Message};

use super::Reader;
use crate::scratch::remove_all;

/// What the folder of a process is called, before its own part.
const NAME: &str = "switchyard-credentials-";
/// File systems that are in memory: tmpfs and ramfs (statfs(2), `f_type`).
const IN_MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];
/// Tries to make a folder that nobody removes before it is locked. Whoever sweeps just then may take it for nobody's.
const TRIES: u32 = 10;

/// Where this process keeps what its runs are lent. Nothing is there before the first loan.
pub struct Vault {
    places: Vec<PathBuf>,
    own: Mutex<Option<Arc<OfProcess>>>,
}

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoFolder {
    /// None of the places will do.
    #[error("none is in memory and to be written to: {0}")]
    NoPlace(Reasons),
    /// It cannot be made.
    #[error("cannot make {}", .0.display())]
    Make(PathBuf, #[source] io::Error),
}

/// What is wrong with each place.
#[derive(Debug)]
pub(super) struct Reasons(Vec<(PathBuf, String)>);

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (place, reason)) in self.0.iter().enumerate() {
            write!(f, "{}{} {reason}", if n > 0 { "; " } else { "" }, place.display())?;
        }
        Ok(())
    }
}

impl Vault {
    /// In the first of these folders that is in memory.
    pub fn new(places: Vec<PathBuf>) -> Self {
        Self { places, own: Mutex::default() }
    }

    /// In the user's own folder of this boot, $XDG_RUNTIME_DIR (XDG Base Directory Specification), where there is one in
    /// memory; else in /dev/shm (shm_overview(7)), which every Linux and every container has.
    pub fn usual() -> Self {
        let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        Self::new(of_user.into_iter().chain([PathBuf::from("/dev/shm")]).collect())
    }

    /// Removes what processes left that are no more, and answers how many there were.
    ///
    /// # Errors
    ///
    /// Something of it cannot be removed.
    pub fn sweep(&self) -> io::Result<usize> {
        let (mut swept, mut failed) = (0, None);
        for place in &self.places {
            let Ok(entries) = fs::read_dir(place) else { continue };
            for path in entries.flatten().filter(|entry| is_ours(&entry.file_name())).map(|entry| entry.path()) {
                match remove_if_left(&path) {
                    Ok(removed) => swept += usize::from(removed),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(swept), Err)
    }

    /// An empty folder for a run's credentials.
    ///
    /// # Errors
    ///
    /// [`NoFolder`] says what is wrong with each place.
    pub(super) fn folder(&self, run: Message, reader: Reader, ambient: &dyn Ambient) -> Result<OfRun, NoFolder> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // Who cleans up after a user that logs out takes it along (logind.conf(5), `RemoveIPC`).
        let of_process = match own.as_ref().filter(|own| own.path.is_dir()) {
            Some(own) => Arc::clone(own),
            None => Arc::clone(own.insert(Arc::new(OfProcess::make(&self.places, ambient)?))),
        };
        drop(own);
        OfRun::make(of_process, run, reader)
    }
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(NAME))
}

/// Removes a process's folder where its process is no more.
fn remove_if_left(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let held = File::open(path)?;
    match held.try_lock() {
        Ok(()) => remove_all(path).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What is wrong with a place, if anything.
fn wrong_with(place: &Path) -> Option<String> {
    match statfs(place) {
        Ok(found) if IN_MEMORY.contains(&i128::from(found.f_type)) => None,
        Ok(_) => Some("is not in memory".to_owned()),
        Err(error) => Some(format!("cannot be looked at ({})", io::Error::from(error))),
    }
}

/// The folder of this process.
struct OfProcess {
    path: PathBuf,
    _lock: File,
}

impl OfProcess {
    fn make(places: &[PathBuf], ambient: &dyn Ambient) -> Result<Self, NoFolder> {
        let mut reasons = Vec::new();
        for place in places {
            if let Some(reason) = wrong_with(place) {
                reasons.push((place.clone(), reason));
                continue;
            }
            match Self::make_in(place, ambient) {
                Ok(made) => return Ok(made),
                Err(error) => reasons.push((place.clone(), format!("takes no folder ({error})"))),
            }
        }
        Err(NoFolder::NoPlace(Reasons(reasons)))
    }

    fn make_in(place: &Path, ambient: &dyn Ambient) -> io::Result<Self> {
        for _ in 0..TRIES {
            let random: String = ambient.random()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            let path = place.join(format!("{NAME}{random}"));
            DirBuilder::new().mode(0o700).create(&path)?;
            let lock = File::open(&path)?;
            let is_there = || {
                let (held, found) = (lock.metadata().ok(), fs::symlink_metadata(&path).ok());
                held.zip(found).is_some_and(|(held, found)| (held.dev(), held.ino()) == (found.dev(), found.ino()))
            };
            if lock.try_lock().is_ok() && is_there() {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::Error::other("each is removed as soon as it is made"))
    }
}

impl Drop for OfProcess {
    fn drop(&mut self) {
        // Unlocked from here on: the next sweep takes what stays.
        let _ = remove_all(&self.path);
    }
}

/// The folder of one run; it goes with this value.
pub(super) struct OfRun {
    path: PathBuf,
    _process: Arc<OfProcess>,
}

impl OfRun {
    fn make(process: Arc<OfProcess>, run: Message, reader: Reader) -> Result<Self, NoFolder> {
        let path = process.path.join(format!("{}-{}", run.id, run.epoch));
        let make = || {
            // A mask of the process's takes bits away: what a container must read is set after.
            DirBuilder::new().mode(0o700).create(&path)?;
            match reader {
                Reader::Process => Ok(()),
                Reader::Container => fs::set_permissions(&path, Permissions::from_mode(0o755)),
            }
        };
        // One of this name is from a run that was let go, and could not be removed then.
        let made = remove_all(&path).and_then(|()| make());
        made.map_err(|error| NoFolder::Make(path.clone(), error))?;
        Ok(Self { path, _process: process })
    }

    /// Where it is on this machine.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// Something of it cannot be removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_all(&self.path)
    }
}

impl Drop for OfRun {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "the folder of a run's credentials is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::{Epoch, JobId};

    use super::*;
    use switchyard_builtins::system::System;

    fn run() -> Message {
        Message { id: JobId::from_bytes([7; 16]), epoch: Epoch(3) }
    }

    fn in_memory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_its_user_s_alone_and_goes_with_its_run_and_its_process() {
        let place = in_memory();
        let vault = Vault::new(vec![place.path().to_owned()]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is there before the first loan");
        let folder = vault.folder(run(), Reader::Process, &System).unwrap();
        let process = folder.path().parent().unwrap().to_owned();
        assert_eq!((mode(folder.path()), mode(&process)), (0o700, 0o700));
        fs::write(folder.path().join("x"), "left").unwrap();
        let again = vault.folder(run(), Reader::Process, &System).unwrap();
        assert_eq!(again.path(), folder.path());
        assert_eq!(fs::read_dir(again.path()).unwrap().count(), 0, "whatever lay there is gone");
        drop((folder, again));
        assert_eq!(fs::read_dir(&process).unwrap().count(), 0);
        // A container's user is another: it sees the inner folder alone, and nobody here gets past the outer.
        let folder = vault.folder(run(), Reader::Container, &System).unwrap();
        assert_eq!((mode(folder.path()), mode(&process)), (0o755, 0o700));
        drop(folder);
        drop(vault);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_on_a_disk_or_without_room_for_it_is_none_and_the_next_is_asked() {
        let memory = in_memory();
        let gone = memory.path().join("gone");
        let places = vec![PathBuf::from("/proc"), gone.clone()];
        let refused = Vault::new(places.clone()).folder(run(), Reader::Process, &System).err().unwrap().to_string();
        insta::assert_snapshot!(refused.replace(gone.to_str().unwrap(), "GONE"));
        let places = places.into_iter().chain([memory.path().to_owned()]).collect();
        let vault = Vault::new(places);
        assert!(vault.folder(run(), Reader::Process, &System).unwrap().path().starts_with(memory.path()));
    }

    #[test]
    fn a_sweep_takes_what_dead_processes_left_and_nothing_of_the_living() {
        let place = in_memory();
        let vault = Vault::new(vec![place.path().to_owned()]);
        let living = vault.folder(run(), Reader::Process, &System).unwrap();
        let dead = place.path().join(format!("{NAME}0123"));
        fs::create_dir_all(dead.join("run")).unwrap();
        fs::write(dead.join("run").join("token"), "secret").unwrap();
        let others = place.path().join("something-else");
        fs::create_dir(&others).unwrap();
        std::os::unix::fs::symlink(&others, place.path().join(format!("{NAME}link"))).unwrap();
        let sweeper = Vault::new(vec![place.path().to_owned(), place.path().join("none")]);
        assert_eq!(sweeper.sweep().unwrap(), 1);
        assert!(!dead.exists() && others.exists() && living.path().exists());
        drop((living, vault));
        assert_eq!(sweeper.sweep().unwrap(), 0);
    }

    #[test]
    fn a_folder_that_somebody_removed_is_made_anew() {
        let place = in_memory();
        let vault = Vault::new(vec![place.path().to_owned()]);
        let first = vault.folder(run(), Reader::Process, &System).unwrap();
        fs::remove_dir_all(first.path().parent().unwrap()).unwrap();
        let second = vault.folder(run(), Reader::Process, &System).unwrap();
        assert!(second.path().exists());
        drop(first);
        assert!(second.path().exists(), "the first one's end is not the second's");
    }
}
