//! Events "Access Analyzer Finding" and "Unused Access Finding for IAM entities" (IAM User Guide,
//! "Monitoring IAM Access Analyzer with EventBridge").

use super::arn;
use super::envelope::{Envelope, Outcome, settle_signals};
use super::field::{self, Defects};
use super::{Finding, Signal, Standing, TEXT_MAX_CHARS};

pub(super) fn finding(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let public = detail.get("isPublic").boolean(defects) == Some(true);
    let kind = detail.get("resourceType").text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name));
    let resource = detail.get("resource").resource(&kind, defects);
    let finding_type = detail.get("findingType").text(defects).unwrap_or_else(|| {
        // The older event has no such field, and but one meaning.
        match envelope.detail_type.as_str() {
            "Access Analyzer Finding" => "ExternalAccess".to_owned(),
            other => other.to_owned(),
        }
    });
    let subject = resource.as_ref().map_or("an unnamed resource", |r| &r.id);
    let title = if public {
        format!("{finding_type}: {subject} is open to the public")
    } else {
        format!("{finding_type}: {subject}")
    };
    let status = detail.get("status").text(defects).unwrap_or_default();
    let deleted = detail.get("isDeleted").boolean(defects) == Some(true);
    let finding = Finding {
        title: field::clean(&title, TEXT_MAX_CHARS),
        account: envelope.account_of(&[detail.get("accountId")], defects),
        region: envelope.region_of(&[detail.get("region")], defects),
        id: envelope.id_of(&detail.get("id"), detail.value(), defects),
        updated_at: envelope.time_of(&[detail.get("updatedAt"), detail.get("analyzedAt")], defects),
        // Deleting a finding leaves its status as it was.
        standing: match status.as_str() {
            _ if deleted => Standing::Deleted,
            "ARCHIVED" => Standing::Archived,
            "RESOLVED" => Standing::Resolved,
            _ => Standing::Active,
        },
        signals: settle_signals([(Signal::Public, public)]),
        resources: resource.into_iter().collect(),
        finding_type,
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::finding::{Reading, Standing, read};

    #[test]
    fn a_deleted_finding_is_gone_whatever_its_status_says() {
        let event = json!({"detail-type": "Access Analyzer Finding",
            "detail": {"status": "ACTIVE", "isDeleted": true}});
        let Reading::Findings { findings, .. } = read(&event).unwrap() else {
            panic!("findings");
        };
        assert_eq!(findings[0].standing, Standing::Deleted);
    }
}
