//! What does not come in.

use serde_json::json;

use crate::deployed::{Deployed, User, env, said};

pub(crate) fn roles(yard: &Deployed) {
    let url = format!("{}/v1/jobs", env("SWITCHYARD_URL"));
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let unsigned = agent.get(&url).call().expect("an answer");
    assert!(matches!(unsigned.status().as_u16(), 401 | 403), "{}", unsigned.status());
    let open = agent.get(format!("{}/health", env("SWITCHYARD_URL"))).call().expect("an answer");
    assert_eq!(open.status().as_u16(), 200, "whether it lives is everybody's to ask");
    let submit = ["submit", "stack-quick", "{}"];
    for (user, submits, delivers) in
        [(User::Viewer, false, false), (User::Submitter, true, false), (User::Operator, true, true)]
    {
        assert!(yard.cli(user, &["jobs", "--limit", "1"]).status.success());
        let submitted = yard.cli(user, &submit);
        assert_eq!(submitted.status.success(), submits, "{}", said(&submitted));
        let delivered = yard.cli(user, &["reload"]);
        assert_eq!(delivered.status.success(), delivers, "{}", said(&delivered));
    }
}

pub(crate) fn kinds(yard: &Deployed) {
    let kinesis = json!({ "Records": [{ "eventSource": "aws:kinesis", "kinesis": { "data": "e30=" } }] });
    let (answer, failed) = yard.invoke("HTTP_API", &kinesis);
    assert!(failed, "it is no request: {answer}");
    let (answer, failed) = yard.invoke("JOB_RUNNER", &json!({ "version": 9, "job": "x", "epoch": 1 }));
    assert!(failed && answer["errorMessage"].as_str().is_some_and(|why| why.contains("version 9")), "{answer}");
    let (answer, failed) = yard.invoke("FINDING_LISTENER", &kinesis);
    assert!(!failed && answer["parked"] == 1, "{answer}");
}
