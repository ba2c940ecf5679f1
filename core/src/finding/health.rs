//! Events "AWS Health Event" and "AWS Health Abuse Event" (Health User Guide, "Health events EventBridge
//! schema").

use super::arn::Arn;
use super::envelope::{Envelope, Outcome, settle_resources};
use super::field::{self, Defects, Node};
use super::{Finding, Resource, Standing, TEXT_MAX_CHARS};

pub(super) fn event(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let service = detail.get("service").text(defects).unwrap_or_default();
    let code = detail.get("eventTypeCode").text(defects).unwrap_or_default();
    let category = detail.get("eventTypeCategory").text(defects).unwrap_or_default();
    let title = [service.as_str(), &code, &category].join(" ");
    let entities = detail.get("affectedEntities");
    let resources = entities.items(defects).iter().filter_map(|item| resource(item, defects)).collect();
    let status = detail.get("statusCode").text(defects).unwrap_or_default();
    let finding = Finding {
        finding_type: code,
        title: field::clean(&title, TEXT_MAX_CHARS),
        account: envelope.account_of(&[detail.get("affectedAccount")], defects),
        region: envelope.region_of(&[detail.get("eventRegion")], defects),
        resources: settle_resources(resources, entities.path(), defects),
        id: id(detail, envelope, defects),
        updated_at: envelope.time_of(&[detail.get("lastUpdatedTime"), detail.get("startTime")], defects),
        standing: match status.as_str() {
            "closed" => Standing::Resolved,
            _ => Standing::Active,
        },
        ..envelope.blank()
    };
    Outcome::Findings(vec![finding])
}

/// The communication's id: the event's ARN is shared by accounts and regions, and a communication that
/// is also sent to a backup region keeps its id. Its pages name different entities, so each is its own.
fn id(detail: &Node<'_>, envelope: &Envelope<'_>, defects: &mut Defects) -> String {
    let field = detail.get("communicationId");
    if field.is_absent() {
        return envelope.derived_id(detail.value());
    }
    let id = envelope.id_of(&field, detail.value(), defects);
    match detail.get("page").value() {
        serde_json::Value::String(page) if page != "1" && page.len() <= 6 => {
            let page = field::clean(page, TEXT_MAX_CHARS);
            field::clean(&format!("{page}/{id}"), super::ID_MAX_CHARS)
        }
        _ => id,
    }
}

/// Health names entities by ARN, id or nothing better than these two words.
fn resource(item: &Node<'_>, defects: &mut Defects) -> Option<Resource> {
    item.object(defects)?;
    let field = item.get("entityValue");
    let id = field.exact(defects)?;
    if matches!(id.as_str(), "UNKNOWN" | "AWS_ACCOUNT") {
        return None;
    }
    let kind = match Arn::parse(&id) {
        Some(arn) if arn.service == "ec2" && arn.resource.starts_with("instance/") => "AwsEc2Instance",
        Some(arn) if arn.service == "lambda" && arn.resource.starts_with("function:") => "AwsLambdaFunction",
        Some(arn) if arn.service == "rds" && arn.resource.starts_with("db:") => "AwsRdsDbInstance",
        None if is_ec2_id(&id, "i-") => "AwsEc2Instance",
        None if is_ec2_id(&id, "vol-") => "AwsEc2Volume",
        Some(_) | None => "Other",
    };
    Some(Resource { kind: kind.to_owned(), id })
}

fn is_ec2_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix)
        .is_some_and(|rest| matches!(rest.len(), 8 | 17) && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
