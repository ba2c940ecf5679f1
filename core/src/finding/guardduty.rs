//! Event "GuardDuty Finding" (GuardDuty User Guide, "Finding details" and "Severity levels").

use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{Defects, Node};
use super::{Finding, Resource, Severity, Signal, Standing};

/// Where each part of `detail.resource` keeps its ids, best first, and the kind they name.
const BLOCKS: [(&str, &[&str], &str); 9] = [
    ("instanceDetails", &["instanceId"], "AwsEc2Instance"),
    ("s3BucketDetails[]", &["arn", "name"], "AwsS3Bucket"),
    ("eksClusterDetails", &["arn", "name"], "AwsEksCluster"),
    ("ecsClusterDetails", &["arn", "name"], "AwsEcsCluster"),
    ("containerDetails", &["id"], "Container"),
    ("lambdaDetails", &["functionArn", "functionName"], "AwsLambdaFunction"),
    ("rdsDbInstanceDetails", &["dbInstanceArn", "dbInstanceIdentifier"], "AwsRdsDbInstance"),
    ("ebsVolumeDetails.scannedVolumeDetails[]", &["volumeArn"], "AwsEc2Volume"),
    ("ebsSnapshotDetails", &["snapshotArn"], "AwsEc2Snapshot"),
];

pub(super) fn finding(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let resource = detail.get("resource");
    let resources = resources(detail, defects);
    let user_type = resource.get("accessKeyDetails.userType").text(defects);
    let finding = Finding {
        finding_type: detail.get("type").text(defects).unwrap_or_default(),
        title: detail.get("title").text(defects).unwrap_or_default(),
        severity: severity(&detail.get("severity"), defects),
        account: envelope.account_of(&[detail.get("accountId")], defects),
        region: envelope.region_of(&[detail.get("region")], defects),
        resources: settle_resources(resources, resource.path(), defects),
        id: envelope.id_of(&detail.get("id"), detail.value(), defects),
        updated_at: envelope.time_of(&[detail.get("updatedAt"), detail.get("createdAt")], defects),
        standing: match detail.get("service.archived").boolean(defects) {
            Some(true) => Standing::Archived,
            Some(false) | None => Standing::Active,
        },
        signals: settle_signals([
            (Signal::Sample, detail.get("service.additionalInfo.sample").boolean(defects) == Some(true)),
            (Signal::RootIdentity, user_type.as_deref() == Some("Root")),
            (
                Signal::Public,
                resource
                    .walk("instanceDetails.networkInterfaces[].publicIp", defects)
                    .iter()
                    .any(|field| field.text(defects).is_some()),
            ),
        ]),
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

/// 1 to 3.9 low, 4 to 6.9 medium, 7 to 8.9 high, 9 to 10 critical; retired finding types went down to 0.
fn severity(field: &Node<'_>, defects: &mut Defects) -> Option<Severity> {
    let number = field.number(defects)?;
    let severity = match number {
        n if !(0.0..=10.0).contains(&n) => {
            defects.add(field.path(), "expected a number from 0 to 10");
            return None;
        }
        n if n < 1.0 => Severity::Informational,
        n if n < 4.0 => Severity::Low,
        n if n < 7.0 => Severity::Medium,
        n if n < 9.0 => Severity::High,
        _ => Severity::Critical,
    };
    Some(severity)
}

fn resources(detail: &Node<'_>, defects: &mut Defects) -> Vec<Resource> {
    let resource = detail.get("resource");
    let mut found = Vec::new();
    for (block, ids, kind) in BLOCKS {
        for node in resource.walk(block, defects) {
            let id = ids.iter().map(|key| node.get(key)).find(|field| !field.is_absent());
            found.extend(id.and_then(|field| field.resource(kind, defects)));
        }
    }
    found.extend(key_resources(&resource.get("accessKeyDetails"), defects));
    // An attack sequence has no such part: it lists what it went through by itself.
    for node in detail.walk("service.detection.sequence.resources[]", defects) {
        let kind = match node.get("resourceType").text(defects).as_deref() {
            Some("EC2_INSTANCE") => "AwsEc2Instance",
            Some("EC2_NETWORK_INTERFACE") => "AwsEc2NetworkInterface",
            Some("S3_BUCKET") => "AwsS3Bucket",
            Some("S3_OBJECT") => "AwsS3Object",
            Some("ACCESS_KEY") => "AwsIamAccessKey",
            Some("EKS_CLUSTER") => "AwsEksCluster",
            Some("CONTAINER") => "Container",
            Some(_) | None => "Other",
        };
        found.extend(node.get("uid").resource(kind, defects));
    }
    found
}

/// A key, and whose it is: `userName` is a user's or a role's name, as `userType` says.
fn key_resources(key: &Node<'_>, defects: &mut Defects) -> Vec<Resource> {
    let mut found = Vec::new();
    let holder = match key.get("userType").text(defects).as_deref() {
        Some("IAMUser") | None => Some("AwsIamUser"),
        Some("AssumedRole" | "Role") => Some("AwsIamRole"),
        Some(_) => None,
    };
    if let Some(kind) = holder {
        found.extend(key.get("userName").resource(kind, defects));
    }
    found.extend(key.get("accessKeyId").resource("AwsIamAccessKey", defects));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::finding::{Finding, Reading, Severity, Standing, read};

    fn read_one(detail: Value) -> Finding {
        let event = json!({"detail-type": "GuardDuty Finding", "detail": detail});
        match read(&event) {
            Ok(Reading::Findings { findings, .. }) => findings.into_iter().next().expect("one"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn severities_have_the_documented_steps() {
        for (number, expected) in [
            (json!(0.5), Some(Severity::Informational)),
            (json!(1), Some(Severity::Low)),
            (json!(3.9), Some(Severity::Low)),
            (json!(4), Some(Severity::Medium)),
            (json!(6.9), Some(Severity::Medium)),
            (json!(7), Some(Severity::High)),
            (json!(8.9), Some(Severity::High)),
            (json!(9), Some(Severity::Critical)),
            (json!(10), Some(Severity::Critical)),
            (json!(11), None),
            (json!("8"), None),
            (json!(null), None),
        ] {
            assert_eq!(read_one(json!({"severity": number})).severity, expected, "{number}");
        }
    }

    #[test]
    fn an_archived_finding_asks_for_nothing() {
        let finding = read_one(json!({"service": {"archived": true}}));
        assert_eq!(finding.standing, Standing::Archived);
        assert!(!finding.standing.asks_for_action());
    }

    #[test]
    fn a_role_is_not_taken_for_a_user() {
        let finding = read_one(json!({"resource": {"accessKeyDetails": {
            "userType": "AssumedRole", "userName": "deploy", "accessKeyId": "ASIAEXAMPLE"}}}));
        let kinds: Vec<&str> = finding.resources.iter().map(|r| r.kind.as_str()).collect();
        assert_eq!(kinds, ["AwsIamRole", "AwsIamAccessKey"]);
    }

    #[test]
    fn a_finding_without_a_detail_is_a_defect_and_not_an_error() {
        let event = json!({"detail-type": "GuardDuty Finding", "detail": "oops"});
        let Ok(Reading::Findings { findings, defects }) = read(&event) else {
            panic!("findings");
        };
        assert!(findings.is_empty());
        assert_eq!(defects[0].to_string(), "detail: expected an object, found a string");
    }
}
