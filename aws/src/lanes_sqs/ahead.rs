//! Messages taken a little ahead. Where jobs are short, a worker's slots come free one by one, and a call for each would
//! bring one message where it could bring ten. So a call brings what will be wanted within a quarter of a second, at the
//! pace of the last second; what nobody has wanted after half a second goes back. Where jobs are long the pace is nothing,
//! and a call brings what there is room for: hiding more would keep it from other workers, and each time it went back
//! its receive count had risen.
//!
//! Tiers stay strict: a sweep asks the higher ones first, and comes to what was taken ahead of a lower one only then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use switchyard_core::ports::Received;

/// What a pace is measured over.
const LATELY: Duration = Duration::from_secs(1);
/// What will be wanted within so long is taken: this part of what was wanted lately.
const QUARTER: usize = 4;
/// How long it is kept for whoever asks.
pub(super) const KEPT: Duration = Duration::from_millis(500);

/// What was taken ahead of one queue, and how fast it is wanted.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    handed: VecDeque<Instant>,
    kept: VecDeque<(Instant, Received)>,
}

impl Ahead {
    /// How many messages will be wanted within a quarter of a second.
    pub(super) fn soon(&mut self, now: Instant) -> usize {
        while self.handed.front().is_some_and(|at| now.duration_since(*at) >= LATELY) {
            self.handed.pop_front();
        }
        self.handed.len() / QUARTER
    }

    /// Notes that so many were handed out.
    pub(super) fn handed(&mut self, count: usize, now: Instant) {
        self.handed.extend(std::iter::repeat_n(now, count));
    }

    /// Takes up to `max` of what is kept, the longest kept first.
    pub(super) fn take(&mut self, max: usize, now: Instant) -> Vec<Received> {
        let fresh = self.kept.iter().take_while(|(since, _)| now.duration_since(*since) < KEPT).count();
        self.kept.drain(..fresh.min(max)).map(|(_, received)| received).collect()
    }

    /// Keeps these for whoever asks next.
    pub(super) fn keep(&mut self, received: Vec<Received>, now: Instant) {
        self.kept.extend(received.into_iter().map(|received| (now, received)));
    }

    /// What was kept for as long as it may be.
    pub(super) fn stale(&mut self, now: Instant) -> Vec<Received> {
        let stale = self.kept.iter().take_while(|(since, _)| now.duration_since(*since) >= KEPT).count();
        self.kept.drain(..stale).map(|(_, received)| received).collect()
    }

    /// All that is kept.
    pub(super) fn all(&mut self) -> Vec<Received> {
        self.kept.drain(..).map(|(_, received)| received).collect()
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::Tier;
    use switchyard_core::ports::{Lane, Message};
    use switchyard_core::route::PoolName;

    use super::*;
    use crate::testing::a_job;

    fn received(n: usize) -> Received {
        let lane = Lane { pool: PoolName::STANDARD, tier: Tier::Standard };
        Received { message: Message::of(&a_job(&n.to_string())), lane, receipt: n.to_string() }
    }

    #[test]
    fn what_is_taken_ahead_follows_the_pace_and_is_nothing_for_long_jobs() {
        let (mut ahead, now) = (Ahead::default(), Instant::now());
        let at = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!(ahead.soon(now), 0);
        ahead.handed(3, now);
        assert_eq!(ahead.soon(at(10)), 0, "three a second are fetched one by one");
        ahead.handed(37, at(10));
        assert_eq!(ahead.soon(at(20)), 10);
        assert_eq!(ahead.soon(at(1005)), 9);
        assert_eq!(ahead.soon(at(1010)), 0);
    }

    #[test]
    fn what_is_kept_is_handed_out_in_order_until_its_time_is_over() {
        let (mut ahead, now) = (Ahead::default(), Instant::now());
        let at = |ms: u64| now + Duration::from_millis(ms);
        ahead.keep((0..3).map(received).collect(), now);
        ahead.keep(vec![received(3)], at(300));
        let receipts = |some: Vec<Received>| some.into_iter().map(|some| some.receipt).collect::<Vec<_>>().join(" ");
        assert_eq!(receipts(ahead.take(1, at(499))), "0");
        assert_eq!(receipts(ahead.take(9, at(500))), "", "too late to be handed out,");
        assert_eq!(receipts(ahead.stale(at(500))), "1 2", "and given back");
        assert_eq!(receipts(ahead.take(9, at(501))), "3");
        ahead.keep(vec![received(4)], at(600));
        assert_eq!(receipts(ahead.all()), "4");
    }
}
