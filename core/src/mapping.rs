//! Which policies answer a finding: policies/policy-mappings.json, the most specific mapping first.
//!
//! A mapping is chosen for each resource of a finding by itself. Of those that match it, the most specific is taken;
//! two mappings are compared by these, in this order, until one of them says more:
//!
//! 1. `finding_type`: written out, then the narrower glob, then none. A glob is narrower with more characters that are
//!    not wildcards, then with more `?`, then with fewer `*`.
//! 2. `resource_type`, `account`, `region`: given, then not; the first of them in which the two differ decides.
//! 3. `severity_at_least`: the higher, then none.
//! 4. `detail_type`, `source`: given, then not; likewise.
//! 5. The one that stands earlier in the file.
//!
//! A list of values is so many mappings with one value each: of several globs the narrowest that matches counts.
//!
//! So of two alternatives of which one matches only what the other does, the narrower answers, wherever the two stand
//! in the file.

mod explain;
mod file;
mod glob;
mod index;

use std::fmt;

use crate::finding::{Finding, Resource, Severity, TEXT_MAX_CHARS};
use crate::job::Tier;
use crate::policies::PolicyError;

pub use self::explain::{CONSIDERED_MAX, Considered};
pub use self::glob::Glob;
use self::glob::Narrowness;
use self::index::Index;

/// The most mappings: some for each account of an organisation at AWS's limit of ten thousand.
pub const MAPPINGS_MAX: usize = 10_000;

/// The most alternatives of all mappings together. A mapping has one for each way to take one value of each of its
/// lists; the index has an entry of about 100 bytes for each.
pub const ALTERNATIVES_MAX: usize = 100_000;

/// The most policies of a mapping: each is a job for each resource.
pub const MAPPED_POLICIES_MAX: usize = 32;

/// Which policies answer which findings.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    mappings: Vec<Mapping>,
    warnings: Vec<PolicyError>,
    index: Index,
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
    /// The resource's type, such as `AwsS3Bucket`; a finding that names no resource has none.
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

    /// The mapping that answers for this resource of the finding, or for the finding itself where it names none. What
    /// this costs, and what that depends on, is said in `core/src/mapping/index.rs`.
    pub fn choose(&self, finding: &Finding, resource: Option<&Resource>) -> Option<&Mapping> {
        self.index.choose(finding, resource).map(|place| &self.mappings[place])
    }

    /// Whether a mapping names this detail-type and asks for this source or for none: then an event is a finding, even
    /// if nobody here knows its sender.
    pub fn names_event(&self, source: &str, detail_type: &str) -> bool {
        self.index.names_event(source, detail_type)
    }

    /// What is allowed and surely not meant: mappings that can never answer.
    pub fn warnings(&self) -> &[PolicyError] {
        &self.warnings
    }
}

/// How specific a mapping is in what matched, as one number to compare: from the top the rank of its type (32 bits),
/// resource type, account and region (3), severity (3), detail-type and source (2), and how early it stands (24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64);

/// How specific an asked finding type is: whether it is asked for, written out or a glob (2 bits), and a glob's
/// characters that are no wildcards, `?`, and `*` (10 each).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct TypeRank(u32);

/// Which of the exact fields are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape(usize);

/// A field of a mapping's `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `finding_type`.
    FindingType,
    /// `resource_type`.
    ResourceType,
    /// `account`.
    Account,
    /// `region`.
    Region,
    /// `severity_at_least`.
    SeverityAtLeast,
    /// `detail_type`.
    DetailType,
    /// `source`.
    Source,
}

impl Field {
    /// The exact fields, the one that decides first in front.
    const EXACT: [Self; Shape::FIELDS] =
        [Self::ResourceType, Self::Account, Self::Region, Self::DetailType, Self::Source];

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FindingType => "finding_type",
            Self::ResourceType => "resource_type",
            Self::Account => "account",
            Self::Region => "region",
            Self::SeverityAtLeast => "severity_at_least",
            Self::DetailType => "detail_type",
            Self::Source => "source",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Shape {
    const FIELDS: usize = 5;
    const COUNT: usize = 1 << Self::FIELDS;

    /// The bit of an exact field, by its place in [`Field::EXACT`].
    const fn bit(field: usize) -> usize {
        1 << (Self::FIELDS - 1 - field)
    }
}

impl TypeRank {
    const ANY: Self = Self(0);
    const EXACT: Self = Self(2 << 30);

    fn of_glob(glob: &Glob) -> Self {
        // Ten bits each hold what a glob can have.
        const { assert!(TEXT_MAX_CHARS < 1 << 10) };
        let Narrowness { literals, singles, stars } = glob.narrowness();
        Self(1 << 30 | (literals as u32) << 20 | (singles as u32) << 10 | (1023 - stars.0 as u32))
    }
}

impl Rank {
    const PLACES: u64 = (1 << 24) - 1;

    fn new(of_type: TypeRank, shape: Shape, least: Option<Severity>, place: usize) -> Self {
        let Shape(given) = shape;
        let (narrowing, telling) = ((given >> 2) as u64, (given & 0b11) as u64);
        let severity = least.map_or(0, |severity| severity as u64 + 1);
        Self(
            u64::from(of_type.0) << 32
                | narrowing << 29
                | severity << 26
                | telling << 24
                | (Self::PLACES - place as u64),
        )
    }

    fn of_type(self) -> TypeRank {
        TypeRank((self.0 >> 32) as u32)
    }

    /// Where the mapping stands; None: there is none.
    fn place(self) -> Option<usize> {
        (self != Self::default()).then_some((Self::PLACES - (self.0 & Self::PLACES)) as usize)
    }

    fn differs_in_place_only(self, other: Self) -> bool {
        self != Self::default() && self.0 >> 24 == other.0 >> 24
    }

    /// The field that puts this one before the other; None: only its place in the file.
    fn decided_by(self, other: Self) -> Option<Field> {
        let fields = [
            (32, Field::FindingType),
            (31, Field::ResourceType),
            (30, Field::Account),
            (29, Field::Region),
            (26, Field::SeverityAtLeast),
            (25, Field::DetailType),
            (24, Field::Source),
        ];
        fields.into_iter().find_map(|(bits, field)| (self.0 >> bits != other.0 >> bits).then_some(field))
    }
}

impl Match {
    /// What is asked of the exact fields, in the order of [`Field::EXACT`].
    fn exact_lists(&self) -> [&[String]; Shape::FIELDS] {
        [&self.resource_type, &self.account, &self.region, &self.detail_type, &self.source]
    }

    /// What a finding has in these fields.
    fn exact_values<'a>(finding: &'a Finding, resource: Option<&'a Resource>) -> [&'a str; Shape::FIELDS] {
        let kind = resource.map_or("", |resource| resource.kind.as_str());
        [kind, &finding.account, &finding.region, &finding.detail_type, &finding.source]
    }

    fn shape(&self) -> Shape {
        let given = self.exact_lists().into_iter().enumerate().filter(|(_, list)| !list.is_empty());
        Shape(given.map(|(field, _)| Shape::bit(field)).sum())
    }

    /// So many mappings with one value in each field it stands for.
    fn alternatives(&self) -> usize {
        let lists = self.exact_lists().into_iter().chain([self.finding_type.as_slice()]);
        lists.map(|list| list.len().max(1)).fold(1, usize::saturating_mul)
    }
}
