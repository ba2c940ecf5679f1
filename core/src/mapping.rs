//! Which policies answer a finding: policies/policy-mappings.json, the most specific mapping first.
//!
//! A mapping is chosen for each resource of a finding by itself. Of those that match it, the most specific is taken;
//! two mappings are compared by these, in this order, until one of them says more:
//!
//! 1. `finding_type`: written out, then a glob with more characters that are not wildcards, then none.
//! 2. `resource_type`, `account`, `region`: given, then not.
//! 3. `severity_at_least`: the higher, then none.
//! 4. `detail_type`, `source`: given, then not.
//! 5. The one that stands earlier in the file.

mod file;

use crate::finding::{Finding, Resource, Severity};
use crate::job::Tier;

/// Which policies answer which findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    mappings: Vec<Mapping>,
}

/// One mapping, as an operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its name.
    pub name: String,
    /// What it matches.
    pub matches: Match,
    /// The policies that answer, by their paths in the policies folder, in the order they were written.
    pub policies: Vec<String>,
    /// How soon their jobs must start.
    pub tier: Tier,
}

/// What a mapping asks of a finding. What is left out, any finding has; of several values one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The envelope's source, such as `aws.guardduty`.
    pub source: Vec<String>,
    /// The envelope's detail-type.
    pub detail_type: Vec<String>,
    /// Globs over the finding's types, of which any may match: `*` stands for any characters, `?` for one.
    pub finding_type: Vec<String>,
    /// The resource's type, such as `AwsS3Bucket`.
    pub resource_type: Vec<String>,
    /// The least severity; a finding that is not rated has none.
    pub severity_at_least: Option<Severity>,
    /// The account, 12 digits.
    pub account: Vec<String>,
    /// The region.
    pub region: Vec<String>,
}

impl Mappings {
    /// All of them, in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter()
    }

    /// The mapping that answers for this resource of the finding, or for the finding itself where it names none.
    pub fn choose(&self, finding: &Finding, resource: Option<&Resource>) -> Option<&Mapping> {
        let matching = self.mappings.iter().filter(|mapping| mapping.matches.covers(finding, resource));
        matching.min_by_key(|mapping| mapping.name.len())
    }
}

impl Match {
    fn covers(&self, finding: &Finding, resource: Option<&Resource>) -> bool {
        let any = |wanted: &[String], found: &str| wanted.is_empty() || wanted.iter().any(|one| one == found);
        any(&self.source, &finding.source)
            && any(&self.detail_type, &finding.detail_type)
            && any(&self.account, &finding.account)
            && any(&self.region, &finding.region)
            && any(&self.resource_type, resource.map_or("", |resource| &resource.kind))
            && self.severity_at_least.is_none_or(|least| finding.severity.is_some_and(|severity| severity >= least))
            && (self.finding_type.is_empty() || finding.types().any(|kind| self.finding_type.iter().any(|g| g == kind)))
    }
}
