//! What jobs emit, from their file to the registers, by the program as people and scripts use it.

#[expect(dead_code, reason = "other tests use what this one does not")]
mod common_bad;

use common_bad::{Ended, Home, Yard, eventually};
use serde_json::{Value, json};

/// Emits what its script writes; as a process of the yard's own worker, and as a task with a desk of its own.
const EMITS: &str = r#"
  - name: scan
    summary: emits
    run: { command: [sh, -c, "{{script}}"] }
    emits: { asset: { type: object, properties: { port: { type: integer } } }, finding: true, metric: true }
    needs: { timeout_seconds: 120, grace_seconds: 1, memory_mib: 16 }
    retry: { attempts: 1 }
  - name: scan-task
    summary: emits, as a task
    run: { command: [sh, -c, "{{script}}"] }
    emits: { asset: true }
    route: { only: [fargate] }
    needs: { timeout_seconds: 120, grace_seconds: 1, memory_mib: 16 }
    retry: { attempts: 1 }
"#;

fn home() -> Home {
    let home = Home::new();
    let file = home.policies().join("capabilities.yaml");
    let catalog = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, catalog + EMITS).unwrap();
    home
}

fn run(yard: &Yard<'_>, capability: &str, script: &str) -> (String, Value) {
    let id = yard.submit(capability, script);
    let job = yard.settled(&id);
    (id, job)
}

fn rows(home: &Home, args: &[&str]) -> Vec<Value> {
    let ended = Ended::of(home.switchyard().args(args).arg("--json"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["id"].as_str()).collect()
}

/// What the yard itself says in a job's log.
fn said(yard: &Yard<'_>, id: &str) -> Vec<String> {
    let log = yard.get(&format!("/v1/jobs/{id}/logs")).json();
    let lines = log["lines"].as_array().unwrap().iter().filter(|line| line["stream"] == "yard");
    lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

fn parked(home: &Home) -> Vec<Value> {
    let files = std::fs::read_dir(home.data().join("parked")).unwrap().map(|entry| entry.unwrap().path());
    files
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn good_records_are_listed_and_bad_ones_are_parked_and_told_and_the_job_succeeds() {
    let home = home();
    let yard = home.start();
    let script = r#"
        echo '{"kind":"asset","id":"host:a","port":22}' >"$SWITCHYARD_RECORDS_PATH"
        {
            echo 'no JSON'
            echo '{"kind":"asset","id":"host:b","port":"x"}'
            echo '{"kind":"log","message":"not of this capability"}'
            head -c 300000 /dev/zero | tr '\0' x; echo
            echo '{"kind":"metric","name":"open_ports","value":1}'
            echo
            printf '{"kind":"finding","id":"open:22"}'
        } >>"$SWITCHYARD_RECORDS_PATH"
    "#;
    let (id, job) = run(&yard, "scan", script);
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let records = rows(&home, &["records", &id]);
    let numbers: Vec<u64> = records.iter().filter_map(|record| record["n"].as_u64()).collect();
    assert_eq!(numbers, [1, 7, 6], "by kind: an asset, a finding, a metric");
    assert_eq!(ids(&rows(&home, &["records", &id, "--kind", "asset"])), ["host:a"]);
    assert_eq!(ids(&rows(&home, &["assets"])), ["host:a"]);
    assert_eq!(ids(&rows(&home, &["findings", "--capability", "scan"])), ["open:22"]);
    assert_eq!(rows(&home, &["assets", "--since", "2999-01-01T00:00:00Z"]), Vec::<Value>::new());
    let page = yard.get(&format!("/v1/jobs/{id}/result?kind=metric")).json();
    assert_eq!(page["records"][0]["record"]["value"], json!(1));
    let said = said(&yard, &id);
    assert!(said.iter().any(|line| line == "1 records were left out: a line has 262144 bytes at most"), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("3 lines are no records, and are parked")), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("line 3: does_not_fit: ")), "{said:?}");
    let mut codes: Vec<String> = parked(&home).iter().map(|one| one["code"].as_str().unwrap().to_owned()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["does_not_fit", "not_emitted", "not_json"]);
    let table = Ended::of(home.switchyard().arg("assets"));
    assert!(table.stdout.contains("host:a") && table.stdout.trim_start().starts_with("ID"), "{table:?}");
}

#[test]
fn a_task_emits_by_its_own_desk_and_a_restart_keeps_what_it_emitted() {
    let home = home();
    let yard = home.start();
    let script =
        r#"for n in $(seq 1200); do echo "{\"kind\":\"asset\",\"id\":\"host:$n\"}"; done >"$SWITCHYARD_RECORDS_PATH""#;
    let (id, job) = run(&yard, "scan-task", script);
    assert_eq!((job["state"].as_str(), job["venue"].as_str()), (Some("succeeded"), Some("fargate")), "{job:#}");
    assert_eq!(rows(&home, &["records", &id]).len(), 1200);
    assert_eq!(yard.stop(), Some(0));
    let yard = home.start();
    assert_eq!(rows(&home, &["records", &id]).len(), 1200);
    assert_eq!(rows(&home, &["assets", "--limit", "500"]).len(), 500);
    drop(yard);
}

#[test]
fn what_a_run_emits_is_shown_while_it_runs_and_what_is_seen_again_is_one_asset() {
    let home = home();
    let yard = home.start();
    let go = home.path().join("go");
    let script = format!(
        r#"echo '{{"kind":"asset","id":"host:a","port":1}}' >"$SWITCHYARD_RECORDS_PATH"
           while [ ! -e {} ]; do sleep 0.05; done
           echo '{{"kind":"asset","id":"host:a","port":2}}' >>"$SWITCHYARD_RECORDS_PATH""#,
        go.display()
    );
    let id = yard.submit("scan", &script);
    let first = eventually("the first asset", || rows(&home, &["assets"]).into_iter().next());
    assert_eq!((first["record"]["port"].as_u64(), yard.job(&id)["state"].as_str()), (Some(1), Some("running")));
    std::fs::write(&go, "").unwrap();
    assert_eq!(yard.settled(&id)["state"], "succeeded");
    let assets = rows(&home, &["assets"]);
    assert_eq!((assets.len(), assets[0]["record"]["port"].as_u64()), (1, Some(2)));
    assert!(assets[0]["first_seen"].as_str() < assets[0]["last_seen"].as_str(), "{assets:?}");
}
