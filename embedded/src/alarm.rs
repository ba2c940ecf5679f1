//! Waits until the clock on the wall shows a moment.
//!
//! A timer that counts the time which passes is wrong as soon as somebody sets the clock, and stands still while the
//! machine is suspended. This one is the kernel's own for a time of day (timerfd_create(2), CLOCK_REALTIME): it rings
//! when the clock shows the moment, however it came there.

use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// An alarm clock: set for one moment at a time.
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that is not set.
    #[expect(
        deprecated,
        reason = "an OwnedFd is the same file until it is dropped, which is what its successor asks for"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Realtime, flags)?)?))
    }

    /// Waits until it is `at`, or later; `None`: for ever.
    pub(crate) async fn wait(&self, at: Option<Timestamp>) -> io::Result<()> {
        let Some(at) = at else { return std::future::pending().await };
        // The kernel knows no time before 1970, and takes its first moment for none at all.
        let at = at.max(Timestamp::from_second(1).unwrap_or(at));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: at.as_second(), tv_nsec: at.subsec_nanosecond().into() };
        let once = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let rung = ready.try_io(|timer| rustix::io::read(timer.get_ref(), &mut [0; 8]).map_err(io::Error::from));
            match rung {
                Ok(rung) => return rung.map(drop),
                // It had rung for what it was set for before.
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn it_rings_at_its_moment_and_at_once_when_that_is_over() {
        let alarm = Alarm::new().unwrap();
        let began = Instant::now();
        for past in [Timestamp::UNIX_EPOCH, Timestamp::now() - Duration::from_secs(5)] {
            alarm.wait(Some(past)).await.unwrap();
        }
        let at = Timestamp::now() + Duration::from_millis(30);
        alarm.wait(Some(at)).await.unwrap();
        assert!(Timestamp::now() >= at);
        assert!(began.elapsed() < Duration::from_secs(10));
        // Set anew while it waits: only what it was set for last rings.
        let never = tokio::time::timeout(Duration::from_millis(20), alarm.wait(Some(at + Duration::from_secs(3600))));
        assert!(never.await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(20), alarm.wait(None)).await.is_err());
        alarm.wait(Some(at)).await.unwrap();
    }
}
