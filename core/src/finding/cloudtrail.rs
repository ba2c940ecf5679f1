//! Calls and sign-ins that CloudTrail passes on: "AWS API Call via CloudTrail" and its siblings
//! (CloudTrail User Guide, "CloudTrail record contents").

use super::arn;
use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{self, Defects, Node};
use super::{Finding, Resource, Signal, TEXT_MAX_CHARS};

/// Where the calls of a service name what they are about. Only some records list `resources`, and those
/// that create something name it in the answer.
const NAMED: [(&str, &str, &str); 24] = [
    ("s3", "requestParameters.bucketName", "AwsS3Bucket"),
    ("ec2", "requestParameters.instancesSet.items[].instanceId", "AwsEc2Instance"),
    ("ec2", "responseElements.instancesSet.items[].instanceId", "AwsEc2Instance"),
    ("ec2", "requestParameters.instanceId", "AwsEc2Instance"),
    ("ec2", "requestParameters.groupId", "AwsEc2SecurityGroup"),
    ("ec2", "responseElements.groupId", "AwsEc2SecurityGroup"),
    ("ec2", "requestParameters.volumeId", "AwsEc2Volume"),
    ("ec2", "responseElements.volumeId", "AwsEc2Volume"),
    ("ec2", "requestParameters.vpcId", "AwsEc2Vpc"),
    ("ec2", "responseElements.vpc.vpcId", "AwsEc2Vpc"),
    ("iam", "requestParameters.userName", "AwsIamUser"),
    ("iam", "requestParameters.roleName", "AwsIamRole"),
    ("iam", "requestParameters.policyArn", "AwsIamPolicy"),
    ("iam", "requestParameters.accessKeyId", "AwsIamAccessKey"),
    ("iam", "responseElements.accessKey.accessKeyId", "AwsIamAccessKey"),
    ("lambda", "requestParameters.functionName", "AwsLambdaFunction"),
    ("rds", "requestParameters.dBInstanceIdentifier", "AwsRdsDbInstance"),
    ("dynamodb", "requestParameters.tableName", "AwsDynamoDbTable"),
    ("kms", "requestParameters.keyId", "AwsKmsKey"),
    ("sqs", "requestParameters.queueUrl", "AwsSqsQueue"),
    ("sqs", "responseElements.queueUrl", "AwsSqsQueue"),
    ("sns", "requestParameters.topicArn", "AwsSnsTopic"),
    ("cloudtrail", "requestParameters.name", "AwsCloudTrailTrail"),
    ("secretsmanager", "requestParameters.secretId", "AwsSecretsManagerSecret"),
];

pub(super) fn call(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let name = detail.get("eventName").text(defects).unwrap_or_default();
    if let Some(reason) = refusal(detail, &name, defects) {
        return Outcome::Nothing(reason);
    }
    let source = detail.get("eventSource").text(defects).unwrap_or_default();
    let service = source.strip_suffix(".amazonaws.com").unwrap_or(&source);
    let caller = detail.get("userIdentity");
    let caller_name = ["arn", "invokedBy", "type"]
        .map(|key| caller.get(key))
        .into_iter()
        .find_map(|field| field.text(defects))
        .unwrap_or_else(|| "an unnamed caller".to_owned());
    let resources = resources(detail, service, defects);
    let finding = Finding {
        finding_type: field::clean(&format!("{service}:{name}"), TEXT_MAX_CHARS),
        title: field::clean(&format!("{name} by {caller_name}"), TEXT_MAX_CHARS),
        // Whose trail it is: a caller from elsewhere has another account in `userIdentity`.
        account: envelope.account_of(&[detail.get("recipientAccountId")], defects),
        region: envelope.region_of(&[detail.get("awsRegion")], defects),
        resources: settle_resources(resources, "detail", defects),
        id: envelope.id_of(&detail.get("eventID"), detail.value(), defects),
        updated_at: envelope.time_of(&[detail.get("eventTime")], defects),
        signals: settle_signals([
            (Signal::RootIdentity, caller.get("type").text(defects).as_deref() == Some("Root")),
            (Signal::NoMfa, detail.get("additionalEventData.MFAUsed").text(defects).as_deref() == Some("No")),
        ]),
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

/// Why a call changed nothing, if it did not. Failed sign-ins carry a message and no code.
fn refusal(detail: &Node<'_>, name: &str, defects: &mut Defects) -> Option<String> {
    let failed_sign_in = detail.get("responseElements.ConsoleLogin").text(defects).as_deref() == Some("Failure");
    let code = detail.get("errorCode").text(defects).or_else(|| {
        if failed_sign_in {
            detail.get("errorMessage").text(defects).or_else(|| Some("a failure".to_owned()))
        } else {
            None
        }
    })?;
    Some(format!("The call {name} was refused with {code} and changed nothing."))
}

fn resources(detail: &Node<'_>, service: &str, defects: &mut Defects) -> Vec<Resource> {
    let mut found = Vec::new();
    for item in detail.get("resources").items(defects) {
        if item.object(defects).is_none() {
            continue;
        }
        let kind = item.get("type").text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name));
        let id = ["ARN", "arn"].map(|key| item.get(key)).into_iter().find(|field| !field.is_absent());
        found.extend(id.and_then(|field| field.resource(&kind, defects)));
    }
    for (of, path, kind) in NAMED {
        if of == service {
            for field in detail.walk(path, defects) {
                found.extend(field.resource(kind, defects));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::finding::{Reading, read};

    fn read_detail(detail: Value) -> Reading {
        read(&json!({"detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2",
            "account": "111122223333", "detail": detail}))
        .unwrap()
    }

    #[test]
    fn a_refused_call_or_sign_in_is_nothing_to_act_on() {
        let call = read_detail(json!({"eventName": "RunInstances", "errorCode": "Client.Nope"}));
        let Reading::Nothing { reason, .. } = call else {
            panic!("{call:?}");
        };
        assert_eq!(reason, "The call RunInstances was refused with Client.Nope and changed nothing.");
        let sign_in = read_detail(json!({"eventName": "ConsoleLogin",
            "errorMessage": "Failed authentication",
            "responseElements": {"ConsoleLogin": "Failure"}}));
        assert!(matches!(sign_in, Reading::Nothing { .. }), "{sign_in:?}");
    }

    #[test]
    fn the_account_is_the_trails_not_the_callers() {
        let reading = read_detail(json!({"eventName": "DeleteBucket",
            "userIdentity": {"accountId": "444455556666"}, "recipientAccountId": "123456789012"}));
        let Reading::Findings { findings, .. } = reading else {
            panic!("{reading:?}");
        };
        assert_eq!(findings[0].account, "123456789012");
    }

    #[test]
    fn what_a_call_made_is_found_in_its_answer_and_once() {
        let reading = read_detail(json!({"eventSource": "ec2.amazonaws.com",
            "eventName": "RunInstances", "requestParameters": {"instancesSet": {"items": []}},
            "responseElements": {"instancesSet": {"items": [
                {"instanceId": "i-1"}, {"instanceId": "i-2"}, {"instanceId": "i-1"}]}}}));
        let Reading::Findings { findings, .. } = reading else {
            panic!("{reading:?}");
        };
        let ids: Vec<&str> = findings[0].resources.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["i-1", "i-2"]);
    }
}
