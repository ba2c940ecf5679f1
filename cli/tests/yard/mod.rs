//! A yard under test: the real program, in a folder of its own, started, stopped and killed from outside.

pub(crate) mod client;
pub(crate) mod chance;
pub(crate) mod witness;

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use client::{Client, Door};
use witness::Witness;

/// How long a yard may take to open or to close before a test gives up. Long: other builds share the processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// A yard, and everything it is made of.
pub(crate) struct Yard {
    root: TempDir,
    process: Option<Child>,
    door: Arc<Door>,
    /// What it has from its next start on.
    pub(crate) slots: u16,
    tasks: u16,
    /// Options besides.
    pub(crate) more: Vec<&'static str>,
    /// Variables of its environment besides.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

impl Yard {
    /// A folder for a yard with `slots` and `tasks` at once, and the catalog of [`witness`]. Nothing runs yet.
    pub(crate) fn new(slots: u16, tasks: u16) -> Self {
        let root = tempfile::Builder::new().prefix("yard-").tempdir().unwrap();
        witness::write_catalog(&root.path().join("policies"));
        let (more, environment) = (Vec::new(), Vec::new());
        Self { root, process: None, door: Arc::default(), slots, tasks, more, environment }
    }

    /// The same, open.
    pub(crate) fn open(slots: u16, tasks: u16) -> Self {
        let mut yard = Self::new(slots, tasks);
        yard.start();
        yard
    }

    /// The yard's own folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// The folder with the catalog.
    pub(crate) fn policies(&self) -> PathBuf {
        self.root.path().join("policies")
    }

    /// What the jobs wrote down.
    pub(crate) fn witness(&self) -> Witness {
        Witness::at(&self.root.path().join("policies"))
    }

    /// The process that is open.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the yard runs").id()
    }

    /// A client of this yard, whichever process of it is open.
    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::clone(&self.door))
    }

    /// `switchyard local` on this yard's folder, not started.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command
            .args(["local", "--listen", "127.0.0.1:0", "--slots", &self.slots.to_string()])
            .args(["--tasks", &self.tasks.to_string(), "--data"])
            .arg(self.data())
            .arg("--policies")
            .arg(self.root.path().join("policies"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            // A signal to the test's group is not one to the yard.
            .process_group(0);
        for name in
            ["SWITCHYARD_DATA", "SWITCHYARD_URL", "SWITCHYARD_TOKEN", "SWITCHYARD_LISTEN", "SWITCHYARD_POLICIES"]
        {
            command.env_remove(name);
        }
        command.args(&self.more).envs(self.environment.iter().copied());
        command
    }

    /// Starts the yard and waits until it answers: how long that took.
    pub(crate) fn start(&mut self) -> Duration {
        assert!(self.process.is_none(), "the yard runs already");
        let endpoint = self.data().join("endpoint");
        // What a killed process left would be taken for the new one's.
        let _ = fs::remove_file(&endpoint);
        let log = OpenOptions::new().create(true).append(true).open(self.root.path().join("log")).unwrap();
        let began = Instant::now();
        self.process = Some(self.command().stdout(Stdio::null()).stderr(log).spawn().unwrap());
        loop {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none(), "the yard ended instead of opening ({ended:?}):\n{}", self.log_end());
            if let (Ok(url), Ok(token)) = (fs::read_to_string(&endpoint), fs::read_to_string(self.data().join("token")))
                && client::is_healthy(&url)
            {
                self.door.open(url, token);
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "the yard does not open:\n{}", self.log_end());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the process as a power cut would end the program.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("the yard runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Asks the process to close, and waits: its exit and how long it took.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut process = self.process.take().expect("the yard runs");
        let began = Instant::now();
        signal(process.id(), Signal::TERM);
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return (status, began.elapsed());
            }
            if began.elapsed() > PATIENCE {
                process.kill().unwrap();
                process.wait().unwrap();
                panic!("the yard did not close after SIGTERM:\n{}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes the yard, and checks that it leaves nothing behind but what it keeps.
    pub(crate) fn close_and_leave_nothing(&mut self) -> Duration {
        let (status, took) = self.terminate();
        assert_eq!(status.code(), Some(0), "a yard that is asked to close ends well:\n{}", self.log_end());
        assert_eq!(self.processes(), Vec::<String>::new(), "processes outlive their yard");
        assert!(!self.data().join("endpoint").exists(), "a closed yard has no endpoint");
        let scratch: Vec<_> = fs::read_dir(self.data().join("scratch")).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(scratch.is_empty(), "left in scratch: {scratch:?}");
        let sound: String =
            self.database().query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("the check runs");
        assert_eq!(sound, "ok");
        took
    }

    /// A second process on the same folder, to its end.
    pub(crate) fn second(&self) -> Output {
        let mut second = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while second.try_wait().unwrap().is_none() {
            if began.elapsed() > PATIENCE {
                second.kill().unwrap();
                second.wait().unwrap();
                panic!("a second yard opened on the folder of the first");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        second.wait_with_output().unwrap()
    }

    /// The database, read from outside.
    pub(crate) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.data().join("yard.db")).unwrap()
    }

    /// The announced settlements.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.data().join("events.ndjson")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an event is a whole line of JSON")).collect()
    }

    /// Every process that runs for this yard, besides the yard itself: it names the folder in its environment or its
    /// arguments, or carries the yard's mark.
    pub(crate) fn processes(&self) -> Vec<String> {
        let id: String = self
            .database()
            .query_row("SELECT value FROM yard WHERE name = 'id'", [], |row| row.get(0))
            .expect("a yard that was open has an id");
        let mark = format!("SWITCHYARD_RUN={id}:");
        let own = self.process.as_ref().map(Child::id);
        every_process()
            .filter(|process| Some(process.pid) != own)
            .filter(|process| process.says(&mark) || process.says(&self.root.path().display().to_string()))
            .map(|process| format!("{} {}", process.pid, process.arguments.replace('\0', " ")))
            .collect()
    }

    /// The `switchyard worker --once` that runs this job now.
    pub(crate) fn worker_of(&self, job: &str) -> u32 {
        let arguments = format!("worker\0--once\0--job\0{job}\0");
        eventually("a worker for the job", || {
            every_process().find(|process| process.arguments.contains(&arguments)).map(|process| process.pid)
        })
    }

    /// The end of what the yard logged.
    pub(crate) fn log_end(&self) -> String {
        let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let root = self.root.path().display().to_string();
        // More than once: what is about to start a process, or is in the middle of an exec, shows at the next look.
        for _ in 0..5 {
            for process in every_process().filter(|process| process.says(&root)) {
                signal(process.pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            self.root.disable_cleanup(true);
            eprintln!("the yard's folder and log are kept in {root}");
        }
    }
}

struct Process {
    pid: u32,
    arguments: String,
    environment: String,
}

impl Process {
    fn says(&self, text: &str) -> bool {
        self.arguments.contains(text) || self.environment.contains(text)
    }
}

/// What /proc shows of every process that is not a zombie.
fn every_process() -> impl Iterator<Item = Process> {
    let read = |pid: u32, what: &str| {
        let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join(what)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    fs::read_dir("/proc").unwrap().filter_map(move |entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Some(Process { pid, arguments: read(pid, "cmdline")?, environment: read(pid, "environ")? })
    })
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process is there and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).is_ok_and(|environ| !environ.is_empty())
}

/// Waits for what must come.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
