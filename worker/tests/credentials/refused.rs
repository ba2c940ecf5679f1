//! What becomes of a run that is not lent what it needs.

use std::path::PathBuf;
use std::time::Duration;

use switchyard_core::job::Phase;
use switchyard_core::lend::{Refused, RefusedCode};

use crate::bench::{Bench, Does, Setup};

fn refuses(code: RefusedCode) -> Does {
    Does::Refuses(Refused::new(code, "the vendor's own reason"))
}

#[tokio::test]
async fn a_refusal_for_good_fails_the_job_and_its_program_never_starts() {
    for code in [RefusedCode::VendorRefused, RefusedCode::SecretMissing] {
        let bench = Bench::new(Setup { does: vec![refuses(code)], ..Setup::default() });
        let ended = bench.script("all", "touch OUT/ran").await;
        assert_eq!(ended.job.phase(), Phase::Failed, "{}", ended.told());
        assert_eq!(bench.seen("ran"), None);
        let told = ended.told();
        assert!(told.contains("loan_refused") && told.contains("the vendor's own reason"), "{told}");
        assert_eq!(bench.vendor.asked(), 3, "each was asked for once");
    }
}

#[tokio::test]
async fn a_vendor_that_is_down_for_a_moment_costs_nothing() {
    let does = vec![
        refuses(RefusedCode::VendorDown),
        refuses(RefusedCode::VendorAnswer),
        Does::Issues(Duration::from_secs(3600)),
    ];
    let bench = Bench::new(Setup { does, ..Setup::default() });
    let ended = bench.script("one", "exit 0").await;
    assert_eq!((ended.job.phase(), bench.vendor.asked()), (Phase::Succeeded, 3), "{}", ended.told());
}

#[tokio::test]
async fn a_vendor_that_stays_down_costs_an_attempt_and_the_job_comes_again() {
    let bench = Bench::new(Setup { does: vec![refuses(RefusedCode::VendorDown)], ..Setup::default() });
    let ended = bench.script("one", "touch OUT/ran").await;
    assert_eq!((ended.job.phase(), ended.job.attempts_spent), (Phase::Delayed, 1), "{}", ended.told());
    assert_eq!((bench.seen("ran"), bench.vendor.asked()), (None, 6));
}

#[tokio::test]
async fn without_a_folder_in_memory_nothing_is_borrowed() {
    let places = Some(vec![PathBuf::from("/proc"), PathBuf::from("/nowhere")]);
    let bench = Bench::new(Setup { places, ..Setup::default() });
    let ended = bench.script("all", "touch OUT/ran").await;
    let told = ended.told();
    assert_eq!((ended.job.phase(), bench.seen("ran"), bench.vendor.asked()), (Phase::Delayed, None, 0), "{told}");
    assert!(told.contains("no_credentials_folder") && told.contains("/proc is not in memory"), "{told}");
}

#[tokio::test]
async fn a_loan_that_ends_and_is_not_renewed_is_taken_away_and_said_so_once() {
    let lasts = Does::Issues(Duration::from_secs(3));
    for (then, again) in [(RefusedCode::VendorRefused, false), (RefusedCode::VendorDown, true)] {
        let mut does = vec![lasts.clone(), refuses(then)];
        if again {
            // It is down until the loan is over, and some more.
            does.extend([refuses(then), refuses(then), refuses(then), Does::Issues(Duration::from_secs(3600))]);
        }
        let bench = Bench::new(Setup { does, ..Setup::default() });
        let script = "file=\"$SWITCHYARD_CREDENTIALS/search\"; while [ -e \"$file\" ]; do sleep 0.02; done";
        let script = if again {
            format!("{script}; until [ -e \"$file\" ]; do sleep 0.02; done; sleep 0.1")
        } else {
            script.to_owned()
        };
        let ended = bench.script("one", &script).await;
        assert_eq!(ended.job.phase(), Phase::Succeeded, "the run goes on: {}", ended.told());
        let said = format!("loan `search` has ended, and is not renewed: the vendor's own reason ({then})");
        let mut expected = vec![said];
        if again {
            expected.push("loan `search` is lent again".to_owned());
        }
        assert_eq!(ended.log, expected);
    }
}
