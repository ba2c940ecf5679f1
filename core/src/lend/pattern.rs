//! Patterns over the names of credentials.

use std::fmt;

/// Characters that a `*` does not stand for: those that part a name of AWS, Google or GitHub.
const PARTS: [char; 3] = [':', '/', '@'];

/// Whether a name of a credential may have this character: none that is a wildcard here, ends a line, or is not ASCII.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '@' | '.' | '-' | '_' | '+' | '=' | ',' | '~')
}

/// A name in which `*` stands for any characters, also none, but not for `:`, `/` or `@`. Nothing else is special.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern of that spelling.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("expected a name, in which `*` stands for any characters".to_owned());
        }
        match text.chars().find(|c| *c != '*' && !is_word(*c)) {
            Some(odd) => Err(format!("has {odd:?}, which no such name has")),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// It, as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that name. At worst as many steps as both are long, multiplied.
    pub fn matches(&self, name: &str) -> bool {
        let pieces: Vec<&str> = self.0.split('*').collect();
        let [first, middle @ .., last] = &pieces[..] else { return self.0 == name };
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        for piece in middle {
            // The earliest place is the best one: whatever a later star could reach from a later place, it can from here
            // too, unless something that parts names lies between, which then lies before either.
            let Some(at) = rest.find(piece) else { return false };
            if rest[..at].contains(PARTS) {
                return false;
            }
            rest = &rest[at + piece.len()..];
        }
        rest.strip_suffix(last).is_some_and(|swallowed| !swallowed.contains(PARTS))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_never_reaches_into_the_next_part_of_a_name() {
        let scan = "arn:aws:iam::*:role/switchyard-scan";
        for (pattern, name, expected) in [
            (scan, "arn:aws:iam::123456789012:role/switchyard-scan", true),
            (scan, "arn:aws:iam::123456789012:role/evil:role/switchyard-scan", false),
            (scan, "arn:aws:iam::1:role/switchyard-scan-2", false),
            ("arn:aws:iam::*:role/scan/*", "arn:aws:iam::1:role/scan/a", true),
            ("arn:aws:iam::*:role/scan/*", "arn:aws:iam::1:role/scan/a/b", false),
            ("*@one.iam.gserviceaccount.com", "a@one.iam.gserviceaccount.com", true),
            ("*@one.iam.gserviceaccount.com", "a@two.iam.gserviceaccount.com@one.iam.gserviceaccount.com", false),
            ("scan", "scan", true),
            ("scan", "scanner", false),
            ("*", "anything", true),
            ("*", "a/b", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_name_is_no_pattern() {
        for odd in ["", "a b", "a\n", "a?", "ü", "a\u{202e}"] {
            Pattern::new(odd).unwrap_err();
        }
    }

    /// The same by trying every length for every star.
    fn reference(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len())
                .take_while(|n| !name[..*n].iter().any(|byte| PARTS.contains(&char::from(*byte))))
                .any(|n| reference(rest, &name[n..])),
            Some((wanted, rest)) => {
                name.split_first().is_some_and(|(found, name)| found == wanted && reference(rest, name))
            }
        }
    }

    proptest! {
        #[test]
        fn it_matches_what_any_lengths_of_its_stars_would(pattern in "[ab:*]{1,8}", name in "[ab:]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), reference(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
