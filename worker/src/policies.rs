//! The policies that this program was built with: what a yard has when it is given none.

use switchyard_core::policies::{CATALOG_FILE, Files, MAPPINGS_FILE, PRICES_FILE, ROUTING_FILE};

/// The files, by their paths in the policies folder.
pub const BUILT_IN: &[(&str, &str)] = &[
    (CATALOG_FILE, include_str!("../../policies/capabilities.yaml")),
    (ROUTING_FILE, include_str!("../../policies/routing.yaml")),
    (PRICES_FILE, include_str!("../../policies/prices.yaml")),
    (MAPPINGS_FILE, include_str!("../../policies/policy-mappings.json")),
    ("custodian/ec2-stop-and-tag.yml", include_str!("../../policies/custodian/ec2-stop-and-tag.yml")),
    ("custodian/ec2-tag-suspect.yml", include_str!("../../policies/custodian/ec2-tag-suspect.yml")),
    ("custodian/iam-role-deny-all.yml", include_str!("../../policies/custodian/iam-role-deny-all.yml")),
    ("custodian/iam-user-disable-keys.yml", include_str!("../../policies/custodian/iam-user-disable-keys.yml")),
    ("custodian/s3-baseline.yml", include_str!("../../policies/custodian/s3-baseline.yml")),
    ("custodian/s3-block-public-access.yml", include_str!("../../policies/custodian/s3-block-public-access.yml")),
    ("custodian/s3-tag-sensitive.yml", include_str!("../../policies/custodian/s3-tag-sensitive.yml")),
    (
        "custodian/security-group-close-ingress.yml",
        include_str!("../../policies/custodian/security-group-close-ingress.yml"),
    ),
    ("schemas/finding-triage.json", include_str!("../../policies/schemas/finding-triage.json")),
    ("schemas/host-name.json", include_str!("../../policies/schemas/host-name.json")),
    ("schemas/path.json", include_str!("../../policies/schemas/path.json")),
    ("schemas/port-scan.json", include_str!("../../policies/schemas/port-scan.json")),
    ("schemas/url.json", include_str!("../../policies/schemas/url.json")),
];

/// The same, as a folder's files are.
pub fn built_in() -> Files {
    BUILT_IN.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}
