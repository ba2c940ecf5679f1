//! Finds the mapping that answers, at a cost that does not grow with how many there are.
//!
//! A mapping is entered once for each of its alternatives: one value, or any, for each of its five exact fields, and
//! one finding type, one glob, or any. Which of the fields are given is the alternative's *shape*, of which there are
//! 32 (this is tuple space search, as packet classifiers do it). All that is equal but severity and place in the file
//! is one entry of a table: for every severity a finding can have, the best rank there is. So one look into the table
//! answers for one shape and one finding type.
//!
//! What a choice costs:
//!
//! - six looks for the finding's own words, and one for each of its finding types (51 at most);
//! - one look into the table for each finding type that is written out somewhere, each glob that matches one, and, if
//!   there are none of these, for "any type": times the shapes that occur with it, 32 at most, and only those whose
//!   values occur at all;
//! - only if no written-out type answered: one pass over the finding's types, which finds the globs whose rarest piece
//!   of text occurs there, and a match for each of these that is narrower than what was found before.
//!
//! It does not depend on how many mappings there are, nor on how many differ by account, region, severity, finding type
//! or the start of a glob. It does depend on how many globs a finding's types could match: globs that share each of
//! their pieces with many others (`Recon:*` five hundred times, each with other text that all types have), or that have
//! no text at all (`????`), are tried one by one. Nothing is allocated.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::glob::Glob;
use super::{Match, Rank, Shape, TypeRank};
use crate::finding::{Finding, Resource, Severity};

/// No type is asked for.
const ANY_TYPE: u32 = 0;
/// Severities a finding can have, with none.
const SEVERITIES: usize = Severity::ALL.len() + 1;

/// For each shape the shapes that give no other fields than it does.
const WITHIN: [u32; Shape::COUNT] = {
    let mut within = [0; Shape::COUNT];
    let mut shape = 0;
    while shape < Shape::COUNT {
        let mut other = 0;
        while other < Shape::COUNT {
            if other & !shape == 0 {
                within[shape] |= 1 << other;
            }
            other += 1;
        }
        shape += 1;
    }
    within
};

/// Values of the five exact fields, as numbers from 1; 0: any.
type Values = [u32; Shape::FIELDS];

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// The values of each exact field.
    values: [HashMap<Box<str>, u32>; Shape::FIELDS],
    /// The finding types that are written out.
    exact: HashMap<Box<str>, u32>,
    globs: Globs,
    /// What is asked of the type: none, one written out, a glob.
    types: Vec<Type>,
    /// The detail-types that are named, each with a source that is, or any.
    named: HashSet<(u32, u32)>,
    /// By type and values, for each severity of a finding, none first: the best rank.
    table: HashMap<(u32, Values), [Rank; SEVERITIES]>,
}

#[derive(Clone, Debug)]
struct Type {
    rank: TypeRank,
    /// A bit for each shape that occurs with it.
    shapes: u32,
}

#[derive(Clone, Debug, Default)]
struct Globs {
    /// Finds the needles in a finding's type.
    automaton: Option<AhoCorasick>,
    needles: Vec<Needle>,
    /// The globs without any text.
    bare: Vec<(u32, Glob)>,
}

/// A piece of text, and the globs that can match only where it occurs, narrowest first.
#[derive(Clone, Debug)]
struct Needle {
    text: Box<str>,
    globs: Vec<(u32, Glob)>,
}

/// Takes mappings, one after the other, and makes an [`Index`].
#[derive(Default)]
pub(super) struct Builder {
    index: Index,
    globs: HashMap<Glob, u32>,
}

/// Earlier mappings that leave nothing to a later one, by their places.
pub(super) type Covering = Vec<usize>;

impl Builder {
    /// Enters the mapping that stands at `place`. `Some` if it can never answer: earlier mappings ask exactly the same.
    pub(super) fn enter(&mut self, place: usize, asked: &Match) -> Option<Covering> {
        if self.index.types.is_empty() {
            self.index.types.push(Type { rank: TypeRank::ANY, shapes: 0 });
        }
        let lists = asked.exact_lists();
        let mut fields: [Vec<u32>; Shape::FIELDS] = Default::default();
        for ((field, list), values) in fields.iter_mut().zip(lists).zip(&mut self.index.values) {
            field.extend(list.iter().map(|value| {
                let next = values.len() as u32 + 1;
                *values.entry(value.as_str().into()).or_insert(next)
            }));
            if field.is_empty() {
                field.push(0);
            }
        }
        let [_, _, _, detail_types, sources] = &fields;
        for &detail_type in detail_types.iter().filter(|_| !asked.detail_type.is_empty()) {
            self.index.named.extend(sources.iter().map(|&source| (detail_type, source)));
        }
        let mut types: Vec<u32> = asked.finding_type.iter().map(|glob| self.type_of(Glob::new(glob))).collect();
        if types.is_empty() {
            types.push(ANY_TYPE);
        }
        let least = asked.severity_at_least.map_or(0, |severity| severity as usize + 1);
        let shape = asked.shape();
        let mut covering = Some(Covering::new());
        for kind in types {
            let Type { rank, shapes } = &mut self.index.types[kind as usize];
            *shapes |= 1 << shape.0;
            let rank = Rank::new(*rank, shape, asked.severity_at_least, place);
            for values in combinations(&fields) {
                let best = self.index.table.entry((kind, values)).or_default();
                let earlier = best[least];
                if !earlier.differs_in_place_only(rank) {
                    covering = None;
                } else if let (Some(covering), Some(at)) = (&mut covering, earlier.place())
                    && at != place
                    && !covering.contains(&at)
                {
                    covering.push(at);
                }
                for slot in &mut best[least..] {
                    *slot = rank.max(*slot);
                }
            }
        }
        covering
    }

    fn type_of(&mut self, glob: Glob) -> u32 {
        let next = self.index.types.len() as u32;
        let (number, rank) = match glob.exact() {
            Some(name) => (*self.index.exact.entry(name.into()).or_insert(next), TypeRank::EXACT),
            None => {
                let rank = TypeRank::of_glob(&glob);
                (*self.globs.entry(glob).or_insert(next), rank)
            }
        };
        if number == next {
            self.index.types.push(Type { rank, shapes: 0 });
        }
        number
    }

    pub(super) fn build(self) -> Index {
        let Self { mut index, globs } = self;
        let mut sharing: HashMap<&str, usize> = HashMap::new();
        for glob in globs.keys() {
            for piece in glob.pieces() {
                *sharing.entry(piece).or_default() += 1;
            }
        }
        let mut by_needle: HashMap<Box<str>, Vec<(u32, Glob)>> = HashMap::new();
        for (glob, &number) in &globs {
            // The piece that the fewest globs have, of these the longest: the fewest wrong guesses.
            let rarest = glob.pieces().min_by_key(|piece| (sharing[piece], std::cmp::Reverse(piece.len()), *piece));
            match rarest {
                Some(piece) => by_needle.entry(piece.into()).or_default().push((number, glob.clone())),
                None => index.globs.bare.push((number, glob.clone())),
            }
        }
        let narrowest_first = |globs: &mut Vec<(u32, Glob)>| {
            globs.sort_by_key(|(number, glob)| (std::cmp::Reverse(glob.narrowness()), *number));
        };
        narrowest_first(&mut index.globs.bare);
        index.globs.needles = by_needle.into_iter().map(|(text, globs)| Needle { text, globs }).collect();
        index.globs.needles.sort_by(|one, other| one.text.cmp(&other.text));
        index.globs.needles.iter_mut().for_each(|needle| narrowest_first(&mut needle.globs));
        if !index.globs.needles.is_empty() {
            // One form for few and for many, so that a choice costs the same. Compact: the other one takes a kilobyte
            // for each character. Building fails only for more than 2^31 states, 500 times what a file can hold.
            let texts = index.globs.needles.iter().map(|needle| &*needle.text);
            let kind = Some(AhoCorasickKind::ContiguousNFA);
            index.globs.automaton = AhoCorasick::builder().kind(kind).prefilter(false).build(texts).ok();
        }
        index
    }
}

/// One of each.
fn combinations(fields: &[Vec<u32>; Shape::FIELDS]) -> impl Iterator<Item = Values> {
    let total: usize = fields.iter().map(Vec::len).product();
    (0..total).map(move |mut nth| {
        fields.each_ref().map(|field| {
            let value = field[nth % field.len()];
            nth /= field.len();
            value
        })
    })
}

impl Index {
    /// The place of the mapping that answers.
    pub(super) fn choose(&self, finding: &Finding, resource: Option<&Resource>) -> Option<usize> {
        let mut shape = 0;
        let mut values = [0; Shape::FIELDS];
        for (at, text) in Match::exact_values(finding, resource).into_iter().enumerate() {
            if let Some(&number) = self.values[at].get(text) {
                values[at] = number;
                shape |= Shape::bit(at);
            }
        }
        let severity = finding.severity.map_or(0, |severity| severity as usize + 1);
        let mut search = Search { index: self, values, possible: WITHIN[shape], severity, best: Rank::default() };
        for name in finding.types() {
            if let Some(&kind) = self.exact.get(name) {
                search.look(kind);
            }
        }
        if search.best == Rank::default() {
            for name in finding.types() {
                self.globs.search(name, &mut search);
            }
        }
        if search.best == Rank::default() {
            search.look(ANY_TYPE);
        }
        search.best.place()
    }
}

impl Index {
    /// Whether a mapping names this detail-type, and this source or none.
    pub(super) fn names_event(&self, source: &str, detail_type: &str) -> bool {
        let [_, _, _, detail_types, sources] = &self.values;
        let Some(&detail_type) = detail_types.get(detail_type) else { return false };
        let named = sources.get(source).is_some_and(|&source| self.named.contains(&(detail_type, source)));
        named || self.named.contains(&(detail_type, 0))
    }
}

impl Globs {
    fn search(&self, name: &str, search: &mut Search<'_>) {
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_overlapping_iter(name) {
                let needle = &self.needles[found.pattern().as_usize()];
                // Once is enough; and where a needle occurs often, its first place is soon found.
                if name.find(&*needle.text) == Some(found.start()) {
                    search.try_globs(&needle.globs, name);
                }
            }
        }
        search.try_globs(&self.bare, name);
    }
}

struct Search<'a> {
    index: &'a Index,
    values: Values,
    /// A bit for each shape whose values the finding has.
    possible: u32,
    severity: usize,
    best: Rank,
}

impl Search<'_> {
    /// Tries globs, narrowest first, while they can be better than what was found.
    fn try_globs(&mut self, globs: &[(u32, Glob)], name: &str) {
        for (kind, glob) in globs {
            if self.index.types[*kind as usize].rank < self.best.of_type() {
                break;
            }
            if glob.matches(name) {
                self.look(*kind);
            }
        }
    }

    /// Looks for what asks this of the type.
    fn look(&mut self, kind: u32) {
        let Some(asked) = self.index.types.get(kind as usize) else { return };
        let mut shapes = asked.shapes & self.possible;
        while shapes != 0 {
            let shape = shapes.trailing_zeros() as usize;
            shapes &= shapes - 1;
            let mut values = self.values;
            for (at, value) in values.iter_mut().enumerate() {
                if shape & Shape::bit(at) == 0 {
                    *value = 0;
                }
            }
            if let Some(best) = self.index.table.get(&(kind, values)) {
                self.best = self.best.max(best[self.severity]);
            }
        }
    }
}
