//! Config's three ways to speak: "Config Rules Compliance Change", "Config Configuration Item Change"
//! (Config Developer Guide, "Monitoring with EventBridge"), and the invocation of a custom rule, which is
//! no envelope at all ("Example events for Config rules").

use serde_json::Value;

use super::arn;
use super::envelope::{Envelope, Outcome};
use super::field::{Defects, Node};
use super::{Finding, Resource, Standing};

/// The `detail-type` given to invocations, which have none.
pub(super) const RULE_INVOCATION: &str = "Config Custom Rule Invocation";

pub(super) fn is_rule_invocation(event: &Value) -> bool {
    event.get("detail-type").is_none()
        && event.get("invokingEvent").is_some_and(Value::is_string)
        && event.get("configRuleName").is_some_and(Value::is_string)
}

pub(super) fn compliance_change(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    let result = detail.get("newEvaluationResult");
    let qualifier = result.get("evaluationResultIdentifier.evaluationResultQualifier");
    let kind = kind(&[detail.get("resourceType"), qualifier.get("resourceType")], defects);
    let id_field = first(&[detail.get("resourceId"), qualifier.get("resourceId")]);
    let resource = id_field.resource(&kind, defects);
    if id_field.is_absent() {
        id_field.expected("a resource id", defects);
    }
    let rule =
        first(&[detail.get("configRuleName"), qualifier.get("configRuleName")]).text(defects).unwrap_or_default();
    let compliance = result.get("complianceType").text(defects).unwrap_or_default();
    // INSUFFICIENT_DATA says neither that it is wrong nor that it is right.
    if compliance == "INSUFFICIENT_DATA" {
        return Outcome::nothing("Config had too little data to evaluate the resource.");
    }
    let standing = match compliance.as_str() {
        "COMPLIANT" | "NOT_APPLICABLE" => Standing::Resolved,
        _ => Standing::Active,
    };
    let time = envelope.time_of(&[result.get("resultRecordedTime"), detail.get("notificationCreationTime")], defects);
    let mut finding = Finding {
        account: envelope.account_of(&[detail.get("awsAccountId")], defects),
        region: envelope.region_of(&[detail.get("awsRegion")], defects),
        updated_at: time,
        standing,
        ..envelope.blank()
    };
    finding.title = title(&rule, &kind, resource.as_ref(), &compliance);
    finding.id = id(&finding, &rule, resource.as_ref()).unwrap_or_else(|| envelope.derived_id(detail.value()));
    finding.finding_type = rule;
    finding.resources = resource.into_iter().collect();
    Outcome::Findings(vec![finding])
}

pub(super) fn item_change(envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    let Some(detail) = envelope.detail.object(defects) else {
        return Outcome::Findings(Vec::new());
    };
    Outcome::Findings(item(detail, envelope, None, defects).into_iter().collect())
}

pub(super) fn rule_invocation(event: &Value, defects: &mut Defects) -> Outcome {
    let root = Node::new("", event);
    let mut envelope = Envelope::open(event, defects);
    envelope.source = "aws.config".to_owned();
    envelope.detail_type = RULE_INVOCATION.to_owned();
    envelope.account = envelope.account_of(&[root.get("accountId")], defects);
    let rule = root.get("configRuleName").text(defects).unwrap_or_default();

    // The event that invoked the rule travels as JSON in a string.
    let text = event.get("invokingEvent").and_then(Value::as_str).unwrap_or_default();
    let Ok(invoking) = serde_json::from_str::<Value>(text) else {
        defects.add("invokingEvent", "expected a JSON object in a string");
        return Outcome::Findings(Vec::new());
    };
    let invoking = Node::new("invokingEvent", &invoking);
    if invoking.object(defects).is_none() {
        return Outcome::Findings(Vec::new());
    }
    if invoking.get("messageType").text(defects).as_deref() == Some("ScheduledNotification") {
        return Outcome::nothing("A periodic invocation of a rule names no resource.");
    }
    let mut finding = item(&invoking, &envelope, Some(&rule), defects);
    if let Some(finding) = &mut finding
        && root.get("eventLeftScope").boolean(defects) == Some(true)
        && finding.standing == Standing::Active
    {
        finding.standing = Standing::Resolved;
    }
    Outcome::Findings(finding.into_iter().collect())
}

/// A configuration item, or the summary that replaces one too large to send.
fn item(detail: &Node<'_>, envelope: &Envelope<'_>, rule: Option<&str>, defects: &mut Defects) -> Option<Finding> {
    let item = first(&[detail.get("configurationItem"), detail.get("configurationItemSummary")]);
    let item = item.object(defects)?;
    let kind = kind(&[item.get("resourceType")], defects);
    let id_field = first(&[item.get("ARN"), item.get("arn"), item.get("resourceId")]);
    let resource = id_field.resource(&kind, defects);
    let status = item.get("configurationItemStatus").text(defects).unwrap_or_default();
    let name = rule.unwrap_or(&status).to_owned();
    let mut finding = Finding {
        account: envelope.account_of(&[item.get("awsAccountId")], defects),
        region: envelope.region_of(&[item.get("awsRegion")], defects),
        updated_at: envelope
            .time_of(&[item.get("configurationItemCaptureTime"), detail.get("notificationCreationTime")], defects),
        standing: match status.as_str() {
            "ResourceDeleted" | "ResourceDeletedNotRecorded" => Standing::Deleted,
            _ => Standing::Active,
        },
        ..envelope.blank()
    };
    finding.title = title(&name, &kind, resource.as_ref(), &status);
    finding.id = id(&finding, &name, resource.as_ref()).unwrap_or_else(|| envelope.derived_id(detail.value()));
    finding.finding_type = name;
    finding.resources = resource.into_iter().collect();
    Some(finding)
}

/// A rule's name is unique in an account and region only, and it has one verdict for each resource.
fn id(finding: &Finding, rule: &str, resource: Option<&Resource>) -> Option<String> {
    let resource = resource?;
    let id = format!("config/{}/{}/{rule}/{}/{}", finding.account, finding.region, resource.kind, resource.id);
    // The parts are bounded one by one; together they can pass the limit.
    Node::new("", &Value::from(id)).finding_id(&mut Defects::default())
}

fn title(name: &str, kind: &str, resource: Option<&Resource>, verdict: &str) -> String {
    let subject = resource.map_or("an unnamed resource", |r| r.id.as_str());
    let text = if name == verdict {
        format!("{kind} {subject}: {verdict}")
    } else {
        format!("{name}: {kind} {subject} is {verdict}")
    };
    super::field::clean(&text, super::TEXT_MAX_CHARS)
}

fn kind(fields: &[Node<'_>], defects: &mut Defects) -> String {
    first(fields).text(defects).map_or_else(|| "Other".to_owned(), |name| arn::kind(&name))
}

/// The first field that is there, else the first.
fn first<'a>(fields: &[Node<'a>]) -> Node<'a> {
    fields.iter().find(|field| !field.is_absent()).unwrap_or(&fields[0]).clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::finding::{Reading, Standing, read};

    #[test]
    fn compliance_decides_the_standing() {
        for (verdict, expected) in [
            ("NON_COMPLIANT", Some(Standing::Active)),
            ("COMPLIANT", Some(Standing::Resolved)),
            ("NOT_APPLICABLE", Some(Standing::Resolved)),
            ("INSUFFICIENT_DATA", None),
        ] {
            let event = json!({"detail-type": "Config Rules Compliance Change", "detail": {
                "configRuleName": "r", "resourceType": "AWS::S3::Bucket", "resourceId": "b",
                "newEvaluationResult": {"complianceType": verdict}}});
            let standing = match read(&event).unwrap() {
                Reading::Findings { findings, .. } => Some(findings[0].standing),
                Reading::Nothing { .. } => None,
                Reading::Unknown { .. } => panic!("known"),
            };
            assert_eq!(standing, expected, "{verdict}");
        }
    }

    #[test]
    fn an_id_tells_accounts_rules_and_resources_apart() {
        let id = |account: &str, resource: &str| {
            let event = json!({"detail-type": "Config Rules Compliance Change", "detail": {
                "configRuleName": "r", "resourceType": "AWS::S3::Bucket",
                "resourceId": resource, "awsAccountId": account, "awsRegion": "us-east-1"}});
            match read(&event).unwrap() {
                Reading::Findings { findings, .. } => findings[0].id.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(id("123456789012", "b"), "config/123456789012/us-east-1/r/AwsS3Bucket/b");
        assert_ne!(id("123456789012", "b"), id("111122223333", "b"));
    }

    #[test]
    fn an_invocation_without_a_resource_is_nothing_and_a_broken_one_a_defect() {
        let invocation = |text: &str| read(&json!({"configRuleName": "r", "invokingEvent": text})).unwrap();
        assert!(matches!(invocation(r#"{"messageType":"ScheduledNotification"}"#), Reading::Nothing { .. }));
        for broken in ["{", "[]", "{}"] {
            let Reading::Findings { findings, defects } = invocation(broken) else {
                panic!("{broken}");
            };
            assert!(findings.is_empty(), "{broken}");
            assert!(defects[0].path.starts_with("invokingEvent"), "{broken}");
        }
    }

    #[test]
    fn a_resource_that_left_the_scope_asks_for_nothing() {
        let event = json!({"configRuleName": "r", "eventLeftScope": true, "invokingEvent":
            r#"{"configurationItem":{"resourceType":"AWS::EC2::Volume","resourceId":"vol-1",
                "configurationItemStatus":"OK"}}"#});
        let Reading::Findings { findings, .. } = read(&event).unwrap() else {
            panic!("findings");
        };
        assert_eq!(findings[0].standing, Standing::Resolved);
    }
}
