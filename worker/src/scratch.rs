//! Folders for runs to work in.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use switchyard_core::ports::Message;

/// What a run's folder must be for the next one: a folder that only its owner can read, write and enter.
const MODE: u32 = 0o40700;

/// Gives each run an empty folder of its own, and keeps those that were left empty for the runs that follow: making
/// and removing one costs a journaling file system about a fifth of what starting a process costs.
pub struct Scratch {
    root: PathBuf,
    keep: usize,
    made: AtomicUsize,
    spare: Mutex<Vec<PathBuf>>,
}

impl Scratch {
    /// Folders in `root`, of which up to `keep` are kept for later runs. With none, each is called after its run, as
    /// [`folder_of`] says.
    pub fn new(root: &Path, keep: usize) -> Self {
        Self { root: root.to_owned(), keep, made: AtomicUsize::new(0), spare: Mutex::default() }
    }

    /// An empty folder for a run.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn take(&self, run: Message) -> io::Result<PathBuf> {
        // Another run could have reached it meanwhile: all of them are the same user's.
        while let Some(folder) = { self.spare().pop() } {
            if is_as_made(&folder) {
                return Ok(folder);
            }
            remove_all(&folder)?;
        }
        let folder = if self.keep == 0 {
            folder_of(&self.root, run)
        } else {
            self.root.join(format!("{}-{}", std::process::id(), self.made.fetch_add(1, Ordering::Relaxed)))
        };
        match make(&folder) {
            // One of this name is from a run that was killed with its process: nothing reads it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_all(&folder)?;
                make(&folder)?;
            }
            made => made?,
        }
        Ok(folder)
    }

    /// Takes a folder back after its run, with whatever lies in it.
    ///
    /// # Errors
    ///
    /// It cannot be emptied or removed, and is left behind.
    pub fn give_back(&self, folder: PathBuf) -> io::Result<()> {
        if self.spare().len() < self.keep && is_as_made(&folder) {
            self.spare().push(folder);
            return Ok(());
        }
        remove_all(&folder)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        // A panic in between leaves a list without half-done entries.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for folder in self.spare().drain(..) {
            // What stays is cleared at the next start.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => builder.recursive(true).create(folder),
        made => made,
    }
}

/// Whether a folder is as it was when it was made: empty, itself no link, its mode unchanged.
fn is_as_made(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.mode() == MODE)
        && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes a folder and whatever is in it, folders included that a run has closed to its own user.
///
/// # Errors
///
/// Something in it cannot be removed all the same.
pub fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(folder)?;
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn open_folders(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Of a link the type is a link's: none is followed.
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// The folder of a run that is not kept for others: for whoever looks after it from outside.
pub fn folder_of(root: &Path, run: Message) -> PathBuf {
    root.join(format!("{}-{}", run.id, run.epoch))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use switchyard_core::job::{Epoch, JobId};

    use super::*;

    fn run(epoch: u32) -> Message {
        Message { id: JobId::from_bytes([1; 16]), epoch: Epoch(epoch) }
    }

    #[test]
    fn a_folder_left_empty_serves_again_and_any_other_does_not() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), 1);
        let first = scratch.take(run(1)).unwrap();
        scratch.give_back(first.clone()).unwrap();
        assert_eq!(scratch.take(run(2)).unwrap(), first);
        let spoil: [fn(&Path); 4] = [
            |folder| fs::write(folder.join("left"), "x").unwrap(),
            |folder| fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap(),
            |folder| {
                fs::remove_dir(folder).unwrap();
                symlink("/tmp", folder).unwrap();
            },
            |folder| fs::remove_dir(folder).unwrap(),
        ];
        let mut folder = first;
        for spoil in spoil {
            spoil(&folder);
            scratch.give_back(folder.clone()).unwrap();
            assert!(fs::symlink_metadata(&folder).is_err(), "a spoilt folder is gone");
            let next = scratch.take(run(3)).unwrap();
            assert_ne!(next, folder);
            assert!(is_as_made(&next));
            folder = next;
        }
        // One that was spoilt while it was kept is not handed on either.
        scratch.give_back(folder.clone()).unwrap();
        fs::write(folder.join("result.json"), "{}").unwrap();
        let next = scratch.take(run(4)).unwrap();
        assert!(is_as_made(&next));
        scratch.give_back(next).unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_none_is_kept_a_folder_is_called_after_its_run() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), 0);
        fs::create_dir(folder_of(root.path(), run(7))).unwrap();
        fs::write(folder_of(root.path(), run(7)).join("left"), "by a run that was killed").unwrap();
        let folder = scratch.take(run(7)).unwrap();
        assert_eq!(folder, folder_of(root.path(), run(7)));
        assert!(is_as_made(&folder));
        scratch.give_back(folder).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
