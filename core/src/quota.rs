//! How much one caller may submit: a rate with a burst, and how many jobs at once may be unfinished.
//!
//! The rate is a token bucket in the form of the generic cell rate algorithm (ITU-T I.371): one moment instead of a
//! level and a time, so that nothing has to refill it.
//!
//! The yard's own callers have none: a tick or a finding that is refused is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::ports::{PortError, Yard};

/// What the callers may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// What every caller may that is not named.
    pub every: Quota,
    /// What the callers may that are.
    pub callers: BTreeMap<String, Quota>,
}

impl Quotas {
    /// What this caller may.
    pub fn of(&self, caller: &str) -> Quota {
        self.callers.get(caller).copied().unwrap_or(self.every)
    }
}

/// What one caller may. The default is: whatever it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many jobs in what time.
    pub rate: Option<Rate>,
    /// How many jobs that have not ended.
    pub open_jobs: Option<u64>,
}

/// So many jobs a minute, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Jobs a minute; at least 1.
    pub jobs_per_minute: u32,
    /// Jobs at once after a rest; at least 1.
    pub burst: u32,
}

impl Rate {
    /// The time in which one job comes back.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.jobs_per_minute.max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs a minute, {} at once", self.jobs_per_minute, self.burst)
    }
}

/// What was drawn of a rate so far: the moment at which all of it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at: Timestamp,
}

impl Bucket {
    /// The bucket of which all is back at that moment, as a home stored it.
    pub fn full_at(full_at: Timestamp) -> Self {
        Self { full_at }
    }

    /// The moment at which all of it is back.
    pub fn is_full_at(self) -> Timestamp {
        self.full_at
    }
}

/// When the same draw would succeed, if nothing else is drawn meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

/// What became of a draw.
pub type Drawn = Result<(), RetryAfter>;

/// Decides whether `n` jobs may come now, all of them or none. `bucket` is what was drawn before, if anything was.
///
/// More than the burst at once is let in when nothing is drawn, and is paid back by a longer rest: else a batch
/// above the burst could never come, however long its caller waits.
///
/// # Errors
///
/// [`RetryAfter`]: how long to wait for it.
pub fn draw(bucket: Option<Bucket>, rate: Rate, now: Timestamp, n: u32) -> Result<Bucket, RetryAfter> {
    let interval = rate.interval();
    let full_at = bucket.map_or(now, |bucket| bucket.full_at.max(now));
    let spare = interval.saturating_mul(rate.burst.max(1) - n.min(rate.burst.max(1)));
    let owing = full_at.duration_since(now).unsigned_abs();
    if owing > spare {
        return Err(RetryAfter(owing - spare));
    }
    Ok(Bucket { full_at: full_at.saturating_add(interval.saturating_mul(n)).unwrap_or(Timestamp::MAX) })
}

/// Buckets of callers, kept in memory by the one process that takes their jobs. A restart forgives what was drawn.
#[derive(Debug, Default)]
pub struct Buckets(BTreeMap<String, Bucket>);

impl Buckets {
    /// Buckets kept at most: beyond that the full ones are forgotten, which changes nothing.
    const MOST: usize = 10_000;

    /// Draws from the caller's bucket, as [`draw`] decides.
    ///
    /// # Errors
    ///
    /// [`RetryAfter`]: how long to wait for it; nothing was drawn.
    pub fn draw(&mut self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Drawn {
        let drawn = draw(self.0.get(caller).copied(), rate, now, n)?;
        if self.0.len() >= Self::MOST {
            self.0.retain(|_, bucket| bucket.full_at > now);
        }
        self.0.insert(caller.to_owned(), drawn);
        Ok(())
    }
}

/// A submission that comes too early. Nothing of it was accepted or drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// The caller's rate is used up.
    #[error("the quota of `{caller}` is {rate}: try again in {} s", whole_seconds(*.after))]
    Rate {
        /// Who.
        caller: String,
        /// What it may.
        rate: Rate,
        /// When it may again.
        after: Duration,
    },
    /// So many at once are more than may ever be unfinished: waiting does not help.
    #[error(
        "the quota of `{caller}` is {most} jobs that have not ended, and these are {n}: send them in smaller batches"
    )]
    Never {
        /// Who.
        caller: String,
        /// How many it may have.
        most: u64,
        /// How many came together.
        n: u32,
    },
    /// Too many of the caller's jobs have not ended.
    #[error("the quota of `{caller}` is {most} jobs that have not ended, and it has {open}: try again when some have")]
    Open {
        /// Who.
        caller: String,
        /// How many it may have.
        most: u64,
        /// How many it has.
        open: u64,
    },
}

/// Where a caller whose jobs must end first is sent away for: nobody knows when they do.
const UNTIL_SOME_END: Duration = Duration::from_secs(30);

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl OverQuota {
    /// After how many whole seconds it is worth another try, at least one; `None`: it never is.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Rate { after, .. } => Some(whole_seconds(*after).max(1)),
            Self::Never { .. } => None,
            Self::Open { .. } => Some(whole_seconds(UNTIL_SOME_END)),
        }
    }
}

/// Charges a caller for `n` jobs that come together. A caller without a quota costs nothing.
///
/// Two submissions at the same moment may both find room for the last open job: the quota is a brake, not a wall.
///
/// # Errors
///
/// The ledger failed; the [`OverQuota`] inside says what is used up.
pub async fn charge(yard: &Yard, caller: &str, n: u32) -> Result<Result<(), OverQuota>, PortError> {
    let quota = yard.policies().quotas.of(caller);
    if n == 0 {
        return Ok(Ok(()));
    }
    if let Some(most) = quota.open_jobs {
        if u64::from(n) > most {
            return Ok(Err(OverQuota::Never { caller: caller.to_owned(), most, n }));
        }
        let open = yard.ledger.open_jobs(caller, most).await?;
        if open.saturating_add(u64::from(n)) > most {
            return Ok(Err(OverQuota::Open { caller: caller.to_owned(), most, open }));
        }
    }
    let Some(rate) = quota.rate else { return Ok(Ok(())) };
    let drawn = yard.ledger.draw(caller, n, rate, yard.ambient.now()).await?;
    Ok(drawn.map_err(|RetryAfter(after)| OverQuota::Rate { caller: caller.to_owned(), rate, after }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at;

    const RATE: Rate = Rate { jobs_per_minute: 60, burst: 5 };

    #[test]
    fn a_burst_then_one_a_second() {
        let mut bucket = None;
        for _ in 0..5 {
            bucket = Some(draw(bucket, RATE, at(0), 1).unwrap());
        }
        assert_eq!(draw(bucket, RATE, at(0), 1), Err(RetryAfter(Duration::from_secs(1))));
        bucket = Some(draw(bucket, RATE, at(1), 1).unwrap());
        assert_eq!(draw(bucket, RATE, at(1), 2), Err(RetryAfter(Duration::from_secs(2))));
        // After a rest the whole burst is there, and no more than that.
        bucket = Some(draw(bucket, RATE, at(1000), 5).unwrap());
        assert!(draw(bucket, RATE, at(1000), 1).is_err());
    }

    #[test]
    fn a_batch_above_the_burst_waits_for_a_full_bucket_and_is_paid_back() {
        let bucket = Some(draw(None, RATE, at(0), 1).unwrap());
        assert_eq!(draw(bucket, RATE, at(0), 50), Err(RetryAfter(Duration::from_secs(1))));
        let bucket = Some(draw(bucket, RATE, at(1), 50).unwrap());
        assert_eq!(draw(bucket, RATE, at(1), 1), Err(RetryAfter(Duration::from_secs(46))));
    }

    #[test]
    fn what_a_refused_caller_is_told() {
        let rate = OverQuota::Rate { caller: "ci".into(), rate: RATE, after: Duration::from_millis(1200) };
        let open = OverQuota::Open { caller: "ci".into(), most: 10, open: 10 };
        let never = OverQuota::Never { caller: "ci".into(), most: 10, n: 11 };
        insta::assert_snapshot!(format!(
            "{rate} [{:?}]\n{open} [{:?}]\n{never} [{:?}]",
            rate.retry_after_seconds(),
            open.retry_after_seconds(),
            never.retry_after_seconds()
        ));
    }

    #[test]
    fn each_caller_has_its_own_quota_and_bucket() {
        let named = Quota { rate: Some(RATE), open_jobs: None };
        let quotas = Quotas { every: Quota::default(), callers: BTreeMap::from([("ci".to_owned(), named)]) };
        assert_eq!((quotas.of("ci"), quotas.of("ana")), (named, Quota::default()));
        let mut buckets = Buckets::default();
        assert!(buckets.draw("ci", 5, RATE, at(0)).is_ok());
        assert!(buckets.draw("ci", 1, RATE, at(0)).is_err());
        assert!(buckets.draw("ana", 5, RATE, at(0)).is_ok());
    }

    proptest! {
        /// In any stretch of time no more comes than the burst and what the rate brings back in it; and whoever waits
        /// as long as it was told is let in.
        #[test]
        fn no_more_than_the_rate_and_nobody_waits_in_vain(
            per_minute in 1u32..600,
            burst in 1u32..50,
            draws in prop::collection::vec((0i64..5000, 1u32..50), 1..60),
        ) {
            let rate = Rate { jobs_per_minute: per_minute, burst };
            let (mut now, mut bucket, mut taken) = (at(0), None, 0u64);
            for (gap, n) in draws {
                now += Duration::from_millis(gap.unsigned_abs());
                let n = n.min(burst);
                match draw(bucket, rate, now, n) {
                    Ok(drawn) => {
                        bucket = Some(drawn);
                        taken += u64::from(n);
                    }
                    Err(RetryAfter(after)) => {
                        let later = now + after;
                        prop_assert!(draw(bucket, rate, later, n).is_ok());
                        prop_assert!(draw(bucket, rate, later - Duration::from_millis(1), n).is_err());
                    }
                }
                let passed = now.duration_since(at(0)).as_millis();
                let most = u64::from(burst) + u64::try_from(passed).unwrap() * u64::from(per_minute) / 60_000 + 1;
                prop_assert!(taken <= most, "{taken} of at most {most}");
            }
        }
    }
}
