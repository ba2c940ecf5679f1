//! Event "Macie Finding" (Macie User Guide, "EventBridge event schema for Macie findings").

use super::envelope::{Envelope, Outcome, settle_resources, settle_signals};
use super::field::{Defects, Node};
use super::{Finding, Resource, Severity, Signal, Standing};

pub(super) fn finding(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let affected = detail.get("resourcesAffected");
    let access = affected.get("s3Bucket.publicAccess.effectivePermission").text(defects);
    let finding = Finding {
        finding_type: detail.get("type").text(defects).unwrap_or_default(),
        title: detail.get("title").text(defects).unwrap_or_default(),
        severity: severity(detail, defects),
        account: envelope.account_of(&[detail.get("accountId")], defects),
        region: envelope.region_of(&[detail.get("region")], defects),
        resources: settle_resources(resources(&affected, defects), affected.path(), defects),
        id: envelope.id_of(&detail.get("id"), detail.value(), defects),
        updated_at: envelope.time_of(&[detail.get("updatedAt"), detail.get("createdAt")], defects),
        standing: match detail.get("archived").boolean(defects) {
            Some(true) => Standing::Archived,
            Some(false) | None => Standing::Active,
        },
        signals: settle_signals([
            (Signal::Sample, detail.get("sample").boolean(defects) == Some(true)),
            (Signal::Public, access.as_deref() == Some("PUBLIC")),
        ]),
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

/// `description` is a word, `score` 1 to 3 says the same.
fn severity(detail: &Node<'_>, defects: &mut Defects) -> Option<Severity> {
    if let Some(severity) = detail.get("severity.description").severity(defects) {
        return Some(severity);
    }
    let field = detail.get("severity.score");
    match field.value().as_i64() {
        Some(1) => Some(Severity::Low),
        Some(2) => Some(Severity::Medium),
        Some(3) => Some(Severity::High),
        Some(_) | None => {
            if !field.is_absent() {
                field.expected("1, 2 or 3", defects);
            }
            None
        }
    }
}

/// The bucket by its ARN, and the object by `path`, which is bucket, slash, key: a key alone names nothing.
fn resources(affected: &Node<'_>, defects: &mut Defects) -> Vec<Resource> {
    let mut found = Vec::new();
    let bucket = affected.get("s3Bucket");
    let id = ["arn", "name"].map(|key| bucket.get(key)).into_iter().find(|field| !field.is_absent());
    found.extend(id.and_then(|field| field.resource("AwsS3Bucket", defects)));
    let object = affected.get("s3Object");
    let id = ["path"].map(|key| object.get(key)).into_iter().find(|field| !field.is_absent());
    found.extend(id.and_then(|field| field.resource("AwsS3Object", defects)));
    found
}
