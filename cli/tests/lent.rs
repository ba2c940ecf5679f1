//! A child of the yard borrows for its run over the socket that it was born with; and whoever is killed, of what it was lent
//! nothing is left.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use switchyard_builtins::builtin;
use switchyard_builtins::system::System;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Job, Phase};
use switchyard_core::lend::{Credential, Issued, Loan, LoanNote, LoanOutcome, LoanQuery, Order, Refused};
use switchyard_core::policies::{Files, Machine, Policies, Shelf};
use switchyard_core::ports::{Ambient, PortError, Vendors};
use switchyard_core::settle;
use switchyard_core::wire;
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;
use tempfile::TempDir;

const CANARY: &str = "canary-77aa";

/// A vendor of one value, which keeps what it revoked.
#[derive(Default)]
struct Vendor(Mutex<Vec<Loan>>);

#[async_trait]
impl Vendors for Vendor {
    async fn issue(&self, _: &Order) -> Result<Issued, Refused> {
        let credential = Credential::Value(format!("{CANARY}-value").into());
        Ok(Issued { credential, expires: None, reference: None, revocable: true })
    }

    async fn revoke(&self, loan: &Loan) -> Result<bool, PortError> {
        self.0.lock().unwrap().push(loan.clone());
        Ok(true)
    }
}

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: borrows
    summary: borrows one value, in a process of its own
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
    route: { only: [fargate] }
    retry: { attempts: 1 }
    borrows: { search: { kind: global, secret: search } }
    may_borrow: [ { kind: global, secret: search } ]
"#;

struct Bench {
    home: Home,
    vendor: Arc<Vendor>,
    root: TempDir,
    out: TempDir,
}

impl Bench {
    async fn open() -> Self {
        let files: Files = [("capabilities.yaml".to_owned(), CATALOG.to_owned())].into();
        let machine = Machine { memory_mib: 4096, milli_vcpu: 4000, containers: false };
        let policies = Policies::parse(&files, builtin::ALL, Some(machine)).unwrap();
        let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let vendor = Arc::new(Vendor::default());
        let folder = switchyard_embedded::folder::Folder::at(root.path()).policies();
        let args = vec!["--policies".to_owned(), folder.display().to_string(), "--no-docker".to_owned()];
        let setup = Setup {
            shelf: Arc::new(Shelf::new(policies)),
            policies: Some(files),
            task: TaskProgram { program: env!("CARGO_BIN_EXE_switchyard").into(), args },
            tasks: 2,
            retention: Duration::from_secs(3600),
            engine: None,
            vendors: Some(Arc::clone(&vendor) as Arc<dyn Vendors>),
        };
        let home = Home::open(root.path(), setup, Arc::new(System)).await.unwrap();
        Self { home, vendor, root, out }
    }

    async fn submit(&self, script: &str) -> Job {
        let yard = &self.home.yard;
        let script = script.replace("OUT", self.out.path().to_str().unwrap());
        let body = json!({ "capability": "borrows", "payload": { "script": script } }).to_string();
        let (submission, digest) = intake::read(body.as_bytes()).unwrap();
        let sender = Sender { caller: "tests", key: None };
        let situation = yard.situation().await;
        let (now, random) = (System.now(), System.random());
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
        intake::accept(yard, vec![prepared]).await.unwrap().remove(0).unwrap().job
    }

    async fn settled(&self, job: &Job) -> Job {
        let mut seen = 0;
        for _ in 0..30 {
            let job = self.home.yard.ledger.watch(job.id, seen, Duration::from_secs(2)).await.unwrap().unwrap();
            if job.is_settled() {
                return job;
            }
            seen = job.revision;
        }
        panic!("the job does not end");
    }

    async fn notes(&self, job: &Job) -> Vec<LoanNote> {
        let query = LoanQuery { job: Some(job.id), limit: 10, ..LoanQuery::default() };
        self.home.yard.ledger.loans(&query).await.unwrap()
    }

    async fn comes(&self, name: &str) -> String {
        for _ in 0..1500 {
            if let Ok(text) = std::fs::read_to_string(self.out.path().join(name)) {
                return text.trim_end().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} does not come");
    }

    /// No file of the yard's, its database and logs included, has a secret in it.
    fn keeps_no_secret(&self) {
        let mut folders = vec![self.root.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let Ok(bytes) = std::fs::read(entry.path()) else { continue };
                files += 1;
                let found = bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
                assert!(!found, "a secret is in {}", entry.path().display());
            }
        }
        assert!(files > 2, "the search has lost its way");
    }
}

/// A script that tells where its credentials are and what it runs in, and waits.
const TELL: &str = r#"
    cp "$SWITCHYARD_CREDENTIALS/search" OUT/search
    echo $PPID >OUT/child
    echo "$SWITCHYARD_CREDENTIALS" >OUT/part && mv OUT/part OUT/folder
"#;

async fn goes(folder: &Path) {
    for _ in 0..1500 {
        if !folder.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} stays", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_borrows_for_its_run_and_gives_back() {
    let bench = Bench::open().await;
    let job = bench.submit(TELL).await;
    let ended = bench.settled(&job).await;
    assert_eq!(ended.phase(), Phase::Succeeded, "{}", wire::encode(&ended));
    assert_eq!(bench.comes("search").await, format!("{CANARY}-value"));
    assert!(!PathBuf::from(bench.comes("folder").await).exists());
    let outcomes: Vec<bool> =
        bench.notes(&job).await.iter().map(|note| matches!(note.outcome, LoanOutcome::Returned { .. })).collect();
    assert_eq!(outcomes, [true, false], "lent, then returned");
    assert_eq!(bench.vendor.0.lock().unwrap().len(), 1);
    bench.keeps_no_secret();
    bench.home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_cancelled_gives_back_what_it_borrowed() {
    let bench = Bench::open().await;
    let job = bench.submit(&format!("{TELL}\nsleep 300")).await;
    let folder = PathBuf::from(bench.comes("folder").await);
    assert!(folder.join("search").exists());
    settle::cancel_job(&bench.home.yard, job.id, "tests").await.unwrap();
    let ended = bench.settled(&job).await;
    assert_eq!(ended.phase(), Phase::Cancelled, "{}", wire::encode(&ended));
    assert!(!folder.exists());
    assert_eq!(bench.vendor.0.lock().unwrap().len(), 1, "and it is revoked");
    bench.keeps_no_secret();
    bench.home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_child_that_is_killed_no_credential_is_left() {
    let bench = Bench::open().await;
    let job = bench.submit(&format!("{TELL}\nsleep 300")).await;
    let folder = PathBuf::from(bench.comes("folder").await);
    let child: i32 = bench.comes("child").await.parse().unwrap();
    assert!(folder.join("search").exists());
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    goes(folder.parent().unwrap()).await;
    let ended = bench.settled(&job).await;
    assert_eq!(ended.phase(), Phase::Failed, "{}", wire::encode(&ended));
    bench.keeps_no_secret();
    bench.home.close().await;
}
