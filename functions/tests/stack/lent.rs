//! What a run is lent by the deployed broker, and who is lent nothing.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::deployed::{Deployed, User, block, env, said};

const KEY: &str = "canary-of-the-stack-key";
const PARAMETER: &str = "canary-of-the-stack-parameter";

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn borrowed(yard: &Deployed) {
    let prefix = env("SWITCHYARD_QUEUES");
    block(async {
        let secret = yard.clients.secretsmanager().create_secret().name(format!("{prefix}/stack-key"));
        secret.secret_string(KEY).send().await.expect("a secret");
        let parameter = yard.clients.ssm().put_parameter().name(format!("/{prefix}/stack-parameter"));
        let secure = aws_sdk_ssm::types::ParameterType::SecureString;
        parameter.value(PARAMETER).r#type(secure).send().await.expect("a parameter");
    });
    let id = yard.submit("stack-borrows", &json!({ "role": format!("{prefix}-lent") }));
    let job = yard.ended(&id, 60);
    let printed = said(&yard.cli(User::Viewer, &["logs", &id]));
    assert_eq!(job["state"], "succeeded", "{job}\n{printed}");
    for secret in [KEY, PARAMETER] {
        assert!(printed.contains(&digest(secret)), "{printed}");
    }
    // Each is on record, with what STS calls the credentials that the program had, and given back at the end.
    let listed = yard.ask(User::Operator, &["loans", "--job", &id]);
    let loans = listed["loans"].as_array().expect("loans");
    let of = |outcome: &str| loans.iter().filter(|loan| loan["outcome"] == outcome).count();
    assert_eq!((of("lent"), of("returned"), of("refused")), (3, 3, 0), "{listed}");
    let role = loans.iter().find(|loan| loan["scope"]["kind"] == "aws" && loan["outcome"] == "lent").expect("a role's");
    let reference = role["reference"].as_str().expect("an access key's id");
    assert!(printed.contains(reference), "{reference}: {printed}");
    assert_eq!((&role["caller"], &role["capability"]), (&job["caller"], &json!("stack-borrows")));
    let shown = yard.cli(User::Submitter, &["loans"]);
    assert!(!shown.status.success(), "what is lent is the operator's to see: {}", said(&shown));
    // A payload asks for no more than its capability may have, and a run for no more than its own.
    let wide = yard.cli(User::Submitter, &["submit", "stack-borrows", r#"{"role":"another"}"#]);
    assert!(!wide.status.success() && said(&wide).contains("may not borrow"), "{}", said(&wide));
    let stolen = json!({ "v": 1, "lend": {
        "voucher": { "job": id, "epoch": 1, "token": "00".repeat(32) },
        "scope": { "kind": "global", "secret": "stack-key" },
    } });
    let (answer, failed) = yard.invoke("CREDENTIAL_BROKER", &stolen);
    assert!(!failed && answer["refused"]["code"] == "not_running", "{answer}");
    let (answer, failed) = yard.invoke("CREDENTIAL_BROKER", &json!({ "v": 1, "lend": {} }));
    assert!(failed && !answer.to_string().contains("canary"), "{answer}");
    // Workers may ask it, and nobody else who has a key.
    for (user, may) in [(User::Worker, true), (User::Submitter, false), (User::Operator, false)] {
        let lambda = yard.clients_of(user).lambda();
        let name = env("STACK_CREDENTIAL_BROKER_FUNCTION");
        let payload = aws_sdk_lambda::primitives::Blob::new(stolen.to_string());
        let invoked = block(lambda.invoke().function_name(name).payload(payload).send());
        assert_eq!(invoked.is_ok(), may, "{invoked:?}");
    }
    keeps_no_secret(yard);
}

/// Neither the table, nor the log of any function, nor what the emulator's functions print has a secret in it.
fn keeps_no_secret(yard: &Deployed) {
    let (rows, lines) = block(async {
        let mut rows = String::new();
        let mut from = None;
        loop {
            let scan = yard.clients.dynamodb().scan().table_name(env("SWITCHYARD_TABLE")).set_exclusive_start_key(from);
            let page = scan.send().await.expect("the table");
            rows.push_str(&format!("{:?}", page.items()));
            from = page.last_evaluated_key().cloned();
            if from.is_none() {
                break;
            }
        }
        let logs = yard.clients.logs();
        let mut lines = String::new();
        for group in logs.describe_log_groups().send().await.expect("groups").log_groups() {
            let name = group.log_group_name().expect("a name");
            let events = logs.filter_log_events().log_group_name(name).send().await.expect("events");
            events.events().iter().for_each(|event| lines.push_str(event.message().unwrap_or_default()));
        }
        (rows, lines)
    });
    assert!(rows.contains("stack-borrows") && !lines.is_empty(), "the search has lost its way");
    for secret in [KEY, PARAMETER] {
        assert!(!rows.contains(secret) && !lines.contains(secret), "a secret is kept");
    }
}
