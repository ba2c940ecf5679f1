//! What a job bears of its machines before something else is done about it, and what an idle worker costs.

use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchyard_builtins::system::System;
use switchyard_core::job::{Phase, State};
use switchyard_core::ports::{Ambient, Workers, Yard};
use switchyard_core::reap;
use switchyard_core::route::{Place, PoolName};
use switchyard_faults::{Proxy, Settings};

use crate::instance::OnEc2;
use crate::scene::{Ended, endpoint};
use crate::{block, tell};

#[test]
fn interrupted_twice_a_job_goes_where_nothing_is_taken_away() {
    block(async {
        let on = OnEc2::open("twice", 0, 1).await;
        let folder = tempfile::tempdir().unwrap();
        let go = folder.path().join("go");
        let script = format!("[ -e {} ] || exec sleep 600", go.display());
        let job = on.scene.submit("sh", &script, "standard").await;
        let steady: PoolName = "steady".parse().unwrap();
        for (interruptions, pool) in [(1, PoolName::STANDARD), (2, steady)] {
            on.metadata.is_quiet();
            let child = on.worker("600").spawn().unwrap();
            on.runs(&job).await;
            on.metadata.interrupts("terminate", 27);
            let ended = on.ended(child).await;
            let back = on.scene.job(&job).await;
            assert_eq!((back.phase(), back.interruptions), (Phase::Dispatched, interruptions), "{ended:?}");
            assert_eq!((back.route.place, back.attempts_spent), (Place::Fleet(pool), 0), "{ended:?}");
        }
        std::fs::write(&go, "").unwrap();
        on.metadata.is_quiet();
        let child = on.worker("600").args(["--pool", "steady"]).spawn().unwrap();
        on.scene.until(&job, Phase::Succeeded).await;
        on.ended_by_signal(child).await;
    });
}

/// The clock of a reaper that comes so much later.
struct Later(Duration);

#[async_trait::async_trait]
impl Ambient for Later {
    fn now(&self) -> jiff::Timestamp {
        System.now() + self.0
    }

    fn random(&self) -> [u8; 32] {
        System.random()
    }

    async fn pause(&self, duration: Duration) {
        System.pause(duration).await;
    }
}

#[test]
fn a_job_whose_workers_are_lost_four_times_without_notice_fails_and_says_why() {
    block(async {
        let on = OnEc2::open("lost", 0, 1).await;
        let job = on.scene.submit("sh", "exec sleep 600", "standard").await;
        let mut later = Duration::ZERO;
        // The minutes pass by the reaper's own clock.
        let mut reap = async |minutes: u64| {
            later += Duration::from_secs(60 * minutes + 5);
            let yard = Yard { ambient: Arc::new(Later(later)), ..on.scene.yard.clone() };
            reap::round(&yard).await.unwrap();
            on.scene.job(&job).await.phase()
        };
        for losses in 1..=4 {
            let mut child = on.worker("600").spawn().unwrap();
            // The poll of one that was killed may have taken the bell with it: then the reaper rings again.
            let given_up = Instant::now() + Duration::from_secs(60);
            while on.scene.job(&job).await.phase() != Phase::Running {
                assert!(Instant::now() < given_up, "nobody takes it");
                tokio::time::sleep(Duration::from_secs(2)).await;
                if on.scene.job(&job).await.phase() == Phase::Dispatched {
                    reap(2).await;
                }
            }
            tell(&child, Signal::KILL);
            child.wait().unwrap();
            let mut rounds = 0;
            while reap(1).await == Phase::Running {
                rounds += 1;
                assert!(rounds < 10, "it is not lost");
            }
            let lost = on.scene.job(&job).await;
            assert_eq!((lost.losses, lost.attempts_spent, lost.interruptions), (losses, 0, 0), "{lost:?}");
        }
        let failed = on.scene.job(&job).await;
        let State::Settled(settlement) = &failed.state else { panic!("{failed:?}") };
        let why = settlement.error.as_ref().expect("a reason");
        assert_eq!((failed.phase(), why.code.as_str()), (Phase::Failed, "took_its_worker_down"));
        assert_eq!(why.message, "4 holders in turn were lost while they ran it");
    });
}

/// A field of a process's status, in KiB (proc(5)).
fn kib(child: &Child, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The processor's time that a process has had, in hundredths of a second (proc(5), `stat`).
fn ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_worker_makes_fourteen_requests_a_minute_at_most_and_has_less_than_thirty_mib() {
    block(async {
        let on = OnEc2::open("cheap", 1, 1).await;
        let proxy = Proxy::start(Settings::new(endpoint())).expect("a proxy on loopback");
        let child = on.worker("600").env("AWS_ENDPOINT_URL", proxy.endpoint()).spawn().unwrap();
        let given_up = Instant::now() + Duration::from_secs(30);
        while on.scene.home.ledger.list().await.unwrap().is_empty() {
            assert!(Instant::now() < given_up, "it is not listed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Its first polls begin.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (mark, before) = (proxy.records().mark(), ticks(&child));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let tally = proxy.records().tally_since(mark);
        let (spent, rss, of_its_own) = (ticks(&child) - before, kib(&child, "VmRSS"), kib(&child, "RssAnon"));
        println!("an idle worker, a minute: {spent}0 ms of a processor, {rss} KiB, of which {of_its_own} KiB its own");
        println!("{}", tally.table());
        tell(&child, Signal::KILL);
        let ended = Ended::after(child).await;
        // Twelve to wait; one to be listed, one for the policies.
        assert!(tally.total().requests <= 14, "{}", tally.table());
        // Of a debug build most is the file itself, which is mapped and as large.
        let counted = if cfg!(debug_assertions) { of_its_own } else { rss };
        assert!(counted < 30 * 1024, "{counted} KiB: {ended:?}");
    });
}
