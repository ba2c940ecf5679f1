//! What a finding's types and signals hint at, beyond its severity.
//!
//! Types come in families: GuardDuty's begin with a threat purpose (`Backdoor:EC2/...`), Security Hub's
//! with a namespace and category (`TTPs/Command and Control/...`), Macie's with `Policy:` or
//! `SensitiveData:`, and CloudTrail's are `service:Call` (GuardDuty User Guide, "Finding types"; Security
//! Hub User Guide, "Types taxonomy for ASFF"; Macie User Guide, "Types of findings").

use std::collections::BTreeMap;

use super::super::{Finding, Signal};

/// One family of what can be wrong, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    AttackSequence,
    CommandAndControl,
    Exfiltration,
    Credentials,
    RootIdentity,
    Impact,
    PrivilegeEscalation,
    Persistence,
    DefenseEvasion,
    InitialAccess,
    Execution,
    CryptoMining,
    Exposure,
    Exploit,
    SensitiveData,
    NoMfa,
    Reconnaissance,
}

/// Parts of types, in lower case, that belong to a family.
const PARTS: [(Hint, &[&str]); 14] = [
    (Hint::AttackSequence, &["attacksequence:"]),
    (Hint::CommandAndControl, &["backdoor:", "trojan:", "c&cactivity", "ttps/command and control"]),
    (Hint::Exfiltration, &["exfiltration"]),
    (
        Hint::Credentials,
        &[
            "credentialaccess:",
            "ttps/credential access",
            "credentialexfiltration",
            "compromisedcredentials",
            "s3object/credentials",
            "unauthorizedaccess:iamuser",
            "iam:createaccesskey",
            "iam:createloginprofile",
        ],
    ),
    (Hint::RootIdentity, &["rootcredentialusage"]),
    (Hint::Impact, &["impact:", "effects/data destruction", "effects/denial of service"]),
    (
        Hint::PrivilegeEscalation,
        &[
            "privilegeescalation:",
            "ttps/privilege escalation",
            "iam:attachuserpolicy",
            "iam:attachrolepolicy",
            "iam:putuserpolicy",
            "iam:putrolepolicy",
            "iam:updateassumerolepolicy",
        ],
    ),
    (Hint::Persistence, &["persistence:", "ttps/persistence", "iam:createuser"]),
    (
        Hint::DefenseEvasion,
        &[
            "defenseevasion:",
            "stealth:",
            "ttps/defense evasion",
            "cloudtrail:stoplogging",
            "cloudtrail:deletetrail",
            "guardduty:deletedetector",
            "config:stopconfigurationrecorder",
            "config:deleteconfigurationrecorder",
            "ec2:deleteflowlogs",
        ],
    ),
    (Hint::InitialAccess, &["initialaccess:", "unauthorizedaccess:", "ttps/initial access"]),
    (Hint::Execution, &["execution:", "ttps/execution"]),
    (Hint::CryptoMining, &["cryptocurrency:", "effects/resource consumption"]),
    (
        Hint::Exposure,
        &[
            "s3bucketpublic",
            "publicaccessdisabled",
            "anonymousaccessgranted",
            "bucketsharedexternally",
            "externalaccess",
            "effects/data exposure",
            "network reachability",
            "ec2:authorizesecuritygroupingress",
            "s3:deletebucketpublicaccessblock",
        ],
    ),
    (Hint::SensitiveData, &["sensitivedata:", "sensitive data identifications/"]),
];

/// What a finding hints at, each family once, with what gave it away.
pub(super) fn of(finding: &Finding) -> BTreeMap<Hint, String> {
    let mut hints = BTreeMap::new();
    for name in finding.types() {
        let lower = name.to_lowercase();
        for (hint, parts) in PARTS {
            if parts.iter().any(|part| lower.contains(part)) {
                hints.entry(hint).or_insert_with(|| format!("{} ({name}).", hint.meaning()));
            }
        }
        if lower.split('/').any(is_reconnaissance) {
            let hint = Hint::Reconnaissance;
            hints.entry(hint).or_insert_with(|| format!("{} ({name}).", hint.meaning()));
        }
    }
    for signal in &finding.signals {
        let (hint, because) = match signal {
            Signal::Public => (Hint::Exposure, "The event says that the resource faces the internet."),
            Signal::RootIdentity => (Hint::RootIdentity, "The event says that the account's root user acted."),
            Signal::NoMfa => (Hint::NoMfa, "The event says that no second factor was used."),
            Signal::ExploitAvailable => (Hint::Exploit, "The event says that an exploit is known."),
            // Weighed with the standing: it takes everything away.
            Signal::Sample => continue,
        };
        hints.entry(hint).or_insert_with(|| because.to_owned());
    }
    hints
}

/// GuardDuty's `Recon:` and `Discovery:` are also the ends of other words, so they must begin a part.
fn is_reconnaissance(part: &str) -> bool {
    part.starts_with("recon:") || part.starts_with("discovery:") || part == "discovery"
}

impl Hint {
    /// The stable word for it.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::AttackSequence => "attack-sequence",
            Self::CommandAndControl => "command-and-control",
            Self::Exfiltration => "exfiltration",
            Self::Credentials => "credentials",
            Self::RootIdentity => "root-identity",
            Self::Impact => "impact",
            Self::PrivilegeEscalation => "privilege-escalation",
            Self::Persistence => "persistence",
            Self::DefenseEvasion => "defense-evasion",
            Self::InitialAccess => "initial-access",
            Self::Execution => "execution",
            Self::CryptoMining => "crypto-mining",
            Self::Exposure => "exposure",
            Self::Exploit => "exploit",
            Self::SensitiveData => "sensitive-data",
            Self::NoMfa => "no-mfa",
            Self::Reconnaissance => "reconnaissance",
        }
    }

    /// What it adds. 20 lifts a finding by one severity: somebody is inside, or data or the account's
    /// keys are out. 15: a door stands open, or the intruder works to stay. 10: it makes worse what else
    /// there is. 5: somebody looked around.
    pub(super) const fn points(self) -> i16 {
        match self {
            Self::AttackSequence
            | Self::CommandAndControl
            | Self::Exfiltration
            | Self::Credentials
            | Self::RootIdentity
            | Self::Impact => 20,
            Self::PrivilegeEscalation | Self::Persistence | Self::DefenseEvasion | Self::Exposure | Self::Exploit => 15,
            Self::InitialAccess | Self::Execution | Self::CryptoMining | Self::SensitiveData | Self::NoMfa => 10,
            Self::Reconnaissance => 5,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::AttackSequence => "Several events add up to one attack",
            Self::CommandAndControl => "Something inside takes orders from outside",
            Self::Exfiltration => "Data may be leaving",
            Self::Credentials => "Credentials are made, used or exposed",
            Self::RootIdentity => "The account's root user acted",
            Self::Impact => "Data or service may be harmed",
            Self::PrivilegeEscalation => "Somebody gains rights",
            Self::Persistence => "Somebody arranges to stay",
            Self::DefenseEvasion => "Somebody covers tracks",
            Self::InitialAccess => "Somebody may have got in",
            Self::Execution => "Unwanted code may run",
            Self::CryptoMining => "Somebody spends the account's money",
            Self::Exposure => "The resource can be reached from outside",
            Self::Exploit => "An exploit is known",
            Self::SensitiveData => "Sensitive data is involved",
            Self::NoMfa => "No second factor was used",
            Self::Reconnaissance => "Somebody looks around",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::{Reading, read};

    fn hints(name: &str) -> Vec<Hint> {
        let event = json!({"detail-type": "GuardDuty Finding", "detail": {"type": name}});
        match read(&event) {
            Ok(Reading::Findings { findings, .. }) => of(&findings[0]).into_keys().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_senders_types_fall_into_their_families() {
        for (name, expected) in [
            ("Backdoor:EC2/C&CActivity.B!DNS", vec![Hint::CommandAndControl]),
            ("TTPs/Command and Control/Backdoor:EC2-C&CActivity.B!DNS", vec![Hint::CommandAndControl]),
            (
                "UnauthorizedAccess:IAMUser/InstanceCredentialExfiltration.OutsideAWS",
                vec![Hint::Exfiltration, Hint::Credentials, Hint::InitialAccess],
            ),
            ("Policy:IAMUser/RootCredentialUsage", vec![Hint::RootIdentity]),
            ("Policy:IAMUser/S3BucketPublic", vec![Hint::Exposure]),
            ("SensitiveData:S3Object/Credentials", vec![Hint::Credentials, Hint::SensitiveData]),
            ("cloudtrail:StopLogging", vec![Hint::DefenseEvasion]),
            ("iam:CreateAccessKey", vec![Hint::Credentials]),
            ("Recon:EC2/PortProbeUnprotectedPort", vec![Hint::Reconnaissance]),
            ("TTPs/Discovery/Recon:EC2-Portscan", vec![Hint::Reconnaissance]),
            ("custodian-sg-exposed-port7", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(hints(name), expected, "{name}");
        }
    }
}
