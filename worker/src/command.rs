//! Runs one command: a process group of its own, an environment of its own, output captured within limits, and an
//! end that is certain.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use switchyard_core::job::{Failure, StopCause};
use switchyard_core::ports::{Ambient, Assignment, LogLine, LogSink, Message, Outcome, Stream, Usage};
use tokio::process::Child;

use crate::capture::Capture;
use crate::environment::{PAYLOAD_FILE, RECORDS_FILE, RESULT_FILE, is_large, variables};
use crate::process::{self, MARK, mark};
use crate::records::Emitter;
use crate::result;
use crate::scratch::Scratch;

/// How long output is awaited after the program ended and its group was killed. Only a process that left the group
/// can hold the pipe still; it is swept then.
const LINGER: Duration = Duration::from_millis(500);

/// How long lines that were read may take into their log when the program has ended: two calls to a log service that is busy.
const WRITTEN: Duration = Duration::from_secs(10);

/// How long a program runs before its memory is first looked at. Shorter ones are not: a look costs as much as they do.
const FIRST_SAMPLE: Duration = Duration::from_millis(50);
/// The longest between two looks. What a look finds is a high-water mark, so few of them miss little.
const SAMPLES_APART: Duration = Duration::from_secs(5);

/// What to run, and where.
pub struct Command<'a> {
    /// The program.
    pub program: &'a str,
    /// Its arguments, passed on as they are.
    pub args: Vec<String>,
    /// What it finds in its environment besides; what every program finds goes before it.
    pub variables: &'a [(String, String)],
    /// What it has between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Exit codes after which another attempt is pointless.
    pub permanent_exits: &'a [i32],
    /// Where its folder comes from.
    pub scratch: &'a Scratch,
    /// The yard's id, for the mark.
    pub yard: &'a str,
    /// Time.
    pub ambient: &'a dyn Ambient,
}

/// Runs the command to its end.
///
/// The program finds in its environment: PATH, HOME (its own folder), LANG, TZ, what [`variables`] makes, and
/// SWITCHYARD_RUN, the mark by which whatever it leaves is found and ended; and the command's own variables. Nothing of
/// the yard's own environment besides.
pub async fn run(command: &Command<'_>, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome {
    let message = Message { id: assignment.job.id, epoch: assignment.job.epoch };
    let folder = match command.scratch.take(message) {
        Ok(folder) => folder,
        // Another attempt may find room again.
        Err(error) => return failed("no_scratch_folder", format!("cannot make the run's folder: {error}"), false),
    };
    let outcome = run_in(command, assignment, message, &folder, log).await;
    if let Err(error) = command.scratch.give_back(folder) {
        tracing::warn!(
            job.id = %message.id, job.epoch = %message.epoch, trace.id = %assignment.job.trace_id(), %error,
            "the run's folder is left behind"
        );
    }
    outcome
}

async fn run_in(
    command: &Command<'_>,
    assignment: &Assignment<'_>,
    message: Message,
    folder: &Path,
    log: &dyn LogSink,
) -> Outcome {
    let result_path = folder.join(RESULT_FILE);
    let mut prepared = tokio::process::Command::new(found(command.program));
    prepared
        .arg0(command.program)
        .args(&command.args)
        .current_dir(folder)
        .env_clear()
        .envs(command.variables.iter().map(|(name, value)| (name, value)))
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
        .env("HOME", folder)
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env(MARK, mark(command.yard, message))
        .envs(variables(assignment, folder))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if is_large(&assignment.payload)
        && let Err(error) = std::fs::write(folder.join(PAYLOAD_FILE), &assignment.payload)
    {
        return failed("no_scratch_folder", format!("cannot write the payload: {error}"), false);
    }
    if let Some(cause) = assignment.stop.cause() {
        return Outcome::Stopped(cause);
    }
    process::adopt_orphans();
    let live = process::Live::begin();
    let mut child = match prepared.spawn() {
        Ok(child) => child,
        Err(error) => {
            // The program, or the payload that became its arguments, is the same at the next attempt.
            let permanent = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ArgumentListTooLong
            );
            if is_exhausted(&error) {
                // The machine's, not the job's: it goes back, after a moment in which something may become free.
                command.ambient.pause(Duration::from_secs(1)).await;
                return Outcome::Interrupted(format!("the machine cannot start `{}`: {error}", command.program));
            }
            return failed("not_started", format!("cannot start `{}`: {error}", command.program), permanent);
        }
    };
    let mut capture = Capture::new(command.ambient);
    let mut emitter = Emitter::new(message, &folder.join(RECORDS_FILE), command.ambient);
    let (ended, stopped) = watch(command, assignment, &mut child, &mut capture, &mut emitter, log).await;
    drop(live);
    // Whatever left the group is found by its mark, however the program ended: a process that closed its output and
    // left the session shows as an orphan and in no other way.
    if stopped.is_some() || process::has_orphans() {
        let swept = mark(command.yard, message);
        let swept = tokio::task::spawn_blocking(move || process::sweep(&swept)).await;
        if let Ok(Err(error)) = swept {
            tracing::error!(
                job.id = %message.id, job.epoch = %message.epoch, trace.id = %assignment.job.trace_id(), %error,
                "processes of an ended run are left"
            );
        }
        process::end_unmarked_orphans();
        process::has_orphans();
    }
    let outcome = match (stopped, ended) {
        (Some(StopCause::Deadline), _) => Outcome::TimedOut,
        (Some(cause @ (StopCause::Cancel | StopCause::Stale | StopCause::Drain)), _) => Outcome::Stopped(cause),
        (None, Err(error)) => failed("not_awaited", format!("cannot wait for the process: {error}"), false),
        (None, Ok(status)) => judge(status, command.permanent_exits, capture.last_error_line(), &result_path),
    };
    emitter.finish(outcome, log).await
}

/// This very program, also when its file was replaced or removed since it was started (proc(5)).
const OURSELVES: &str = "/proc/self/exe";

/// What a command's program is started as. `switchyard` is this very program where it is one, so that its tools are
/// there without being installed, and are of its own version; anything else is as PATH finds it.
fn found(program: &str) -> &str {
    let own = || std::fs::read_link(OURSELVES).is_ok_and(|file| is_switchyard(&file));
    if program == NAME && own() { OURSELVES } else { program }
}

/// What this program is called.
const NAME: &str = "switchyard";

/// Whether a running program's file is called `switchyard`, or was until it was removed.
fn is_switchyard(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(" (deleted)").unwrap_or(name) == NAME
}

/// Whether a process could not be started because the machine, or this process, has too many of something.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM))
}

/// Waits for the end, whichever comes first: the program's own, its deadline, or a request to stop.
async fn watch(
    command: &Command<'_>,
    assignment: &Assignment<'_>,
    child: &mut Child,
    capture: &mut Capture<'_>,
    emitter: &mut Emitter<'_>,
    log: &dyn LogSink,
) -> (io::Result<ExitStatus>, Option<StopCause>) {
    let leader = child.id();
    let mut usage = Usage::default();
    let mut apart = FIRST_SAMPLE;
    let sample = tokio::time::sleep(apart);
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let left = assignment.deadline.duration_since(command.ambient.now());
    let deadline = tokio::time::sleep(Duration::try_from(left).unwrap_or(Duration::ZERO));
    let mut stopped = None;
    let mut ended = None;
    {
        let writing = capture.writing();
        let pump = capture.pump(stdout.as_mut(), stderr.as_mut(), log);
        let follow = emitter.follow(log);
        tokio::pin!(pump, deadline, sample, follow);
        let mut pumped = false;
        loop {
            tokio::select! {
                biased;
                status = child.wait() => {
                    ended = Some(status);
                }
                cause = assignment.stop.raised() => {
                    stopped = Some(cause);
                }
                () = &mut deadline => {
                    stopped = Some(StopCause::Deadline);
                }
                () = &mut pump, if !pumped => {
                    pumped = true;
                    continue;
                }
                () = &mut sample => {
                    usage.max_rss_mib = usage.max_rss_mib.max(leader.and_then(process::memory_mib));
                    apart = (apart * 2).min(SAMPLES_APART);
                    sample.as_mut().reset(tokio::time::Instant::now() + apart);
                    continue;
                }
                () = &mut follow => unreachable!("it follows for ever"),
            }
            break;
        }
        if let (None, Some(leader)) = (&ended, leader) {
            process::signal_group(leader, Signal::TERM);
            let grace = tokio::time::sleep(command.grace);
            tokio::pin!(grace);
            loop {
                tokio::select! {
                    biased;
                    status = child.wait() => { ended = Some(status); }
                    () = &mut grace => {}
                    () = assignment.stop.hurried() => {}
                    () = &mut pump, if !pumped => { pumped = true; continue; }
                }
                break;
            }
        }
        // The leader is gone or has had its grace: the rest of the group goes with it.
        if let Some(leader) = leader {
            process::signal_group(leader, Signal::KILL);
        }
        if !pumped {
            // What comes later is a stray's, and not kept. What is read already is on its way, and is waited for.
            let until = tokio::time::Instant::now() + WRITTEN;
            while tokio::time::timeout(LINGER, &mut pump).await.is_err()
                && writing.load(Ordering::Relaxed)
                && tokio::time::Instant::now() < until
            {}
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        None => child.wait().await,
    };
    usage.output_dropped_bytes = capture.dropped_bytes();
    log.used(usage);
    if let Some(cause) = stopped {
        let how = match &ended {
            Ok(status) if status.signal() == Some(Signal::KILL.as_raw()) => "it ignored SIGTERM and was killed",
            Ok(_) | Err(_) => "it ended after SIGTERM",
        };
        let text = format!("stopped ({cause:?}): {how}");
        log.write(vec![LogLine { at: command.ambient.now(), stream: Stream::Yard, text }]).await;
    }
    (ended, stopped)
}

/// What a shell exits with when the program it ran last was ended by SIGKILL: 128 and the signal's number (POSIX).
const SHELL_KILLED: i32 = 137;

/// What an exit means, with the result file where there is one. Switchyard sent no signal: a program ended by SIGKILL
/// was ended by the kernel for want of memory, as far as anybody can tell, since nothing else kills in that way without
/// being asked to.
fn judge(status: ExitStatus, permanent_exits: &[i32], last_error_line: &str, result_path: &Path) -> Outcome {
    let and_said = if last_error_line.is_empty() { String::new() } else { format!(": {last_error_line}") };
    match (status.code(), status.signal()) {
        (Some(0), _) => match result::read(result_path) {
            Ok(result) => Outcome::Succeeded(result),
            // The program made it so: it will again.
            Err(failure) => Outcome::Failed { failure, permanent: true },
        },
        (Some(code), _) if code == SHELL_KILLED && !permanent_exits.contains(&code) => {
            let killed = format!(
                "it exited with {code}, as a shell does whose program was ended by SIGKILL: taken for \
                                  the kernel's, out of memory{and_said}"
            );
            Outcome::OutOfMemory(Failure::new("out_of_memory", killed).with_exit(code))
        }
        (None, Some(signal)) if signal == Signal::KILL.as_raw() => {
            let killed = format!(
                "it was ended by SIGKILL, which Switchyard did not send: taken for the kernel's, out \
                                  of memory{and_said}"
            );
            Outcome::OutOfMemory(Failure::new("out_of_memory", killed))
        }
        (Some(code), _) => {
            let failure = Failure::new("exit_nonzero", format!("it exited with {code}{and_said}")).with_exit(code);
            Outcome::Failed { failure, permanent: permanent_exits.contains(&code) }
        }
        (None, signal) => {
            let signal = signal.map_or("an unknown signal".to_owned(), |number| format!("signal {number}"));
            failed("killed", format!("it was ended by {signal}{and_said}"), false)
        }
    }
}

fn failed(code: &str, message: String, permanent: bool) -> Outcome {
    Outcome::Failed { failure: Failure::new(code, message), permanent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_known_by_its_file_s_name_also_when_that_is_gone() {
        for (file, known) in [
            ("/opt/bin/switchyard", true),
            ("/opt/bin/switchyard (deleted)", true),
            ("/opt/bin/switchyard-1", false),
            ("/opt/switchyard/bootstrap", false),
            ("/", false),
        ] {
            assert_eq!(is_switchyard(Path::new(file)), known, "{file}");
        }
        // The tests' own program is none, and leaves the search to PATH.
        assert_eq!((found(NAME), found("true")), (NAME, "true"));
    }
}
