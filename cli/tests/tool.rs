//! The tools by hand and as commands of the capabilities that are shipped; and `http-check` in a yard.

#[expect(dead_code, reason = "other tests use what this one does not")]
mod common_bad;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common_bad::{Ended, Home};
use serde_json::{Value, json};

/// A home with the policies that are shipped, one line of them changed.
fn shipped(from: &str, to: &str) -> Home {
    let home = Home::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let catalog = std::fs::read_to_string(folder.join("capabilities.yaml")).unwrap();
    assert!(catalog.contains(from), "{from}");
    std::fs::write(home.policies().join("capabilities.yaml"), catalog.replace(from, to)).unwrap();
    for schema in std::fs::read_dir(folder.join("schemas")).unwrap() {
        let schema = schema.unwrap();
        std::fs::copy(schema.path(), home.policies().join("schemas").join(schema.file_name())).unwrap();
    }
    home
}

fn tool(home: &Home, args: &[&str]) -> Ended {
    Ended::of(home.switchyard().arg("tool").args(args))
}

fn submit(home: &Home, capability: &str, payload: &Value) -> Ended {
    Ended::of(home.switchyard().args(["submit", capability, &payload.to_string(), "--wait", "--json"]))
}

/// What a job made.
fn result(ended: &Ended) -> Value {
    serde_json::from_str::<Value>(&ended.stdout).unwrap()["result"].clone()
}

/// Waits until something is so, within a generous bound.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is killed when the test is done with it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tool_writes_its_result_for_programs_and_a_text_for_people_and_its_exit_says_whether_to_try_again() {
    let home = Home::new();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port().to_string();
    let text = tool(&home, &["port-scan", "127.0.0.1", "--ports", &port]);
    assert_eq!(text.code, Some(0), "{text:?}");
    assert_eq!(
        text.stdout,
        format!("127.0.0.1, ports tried: 1\n127.0.0.1: 1 open, 0 closed, 0 filtered\n  {port}/tcp open\n")
    );
    let path = home.path().join("result.json");
    let mut command = home.switchyard();
    command.args(["tool", "port-scan", "127.0.0.1", "--json", "--ports", &port]).env("SWITCHYARD_RESULT_PATH", &path);
    let ended = Ended::of(&mut command);
    let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((ended.code, &printed), (Some(0), &written));
    assert_eq!(written["addresses"][0]["open"][0]["port"].to_string(), port);

    let refused = tool(&home, &["port-scan", "10.0.0.1", "--ports", "80"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
    assert!(refused.stderr.contains("10.0.0.1 is refused, being in a private network"), "{refused:?}");
    for bad in [["127.0.0.1", "--ports", "0"], ["127.0.0.1", "--ports", "1-5000"], ["127.0.0.1", "--ports", "80;x"]] {
        let ended = tool(&home, &[&["port-scan"], bad.as_slice()].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
    let lost = tool(&home, &["port-scan", "nowhere.invalid", "--ports", "80"]);
    assert_eq!(lost.code, Some(1), "{lost:?}");
}

#[test]
fn a_scan_stops_at_sigterm() {
    let home = Home::new();
    // It takes the connection, says nothing, and so has the scan wait for a minute.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let mut command = home.switchyard();
    command.args(["tool", "port-scan", "127.0.0.1", "--banners", "--timeout-ms", "60000", "--ports", &port]);
    let mut child = Killed(command.stdout(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    let _connection = silent.accept().unwrap();
    let id = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let status = until("its end", || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(143));
    // Not because it had waited long enough.
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_yard_runs_the_shipped_port_scan_with_its_own_program() {
    let home = shipped("version: 1", "version: 1");
    // Nothing called switchyard is to be found.
    let _yard = home.start_with(|command| {
        command.env("PATH", "/usr/bin:/bin");
    });
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let ended = submit(&home, "port-scan", &json!({ "target": "127.0.0.1", "ports": port.to_string() }));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let result = result(&ended);
    assert_eq!(result["addresses"][0]["open"][0]["port"], port, "{result:#}");
    // The payload cannot bring in options, nor a refused address an attempt more.
    let option = submit(&home, "port-scan", &json!({ "target": "--allow=0.0.0.0/0", "ports": "80" }));
    assert_eq!(option.code, Some(2), "{option:?}");
    let refused = submit(&home, "port-scan", &json!({ "target": "169.254.169.254", "ports": "80" }));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let jobs = Ended::of(home.switchyard().args(["jobs", "--state", "failed", "--json"]));
    let jobs: Value = serde_json::from_str(&jobs.stdout).unwrap();
    assert_eq!(jobs[0]["attempts_spent"], 1, "{jobs:#}");
}

#[test]
fn a_yard_checks_the_sites_that_its_catalog_allows_and_no_others() {
    let site = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", site.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in site.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Content-Type-Options: nosniff\r\n\r\n");
        }
    });
    let line = "run: { builtin: http-check }";
    let closed = shipped(line, line);
    let yard = closed.start();
    let refused = submit(&closed, "http-check", &json!({ "url": url }));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("127.0.0.1 is refused, being this machine itself"), "{refused:?}");
    drop(yard);
    let open = shipped(line, "run: { builtin: http-check, with: { allow: [127.0.0.0/8] } }");
    let _yard = open.start();
    let ended = submit(&open, "http-check", &json!({ "url": url }));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let result = result(&ended);
    assert_eq!((&result["grade"], &result["hops"][0]["status"]), (&json!("F"), &json!(200)), "{result:#}");
}

/// A gzip member with a thousand records or so, a mebibyte of text; every `turn` has principals of its own.
fn member(turn: usize) -> (Vec<u8>, usize) {
    let filler = "0123456789abcdef".repeat(32);
    let record = |n: usize| {
        let user = n / 8;
        let risky = if user.is_multiple_of(5) { "CreateAccessKey" } else { "GetUser" };
        let user = format!("arn:aws:iam::111122223333:user/{}/u{turn}-{user}", &filler[..128]);
        json!({
            "eventVersion": "1.11", "eventTime": "2026-01-31T12:00:00Z", "eventSource": "iam.amazonaws.com",
            "eventName": risky, "sourceIPAddress": format!("203.0.113.{}", n % 250), "userAgent": filler,
            "userIdentity": { "type": "IAMUser", "arn": user }, "requestParameters": { "filler": filler },
        })
    };
    let text = json!({ "Records": (0..800).map(record).collect::<Vec<_>>() }).to_string();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    (encoder.finish().unwrap(), text.len())
}

/// `make soak` asks for a gigabyte.
#[test]
fn logs_of_any_size_are_digested_in_the_same_memory() {
    let mib: usize = std::env::var("SWITCHYARD_TEST_LOGS_MIB").map_or(128, |mib| mib.parse().unwrap());
    let home = Home::new();
    let (log, fifo) = (home.path().join("log.json.gz"), home.path().join("result.json"));
    let members: Vec<(Vec<u8>, usize)> = (0..32).map(member).collect();
    let (mut file, mut bytes, mut records) = (std::fs::File::create(&log).unwrap(), 0, 0_u64);
    for (member, length) in members.iter().cycle() {
        if bytes >= mib * 1024 * 1024 {
            break;
        }
        file.write_all(member).unwrap();
        (bytes, records) = (bytes + length, records + 800);
    }
    // The result goes into a pipe, and is more than this one takes: when its first byte is there, the work is done and
    // the program is still to be looked at.
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut pipe = std::fs::File::options().read(true).custom_flags(nonblocking).open(&fifo).unwrap();
    let takes = rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
    let mut command = home.switchyard();
    command.args(["tool", "cloudtrail-digest"]).arg(&log).env("SWITCHYARD_RESULT_PATH", &fifo).stdout(Stdio::null());
    let mut child = Killed(command.spawn().unwrap());
    let mut result = vec![0];
    until("the first byte of the result", || {
        assert!(matches!(child.0.try_wait(), Ok(None)), "it ended without a result");
        matches!(pipe.read(&mut result), Ok(1)).then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{bytes} bytes of logs, {} on disk: {peak_kib} KiB", file.metadata().unwrap().len());
    until("the rest of the result", || match pipe.read_to_end(&mut result) {
        Ok(_) => Some(()),
        Err(error) => (error.kind() != std::io::ErrorKind::WouldBlock).then(|| panic!("{error}")),
    });
    assert_eq!(until("its end", || child.0.try_wait().unwrap()).code(), Some(0));
    assert!(result.len() > takes + 1, "{} bytes fit the pipe, and the look may have come too late", result.len());
    let result: Value = serde_json::from_slice(&result).unwrap();
    assert_eq!((&result["records"], &result["bytes"]), (&json!(records), &json!(bytes)));
    assert_eq!((&result["principals"][0]["risk"], &result["unreadable"]), (&json!(20), &json!([])));
    assert!(peak_kib < 48 * 1024, "{peak_kib} KiB");
}

#[test]
fn wrong_settings_of_a_built_in_are_named_with_their_place() {
    let home = shipped("run: { builtin: http-check }", "run: { builtin: http-check, with: { allow: [localhost] } }");
    let ended = Ended::of(home.switchyard().args(["policies", "check"]).arg(home.policies()));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let line = std::fs::read_to_string(home.policies().join("capabilities.yaml")).unwrap();
    let line = line.lines().position(|line| line.contains("localhost")).unwrap() + 1;
    let told = format!("capabilities.yaml:{line}:49: capabilities[1].run.with.allow[0]: `localhost` is no network");
    assert!(ended.stderr.contains(&told), "{told}: {ended:?}");
}
