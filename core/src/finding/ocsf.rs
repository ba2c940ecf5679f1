//! Security Hub's findings in the Open Cybersecurity Schema Framework: event "Findings Imported V2"
//! (Security Hub User Guide, "EventBridge event formats" and "OCSF findings").

use super::arn;
use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{Defects, Node};
use super::{Finding, OTHER_TYPES_MAX, Resource, Severity, Signal, Standing};

pub(super) fn findings(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    envelope.each_finding(defects, finding)
}

fn finding(node: &Node<'_>, envelope: &Envelope<'_>, defects: &mut Defects) -> Finding {
    let info = node.get("finding_info");
    let mut types: Vec<String> =
        info.get("types").items(defects).iter().filter_map(|item| item.text(defects)).collect();
    if types.is_empty() {
        types.extend(node.get("type_name").text(defects));
    }
    let finding_type = if types.is_empty() { String::new() } else { types.remove(0) };
    types.extend(node.get("compliance.control").text(defects));
    types.truncate(OTHER_TYPES_MAX);

    let resource_nodes = node.get("resources").items(defects);
    let mut region_fields = vec![node.get("cloud.region")];
    region_fields.extend(resource_nodes.iter().map(|item| item.get("region")));
    let resources = resource_nodes.iter().filter_map(|item| resource(item, defects)).collect();

    // `finding_info.uid` is unique only within an account and a product.
    let id_field = [node.get("metadata.uid"), info.get("uid")]
        .into_iter()
        .find(|field| !field.is_absent())
        .unwrap_or_else(|| info.get("uid"));

    Finding {
        finding_type,
        other_types: types,
        title: info.get("title").text(defects).unwrap_or_default(),
        severity: severity(node, defects),
        account: envelope.account_of(&[node.get("cloud.account.uid")], defects),
        region: envelope.region_of(&region_fields, defects),
        resources: settle_resources(resources, node.get("resources").path(), defects),
        id: envelope.id_of(&id_field, node.value(), defects),
        updated_at: envelope.time_of(
            &[info.get("modified_time_dt"), info.get("modified_time"), node.get("time_dt"), node.get("time")],
            defects,
        ),
        standing: standing(node, defects),
        signals: settle_signals([(
            Signal::ExploitAvailable,
            node.walk("vulnerabilities[].is_exploit_available", defects)
                .iter()
                .any(|field| field.boolean(defects) == Some(true)),
        )]),
        ..envelope.blank()
    }
}

/// `severity_id`: 1 to 5 are ours, 6 is fatal, 0 unknown, 99 other.
fn severity(node: &Node<'_>, defects: &mut Defects) -> Option<Severity> {
    let field = node.get("severity_id");
    if field.is_absent() {
        return node.get("severity").severity(defects);
    }
    match field.value().as_i64() {
        Some(1) => Some(Severity::Informational),
        Some(2) => Some(Severity::Low),
        Some(3) => Some(Severity::Medium),
        Some(4) => Some(Severity::High),
        Some(5 | 6) => Some(Severity::Critical),
        Some(0 | 99) => None,
        Some(_) | None => {
            field.expected("a severity id: 0 to 6, or 99", defects);
            None
        }
    }
}

/// `status_id`: 1 new, 2 in progress, 3 suppressed, 4 resolved, 5 archived, 6 deleted. A control that
/// passes (`compliance.status_id` 1) asks for nothing either.
fn standing(node: &Node<'_>, defects: &mut Defects) -> Standing {
    let field = node.get("status_id");
    match field.value().as_i64() {
        Some(2) => Standing::Notified,
        Some(3) => Standing::Suppressed,
        Some(4) => Standing::Resolved,
        Some(5) => Standing::Archived,
        Some(6) => Standing::Deleted,
        Some(0 | 1 | 99) if node.get("compliance.status_id").value().as_i64() == Some(1) => Standing::Resolved,
        Some(0 | 1 | 99) => Standing::Active,
        Some(_) => {
            field.expected("a status id: 0 to 6, or 99", defects);
            Standing::Active
        }
        None => {
            if !field.is_absent() {
                field.expected("a status id: 0 to 6, or 99", defects);
            }
            Standing::Active
        }
    }
}

fn resource(item: &Node<'_>, defects: &mut Defects) -> Option<Resource> {
    item.object(defects)?;
    let kind = item.get("type").text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name));
    let id = ["uid", "uid_alt", "name"].into_iter().map(|key| item.get(key)).find(|field| !field.is_absent());
    match id {
        Some(field) => field.resource(&kind, defects),
        None => {
            item.get("uid").expected("an id", defects);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::finding::{Finding, Reading, Severity, Standing, read};

    fn read_one(finding: Value) -> Finding {
        let event = json!({
            "source": "aws.securityhub", "detail-type": "Findings Imported V2",
            "detail": {"findings": [finding]}
        });
        match read(&event) {
            Ok(Reading::Findings { findings, .. }) => findings.into_iter().next().expect("one"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn severity_ids_are_the_schemas() {
        for (id, expected) in [
            (json!(0), None),
            (json!(1), Some(Severity::Informational)),
            (json!(4), Some(Severity::High)),
            (json!(5), Some(Severity::Critical)),
            (json!(6), Some(Severity::Critical)),
            (json!(99), None),
            (json!(7), None),
            (json!("4"), None),
        ] {
            assert_eq!(read_one(json!({"severity_id": id})).severity, expected, "{id}");
        }
        assert_eq!(read_one(json!({"severity": "High"})).severity, Some(Severity::High));
    }

    #[test]
    fn status_ids_are_the_schemas() {
        for (id, expected) in [
            (json!(1), Standing::Active),
            (json!(2), Standing::Notified),
            (json!(3), Standing::Suppressed),
            (json!(4), Standing::Resolved),
            (json!(5), Standing::Archived),
            (json!(6), Standing::Deleted),
            (json!("x"), Standing::Active),
        ] {
            assert_eq!(read_one(json!({"status_id": id})).standing, expected, "{id}");
        }
        let passed = read_one(json!({"status_id": 1, "compliance": {"status_id": 1}}));
        assert_eq!(passed.standing, Standing::Resolved);
    }
}
