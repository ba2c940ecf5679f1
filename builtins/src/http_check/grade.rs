//! The score: a hundred, less what is wrong. Each reason says what it costs and why, so that whoever disagrees can see
//! with which. The points are a judgement of this project's: what lets others read or act in a user's name costs most.

use serde_json::{Value, json};

use super::cookies::Cookie;
use super::fetch::Seen;
use super::headers::Judged;

/// Some of the points of a score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// A stable word for it.
    pub(super) code: &'static str,
    /// What it adds, or takes away.
    pub(super) points: i16,
    /// Why, for people.
    pub(super) because: String,
}

/// How good it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grade {
    /// The sum of the reasons' points, cut to 0..=100.
    pub(super) score: u8,
    /// From A+ to F.
    pub(super) letter: &'static str,
    /// What made the score, in the order it was added.
    pub(super) reasons: Vec<Reason>,
}

/// Adds up what was found.
pub(super) fn grade(seen: &Seen, headers: &[Judged], cookies: &[Cookie]) -> Grade {
    let mut reasons = vec![Reason::new("begin", 100, "what every site begins with")];
    if seen.changes("https", "http") {
        reasons.push(Reason::new("downgrade", -40, "a redirect leads from https to http"));
    }
    if !seen.last().is_secure() {
        reasons.push(Reason::new("no_tls", -60, "what it answers, anybody on the way can read and change"));
    }
    for hop in &seen.hops {
        for fault in hop.tls.iter().flat_map(|tls| &tls.certificate.faults) {
            let (points, because) = fault.judged();
            let host = hop.url.host_str().unwrap_or_default();
            push(&mut reasons, Reason::new(fault.code(), points, &format!("{host}: {because}")));
        }
    }
    let found =
        headers.iter().flat_map(|header| &header.reasons).chain(cookies.iter().flat_map(|cookie| &cookie.reasons));
    for reason in found {
        push(&mut reasons, reason.clone());
    }
    let sum: i32 = reasons.iter().map(|reason| i32::from(reason.points)).sum();
    let score = u8::try_from(sum.clamp(0, 100)).unwrap_or(0);
    Grade { score, letter: letter(score), reasons }
}

/// Puts a reason down once: ten bad cookies are one habit.
fn push(reasons: &mut Vec<Reason>, reason: Reason) {
    if !reasons.iter().any(|other| other.code == reason.code) {
        reasons.push(reason);
    }
}

fn letter(score: u8) -> &'static str {
    match score {
        95.. => "A+",
        85..=94 => "A",
        70..=84 => "B",
        55..=69 => "C",
        40..=54 => "D",
        0..=39 => "F",
    }
}

impl Reason {
    pub(super) fn new(code: &'static str, points: i16, because: &str) -> Self {
        Self { code, points, because: because.to_owned() }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "code": self.code, "points": self.points, "because": self.because })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_stands_for_a_range_of_scores() {
        let letters: Vec<&str> = [100, 95, 94, 85, 84, 70, 69, 55, 54, 40, 39, 0].map(letter).into();
        assert_eq!(letters, ["A+", "A+", "A", "A", "B", "B", "C", "C", "D", "D", "F", "F"]);
    }

    #[test]
    fn the_same_fault_counts_once() {
        let mut reasons = vec![Reason::new("a", -5, "first")];
        push(&mut reasons, Reason::new("a", -5, "second"));
        push(&mut reasons, Reason::new("b", -5, "other"));
        assert_eq!(reasons.iter().map(|reason| reason.because.as_str()).collect::<Vec<_>>(), ["first", "other"]);
    }
}
