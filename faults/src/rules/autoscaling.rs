//! Auto Scaling: the bounds of a group, and who is in it.
//!
//! Nothing is remembered: what a group is like is asked each time, and no other request that asks runs meanwhile, so that
//! two workers that go home at once do not both pass the minimum.

use roxmltree::{Document, Node};
use url::form_urlencoded;

use super::{Question, Verdict};
use crate::answer::{Answer, Refusal};
use crate::call::Call;

/// Limits of Auto Scaling.
/// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_SetInstanceProtection.html>
#[derive(Clone, Debug)]
pub struct AutoScalingLimits {
    /// Instances in one SetInstanceProtection.
    pub protection_ids: usize,
}

impl Default for AutoScalingLimits {
    fn default() -> Self {
        Self { protection_ids: 50 }
    }
}

/// A group, as DescribeAutoScalingGroups shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    name: String,
    min: i64,
    max: i64,
    desired: i64,
    instances: Vec<String>,
}

pub(super) fn before(limits: &AutoScalingLimits, call: &Call, told: &[Answer]) -> Verdict {
    let refusal = match call.operation.as_str() {
        "TerminateInstanceInAutoScalingGroup" if field(call, "ShouldDecrementDesiredCapacity").is_none() => invalid(
            "1 validation error detected: Value null at 'shouldDecrementDesiredCapacity' failed to satisfy \
                     constraint: Member must not be null",
        ),
        "SetInstanceProtection" if instance_ids(call).count() > limits.protection_ids => invalid(&format!(
            "1 validation error detected: Value at 'instanceIds' failed to satisfy constraint: Member must have length less \
             than or equal to {}",
            limits.protection_ids
        )),
        "TerminateInstanceInAutoScalingGroup"
        | "SetDesiredCapacity"
        | "SetInstanceHealth"
        | "SetInstanceProtection"
        | "UpdateAutoScalingGroup" => None,
        _ => return Verdict::Forward,
    };
    if refusal.is_some() {
        return Verdict::of(call, refusal);
    }
    let mut groups = Vec::new();
    let mut next = Some(None);
    for answer in told {
        let (Ok(text), true) = (std::str::from_utf8(&answer.body), answer.is_ok()) else { return Verdict::Forward };
        let Ok(document) = Document::parse(text) else { return Verdict::Forward };
        groups.extend(groups_in(&document));
        next = text_in(document.root_element(), "NextToken").map(Some);
    }
    match next {
        Some(token) => Verdict::Ask(describe(token.as_deref())),
        None => Verdict::of(call, bounds(call, &groups)),
    }
}

/// What the group's state forbids.
fn bounds(call: &Call, groups: &[Group]) -> Option<Refusal> {
    let of_instance = |id: &str| groups.iter().find(|group| group.instances.iter().any(|instance| instance == id));
    let named = || groups.iter().find(|group| Some(group.name.as_str()) == field(call, "AutoScalingGroupName"));
    let number = |name: &str| field(call, name).and_then(|value| value.parse::<i64>().ok());
    let unknown =
        |id: &str| invalid(&format!("Instance Id not found - No managed instance found for instance ID: {id}"));
    match call.operation.as_str() {
        "TerminateInstanceInAutoScalingGroup" | "SetInstanceHealth" => {
            let id = field(call, "InstanceId").unwrap_or_default();
            let Some(group) = of_instance(id) else { return unknown(id) };
            let is_decrement = field(call, "ShouldDecrementDesiredCapacity").is_some_and(|value| value == "true");
            if is_decrement && group.desired <= group.min {
                return invalid(&format!(
                    "Currently, desiredSize equals minSize ({}). Terminating instance without replacement will violate \
                     group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min \
                     size.",
                    group.min
                ));
            }
            None
        }
        "SetInstanceProtection" => {
            let group = named()?;
            let stranger = instance_ids(call).find(|id| !group.instances.iter().any(|instance| instance == id))?;
            invalid(&format!("The instance {stranger} is not part of Auto Scaling group {}.", group.name))
        }
        "SetDesiredCapacity" => {
            let (group, desired) = (named()?, number("DesiredCapacity")?);
            if desired > group.max {
                return invalid(&format!(
                    "New SetDesiredCapacity value {desired} is above max value {} for the AutoScalingGroup.",
                    group.max
                ));
            }
            if desired < group.min {
                return invalid(&format!(
                    "New SetDesiredCapacity value {desired} is below min value {} for the AutoScalingGroup.",
                    group.min
                ));
            }
            None
        }
        "UpdateAutoScalingGroup" => {
            let group = named()?;
            let (min, max) = (number("MinSize").unwrap_or(group.min), number("MaxSize").unwrap_or(group.max));
            if min > max {
                return invalid("Max bound must be greater than or equal to min bound");
            }
            let desired = number("DesiredCapacity").filter(|desired| !(min..=max).contains(desired))?;
            invalid(&format!(
                "Desired capacity:{desired} must be between the specified min size:{min} and max size:{max}"
            ))
        }
        _ => None,
    }
}

fn invalid(message: &str) -> Option<Refusal> {
    Some(Refusal::new("ValidationError", message))
}

fn field<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.form.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn instance_ids(call: &Call) -> impl Iterator<Item = &str> {
    call.form.iter().filter(|(name, _)| name.starts_with("InstanceIds.member.")).map(|(_, id)| id.as_str())
}

fn describe(next: Option<&str>) -> Question {
    let mut body = form_urlencoded::Serializer::new(String::new());
    let operation = "DescribeAutoScalingGroups";
    body.extend_pairs([("Action", operation), ("Version", "2011-01-01"), ("MaxRecords", "100")]);
    body.extend_pairs(next.map(|token| ("NextToken", token)));
    Question { operation, body: body.finish(), alone: true }
}

fn groups_in(document: &Document<'_>) -> Vec<Group> {
    let of = |member: Node<'_, '_>| {
        let number = |name: &str| text_in(member, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let instances = member.children().find(|child| child.has_tag_name_any("Instances"));
        let ids = instances.into_iter().flat_map(|instances| instances.children());
        Group {
            name: text_in(member, "AutoScalingGroupName").unwrap_or_default(),
            min: number("MinSize"),
            max: number("MaxSize"),
            desired: number("DesiredCapacity"),
            instances: ids.filter_map(|instance| text_in(instance, "InstanceId")).collect(),
        }
    };
    let all = document.descendants().find(|node| node.has_tag_name_any("AutoScalingGroups"));
    all.into_iter().flat_map(|all| all.children().filter(Node::is_element)).map(of).collect()
}

/// A tag by its local name: emulators differ in namespaces.
trait LocalName {
    fn has_tag_name_any(&self, name: &str) -> bool;
}

impl LocalName for Node<'_, '_> {
    fn has_tag_name_any(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// The text of a child; for `NextToken`, of a child of the result.
fn text_in(node: Node<'_, '_>, name: &str) -> Option<String> {
    let is_it = |child: &Node<'_, '_>| child.has_tag_name_any(name);
    let mut children = node.children();
    let child = children.find(is_it).or_else(|| node.children().flat_map(|child| child.children()).find(is_it))?;
    child.text().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Service;
    use crate::call::tests::call;
    use hyper::body::Bytes;
    use serde_json::Value;

    /// A group `fleet` of 1 to 3 instances, two of them there.
    const FLEET: &str = "<DescribeAutoScalingGroupsResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">
        <DescribeAutoScalingGroupsResult><AutoScalingGroups><member>
        <AutoScalingGroupName>fleet</AutoScalingGroupName><MinSize>1</MinSize><MaxSize>3</MaxSize>
        <DesiredCapacity>2</DesiredCapacity><Instances>
        <member><InstanceId>i-1</InstanceId></member><member><InstanceId>i-2</InstanceId></member>
        </Instances></member></AutoScalingGroups></DescribeAutoScalingGroupsResult>
        </DescribeAutoScalingGroupsResponse>";

    fn request(operation: &str, fields: &[(&str, &str)]) -> Call {
        let form = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Call { form, ..call(Service::AutoScaling, operation, Value::Null) }
    }

    fn answer(call: &Call, xml: &str) -> Answer {
        Answer { body: Bytes::from(xml.to_owned()), ..Answer::plain(call, String::new()) }
    }

    /// The message of the refusal, when the groups are these.
    fn refused_of(xml: &str, operation: &str, fields: &[(&str, &str)]) -> Option<String> {
        let call = request(operation, fields);
        match before(&AutoScalingLimits::default(), &call, &[answer(&call, xml)]) {
            Verdict::Forward => None,
            Verdict::Answer(answer) => {
                assert_eq!(answer.error_code().as_deref(), Some("ValidationError"));
                Some(String::from_utf8(answer.body.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(operation: &str, fields: &[(&str, &str)]) -> Option<String> {
        refused_of(FLEET, operation, fields)
    }

    fn terminate(xml: &str, id: &str, decrement: &str) -> Option<String> {
        let fields = [("InstanceId", id), ("ShouldDecrementDesiredCapacity", decrement)];
        refused_of(xml, "TerminateInstanceInAutoScalingGroup", &fields)
    }

    #[test]
    fn terminating_must_say_whether_to_decrement() {
        let call = request("TerminateInstanceInAutoScalingGroup", &[("InstanceId", "i-1")]);
        assert!(matches!(before(&AutoScalingLimits::default(), &call, &[]), Verdict::Answer(_)));
    }

    #[test]
    fn a_decrement_at_the_minimum_is_refused_and_a_replacement_is_not() {
        let at_minimum = FLEET.replace("<MinSize>1", "<MinSize>2");
        assert_eq!(terminate(FLEET, "i-1", "true"), None);
        assert!(terminate(&at_minimum, "i-1", "true").unwrap().contains("desiredSize equals minSize (2)"));
        assert_eq!(terminate(&at_minimum, "i-1", "false"), None);
    }

    #[test]
    fn an_instance_of_no_group_is_refused() {
        assert!(terminate(FLEET, "i-9", "false").unwrap().contains("No managed instance found for instance ID: i-9"));
        assert!(refused("SetInstanceHealth", &[("InstanceId", "i-9")]).is_some());
        assert_eq!(refused("SetInstanceHealth", &[("InstanceId", "i-1")]), None);
    }

    #[test]
    fn the_desired_capacity_stays_within_the_groups_bounds() {
        let set = |desired: &str| {
            refused("SetDesiredCapacity", &[("AutoScalingGroupName", "fleet"), ("DesiredCapacity", desired)])
        };
        assert!(set("0").unwrap().contains("below min value 1"));
        assert_eq!([set("1"), set("3")], [None, None]);
        assert!(set("4").unwrap().contains("above max value 3"));
    }

    #[test]
    fn an_update_keeps_desired_between_min_and_max() {
        let update = |field: (&'static str, &'static str)| {
            refused("UpdateAutoScalingGroup", &[("AutoScalingGroupName", "fleet"), field])
        };
        assert_eq!(update(("DesiredCapacity", "3")), None);
        assert!(update(("DesiredCapacity", "4")).is_some());
        assert!(update(("MinSize", "4")).is_some());
    }

    #[test]
    fn at_most_50_instances_are_protected_at_once_and_all_of_the_group() {
        let ids = |n: usize| {
            let mut call = request("SetInstanceProtection", &[("AutoScalingGroupName", "fleet")]);
            call.form.extend((1..=n).map(|n| (format!("InstanceIds.member.{n}"), "i-1".to_owned())));
            before(&AutoScalingLimits::default(), &call, &[answer(&call, FLEET)])
        };
        assert!(matches!(ids(50), Verdict::Forward));
        assert!(matches!(ids(51), Verdict::Answer(_)));
        let stranger = [("AutoScalingGroupName", "fleet"), ("InstanceIds.member.1", "i-9")];
        assert!(refused("SetInstanceProtection", &stranger).unwrap().contains("not part of Auto Scaling group fleet"));
    }

    #[test]
    fn the_group_is_asked_for_page_by_page_and_alone() {
        let call = request("SetDesiredCapacity", &[("AutoScalingGroupName", "fleet"), ("DesiredCapacity", "9")]);
        let judged = |told: &[Answer]| before(&AutoScalingLimits::default(), &call, told);
        let Verdict::Ask(first) = judged(&[]) else { panic!("nothing was asked") };
        assert_eq!(first.body, "Action=DescribeAutoScalingGroups&Version=2011-01-01&MaxRecords=100");
        assert!(first.alone);
        let more =
            "<R><DescribeAutoScalingGroupsResult><NextToken>n t</NextToken></DescribeAutoScalingGroupsResult></R>";
        let Verdict::Ask(second) = judged(&[answer(&call, more)]) else { panic!("no second page was asked for") };
        assert!(second.body.ends_with("&NextToken=n+t"));
        assert!(matches!(judged(&[answer(&call, more), answer(&call, FLEET)]), Verdict::Answer(_)));
    }

    #[test]
    fn a_service_that_does_not_say_decides_itself() {
        assert_eq!(terminate("no xml", "i-9", "true"), None);
        assert!(matches!(
            before(&AutoScalingLimits::default(), &request("DescribePolicies", &[]), &[]),
            Verdict::Forward
        ));
    }
}
