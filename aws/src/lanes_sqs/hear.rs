//! Receiving. A call that is under way when nobody wants its answer any more is not broken off: SQS may have hidden
//! messages for it already. It is left to the next who waits at that queue, and gives back what came when nobody does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message as Sent, MessageSystemAttributeName};
use aws_smithy_types::timeout::TimeoutConfig;
use switchyard_core::ports::{PortError, Received, describe};
use switchyard_core::wire::{Doorbell, decode_doorbell};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::Shared;
use super::acknowledge::Order;
use super::ahead::KEPT;
use super::batch::ENTRIES;
use super::queues::{Named, Queue};
use crate::clients::LONG_POLL;
use crate::failure::failed;

/// How often whoever waits in a paused tier looks whether it still is.
const PAUSED_LOOK: Duration = Duration::from_secs(3);
/// How long a lane that a long poll found empty is looked at by short polls.
const TRUSTED: Duration = Duration::from_secs(10);
/// How soon an empty answer is not asked for again: a queue that does not wait when told to is not asked all the time.
const CALM: Duration = Duration::from_secs(1);

/// How long a receive waits at the queue, in seconds.
///
/// A short poll asks some of the queue's servers only: a sweep that trusts it starts a standard job, perhaps of hours,
/// while a synchronous one waits. A long poll asks them all, but an empty one takes a second, at each tier of each sweep:
/// short jobs would spend more time between runs than in them. So a sweep waits that second where nobody has asked all
/// servers within [`TRUSTED`], and looks briefly where somebody has; an idle worker's long poll asks them all anyway.
fn wait_seconds(wait: bool, found_empty: Option<Duration>) -> i32 {
    match (wait, found_empty) {
        (true, _) => i32::try_from(LONG_POLL.as_secs()).unwrap_or(20),
        (false, Some(since)) if since < TRUSTED => 0,
        (false, _) => 1,
    }
}

/// The client's configuration for a receive that waits so long. Its tries alone take longer: were it the client's own,
/// whoever rings would wait as long for an answer that never comes, with a caller waiting behind it.
fn patient(client: &Client, seconds: i32) -> aws_sdk_sqs::config::Builder {
    let mut timeouts = TimeoutConfig::builder();
    if let Some(usual) = client.config().timeout_config() {
        let waits = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        timeouts = usual.to_builder();
        timeouts.set_operation_attempt_timeout(usual.operation_attempt_timeout().map(|usual| usual + waits));
    }
    let timeouts = timeouts.build();
    aws_sdk_sqs::config::Builder::new().timeout_config(timeouts)
}

/// One call under way, or its answer.
pub(super) struct Poll {
    state: Mutex<State>,
    answered: Notify,
    since: Instant,
}

enum State {
    Asking { wanted: bool },
    Answered(Result<Vec<Received>, PortError>),
    Over,
}

impl Poll {
    fn new() -> Self {
        Self { state: Mutex::new(State::Asking { wanted: true }), answered: Notify::new(), since: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic between two changes of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the answer where whoever wants it finds it, or hands it back.
    fn finish(&self, answer: Result<Vec<Received>, PortError>) -> Option<Result<Vec<Received>, PortError>> {
        let mut state = self.state();
        let wanted = matches!(*state, State::Asking { wanted: true });
        let (next, unwanted) = if wanted { (State::Answered(answer), None) } else { (State::Over, Some(answer)) };
        *state = next;
        drop(state);
        self.answered.notify_one();
        unwanted
    }

    /// Wants the answer that nobody wanted, if it is still to come.
    fn adopt(&self) -> bool {
        let mut state = self.state();
        let adopted = matches!(*state, State::Asking { wanted: false });
        if adopted {
            *state = State::Asking { wanted: true };
        }
        adopted
    }

    fn is_asking(&self) -> bool {
        matches!(*self.state(), State::Asking { .. })
    }

    fn take(&self) -> Option<Result<Vec<Received>, PortError>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Answered(answer) => Some(answer),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// Whoever wants a poll's answer. Dropped before that came, it leaves the poll to the next.
struct Taker {
    shared: Arc<Shared>,
    queue: Queue,
    poll: Arc<Poll>,
}

impl Taker {
    async fn answer(&self) -> Result<Vec<Received>, PortError> {
        loop {
            if let Some(answer) = self.poll.take() {
                return answer;
            }
            self.poll.answered.notified().await;
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut state = self.poll.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Asking { .. } => {
                *state = State::Asking { wanted: false };
                drop(state);
                self.shared.kept().polls.insert(self.queue, Arc::clone(&self.poll));
            }
            State::Answered(Ok(received)) => {
                drop(state);
                self.shared.give_back(self.queue, received);
            }
            State::Answered(Err(_)) | State::Over => {}
        }
    }
}

impl Shared {
    pub(super) async fn receive(
        self: &Arc<Self>,
        queue: Queue,
        max: usize,
        wait: bool,
    ) -> Result<Vec<Received>, PortError> {
        let max = max.min(ENTRIES);
        if max == 0 {
            return Ok(Vec::new());
        }
        loop {
            if !queue.dead && self.ledger.pauses().await?.tier_paused(queue.lane.tier) {
                if !wait {
                    return Ok(Vec::new());
                }
                self.ambient.pause(PAUSED_LOOK).await;
                continue;
            }
            // All servers are being asked already, by a poll that whoever waits next takes over: what comes goes there, and
            // a sweep that finds nothing at any tier waits next.
            if !wait && self.kept().polls.get(&queue).is_some_and(|poll| poll.is_asking()) {
                return Ok(Vec::new());
            }
            let (kept, soon) = self.ahead(queue, max);
            if !kept.is_empty() {
                return Ok(kept);
            }
            let taker = self.poll(queue, max.max(soon).min(ENTRIES), wait);
            let mut received = taker.answer().await?;
            // From here on nothing waits: what came is the caller's.
            if received.len() > max {
                self.keep_ahead(queue, received.split_off(max), soon);
            }
            self.kept().ahead.entry(queue).or_default().handed(received.len(), Instant::now());
            if !received.is_empty() || !wait {
                return Ok(received);
            }
            let rest = CALM.saturating_sub(taker.poll.since.elapsed());
            if !rest.is_zero() {
                self.ambient.pause(rest).await;
            }
        }
    }

    /// What was taken ahead of the queue and is wanted now, and how many messages will be wanted soon.
    fn ahead(&self, queue: Queue, max: usize) -> (Vec<Received>, usize) {
        let (mut kept, now) = (self.kept(), Instant::now());
        let ahead = kept.ahead.entry(queue).or_default();
        let some = ahead.take(max, now);
        ahead.handed(some.len(), now);
        // A dead letter is looked at by people.
        (some, if queue.dead { 0 } else { ahead.soon(now) })
    }

    /// Keeps what came beyond what was wanted, as far as it will be soon; the rest goes back, and so does what nobody
    /// takes. It is more, too, where a poll was another's, who had more room.
    fn keep_ahead(self: &Arc<Self>, queue: Queue, mut received: Vec<Received>, soon: usize) {
        let rest = received.split_off(soon.min(received.len()));
        if !rest.is_empty() {
            self.give_back(queue, rest);
        }
        if received.is_empty() {
            return;
        }
        self.kept().ahead.entry(queue).or_default().keep(received, Instant::now());
        let shared = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(KEPT).await;
            let stale = shared.kept().ahead.entry(queue).or_default().stale(Instant::now());
            if !stale.is_empty() {
                shared.put_back(queue, stale).await;
            }
        });
    }

    /// Gives back all that was taken ahead.
    pub(super) async fn let_go(&self) {
        let all: Vec<(Queue, Vec<Received>)> =
            self.kept().ahead.iter_mut().map(|(queue, ahead)| (*queue, ahead.all())).collect();
        for (queue, received) in all.into_iter().filter(|(_, received)| !received.is_empty()) {
            for some in received.chunks(ENTRIES) {
                self.put_back(queue, some.to_vec()).await;
            }
        }
    }

    fn poll(self: &Arc<Self>, queue: Queue, max: usize, wait: bool) -> Taker {
        let mut kept = self.kept();
        let parked = if wait { kept.polls.remove(&queue).filter(|poll| poll.is_asking()) } else { None };
        let found_empty = kept.found_empty.get(&queue).map(Instant::elapsed);
        drop(kept);
        if let Some(poll) = parked
            && poll.adopt()
        {
            return Taker { shared: Arc::clone(self), queue, poll };
        }
        let poll = Arc::new(Poll::new());
        let (shared, asking, seconds) = (Arc::clone(self), Arc::clone(&poll), wait_seconds(wait, found_empty));
        self.spawn(async move {
            match asking.finish(shared.ask(queue, max, seconds).await) {
                None => {}
                Some(Ok(received)) => shared.put_back(queue, received).await,
                Some(Err(error)) => debug!(error = %describe(&error), "a receive that nobody waits for failed"),
            }
        });
        Taker { shared: Arc::clone(self), queue, poll }
    }

    /// Asks once.
    async fn ask(&self, queue: Queue, max: usize, seconds: i32) -> Result<Vec<Received>, PortError> {
        let url = self.queues.url(&self.client, queue).await?;
        let call = self.client.receive_message().queue_url(url).wait_time_seconds(seconds);
        let call = call.max_number_of_messages(i32::try_from(max).unwrap_or(1));
        let call = call.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let name = self.queues.name(queue);
        // OverLimit too, 120,000 messages in flight: what is there stays there, and the worker asks again.
        let sent = call.customize().config_override(patient(&self.client, seconds)).send().await;
        let answer = sent.map_err(|error| failed("receive from", Named(&name), &error))?;
        let sent = answer.messages.unwrap_or_default();
        if sent.is_empty() && seconds > 0 {
            self.kept().found_empty.insert(queue, Instant::now());
        } else if !sent.is_empty() {
            self.kept().found_empty.remove(&queue);
        }
        Ok(sent.into_iter().filter_map(|sent| self.read(queue, &name, sent)).collect())
    }

    /// What a message says. One that cannot be read stays where it is, hidden until its timeout: deleted by nobody, and
    /// among the dead letters when nobody could read it a thousand times.
    fn read(&self, queue: Queue, name: &str, sent: Sent) -> Option<Received> {
        let receives =
            sent.attributes().and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount)).cloned();
        let id = sent.message_id.unwrap_or_default();
        let (Some(body), Some(handle)) = (sent.body, sent.receipt_handle) else {
            warn!(queue = name, message.id = %id, "a message without body or receipt");
            return None;
        };
        match decode_doorbell(&body) {
            Ok(Doorbell { message, hint }) => {
                if let Some(job) = hint {
                    self.sightings.note(&job);
                }
                Some(Received { message, lane: queue.lane, receipt: receipt(queue.dead, handle) })
            }
            Err(error) if error.is_newer() => {
                // Once: while a newer program is rolled out there are many.
                if !self.met_newer.swap(true, Ordering::Relaxed) {
                    warn!(queue = name, message.id = %id, error = %describe(&error), "a doorbell is left to newer programs");
                }
                None
            }
            Err(error) => {
                let receives = receives.as_deref().unwrap_or("?");
                warn!(queue = name, message.id = %id, receives, error = %describe(&error), "a message is no doorbell");
                None
            }
        }
    }

    /// Gives messages back that nobody wants, without waiting for it.
    fn give_back(self: &Arc<Self>, queue: Queue, received: Vec<Received>) {
        let shared = Arc::clone(self);
        self.spawn(async move { shared.put_back(queue, received).await });
    }

    async fn put_back(&self, queue: Queue, received: Vec<Received>) {
        let receipts: Vec<String> = received.iter().map(|received| handle(&received.receipt).1.to_owned()).collect();
        for outcome in self.order(Order::Release, queue, &receipts).await {
            if let Err(error) = outcome {
                debug!(error = %describe(&error), "doorbell not released; it is visible again after its timeout");
            }
        }
    }
}

/// Marks the receipt of a dead letter: it is good at another queue. No handle of SQS has a colon.
const DEAD: &str = "dead:";

fn receipt(dead: bool, handle: String) -> String {
    if dead { format!("{DEAD}{handle}") } else { handle }
}

/// Whether a receipt is a dead letter's, and the handle in it.
pub(super) fn handle(receipt: &str) -> (bool, &str) {
    receipt.strip_prefix(DEAD).map_or((false, receipt), |handle| (true, handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_polls_give_false_empties_so_a_sweep_waits_a_second_unless_all_servers_were_asked_just_now() {
        assert_eq!(wait_seconds(true, None), 20);
        assert_eq!(wait_seconds(true, Some(Duration::ZERO)), 20);
        assert_eq!(wait_seconds(false, None), 1);
        assert_eq!(wait_seconds(false, Some(TRUSTED)), 1);
        assert_eq!(wait_seconds(false, Some(Duration::from_secs(9))), 0);
    }

    #[test]
    fn a_receipt_knows_whether_it_is_a_dead_letter_s() {
        assert_eq!(handle(&receipt(true, "AQEB/x==".into())), (true, "AQEB/x=="));
        assert_eq!(handle(&receipt(false, "AQEB/x==".into())), (false, "AQEB/x=="));
    }

    #[test]
    fn an_answer_nobody_wants_is_handed_back_and_one_that_is_adopted_is_not() {
        let poll = Poll::new();
        assert!(!poll.adopt(), "somebody wants it");
        *poll.state() = State::Asking { wanted: false };
        assert!(matches!(poll.finish(Ok(Vec::new())), Some(Ok(_))));
        assert!(!poll.adopt() && poll.take().is_none(), "it is over");
        let poll = Poll::new();
        *poll.state() = State::Asking { wanted: false };
        assert!(poll.adopt());
        assert!(poll.finish(Ok(Vec::new())).is_none());
        assert!(matches!(poll.take(), Some(Ok(_))) && poll.take().is_none());
    }
}
