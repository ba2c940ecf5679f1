//! A token bucket, as AWS describes its own.

use std::time::Duration;

/// How much may come at once, and how much again each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// What a full bucket holds.
    pub burst: f64,
    /// What flows back each second.
    pub per_second: f64,
}

/// A bucket; it begins full.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    spent: f64,
    at: Duration,
}

impl Bucket {
    /// Takes `n` if there is so much.
    pub(crate) fn take(&mut self, rate: Rate, n: f64, now: Duration) -> bool {
        let enough = self.left(rate, now) >= n;
        if enough {
            self.spent += n;
        }
        enough
    }

    /// Takes `n`, whether there is so much or not: what was consumed is known only afterwards.
    pub(crate) fn charge(&mut self, rate: Rate, n: f64, now: Duration) {
        self.left(rate, now);
        self.spent += n;
    }

    /// What is left; below zero where more was charged.
    pub(crate) fn left(&mut self, rate: Rate, now: Duration) -> f64 {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.spent = (self.spent - since * rate.per_second).max(0.0);
        rate.burst - self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2.0, per_second: 1.0 };

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let mut at = |seconds: f64| bucket.take(RATE, 1.0, Duration::from_secs_f64(seconds));
        assert_eq!([at(0.0), at(0.0), at(0.0), at(0.9), at(1.0), at(1.5)], [true, true, false, false, true, false]);
    }

    #[test]
    fn an_idle_bucket_holds_no_more_than_a_burst() {
        let mut bucket = Bucket::default();
        assert!(!bucket.take(RATE, 2.5, Duration::from_secs(1000)));
        assert!(bucket.take(RATE, 2.0, Duration::from_secs(1000)));
    }

    #[test]
    fn what_was_charged_beyond_must_flow_back_first() {
        let mut bucket = Bucket::default();
        bucket.charge(RATE, 5.0, Duration::ZERO);
        assert!(bucket.left(RATE, Duration::from_secs(3)) <= 0.0);
        assert!(bucket.left(RATE, Duration::from_secs(4)) > 0.0);
    }
}
