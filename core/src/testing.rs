//! Values that tests of several rooms start from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::catalog::Catalog;
use crate::job::{ClaimToken, Epoch, Holder, Job, JobId, Nonce, State, Work};
use crate::policies::{Policies, Situation};
use crate::ports::Claim;
use crate::route::{Choice, Limits, Needs, Packaging, Place, PoolName, Route, Venue, Verdicts};

/// The moment `seconds` after the start of time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

/// The place of a venue; of the fleet, the standard pool.
pub(crate) fn place_of(venue: Venue) -> Place {
    match venue {
        Venue::Inline => Place::Inline,
        Venue::Function => Place::Function,
        Venue::Fargate => Place::Fargate,
        Venue::Fleet => Place::Fleet(PoolName::STANDARD),
    }
}

/// A catalog with the capability of [`a_job`], and what it may have at once.
fn catalog(concurrent: Option<u16>) -> Catalog {
    let limits = concurrent.map(|most| format!("    limits: {{ concurrent: {most} }}\n")).unwrap_or_default();
    let text = format!(
        "version: 1\ncapabilities:\n  - name: file-digest\n    summary: a test's\n    run: {{ command: [echo] }}\n{limits}"
    );
    Catalog::parse("tests.yaml", &text, &[], &BTreeMap::new()).unwrap()
}

impl From<Limits> for Situation {
    /// No workers, no pauses, the capability of [`a_job`] without a limit, and these limits of the venues.
    fn from(limits: Limits) -> Self {
        let policies = Policies { catalog: catalog(None), limits, ..Policies::default() };
        Self { policies: Arc::new(policies), ..Self::default() }
    }
}

/// One machine on which the capability of [`a_job`] may have so many at once.
pub(crate) fn limited(concurrent: Option<u16>) -> Situation {
    let policies = Policies { catalog: catalog(concurrent), limits: Limits::one_machine(8192), ..Policies::default() };
    Situation { policies: Arc::new(policies), ..Situation::default() }
}

/// A job of a command, dispatched to `venue` at epoch 1.
pub(crate) fn a_job(venue: Venue) -> Job {
    let mut job = Job {
        id: JobId::keyed("tests", "one"),
        work: Work {
            capability: "file-digest".into(),
            tier: crate::job::Tier::Standard,
            labels: vec![("team".into(), "blue".into())],
            caller: "tests".into(),
            key: Some("one".into()),
            body_sha256: [5; 32],
            run_timeout: Duration::from_secs(3600),
            start_deadline: None,
            attempts: 3,
            backoff: Duration::from_secs(10),
            announce: false,
            needs: Needs {
                packaging: Packaging::Command,
                expected: None,
                memory_mib: 512,
                milli_vcpu: 250,
                docker: false,
                privileged: false,
                network_tools: false,
                static_address: false,
                isolate: false,
                interruptible: true,
                only: vec![],
                prefer: vec![],
            },
            trace: None,
        },
        state: State::Dispatched { at: at(0), looks: 0 },
        epoch: Epoch(1),
        attempts_spent: 0,
        attempts_allowed: 3,
        interruptions: 0,
        losses: 0,
        launch_failures: 0,
        route: Route { place: place_of(venue), choice: Choice::Cheapest, verdicts: Verdicts::new() },
        permit: None,
        aged: 0,
        spent_nanodollars: 0,
        timeline: vec![],
        created: at(0),
        due: Some(at(60)),
        owed: vec![],
        revision: 1,
        nonce: Nonce(1),
    };
    job.note(None, at(0), "accepted", venue.to_string());
    job
}

/// The claim of holder `n` for a job at its epoch.
pub(crate) fn a_claim(job: &Job, n: u8) -> Claim {
    Claim {
        id: job.id,
        epoch: job.epoch,
        holder: Holder::new(&format!("worker-{n}"), Nonce(u64::from(n))),
        token: ClaimToken::new([n; 32]).hash(),
        at_most: None,
        room: None,
    }
}

/// The same job, claimed by holder `n`.
pub(crate) fn a_running_job(venue: Venue, n: u8) -> Job {
    let job = a_job(venue);
    crate::execute::claim(&job, &a_claim(&job, n), &limited(None), at(0)).unwrap()
}
