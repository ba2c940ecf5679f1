//! A yard of the real program, asked over a plain socket: what arrives, byte by byte, is what is judged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The catalog of the tests: scripts, on a worker and as a task of their own, and what else is asked for.
const CATALOG: &str = r#"
version: 1
capabilities:
  - name: finding-triage
    summary: the built-in
    run: { builtin: finding-triage }
    input: { $ref: schemas/finding-triage.json }
    needs: { expected_seconds: 1, timeout_seconds: 60, memory_mib: 128 }
    retry: { attempts: 1 }
  - name: sh
    summary: runs a script
    run: { command: [sh, -c, "{{script}}"] }
    input:
      type: object
      required: [script]
      properties: { script: { type: string }, level: { type: integer, maximum: 5 }, filler: {} }
      additionalProperties: false
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 16 }
    retry: { attempts: 1 }
  - name: task
    summary: runs a script as a task
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 16 }
    route: { only: [fargate] }
    retry: { attempts: 1 }
  - name: again
    summary: runs a script up to three times
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 16 }
    retry: { attempts: 3, backoff_seconds: 1, permanent_exits: [3] }
  - name: huge
    summary: needs more memory than there is anywhere
    run: { command: ["true"] }
    needs: { memory_mib: 4000000 }
  - name: environment
    summary: prints its environment
    run: { command: [env] }
"#;

/// A folder with a yard's data and its policies, whether or not a yard runs on it.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { folder };
        let schemas = home.policies().join("schemas");
        std::fs::create_dir_all(&schemas).unwrap();
        std::fs::write(home.policies().join("capabilities.yaml"), CATALOG).unwrap();
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/schemas/finding-triage.json");
        std::fs::copy(original, schemas.join("finding-triage.json")).unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.path().join("policies")
    }

    /// The yard's log: its standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// The program, on this home's data.
    pub(crate) fn switchyard(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SWITCHYARD_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("SWITCHYARD_DATA", self.data()).stdin(Stdio::null());
        command
    }

    /// `switchyard local` as the tests start it.
    pub(crate) fn local(&self) -> Command {
        let mut command = self.switchyard();
        command.args(["local", "--listen", "127.0.0.1:0", "--slots", "8", "--tasks", "4", "--policies"]);
        command.arg(self.policies());
        command
    }

    pub(crate) fn start(&self) -> Yard<'_> {
        self.start_with(|_| {})
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Yard<'_> {
        let mut command = self.local();
        change(&mut command);
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.strip_prefix("The yard is open at http://").and_then(|rest| rest.split_once(' '));
        let address = url.unwrap_or_else(|| panic!("the yard did not open: {line}{}", self.log())).0.to_owned();
        let token = std::fs::read_to_string(self.data().join("token")).unwrap();
        Yard { home: self, child, address, token, _stdout: stdout }
    }
}

/// Reads all of a pipe, in a thread of its own.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        // Read while it runs: a pipe takes 64 KiB, and a shell's completions are longer.
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        // What does not end was to be refused, and was not.
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = child.wait().unwrap().code();
        Self { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    /// What it said on standard error, without the log lines of a yard.
    pub(crate) fn said(&self) -> String {
        let spoken: Vec<&str> = self.stderr.lines().filter(|line| !line.starts_with('{')).collect();
        spoken.join("\n")
    }
}

/// A yard that runs.
pub(crate) struct Yard<'a> {
    pub(crate) home: &'a Home,
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) token: String,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Yard<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Orderly, so that what it runs ends too; and certainly, so that no test leaves a yard.
            self.terminate();
            if self.ended_within(Duration::from_secs(10)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Yard<'_> {
    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }

    /// Stops the yard in order; answers its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.terminate();
        self.ended_within(Duration::from_secs(20)).expect("the yard does not stop")
    }

    /// Its exit code, once it has ended by itself.
    pub(crate) fn ended_within(&mut self, patience: Duration) -> Option<Option<i32>> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status.code());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// One request on a connection of its own, with the token.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_ask(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        let token = format!("Bearer {}", self.token);
        self.send(method, path, &[("authorization", token.as_bytes())], body)
    }

    /// One request on a connection of its own, with these headers. Every byte of it must be taken.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("content-length: {}\r\ncontent-type: application/json\r\n", body.len()));
        }
        let mut head = head.into_bytes();
        for (name, value) in headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&head)?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Answer::parse(&answer)
            .ok_or_else(|| std::io::Error::other(format!("no answer: {:?}", String::from_utf8_lossy(&answer))))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, body.to_string().as_bytes())
    }

    /// Submits a script and answers the job's id.
    pub(crate) fn submit(&self, capability: &str, script: &str) -> String {
        self.submit_more(json!({ "capability": capability, "payload": { "script": script } }))
    }

    pub(crate) fn submit_more(&self, submission: Value) -> String {
        let answer = self.post("/v1/jobs", &submission);
        assert!(answer.status == 202 || answer.status == 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).json()
    }

    /// The job once it has ended.
    pub(crate) fn settled(&self, id: &str) -> Value {
        let job = self.get(&format!("/v1/jobs/{id}?wait=50")).json();
        assert!(!job["settled_at"].is_null(), "it does not end: {job}\n{}", self.home.log());
        job
    }

    /// The job once it runs.
    pub(crate) fn running(&self, id: &str) -> Value {
        eventually("it runs", || Some(self.job(id)).filter(|job| job["state"] == "running"))
    }

    /// Every job there is, by id and revision-bearing state.
    pub(crate) fn jobs(&self) -> Vec<(String, String)> {
        let page = self.get("/v1/jobs?limit=500").json();
        let text = |job: &Value, name: &str| job[name].as_str().unwrap().to_owned();
        page["jobs"].as_array().unwrap().iter().map(|job| (text(job, "id"), text(job, "state"))).collect()
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self { status, headers, body: body.to_owned() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits until `look` finds something: ten seconds at most.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
