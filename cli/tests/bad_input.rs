//! Bad input of every kind, at every door: each is refused with a status, a stable code and a message that says what
//! to do, and nothing is stored, lost or stopped by it.
//!
//! Every message that a user can meet here is in one snapshot, to be read as a user would.

mod common_bad;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common_bad::{Answer, Ended, Home, Yard, eventually};
use serde_json::{Value, json};

/// What is told, case by case.
struct Told<'a> {
    home: &'a Home,
    cases: Vec<String>,
}

impl<'a> Told<'a> {
    fn new(home: &'a Home, title: &str) -> Self {
        Self { home, cases: vec![format!("== {title}")] }
    }

    /// An HTTP request that must be refused: a problem document (RFC 9457) whose parts agree.
    fn problem(&mut self, case: &str, answer: &Answer, status: u16, code: &str) -> String {
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{case}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{case}");
        assert_eq!(problem["code"], code, "{case}: {answer:?}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{case}");
        let detail = problem["detail"].as_str().unwrap().to_owned();
        assert!(!detail.is_empty() && detail.len() < 1000, "{case}: {detail}");
        self.cases.push(format!("{case}\n    {status} {code}: {}", redacted(&detail, self.home)));
        detail
    }

    /// A command that must fail with this exit code, one line on standard error and nothing on standard output.
    fn failure(&mut self, case: &str, ended: &Ended, code: i32) -> String {
        assert_eq!(ended.code, Some(code), "{case}: {ended:?}");
        assert_eq!(ended.stdout, "", "{case}");
        let said = ended.said();
        assert!(said.starts_with("switchyard: ") && said.lines().count() == 1, "{case}: {said}");
        self.cases.push(format!("{case}\n    exit {code}: {}", redacted(&said, self.home)));
        said
    }

    fn text(self) -> String {
        self.cases.join("\n")
    }
}

/// Runs a command of the tool to its end.
fn run(home: &Home, args: &[&str]) -> Ended {
    Ended::of(home.switchyard().args(args))
}

/// `text` without what differs from run to run: ids, ports and this home's paths.
fn redacted(text: &str, home: &Home) -> String {
    let text = text.replace(&home.path().display().to_string(), "[home]");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let word = &rest[start..];
        let length = word.find(|c: char| !c.is_ascii_hexdigit() && c != '-').unwrap_or(word.len());
        out.push_str(&rest[..start]);
        let word = &word[..length];
        let is_id = length == 36 && word.bytes().filter(|byte| *byte == b'-').count() == 4;
        // The example that a message gives stays.
        out.push_str(if is_id && word != "01890a5d-ac96-774b-bcce-b302099a8057" { "[id]" } else { word });
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    let mut parts = out.split("127.0.0.1:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("127.0.0.1:[port]");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// All lines of a job's log, as (stream, text).
fn log_of(yard: &Yard<'_>, id: &str) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = yard.get(&format!("/v1/jobs/{id}/logs?cursor={cursor}")).json();
        for line in page["lines"].as_array().unwrap() {
            lines.push((line["stream"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned()));
        }
        if page["done"] == true {
            return lines;
        }
        cursor = page["next"].as_str().unwrap().to_owned();
    }
}

#[test]
fn every_refusal_says_what_is_wrong_and_changes_nothing() {
    let texts = std::thread::scope(|scope| {
        let parts = [
            scope.spawn(submissions),
            scope.spawn(callers_and_paths),
            scope.spawn(jobs_that_stand_elsewhere),
            scope.spawn(commands_of_the_tool),
            scope.spawn(yards_that_do_not_open),
            scope.spawn(a_database_that_others_hold),
        ];
        parts.map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    insta::assert_snapshot!(texts.join("\n\n"));
}

fn submissions() -> String {
    let home = Home::new();
    let yard = home.start();
    let mut told = Told::new(&home, "submissions");
    let ok = r#"{"capability":"sh","payload":{"script":"true"}"#;
    let more = |field: &str| format!("{ok},{field}}}");
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("malformed JSON", "{\n  \"capability\": \"sh\",\n  \"payload\": {\n".to_owned(), 400, "not_json"),
        ("empty body", String::new(), 400, "not_json"),
        ("JSON with a comma too many", "{\"capability\":\"sh\",}".to_owned(), 400, "not_json"),
        ("nested 200 deep", more(&format!("\"x\":{}{}", "[".repeat(200), "]".repeat(200))), 400, "not_json"),
        ("a number out of range", more("\"delay_seconds\":1e999"), 400, "not_json"),
        ("a list", "[]".to_owned(), 422, "invalid_field"),
        ("a text", "\"sh\"".to_owned(), 422, "invalid_field"),
        ("unknown capability", r#"{"capability":"shh"}"#.to_owned(), 422, "unknown_capability"),
        ("no capability", r#"{"payload":{}}"#.to_owned(), 422, "invalid_field"),
        ("unknown field", more("\"prioritty\":\"high\""), 422, "invalid_field"),
        ("unknown tier", more("\"tier\":\"fast\""), 422, "invalid_field"),
        ("wrong type", r#"{"capability":7}"#.to_owned(), 422, "invalid_field"),
        ("wrong type, deeper", more("\"labels\":{\"team\":7}"), 422, "invalid_field"),
        ("negative seconds", more("\"delay_seconds\":-1"), 422, "invalid_field"),
        ("half a second", more("\"delay_seconds\":0.5"), 422, "invalid_field"),
        ("no delay at all", more("\"delay_seconds\":0"), 422, "invalid_field"),
        ("a delay of two years", more("\"delay_seconds\":63072000"), 422, "invalid_field"),
        ("longer than its capability", more("\"run_timeout_seconds\":61"), 422, "invalid_field"),
        ("expired before it starts", more("\"delay_seconds\":9,\"start_within_seconds\":9"), 422, "invalid_field"),
        ("a label with =", more("\"labels\":{\"a=b\":\"c\"}"), 422, "invalid_field"),
        ("a label with a line end", more("\"labels\":{\"a\":\"b\\nc\"}"), 422, "invalid_field"),
        ("payload missing a field", r#"{"capability":"sh"}"#.to_owned(), 422, "invalid_payload"),
        (
            "payload of a wrong type",
            r#"{"capability":"sh","payload":{"script":["hunter2"]}}"#.to_owned(),
            422,
            "invalid_payload",
        ),
        (
            "payload over a limit",
            r#"{"capability":"sh","payload":{"script":"true","level":999777}}"#.to_owned(),
            422,
            "invalid_payload",
        ),
        (
            "payload with a field too many",
            r#"{"capability":"sh","payload":{"script":"true","password":"hunter2"}}"#.to_owned(),
            422,
            "invalid_payload",
        ),
        (
            "payload that would become an option",
            r#"{"capability":"sh","payload":{"script":"-hunter2"}}"#.to_owned(),
            422,
            "invalid_payload",
        ),
        (
            "payload with a NUL for an argument",
            r#"{"capability":"sh","payload":{"script":"hunter2\u0000"}}"#.to_owned(),
            422,
            "invalid_payload",
        ),
        (
            "payload over 1 MiB",
            format!(r#"{{"capability":"sh","payload":{{"script":"true","filler":"{}"}}}}"#, "x".repeat(1024 * 1024)),
            413,
            "payload_too_large",
        ),
        ("no venue is large enough", r#"{"capability":"huge"}"#.to_owned(), 422, "no_feasible_venue"),
    ];
    for (case, body, status, code) in &cases {
        let answer = yard.ask("POST", "/v1/jobs", body.as_bytes());
        let detail = told.problem(case, &answer, *status, code);
        assert!(!detail.contains("hunter2") && !detail.contains("999777"), "{case} repeats the payload: {detail}");
        if *code == "not_json" {
            assert!(detail.contains("line ") && detail.contains("column "), "{case}: {detail}");
        }
    }
    let answer = yard.ask("POST", "/v1/jobs", b"{\"capability\":\"\xff\"}");
    told.problem("not UTF-8", &answer, 400, "not_json");
    // Taken to its end, so that the answer is not lost in a reset connection. Both ways of sending a body.
    for megabytes in [2, 8] {
        let answer = yard.ask("POST", "/v1/jobs", &vec![b' '; megabytes * 1024 * 1024]);
        told.problem(&format!("a body of {megabytes} MiB"), &answer, 413, "body_too_large");
    }
    told.problem("a body of 3 MiB in chunks", &in_chunks(&yard, 3), 413, "body_too_large");
    let answer = yard.send("POST", "/v1/jobs", &[], &vec![b' '; 2 * 1024 * 1024]).unwrap();
    told.problem("a body of 2 MiB without a token", &answer, 401, "unauthorized");
    let token = format!("Bearer {}", yard.token);
    let with_key = |key: &[u8], body: &str| {
        let headers: [(&str, &[u8]); 2] = [("authorization", token.as_bytes()), ("idempotency-key", key)];
        yard.send("POST", "/v1/jobs", &headers, body.as_bytes()).unwrap()
    };
    let body = format!("{ok}}}");
    told.problem("an empty key", &with_key(b"", &body), 400, "invalid_idempotency_key");
    told.problem("a key of 256 bytes", &with_key(&[b'k'; 256], &body), 400, "invalid_idempotency_key");
    told.problem("a key that is not ASCII", &with_key("schlüssel".as_bytes(), &body), 400, "invalid_idempotency_key");
    assert_eq!(yard.jobs(), [], "nothing of all this was stored");
    assert_eq!(blobs(&home), 0);

    let first = with_key(b"monday", &body).json();
    let id = first["id"].as_str().unwrap();
    let other = body.replace("true", "false");
    told.problem("a key that was used", &with_key(b"monday", &other), 422, "idempotency_key_reused");
    let large = format!(r#"{{"capability":"sh","payload":{{"script":"true","filler":"{}"}}}}"#, "x".repeat(70_000));
    let answer = with_key(b"monday", &large);
    assert_eq!(answer.status, 422, "{answer:?}");
    assert_eq!(yard.settled(id)["state"], "succeeded");
    let again = with_key(b"monday", &body);
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(yard.jobs(), [(id.to_owned(), "succeeded".to_owned())]);

    let events = [
        ("an event that is not JSON", "{", 400, "not_json"),
        ("an event that is a list", "[{}]", 422, "not_an_event"),
        ("an event that is null", "null", 422, "not_an_event"),
    ];
    for (case, body, status, code) in events {
        told.problem(case, &yard.ask("POST", "/v1/events", body.as_bytes()), status, code);
    }
    let unknown = yard.post("/v1/events", &json!({ "source": "my.app", "detail-type": "Order", "detail": {} }));
    assert_eq!((unknown.status, &unknown.json()["reading"]), (200, &json!("unknown")), "{unknown:?}");
    assert_eq!(yard.jobs().len(), 1);
    assert!(!home.log().contains("panicked"), "{}", home.log());
    told.text()
}

/// POSTs so many MiB with `transfer-encoding: chunked`.
fn in_chunks(yard: &Yard<'_>, megabytes: usize) -> Answer {
    let token = format!("Bearer {}", yard.token);
    let mut chunked = Vec::new();
    for _ in 0..megabytes * 16 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let mut stream = TcpStream::connect(&yard.address).unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&chunked).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer::parse(&answer).unwrap()
}

fn blobs(home: &Home) -> usize {
    std::fs::read_dir(home.data().join("blobs")).unwrap().count()
}

fn callers_and_paths() -> String {
    let home = Home::new();
    let yard = home.start();
    let mut told = Told::new(&home, "callers, paths and parameters");
    let body = br#"{"capability":"sh","payload":{"script":"true"}}"#;
    type Headers<'a> = Vec<(&'a str, &'a [u8])>;
    let wrong: Vec<(&str, Headers<'_>)> = vec![
        ("no token", vec![]),
        ("a wrong token", vec![("authorization", b"Bearer 0000")]),
        ("an empty token", vec![("authorization", b"Bearer ")]),
        ("another scheme", vec![("authorization", b"Basic dXNlcjpwYXNz")]),
        ("a token that is not ASCII", vec![("authorization", b"Bearer \xe9\xff")]),
    ];
    for (case, headers) in &wrong {
        let answer = yard.send("POST", "/v1/jobs", headers, body).unwrap();
        told.problem(case, &answer, 401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{case}");
        for path in ["/v1/jobs", "/v1/capabilities", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057"] {
            assert_eq!(yard.send("GET", path, headers, b"").unwrap().status, 401, "{case}: {path}");
        }
    }
    assert_eq!(yard.send("GET", "/health", &[], b"").unwrap().status, 200);
    for path in ["/", "/v1", "/v2/jobs", "/v1/jobs/", "/v1/jobs/x/y/z", "/health/x"] {
        told.problem(&format!("GET {path}"), &yard.get(path), 404, "no_such_route");
    }
    for (method, path, allowed) in [
        ("PUT", "/v1/jobs", "GET,HEAD,POST"),
        ("DELETE", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057", "GET,HEAD"),
        ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/cancel", "POST"),
        ("GET", "/v1/events", "POST"),
        ("POST", "/health", "GET,HEAD"),
    ] {
        let answer = yard.ask(method, path, b"");
        told.problem(&format!("{method} {path}"), &answer, 405, "method_not_allowed");
        let mut names: Vec<&str> = answer.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        names.sort_unstable();
        assert_eq!(names.join(","), allowed, "{method} {path} (RFC 9110, section 15.5.6)");
    }
    let unknown = "01890a5d-ac96-774b-bcce-000000000000";
    for (method, verb) in [
        ("GET", ""),
        ("GET", "/timeline"),
        ("GET", "/logs"),
        ("GET", "/result"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ] {
        let answer = yard.ask(method, &format!("/v1/jobs/abc{verb}"), b"");
        told.problem(&format!("{method} [a bad id]{verb}"), &answer, 400, "invalid_parameter");
        let answer = yard.ask(method, &format!("/v1/jobs/{unknown}{verb}"), b"");
        told.problem(&format!("{method} [an unknown id]{verb}"), &answer, 404, "no_such_job");
    }
    let not_text = yard.get("/v1/jobs/%ff");
    told.problem("GET [an id that is not UTF-8]", &not_text, 400, "invalid_parameter");
    told.problem("GET [an id of control characters]", &yard.get("/v1/jobs/%1b%5b2J%0a"), 400, "invalid_parameter");
    for query in [
        "wait=999",
        "wait=-1",
        "wait=soon",
        "limit=0",
        "limit=501",
        "limit=many",
        "state=done",
        "label=team",
        "since=yesterday",
        "since=2026-01-31",
        "cursor=garbage",
        "cursor=12.x",
        "cursor=99999999999999999999.01890a5d-ac96-774b-bcce-b302099a8057",
        "%ff=%ff",
        "stat=failed",
        "%1b%5b2J=1",
    ] {
        let path = if query.starts_with("wait") { format!("/v1/jobs/{unknown}") } else { "/v1/jobs".to_owned() };
        let answer = yard.get(&format!("{path}?{query}"));
        told.problem(&format!("GET {path}?{query}"), &answer, 400, "invalid_parameter");
    }
    let answer = yard.ask("POST", "/v1/jobs?wait=999", body);
    told.problem("POST /v1/jobs?wait=999", &answer, 400, "invalid_parameter");
    assert_eq!(yard.jobs(), [], "a submission with a bad parameter is not taken");

    let id = yard.submit("sh", "echo 'a line of text — with a dash'; echo two");
    yard.settled(&id);
    for cursor in ["garbage", "1.18446744073709551615", "1.99999999", "4294967295.0", "9999999999.1", "-1.-1", "1"] {
        let answer = yard.get(&format!("/v1/jobs/{id}/logs?cursor={cursor}"));
        assert!(answer.status == 200 || answer.status == 400, "{cursor}: {answer:?}");
    }
    for offset in 0..120 {
        let answer = yard.get(&format!("/v1/jobs/{id}/logs?cursor=1.{offset}"));
        assert_eq!(answer.status, 200, "an offset within a character: {answer:?}");
    }
    assert!(!home.log().contains("panicked"), "{}", home.log());
    told.text()
}

fn jobs_that_stand_elsewhere() -> String {
    let home = Home::new();
    let yard = home.start();
    let mut told = Told::new(&home, "jobs that stand where it cannot be done");
    let done = yard.submit("sh", "true");
    let failed = yard.submit("sh", "echo 'no such thing' >&2; exit 4");
    let running = yard.submit("sh", "sleep 50");
    let delayed =
        yard.submit_more(json!({ "capability": "sh", "payload": { "script": "true" }, "delay_seconds": 3600 }));
    assert_eq!(yard.settled(&done)["state"], "succeeded");
    assert_eq!(yard.settled(&failed)["state"], "failed");
    yard.running(&running);
    let before = yard.jobs();
    let mut conflict = |case: &str, id: &str, verb: &str| {
        let answer = yard.ask("POST", &format!("/v1/jobs/{id}/{verb}"), b"");
        told.problem(case, &answer, 409, "conflict");
    };
    conflict("cancel of a succeeded job", &done, "cancel");
    conflict("cancel of a failed job", &failed, "cancel");
    conflict("retry of a succeeded job", &done, "retry");
    conflict("retry of a running job", &running, "retry");
    conflict("retry of a delayed job", &delayed, "retry");
    for (case, id) in [
        ("result of a succeeded job that made none", &done),
        ("result of a failed job", &failed),
        ("result of a running job", &running),
        ("result of a delayed job", &delayed),
    ] {
        told.problem(case, &yard.get(&format!("/v1/jobs/{id}/result")), 404, "no_result");
    }
    assert_eq!(yard.jobs(), before, "a refusal moves no job");
    let cancelled = yard.ask("POST", &format!("/v1/jobs/{running}/cancel"), b"");
    assert_eq!(cancelled.status, 202);
    assert_eq!(yard.settled(&running)["state"], "cancelled");
    let answer = yard.ask("POST", &format!("/v1/jobs/{running}/cancel"), b"");
    told.problem("cancel of a cancelled job", &answer, 409, "conflict");
    told.text()
}

fn commands_of_the_tool() -> String {
    let home = Home::new();
    let mut told = Told::new(&home, "commands of the tool");
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = file("broken.json", "{\n  \"source\": aws\n}");
    let list = file("list.json", "[]");
    let large = file("large.json", &format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024)));
    let unknown = file("unknown.json", r#"{"source":"my.app","detail-type":"Order","detail":{}}"#);
    let missing = home.path().join("missing.json").display().to_string();
    for (case, path) in [
        ("an event file that is missing", &missing),
        ("an event file that is a folder", &home.path().display().to_string()),
        ("an event file that is not JSON", &broken),
        ("an event file that is no object", &list),
        ("an event file over 1 MiB", &large),
    ] {
        told.failure(case, &run(&home, &["replay", path]), 2);
    }
    let ended = run(&home, &["replay", &unknown]);
    assert_eq!((ended.code, ended.stdout.contains("0 jobs; nothing was submitted")), (Some(0), true), "{ended:?}");

    for args in [
        &["jobs"][..],
        &["job", "x"],
        &["submit", "sh"],
        &["capabilities"],
        &["logs", "x"],
        &["result", "x"],
        &["cancel", "x"],
        &["retry", "x"],
        &["replay", "--submit", &unknown],
    ] {
        let ended = run(&home, args);
        assert_eq!(ended.code, Some(5), "{args:?}: {ended:?}");
    }
    told.failure("no yard was ever started", &run(&home, &["jobs"]), 5);

    let mut yard = home.start();
    let mut told_run = |case: &str, args: &[&str], code| told.failure(case, &run(&home, args), code);
    told_run("a payload that is not JSON", &["submit", "sh", "{script: true}"], 2);
    told_run("a payload file that is missing", &["submit", "sh", &format!("@{missing}")], 2);
    told_run("a payload file that is not JSON", &["submit", "sh", &format!("@{broken}")], 2);
    told_run("a label without =", &["submit", "sh", "{}", "--label", "team"], 2);
    told_run("a submission that the yard refuses", &["submit", "sh", "{}"], 2);
    told_run("a capability that is not there", &["submit", "shh"], 2);
    told_run("a key with a line end", &["submit", "sh", r#"{"script":"true"}"#, "--key", "a\nb"], 2);
    told_run("a bad id", &["job", "abc"], 2);
    told_run("an unknown id", &["job", "01890a5d-ac96-774b-bcce-000000000000"], 3);
    told_run("a state that is none", &["jobs", "--state", "done"], 2);
    assert_eq!(yard.jobs(), []);
    let id = yard.submit("sh", "echo 'no such thing' >&2; exit 4");
    yard.settled(&id);
    told_run("cancel of a failed job", &["cancel", &id], 4);
    told_run("result of a failed job", &["result", &id], 3);
    let ended = run(&home, &["submit", "sh", r#"{"script":"exit 9"}"#, "--wait"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let ended = run(&home, &["replay", "--submit", &unknown]);
    assert_eq!((ended.code, ended.stdout.starts_with("unknown: ")), (Some(0), true), "{ended:?}");
    let ended = Ended::of(home.switchyard().args(["jobs"]).env("SWITCHYARD_TOKEN", "canary-token"));
    let said = told.failure("a wrong token", &ended, 6);
    assert!(!said.contains("canary-token"));
    let ended = Ended::of(home.switchyard().args(["jobs"]).env("SWITCHYARD_TOKEN", "canary\ntoken"));
    let said = told.failure("a token that cannot be one", &ended, 2);
    assert!(!said.contains("canary"));
    told.failure("a URL that is none", &run(&home, &["jobs", "--url", "not a url"]), 2);
    told.failure("a URL where nothing listens", &run(&home, &["jobs", "--url", "http://127.0.0.1:1"]), 5);
    let stranger = stranger();
    told.failure("a URL where something else answers", &run(&home, &["jobs", "--url", &stranger]), 7);
    // Killed: its endpoint file is left.
    yard.child.kill().unwrap();
    yard.child.wait().unwrap();
    told.failure("a yard that was killed", &run(&home, &["jobs"]), 5);
    told.text()
}

/// Something that answers HTTP and is no yard: one request.
fn stranger() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<html></html>");
    });
    url
}

/// `switchyard local` where it cannot start.
fn fails(home: &Home, change: impl FnOnce(&mut std::process::Command)) -> Ended {
    let mut command = home.local();
    change(&mut command);
    Ended::of(&mut command)
}

fn yards_that_do_not_open() -> String {
    let home = Home::new();
    let mut told = Told::new(&home, "yards that do not open");
    let yard = home.start();
    let id = yard.submit("sh", "true");
    yard.settled(&id);
    let address = yard.address.clone();
    let other = home.path().join("other");
    let ended = Ended::of(home.switchyard().args(["local", "--listen", &address, "--data"]).arg(&other));
    told.failure("a port that is taken", &ended, 8);
    assert!(!other.exists(), "a yard that cannot listen makes no folder");
    let ended = Ended::of(home.switchyard().args(["local", "--listen", "192.0.2.1:7420", "--data"]).arg(&other));
    told.failure("an address of another machine", &ended, 8);
    let pid = yard.child.id().to_string();
    let ended = fails(&home, |_| {});
    let said = told.failure("a data folder that another yard has", &ended, 8).replace(&pid, "[pid]");
    let case = told.cases.pop().unwrap().replace(&pid, "[pid]");
    assert!(said.contains("[pid]"), "{said}");
    told.cases.push(case);
    assert_eq!(yard.job(&id)["state"], "succeeded", "the yard that has it goes on");
    assert_eq!(yard.stop(), Some(0));

    let token = home.data().join("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    told.failure("a token that others can read", &fails(&home, |_| {}), 8);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();

    let nowhere = home.path().join("log").join("data");
    let ended = fails(&home, |command| {
        command.env("SWITCHYARD_DATA", &nowhere);
    });
    told.failure("a data folder that cannot be made", &ended, 8);

    let policies = home.path().join("policies-2");
    let start = |told: &mut Told<'_>, case: &str| {
        let ended =
            Ended::of(home.switchyard().args(["local", "--listen", "127.0.0.1:0", "--policies"]).arg(&policies));
        told.failure(case, &ended, 8);
    };
    start(&mut told, "a policies folder that is missing");
    std::fs::create_dir_all(policies.join("schemas")).unwrap();
    start(&mut told, "a policies folder without a catalog");
    let catalog = policies.join("capabilities.yaml");
    for (case, text) in [
        ("a catalog that is no YAML", "version: 1\ncapabilities: [\n"),
        ("an empty catalog", ""),
        ("a catalog with a field too many", "version: 1\ncapabilities:\n  - name: x\n    sumary: typo\n"),
        ("a catalog of a later version", "version: 2\ncapabilities: []\n"),
        (
            "a catalog with an unknown built-in",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { builtin: nope }\n",
        ),
        (
            "a catalog with a schema that is not there",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n    input: { $ref: schemas/x.json }\n",
        ),
    ] {
        std::fs::write(&catalog, text).unwrap();
        start(&mut told, case);
    }
    std::fs::write(&catalog, [0xff, 0xfe, 0x00]).unwrap();
    start(&mut told, "a catalog that is not UTF-8");
    std::fs::write(&catalog, "version: 1\ncapabilities: []\n").unwrap();
    std::fs::write(policies.join("schemas/x.json"), "{\n  \"type\": object\n}").unwrap();
    start(&mut told, "a schema that is not JSON");

    let whole = std::fs::read(home.data().join("yard.db")).unwrap();
    let log = std::fs::metadata(home.data().join("yard.db-wal")).map_or(0, |file| file.len());
    assert_eq!(log, 0, "a yard that was stopped in order leaves everything in the one file that people copy");
    std::fs::write(home.data().join("yard.db"), b"this is not a database, whatever its name says".repeat(300)).unwrap();
    told.failure("a database that is garbage", &fails(&home, |_| {}), 8);
    let mut torn = whole.clone();
    for byte in &mut torn[100..8192] {
        *byte = 0x55;
    }
    std::fs::write(home.data().join("yard.db"), &torn).unwrap();
    told.failure("a database with damaged pages", &fails(&home, |_| {}), 8);
    std::fs::write(home.data().join("yard.db"), &whole[..5000]).unwrap();
    told.failure("a database cut short", &fails(&home, |_| {}), 8);
    std::fs::write(home.data().join("yard.db"), &whole).unwrap();
    let database = || rusqlite::Connection::open(home.data().join("yard.db")).unwrap();
    let version: u32 = database().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    database().execute_batch("PRAGMA user_version = 99").unwrap();
    told.failure("a database of a newer version", &fails(&home, |_| {}), 8);
    database().execute_batch(&format!("PRAGMA user_version = {version}")).unwrap();

    let yard = home.start();
    assert_eq!(yard.job(&id)["state"], "succeeded", "once the obstacle is gone, everything is there");
    told.text()
}

fn a_database_that_others_hold() -> String {
    let home = Home::new();
    let mut told = Told::new(&home, "a database that another program holds");
    let yard = home.start();
    let id = yard.submit("sh", "true");
    yard.settled(&id);
    let other = rusqlite::Connection::open(home.data().join("yard.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = Instant::now();
    let answer = yard.ask("POST", "/v1/jobs", br#"{"capability":"sh","payload":{"script":"true"}}"#);
    told.problem("a submission meanwhile", &answer, 503, "try_again");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(before.elapsed() >= Duration::from_secs(4), "a short lock is waited for: {:?}", before.elapsed());
    assert_eq!(yard.job(&id)["state"], "succeeded", "reading goes on");
    other.execute_batch("COMMIT").unwrap();
    let second = yard.submit("sh", "true");
    assert_eq!(yard.settled(&second)["state"], "succeeded", "and so does the yard, when the lock is gone");
    assert_eq!(yard.stop(), Some(0));
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    told.failure("a yard that starts meanwhile", &fails(&home, |_| {}), 8);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(home.start().jobs().len(), 2);
    told.text()
}

/// The recorded events and those made by hand, by name.
fn events() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/events");
    let mut events = Vec::new();
    for folder in [folder.clone(), folder.join("made")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let event = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
                events.push((path.file_name().unwrap().to_string_lossy().into_owned(), event));
            }
        }
    }
    events.sort_by(|one, other| one.0.cmp(&other.0));
    events
}

#[test]
fn an_event_with_any_field_missing_is_still_answered() {
    let home = Home::new();
    let yard = home.start();
    let mut asked = 0;
    let mut deliver = |case: &str, event: &Value| {
        let answer = yard.post("/v1/events", event);
        assert_eq!(answer.status, 200, "{case}: {answer:?}");
        asked += 1;
        answer.json()
    };
    for (name, event) in events() {
        deliver(&name, &event);
        for field in event.as_object().unwrap().keys() {
            let mut less = event.clone();
            less.as_object_mut().unwrap().remove(field);
            deliver(&format!("{name} without {field}"), &less);
            less[field] = Value::Null;
            deliver(&format!("{name} with {field}: null"), &less);
        }
        for field in event["detail"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            let mut less = event.clone();
            less["detail"].as_object_mut().unwrap().remove(field);
            deliver(&format!("{name} without detail.{field}"), &less);
            less["detail"][field] = json!(7);
            deliver(&format!("{name} with detail.{field}: 7"), &less);
        }
    }
    let (name, event) = &events()[0];
    let answer = deliver(&format!("{name} once more"), event);
    assert!(answer["repeated"].as_u64() >= answer["jobs"].as_array().map(|jobs| jobs.len() as u64), "{answer}");
    assert!(asked > 300, "{asked}");
    let id = yard.submit("sh", "true");
    assert_eq!(yard.settled(&id)["state"], "succeeded", "the yard still works");
    let failed = yard.get("/v1/jobs?state=failed").json();
    assert_eq!(failed["jobs"], json!([]), "every finding that was taken could be triaged");
    assert!(!home.log().contains("panicked"), "{}", home.log());
}

#[test]
fn commands_that_will_not_end_are_ended() {
    let home = Home::new();
    let yard = home.start();
    let file = home.path().join("pids");
    let stubborn = |name: &str| {
        let pids = file.display();
        format!("trap '' TERM; echo {name} $$ >> '{pids}'; while :; do sleep 0.05; done")
    };
    let submit = |capability: &str, name: &str, seconds: u64| {
        yard.submit_more(json!({
            "capability": capability, "payload": { "script": stubborn(name) }, "run_timeout_seconds": seconds,
        }))
    };
    let cancelled = [submit("sh", "a", 50), submit("task", "b", 50)];
    let timed_out = [submit("sh", "c", 2), submit("task", "d", 2)];
    eventually("all four run", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.lines().count() == 4).then_some(())
    });
    let asked = Instant::now();
    for id in &cancelled {
        assert_eq!(yard.ask("POST", &format!("/v1/jobs/{id}/cancel"), b"").status, 202);
    }
    for id in &cancelled {
        assert_eq!(yard.settled(id)["state"], "cancelled");
    }
    assert!(asked.elapsed() < Duration::from_secs(6), "a second of grace, and little more: {:?}", asked.elapsed());
    for id in &timed_out {
        let job = yard.settled(id);
        assert_eq!((&job["state"], &job["error"]["code"]), (&json!("timed_out"), &json!("timed_out")));
    }
    for id in cancelled.iter().chain(&timed_out) {
        let lines = log_of(&yard, id);
        let last = lines.last().unwrap();
        assert!(last.0 == "yard" && last.1.ends_with("it ignored SIGTERM and was killed"), "{lines:?}");
    }
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let pid = line.split_once(' ').unwrap().1;
        assert!(!Path::new("/proc").join(pid).exists(), "{line} is left");
    }
}

#[test]
fn a_cancelled_run_hears_of_it_although_another_run_beat_just_before() {
    let home = Home::new();
    let yard = home.start();
    let first = yard.submit("sh", "sleep 50");
    yard.running(&first);
    // The worker's beat goes out for the first run, and its answer is held back.
    std::thread::sleep(Duration::from_millis(1500));
    let second = yard.submit("sh", "sleep 50");
    yard.running(&second);
    std::thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    assert_eq!(yard.ask("POST", &format!("/v1/jobs/{second}/cancel"), b"").status, 202);
    assert_eq!(yard.settled(&second)["state"], "cancelled");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

#[test]
fn what_a_command_prints_and_makes_reaches_its_reader_within_limits() {
    let home = Home::new();
    let yard = home.start_with(|command| {
        command.env("SECRET_CANARY", "xyz").env("AWS_SECRET_ACCESS_KEY", "xyz");
    });
    let loud = yard.submit("task", "yes 'a line of some length, as programs print them' | head -c 52428800");
    let long = yard.submit("task", "head -c 1048576 /dev/zero | tr '\\0' x; echo; head -c 100000 /dev/urandom");
    let environment = yard.submit_more(json!({ "capability": "environment" }));
    let result = yard.submit(
        "task",
        "printf '{\"a\": [1, \"%s\"]}' \"$(head -c 900000 /dev/zero | tr '\\0' y)\" > $SWITCHYARD_RESULT_PATH",
    );
    let bad = yard.submit("sh", "echo '{' > $SWITCHYARD_RESULT_PATH");
    let permanent = yard.submit("again", "echo 'bad arguments' >&2; exit 3");
    let again = yard.submit("again", "echo 'not yet' >&2; exit 1");

    let job = yard.settled(&loud);
    assert_eq!(job["state"], "succeeded", "{job}");
    let lines = log_of(&yard, &loud);
    assert_eq!(lines.last().unwrap(), &("yard".to_owned(), "output cut: a run's log keeps 10 MiB".to_owned()));
    let stored: u64 = std::fs::read_dir(home.data().join("logs").join(&loud))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(stored < 11 * 1024 * 1024, "{stored}");

    assert_eq!(yard.settled(&long)["state"], "succeeded");
    let lines = log_of(&yard, &long);
    assert_eq!(lines.iter().take(64).map(|line| line.1.len()).sum::<usize>(), 1024 * 1024);

    assert_eq!(yard.settled(&environment)["state"], "succeeded");
    let printed = log_of(&yard, &environment);
    assert!(printed.iter().any(|line| line.1.starts_with("SWITCHYARD_JOB_ID=")));
    assert!(printed.iter().all(|line| !line.1.contains("xyz") && !line.1.contains(&yard.token)), "{printed:?}");

    assert_eq!(yard.settled(&result)["result"]["a"][0], 1);
    assert_eq!(yard.settled(&result)["result"]["a"][1].as_str().map(str::len), Some(900_000));
    let job = yard.settled(&bad);
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("result_not_json")));
    let job = yard.settled(&permanent);
    assert_eq!(
        (&job["state"], &job["attempts_spent"], &job["error"]["exit"]),
        (&json!("failed"), &json!(1), &json!(3))
    );
    assert_eq!(job["error"]["message"], "it exited with 3: bad arguments");
    let job = yard.settled(&again);
    assert_eq!((&job["state"], &job["attempts_spent"]), (&json!("failed"), &json!(3)));
    // Folders that were left empty are kept for later runs; nothing else is.
    for folder in std::fs::read_dir(home.data().join("scratch")).unwrap() {
        let left: Vec<_> = std::fs::read_dir(folder.unwrap().path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
