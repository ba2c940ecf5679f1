//! Processes of runs: how they are marked, signalled and swept.
//!
//! Every process that a run starts carries a mark in its environment, which its own children inherit. A restarted
//! yard finds by it what its predecessor left, with no moment between a spawn and a record of it in which a crash
//! could hide a process. Linux: the marks are read from /proc (proc(5), `/proc/pid/environ`).

use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use switchyard_core::ports::Message;

/// The name of the variable that marks a run's processes.
pub const MARK: &str = "SWITCHYARD_RUN";

/// The most of an environment that is read. Linux keeps at most 128 KiB for one variable, and a program gets one that
/// may be long, its payload.
const ENVIRON_BYTES: usize = 1024 * 1024;
/// Looks, 0.1 ms apart, at a process in the middle of an execve(2), which takes about one millisecond.
const EXEC_LOOKS: u32 = 1000;

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

/// Sends a signal to one process, and not to what it has started. A process that is gone is no error.
pub fn signal_process(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already: what was wanted.
        let _ = kill_process(pid, signal);
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
    let mut buffer = vec![0; ENVIRON_BYTES];
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid != own && environ(pid, &mut buffer).is_some_and(|environ| has_variable(environ, &needle)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The process's environment, as the front of `buffer`.
fn environ(pid: u32, buffer: &mut [u8]) -> Option<&[u8]> {
    let mut set_up = 0;
    for _ in 0..EXEC_LOOKS {
        let length = read(pid, "environ", buffer)?;
        // A zombie and a kernel thread have none, and no program either.
        if length > 0 || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return Some(&buffer[..length]);
        }
        // In the middle of an execve(2) the old one is gone and the new one is not there yet. Arguments come with it:
        // a process that shows some, look after look, was started with an empty one.
        if read(pid, "cmdline", buffer)? > 0 {
            set_up += 1;
        }
        if set_up == 3 {
            break;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    None
}

/// Reads in one call: between two, the process may have become another program.
fn read(pid: u32, what: &str, buffer: &mut [u8]) -> Option<usize> {
    fs::File::open(format!("/proc/{pid}/{what}")).ok()?.read(buffer).ok()
}

fn has_variable(environ: &[u8], needle: &[u8]) -> bool {
    environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(needle))
}

/// Processes of one run whose memory is added up at most.
const FAMILY: usize = 64;

/// The most memory that a process and what it started have had, in MiB, added up: `VmHWM` of each (proc(5)), which is a
/// high-water mark. Pages they share are counted in each, so this is rather too much than too little; a process that
/// came and went between two looks is missed. `None` when the process is gone.
pub fn memory_mib(leader: u32) -> Option<u32> {
    let mut family = vec![leader];
    let mut kib = None;
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        next += 1;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mark = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        if let Some(mark) = mark {
            kib = Some(kib.unwrap_or(0) + mark);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let room = FAMILY.saturating_sub(family.len());
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()).take(room));
    }
    kib.and_then(|kib| u32::try_from(kib.div_ceil(1024)).ok())
}

/// Makes this process the parent of whatever its runs leave behind (prctl(2), PR_SET_CHILD_SUBREAPER), so that a look
/// at its own children tells whether there is anything to sweep.
pub fn adopt_orphans() {
    static ADOPTING: Once = Once::new();
    ADOPTING.call_once(|| {
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            // Then every run is swept after, which costs a look at every process.
            tracing::warn!(%error, "orphans of runs go to another parent");
        }
    });
}

/// Runs of this process that are under way.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Says that a run is under way, while it lives.
pub struct Live(());

impl Live {
    /// A run begins.
    pub fn begin() -> Self {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Kills the orphans that carry no mark, when no run is under way whose they could be. They are what a run has left
/// with an environment of its own making.
pub fn end_unmarked_orphans() {
    let needle = format!("{MARK}=").into_bytes();
    let mut buffer = vec![0; ENVIRON_BYTES];
    for pid in orphans().unwrap_or_default() {
        let unmarked = environ(pid, &mut buffer).is_none_or(|environ| !has_variable(environ, &needle));
        if unmarked && LIVE.load(Ordering::SeqCst) == 0 {
            signal_process(pid, Signal::KILL);
        }
    }
}

/// Kills every process that works in `folder` or below, and answers how many there were: what a run left with an
/// environment of its own making, whose yard is gone. One that also went elsewhere is not found.
///
/// # Errors
///
/// /proc cannot be listed.
pub fn sweep_folder(folder: &Path) -> io::Result<usize> {
    let own = std::process::id();
    let mut swept = 0;
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Of a folder that was removed meanwhile the link tells the old path.
        if pid != own && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)) {
            signal_process(pid, Signal::KILL);
            swept += 1;
        }
    }
    Ok(swept)
}

/// Whether runs have left processes behind that this process was given. Those that have ended meanwhile are buried.
///
/// An orphan becomes a child of the main thread, and a run's own process is a child of the thread that started it,
/// or has been awaited before this is asked. One small file is read, where a sweep reads one of every process.
pub fn has_orphans() -> bool {
    // A kernel that does not tell: then there may be some.
    orphans().is_none_or(|orphans| !orphans.is_empty())
}

/// The living orphans; `None` where the kernel does not tell.
fn orphans() -> Option<Vec<u32>> {
    let main = std::process::id();
    // Without CONFIG_PROC_CHILDREN there is no such file.
    let mut buffer = [0; 4096];
    let file = fs::File::open(format!("/proc/self/task/{main}/children"));
    let Ok(length) = file.and_then(|mut file| file.read(&mut buffer)) else { return None };
    let mut living = Vec::new();
    for pid in String::from_utf8_lossy(&buffer[..length]).split_whitespace().filter_map(|pid| pid.parse().ok()) {
        if !bury(pid) {
            living.extend(u32::try_from(pid).ok());
        }
    }
    Some(living)
}

/// Takes an ended orphan out of the process table; answers whether it had ended.
fn bury(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): state, parent, group and session follow the name, which may hold anything but ends with the last `)`.
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let (state, group, session) = (fields.next(), fields.nth(1), fields.next());
    let own = Some(pid.to_string());
    // A process that somebody here started and awaits leads its group, in this process's session: not to be touched.
    let awaited = group == own.as_deref() && session != own.as_deref();
    let ended = state.is_none_or(|state| state.is_empty() || state == "Z");
    if ended
        && !awaited
        && let Some(pid) = Pid::from_raw(pid)
    {
        // Buried already, or not a child: nothing is left to do.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
    ended
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
            signal_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!("processes marked {prefix} cannot be killed")))
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

    #[test]
    fn a_process_in_the_middle_of_an_exec_is_not_overlooked() {
        let yard = format!("exec-{}", std::process::id());
        let again = r#"exec /bin/sh -c "$0" "$0""#;
        let mut child = Command::new("/bin/sh")
            .args(["-c", again, again])
            .env(MARK, format!("{yard}:job:1"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let looks = (0..300).map(|_| marked(&yard).unwrap()).filter(|found| *found == [child.id()]).count();
        assert_eq!(sweep(&yard).unwrap(), 1);
        child.wait().unwrap();
        assert_eq!(looks, 300);
    }
}
