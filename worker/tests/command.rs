//! What commands do to whoever runs them, and what is left of it: nothing but the outcome and the log.
//!
//! After every run, here whatever the case: no process carries its mark, and its folder is gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::execute;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{ClaimToken, Holder, Nonce, StopCause};
use switchyard_core::policies::{Policies, Shelf, Situation};
use switchyard_core::ports::{
    Ambient, Assignment, Body, Claim, Emission, Executor, LoanDoor, LogLine, LogSink, Outcome, PortError, StopSignal,
    Stream, Usage,
};
use switchyard_core::records::Emitted;
use switchyard_core::route::Limits;
use switchyard_core::wire;
use switchyard_worker::capture::{LINE_BYTES, OUTPUT_BYTES};
use switchyard_worker::credentials::Vault;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::process::{marked, sweep};
use switchyard_worker::scratch::Scratch;

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: sh
    summary: runs a script
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
    retry: { permanent_exits: [3, 64] }
  - name: stubborn
    summary: runs a script that has no time to end
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 1, grace_seconds: 1 }
  - name: arguments
    summary: prints its arguments
    run: { command: [sh, -c, 'for each; do printf "<%s>" "$each"; done', sh, "{{one}}", "--two={{two}}", "$HOME; {{one}}"] }
  - name: environment
    summary: prints its environment
    run: { command: [env] }
  - name: absent
    summary: is not there
    run: { command: [no-such-program-anywhere] }
  - name: folder
    summary: is no program
    run: { command: [/tmp] }
  - name: "true"
    summary: ignores its argument
    run: { command: ["true", "{{script}}"] }
"#;

/// A log that is looked at afterwards.
#[derive(Default)]
struct Kept(Mutex<Vec<LogLine>>, Mutex<Usage>, Mutex<Vec<String>>);

#[async_trait]
impl LogSink for Kept {
    async fn emit(&self, lines: &[Emitted]) -> Result<Emission, PortError> {
        self.2.lock().unwrap().extend(lines.iter().map(|line| line.line.clone()));
        Ok(Emission::Taken(vec![]))
    }

    async fn write(&self, lines: Vec<LogLine>) {
        self.0.lock().unwrap().extend(lines);
    }

    fn used(&self, usage: Usage) {
        *self.1.lock().unwrap() = usage;
    }
}

/// What one run left.
struct Run {
    outcome: Outcome,
    log: Vec<LogLine>,
    usage: Usage,
    took: Duration,
}

impl Run {
    /// What it printed on one stream, line by line.
    fn printed(&self, stream: Stream) -> Vec<&str> {
        self.log.iter().filter(|line| line.stream == stream).map(|line| line.text.as_str()).collect()
    }

    /// The outcome in a line, for a reviewer.
    fn told(&self) -> String {
        match &self.outcome {
            Outcome::Succeeded(result) => format!("succeeded with {result:?}"),
            Outcome::Failed { failure, permanent } => {
                format!("{failure} [{}]", if *permanent { "for good" } else { "another attempt may help" })
            }
            Outcome::OutOfMemory(failure) => format!("{failure} [more memory may help]"),
            Outcome::TimedOut => "timed out".to_owned(),
            Outcome::Stopped(cause) => format!("stopped ({cause:?})"),
            Outcome::Interrupted(why) => format!("interrupted: {why}"),
        }
    }
}

/// Runs one job of a capability, and holds what is left to the promise above.
async fn run(capability: &str, payload: Value) -> Run {
    run_until(capability, payload, StopSignal::default()).await
}

async fn run_until(capability: &str, payload: Value, stop: StopSignal) -> Run {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let yard = format!("test-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let catalog = Catalog::parse("catalog.yaml", CATALOG, &[], &BTreeMap::new()).unwrap();
    let policies = Policies { catalog, limits: Limits::one_machine(4096), ..Policies::default() };
    let shelf = Arc::new(Shelf::new(policies));
    let shelf_situation = Situation { policies: shelf.policies(), ..Situation::default() };
    let scratch = tempfile::tempdir().unwrap();
    let body = json!({ "capability": capability, "payload": payload }).to_string();
    let (submission, digest) = intake::read(body.as_bytes()).unwrap();
    let prepared = intake::prepare(
        &submission,
        digest,
        Sender { caller: "tests", key: None },
        &shelf_situation,
        Taking::default(),
        System.now(),
        System.random(),
    )
    .unwrap();
    let claim = Claim {
        id: prepared.job.id,
        epoch: prepared.job.epoch,
        holder: Holder("tests".to_owned()),
        token: ClaimToken::new([7; 32]).hash(),
        at_most: None,
        room: None,
    };
    let job = execute::claim(&prepared.job, &claim, &shelf_situation, System.now()).unwrap();
    let deadline = System.now() + job.work.run_timeout;
    let assignment = Assignment { job, payload: prepared.payload, deadline, stop, loans: LoanDoor::NONE };
    let executor = LocalExecutor {
        shelf,
        scratch: Scratch::new(scratch.path(), 0),
        vault: Vault::usual(),
        yard: yard.clone(),
        boot: Nonce(1),
        engine: None,
        task: None,
        ambient: Arc::new(System),
    };
    let log = Kept::default();
    let started = Instant::now();
    let outcome = executor.run(&assignment, &log).await;
    let took = started.elapsed();
    let left = marked(&format!("{yard}:")).unwrap();
    sweep(&format!("{yard}:")).unwrap();
    assert_eq!(left, Vec::<u32>::new(), "processes of an ended run are left");
    let folders: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert!(folders.is_empty(), "the run's folder is left: {folders:?}");
    Run { outcome, log: log.0.into_inner().unwrap(), usage: log.1.into_inner().unwrap(), took }
}

async fn sh(script: &str) -> Run {
    run("sh", json!({ "script": script })).await
}

#[tokio::test]
async fn every_bad_end_has_its_code_and_its_reason() {
    let over = Body::MAX_BYTES + 1;
    let cases = [
        ("exit code with the last line of stderr", "echo one >&2; echo two >&2; echo; exit 7".to_owned()),
        ("exit code without a word", "exit 1".to_owned()),
        ("exit code after which nothing helps", "echo 'no such file' >&2; exit 3".to_owned()),
        ("last line with control characters", r"printf 'a\033[31mred\007\n\n  \n' >&2; exit 1".to_owned()),
        ("last line of 10 kB", "head -c 10000 /dev/zero | tr '\\0' y >&2; exit 1".to_owned()),
        ("killed by itself", "kill -SEGV $$".to_owned()),
        ("result too large", format!("head -c {over} /dev/zero | tr '\\0' 1 > \"$SWITCHYARD_RESULT_PATH\"")),
        ("result not JSON", "echo '{\"a\": 1,}' > \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result two JSON texts", "echo '1 2' > \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result not UTF-8", r#"printf '"\377"' > "$SWITCHYARD_RESULT_PATH""#.to_owned()),
        ("result a link", "ln -s /etc/hostname \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result a FIFO", "mkfifo \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result a folder", "mkdir \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result empty", ": > \"$SWITCHYARD_RESULT_PATH\"".to_owned()),
        ("result of an exit that is not 0", "echo 1 > \"$SWITCHYARD_RESULT_PATH\"; exit 2".to_owned()),
    ];
    let mut told = Vec::new();
    for (case, script) in cases {
        told.push(format!("{case}\n    {}", sh(&script).await.told()));
    }
    for capability in ["absent", "folder"] {
        told.push(format!("{capability}\n    {}", run(capability, json!({})).await.told()));
    }
    // Linux takes 128 KiB for one argument (execve(2)); a payload may hold more.
    let long = run("true", json!({ "script": "x".repeat(200_000) })).await;
    told.push(format!("an argument of 200 kB\n    {}", long.told()));
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn a_result_of_the_largest_size_is_taken() {
    let bytes = Body::MAX_BYTES;
    let text = format!("{{ printf '\"'; head -c {} /dev/zero | tr '\\0' a; printf '\"'; }}", bytes - 2);
    let run = sh(&format!("{text} > \"$SWITCHYARD_RESULT_PATH\"")).await;
    let Outcome::Succeeded(Some(result)) = run.outcome else { panic!("{}", run.told()) };
    assert_eq!(result.len(), bytes);
}

#[tokio::test]
async fn a_command_ended_by_a_sigkill_that_nobody_here_sent_was_out_of_memory() {
    let told = |run: Run| match run.outcome {
        Outcome::OutOfMemory(failure) => failure,
        _ => panic!("{}", run.told()),
    };
    // As the kernel's killer does it: from outside, with no word to the program.
    let itself = told(sh("echo almost >&2; kill -KILL $$").await);
    assert_eq!((itself.code.as_str(), itself.exit), ("out_of_memory", None));
    assert!(itself.message.contains("Switchyard did not send") && itself.message.ends_with(": almost"), "{itself}");
    let shell = told(sh("sh -c 'kill -KILL $$'; exit $?").await);
    assert_eq!((shell.code.as_str(), shell.exit), ("out_of_memory", Some(137)));
    // Another signal says nothing about memory.
    let other = sh("kill -SEGV $$").await;
    assert!(matches!(&other.outcome, Outcome::Failed { failure, .. } if failure.code == "killed"), "{}", other.told());
}

#[tokio::test]
async fn the_memory_a_command_had_is_told_with_that_of_what_it_started() {
    // A shell that keeps 48 MiB in a variable, beside one that waits for it.
    let fill = "x=$(head -c 50331648 /dev/zero | tr '\\0' a); sleep 0.4; : \"$x\"";
    let run = sh(&format!("sh -c '{}' & wait", fill.replace('\'', "'\\''"))).await;
    assert_eq!(run.outcome, Outcome::Succeeded(None), "{}", run.told());
    let mib = run.usage.max_rss_mib.expect("it ran long enough to be looked at");
    assert!((48..400).contains(&mib), "{mib} MiB");
    // What is over at once is not looked at: that would cost as much as the run.
    assert_eq!(sh("true").await.usage, Usage::default());
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_after_its_grace() {
    // The shell waits for each short sleep and then loops: only SIGKILL ends it.
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let timed_out = run("stubborn", json!({ "script": script })).await;
    assert_eq!(timed_out.outcome, Outcome::TimedOut);
    assert_eq!(timed_out.printed(Stream::Yard), ["stopped (Deadline): it ignored SIGTERM and was killed"]);
    assert!(timed_out.took >= Duration::from_millis(1900), "a second to run, a second of grace: {:?}", timed_out.took);
    assert!(timed_out.took < Duration::from_secs(5), "{:?}", timed_out.took);

    for cause in [StopCause::Cancel, StopCause::Drain, StopCause::Stale] {
        let stop = StopSignal::default();
        let raised = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            raised.raise(cause);
        });
        let stopped = run_until("sh", json!({ "script": script }), stop).await;
        assert_eq!(stopped.outcome, Outcome::Stopped(cause));
        assert!(stopped.took >= Duration::from_secs(1), "the grace is a second: {:?}", stopped.took);
        assert!(stopped.took < Duration::from_secs(5), "{:?}", stopped.took);
    }
}

#[tokio::test]
async fn a_command_that_heeds_sigterm_is_not_kept_waiting_and_can_say_goodbye() {
    let stop = StopSignal::default();
    let raised = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        raised.raise(StopCause::Cancel);
    });
    let script = "trap 'echo goodbye; exit 0' TERM; while :; do sleep 0.05; done";
    let stopped = run_until("sh", json!({ "script": script }), stop).await;
    assert_eq!(stopped.outcome, Outcome::Stopped(StopCause::Cancel));
    assert_eq!(stopped.printed(Stream::Stdout), ["goodbye"]);
    assert!(stopped.took < Duration::from_millis(900), "{:?}", stopped.took);
}

#[tokio::test]
async fn a_run_that_was_stopped_before_it_began_starts_nothing() {
    let stop = StopSignal::default();
    stop.raise(StopCause::Cancel);
    let stopped = run_until("sh", json!({ "script": "echo started" }), stop).await;
    assert_eq!(stopped.outcome, Outcome::Stopped(StopCause::Cancel));
    assert_eq!(stopped.log, []);
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_does_not_hold_its_job_and_does_not_outlive_it() {
    for left in [
        // In its group, its output open.
        "sleep 300 &",
        // Out of its group and session, its output open.
        "setsid sleep 300 &",
        // Out of its group and session, its output closed: a daemon.
        "setsid sleep 300 </dev/null >/dev/null 2>&1 &",
        // The same, two generations on.
        "setsid sh -c 'sh -c \"sleep 300\" & sleep 300' </dev/null >/dev/null 2>&1 &",
    ] {
        let run = sh(&format!("echo before; {left} echo after; sleep 0.1")).await;
        assert_eq!(run.outcome, Outcome::Succeeded(None), "{left}");
        assert_eq!(run.printed(Stream::Stdout), ["before", "after"], "{left}");
        assert!(run.took < Duration::from_secs(3), "{left}: {:?}", run.took);
    }
}

#[tokio::test]
async fn a_process_that_cleared_its_environment_does_not_outlive_the_last_run() {
    let seconds = format!("300.{}", std::process::id());
    let run = sh(&format!("env -i setsid sleep {seconds} </dev/null >/dev/null 2>&1 & sleep 0.2")).await;
    assert_eq!(run.outcome, Outcome::Succeeded(None));
    let lives = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.ends_with(format!("{seconds}\0").as_bytes()))
        })
    };
    // While another test's run is under way it could be that one's: then a later run's end is its end.
    for _ in 0..100 {
        if !lives() {
            return;
        }
        sh("true").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a process without a mark outlives every run");
}

#[tokio::test]
async fn output_is_kept_to_its_limit_and_the_command_goes_on() {
    let run = sh("yes 'a line of some length, as programs print them' | head -c 52428800; echo done >&2").await;
    assert_eq!(run.outcome, Outcome::Succeeded(None));
    let kept: usize = run.printed(Stream::Stdout).iter().map(|line| line.len() + 1).sum();
    assert!(kept <= OUTPUT_BYTES && kept > OUTPUT_BYTES / 4, "{kept}");
    assert_eq!(run.printed(Stream::Yard), ["output cut: a run's log keeps 10 MiB"]);
    assert_eq!(run.log.last().unwrap().stream, Stream::Yard, "what comes after the cut is dropped, all of it");
}

#[tokio::test]
async fn a_cut_is_the_end_of_the_log() {
    // Lines that no longer fit, then lines that would.
    let run = sh("yes \"$(head -c 16000 /dev/zero | tr '\\0' x)\" | head -c 12000000; yes short | head -n 1000").await;
    assert_eq!(run.outcome, Outcome::Succeeded(None));
    assert_eq!(run.log.last().unwrap().stream, Stream::Yard);
}

#[tokio::test]
async fn a_log_of_empty_lines_is_no_larger_than_any_other() {
    // Nor is one of bytes that JSON writes as six.
    for script in ["yes '' | head -c 10000000", "head -c 10000000 /dev/zero"] {
        let run = sh(script).await;
        let stored: usize = run.log.iter().map(|line| wire::encode_line(line).len() + 1).sum();
        assert!(stored <= OUTPUT_BYTES + LINE_BYTES, "{stored} bytes are stored");
        assert_eq!(run.printed(Stream::Yard).len(), 1);
    }
}

#[tokio::test]
async fn a_long_line_arrives_in_pieces_and_whole() {
    let run = sh("head -c 1048576 /dev/zero | tr '\\0' x; echo; echo next").await;
    let lines = run.printed(Stream::Stdout);
    let (next, pieces) = lines.split_last().unwrap();
    assert_eq!(*next, "next");
    assert_eq!(pieces.len(), 1024 * 1024 / LINE_BYTES);
    assert!(pieces.iter().all(|piece| piece.len() == LINE_BYTES));
}

#[tokio::test]
async fn a_long_line_is_not_cut_within_a_character() {
    // 1 + 3 × 20000 bytes: no multiple of 16 KiB falls between two characters.
    let run = sh("printf x; yes € | head -n 20000 | tr -d '\\n'").await;
    let text = run.printed(Stream::Stdout).concat();
    assert_eq!(text, format!("x{}", "€".repeat(20_000)));
}

#[tokio::test]
async fn binary_output_is_kept_as_text() {
    let run = sh(r"printf 'a\000b\377\376c\n\001\002\n'; head -c 100000 /dev/urandom").await;
    assert_eq!(run.outcome, Outcome::Succeeded(None));
    assert_eq!(run.printed(Stream::Stdout)[..2], ["a\0b\u{fffd}\u{fffd}c", "\u{1}\u{2}"]);
}

#[tokio::test]
async fn both_streams_are_kept_apart_and_a_last_line_needs_no_end() {
    let run = sh("printf out; printf err >&2").await;
    assert_eq!((run.printed(Stream::Stdout), run.printed(Stream::Stderr)), (vec!["out"], vec!["err"]));
}

#[tokio::test]
async fn a_payload_is_in_the_environment_or_in_a_file() {
    let small = sh("printf %s \"$SWITCHYARD_PAYLOAD\"; printf %s \"${SWITCHYARD_PAYLOAD_URI-none}\" >&2").await;
    assert!(small.printed(Stream::Stdout)[0].starts_with(r#"{"script":"printf"#), "{:?}", small.log);
    assert_eq!(small.printed(Stream::Stderr), ["none"]);
    let script = r#"printf '%s\n' "${SWITCHYARD_PAYLOAD-none}"; file="${SWITCHYARD_PAYLOAD_URI#file://}"
        tail -c 12 "$file"; echo; dirname "$file"; pwd"#;
    let large = run("sh", json!({ "script": script, "z": "x".repeat(70_000) + "the end" })).await;
    let lines = large.printed(Stream::Stdout);
    assert_eq!(lines[0], "none");
    assert_eq!(lines[1], r#"xxxthe end"}"#);
    assert_eq!(lines[2], lines[3], "it lies in the run's own folder, which nobody else can enter");
}

#[tokio::test]
async fn the_environment_is_the_documented_one_and_nothing_else() {
    let run = run("environment", json!({ "a": 1 })).await;
    let mut names: Vec<&str> =
        run.printed(Stream::Stdout).iter().map(|line| line.split_once('=').map_or(*line, |(name, _)| name)).collect();
    names.sort_unstable();
    let documented = [
        "HOME",
        "LANG",
        "PATH",
        "SWITCHYARD_DEADLINE",
        "SWITCHYARD_EPOCH",
        "SWITCHYARD_JOB_ID",
        "SWITCHYARD_PAYLOAD",
        "SWITCHYARD_RECORDS_PATH",
        "SWITCHYARD_RESULT_PATH",
        "SWITCHYARD_RUN",
        "TRACEPARENT",
        "TZ",
    ];
    assert_eq!(names, documented);
}

#[tokio::test]
async fn no_open_file_and_no_changed_signal_is_passed_on() {
    // Rust itself sets SIGPIPE aside in every program, and must set it back in a child (std::process).
    let script = "echo /proc/self/fd/*; grep '^SigBlk' /proc/self/status; read line || echo nothing
        for signal in PIPE TERM HUP; do sh -c \"kill -$signal \\$\\$; echo $signal is ignored\"; done";
    let plain = std::process::Command::new("sh").args(["-c", script]).stdin(std::process::Stdio::null()).output();
    let plain = String::from_utf8(plain.unwrap().stdout).unwrap();
    // Whatever the tests themselves were started with, and no more.
    assert_eq!(sh(script).await.printed(Stream::Stdout).join("\n"), plain.trim_end());
    assert!(plain.ends_with("nothing\n"), "{plain}");
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    for text in [
        "two words",
        "'single' \"double\" `back`",
        "; echo gone",
        "$(echo gone) ${HOME} $HOME",
        "a\nb",
        "* ? [a-z] ~ !",
        "",
        "{{one}} {{two}}",
        "\\n \\",
        "é € 🚂",
    ] {
        let run = run("arguments", json!({ "one": text, "two": text })).await;
        let printed = run.printed(Stream::Stdout).join("\n");
        assert_eq!(printed, format!("<{text}><--two={text}><$HOME; {text}>"));
    }
}

#[tokio::test]
async fn a_run_works_in_an_empty_folder_of_its_own() {
    let run = sh("pwd; ls -A | wc -l; stat -c %a .; echo x > file; mkdir deep; : > deep/er; chmod 500 deep").await;
    let lines = run.printed(Stream::Stdout);
    assert_eq!(lines[1..], ["0", "700"]);
    assert!(!std::path::Path::new(lines[0]).exists());
}
