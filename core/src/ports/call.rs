//! A call through a door: how it fails, how that is told, and how it is repeated.

use std::fmt;
use std::time::Duration;

use super::Ambient;

/// A call through a door that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {subject}")]
pub struct PortError {
    /// What was tried, as a verb: `save`, `launch`.
    pub operation: &'static str,
    /// On what.
    pub subject: String,
    /// Whether trying again can help.
    pub retryable: bool,
    /// What went wrong underneath.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl PortError {
    /// A failure that may pass: the same call can be made again.
    pub fn retryable(
        operation: &'static str,
        subject: impl fmt::Display,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation, subject: subject.to_string(), retryable: true, cause: cause.into() }
    }

    /// A failure that stays: the same call fails again.
    pub fn permanent(
        operation: &'static str,
        subject: impl fmt::Display,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation, subject: subject.to_string(), retryable: false, cause: cause.into() }
    }
}

/// An error and its causes, in one line. A cause that says again what was said already is left out: some libraries'
/// errors repeat theirs.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// The `n`-th pause (from 1) of a doubling series that starts at `first`: between half and all of it, so that jobs
/// which failed together do not return together; at most an hour.
pub fn backoff(first: Duration, n: u32, chance: u64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = u64::try_from(doubled.min(Duration::from_secs(3600)).as_millis()).unwrap_or(3_600_000);
    let half = whole / 2;
    Duration::from_millis(whole - half + chance % (half + 1))
}

/// Repeats a call that may pass, with growing pauses.
pub(crate) async fn persist<T, F, Fut>(
    ambient: &dyn Ambient,
    what: &str,
    tries: u32,
    mut call: F,
) -> Result<T, PortError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, PortError>>,
{
    let mut tried = 1;
    loop {
        match call().await {
            Err(error) if error.retryable && tried < tries => {
                tracing::warn!(%error, tried, "{what} failed; trying again");
                ambient.pause(backoff(Duration::from_millis(200), tried, ambient.chance())).await;
                tried += 1;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_is_spread_and_ends_at_an_hour() {
        let ten = Duration::from_secs(10);
        assert_eq!(backoff(ten, 1, 0), Duration::from_secs(5));
        assert_eq!(backoff(ten, 1, 5000), Duration::from_secs(10));
        assert_eq!(backoff(ten, 3, 0), Duration::from_secs(20));
        assert_eq!(backoff(ten, 40, u64::MAX - 1).as_secs() / 3600, 0);
        assert!(backoff(ten, 40, 0) >= Duration::from_secs(1800));
        assert_eq!(backoff(Duration::ZERO, 3, 7), Duration::ZERO);
    }
}
