//! Globs over finding types: `*` stands for any characters, also none and also `:` and `/`; `?` for exactly one.
//! Nothing else is special, there is no escape, and capitals matter.

/// How narrow a glob is: of two of which one matches only what the other does, the narrower is the greater.
///
/// What the narrower of two matches, the wider must match too, so the narrower has at least as many characters that
/// are not wildcards; with as many of these at least as many `?`; and with as many of both no more `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Narrowness {
    /// Characters that are not wildcards.
    pub(super) literals: usize,
    /// Characters that may be any.
    pub(super) singles: usize,
    /// Runs that may be anything.
    pub(super) stars: std::cmp::Reverse<usize>,
}

/// A glob in its only spelling: in a run of wildcards every `?` stands first and at most one `*` follows, so that two
/// globs that match the same are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(String);

impl Glob {
    /// The glob of that spelling; every text is one.
    pub fn new(text: &str) -> Self {
        let mut spelt = String::with_capacity(text.len());
        let mut star = false;
        for c in text.chars() {
            if c == '*' {
                star = true;
                continue;
            }
            if star && c != '?' {
                spelt.push('*');
                star = false;
            }
            spelt.push(c);
        }
        if star {
            spelt.push('*');
        }
        Self(spelt)
    }

    /// The finding type that it is, if it has no wildcard.
    pub(super) fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(&self.0)
    }

    pub(super) fn narrowness(&self) -> Narrowness {
        let count = |wildcard: char| self.0.chars().filter(|c| *c == wildcard).count();
        let (singles, stars) = (count('?'), count('*'));
        let literals = self.0.chars().count() - singles - stars;
        Narrowness { literals, singles, stars: std::cmp::Reverse(stars) }
    }

    /// The texts between the wildcards: whatever it matches has each of them.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &str> {
        self.0.split(['*', '?']).filter(|piece| !piece.is_empty())
    }

    /// Whether it matches the whole text. At worst as many steps as both are long, multiplied; without a `*` as many
    /// as the text is long.
    pub fn matches(&self, text: &str) -> bool {
        let (mut glob, mut rest) = (self.0.as_str(), text);
        // Where the last `*` stood, and what it had not swallowed yet.
        let mut last_star: Option<(&str, &str)> = None;
        loop {
            let mut after_glob = glob.chars();
            let mut after_rest = rest.chars();
            match (after_glob.next(), after_rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    glob = after_glob.as_str();
                    last_star = Some((glob, rest));
                    continue;
                }
                (Some('?'), Some(_)) => {
                    (glob, rest) = (after_glob.as_str(), after_rest.as_str());
                    continue;
                }
                (Some(wanted), Some(found)) if wanted == found => {
                    (glob, rest) = (after_glob.as_str(), after_rest.as_str());
                    continue;
                }
                (Some(_) | None, Some(_)) => {}
                // Whatever a `*` swallows more leaves still less for what comes after it.
                (Some(_), None) => return false,
            }
            // The last `*` swallows one character more; an earlier one need not, for the last can take all it would.
            let Some((after_star, left)) = last_star else { return false };
            let mut left = left.chars();
            left.next();
            (glob, rest) = (after_star, left.as_str());
            last_star = Some((glob, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters_and_a_question_mark_one() {
        for (glob, text, matches) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("?", "é", true),
            ("??", "é", false),
            ("Recon:*", "Recon:EC2/PortProbe", true),
            ("Recon:*", "recon:EC2/PortProbe", false),
            ("*/PortProbe", "Recon:EC2/PortProbe", true),
            ("*:EC2/*", "Recon:EC2/PortProbe", true),
            ("*EC2*EC2*", "Recon:EC2/PortProbe", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*aab", "aaaab", true),
            ("S3.?", "S3.8", true),
            ("S3.?", "S3.17", false),
            ("[ab]", "a", false),
            ("\\*", "\\x", true),
        ] {
            assert_eq!(Glob::new(glob).matches(text), matches, "{glob} {text}");
        }
    }

    #[test]
    fn globs_that_match_the_same_are_the_same() {
        assert_eq!(Glob::new("a**?*b?**"), Glob::new("a?*b?*"));
        assert_eq!(Glob::new("*?*?"), Glob::new("??*"));
        assert_ne!(Glob::new("a*b"), Glob::new("ab*"));
        assert_eq!(Glob::new("S3.8").exact(), Some("S3.8"));
        assert_eq!(Glob::new("S3.*").exact(), None);
    }

    #[test]
    fn the_narrower_glob_is_the_greater() {
        let widest_first = ["*", "?*", "?", "a*", "a?*", "a?", "ab*", "a*b*c", "ab*c", "abcd*e*", "abcd*e"];
        let narrowness = widest_first.map(|glob| Glob::new(glob).narrowness());
        assert!(narrowness.is_sorted_by(|one, next| one < next), "{narrowness:?}");
    }

    #[test]
    fn a_long_text_against_a_long_glob_comes_to_an_end() {
        assert!(!Glob::new(&"*a".repeat(256)).matches(&format!("{}b", "a".repeat(511))));
    }
}
