//! Processes of runs: how they are marked, signalled and swept.
//!
//! Every process that a run starts carries a mark in its environment, which its own children inherit. A restarted
//! yard finds by it what its predecessor left, with no moment between a spawn and a record of it in which a crash
//! could hide a process. Linux: the marks are read from /proc (proc(5), `/proc/pid/environ`).

use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use switchyard_core::ports::Message;

/// The name of the variable that marks a run's processes.
pub const MARK: &str = "SWITCHYARD_RUN";

/// The most of an environment that is read: Linux keeps at most 128 KiB for one variable, and the mark comes early.
const ENVIRON_BYTES: u64 = 1024 * 1024;

/// A run so short that no machine gives out every process id meanwhile: the fewest there are, 32768, in a second.
const SHORT: Duration = Duration::from_secs(1);

/// The mark of one run: the yard, the job and the epoch. It ends with a colon, so that no epoch's mark begins another's.
pub fn mark(yard: &str, run: Message) -> String {
    format!("{yard}:{}:{}:", run.id, run.epoch)
}

/// Sends a signal to the process group that `leader` leads. A group that is gone is no error.
pub fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // Gone already, or never there: what was wanted.
        let _ = kill_process_group(pid, signal);
    }
}

/// Processes whose mark begins with `prefix`, this one left out.
///
/// # Errors
///
/// /proc cannot be listed. A process that ends meanwhile, or is another user's, is not one of ours.
pub fn marked(prefix: &str) -> io::Result<Vec<u32>> {
    let needle = format!("{MARK}={prefix}").into_bytes();
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid != own && environ(pid).is_some_and(|environ| has_variable(&environ, &needle)) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn environ(pid: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/environ")).ok()?.take(ENVIRON_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn has_variable(environ: &[u8], needle: &[u8]) -> bool {
    environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(needle))
}

/// Kills every process whose mark begins with `prefix`, and waits until they are gone: at most two seconds, in which
/// the kernel has never been seen to need one. Answers how many there were.
///
/// # Errors
///
/// /proc cannot be listed, or a process is still there: it sleeps in the kernel and cannot be killed.
pub fn sweep(prefix: &str) -> io::Result<usize> {
    let mut swept = 0;
    for _ in 0..200 {
        let left = marked(prefix)?;
        if left.is_empty() {
            return Ok(swept);
        }
        swept = swept.max(left.len());
        for pid in left {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
                && test_kill_process(pid).is_ok()
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("processes marked {prefix} cannot be killed")))
}

/// Does what [`sweep`] does after a run that `leader` began and that `lasted` so long. Ids are given out in order, so
/// after a short run only the few processes begun since are looked at: reading every environment on the machine would
/// take longer than many a run.
///
/// # Errors
///
/// As [`sweep`].
pub fn sweep_after(prefix: &str, leader: u32, lasted: Duration) -> io::Result<usize> {
    let needle = format!("{MARK}={prefix}").into_bytes();
    let marked = |pid| environ(pid).is_some_and(|environ| has_variable(&environ, &needle));
    match newest_process() {
        Some(newest) if lasted < SHORT && newest >= leader && !(leader..=newest).any(marked) => Ok(0),
        Some(_) | None => sweep(prefix),
    }
}

/// The id given out last: the last word of /proc/loadavg (proc(5)).
fn newest_process() -> Option<u32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_mark_is_a_whole_variable() {
        let environ = b"A=1\0SWITCHYARD_RUN=yard:job:1\0B=2";
        assert!(has_variable(environ, b"SWITCHYARD_RUN=yard:"));
        assert!(!has_variable(environ, b"SWITCHYARD_RUN=other:"));
        assert!(!has_variable(b"X=SWITCHYARD_RUN=yard:", b"SWITCHYARD_RUN=yard:"));
    }

    #[test]
    fn a_sweep_ends_grandchildren_in_other_sessions_too() {
        let yard = format!("test-{}", std::process::id());
        let mut child = Command::new("/bin/sh")
            // The grandchild leaves the group and the session, and its parent ends before it.
            .args(["-c", "setsid sleep 300 & exit 0"])
            .env(MARK, format!("{yard}:job:1"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        child.wait().unwrap();
        while marked(&yard).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(marked("another-yard:").unwrap(), Vec::<u32>::new());
        assert_eq!(sweep(&format!("{yard}:")).unwrap(), 1);
        assert_eq!(marked(&yard).unwrap(), Vec::<u32>::new());
    }
}
