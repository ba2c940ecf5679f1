//! Another version of the functions is deployed over this one while jobs are under way, and rolled back in one command.

use std::process::Command;

use serde_json::json;

use crate::deployed::{Deployed, block, env, root, said};

const FUNCTIONS: [&str; 8] = [
    "HTTP_API",
    "FINDING_LISTENER",
    "TASK_LISTENER",
    "RESULT_LISTENER",
    "JOB_RUNNER",
    "JOB_REAPER",
    "FLEET_SCALER",
    "CREDENTIAL_BROKER",
];

/// The hashes of the functions' code, as Lambda has them.
fn code(yard: &Deployed) -> Vec<String> {
    let hash = |function: &str| {
        let name = env(&format!("STACK_{function}_FUNCTION"));
        let asked = yard.clients.lambda().get_function_configuration().function_name(name).send();
        block(asked).expect("it is there").code_sha256.expect("a hash")
    };
    FUNCTIONS.into_iter().map(hash).collect()
}

fn stack(command: &str) {
    let output = Command::new("sh").arg("infra/stack.sh").arg(command).current_dir(root()).output().expect("sh starts");
    assert!(output.status.success(), "{command}: {}", said(&output));
}

pub(crate) fn upgraded_and_rolled_back(yard: &Deployed) {
    let before = code(yard);
    let mut jobs = vec![yard.submit("stack-quick", &json!({})), yard.submit("stack-long", &json!({}))];
    // Other bytes that do the same: what is shown is that they come, and go again.
    for name in [
        "http_api",
        "finding_listener",
        "task_listener",
        "result_listener",
        "job_runner",
        "job_reaper",
        "fleet_scaler",
        "credential_broker",
    ] {
        let bootstrap = root().join(format!("target/lambda/{name}/bootstrap"));
        let note = root().join("Cargo.toml");
        let section = format!(".note.next={}", note.display());
        let added = Command::new("objcopy").args(["--add-section", &section]).arg(&bootstrap).output();
        let added = added.expect("objcopy starts");
        assert!(added.status.success(), "{}", said(&added));
    }
    stack("again");
    let next = code(yard);
    assert!(before.iter().zip(&next).all(|(before, next)| before != next), "all are others: {before:?} {next:?}");
    // A deployment that changes nothing takes nothing from the way back.
    stack("again");
    assert_eq!(code(yard), next);
    jobs.push(yard.submit("stack-quick", &json!({})));
    jobs.push(
        yard.submit("stack-unmeasured", &json!({ "event": { "source": "x", "detail-type": "y", "detail": {} } })),
    );
    stack("back");
    assert_eq!(code(yard), before, "all are what they were");
    jobs.push(yard.submit("stack-quick", &json!({})));
    for id in jobs {
        let job = yard.ended(&id, 120);
        assert_eq!(job["state"], "succeeded", "{job:#}");
    }
    eprintln!("ok: all functions were upgraded and rolled back under jobs, and all of these ended well");
}
