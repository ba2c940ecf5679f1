//! Whatever somebody puts into a value, it stays a value: it drives no terminal, breaks no log line, names no file, and no
//! shell reads it. And one trace id finds all that was done and said for a request.

#[expect(dead_code, reason = "the crash tests ask more of a yard than these do")]
mod yard;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use yard::{Yard, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Values that somebody might send. The long one is put in by [`hostile`].
const HOSTILE: [&str; 14] = [
    "\u{1b}]0;owned\u{7}",
    "\u{1b}[2J\u{1b}[31mred",
    "a\r\nb: c\n{\"level\":\"ERROR\"}",
    "back\u{8}\u{8}\u{8}\u{8}space\u{7f}",
    "\u{9b}31m\u{85}",
    "\u{202e}gnp.exe\u{2066}\u{2029}",
    "\u{200b}zero\u{feff}\u{200f}",
    "../../etc/passwd",
    "a -rf / --",
    "$(touch owned) ${HOME}",
    "`touch owned`",
    "'; touch owned; '",
    "\"quoted\" \\ %s %n {} {{value}}",
    "/etc/passwd\u{0}.txt",
];

fn hostile() -> Vec<String> {
    HOSTILE.iter().map(|value| (*value).to_owned()).chain(["x\u{1b}[0m".repeat(2048)]).collect()
}

/// Prints its argument to both streams and keeps it, then says a thing on the way out.
const SCRIPT: &str = r#"dir=${0%/*}
printf %s "$1" > "$dir/args/$SWITCHYARD_JOB_ID"
printf '%s\n' "$1"
printf '%s\n' "$1" >&2
printf '\377\376 not UTF-8 \033[31m\n'
echo "trace $TRACEPARENT"
printf '{"value":"\\u001b[31m \\u202e \\u0000","trace":"%s"}' "$TRACEPARENT" > "$SWITCHYARD_RESULT_PATH"
case $2 in fail) exit 3 ;; esac
"#;

fn open() -> Yard {
    let mut yard = Yard::new(4, 2);
    let folder = yard.policies();
    fs::create_dir_all(folder.join("args")).unwrap();
    fs::write(folder.join("print.sh"), SCRIPT).unwrap();
    let script = folder.join("print.sh").display().to_string();
    let capability = |name: &str, how: &str| {
        format!(
            "  - name: {name}\n    summary: \"says \\e[31m \\u202E it\"\n    run: {{ command: [/bin/sh, \"{script}\", \
             \"{{{{value}}}}\", {how}] }}\n    input: {{ type: object, required: [value], properties: {{ value: {{ \
             type: string }} }} }}\n    needs: {{ expected_seconds: 1, timeout_seconds: 60, memory_mib: 16 }}\n    \
             retry: {{ attempts: 1 }}\n"
        )
    };
    let triage = "  - name: finding-triage\n    summary: Inline\n    run: { builtin: finding-triage }\n    needs: { \
                  expected_seconds: 1, timeout_seconds: 60, memory_mib: 128 }\n    retry: { attempts: 1 }\n";
    let catalog =
        format!("version: 1\ncapabilities:\n{}{}{triage}", capability("print", "succeed"), capability("fail", "fail"));
    fs::write(folder.join("capabilities.yaml"), catalog).unwrap();
    yard.start();
    yard
}

/// A request written by hand: what no client of HTTP would send.
fn raw(yard: &Yard, method: &str, path: &str, headers: &[(&str, &[u8])], body: &[u8]) -> (u16, String) {
    let url = fs::read_to_string(yard.data().join("endpoint")).unwrap();
    let token = fs::read_to_string(yard.data().join("token")).unwrap();
    let mut stream = TcpStream::connect(url.trim().trim_start_matches("http://")).unwrap();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: yard\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n",
        token.trim(),
        body.len()
    )
    .into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    // A server that has answered may close before it has read all.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("an answer is text");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

/// What acts on a screen instead of standing on it; written anew, so as not to ask the program for its own opinion.
fn acts_on_a_screen(c: char) -> bool {
    (c.is_control() && c != '\n')
        || "\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{feff}".contains(c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2060}'..='\u{2069}').contains(&c)
}

fn assert_clean(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what} is not UTF-8: {error}"));
    let found = text.chars().find(|c| acts_on_a_screen(*c));
    assert_eq!(found, None, "{what}:\n{}", text.escape_debug());
}

fn cli(yard: &Yard, args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_switchyard"))
        .args(args)
        .env("SWITCHYARD_DATA", yard.data())
        .env_remove("SWITCHYARD_URL")
        .env_remove("SWITCHYARD_TOKEN")
        .output()
        .unwrap();
    assert_clean(&format!("standard output of {args:?}"), &output.stdout);
    assert_clean(&format!("standard error of {args:?}"), &output.stderr);
    output
}

fn names_under(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().expect("a file's name is text"));
        if entry.file_type().unwrap().is_dir() {
            names_under(&entry.path(), names);
        }
    }
}

#[test]
fn hostile_values_reach_the_program_as_they_are_and_nothing_else() {
    let yard = open();
    let client = yard.client();
    let mut ended = Vec::new();
    for value in hostile() {
        for capability in ["print", "fail"] {
            let body = json!({
                "capability": capability, "payload": { "value": value },
                "labels": { "team": value.chars().filter(|c| !c.is_control() && *c != '=').take(60).collect::<String>() },
            });
            let answer = client.try_post("/v1/jobs", None, &body).unwrap();
            if answer.status == 422 {
                // An argument ends at a NUL: no program could have it.
                assert!(value.contains('\u{0}'), "{value:?}: {}", answer.body);
                continue;
            }
            assert_eq!(answer.status, 202, "{value:?}: {}", answer.body);
            let id = answer.body["id"].as_str().unwrap().to_owned();
            let job = client.settled(&id);
            if !value.contains('\u{0}') {
                assert_eq!(job["state"], if capability == "fail" { "failed" } else { "succeeded" }, "{job}");
                let got = fs::read_to_string(yard.policies().join("args").join(&id)).unwrap();
                assert_eq!(got, value, "an argument is passed on as it is");
            }
            assert_eq!(job["labels"], body["labels"], "a label is kept as it was sent");
            ended.push(id);
        }
    }
    for id in &ended {
        cli(&yard, &["job", id, "--timeline"]);
        cli(&yard, &["--json", "job", id, "--timeline"]);
        cli(&yard, &["result", id]);
        let lines = cli(&yard, &["--json", "logs", id]);
        for line in String::from_utf8(lines.stdout).unwrap().lines() {
            let line: Value = serde_json::from_str(line).expect("a line of a log is whole JSON");
            assert_eq!(line["trace_id"].as_str().unwrap().len(), 32, "{line}");
        }
        assert!(cli(&yard, &["logs", id]).status.success());
    }
    for args in [&["jobs"][..], &["--json", "jobs"], &["capabilities"], &["--json", "capabilities"], &["workers"]] {
        assert!(cli(&yard, args).status.success(), "{args:?}");
    }
    let raw = Command::new(env!("CARGO_BIN_EXE_switchyard"))
        .args(["logs", "--raw", &ended[2]])
        .env("SWITCHYARD_DATA", yard.data())
        .output()
        .unwrap();
    assert!(raw.stdout.contains(&0x1b), "who asks for it has it as it was printed");
    the_yard_is_clean(&yard);
}

#[test]
fn hostile_requests_are_answered_and_leave_nothing_behind() {
    let yard = open();
    let (client, good) = (yard.client(), json!({ "capability": "print", "payload": { "value": "a" } }).to_string());
    for value in hostile() {
        // A header cannot hold a line's end; everything else is tried.
        let header: Vec<u8> = value.bytes().filter(|byte| !b"\r\n\0".contains(byte)).take(200).collect();
        for name in ["x-request-id", "traceparent", "idempotency-key", "user-agent"] {
            let (status, answer) = raw(&yard, "POST", "/v1/jobs", &[(name, &header)], good.as_bytes());
            assert!((200..500).contains(&status), "{name}: {answer}");
            assert_clean("an answer", answer.replace('\r', "").as_bytes());
        }
        let quoted: String = value.bytes().take(600).map(|byte| format!("%{byte:02x}")).collect();
        for path in [format!("/v1/jobs/{quoted}"), format!("/{quoted}"), format!("/v1/jobs?label={quoted}")] {
            let (status, answer) = raw(&yard, "GET", &path, &[], b"");
            assert!((200..500).contains(&status), "{path}: {answer}");
        }
        for body in [
            json!({ "capability": value, "payload": { "value": "a" } }),
            json!({ "capability": "print", "payload": { "value": "a" }, (value.as_str()): value }),
            json!({ "capability": "print", "payload": { (value.as_str()): value } }),
            json!({ "capability": "print", "payload": { "value": "a" }, "labels": { (value.as_str()): value } }),
            json!({ "capability": "print", "payload": { "value": "a" }, "tier": value }),
        ] {
            let answer = client.try_post("/v1/jobs", None, &body).unwrap();
            assert!((200..500).contains(&answer.status), "{body}: {}", answer.body);
        }
        let paused = json!({ "scope": { "capability": "fail" }, "reason": value });
        assert_eq!(client.try_post("/v1/pause", None, &paused).unwrap().status, 200);
        cli(&yard, &["yard"]);
        cli(&yard, &["--json", "yard"]);
        let finding = json!({
            "schemaVersion": "2.0", "id": value, "type": value, "title": value, "severity": 8, "accountId": value,
            "region": value, "resource": { "resourceType": value }, "service": {},
        });
        for (source, detail) in [("aws.guardduty", finding), (value.as_str(), json!({ (value.as_str()): value }))] {
            let event = json!({
                "version": "0", "id": value, "source": source, "detail-type": "GuardDuty Finding", "account": value,
                "region": value, "time": value, "resources": [value], "detail": detail,
            });
            let answer = client.try_post("/v1/events", None, &event).unwrap();
            assert!((200..500).contains(&answer.status), "{}", answer.body);
            let file = yard.policies().join("event.json");
            fs::write(&file, event.to_string()).unwrap();
            cli(&yard, &["replay", file.to_str().unwrap()]);
        }
        if !value.contains('\u{0}') {
            for args in [
                &["job", value.as_str()][..],
                &["logs", value.as_str()],
                &["submit", value.as_str()],
                &["submit", "print", value.as_str()],
                &["submit", "print", "{}", "--key", value.as_str()],
                &["submit", "print", "{}", "--traceparent", value.as_str()],
                &["submit", "print", "{}", "--label", value.as_str()],
                &["token", "create", value.as_str(), "--role", "viewer"],
                &["--url", value.as_str(), "jobs"],
                &["policies", "check", value.as_str()],
            ] {
                let output = cli(&yard, args);
                // A name of letters and spaces may be a good one; none of these is a job, a key or a trace.
                assert!(output.status.code().is_some_and(|code| code < 9), "{args:?}: {output:?}");
            }
        }
    }
    for surrogate in [r#"{"capability":"print","payload":{"value":"\ud800"}}"#, r#"{"capability":"\udc00\ud800"}"#] {
        let (status, answer) = raw(&yard, "POST", "/v1/jobs", &[], surrogate.as_bytes());
        assert_eq!(status, 400, "{answer}");
    }
    let (status, answer) = raw(&yard, "POST", "/v1/jobs", &[], b"{\"capability\":\"\xff\xfe\"}");
    assert_eq!(status, 400, "{answer}");
    // Policies that are broken in hostile ways are refused, in words that do nothing.
    let file = yard.policies().join("capabilities.yaml");
    let sound = fs::read_to_string(&file).unwrap();
    for broken in ["version: 1\ncapabilities:\n  - name: \"\\e[31m\\u202E\\r\\n\"\n", "\u{1b}[31m", "a: \"\\0\\a\""] {
        fs::write(&file, broken).unwrap();
        assert_eq!(cli(&yard, &["policies", "check", yard.policies().to_str().unwrap()]).status.code(), Some(2));
        assert!(!cli(&yard, &["reload"]).status.success());
    }
    fs::write(&file, sound).unwrap();
    the_yard_is_clean(&yard);
}

/// The log, the files and the folder where nothing was to be touched.
fn the_yard_is_clean(yard: &Yard) {
    let log = fs::read(yard.policies().with_file_name("log")).unwrap();
    assert_clean("the yard's log", &log);
    let log = String::from_utf8(log).unwrap();
    assert!(log.ends_with('\n'));
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let mut names = Vec::new();
    names_under(&yard.data(), &mut names);
    for name in &names {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(name.chars().all(plain) && !name.starts_with('-'), "a file is called {name:?}");
    }
    names_under(yard.data().parent().unwrap(), &mut names);
    assert!(!names.iter().any(|name| name == "owned"), "a shell has read a value");
}

#[test]
fn one_trace_id_finds_the_job_its_programs_output_its_lines_in_the_log_and_the_numbers() {
    let yard = open();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let args =
        ["--json", "submit", "print", "{\"value\":\"a\"}", "--key", "k", "--traceparent", &traceparent, "--wait"];
    let submitted = cli(&yard, &args);
    assert!(submitted.status.success(), "{submitted:?}");
    let job: Value = serde_json::from_slice(&submitted.stdout).unwrap();
    assert_eq!(job["trace_id"], TRACE);
    let handed = job["result"]["trace"].as_str().unwrap();
    assert!(handed.starts_with(&format!("00-{TRACE}-")) && handed.ends_with("-01") && handed.len() == 55, "{handed}");
    assert_ne!(handed, traceparent, "the run is a span of its own");
    let id = job["id"].as_str().unwrap();
    let page = yard.client().get(&format!("/v1/jobs/{id}/logs"));
    assert_eq!(page["trace_id"], TRACE);
    assert!(page["lines"].as_array().unwrap().iter().any(|line| line["text"] == format!("trace {handed}")), "{page}");
    // A repeat from another trace is a repeat: it is the first one's job.
    let other = ["--json", "submit", "print", "{\"value\":\"a\"}", "--key", "k"];
    let again: Value = serde_json::from_slice(&cli(&yard, &other).stdout).unwrap();
    assert_eq!((&again["id"], &again["trace_id"]), (&job["id"], &job["trace_id"]));
    let line = eventually("the run's line in the log", || {
        let log = fs::read_to_string(yard.policies().with_file_name("log")).ok()?;
        let line = log.lines().find(|line| line.contains("run ended") && line.contains(id))?.to_owned();
        serde_json::from_str::<Value>(&line).ok()
    });
    assert_eq!((&line["trace.id"], &line["job.id"]), (&json!(TRACE), &json!(id)), "{line}");
    assert_eq!(
        (&line["outcome"], &line["capability"], &line["attempt"]),
        (&json!("succeeded"), &json!("print"), &json!(1))
    );
    assert!(line["duration_ms"].is_u64() && line["holder"].is_string() && line["venue"].is_string(), "{line}");
    let failed = ["--json", "submit", "fail", "{\"value\":\"a\"}", "--wait"];
    assert_eq!(cli(&yard, &failed).status.code(), Some(1));
    let (status, metrics) = raw(&yard, "GET", "/metrics", &[], b"");
    assert_eq!(status, 200, "{metrics}");
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    let count = |name: &str| -> f64 {
        let lines =
            metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.map(|line| line.rsplit(' ').next().unwrap().trim().parse::<f64>().unwrap()).sum()
    };
    for (name, expected) in [
        ("switchyard_jobs_accepted_total", 2.0),
        ("switchyard_jobs_repeated_total", 1.0),
        ("switchyard_runs_total", 2.0),
        ("switchyard_attempts_failed_total", 1.0),
        ("switchyard_jobs_settled_total", 2.0),
        ("switchyard_run_duration_seconds_count", 2.0),
        ("switchyard_queue_wait_seconds_count", 2.0),
        ("switchyard_workers", 1.0),
        ("switchyard_slots", 4.0),
        ("switchyard_jobs", 0.0),
    ] {
        assert!((count(name) - expected).abs() < 1e-9, "{name} is {}:\n{metrics}", count(name));
    }
    assert!(metrics.contains("route=\"/v1/jobs/{id}/logs\"") && !metrics.contains(id), "templates, not paths");
    let (status, lines) = raw(&yard, "GET", "/metrics?format=emf", &[], b"");
    assert!(status == 200 && lines.contains("\"Namespace\":\"Switchyard\""), "{lines}");
    assert_eq!(raw(&yard, "GET", "/metrics?format=xml", &[], b"").0, 400);
}
