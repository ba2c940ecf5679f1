//! The tiers: one SQS queue a pool and tier, and one for the dead letters of each.
//!
//! Standard queues, so what is received may come twice, late, in any order, and again after it was deleted. The claim
//! decides, and a bell that says nothing any more is deleted by whoever hears it. No message is ever deleted for an
//! error: what cannot be read is left, and what cannot be deleted comes back.

mod acknowledge;
mod ahead;
mod batch;
mod hear;
mod queues;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use aws_types::request_id::RequestId;
use switchyard_core::ports::{Ambient, Bell, Lane, Lanes, Ledger, Message, PortError, Received, describe};
use switchyard_core::route::PoolName;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::acknowledge::{Order, Waiting};
use self::ahead::Ahead;
use self::batch::{Entry, Fate, Undone, fates, judge, persist, plan};
use self::hear::Poll;
use self::queues::{Named, Queue, Queues};
pub use self::queues::{RECEIVES, RETENTION, VISIBILITY, dead_queue_name, queue_name};
use crate::clients::LONG_POLL;
use crate::failure::{failed, read};
use crate::sightings::Sightings;

/// Calls that ring at once. Each takes ten bells in about ten milliseconds: five hundred ring within a tenth of a second.
const CALLS: usize = 8;

/// The lanes in SQS. Clones are the same lanes.
#[derive(Clone)]
pub struct SqsLanes(Arc<Shared>);

/// What waits in a lane, about: SQS counts by samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneDepth {
    /// Messages that a receive could return now.
    pub visible: u64,
    /// Messages that somebody has.
    pub in_flight: u64,
    /// Messages that are delayed. None is ours.
    pub delayed: u64,
}

struct Shared {
    client: Client,
    queues: Queues,
    /// Says which tiers are paused.
    ledger: Arc<dyn Ledger>,
    sightings: Arc<Sightings>,
    ambient: Arc<dyn Ambient>,
    kept: Mutex<Kept>,
    /// Whether a newer program's doorbell was met: that is told once.
    met_newer: AtomicBool,
    /// Calls and orders that nobody may be waiting for.
    under_way: watch::Sender<usize>,
}

#[derive(Default)]
struct Kept {
    /// Long polls that nobody waits for any more.
    polls: HashMap<Queue, Arc<Poll>>,
    /// When a long poll found the queue empty.
    found_empty: HashMap<Queue, Instant>,
    /// Messages taken a little ahead.
    ahead: HashMap<Queue, Ahead>,
    /// Orders that wait for company.
    orders: HashMap<(Queue, Order), Vec<Waiting>>,
}

impl SqsLanes {
    /// Lanes whose queues are named by `prefix`, [`queue_name`] says how, and found when they are first needed; those in
    /// `urls` are known. What doorbells bring along of records goes to `sightings`.
    pub fn new(
        client: Client,
        prefix: &str,
        urls: impl IntoIterator<Item = (Lane, String)>,
        ledger: Arc<dyn Ledger>,
        sightings: Arc<Sightings>,
        ambient: Arc<dyn Ambient>,
    ) -> Self {
        Self(Arc::new(Shared {
            client,
            queues: Queues::new(prefix, urls),
            ledger,
            sightings,
            ambient,
            kept: Mutex::default(),
            met_newer: AtomicBool::new(false),
            under_way: watch::Sender::new(0),
        }))
    }

    /// Creates these pools' queues and those for their dead letters where they are not there. For tests and laptops:
    /// a deployment creates them otherwise.
    ///
    /// # Errors
    ///
    /// One could not be created, or is there with other settings.
    pub async fn declare(&self, pools: &[PoolName]) -> Result<(), PortError> {
        self.0.queues.declare(&self.0.client, pools).await
    }

    /// What waits in a lane. From the queue itself: CloudWatch's numbers come once a minute, and sleep while it idles.
    ///
    /// # Errors
    ///
    /// SQS did not say.
    pub async fn depth(&self, lane: &Lane) -> Result<LaneDepth, PortError> {
        self.0.depth(Queue { lane: *lane, dead: false }).await
    }

    /// Takes up to `max` dead letters of a lane, to be deleted or released like any message. Those that are no
    /// doorbells stay.
    ///
    /// # Errors
    ///
    /// As [`Lanes::receive`].
    pub async fn receive_dead(&self, lane: &Lane, max: usize) -> Result<Vec<Received>, PortError> {
        self.0.receive(Queue { lane: *lane, dead: true }, max, false).await
    }

    /// Waits until no call is under way that nobody waits for, and what such a one received has been given back; a long
    /// poll's time at most. A process that ends before that may leave messages hidden until their timeout.
    pub async fn hush(&self) {
        self.0.let_go().await;
        let mut under_way = self.0.under_way.subscribe();
        // It cannot be closed: its sender is here.
        drop(tokio::time::timeout(LONG_POLL, under_way.wait_for(|calls| *calls == 0)).await);
    }
}

impl fmt::Debug for SqsLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqsLanes").field(&self.0.queues).finish_non_exhaustive()
    }
}

#[async_trait]
impl Lanes for SqsLanes {
    async fn ring(&self, bells: &[Bell<'_>]) -> Vec<(Message, PortError)> {
        let mut calls = plan(bells.iter().map(|bell| (bell.lane, Entry::of(bell)))).into_iter();
        let (mut sending, mut unrung) = (JoinSet::new(), Vec::new());
        loop {
            while sending.len() < CALLS
                && let Some((lane, batch)) = calls.next()
            {
                let shared = Arc::clone(&self.0);
                sending.spawn(async move { shared.send(Queue { lane, dead: false }, batch).await });
            }
            match sending.join_next().await {
                None => return unrung,
                Some(Ok(failed)) => unrung.extend(failed),
                Some(Err(error)) => {
                    // Else the runtime is ending, and the reaper rings what did not.
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }

    async fn receive(&self, lane: &Lane, max: usize, wait: bool) -> Result<Vec<Received>, PortError> {
        self.0.receive(Queue { lane: *lane, dead: false }, max, wait).await
    }

    async fn delete(&self, received: &Received) -> Result<(), PortError> {
        let (dead, handle) = hear::handle(&received.receipt);
        self.0.acknowledge(Order::Delete, Queue { lane: received.lane, dead }, handle).await
    }

    async fn release(&self, received: &Received) -> Result<(), PortError> {
        let (dead, handle) = hear::handle(&received.receipt);
        self.0.acknowledge(Order::Release, Queue { lane: received.lane, dead }, handle).await
    }

    async fn visible(&self, lane: &Lane) -> Result<u64, PortError> {
        Ok(self.depth(lane).await?.visible)
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic in between leaves maps without half-done entries.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that nobody may be waiting for. Without a runtime nothing is done: the program is ending.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        struct Ends(Arc<Shared>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.under_way.send_modify(|calls| *calls -= 1);
            }
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.under_way.send_modify(|calls| *calls += 1);
        let ends = Ends(Arc::clone(self));
        runtime.spawn(async move {
            let _ends = ends;
            task.await;
        });
    }

    /// Sends one call's bells; answers those that may not have been sent.
    async fn send(&self, queue: Queue, batch: Vec<Entry>) -> Vec<(Message, PortError)> {
        let name = self.queues.name(queue);
        let unrung = |entry: &Entry, retryable, cause| {
            let subject = Named(&name).to_string();
            (entry.message, PortError { operation: "ring in", subject, retryable, cause })
        };
        let url = match self.queues.url(&self.client, queue).await {
            Ok(url) => url,
            Err(error) => {
                return batch.iter().map(|entry| unrung(entry, error.retryable, describe(&error).into())).collect();
            }
        };
        let outcomes = persist(&*self.ambient, &batch, |entries| self.send_once(&url, entries)).await;
        let failed = |(entry, outcome): (&Entry, Result<(), Undone>)| {
            outcome.err().map(|(cause, retryable)| unrung(entry, retryable, cause.into()))
        };
        batch.iter().zip(outcomes).filter_map(failed).collect()
    }

    async fn send_once(&self, url: &str, entries: Vec<Entry>) -> Result<Vec<Fate>, Undone> {
        let count = entries.len();
        let entries = entries.into_iter().enumerate().map(|(n, Entry { body, group, .. })| {
            let entry = SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body);
            built(entry.message_group_id(group).build())
        });
        let call = self.client.send_message_batch().queue_url(url).set_entries(Some(entries.collect()));
        let answer = call.send().await.map_err(|error| read(&error))?;
        let done = answer.successful().iter().map(|done| done.id.as_str());
        let fates = fates(count, done, answer.failed(), judge);
        Ok(fates.into_iter().map(|fate| fate.of_request(answer.request_id())).collect())
    }

    async fn depth(&self, queue: Queue) -> Result<LaneDepth, PortError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let (url, name) = (self.queues.url(&self.client, queue).await?, self.queues.name(queue));
        let call = self.client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec()));
        let answer = call.send().await.map_err(|error| failed("count the messages of", Named(&name), &error))?;
        let count = |name_of: &QueueAttributeName| {
            let text = answer.attributes().and_then(|all| all.get(name_of));
            text.and_then(|text| text.parse().ok()).ok_or_else(|| {
                let cause = format!("the answer holds no {}", name_of.as_str());
                PortError::retryable("count the messages of", Named(&name), cause)
            })
        };
        let [visible, in_flight, delayed] = names.each_ref().map(count);
        Ok(LaneDepth { visible: visible?, in_flight: in_flight?, delayed: delayed? })
    }
}

/// What a builder of the SDK makes of an entry that has all it needs.
fn built<T, E: fmt::Display>(entry: Result<T, E>) -> T {
    entry.unwrap_or_else(|error| unreachable!("an entry has all it needs: {error}"))
}
