//! Receipts: which one is the newest of its message, and until when the message is hidden.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Receipts remembered at most; the oldest are forgotten first, and the service judges them. More than four times what may be
/// in flight in a queue.
const RECEIPTS: usize = 500_000;

/// Queue and message id.
type Of = (Arc<str>, Arc<str>);

/// Every receipt seen of late.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    of: HashMap<Arc<str>, Of>,
    messages: HashMap<Of, Message>,
    /// What is hidden, by the time at which it is visible again.
    hidden: HashMap<Arc<str>, BTreeSet<(Duration, Arc<str>)>>,
    oldest: VecDeque<Arc<str>>,
}

#[derive(Debug)]
struct Message {
    newest: Arc<str>,
    received: Duration,
    hidden_until: Duration,
    is_deleted: bool,
}

/// What a receipt is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never seen here.
    Unknown,
    /// The message was received again since.
    Stale,
    /// The message was deleted.
    Deleted,
    /// The newest of its message.
    Newest { received: Duration, hidden_until: Duration },
}

impl Receipts {
    /// A message was received.
    pub(super) fn received(&mut self, queue: &str, id: &str, receipt: &str, now: Duration, hidden_until: Duration) {
        let of: Of = (Arc::from(queue), Arc::from(id));
        let newest: Arc<str> = Arc::from(receipt);
        if let Some(before) = self.messages.get(&of) {
            let was = (before.hidden_until, Arc::clone(&of.1));
            self.hidden.entry(Arc::clone(&of.0)).or_default().remove(&was);
        }
        self.hidden.entry(Arc::clone(&of.0)).or_default().insert((hidden_until, Arc::clone(&of.1)));
        self.of.insert(Arc::clone(&newest), of.clone());
        self.oldest.push_back(Arc::clone(&newest));
        self.messages.insert(of, Message { newest, received: now, hidden_until, is_deleted: false });
        if self.oldest.len() > RECEIPTS {
            self.forget_oldest();
        }
    }

    pub(super) fn standing(&self, receipt: &str) -> Standing {
        match self.of.get(receipt).and_then(|of| self.messages.get(of)) {
            None => Standing::Unknown,
            Some(message) if &*message.newest != receipt => Standing::Stale,
            Some(message) if message.is_deleted => Standing::Deleted,
            Some(message) => Standing::Newest { received: message.received, hidden_until: message.hidden_until },
        }
    }

    /// The message of this receipt was deleted.
    pub(super) fn deleted(&mut self, receipt: &str) {
        self.reveal(receipt);
        if let Some(message) = self.of.get(receipt).and_then(|of| self.messages.get_mut(of)) {
            message.is_deleted = true;
        }
    }

    /// The message of this receipt is hidden until then.
    pub(super) fn hide(&mut self, receipt: &str, until: Duration) {
        self.reveal(receipt);
        let Some(of) = self.of.get(receipt) else { return };
        if let Some(message) = self.messages.get_mut(of) {
            message.hidden_until = until;
            self.hidden.entry(Arc::clone(&of.0)).or_default().insert((until, Arc::clone(&of.1)));
        }
    }

    /// How many messages of the queue are in flight.
    pub(super) fn in_flight(&mut self, queue: &str, now: Duration) -> usize {
        let Some(hidden) = self.hidden.get_mut(queue) else { return 0 };
        while hidden.first().is_some_and(|(until, _)| *until <= now) {
            hidden.pop_first();
        }
        hidden.len()
    }

    /// The queue holds nothing any more.
    pub(super) fn forget(&mut self, queue: &str) {
        self.hidden.remove(queue);
        self.messages.retain(|(of, _), _| &**of != queue);
        self.of.retain(|_, (of, _)| &**of != queue);
    }

    fn reveal(&mut self, receipt: &str) {
        let Some(of) = self.of.get(receipt) else { return };
        if let Some((message, hidden)) = self.messages.get(of).zip(self.hidden.get_mut(&of.0)) {
            hidden.remove(&(message.hidden_until, Arc::clone(&of.1)));
        }
    }

    fn forget_oldest(&mut self) {
        let Some(receipt) = self.oldest.pop_front() else { return };
        let Some(of) = self.of.remove(&receipt) else { return };
        if self.messages.get(&of).is_some_and(|message| message.newest == receipt) {
            self.messages.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_message_received_again_makes_its_former_receipt_stale() {
        let mut receipts = Receipts::default();
        receipts.received("q", "m", "r1", Duration::ZERO, SECOND);
        receipts.received("q", "m", "r2", SECOND, SECOND * 2);
        assert_eq!(receipts.standing("r1"), Standing::Stale);
        assert_eq!(receipts.standing("r2"), Standing::Newest { received: SECOND, hidden_until: SECOND * 2 });
        assert_eq!(receipts.in_flight("q", SECOND), 1);
    }

    #[test]
    fn what_is_in_flight_ends_with_its_time_or_its_deletion() {
        let mut receipts = Receipts::default();
        for (id, receipt, until) in [("m1", "r1", 1), ("m2", "r2", 9), ("m3", "r3", 9)] {
            receipts.received("q", id, receipt, Duration::ZERO, SECOND * until);
        }
        assert_eq!(receipts.in_flight("q", Duration::ZERO), 3);
        assert_eq!(receipts.in_flight("q", SECOND), 2);
        receipts.deleted("r2");
        assert_eq!(receipts.in_flight("q", SECOND), 1);
        receipts.hide("r3", SECOND);
        assert_eq!(receipts.in_flight("q", SECOND), 0);
        receipts.hide("r3", SECOND * 3);
        assert_eq!(receipts.in_flight("q", SECOND), 1);
        assert_eq!(receipts.standing("r2"), Standing::Deleted);
    }

    #[test]
    fn a_purged_queue_has_no_receipts() {
        let mut receipts = Receipts::default();
        receipts.received("q", "m", "r", Duration::ZERO, SECOND);
        receipts.forget("q");
        assert_eq!((receipts.standing("r"), receipts.in_flight("q", Duration::ZERO)), (Standing::Unknown, 0));
    }

    #[test]
    fn the_oldest_receipts_are_forgotten_first() {
        let mut receipts = Receipts::default();
        for n in 0..=RECEIPTS {
            receipts.received("q", &format!("m{n}"), &format!("r{n}"), Duration::ZERO, SECOND);
        }
        assert_eq!(receipts.standing("r0"), Standing::Unknown);
        assert_ne!(receipts.standing("r1"), Standing::Unknown);
    }
}
