//! Places for tasks: so many at once. Whoever waits for one goes by tier, then by age.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use switchyard_core::job::Tier;
use switchyard_core::ports::Message;
use tokio::sync::oneshot;

/// The places. Clones are the same places.
#[derive(Clone)]
pub(crate) struct Places(Arc<Mutex<Inner>>);

struct Inner {
    free: usize,
    closed: bool,
    arrivals: u64,
    waiting: BTreeMap<Turn, Waiter>,
}

/// Who goes first: the higher tier, then the older job, then who came first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    tier: Tier,
    since: Timestamp,
    arrival: u64,
}

struct Waiter {
    run: Message,
    place: oneshot::Sender<Place>,
}

/// One place, until it is dropped: then it is the next one's.
pub(crate) struct Place(Places);

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut inner = self.0.lock();
            let next = inner.waiting.pop_first();
            if next.is_none() {
                inner.free += 1;
            }
            next
        };
        if let Some((_, waiter)) = next {
            // One that waits no more lets go of it, and so it comes here again.
            drop(waiter.place.send(Self(self.0.clone())));
        }
    }
}

/// Takes its turn out of the queue when whoever waits gives up.
struct Queued<'a>(&'a Places, Turn);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.remove(&self.1);
    }
}

impl Places {
    /// So many places, all of them free.
    pub(crate) fn new(places: usize) -> Self {
        let inner = Inner { free: places, closed: false, arrivals: 0, waiting: BTreeMap::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in between leaves a map without half-done entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this run of a job of that tier, accepted at `since`; `None` once they are closed.
    pub(crate) async fn take(&self, run: Message, tier: Tier, since: Timestamp) -> Option<Place> {
        let (queued, place) = {
            let mut inner = self.lock();
            if inner.closed {
                return None;
            }
            if inner.free > 0 {
                inner.free -= 1;
                return Some(Place(self.clone()));
            }
            inner.arrivals += 1;
            let turn = Turn { tier, since, arrival: inner.arrivals };
            let (place, given) = oneshot::channel();
            inner.waiting.insert(turn, Waiter { run, place });
            (Queued(self, turn), given)
        };
        let given = place.await.ok();
        drop(queued);
        given
    }

    /// How many wait before this run; `None` when it does not wait.
    pub(crate) fn before(&self, run: Message) -> Option<usize> {
        self.lock().waiting.values().position(|waiter| waiter.run == run)
    }

    /// Gives no more places: who waits hears that there is none.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.waiting)
        };
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use switchyard_core::job::{Epoch, JobId};

    use super::*;

    fn run(n: u8) -> Message {
        Message { id: JobId::from_bytes([n; 16]), epoch: Epoch(1) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test]
    async fn who_waits_goes_by_tier_then_by_age() {
        let places = Places::new(1);
        let first = places.take(run(0), Tier::Standard, at(0)).await.unwrap();
        let (told, heard) = mpsc::channel();
        let mut tasks = Vec::new();
        let queue = [
            (1, Tier::Standard, 5),
            (2, Tier::Standard, 1),
            (3, Tier::Synchronous, 9),
            (4, Tier::Priority, 9),
            (5, Tier::Priority, 9),
        ];
        for (n, tier, since) in queue {
            let (places, told) = (places.clone(), told.clone());
            tasks.push(tokio::spawn(async move {
                let place = places.take(run(n), tier, at(since)).await;
                told.send(n).unwrap();
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(
            [3, 4, 5, 2, 1, 0].map(|n| places.before(run(n))),
            [Some(0), Some(1), Some(2), Some(3), Some(4), None]
        );
        tasks.remove(3).abort();
        tokio::task::yield_now().await;
        drop(first);
        drop(told);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(heard.iter().collect::<Vec<u8>>(), [3, 5, 2, 1], "and who gave up is passed over");
        assert!(places.take(run(6), Tier::Standard, at(0)).await.is_some(), "no place is lost");
    }

    #[tokio::test]
    async fn closed_places_turn_everybody_away() {
        let places = Places::new(1);
        let _first = places.take(run(0), Tier::Standard, at(0)).await.unwrap();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take(run(1), Tier::Standard, at(0)).await.is_none() }
        });
        tokio::task::yield_now().await;
        places.close();
        assert!(waiting.await.unwrap());
        assert!(places.take(run(2), Tier::Synchronous, at(0)).await.is_none());
    }
}
