//! `switchyard explain` without a yard: every row of the design's table of cases through the program, each with what
//! was found of every place; and one question to a yard.

#[expect(dead_code, reason = "other tests use what this one does not")]
mod common_bad;

use std::process::Command;

use common_bad::{Ended, Home};
use serde_json::{Value, json};

/// Every row of the table, and what decides it.
const ROWS: [(&str, &str, &str); 17] = [
    ("built-in 5 s, synchronous", "inline", "--run builtin --expected 5 --tier synchronous"),
    ("built-in, duration unknown", "function", "--run builtin"),
    ("built-in 28 s, 10 s of the invocation left", "function", "--run builtin --expected 28 --left 10"),
    ("built-in 120 s", "fargate", "--run builtin --expected 120"),
    ("built-in 120 s, synchronous", "function", "--run builtin --expected 120 --tier synchronous"),
    (
        "runtime-API image 120 s, 2 GiB, synchronous",
        "function",
        "--run function_image --expected 120 --memory 2048 --tier synchronous",
    ),
    ("task image 120 s", "fargate", "--run task_image --expected 120"),
    ("task image 120 s, a fleet slot free", "fleet/standard", "--run task_image --expected 120 --free standard"),
    ("task image 120 s, in a batch of 500", "fleet/standard", "--run task_image --expected 120 --batch 500"),
    ("Cloud Custodian on a finding (isolated)", "fargate", "--run task_image --expected 60 --isolate --tier priority"),
    ("the same, warm fleet", "fargate", "--run task_image --expected 60 --isolate --tier priority --free standard"),
    (
        "the same, launches exhausted",
        "fleet/standard",
        "--run task_image --expected 60 --isolate --tier priority --launches-exhausted",
    ),
    ("nmap 5 s, synchronous", "fleet/standard", "--run image --expected 5 --network-tools --tier synchronous"),
    ("12 GiB task image", "fargate", "--run task_image --expected 120 --memory 12288"),
    (
        "the same with Docker daemon and no pool that large",
        "refused",
        "--run task_image --expected 120 --memory 12288 --docker",
    ),
    ("Docker job", "fleet/standard", "--run image --expected 120 --docker"),
    ("Docker job after two interruptions", "fleet/steady", "--run image --expected 120 --docker --interruptions 2"),
];

fn switchyard(args: &str) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let ended = command.args(args.split_whitespace()).env_remove("SWITCHYARD_POLICIES").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(ended.stdout), text(ended.stderr), ended.status.code())
}

#[test]
fn every_row_of_the_table_is_decided_and_explained() {
    let mut told = String::new();
    for (case, wanted, args) in ROWS {
        let (out, err, code) = switchyard(&format!("explain --aws {args}"));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{case}");
        assert!(out.starts_with(&format!("{wanted}: ")), "{case}: {out}");
        // What a rejected place would have cost, and when it would have started, is told too.
        for place in ["inline", "function", "fargate", "fleet/standard", "fleet/static", "fleet/steady"] {
            let line = out.lines().find(|line| line.trim_start().starts_with(&format!("{place} "))).unwrap();
            assert!(line.contains('$') && line.split_whitespace().count() > 6, "{case}: {line}");
        }
        told.push_str(&format!("== {case}\n$ switchyard explain --aws {args}\n{out}\n"));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn the_json_holds_what_the_table_shows() {
    let (out, _, code) = switchyard("--json explain --aws --run image --expected 5 --network-tools --tier synchronous");
    assert_eq!(code, Some(0));
    let explanation: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&explanation["venue"], &explanation["pool"], &explanation["choice"], &explanation["met"]),
        (&"fleet".into(), &"standard".into(), &"soonest".into(), &false.into())
    );
    assert_eq!(explanation["start_target_ms"], 5000);
    assert_eq!(explanation["verdicts"].as_array().unwrap().len(), 6);
}

#[test]
fn policies_in_a_folder_decide_instead_of_those_built_in() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let read = |name: &str| std::fs::read_to_string(shipped.join(name)).unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("capabilities.yaml", "version: 1\ncapabilities: []\n".to_owned());
    let asked = format!("explain --aws --run builtin --expected 120 --policies {}", folder.path().display());
    // Without files of its own the folder has the built-in ones.
    assert!(switchyard(&asked).0.starts_with("fargate: "));
    write("prices.yaml", read("prices.yaml").replace("vcpu_hour: 0.04048", "vcpu_hour: 0.4048"));
    assert!(switchyard(&asked).0.starts_with("function: "));
    write("routing.yaml", read("routing.yaml").replace("unknown_seconds: 30", "unknown_seconds: no"));
    let (_, err, code) = switchyard(&asked);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("routing.yaml:13:1: unknown_seconds: invalid type: string \"no\", expected a whole number"),
        "{err}"
    );
}

#[test]
fn a_yard_explains_by_its_own_conditions() {
    let home = Home::new();
    let yard = home.start();
    let ask = |args: &[&str]| Ended::of(home.switchyard().args(["explain"]).args(args));
    let here = ask(&["sh", r#"{"script":"true"}"#]);
    assert!(here.code == Some(0) && here.stdout.starts_with("fleet/standard: "), "{here:?}");
    // Its worker has a slot free: nothing starts sooner, and nothing is cheaper.
    let soon = ask(&["sh", r#"{"script":"true"}"#, "--tier", "synchronous"]);
    assert!(soon.stdout.starts_with("fleet/standard: "), "{soon:?}");
    let body = json!({ "capability": "sh", "payload": { "script": "true" }, "tier": "synchronous",
        "conditions": { "free_pools": [] } });
    let busy = yard.post("/v1/explain", &body).json();
    assert_eq!((busy["venue"].as_str(), busy["met"].as_bool()), (Some("fargate"), Some(true)), "{busy}");
    // Submitted it would be refused; explained it is an answer.
    let huge = ask(&["huge"]);
    assert!(huge.code == Some(0) && huge.stdout.starts_with("refused: "), "{huge:?}");
    let wrong = ask(&["sh", "{}"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("invalid_payload"), "{wrong:?}");
    let body = br#"{"capability":"huge","conditions":{"left":3}}"#;
    let answer = yard.ask("POST", "/v1/explain", body);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("invalid_field")));
    assert!(answer.json()["detail"].as_str().unwrap().contains("conditions"));
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn what_runs_showed_stands_beside_what_is_declared() {
    let home = Home::new();
    let yard = home.start();
    let explain = || Ended::of(home.switchyard().args(["explain", "sh", r#"{"script":"true"}"#])).stdout;
    assert!(!explain().contains("observed"));
    let jobs: Vec<String> = (0..20).map(|_| yard.submit("sh", "true")).collect();
    jobs.iter().for_each(|id| drop(yard.settled(id)));
    assert!(explain().contains("observed: 20 runs, 95 % within 1 s"), "{}", explain());
    let listed = yard.get("/v1/capabilities").json();
    let sh = listed["capabilities"].as_array().unwrap().iter().find(|capability| capability["name"] == "sh").unwrap();
    assert_eq!((&sh["observed"]["runs"], &sh["observed"]["suggests"]), (&20.into(), &Value::Null), "{sh}");
    assert_eq!(yard.stop(), Some(0));
    let yard = home.start();
    assert!(explain().contains("observed: 20 runs"), "it outlives the yard: {}", explain());
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn what_jobs_would_have_cost_is_added_up() {
    let home = Home::new();
    let yard = home.start();
    for capability in ["sh", "sh", "task"] {
        let id = yard.submit(capability, "sleep 0.1");
        let job = yard.settled(&id);
        assert!(
            job["spent_nanodollars"].as_u64() > Some(0) && job["estimated_nanodollars"].as_u64() > Some(0),
            "{job}"
        );
    }
    let table = Ended::of(home.switchyard().arg("cost")).stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    // A task is billed for a minute at least, and so comes first.
    assert_eq!((&rows[1][..3], &rows[2][..3]), (&["task", "fargate", "1"][..], &["sh", "fleet", "2"][..]), "{table}");
    assert_eq!(&rows[3][..2], ["all", "3"]);
    assert!(table.contains("what AWS would have charged") && table.contains("us-east-1"), "{table}");
    let later = Ended::of(home.switchyard().args(["--json", "cost", "--since", "2126-01-01T00:00:00Z"]));
    let later: Value = serde_json::from_str(&later.stdout).unwrap();
    assert_eq!((&later["spend"], &later["nanodollars"]), (&serde_json::json!([]), &0.into()));
    let wrong = Ended::of(home.switchyard().args(["cost", "--since", "yesterday"]));
    assert!(wrong.code == Some(2) && wrong.stderr.contains("since"), "{wrong:?}");
    assert_eq!(yard.stop(), Some(0));
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    for (args, wanted) in [
        ("explain --aws", "expected either a capability or --run"),
        ("explain --aws finding-triage --run builtin", "expected either a capability or --run"),
        ("explain --aws no-such-thing", "there is no capability `no-such-thing`"),
        ("explain --aws --run builtin --only Here", "--only: `Here` cannot name a pool"),
        ("explain --aws --run builtin --free UP", "--free: `UP` cannot name a pool"),
        ("explain --aws --run builtin --vcpu 0", "--vcpu: expected 0.001 to 192"),
        ("explain --run builtin", "--aws"),
    ] {
        let (_, err, code) = switchyard(args);
        assert_eq!(code, Some(2), "{args}: {err}");
        assert!(err.contains(wanted), "{args}: {err}");
    }
}
