//! A yard in memory whose broker has a vendor of this test's: what it issues is told apart from everything else, so that it can
//! be searched for wherever it must not be.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::execute::{Holding, Runs};
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Holder, Job, Nonce};
use switchyard_core::lend::{Broker, Credential, Issued, Kind, Loan, LoanNote, LoanOutcome, LoanQuery, Order, Refused};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Ambient, Message, PortError, StopSignal, Vendors, Yard};
use switchyard_core::route::Limits;
use switchyard_core::settle::YardDesk;
use switchyard_core::wire;
use switchyard_worker::credentials::Vault;
use switchyard_worker::engine::Engine;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::once;
use switchyard_worker::process::marked;
use switchyard_worker::scratch::Scratch;
use tempfile::TempDir;
use tokio::sync::watch;

/// What every secret of these tests begins with.
pub(crate) const CANARY: &str = "canary-0f3a";

/// Everything that this process logs, at every level.
static LOGGED: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Logged;

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn keep_logs() {
    static KEEPING: Once = Once::new();
    KEEPING.call_once(|| {
        let layer = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        layer.with_writer(|| Logged).init();
    });
}

/// What a vendor does when it is asked.
#[derive(Clone)]
pub(crate) enum Does {
    /// It issues a credential that lasts so long.
    Issues(Duration),
    /// It refuses.
    Refuses(Refused),
    /// It does not answer.
    Hangs,
    /// It issues one of an hour, as soon as the test lets it.
    Waits,
}

/// A vendor of everything.
pub(crate) struct Vendor {
    does: Mutex<VecDeque<Does>>,
    /// How often it was asked.
    asked: watch::Sender<u32>,
    revoked: Mutex<Vec<Loan>>,
    pub(crate) cannot_revoke: bool,
    /// What a vendor that waits, waits for.
    pub(crate) open: watch::Sender<bool>,
}

impl Vendor {
    /// How often it was asked until now.
    pub(crate) fn asked(&self) -> u32 {
        *self.asked.borrow()
    }

    /// Waits until it was asked so often.
    pub(crate) async fn asked_at_least(&self, times: u32) {
        self.asked.subscribe().wait_for(|asked| *asked >= times).await.unwrap();
    }

    fn secret(&self, n: u32, what: &str) -> SecretString {
        SecretString::from(format!("{CANARY}-{what}-{n}"))
    }
}

#[async_trait]
impl Vendors for Vendor {
    async fn issue(&self, order: &Order) -> Result<Issued, Refused> {
        let does = {
            let mut does = self.does.lock().unwrap();
            // The last word stays.
            if does.len() > 1 { does.pop_front() } else { does.front().cloned() }
        };
        let mut n = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            n = *asked;
        });
        let lasts = match does.unwrap_or(Does::Issues(Duration::from_secs(3600))) {
            Does::Issues(lasts) => lasts,
            Does::Refuses(refused) => return Err(refused),
            Does::Hangs => std::future::pending().await,
            Does::Waits => {
                self.open.subscribe().wait_for(|open| *open).await.unwrap();
                Duration::from_secs(3600)
            }
        };
        let credential = match order.scope.kind() {
            Kind::Aws => Credential::Aws {
                access_key_id: format!("ASIA{n:016}"),
                secret_access_key: self.secret(n, "key"),
                session_token: self.secret(n, "session"),
            },
            Kind::Global => Credential::Value(self.secret(n, "value")),
            Kind::Gcloud | Kind::Azure | Kind::Github => Credential::Token(self.secret(n, "token")),
        };
        Ok(Issued {
            credential,
            expires: Some(order.now + lasts),
            reference: Some(format!("reference-{n}")),
            revocable: true,
        })
    }

    async fn revoke(&self, loan: &Loan) -> Result<bool, PortError> {
        if self.cannot_revoke {
            return Err(PortError::permanent("revoke", &loan.scope, "the vendor says no"));
        }
        self.revoked.lock().unwrap().push(loan.clone());
        Ok(true)
    }
}

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: all
    summary: borrows of every kind
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
    retry: { attempts: 3, backoff_seconds: 60 }
    borrows:
      cloud: { kind: aws, role: "arn:aws:iam::123456789012:role/scan" }
      code: { kind: github, owner: example, repositories: [one], permissions: { contents: read } }
      search: { kind: global, secret: search }
    may_borrow: MAY
  - name: one
    summary: borrows one value
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: SECONDS, grace_seconds: 1 }
    retry: { attempts: 3, backoff_seconds: 60 }
    borrows: { search: { kind: global, secret: search } }
    may_borrow: MAY
  - name: several
    summary: borrows two roles
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
    borrows:
      one: { kind: aws, role: "arn:aws:iam::123456789012:role/one" }
      two: { kind: aws, role: "arn:aws:iam::123456789012:role/two" }
    may_borrow: MAY
  - name: sdk
    summary: asks as a program with AWS's SDK does
    run: { command: ["PROGRAM", --exact, sdk::the_sdk, --ignored, --nocapture] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
    borrows: { cloud: { kind: aws, role: "arn:aws:iam::123456789012:role/scan" } }
    may_borrow: MAY
  - name: none
    summary: borrows nothing
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1 }
  - name: container
    summary: borrows in a container
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"], container: { user: 4711 } }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 64 }
    retry: { attempts: 3, backoff_seconds: 60 }
    borrows:
      cloud: { kind: aws, role: "arn:aws:iam::123456789012:role/scan" }
      search: { kind: global, secret: search }
    may_borrow: MAY
"#;

const MAY: &str = r#"[
      { kind: aws, role: "arn:aws:iam::*:role/*" },
      { kind: github, owner: example, repositories: ["*"], permissions: { contents: read },
        app: { app_id: "7", installation_id: 42, key: github/app } },
      { kind: global, secret: "*" } ]"#;

/// A yard, its vendor, and where its one worker keeps what runs are lent.
pub(crate) struct Bench {
    pub(crate) yard: Yard,
    pub(crate) vendor: Arc<Vendor>,
    /// In memory: where folders of credentials are.
    pub(crate) place: TempDir,
    /// Where programs put what the test is to see.
    pub(crate) out: TempDir,
    pub(crate) runs: Runs,
    pub(crate) leave: StopSignal,
    executor: LocalExecutor,
}

/// What one run left.
pub(crate) struct Ended {
    /// The record.
    pub(crate) job: Job,
    /// What the job's log says, line by line.
    pub(crate) log: Vec<String>,
    /// What is on record of loans, oldest first.
    pub(crate) notes: Vec<LoanNote>,
}

impl Ended {
    /// Where it stands, and the failure of its last run.
    pub(crate) fn told(&self) -> String {
        let entries: Vec<String> =
            self.job.timeline.iter().map(|entry| format!("{} {}", entry.reason, entry.detail)).collect();
        format!("{}: {}", self.job.phase(), entries.join(" | "))
    }
}

/// How a bench is set up.
pub(crate) struct Setup {
    /// What the vendor does, one after the other; the last for good.
    pub(crate) does: Vec<Does>,
    /// How long runs of `one` may last.
    pub(crate) seconds: u32,
    /// Whether the vendor fails to revoke.
    pub(crate) cannot_revoke: bool,
    /// Where folders are tried to be made before the place of the test: none of these is in memory.
    pub(crate) places: Option<Vec<PathBuf>>,
    /// The engine and the image of `container`.
    pub(crate) containers: Option<(Engine, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        let does = vec![Does::Issues(Duration::from_secs(3600))];
        Self { does, seconds: 60, cannot_revoke: false, places: None, containers: None }
    }
}

impl Bench {
    pub(crate) fn new(setup: Setup) -> Self {
        keep_logs();
        static YARDS: AtomicU32 = AtomicU32::new(0);
        let name = format!("lent-{}-{}", std::process::id(), YARDS.fetch_add(1, Ordering::Relaxed));
        let program = std::env::current_exe().unwrap();
        let image = setup.containers.as_ref().map_or("none", |(_, image)| image);
        let catalog = CATALOG
            .replace("MAY", MAY)
            .replace("SECONDS", &setup.seconds.to_string())
            .replace("PROGRAM", program.to_str().unwrap())
            .replace("IMAGE", image);
        let catalog = Catalog::parse("catalog.yaml", &catalog, &[], &BTreeMap::new()).unwrap();
        let limits = Limits::default().on_one_machine(4096, 64_000, true);
        let vendor = Arc::new(Vendor {
            does: Mutex::new(setup.does.into()),
            asked: watch::Sender::new(0),
            revoked: Mutex::default(),
            cannot_revoke: setup.cannot_revoke,
            open: watch::Sender::new(false),
        });
        let yard = Yard { ambient: Arc::new(System), ..Memory::new(System.now(), 1).yard(catalog, limits) };
        let broker = Broker { yard: yard.clone(), vendors: Arc::clone(&vendor) as Arc<dyn Vendors> };
        let yard = Yard { lender: Arc::new(broker), ..yard };
        let (place, out) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
        let executor = LocalExecutor {
            shelf: Arc::clone(&yard.shelf),
            scratch: Scratch::new(&out.path().join("scratch"), 0),
            vault: Vault::new(setup.places.unwrap_or_else(|| vec![place.path().to_owned()])),
            yard: name,
            boot: Nonce(1),
            engine: setup.containers.map(|(engine, _)| engine),
            task: None,
            ambient: Arc::new(System),
        };
        Self { yard, vendor, place, out, runs: Runs::default(), leave: StopSignal::default(), executor }
    }

    /// A script finds the test's folder in `$0`.
    pub(crate) async fn script(&self, capability: &str, script: &str) -> Ended {
        let script = script.replace("OUT", self.out.path().to_str().unwrap());
        self.run(capability, json!({ "script": script })).await
    }

    /// Submits a job, runs it once, and holds what is left to what is promised: no folder, no listener, no loan that is not on
    /// record as returned, and no secret anywhere.
    pub(crate) async fn run(&self, capability: &str, payload: Value) -> Ended {
        let body = json!({ "capability": capability, "payload": payload }).to_string();
        let (submission, digest) = intake::read(body.as_bytes()).unwrap();
        let sender = Sender { caller: "tests", key: None };
        let situation = Situation { policies: self.yard.policies(), ..Situation::default() };
        let (now, random) = (System.now(), System.random());
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
        let job = intake::accept(&self.yard, vec![prepared]).await.unwrap().remove(0).unwrap().job;
        let bell = Message::of(&job);
        let desk = YardDesk(self.yard.clone());
        let holder = Holder("tests/1".to_owned());
        let holding = Holding {
            desk: &desk,
            executor: &self.executor,
            blobs: &*self.yard.blobs,
            ambient: &System,
            holder: &holder,
            runs: &self.runs,
        };
        once::run(holding, bell, self.leave.clone(), &self.runs).await.unwrap();
        self.ended(bell).await
    }

    async fn ended(&self, run: Message) -> Ended {
        let job = self.yard.ledger.load(run.id).await.unwrap().unwrap();
        let page = self.yard.logs.read(run.id, "").await.unwrap();
        let query = LoanQuery { job: Some(run.id), limit: 100, ..LoanQuery::default() };
        let mut notes = self.yard.ledger.loans(&query).await.unwrap();
        notes.reverse();
        assert_eq!(self.folders(), Vec::<PathBuf>::new(), "a folder of credentials is left");
        // Also by a process that is sealed: what it started can still be found.
        assert_eq!(marked(&format!("{}:", self.executor.yard)).unwrap(), Vec::<u32>::new(), "a process is left");
        if let Some(uri) = self.seen("uri").filter(|uri| !uri.is_empty()) {
            let address = uri.strip_prefix("http://").unwrap().split('/').next().unwrap();
            assert!(std::net::TcpStream::connect(address).is_err(), "somebody listens still");
        }
        let lent = notes.iter().filter(|note| matches!(note.outcome, LoanOutcome::Lent { .. })).count();
        let returned = notes.iter().filter(|note| matches!(note.outcome, LoanOutcome::Returned { .. })).count();
        if !self.vendor.cannot_revoke {
            assert_eq!(lent, returned, "what was lent is given back: {notes:?}");
            let issued: Vec<Loan> = self.vendor.revoked.lock().unwrap().clone();
            assert_eq!(issued.len(), lent, "and ended at its vendor");
            assert!(!format!("{issued:?}").contains(CANARY));
        }
        let logged = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
        let notes_text: Vec<String> = notes.iter().map(wire::encode_loan_note).collect();
        let log: Vec<String> = page.lines.into_iter().map(|(_, line)| line.text).collect();
        for (what, text) in [
            ("a log of this process", logged.as_str()),
            ("the record", &wire::encode(&job)),
            ("a debugger's view of the record", &format!("{job:?}")),
            ("the records of loans", &notes_text.join("\n")),
            ("the job's log", &log.join("\n")),
        ] {
            let found = text.lines().find(|line| line.contains(CANARY));
            assert_eq!(found, None, "a secret is in {what}");
        }
        Ended { job, log, notes }
    }

    /// The folders of runs that lie in the place now.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let list = |path: &Path| {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        list(self.place.path()).iter().flat_map(|process| list(process)).collect()
    }

    /// What a program put into the test's folder under this name.
    pub(crate) fn seen(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.out.path().join(name)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }

    /// Waits until a program has put something there under this name.
    pub(crate) async fn comes(&self, name: &str) -> String {
        for _ in 0..1500 {
            if let Some(text) = self.seen(name) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} does not come");
    }

    /// Lets a program go on that waits for it.
    pub(crate) fn put(&self, name: &str) {
        std::fs::write(self.out.path().join(name), "").unwrap();
    }
}
