//! Why a mapping answers and others do not, for people.

use std::cmp::Reverse;

use super::{Field, Glob, Mapping, Mappings, Match, Rank, TypeRank};
use crate::finding::{Finding, Resource, Severity};
use crate::job::one_line;

/// The most mappings that an explanation names.
pub const CONSIDERED_MAX: usize = 10;

/// Values shown of a list.
const SHOWN: usize = 3;

/// A mapping held against a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered<'a> {
    /// The mapping.
    pub mapping: &'a Mapping,
    /// The fields that do not fit; none: it matches.
    pub failed: Vec<Field>,
    /// Why it answers, or why not.
    pub sentence: String,
}

impl Considered<'_> {
    /// Whether it matches, though perhaps another one answers.
    pub fn matches(&self) -> bool {
        self.failed.is_empty()
    }
}

impl Mappings {
    /// Which mappings match, best first: the first is the one that answers. Then those that nearly do: they ask for
    /// this detail-type, source or finding type, and something else does not fit; the nearest first. At most
    /// [`CONSIDERED_MAX`]. Looks at every mapping.
    pub fn explain(&self, finding: &Finding, resource: Option<&Resource>) -> Vec<Considered<'_>> {
        let (mut matching, mut near) = (Vec::new(), Vec::new());
        for (place, mapping) in self.mappings.iter().enumerate() {
            let (failed, of_type) = mapping.matches.judge(finding, resource);
            if failed.is_empty() {
                let rank = Rank::new(of_type, mapping.matches.shape(), mapping.matches.severity_at_least, place);
                matching.push((Reverse(rank), mapping));
            } else if mapping.matches.is_near(&failed) {
                near.push((failed, mapping));
            }
        }
        matching.sort_by_key(|(rank, _)| *rank);
        near.sort_by_key(|(failed, _)| failed.len());
        let winner = matching.first().copied();
        let matching = matching.into_iter().map(|(Reverse(rank), mapping)| {
            let sentence = match winner {
                Some((Reverse(best), winner)) if best != rank => yields(mapping, &winner.name, best.decided_by(rank)),
                Some(_) | None => answers(mapping),
            };
            Considered { mapping, failed: Vec::new(), sentence }
        });
        let near = near.into_iter().map(|(failed, mapping)| {
            let sentence = misses(mapping, &failed, finding, resource);
            Considered { mapping, failed, sentence }
        });
        matching.chain(near).take(CONSIDERED_MAX).collect()
    }
}

impl Match {
    /// The fields that do not fit, and how specific the type that fits is.
    fn judge(&self, finding: &Finding, resource: Option<&Resource>) -> (Vec<Field>, TypeRank) {
        let mut failed = Vec::new();
        let globs = self.finding_type.iter().map(|text| Glob::new(text));
        let fitting = globs.filter(|glob| finding.types().any(|name| glob.matches(name)));
        let best = fitting.map(|glob| if glob.exact().is_some() { TypeRank::EXACT } else { TypeRank::of_glob(&glob) });
        let of_type = best.max().unwrap_or(TypeRank::ANY);
        if !self.finding_type.is_empty() && of_type == TypeRank::ANY {
            failed.push(Field::FindingType);
        }
        let values = Self::exact_values(finding, resource);
        for ((field, list), value) in Field::EXACT.into_iter().zip(self.exact_lists()).zip(values) {
            if !list.is_empty() && !list.iter().any(|wanted| wanted == value) {
                failed.push(field);
            }
        }
        if self.severity_at_least.is_some_and(|least| finding.severity.is_none_or(|severity| severity < least)) {
            failed.push(Field::SeverityAtLeast);
        }
        (failed, of_type)
    }

    /// Whether what tells a finding's sender or type fits.
    fn is_near(&self, failed: &[Field]) -> bool {
        let telling = [Field::DetailType, Field::Source, Field::FindingType];
        telling.into_iter().any(|field| !self.list(field).is_empty() && !failed.contains(&field))
    }

    fn list(&self, field: Field) -> &[String] {
        match field {
            Field::FindingType => &self.finding_type,
            Field::ResourceType => &self.resource_type,
            Field::Account => &self.account,
            Field::Region => &self.region,
            Field::DetailType => &self.detail_type,
            Field::Source => &self.source,
            Field::SeverityAtLeast => &[],
        }
    }
}

fn answers(mapping: &Mapping) -> String {
    let asked = &mapping.matches;
    let fields = [Field::FindingType].into_iter().chain(Field::EXACT).filter(|field| !asked.list(*field).is_empty());
    let mut asks: Vec<String> = fields.map(|field| format!("{field} {}", one_of(asked.list(field)))).collect();
    asks.extend(asked.severity_at_least.map(|least| format!("{} {least}", Field::SeverityAtLeast)));
    let asks = if asks.is_empty() { "nothing".to_owned() } else { asks.join(", ") };
    format!("`{}` answers: it is the most specific that matches, and asks for {asks}", mapping.name)
}

fn yields(mapping: &Mapping, winner: &str, decided_by: Option<Field>) -> String {
    let why = match decided_by {
        Some(field @ Field::FindingType) => format!("that one is more specific in {field}"),
        Some(field @ Field::SeverityAtLeast) => format!("that one asks for more in {field}"),
        Some(field) => format!("that one asks for a {field}"),
        None => "both are as specific, and that one stands earlier in the file".to_owned(),
    };
    format!("`{}` matches too, and leaves it to `{winner}`: {why}", mapping.name)
}

fn misses(mapping: &Mapping, failed: &[Field], finding: &Finding, resource: Option<&Resource>) -> String {
    let values = Match::exact_values(finding, resource);
    let found = |field: Field| Field::EXACT.iter().position(|exact| *exact == field).map_or("", |at| values[at]);
    let reason = |field: &Field| match field {
        Field::SeverityAtLeast => {
            let least = mapping.matches.severity_at_least.map_or("", Severity::as_str);
            let is = finding.severity.map_or("not rated", Severity::as_str);
            format!("{field} is {least}, and the finding is {is}")
        }
        Field::FindingType => {
            let types: Vec<String> = finding.types().map(str::to_owned).collect();
            format!("{field} is {}, and the finding's is {}", one_of(mapping.matches.list(*field)), one_of(&types))
        }
        Field::ResourceType | Field::Account | Field::Region | Field::DetailType | Field::Source => {
            let wanted = one_of(mapping.matches.list(*field));
            match found(*field) {
                "" => format!("{field} is {wanted}, and the finding names none"),
                found => format!("{field} is {wanted}, and the finding's is {}", shown(found)),
            }
        }
    };
    let reasons: Vec<String> = failed.iter().map(reason).collect();
    format!("`{}` does not match: {}", mapping.name, reasons.join("; "))
}

/// `a`, `a or b`, `a, b, c or 7 more`.
fn one_of(list: &[String]) -> String {
    let few: Vec<String> = list.iter().take(SHOWN).map(|value| shown(value)).collect();
    match (few.as_slice(), list.len().saturating_sub(SHOWN)) {
        ([], _) => "none".to_owned(),
        ([one], _) => one.clone(),
        ([rest @ .., last], 0) => format!("{} or {last}", rest.join(", ")),
        (all, more) => format!("{} or {more} more", all.join(", ")),
    }
}

fn shown(value: &str) -> String {
    format!("`{}`", one_line(value, 100))
}
