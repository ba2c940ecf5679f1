//! What a machine on loan says of its own end, and what its worker does about it.
//!
//! A worker's machine may be taken away: a spot instance at two minutes' notice, any instance when its group ends it. What
//! the machine says is a value here, looked at again and again; what a worker does about it only ever becomes more urgent.

use std::time::Duration;

use jiff::Timestamp;

/// So long before a spot instance is taken everything has to be over: programs are killed, and their runs are given back in
/// what is left. Notices are given on a best-effort basis, and a kill may come a few seconds early.
pub const HARD_STOP: Duration = Duration::from_secs(20);
/// What runs on an instance that its group ends has so long before it is killed; the group's lifecycle hook waits 120 s.
pub const GROUP_ENDS: Duration = Duration::from_secs(60);

/// What becomes of a spot instance that is interrupted (Amazon EC2 User Guide, "Spot Instance interruption notices").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It ends.
    Terminate,
    /// It stops: to a worker the same.
    Stop,
    /// It is put to sleep at once: no two minutes are given.
    Hibernate,
}

/// What the machine said at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// It is to be interrupted, at that moment.
    pub interruption: Option<(Action, Timestamp)>,
    /// It is at more risk than others of being interrupted (`noticeTime` of a rebalance recommendation).
    pub at_risk: bool,
    /// What its group has decided about it: `Terminated` once it is to end (Amazon EC2 Auto Scaling, "Retrieve the target
    /// lifecycle state").
    pub target: Option<String>,
}

/// What a worker does about it, the least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heed {
    /// Goes on.
    Stay,
    /// Takes nothing new, lets what runs end, and goes home.
    Finish,
    /// Takes nothing new, tells what runs to end, and kills what still runs after so long.
    Leave(Within),
}

/// So long. What is shorter is more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within(pub Duration);

impl PartialOrd for Within {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Within {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

/// What to do about what the machine says, at `now` by its own clock, which is the one that the notice was made by.
pub fn heed(said: &Said, now: Timestamp) -> Heed {
    let interruption = said.interruption.map(|(action, at)| match action {
        Action::Terminate | Action::Stop => {
            let left = at.duration_since(now).max(jiff::SignedDuration::ZERO).unsigned_abs();
            Heed::Leave(Within(left.saturating_sub(HARD_STOP)))
        }
        Action::Hibernate => Heed::Leave(Within(Duration::ZERO)),
    });
    let ended = said.target.as_deref().is_some_and(is_an_end).then_some(Heed::Leave(Within(GROUP_ENDS)));
    let at_risk = said.at_risk.then_some(Heed::Finish);
    [interruption, ended, at_risk].into_iter().flatten().max().unwrap_or(Heed::Stay)
}

/// Whether a target lifecycle state is one from which an instance does not come back to work by itself. A group that takes an
/// instance into a warm pool or aside has not ended it, but has no work for it either.
fn is_an_end(target: &str) -> bool {
    !matches!(target, "InService" | "Pending" | "Warmed:Pending")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn leave(seconds: u64) -> Heed {
        Heed::Leave(Within(Duration::from_secs(seconds)))
    }

    #[test]
    fn what_a_machine_says_of_its_end_is_heeded_by_its_urgency() {
        let interrupted = |action, second| Said { interruption: Some((action, at(second))), ..Said::default() };
        let target = |state: &str| Said { target: Some(state.to_owned()), ..Said::default() };
        for (said, heeded) in [
            (Said::default(), Heed::Stay),
            (Said { at_risk: true, ..Said::default() }, Heed::Finish),
            (interrupted(Action::Terminate, 120), leave(100)),
            (interrupted(Action::Stop, 120), leave(100)),
            (interrupted(Action::Terminate, 21), leave(1)),
            (interrupted(Action::Terminate, 20), leave(0)),
            (interrupted(Action::Terminate, 5), leave(0)),
            (interrupted(Action::Terminate, -5), leave(0)),
            (interrupted(Action::Hibernate, 120), leave(0)),
            (target("InService"), Heed::Stay),
            (target("Terminated"), leave(60)),
            (target("Standby"), leave(60)),
            (target("Warmed:Stopped"), leave(60)),
            (Said { at_risk: true, ..interrupted(Action::Terminate, 120) }, leave(100)),
            (Said { target: Some("Terminated".into()), ..interrupted(Action::Terminate, 120) }, leave(60)),
            (Said { target: Some("Terminated".into()), ..interrupted(Action::Terminate, 50) }, leave(30)),
        ] {
            assert_eq!(heed(&said, at(0)), heeded, "{said:?}");
        }
    }

    #[test]
    fn less_time_is_more_urgent_and_any_end_more_than_a_risk() {
        assert!(
            Heed::Stay < Heed::Finish && Heed::Finish < leave(3600) && leave(3600) < leave(10) && leave(10) < leave(0)
        );
    }
}
