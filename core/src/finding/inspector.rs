//! Event "Inspector2 Finding" (Inspector User Guide, "EventBridge event schema for Inspector events").

use super::arn;
use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{Defects, Node};
use super::{Finding, Resource, Signal, Standing};

pub(super) fn finding(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let resource_nodes = detail.get("resources").items(defects);
    let region_fields: Vec<Node<'_>> = resource_nodes.iter().map(|item| item.get("region")).collect();
    let resources = resource_nodes.iter().filter_map(|item| resource(item, defects)).collect();
    let finding_type = detail.get("type").text(defects).unwrap_or_default();
    let status = detail.get("status").text(defects).unwrap_or_default();
    let finding = Finding {
        other_types: detail.get("packageVulnerabilityDetails.vulnerabilityId").text(defects).into_iter().collect(),
        title: detail.get("title").text(defects).unwrap_or_default(),
        severity: detail.get("severity").severity(defects),
        account: envelope.account_of(&[detail.get("awsAccountId")], defects),
        region: envelope.region_of(&region_fields, defects),
        resources: settle_resources(resources, detail.get("resources").path(), defects),
        id: envelope.id_of(&detail.get("findingArn"), detail.value(), defects),
        updated_at: envelope.time_of(&[detail.get("updatedAt"), detail.get("lastObservedAt")], defects),
        standing: match status.as_str() {
            "SUPPRESSED" => Standing::Suppressed,
            "CLOSED" => Standing::Resolved,
            _ => Standing::Active,
        },
        signals: settle_signals([
            (Signal::ExploitAvailable, detail.get("exploitAvailable").text(defects).as_deref() == Some("YES")),
            // A network path from outside is what this type of finding means.
            (Signal::Public, finding_type == "NETWORK_REACHABILITY"),
        ]),
        finding_type,
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

fn resource(item: &Node<'_>, defects: &mut Defects) -> Option<Resource> {
    item.object(defects)?;
    let kind = item.get("type").text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name));
    let id = item.get("id");
    if id.is_absent() {
        id.expected("an id", defects);
    }
    id.resource(&kind, defects)
}
