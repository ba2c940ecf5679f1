//! Amazon resource names, taken apart, and the names of resource types.

/// An ARN: `arn:partition:service:region:account:resource` (AWS General Reference).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arn<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: &'a str,
    /// The service's namespace, such as `ec2`.
    pub service: &'a str,
    /// Empty for global services and for S3.
    pub region: &'a str,
    /// Empty for S3 buckets and a few others.
    pub account: &'a str,
    /// All the rest, which may hold further colons and slashes: `instance/i-99999999`.
    pub resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Takes an ARN apart; None for a bare id.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        if parts.next() != Some("arn") {
            return None;
        }
        let arn = Self {
            partition: parts.next()?,
            service: parts.next()?,
            region: parts.next()?,
            account: parts.next()?,
            resource: parts.next()?,
        };
        let complete = arn.partition.starts_with("aws") && !arn.service.is_empty() && !arn.resource.is_empty();
        complete.then_some(arn)
    }
}

/// The kind of a resource, in the spelling of the AWS Security Finding Format, from any of the
/// spellings in use: `AWS::EC2::SecurityGroup` (Config, CloudTrail, Access Analyzer), `AWS_EC2_INSTANCE`
/// (Inspector), `AwsEc2Instance` (Security Hub). Anything else is left as it is.
pub(super) fn kind(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("AWS::") {
        let words: String = rest.split("::").map(camel).collect();
        return format!("Aws{words}");
    }
    if name.starts_with("AWS_") && !name.contains(|c: char| c.is_ascii_lowercase()) {
        return name.split('_').map(camel).collect();
    }
    name.to_owned()
}

/// How findings spell a resource's type, where that is another spelling than this one.
pub(crate) fn respelt(name: &str) -> Option<String> {
    let right = match name.strip_prefix("AWS") {
        Some(rest) if rest.starts_with("::") || rest.starts_with('_') => kind(name),
        Some(rest) => format!("Aws{}", camel(rest)),
        None => camel(name),
    };
    (right != name).then_some(right)
}

/// The service that a kind belongs to, as ARNs name it; None if the kind does not tell.
pub(super) fn service_of_kind(kind: &str) -> Option<String> {
    let rest = kind.strip_prefix("Aws")?;
    // The two services whose name is more than one word of the kind and that findings are often about.
    for (words, service) in [("DynamoDb", "dynamodb"), ("SecretsManager", "secretsmanager")] {
        if rest.starts_with(words) {
            return Some(service.to_owned());
        }
    }
    let end = rest.char_indices().skip(1).find(|(_, c)| c.is_ascii_uppercase())?.0;
    Some(rest[..end].to_ascii_lowercase())
}

/// `EC2` -> `Ec2`, `DBInstance` -> `DbInstance`, `SecurityGroup` -> itself: in a run of capitals only the
/// first stays one, and the last if a small letter follows it.
fn camel(word: &str) -> String {
    let letters: Vec<char> = word.chars().collect();
    let mut out = String::with_capacity(word.len());
    for (index, &letter) in letters.iter().enumerate() {
        let after_capital = index > 0 && letters[index - 1].is_ascii_uppercase();
        let after_digit = index > 0 && letters[index - 1].is_ascii_digit();
        let before_small = letters.get(index + 1).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && (after_capital || after_digit) && !before_small {
            out.push(letter.to_ascii_lowercase());
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_taken_apart_and_a_bare_id_is_not_one() {
        let arn = Arn::parse("arn:aws:lambda:eu-west-1:123456789012:function:report:live").unwrap();
        assert_eq!((arn.service, arn.account, arn.resource), ("lambda", "123456789012", "function:report:live"));
        assert_eq!(Arn::parse("arn:aws:s3:::bucket/key").map(|a| a.resource), Some("bucket/key"));
        for bare in ["i-99999999", "arn:aws:s3", "arn:aws:s3:::", "arn:x:s3:::b", ""] {
            assert_eq!(Arn::parse(bare), None, "{bare}");
        }
    }

    #[test]
    fn kinds_have_one_spelling() {
        for (given, expected) in [
            ("AWS::EC2::SecurityGroup", "AwsEc2SecurityGroup"),
            ("AWS::RDS::DBInstance", "AwsRdsDbInstance"),
            ("AWS::DynamoDB::Table", "AwsDynamoDbTable"),
            ("AWS::EC2::VPC", "AwsEc2Vpc"),
            ("AWS_EC2_INSTANCE", "AwsEc2Instance"),
            ("AWS_ECR_CONTAINER_IMAGE", "AwsEcrContainerImage"),
            ("AwsIamAccessKey", "AwsIamAccessKey"),
            ("Other", "Other"),
        ] {
            assert_eq!(kind(given), expected);
        }
    }

    #[test]
    fn a_kind_tells_its_service() {
        for (kind, service) in [
            ("AwsEc2Instance", Some("ec2")),
            ("AwsS3Bucket", Some("s3")),
            ("AwsDynamoDbTable", Some("dynamodb")),
            ("AwsAccount", None),
            ("Other", None),
            ("Aws", None),
            ("Awsé", None),
        ] {
            assert_eq!(service_of_kind(kind).as_deref(), service, "{kind}");
        }
    }

    #[test]
    fn another_spelling_of_a_kind_is_told_the_right_one() {
        for (name, right) in [
            ("AWS::S3::Bucket", Some("AwsS3Bucket")),
            ("AWS_EC2_INSTANCE", Some("AwsEc2Instance")),
            ("AwsEC2Instance", Some("AwsEc2Instance")),
            ("AWSIAMUser", Some("AwsIamUser")),
            ("AWSS3Bucket", Some("AwsS3Bucket")),
            ("AwsS3Bucket", None),
            ("AwsEc2Instance", None),
            ("AwsRdsDbInstance", None),
            ("AwsElbv2LoadBalancer", None),
            ("AwsAppSyncGraphQlApi", None),
            ("AwsDynamoDbTable", None),
            ("Container", None),
            ("Other", None),
        ] {
            assert_eq!(respelt(name).as_deref(), right, "{name}");
        }
    }
}
