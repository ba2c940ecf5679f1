//! The decision in words: each place with its verdict, and why it was not the one.

use std::time::Duration;

use super::{Choice, Conditions, Limits, Needs, Place, Route, Verdict, Verdicts, route};
use crate::cost::dollars;

/// A decision about a job that is not submitted, or the one of a job that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Where it goes and by what rule; none when no place can run it.
    pub chosen: Option<(Place, Choice)>,
    /// How soon it should have started, in milliseconds.
    pub start_target_ms: u64,
    /// What was found of every place.
    pub verdicts: Verdicts,
}

/// Decides, and keeps what it takes to say why.
pub fn explain(needs: &Needs, conditions: &Conditions, limits: &Limits) -> Explained {
    let start_target_ms = limits.millis(limits.start_target(conditions));
    match route(needs, conditions, limits) {
        Ok(Route { place, choice, verdicts }) => Explained { chosen: Some((place, choice)), start_target_ms, verdicts },
        Err(refused) => Explained { chosen: None, start_target_ms, verdicts: refused.verdicts },
    }
}

impl Explained {
    /// The verdict on the place that was chosen.
    pub fn best(&self) -> Option<&Verdict> {
        let (place, _) = self.chosen?;
        self.verdicts.iter().find(|verdict| verdict.place == place)
    }

    /// Whether it starts within its target.
    pub fn met(&self) -> bool {
        self.best().is_some_and(|verdict| verdict.start_ms <= self.start_target_ms)
    }

    /// The decision in a sentence.
    pub fn reason(&self) -> &'static str {
        self.chosen.map_or("no venue can run it", |(_, choice)| choice.as_text())
    }

    /// Why the job goes to this place, or why it does not.
    pub fn reason_of(&self, verdict: &Verdict) -> String {
        reason(verdict, self.chosen.zip(self.best()), Some(self.start_target_ms))
    }
}

/// Why the job of a route goes to one of its places, or why it does not. A route keeps no start target: one that is
/// cheaper than what was chosen for its price can only have started too late.
pub fn reason_in(route: &Route, verdict: &Verdict) -> String {
    let best = route.verdicts.iter().find(|verdict| verdict.place == route.place);
    reason(verdict, Some((route.place, route.choice)).zip(best), None)
}

fn reason(verdict: &Verdict, chosen: Option<((Place, Choice), &Verdict)>, start_target_ms: Option<u64>) -> String {
    if let Some(rule) = verdict.rejected {
        return rule.as_text().to_owned();
    }
    let Some(((place, choice), best)) = chosen else { return "feasible".to_owned() };
    if verdict.place == place {
        return choice.as_text().to_owned();
    }
    let late = start_target_ms.is_some_and(|target| verdict.start_ms > target);
    let cheaper = verdict.nanodollars < best.nanodollars;
    let dearer = || match verdict.nanodollars.saturating_sub(best.nanodollars) {
        0 => format!("costs the same; {} comes first", best.place),
        more => format!("dearer by {}", dollars(more)),
    };
    match (choice, start_target_ms) {
        (Choice::Favoured, _) => "a place that its capability favours comes first".to_owned(),
        (Choice::Inline, _) => "inline comes first".to_owned(),
        (Choice::UnknownDuration, _) => "its duration is unknown: a function comes first".to_owned(),
        (Choice::Cheapest, Some(target)) if late => format!("starts after the target of {}", lasting(target)),
        (Choice::Cheapest, None) if cheaper => "starts after the target".to_owned(),
        (Choice::Cheapest, _) => dearer(),
        (Choice::Soonest, _) if verdict.start_ms > best.start_ms => {
            format!("starts {} later", lasting(verdict.start_ms - best.start_ms))
        }
        (Choice::Soonest, _) => dearer(),
    }
}

/// Milliseconds as people say them: `at once` is for [`starting`].
fn lasting(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", Duration::from_millis(ms).as_secs_f64()) }
}

/// When something starts, in words.
pub fn starting(ms: u64) -> String {
    if ms == 0 { "at once".to_owned() } else { lasting(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Tier;
    use crate::route::Packaging;

    #[test]
    fn every_place_says_why_it_was_not_the_one() {
        let command = Needs {
            expected: Some(Duration::from_secs(120)),
            packaging: Packaging::Builtin,
            ..crate::testing::a_job(super::super::Venue::Fleet).work.needs
        };
        let unknown = Needs { expected: None, ..command.clone() };
        let short = Needs { expected: Some(Duration::from_secs(5)), ..command.clone() };
        let tools = Needs { network_tools: true, ..short.clone() };
        let favoured = Needs { prefer: vec!["steady".parse().unwrap()], ..command.clone() };
        let vast = Needs { docker: true, memory_mib: 1 << 20, ..command.clone() };
        let standard = Conditions { invocation_left: Some(Duration::from_secs(29)), ..Conditions::default() };
        let soon = Conditions { tier: Tier::Synchronous, ..standard.clone() };
        let limits = Limits::default();
        let mut text = String::new();
        for (case, needs, conditions) in [
            ("cheapest", &command, &standard),
            ("in time", &command, &soon),
            ("unknown", &unknown, &standard),
            ("inline", &short, &soon),
            ("too late everywhere", &tools, &soon),
            ("favoured", &favoured, &standard),
            ("refused", &vast, &standard),
        ] {
            let explained = explain(needs, conditions, &limits);
            text.push_str(&format!("{case}: {} (met {})\n", explained.reason(), explained.met()));
            for verdict in &explained.verdicts {
                text.push_str(&format!("    {:<15} {}\n", verdict.place, explained.reason_of(verdict)));
            }
            if let Ok(route) = route(needs, conditions, &limits) {
                let kept = explained.verdicts.iter().filter(|verdict| reason_in(&route, verdict).is_empty());
                assert_eq!(kept.count(), 0);
            }
        }
        insta::assert_snapshot!(text);
    }
}
