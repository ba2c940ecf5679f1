//! How an instance leaves its group: a ladder of calls, and which comes next. Decided over values; nothing waits here.
//!
//! Each rung ends the instance; only the first makes the group smaller. Below it the group replaces the instance, which
//! costs a boot, and is better than an instance that serves nobody and is paid for.

/// One call that ends an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// TerminateInstanceInAutoScalingGroup with the decrement: the group is one smaller, and nothing comes after it.
    Shrink,
    /// The same without the decrement: the group replaces the instance. All that AWS allows while the group is at its
    /// minimum.
    Replace,
    /// SetInstanceHealth with `Unhealthy`: the group ends and replaces the instance when it gets to it.
    MarkUnhealthy,
}

/// What a call of a rung came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// AWS does it; it takes its time.
    Accepted,
    /// ValidationError: the group is at its minimum, or does not know the instance. AWS tells the two apart in words only.
    Invalid,
    /// ResourceContention, ScalingActivityInProgress, a throttle: nothing was done, and another time it will be.
    Busy,
    /// No answer came, or a server's error: it may have been done.
    Unclear,
    /// It will never be done: we may not, or AWS does not understand us.
    Refused,
}

/// What a look at the group shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The instance is not in the group, or is on its way out.
    Gone,
    /// It is there.
    There {
        /// Whether the group is as small as it may be.
        at_minimum: bool,
    },
    /// Nobody can tell.
    Unknown,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This call, at once.
    Call(Rung),
    /// The same call again, after a pause.
    Again(Rung),
    /// A look at the group, at once.
    Look,
    /// A look at the group after a pause: what was asked for may not show yet.
    LookLater,
    /// It leaves, or has left.
    Gone,
    /// There is nothing else to try.
    GiveUp,
}

/// Calls of one rung at most. With pauses of 1 to 8 s in between: scaling activities take seconds, and whoever leaves on
/// a spot notice has two minutes.
pub const TRIES: u32 = 5;

/// What comes after the `tries`-th call (from 1) of a rung was answered so, and after a look where there was one.
///
/// A decrement is asked for again in two cases: AWS said that it had not done it, or a look after an answer that did
/// not come shows the instance still in service. Where no look can be had, it is not asked for again.
pub fn after(rung: Rung, tries: u32, answer: Answer, sight: Option<Sight>) -> Next {
    match (answer, sight) {
        (Answer::Accepted, _) | (_, Some(Sight::Gone)) => Next::Gone,
        (Answer::Refused, _) => below(rung),
        (Answer::Busy, _) => again(rung, tries),
        (Answer::Invalid, None) => Next::Look,
        (Answer::Unclear, None) => Next::LookLater,
        (Answer::Invalid, Some(Sight::There { at_minimum: true })) if rung == Rung::Shrink => Next::Call(Rung::Replace),
        // It was at its minimum a moment ago, or the instance is at a step of its life that bears no call.
        (Answer::Invalid, Some(Sight::There { .. })) => again(rung, tries),
        (Answer::Unclear, Some(Sight::There { .. })) => again(rung, tries),
        (Answer::Invalid | Answer::Unclear, Some(Sight::Unknown)) => match rung {
            Rung::Shrink => Next::Call(Rung::MarkUnhealthy),
            // Done twice it is done once.
            Rung::Replace | Rung::MarkUnhealthy => again(rung, tries),
        },
    }
}

fn again(rung: Rung, tries: u32) -> Next {
    if tries < TRIES { Next::Again(rung) } else { below(rung) }
}

/// The next rung that another answer can be hoped of. Both of the first are one operation, under one permission and one
/// activity's lock: what stops one stops the other.
fn below(rung: Rung) -> Next {
    match rung {
        Rung::Shrink | Rung::Replace => Next::Call(Rung::MarkUnhealthy),
        Rung::MarkUnhealthy => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One thing that the world says: to a call, or to a look.
    #[derive(Clone, Copy)]
    enum Says {
        To(Answer),
        Shows(Sight),
    }

    /// What is done until the end, one word a step, when the world says this; the last word is the end.
    fn climb(says: &[Says]) -> Vec<String> {
        let mut says = says.iter();
        let (mut rung, mut tries, mut answer) = (Rung::Shrink, 0, Answer::Busy);
        let mut next = Next::Call(rung);
        let mut done = Vec::new();
        loop {
            done.push(format!("{next:?}"));
            next = match next {
                Next::Gone | Next::GiveUp => return done,
                Next::Call(called) | Next::Again(called) => {
                    tries = if called == rung { tries + 1 } else { 1 };
                    rung = called;
                    let Some(Says::To(said)) = says.next() else { panic!("a call nobody answers: {done:?}") };
                    answer = *said;
                    after(rung, tries, answer, None)
                }
                Next::Look | Next::LookLater => {
                    let Some(Says::Shows(sight)) = says.next() else { panic!("a look that shows nothing: {done:?}") };
                    after(rung, tries, answer, Some(*sight))
                }
            };
        }
    }

    use Answer::{Accepted, Busy, Invalid, Refused, Unclear};
    use Says::{Shows, To};
    use Sight::{Gone, Unknown};

    const AT_MINIMUM: Sight = Sight::There { at_minimum: true };
    const ABOVE: Sight = Sight::There { at_minimum: false };

    #[test]
    fn a_decrement_that_is_accepted_is_all() {
        assert_eq!(climb(&[To(Accepted)]), ["Call(Shrink)", "Gone"]);
    }

    #[test]
    fn at_the_minimum_the_instance_is_replaced_instead() {
        let calls = climb(&[To(Invalid), Shows(AT_MINIMUM), To(Accepted)]);
        assert_eq!(calls, ["Call(Shrink)", "Look", "Call(Replace)", "Gone"]);
    }

    #[test]
    fn an_instance_that_the_group_does_not_know_or_ends_already_is_gone() {
        assert_eq!(climb(&[To(Invalid), Shows(Gone)]), ["Call(Shrink)", "Look", "Gone"]);
    }

    #[test]
    fn contention_and_activities_under_way_are_waited_for_then_the_instance_is_marked() {
        assert_eq!(climb(&[To(Busy), To(Accepted)]), ["Call(Shrink)", "Again(Shrink)", "Gone"]);
        let calls = climb(&[To(Busy), To(Busy), To(Busy), To(Busy), To(Busy), To(Accepted)]);
        let again = "Again(Shrink)";
        assert_eq!(calls, ["Call(Shrink)", again, again, again, again, "Call(MarkUnhealthy)", "Gone"]);
    }

    #[test]
    fn an_answer_that_did_not_come_is_followed_by_a_look_and_never_by_a_second_decrement_at_once() {
        assert_eq!(climb(&[To(Unclear), Shows(Gone)]), ["Call(Shrink)", "LookLater", "Gone"]);
        let calls = climb(&[To(Unclear), Shows(ABOVE), To(Accepted)]);
        assert_eq!(calls, ["Call(Shrink)", "LookLater", "Again(Shrink)", "Gone"]);
        // Without a look there is no second one at all.
        let calls = climb(&[To(Unclear), Shows(Unknown), To(Accepted)]);
        assert_eq!(calls, ["Call(Shrink)", "LookLater", "Call(MarkUnhealthy)", "Gone"]);
    }

    #[test]
    fn who_may_not_terminate_marks_the_instance() {
        assert_eq!(climb(&[To(Refused), To(Accepted)]), ["Call(Shrink)", "Call(MarkUnhealthy)", "Gone"]);
    }

    #[test]
    fn what_is_refused_on_the_last_rung_is_given_up() {
        assert_eq!(climb(&[To(Refused), To(Refused)]), ["Call(Shrink)", "Call(MarkUnhealthy)", "GiveUp"]);
    }

    #[test]
    fn a_group_that_left_its_minimum_meanwhile_is_asked_again() {
        let calls = climb(&[To(Invalid), Shows(ABOVE), To(Accepted)]);
        assert_eq!(calls, ["Call(Shrink)", "Look", "Again(Shrink)", "Gone"]);
    }

    #[test]
    fn a_replacement_is_waited_for_and_looked_after_as_well() {
        let calls = climb(&[To(Invalid), Shows(AT_MINIMUM), To(Busy), To(Unclear), Shows(Gone)]);
        assert_eq!(calls, ["Call(Shrink)", "Look", "Call(Replace)", "Again(Replace)", "LookLater", "Gone"]);
    }

    #[test]
    fn every_way_down_ends_and_no_decrement_follows_one_that_may_have_been_done_unseen() {
        let answers = [Accepted, Invalid, Busy, Unclear, Refused];
        let sights = [None, Some(Gone), Some(AT_MINIMUM), Some(ABOVE), Some(Unknown)];
        for rung in [Rung::Shrink, Rung::Replace, Rung::MarkUnhealthy] {
            for (answer, sight) in answers.into_iter().flat_map(|answer| sights.map(|sight| (answer, sight))) {
                for tries in 1..=TRIES {
                    let next = after(rung, tries, answer, sight);
                    let decrements = matches!(next, Next::Call(Rung::Shrink) | Next::Again(Rung::Shrink));
                    let seen = sight == Some(ABOVE) || sight == Some(AT_MINIMUM);
                    assert!(!decrements || answer == Busy || seen, "{answer:?} {sight:?}");
                    assert!(!decrements || rung == Rung::Shrink, "{rung:?}: nobody climbs");
                    assert!(tries < TRIES || !matches!(next, Next::Again(_)), "{rung:?} {answer:?} has no end");
                }
            }
        }
    }
}
