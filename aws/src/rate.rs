//! How fast AWS may be called: token buckets, decided over values. The time is an argument.

use std::time::Duration;

use jiff::Timestamp;

/// What a bucket holds, and how fast it fills again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls that can be made at once when nothing was called for a while; 1 at least.
    pub burst: u32,
    /// Calls a second that can be made for ever; 1 at least.
    pub per_second: u32,
}

impl Rate {
    /// The time in which one call comes back.
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// The time in which an empty bucket fills.
    fn full(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// A token bucket. It keeps no count but the moment at which it will be full (the virtual scheduling of ATM's generic
/// cell rate algorithm, ITU-T I.371): one value, no rounding, and a token can be booked before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: Rate,
    full_at: Timestamp,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: Timestamp::MIN }
    }

    /// How long whoever comes now waits for a token, were they to take one.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let (filling, full) = (since(now, self.full_at), self.rate.full());
        (filling + self.rate.interval()).saturating_sub(full)
    }

    /// Takes a token, one that is not there yet too: whoever takes it waits first, [`Bucket::wait`] says how long.
    #[must_use]
    pub fn taken(self, now: Timestamp) -> Self {
        Self { full_at: self.full_at.max(now) + self.rate.interval(), ..self }
    }

    /// The bucket with nothing in it: who answers that we call too fast knows better. What is booked stays booked.
    #[must_use]
    pub fn drained(self, now: Timestamp) -> Self {
        Self { full_at: self.full_at.max(now + self.rate.full()), ..self }
    }

    /// The bucket as it can be at most under waits of `patience`. A clock that was set back would else say that every
    /// token is hours away.
    fn healed(self, now: Timestamp, patience: Duration) -> Self {
        Self { full_at: self.full_at.min(now + self.rate.full() + patience), ..self }
    }
}

/// The time from `now` until then; zero when that is past.
fn since(now: Timestamp, then: Timestamp) -> Duration {
    if then <= now { Duration::ZERO } else { then.duration_since(now).unsigned_abs() }
}

/// The two rates that a launch is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchRates {
    /// Calls of RunTask.
    pub calls: Rate,
    /// Tasks that are started on Fargate. AWS counts those on demand and those on spot apart; here they are counted
    /// together, which is never too many.
    pub launches: Rate,
}

impl Default for LaunchRates {
    /// What accounts have unless somebody had them raised: 20 calls of RunTask a second, 100 tasks at once and 20 a
    /// second (Amazon ECS, "Request throttling" and "AWS Fargate throttling quotas").
    fn default() -> Self {
        Self { calls: Rate { burst: 20, per_second: 20 }, launches: Rate { burst: 100, per_second: 20 } }
    }
}

/// The buckets of both. They are two because quotas are raised one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchBuckets {
    calls: Bucket,
    launches: Bucket,
}

impl LaunchBuckets {
    /// Full buckets.
    pub fn new(rates: LaunchRates) -> Self {
        Self { calls: Bucket::new(rates.calls), launches: Bucket::new(rates.launches) }
    }

    /// Books one launch, and says how long it has to wait; `None`, and nothing is booked, when that is over `patience`.
    #[must_use]
    pub fn take(self, now: Timestamp, patience: Duration) -> (Self, Option<Duration>) {
        let (calls, launches) = (self.calls.healed(now, patience), self.launches.healed(now, patience));
        let wait = calls.wait(now).max(launches.wait(now));
        if wait <= patience {
            (Self { calls: calls.taken(now), launches: launches.taken(now) }, Some(wait))
        } else {
            (Self { calls, launches }, None)
        }
    }

    /// Both, empty.
    #[must_use]
    pub fn drained(self, now: Timestamp) -> Self {
        Self { calls: self.calls.drained(now), launches: self.launches.drained(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000 + millis).unwrap()
    }

    /// The waits of `n` launches that come at once.
    fn waits(buckets: &mut LaunchBuckets, n: usize, now: Timestamp) -> Vec<Option<u64>> {
        let mut take = || {
            let (next, wait) = buckets.take(now, PATIENCE);
            *buckets = next;
            wait.map(|wait| wait.as_millis() as u64)
        };
        (0..n).map(|_| take()).collect()
    }

    #[test]
    fn a_burst_goes_at_once_and_what_follows_goes_at_the_rate() {
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 2 });
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(bucket.wait(at(0)).as_millis());
            bucket = bucket.taken(at(0));
        }
        assert_eq!(waits, [0, 0, 0, 500, 1000, 1500]);
        // All of it is there again when the last that was booked has gone and the burst has filled.
        assert_eq!(bucket.wait(at(3000 - 1)).as_millis(), 0);
        assert_eq!(bucket.wait(at(1500)).as_millis(), 500);
    }

    #[test]
    fn twenty_calls_go_at_once_then_twenty_a_second_and_what_would_wait_over_ten_seconds_goes_elsewhere() {
        let mut buckets = LaunchBuckets::new(LaunchRates::default());
        let first = waits(&mut buckets, 400, at(0));
        assert_eq!(first[..20], [Some(0); 20]);
        assert_eq!(first[20..23], [Some(50), Some(100), Some(150)]);
        assert_eq!(first[219], Some(10_000));
        assert_eq!(first[220..], [None; 180]);
        // Who was refused has booked nothing: two seconds later forty more go.
        assert_eq!(waits(&mut buckets, 50, at(2000)).iter().flatten().count(), 40);
    }

    #[test]
    fn a_raised_quota_of_calls_leaves_a_hundred_launches_at_once() {
        let calls = Rate { burst: 500, per_second: 500 };
        let mut buckets = LaunchBuckets::new(LaunchRates { calls, ..LaunchRates::default() });
        let waits = waits(&mut buckets, 102, at(0));
        assert_eq!(waits[..100], [Some(0); 100]);
        assert_eq!(waits[100..], [Some(50), Some(100)]);
    }

    #[test]
    fn a_throttled_call_empties_the_buckets_for_all_who_come_after_it() {
        let mut buckets = LaunchBuckets::new(LaunchRates::default()).drained(at(0));
        assert_eq!(waits(&mut buckets, 2, at(0)), [Some(50), Some(100)]);
        // Twice empty is empty; and what was booked meanwhile stays so.
        let mut buckets = buckets.drained(at(0));
        assert_eq!(waits(&mut buckets, 1, at(0)), [Some(150)]);
    }

    #[test]
    fn a_clock_that_is_set_back_by_an_hour_holds_nobody_up_for_an_hour() {
        let mut buckets = LaunchBuckets::new(LaunchRates::default());
        assert_eq!(waits(&mut buckets, 1, at(3_600_000)), [Some(0)]);
        let wait = waits(&mut buckets, 1, at(0))[0];
        assert!(wait.is_none_or(|wait| wait <= 10_050), "{wait:?}");
        assert!(waits(&mut buckets, 1, at(11_000))[0].is_some());
    }
}
