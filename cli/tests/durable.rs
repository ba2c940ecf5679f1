//! What the yard has answered is on the disk: with a disk that waits, fails or is full when a test says so.

mod common_bad;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common_bad::{Answer, Ended, Home, Yard, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The shim, compiled once for all tests: the yard is built with a C compiler anyway.
fn shim() -> &'static PathBuf {
    static SHIM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("fsync_gate.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shim/fsync_gate.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(compiled.unwrap().success(), "the shim does not compile");
        (folder, library)
    });
    library
}

/// The disk of one yard.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn start<'a>(&self, home: &'a Home) -> Yard<'a> {
        home.start_with(|command| {
            command.env("LD_PRELOAD", shim()).env("FSYNC_GATE", self.folder.path());
        })
    }

    /// Until it is dropped, `what` is so.
    fn set(&self, what: &str) -> Set {
        let file = self.folder.path().join(what);
        std::fs::write(&file, "").unwrap();
        Set(file)
    }

    fn counted(&self, what: &str) -> u64 {
        std::fs::metadata(self.folder.path().join(what)).map_or(0, |file| file.len())
    }
}

struct Set(PathBuf);

impl Drop for Set {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A submission that is accepted and then waits: nothing else is written for it.
fn waiting(key: &str) -> (String, Value) {
    let body = json!({ "capability": "sh", "payload": { "script": "true" }, "delay_seconds": 3600 });
    (key.to_owned(), body)
}

fn submit(yard: &Yard<'_>, (key, body): &(String, Value)) -> std::io::Result<Answer> {
    let token = format!("Bearer {}", yard.token);
    let headers: [(&str, &[u8]); 2] = [("authorization", token.as_bytes()), ("idempotency-key", key.as_bytes())];
    yard.send("POST", "/v1/jobs", &headers, body.to_string().as_bytes())
}

fn ids(yard: &Yard<'_>) -> BTreeSet<String> {
    yard.jobs().into_iter().map(|(id, _)| id).collect()
}

fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn no_acceptance_is_answered_or_shown_before_it_is_durable() {
    let (home, disk) = (Home::new(), Disk::new());
    let yard = disk.start(&home);
    let hold = disk.set("hold");
    let answered = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let answer = submit(&yard, &waiting("one"));
            answered.store(true, Ordering::SeqCst);
            answer
        });
        eventually("an fsync is held", || (disk.counted("held") > 0).then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!answered.load(Ordering::SeqCst), "it was answered while its fsync was held");
        assert_eq!(yard.jobs(), [], "and nobody sees it");
        drop(hold);
        asking.join().unwrap()
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(ids(&yard), BTreeSet::from([id_of(&answer)]));
}

#[test]
fn submissions_that_come_together_share_an_fsync() {
    const SUBMISSIONS: u64 = 64;
    let (home, disk) = (Home::new(), Disk::new());
    let yard = disk.start(&home);
    let hold = disk.set("hold");
    let before = disk.counted("fsyncs");
    let answered = AtomicUsize::new(0);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..SUBMISSIONS)
            .map(|n| {
                let (yard, answered) = (&yard, &answered);
                scope.spawn(move || {
                    let answer = submit(yard, &waiting(&format!("key-{n}"))).unwrap();
                    answered.fetch_add(1, Ordering::SeqCst);
                    answer
                })
            })
            .collect();
        eventually("an fsync is held", || (disk.counted("held") > 0).then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(answered.load(Ordering::SeqCst), 0, "answered while the fsync was held");
        drop(hold);
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let accepted: BTreeSet<String> = answers.iter().filter(|answer| answer.status == 202).map(id_of).collect();
    assert_eq!(accepted.len() as u64, SUBMISSIONS);
    assert_eq!(ids(&yard), accepted);
    let fsyncs = disk.counted("fsyncs") - before;
    assert!(fsyncs * 2 < SUBMISSIONS, "{fsyncs} fsyncs for {SUBMISSIONS} submissions");
    assert!(fsyncs <= 4, "those that waited for one fsync go into the next: {fsyncs}");
}

#[test]
fn no_job_is_shown_as_ended_before_its_end_is_durable() {
    let (home, disk) = (Home::new(), Disk::new());
    let yard = disk.start(&home);
    let go = home.path().join("go");
    for capability in ["sh", "task"] {
        let script = format!(
            "until [ -e '{}' ]; do sleep 0.01; done; echo 7 > $SWITCHYARD_RESULT_PATH; echo made",
            go.display()
        );
        let id = yard.submit(capability, &script);
        yard.running(&id);
        let held = disk.counted("held");
        let hold = disk.set("hold");
        std::fs::write(&go, "").unwrap();
        eventually("the fsync of its end is held", || (disk.counted("held") > held).then_some(()));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(yard.job(&id)["state"], "running", "{capability}");
        assert_eq!(yard.get(&format!("/v1/jobs/{id}/result")).status, 404, "{capability}");
        drop(hold);
        let job = yard.settled(&id);
        assert_eq!((&job["state"], &job["result"]), (&json!("succeeded"), &json!(7)), "{capability}");
        std::fs::remove_file(&go).unwrap();
    }
}

#[test]
fn a_failed_fsync_ends_the_yard_and_nothing_acknowledged_is_lost() {
    let (home, disk) = (Home::new(), Disk::new());
    let mut yard = disk.start(&home);
    let mut acknowledged = BTreeSet::new();
    for n in 0..5 {
        acknowledged.insert(id_of(&submit(&yard, &waiting(&format!("before-{n}"))).unwrap()));
    }
    // Callers in full flow when the disk begins to fail.
    let failed = AtomicBool::new(false);
    let flow: Vec<(u32, u32, Result<String, String>)> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let (yard, failed) = (&yard, &failed);
                scope.spawn(move || {
                    let mut told = Vec::new();
                    for n in 0..1000 {
                        let answer = submit(yard, &waiting(&format!("flow-{caller}-{n}")));
                        let taken = match answer {
                            Ok(answer) if answer.status == 202 => Ok(id_of(&answer)),
                            Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
                            Err(error) => Err(error.to_string()),
                        };
                        let over = taken.is_err();
                        told.push((caller, n, taken));
                        if over {
                            break;
                        }
                    }
                    assert!(failed.load(Ordering::SeqCst), "refused while the disk was well: {:?}", told.last());
                    told
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        failed.store(true, Ordering::SeqCst);
        let _failing = disk.set("fail-fsync");
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(yard.ended_within(Duration::from_secs(10)), Some(Some(74)), "{}", home.log());
    assert!(home.log().contains("an fsync failed: what is on the disk is unknown"), "{}", home.log());
    drop(yard);
    let refused: Vec<_> = flow.iter().filter(|(_, _, taken)| taken.is_err()).collect();
    assert_eq!(refused.len(), 8, "every caller heard that it failed, none that it was taken: {refused:?}");
    acknowledged.extend(flow.iter().filter_map(|(_, _, taken)| taken.as_ref().ok().cloned()));
    assert!(acknowledged.len() > 13, "{}", acknowledged.len());

    let yard = home.start();
    let mut kept = BTreeSet::new();
    for id in &acknowledged {
        let answer = yard.get(&format!("/v1/jobs/{id}"));
        assert_eq!(answer.status, 200, "job {id} was acknowledged and is lost");
        kept.insert(id_of(&answer));
    }
    // What was refused may be there or not; sent again under its key it is one job, and acknowledged at last.
    for (caller, n, _) in refused {
        let submission = waiting(&format!("flow-{caller}-{n}"));
        let (first, again) = (submit(&yard, &submission).unwrap(), submit(&yard, &submission).unwrap());
        assert_eq!((first.status, again.status), (202, 202));
        assert_eq!(id_of(&first), id_of(&again));
        assert!(kept.insert(id_of(&first)));
    }
    assert_eq!(kept.len(), acknowledged.len() + 8);
}

#[test]
fn an_fsync_that_fails_when_the_log_is_written_into_the_file_ends_the_yard_too() {
    let (home, disk) = (Home::new(), Disk::new());
    let mut yard = disk.start(&home);
    let failing = disk.set("fail-file");
    let script = "x".repeat(60_000);
    let mut acknowledged = BTreeSet::new();
    // 16 MiB of log are about 300 such jobs.
    for n in 0..1000 {
        let body = json!({ "capability": "sh", "payload": { "script": script }, "delay_seconds": 3600 });
        match submit(&yard, &(format!("large-{n}"), body)) {
            Ok(answer) if answer.status == 202 => drop(acknowledged.insert(id_of(&answer))),
            Ok(_) | Err(_) => break,
        }
    }
    assert_eq!(yard.ended_within(Duration::from_secs(10)), Some(Some(74)), "{}", home.log());
    drop((yard, failing));
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    let kept = ids(&home.start());
    assert!(
        acknowledged.is_subset(&kept),
        "{} of {} are lost",
        acknowledged.difference(&kept).count(),
        acknowledged.len()
    );
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_is_over_when_there_is_room() {
    let (home, disk) = (Home::new(), Disk::new());
    let mut yard = disk.start(&home);
    let go = home.path().join("go");
    let runs: Vec<String> = ["sh", "task"]
        .iter()
        .map(|capability| {
            let id =
                yard.submit(capability, &format!("until [ -e '{}' ]; do sleep 0.02; done; echo made", go.display()));
            yard.running(&id);
            id
        })
        .collect();
    let mut acknowledged: BTreeSet<String> = runs.iter().cloned().collect();
    acknowledged.insert(id_of(&submit(&yard, &waiting("before")).unwrap()));

    let full = disk.set("full");
    for n in 0..5 {
        let answer = submit(&yard, &waiting(&format!("meanwhile-{n}"))).unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        let problem = answer.json();
        assert_eq!(problem["code"], "try_again");
        assert_eq!(problem["detail"], "cannot accept 1 jobs: the disk is full");
    }
    let answer = yard.ask("POST", &format!("/v1/jobs/{}/cancel", runs[0]), b"");
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("try_again")), "{answer:?}");
    assert_eq!(ids(&yard), acknowledged, "reading goes on, and shows what was acknowledged and no more");
    assert!(disk.counted("refused") > 5);
    // The runs end while their end cannot be written, and are told again.
    std::fs::write(&go, "").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    for id in &runs {
        assert_eq!(yard.job(id)["state"], "running");
    }
    drop(full);

    let room = Instant::now();
    for id in &runs {
        let job = yard.settled(id);
        assert_eq!((&job["state"], &job["epoch"]), (&json!("succeeded"), &json!(1)), "it ran once");
    }
    assert!(room.elapsed() < Duration::from_secs(6), "{:?}", room.elapsed());
    for n in 0..5 {
        let answer = submit(&yard, &waiting(&format!("meanwhile-{n}"))).unwrap();
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (202, None), "none was kept in secret");
        acknowledged.insert(id_of(&answer));
    }
    assert_eq!(ids(&yard), acknowledged);
    // The same after a crash: what was acknowledged before, and after there was room again.
    yard.child.kill().unwrap();
    yard.child.wait().unwrap();
    drop(yard);
    assert_eq!(ids(&home.start()), acknowledged);
}

#[test]
fn a_yard_starts_on_a_full_disk_if_it_was_there_before() {
    let (home, disk) = (Home::new(), Disk::new());
    let full = disk.set("full");
    let mut command = home.local();
    let ended = Ended::of(command.env("LD_PRELOAD", shim()).env("FSYNC_GATE", disk.folder.path()));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(8), ""), "{ended:?}");
    assert!(ended.said().contains("the disk is full"), "{ended:?}");
    drop(full);

    let yard = disk.start(&home);
    let id = id_of(&submit(&yard, &waiting("one")).unwrap());
    assert_eq!(yard.stop(), Some(0));
    let full = disk.set("full");
    let yard = disk.start(&home);
    assert_eq!(submit(&yard, &waiting("two")).unwrap().status, 503);
    assert_eq!(ids(&yard), BTreeSet::from([id]), "what there is can be read");
    drop(full);
    assert_eq!(submit(&yard, &waiting("two")).unwrap().status, 202);
}
