//! The yard of the real program under clients of every kind: many, slow, silent, and wrong in every way at once.

#[expect(dead_code, reason = "each test program uses its own part")]
mod common_bad;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common_bad::{Answer, Home, Yard, eventually};
use serde_json::{Value, json};

/// What a yard that is stopped may take: its server lingers for 5 s, and a busy machine has a second for the rest.
const LINGER: Duration = Duration::from_secs(6);

fn script(text: &str) -> Value {
    json!({ "capability": "sh", "payload": { "script": text } })
}

/// A connection that has sent this and then says nothing more.
fn sent(yard: &Yard<'_>, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&yard.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn rest(mut stream: TcpStream) -> Option<Answer> {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer);
    Answer::parse(&answer)
}

/// A connection whose request head never ends, at the pace of somebody who wants to be waited for.
fn slow_head(yard: &Yard<'_>) -> Duration {
    let mut stream = sent(yard, "GET /v1/jobs HTTP/1.1\r\nhost: x\r\n");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        // Two writes that succeed after the other side has closed: the first is answered by a reset.
        if stream.write_all(b"x-slow: 1\r\n").is_err() {
            return began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    panic!("a slow head is waited for without end");
}

/// A submission whose body comes a byte at a time.
fn slow_body(yard: &Yard<'_>) -> TcpStream {
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        yard.token
    );
    sent(yard, &head)
}

#[test]
fn a_batch_of_500_has_every_outcome_and_its_good_jobs_all_run() {
    let home = Home::new();
    let yard = home.start();
    let first = yard.send(
        "POST",
        "/v1/jobs",
        &[("authorization", format!("Bearer {}", yard.token).as_bytes()), ("idempotency-key", b"before")],
        script("echo before").to_string().as_bytes(),
    );
    let first = first.unwrap().json();
    let keyed = |text: &str, key: Value| {
        let mut item = script(text);
        item["idempotency_key"] = key;
        item
    };
    let bad: Vec<(Value, u16, &str)> = vec![
        (json!(null), 422, "invalid_field"),
        (json!("sh"), 422, "invalid_field"),
        (json!({}), 422, "invalid_field"),
        (json!({ "capability": "shh" }), 422, "unknown_capability"),
        (json!({ "capability": "sh" }), 422, "invalid_payload"),
        (script("-hunter2"), 422, "invalid_payload"),
        (json!({ "capability": "huge" }), 422, "no_feasible_venue"),
        (json!({ "capability": "sh", "payload": { "script": "true" }, "prioritty": 1 }), 422, "invalid_field"),
        (json!({ "capability": "sh", "payload": { "script": "true" }, "tier": "fast" }), 422, "invalid_field"),
        (json!({ "capability": "sh", "payload": { "script": "true" }, "delay_seconds": 0 }), 422, "invalid_field"),
        (keyed("true", json!(7)), 422, "invalid_field"),
        (keyed("true", json!("")), 400, "invalid_idempotency_key"),
        (keyed("true", json!("k".repeat(256))), 400, "invalid_idempotency_key"),
        (keyed("another", json!("before")), 422, "idempotency_key_reused"),
        (keyed("another", json!("within")), 422, "idempotency_key_reused"),
        (
            json!({ "capability": "sh", "payload": { "script": "true", "filler": "x".repeat(1024 * 1024) } }),
            413,
            "payload_too_large",
        ),
    ];
    // The good ones first, in part: a key's first use must come before its others.
    let mut items = vec![keyed("echo within", json!("within")); 2];
    items.push(keyed("echo before", json!("before")));
    let mut outcomes = vec![(202, ""), (202, "repeated"), (202, "repeated")];
    for n in 0..500 - items.len() {
        let place = n / 20;
        match bad.get(place).filter(|_| n % 20 == 7) {
            Some((item, status, code)) => {
                items.push(item.clone());
                outcomes.push((*status, *code));
            }
            None => {
                items.push(keyed(&format!("echo {n}"), json!(format!("n-{n}"))));
                outcomes.push((202, ""));
            }
        }
    }
    assert_eq!(items.len(), 500);
    let refused = bad.len();
    let answer = yard.post("/v1/jobs/batch", &json!({ "jobs": items }));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["accepted"], &answer["repeated"], &answer["rejected"]),
        (&json!(498 - refused), &json!(2), &json!(refused)),
    );
    let found = answer["items"].as_array().unwrap();
    for (n, ((status, code), item)) in outcomes.iter().zip(found).enumerate() {
        if code.is_empty() {
            assert_eq!((&item["status"], &item["job"]["caller"]), (&json!(202), &json!("local")), "{n}: {item}");
        } else if *code == "repeated" {
            assert!(item["job"]["id"].is_string(), "{n}: {item}");
        } else {
            assert_eq!((&item["status"], &item["code"]), (&json!(status), &json!(code)), "{n}: {item}");
            assert!(item["job"].is_null() && !item["detail"].as_str().unwrap().contains("hunter2"), "{n}: {item}");
        }
    }
    assert_eq!(found[0]["job"]["id"], found[1]["job"]["id"]);
    assert_eq!(found[2]["job"]["id"], first["id"]);
    let again = yard.post("/v1/jobs/batch", &json!({ "jobs": items })).json();
    assert_eq!((&again["accepted"], &again["rejected"]), (&json!(0), &json!(refused)), "every good one has a key");
    for item in found.iter().filter(|item| item["job"].is_object()) {
        let id = item["job"]["id"].as_str().unwrap();
        assert_eq!(yard.settled(id)["state"], "succeeded", "{item}");
    }
    assert_eq!(yard.jobs().len(), 499 - refused, "one job a good submission, and the one before");
    let answer = yard.ask("POST", "/v1/jobs/batch", &vec![b' '; 4 * 1024 * 1024 + 1]);
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("body_too_large")));
}

#[test]
fn a_requests_id_is_in_its_answer_its_problem_and_its_log_lines() {
    let home = Home::new();
    let yard = home.start_with(|command| {
        command.env("RUST_LOG", "info,switchyard_api=debug");
    });
    let token = format!("Bearer {}", yard.token);
    let ask = |id: &str, path: &str| {
        let headers = [("authorization", token.as_bytes()), ("x-request-id", id.as_bytes())];
        let answer = yard.send("GET", path, &headers, b"").unwrap();
        assert_eq!(answer.header("x-request-id"), Some(id), "{answer:?}");
        answer
    };
    assert_eq!(ask("one-id", "/v1/jobs").status, 200);
    assert_eq!(ask("another-id", "/v1/jobs/x").json()["request_id"], "another-id");
    let log = home.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let line =
        |id: &str| lines.iter().find(|line| line["spans"][0]["request.id"] == id).unwrap_or_else(|| panic!("{log}"));
    let one = line("one-id");
    assert_eq!((&one["level"], &one["status"], &one["caller"]), (&json!("DEBUG"), &json!(200), &json!("local")));
    assert_eq!((&line("another-id")["status"], &line("another-id")["path"]), (&json!(400), &json!("/v1/jobs/x")));
    assert!(!log.contains(&yard.token), "no token is logged");
}

#[test]
fn sixty_four_clients_at_once_are_all_served() {
    let home = Home::new();
    let yard = home.start();
    std::thread::scope(|scope| {
        for client in 0..64 {
            let yard = &yard;
            scope.spawn(move || {
                for turn in 0..4 {
                    let key = format!("{client}-{turn}");
                    let token = format!("Bearer {}", yard.token);
                    let headers = [("authorization", token.as_bytes()), ("idempotency-key", key.as_bytes())];
                    let body = script("true").to_string();
                    let answer = yard.send("POST", "/v1/jobs", &headers, body.as_bytes()).unwrap();
                    assert!(answer.status == 202 || answer.status == 200, "{key}: {answer:?}");
                    let id = answer.json()["id"].as_str().unwrap().to_owned();
                    assert_eq!(yard.settled(&id)["state"], "succeeded", "{key}");
                    assert_eq!(yard.get(&format!("/v1/jobs/{id}/logs")).status, 200);
                }
            });
        }
    });
    assert_eq!(yard.jobs().len(), 256);
    assert!(!home.log().contains("panicked"), "{}", home.log());
}

#[test]
fn slow_and_silent_clients_keep_nobody_waiting_and_are_cut_off() {
    let home = Home::new();
    let yard = home.start();
    let silent: Vec<TcpStream> = (0..200).map(|_| sent(&yard, "")).collect();
    std::thread::scope(|scope| {
        let head = scope.spawn(|| slow_head(&yard));
        let body = scope.spawn(|| {
            let mut stream = slow_body(&yard);
            let began = Instant::now();
            for _ in 0..8 {
                std::thread::sleep(Duration::from_millis(500));
                stream.write_all(b" ").unwrap();
            }
            (rest(stream), began.elapsed())
        });
        for n in 0..20 {
            let asked = Instant::now();
            let id = yard.submit("sh", "true");
            assert_eq!(yard.settled(&id)["state"], "succeeded", "{n}");
            assert!(asked.elapsed() < Duration::from_secs(8), "{n}: {:?}", asked.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        let cut = head.join().unwrap();
        assert!((Duration::from_secs(9)..Duration::from_secs(16)).contains(&cut), "{cut:?}");
        let (told, took) = body.join().unwrap();
        let told = told.expect("a slow body is answered");
        assert_eq!((told.status, &told.json()["code"]), (408, &json!("body_too_slow")), "{told:?}");
        assert!((Duration::from_secs(29)..Duration::from_secs(38)).contains(&took), "{took:?}");
    });
    for stream in silent {
        assert!(rest(stream).is_none(), "whoever says nothing is told nothing");
    }
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn a_close_waits_for_nobody_who_keeps_it_waiting() {
    let home = Home::new();
    let yard = home.start();
    let id = yard.submit("sh", "echo begun; sleep 50");
    yard.running(&id);
    let _silent: Vec<TcpStream> = (0..200).map(|_| sent(&yard, "")).collect();
    let _half: Vec<TcpStream> = (0..20).map(|_| sent(&yard, "GET /v1/jobs HTTP/1.1\r\nho")).collect();
    let slow: Vec<TcpStream> = (0..20).map(|_| slow_body(&yard)).collect();
    let ask = |path: String| {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", yard.token);
        sent(&yard, &head)
    };
    let waiting = ask(format!("/v1/jobs/{id}?wait=60"));
    eventually("the log begins", || (yard.get(&format!("/v1/jobs/{id}/logs")).json()["next"] != "0.0").then_some(()));
    let next = yard.get(&format!("/v1/jobs/{id}/logs")).json()["next"].as_str().unwrap().to_owned();
    let following = ask(format!("/v1/jobs/{id}/logs?cursor={next}&wait=60"));
    // All of them have arrived.
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(yard.stop(), Some(0));
    let took = began.elapsed();
    assert!(took < LINGER, "{took:?}");
    let job = rest(waiting).expect("whoever waits is answered");
    assert_eq!((job.status, &job.json()["id"]), (200, &json!(id)), "{job:?}");
    assert_eq!(rest(following).expect("whoever follows is answered").status, 200);
    for stream in slow {
        let told = rest(stream).expect("whoever sends is answered");
        assert_eq!((told.status, &told.json()["code"]), (503, &json!("closing")));
    }
}
