//! Real time and real chance.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use switchyard_core::ports::Ambient;

/// The machine's clock, to the millisecond as records keep it, and the kernel's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

/// Something that a yard cannot be without: when it panics, the process ends, as after a crash, and the next start
/// takes up what was running. Else the yard would look alive and do nothing.
pub struct Vital(pub &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(part = self.0, "a part of the yard panicked: the process ends");
            // EX_SOFTWARE of sysexits.h.
            std::process::exit(70);
        }
    }
}

#[async_trait]
impl Ambient for System {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            // Without chance there are no tokens: going on would hand out guessable ones.
            panic!("the kernel gives no random numbers: {error}");
        }
        bytes
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
