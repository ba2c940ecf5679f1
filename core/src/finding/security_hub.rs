//! Security Hub's findings in the AWS Security Finding Format: events "Security Hub Findings - Imported"
//! and "- Custom Action" (Security Hub User Guide, "AWS Security Finding Format").

use super::arn;
use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{Defects, Node};
use super::{Finding, OTHER_TYPES_MAX, Resource, Severity, Signal, Standing};

pub(super) fn findings(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    envelope.each_finding(defects, finding)
}

fn finding(node: &Node<'_>, envelope: &Envelope<'_>, defects: &mut Defects) -> Finding {
    let resource_nodes = node.get("Resources").items(defects);
    let mut region_fields = vec![node.get("Region")];
    region_fields.extend(resource_nodes.iter().map(|item| item.get("Region")));
    let resources = resource_nodes.iter().flat_map(|item| resources(item, defects)).collect();

    let mut types = types(node, defects);
    let finding_type = if types.is_empty() { String::new() } else { types.remove(0) };
    // The stable name of a control across standards: what a policy for it is best mapped by.
    types.extend(node.get("Compliance.SecurityControlId").text(defects));
    types.truncate(OTHER_TYPES_MAX);

    Finding {
        finding_type,
        other_types: types,
        title: node.get("Title").text(defects).unwrap_or_default(),
        severity: severity(node, defects),
        account: envelope.account_of(&[node.get("AwsAccountId")], defects),
        region: envelope.region_of(&region_fields, defects),
        resources: settle_resources(resources, node.get("Resources").path(), defects),
        id: envelope.id_of(&node.get("Id"), node.value(), defects),
        updated_at: envelope.time_of(&[node.get("UpdatedAt"), node.get("CreatedAt")], defects),
        standing: standing(node, defects),
        signals: settle_signals([
            (Signal::Sample, node.get("Sample").boolean(defects) == Some(true)),
            (
                Signal::ExploitAvailable,
                node.walk("Vulnerabilities[].ExploitAvailable", defects)
                    .iter()
                    .any(|field| field.text(defects).as_deref() == Some("YES")),
            ),
        ]),
        ..envelope.blank()
    }
}

/// `FindingProviderFields` holds what the sending product said first, and is all that some send.
fn types(node: &Node<'_>, defects: &mut Defects) -> Vec<String> {
    for field in ["Types", "FindingProviderFields.Types"] {
        let types: Vec<String> = node.get(field).items(defects).iter().filter_map(|item| item.text(defects)).collect();
        if !types.is_empty() {
            return types;
        }
    }
    Vec::new()
}

/// The label, or for findings older than labels the normalised number: 0, 1-39, 40-69, 70-89, 90-100.
fn severity(node: &Node<'_>, defects: &mut Defects) -> Option<Severity> {
    for field in ["Severity.Label", "FindingProviderFields.Severity.Label"] {
        if let Some(severity) = node.get(field).severity(defects) {
            return Some(severity);
        }
    }
    let field = node.get("Severity.Normalized");
    let number = field.number(defects)?;
    let severity = match number {
        n if !(0.0..=100.0).contains(&n) => {
            defects.add(field.path(), "expected a number from 0 to 100");
            return None;
        }
        n if n < 1.0 => Severity::Informational,
        n if n < 40.0 => Severity::Low,
        n if n < 70.0 => Severity::Medium,
        n if n < 90.0 => Severity::High,
        _ => Severity::Critical,
    };
    Some(severity)
}

/// Archived outranks everything; then what people said of it (`WorkflowState` is the retired name);
/// then a control that passes. What is not understood leaves the finding standing.
fn standing(node: &Node<'_>, defects: &mut Defects) -> Standing {
    let mut word = |field: &str| {
        let text = node.get(field).text(defects);
        text.map(|text| text.to_ascii_uppercase())
    };
    if word("RecordState").as_deref() == Some("ARCHIVED") {
        return Standing::Archived;
    }
    let workflow = word("Workflow.Status").or_else(|| word("WorkflowState"));
    match workflow.as_deref() {
        Some("SUPPRESSED") => return Standing::Suppressed,
        Some("RESOLVED") => return Standing::Resolved,
        Some("NOTIFIED" | "ASSIGNED" | "IN_PROGRESS" | "DEFERRED") => return Standing::Notified,
        Some(_) | None => {}
    }
    match word("Compliance.Status").as_deref() {
        Some("PASSED") => Standing::Resolved,
        Some(_) | None => Standing::Active,
    }
}

/// A resource, and the user behind an access key: GuardDuty's keys come with the id
/// `AWS::IAM::AccessKey:null`, and only their details say whose they are.
fn resources(item: &Node<'_>, defects: &mut Defects) -> Vec<Resource> {
    if item.object(defects).is_none() {
        return Vec::new();
    }
    let kind = item.get("Type").text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name));
    let mut found = Vec::new();
    match item.get("Id").resource(&kind, defects) {
        Some(resource) => found.push(resource),
        None if item.get("Id").is_absent() => item.get("Id").expected("an id", defects),
        None => {}
    }
    if kind == "AwsIamAccessKey" {
        let key = item.get("Details.AwsIamAccessKey");
        let principal = key.get("PrincipalType").text(defects);
        if matches!(principal.as_deref(), None | Some("User" | "IAMUser")) {
            found.extend(key.get("UserName").resource("AwsIamUser", defects));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::finding::{Finding, Reading, Severity, Standing, read};

    fn read_one(finding: Value) -> (Finding, Vec<String>) {
        let event = json!({
            "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
            "account": "111122223333", "region": "us-west-2", "detail": {"findings": [finding]}
        });
        match read(&event) {
            Ok(Reading::Findings { findings, defects }) => {
                (findings.into_iter().next().expect("one finding"), defects.iter().map(ToString::to_string).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_label_outranks_the_number_and_the_number_has_the_documented_steps() {
        let both = read_one(json!({"Severity": {"Label": "LOW", "Normalized": 99}}));
        assert_eq!(both.0.severity, Some(Severity::Low));
        for (number, expected) in [
            (json!(0), Some(Severity::Informational)),
            (json!(1), Some(Severity::Low)),
            (json!(39), Some(Severity::Low)),
            (json!(40), Some(Severity::Medium)),
            (json!(69), Some(Severity::Medium)),
            (json!(70), Some(Severity::High)),
            (json!(89), Some(Severity::High)),
            (json!(90), Some(Severity::Critical)),
            (json!(100), Some(Severity::Critical)),
            (json!(101), None),
            (json!(-1), None),
            (json!("70"), None),
        ] {
            let (finding, _) = read_one(json!({"Severity": {"Normalized": number}}));
            assert_eq!(finding.severity, expected, "{number}");
        }
    }

    #[test]
    fn the_account_is_the_findings_and_an_impossible_one_is_nobodys() {
        let (own, _) = read_one(json!({"AwsAccountId": "123456789012"}));
        assert_eq!(own.account, "123456789012");
        let (none, _) = read_one(json!({}));
        assert_eq!(none.account, "111122223333");
        let (bad, defects) = read_one(json!({"AwsAccountId": "123"}));
        assert_eq!(bad.account, "");
        assert_eq!(defects, ["detail.findings[0].AwsAccountId: expected an account id of 12 digits"]);
    }

    #[test]
    fn standing_follows_record_then_workflow_then_compliance() {
        for (finding, expected) in [
            (json!({}), Standing::Active),
            (json!({"RecordState": "ARCHIVED", "Workflow": {"Status": "NEW"}}), Standing::Archived),
            (json!({"Workflow": {"Status": "NEW"}}), Standing::Active),
            (json!({"Workflow": {"Status": "SUPPRESSED"}}), Standing::Suppressed),
            (json!({"Workflow": {"Status": "NOTIFIED"}}), Standing::Notified),
            (json!({"WorkflowState": "IN_PROGRESS"}), Standing::Notified),
            (json!({"Workflow": {"Status": "NEW"}, "Compliance": {"Status": "PASSED"}}), Standing::Resolved),
            (json!({"Compliance": {"Status": "FAILED"}}), Standing::Active),
        ] {
            assert_eq!(read_one(finding.clone()).0.standing, expected, "{finding}");
        }
    }

    #[test]
    fn an_unreadable_sibling_costs_nobody_else() {
        let event = json!({
            "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
            "detail": {"findings": [{"Id": "a"}, "not a finding", {"Id": "b", "Resources": 7}]}
        });
        let Ok(Reading::Findings { findings, defects }) = read(&event) else {
            panic!("findings");
        };
        let ids: Vec<&str> = findings.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        let defects: Vec<String> = defects.iter().map(ToString::to_string).collect();
        assert_eq!(
            defects,
            [
                "detail.findings[1]: expected an object, found a string",
                "detail.findings[2].Resources: expected a list, found a number"
            ]
        );
    }

    #[test]
    fn two_findings_without_ids_get_two() {
        let event = |second: &str| {
            json!({
                "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
                "id": second, "detail": {"findings": [{"Title": "a"}, {"Title": "b"}]}
            })
        };
        let ids = |event: &Value| match read(event) {
            Ok(Reading::Findings { findings, .. }) => findings.into_iter().map(|f| f.id).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let first = ids(&event("1"));
        assert_ne!(first[0], first[1]);
        assert!(first[0].starts_with("derived:"));
        assert_eq!(first, ids(&event("2")), "the envelope's id does not count");
    }
}
