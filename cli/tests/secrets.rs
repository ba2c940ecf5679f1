//! One machine lends from the file that its operator names, and not a byte of that file is anywhere but in the hands of the
//! run, whatever is logged, asked and stored.

#[expect(dead_code, reason = "the crash tests ask more of a yard than these do")]
mod yard;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use yard::Yard;

const CANARY: &str = "canary-0f6b";
const SECRET: &str = "canary-0f6b-of-the-operator";
const AWS_SECRET: &str = "canary-0f6b-of-aws";

fn capability(name: &str, only: &str) -> String {
    format!(
        "  - name: {name}\n    summary: says what it is lent by its digest\n    run: {{ command: [sh, -c, 'sha256sum \
         <\"$SWITCHYARD_CREDENTIALS/search\"; cat /proc/self/limits'] }}\n    needs: {{ timeout_seconds: 60, memory_mib: \
         16 }}\n    route: {{ only: [{only}] }}\n    retry: {{ attempts: 1 }}\n    borrows: {{ search: {{ kind: global, \
         secret: shodan }} }}\n    may_borrow: [ {{ kind: global, secret: shodan }} ]\n"
    )
}

/// A yard that logs all it can, with a file of secrets beside its folder.
fn lending() -> (Yard, PathBuf) {
    let mut yard = Yard::new(2, 2);
    let catalog =
        format!("version: 1\ncapabilities:\n{}{}", capability("slot", "fleet"), capability("task", "fargate"));
    fs::write(yard.policies().join("capabilities.yaml"), catalog).unwrap();
    let file = yard.policies().join("../secrets.yaml");
    let text = format!("shodan: {SECRET}\naws: {{ access_key_id: AKIAEXAMPLE, secret_access_key: {AWS_SECRET} }}\n");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    // The arguments of a process of a test live as long as it does.
    let named: &'static str = Box::leak(file.display().to_string().into_boxed_str());
    yard.more.extend(["--credentials", named]);
    yard.environment.push(("RUST_LOG", "trace"));
    (yard, file)
}

fn searched(folder: &Path, spared: &Path, files: &mut usize) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            searched(&entry.path(), spared, files);
        } else if entry.file_name() != spared.file_name().unwrap() {
            // A file that is gone by now says nothing.
            let Ok(bytes) = fs::read(entry.path()) else { continue };
            *files += 1;
            let found = bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
            assert!(!found, "a secret is in {}", entry.path().display());
        }
    }
}

fn ran(yard: &Yard, key: &str, capability: &str) -> (String, Value, String) {
    let client = yard.client();
    let (id, _) = client.submit(key, &json!({ "capability": capability }));
    let job = client.settled(&id);
    let log = client.get(&format!("/v1/jobs/{id}/logs")).to_string();
    (id, job, log)
}

#[test]
fn a_run_is_lent_from_the_file_and_nothing_keeps_or_tells_what_is_in_it() {
    let (mut yard, file) = lending();
    yard.start();
    let digest: String = Sha256::digest(SECRET).iter().map(|byte| format!("{byte:02x}")).collect();
    for capability in ["slot", "task"] {
        let (id, job, log) = ran(&yard, capability, capability);
        assert_eq!(job["state"], "succeeded", "{job} {log}");
        assert!(log.contains(&digest), "{log}");
        // No picture of its memory is ever taken.
        let limit = log.split("Max core file size").nth(1).unwrap().trim_start();
        assert!(limit.starts_with("0 ") || limit.starts_with("1 "), "{limit}");
        let page = yard.client().get(&format!("/v1/loans?job={id}"));
        let loans = page["loans"].as_array().unwrap();
        let became: Vec<&str> = loans.iter().map(|loan| loan["outcome"].as_str().unwrap()).collect();
        assert_eq!(became, ["returned", "lent"], "{page}");
    }
    // What the file does not have, and then the file that others can read: refused, on record, and told without a secret.
    fs::write(&file, "other: x\n").unwrap();
    // What was read a moment ago is used for five minutes: a yard that is started anew has nothing of it.
    yard.terminate();
    yard.start();
    for (key, mode, said) in [("missing", 0o600, "not in the store"), ("readable", 0o644, "600")] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let (id, job, _) = ran(&yard, key, "slot");
        assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("loan_refused")), "{job}");
        assert!(job["error"]["message"].as_str().unwrap().contains(said), "{job}");
        let page = yard.client().get(&format!("/v1/loans?job={id}"));
        assert_eq!(page["loans"][0]["code"], "secret_missing", "{page}");
    }
    for path in ["/v1/jobs", "/v1/loans", "/v1/yard", "/v1/capabilities", "/v1/workers", "/openapi.json"] {
        assert!(!yard.client().get(path).to_string().contains(CANARY), "{path}");
    }
    yard.terminate();
    let mut files = 0;
    searched(&yard.policies().join(".."), &file, &mut files);
    assert!(files > 5, "the search has lost its way");
}

#[test]
fn a_yard_does_not_open_with_a_file_that_others_can_read() {
    let (yard, file) = lending();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let refused = yard.second();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("600") && !said.contains(CANARY), "{said}");
}
