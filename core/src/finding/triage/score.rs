//! The points of a score, and what a score means in days.

use super::super::{Finding, Severity, Signal, Standing};
use super::{Reason, Urgency, hint};

/// What makes the score, in the order it is added.
pub(super) fn reasons(finding: &Finding) -> Vec<Reason> {
    let mut reasons = vec![severity_reason(finding.severity)];
    for (hint, because) in hint::of(finding) {
        reasons.push(Reason { code: hint.code(), points: hint.points(), because });
    }
    if let Some(more) = finding.resources.len().checked_sub(1).filter(|&n| n > 0) {
        // Two points for each further resource, at most ten: many resources are more work, and seldom a
        // greater danger than what was found.
        let points = i16::try_from(more.min(5)).unwrap_or(5) * 2;
        reasons.push(Reason {
            code: "resources",
            points,
            because: format!("It is about {} resources.", finding.resources.len()),
        });
    }
    let sum: i16 = reasons.iter().map(|reason| reason.points).sum();
    if finding.signals.contains(&Signal::Sample) {
        reasons.push(Reason {
            code: "sample",
            points: -sum,
            because: "The sender made it up, to be tried with.".to_owned(),
        });
    } else {
        reasons.extend(standing_reason(finding.standing, sum));
    }
    reasons
}

fn severity_reason(severity: Option<Severity>) -> Reason {
    let (points, because) = match severity {
        Some(Severity::Critical) => (80, "The sender calls it critical."),
        Some(Severity::High) => (60, "The sender calls it high."),
        Some(Severity::Medium) => (40, "The sender calls it medium."),
        Some(Severity::Low) => (20, "The sender calls it low."),
        Some(Severity::Informational) => (5, "The sender calls it informational."),
        // Between low and medium: not being rated is no reason to be forgotten.
        None => (30, "The sender does not rate it."),
    };
    Reason { code: "severity", points, because: because.to_owned() }
}

fn standing_reason(standing: Standing, sum: i16) -> Option<Reason> {
    let (points, because) = match standing {
        Standing::Active => return None,
        // Enough to let what nobody has taken up come first among its equals.
        Standing::Notified => (-10, "Somebody has taken it up."),
        Standing::Archived => (-sum, "It was archived."),
        Standing::Resolved => (-sum, "It is resolved."),
        Standing::Suppressed => (-sum, "Somebody suppressed it."),
        Standing::Deleted => (-sum, "What it is about no longer exists."),
    };
    Some(Reason { code: "standing", points, because: because.to_owned() })
}

/// A critical finding is urgent by itself; a high one by day, and at once with one aggravating hint; a
/// medium one this week, and today with two.
pub(super) fn urgency(score: u8, finding: &Finding) -> Urgency {
    let settled = match finding.standing {
        Standing::Active | Standing::Notified => finding.signals.contains(&Signal::Sample),
        Standing::Archived | Standing::Resolved | Standing::Suppressed | Standing::Deleted => true,
    };
    match score {
        _ if settled => Urgency::Informational,
        80.. => Urgency::Now,
        60..80 => Urgency::Today,
        30..60 => Urgency::ThisWeek,
        0..30 => Urgency::Informational,
    }
}
