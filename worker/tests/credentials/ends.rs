//! However a run ends, nothing of what it was lent is left.

use std::time::Duration;

use switchyard_core::job::{Phase, StopCause};
use switchyard_core::lend::LoanOutcome;
use switchyard_core::settle;

use crate::bench::{Bench, Does, Setup};

const WAIT: &str = r#"printf %s "$AWS_CONTAINER_CREDENTIALS_FULL_URI" >OUT/uri.part; mv OUT/uri.part OUT/uri; "#;

#[tokio::test]
async fn whether_it_succeeds_fails_or_is_killed() {
    for (script, expected) in [
        ("exit 0", Phase::Succeeded),
        ("exit 7", Phase::Delayed),
        ("kill -SEGV $$", Phase::Delayed),
        // What it leaves behind has nothing any more either; nor does what it did to its folder keep that.
        ("setsid sleep 300 & exit 0", Phase::Succeeded),
        ("rm -rf \"$SWITCHYARD_CREDENTIALS\"; ln -s /etc \"$SWITCHYARD_CREDENTIALS\"", Phase::Succeeded),
        ("mkdir -p \"$SWITCHYARD_CREDENTIALS/a/b\"; chmod 0 \"$SWITCHYARD_CREDENTIALS/a\"", Phase::Succeeded),
    ] {
        let bench = Bench::new(Setup::default());
        let ended = bench.script("all", &format!("{WAIT}{script}")).await;
        assert_eq!(ended.job.phase(), expected, "{script}: {}", ended.told());
        assert!(ended.notes.iter().any(|note| matches!(note.outcome, LoanOutcome::Returned { revoked: true, .. })));
    }
    assert!(std::path::Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn at_its_deadline() {
    let bench = Bench::new(Setup { seconds: 3, ..Setup::default() });
    let ended = bench.script("one", &format!("{WAIT}sleep 300")).await;
    assert_eq!(ended.job.phase(), Phase::TimedOut, "{}", ended.told());
}

#[tokio::test]
async fn cancelled_by_its_caller() {
    let bench = Bench::new(Setup::default());
    let cancelling = async {
        bench.comes("uri").await;
        let run = bench.runs.running()[0];
        settle::cancel_job(&bench.yard, run.id, "tests").await.unwrap();
        bench.runs.stop(run, StopCause::Cancel);
    };
    let script = format!("{WAIT}sleep 300");
    let (ended, ()) = tokio::join!(bench.script("all", &script), cancelling);
    assert_eq!(ended.job.phase(), Phase::Cancelled, "{}", ended.told());
}

#[tokio::test]
async fn drained_with_its_worker_and_without_a_moment_left() {
    for hurried in [false, true] {
        let bench = Bench::new(Setup::default());
        let draining = async {
            bench.comes("uri").await;
            bench.leave.raise(StopCause::Drain);
            if hurried {
                bench.leave.hurry();
            }
        };
        let script = format!("trap '' TERM; {WAIT}sleep 300");
        let (ended, ()) = tokio::join!(bench.script("all", &script), draining);
        assert_eq!(ended.job.interruptions, 1, "{}", ended.told());
    }
}

#[tokio::test]
async fn stopped_while_it_still_borrows() {
    // The first is lent, the others never: what came goes back.
    let does = vec![Does::Issues(Duration::from_secs(3600)), Does::Hangs];
    let bench = Bench::new(Setup { does, ..Setup::default() });
    let stopping = async {
        bench.vendor.asked_at_least(3).await;
        bench.leave.raise(StopCause::Drain);
    };
    let (ended, ()) = tokio::join!(bench.script("all", "touch OUT/ran"), stopping);
    assert_eq!((ended.job.interruptions, bench.seen("ran")), (1, None), "{}", ended.told());
    assert_eq!(ended.notes.len(), 2, "lent and returned: {:?}", ended.notes);
}

#[tokio::test]
async fn what_is_lent_at_the_very_end_goes_back_too() {
    // While it still borrows.
    let bench = Bench::new(Setup { does: vec![Does::Waits], ..Setup::default() });
    let stopping = async {
        bench.vendor.asked_at_least(3).await;
        bench.leave.raise(StopCause::Drain);
        bench.vendor.open.send_replace(true);
    };
    let (ended, ()) = tokio::join!(bench.script("all", "touch OUT/ran"), stopping);
    assert_eq!((ended.job.interruptions, bench.seen("ran")), (1, None), "{}", ended.told());
    assert_eq!(ended.notes.len(), 6, "each is lent and returned: {:?}", ended.notes);
    // While it is renewed: the program has done its work before the answer comes.
    let does = vec![Does::Issues(Duration::from_secs(3)), Does::Waits];
    let bench = Bench::new(Setup { does, ..Setup::default() });
    let answering = async {
        bench.vendor.asked_at_least(2).await;
        bench.put("go");
        bench.comes("done").await;
        bench.vendor.open.send_replace(true);
    };
    let script = "cd OUT; until [ -e go ]; do sleep 0.02; done; touch done";
    let (ended, ()) = tokio::join!(bench.script("one", script), answering);
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
    assert_eq!(ended.notes.len(), 4, "the second is lent and returned, too: {:?}", ended.notes);
}

#[tokio::test]
async fn a_run_that_is_let_go_in_the_middle_leaves_no_folder() {
    let bench = Bench::new(Setup::default());
    {
        let script = format!("{WAIT}sleep 300");
        let running = bench.script("all", &script);
        tokio::pin!(running);
        tokio::select! {
            _ = &mut running => panic!("it sleeps"),
            _ = bench.comes("uri") => {}
        }
        assert_eq!(bench.folders().len(), 1);
    }
    assert_eq!(bench.folders().len(), 0);
    let uri = bench.seen("uri").unwrap();
    let address = uri.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn a_loan_that_cannot_be_given_back_changes_nothing_of_the_end() {
    let bench = Bench::new(Setup { cannot_revoke: true, ..Setup::default() });
    let ended = bench.script("all", "exit 0").await;
    assert_eq!(ended.job.phase(), Phase::Succeeded, "{}", ended.told());
}
