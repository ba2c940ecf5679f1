//! The yard's folder, and the lock that keeps it to one process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use switchyard_core::policies::Files;

/// Where everything of one yard lies. Only its owner can look inside.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`, whether or not it is there.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder at `root`, made if need be, with its parts.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        let folder = Self { root: std::path::absolute(root)? };
        for part in [folder.root.clone(), folder.blobs(), folder.logs(), folder.scratch(), folder.parked()] {
            DirBuilder::new().recursive(true).mode(0o700).create(part)?;
        }
        Ok(folder)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("yard.db")
    }

    /// Payloads and results too large for the database.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// What jobs print.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The policies in force, for the tasks that are started. One file with all of them: it is replaced in one step,
    /// so that a task reads one version or the next, and never a mixture.
    pub fn policies(&self) -> PathBuf {
        self.root.join("policies.json")
    }

    /// Where runs work; nothing in it outlives them.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// What runs emitted and is no record, with the reasons, one JSON text a line.
    pub fn parked(&self) -> PathBuf {
        self.root.join("parked")
    }

    /// Announced settlements, one JSON text a line.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.ndjson")
    }

    /// This machine's own bearer token in plain text, readable by its owner only.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The list of tokens: names, roles and hashes.
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens.json")
    }

    /// Keeps the list of tokens to this process until the answer is dropped, so that of two edits none is lost. A file
    /// of its own is locked: the list itself is replaced by every edit.
    ///
    /// # Errors
    ///
    /// It cannot be locked, or not within `patience`.
    pub fn lock_tokens(&self, patience: Duration) -> io::Result<TokensLock> {
        let path = self.root.join("tokens.lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(TokensLock { file }),
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
                Err(TryLockError::Error(cause)) => return Err(cause),
            }
        }
    }

    /// Where the running yard listens: there while it runs.
    pub fn endpoint(&self) -> PathBuf {
        self.root.join("endpoint")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }
}

/// Keeps the list of tokens to this process until it is dropped.
#[derive(Debug)]
pub struct TokensLock {
    file: File,
}

impl Drop for TokensLock {
    fn drop(&mut self) {
        // Closing it does the same, unless a child that is still to become another program holds it too.
        let _ = self.file.unlock();
    }
}

/// The yard's folder is another process's.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the yard in {folder} is open in process {process}: stop that one, or choose another folder with --data")]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, as it wrote itself down.
        process: String,
    },
    /// The lock cannot be tried.
    #[error("cannot lock {file}")]
    Io {
        /// The lock file.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// How long a lock is waited for whose process is gone. A process that was killed while it started a child lives on in
/// that child, its open files with it, until the child's execve(2): a millisecond, or many on a busy machine.
const HANDOVER: Duration = Duration::from_secs(5);

/// Whether what wrote itself down as `process` is there no more.
fn is_gone(process: &str) -> bool {
    let pid = process.trim().parse().ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Keeps a folder to this process while it lives. The kernel lets go of it when the process and every child that is
/// still to become another program have ended, however they end: whoever has the lock finds what is left by its mark.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the folder's lock.
    ///
    /// # Errors
    ///
    /// [`LockError::InUse`] names the process that has it.
    pub fn take(folder: &Folder) -> Result<Self, LockError> {
        let path = folder.lock_file();
        let io_error = |cause| LockError::Io { file: path.clone(), cause };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io_error)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(io_error(cause)),
            }
            let mut process = String::new();
            // A holder that has not written itself down yet is still a holder.
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut process));
            if is_gone(&process) && began.elapsed() < HANDOVER {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let process = if process.is_empty() { "unknown".to_owned() } else { process };
            return Err(LockError::InUse { folder: folder.root.clone(), process });
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io_error)?;
        write!(file, "{}", std::process::id()).map_err(io_error)?;
        Ok(Self { _file: file })
    }
}

/// Hands policies to the tasks that are started from now on.
///
/// # Errors
///
/// They cannot be written; tasks go on with those before.
pub fn write_policies(file: &Path, policies: &Files) -> io::Result<()> {
    write_private(file, &serde_json::to_vec(policies)?)
}

/// What [`write_policies`] wrote.
///
/// # Errors
///
/// There is none, or it cannot be read.
pub fn read_policies(file: &Path) -> io::Result<Files> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// Appends whole lines to a file that only its owner can read. Where a crash left the last line torn, that one is
/// ended first: it must not swallow what follows.
///
/// # Errors
///
/// It cannot be written.
pub fn append_lines(path: &Path, text: &str) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // Another's line is not looked at while it is half written: it would be taken for a torn one.
    file.lock()?;
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let torn = if last == *b"\n" { "" } else { "\n" };
    // One write: a reader never sees half of it, and a crash leaves at most a torn last line.
    file.write_all(format!("{torn}{text}").as_bytes())?;
    // Before whoever wants it durable waits for the disk.
    file.unlock()?;
    Ok(file)
}

/// Writes a file that only its owner can read, so that a reader sees the old one or the whole new one, and it is
/// durable when this returns.
///
/// # Errors
///
/// It cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        // The new name is durable when its folder is (fsync(2)).
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_appended_at_once_stay_whole_and_apart() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lines");
        std::thread::scope(|scope| {
            for n in 0..8_usize {
                let path = &path;
                // Over several pages of the file, so that a write is seen in parts.
                let line = format!("{}\n", n.to_string().repeat(5_000 + n));
                scope.spawn(move || (0..600).for_each(|_| drop(append_lines(path, &line).unwrap())));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4800);
        for line in text.lines() {
            let digit = line.chars().next().expect("no line is empty");
            let n = digit.to_digit(10).unwrap() as usize;
            assert!(line.len() == 5_000 + n && line.chars().all(|c| c == digit));
        }
    }

    #[test]
    fn a_lock_is_refused_while_its_process_lives_and_handed_over_when_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let first = Lock::take(&folder).unwrap();
        let began = Instant::now();
        let refused = Lock::take(&folder).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}:", std::process::id())), "{refused}");
        assert!(began.elapsed() < HANDOVER, "a living process is not waited for");
        // As after a kill in the middle of a spawn: the lock outlives, for a moment, the process that took it.
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        fs::write(folder.lock_file(), gone.id().to_string()).unwrap();
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
        });
        let _second = Lock::take(&folder).unwrap();
        child.join().unwrap();
        assert_eq!(fs::read_to_string(folder.lock_file()).unwrap(), std::process::id().to_string());
    }

    #[test]
    fn tasks_read_the_policies_that_were_written_last_and_nobody_else_does() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let file = Folder::open(root.path()).unwrap().policies();
        assert_eq!(read_policies(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        for text in ["version: 1\n", "version: 1 # ü\n"] {
            let files = Files::from([("capabilities.yaml".to_owned(), text.to_owned())]);
            write_policies(&file, &files).unwrap();
            assert_eq!(read_policies(&file).unwrap(), files);
        }
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
    }
}
