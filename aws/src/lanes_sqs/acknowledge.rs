//! Deletions and releases, many in one call: each is a few bytes, and a call is billed and takes a round trip whatever
//! it holds.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry};
use aws_types::request_id::RequestId;
use switchyard_core::ports::{PortError, describe};
use tokio::sync::oneshot;

use super::batch::{ENTRIES, Fate, Undone, fates, judge_receipt, persist};
use super::queues::{Named, Queue};
use super::{Shared, built};
use crate::failure::read;

/// How long the first deletion of a call waits for others. A bell that is still there that long is heard by nobody: it
/// is hidden for two minutes.
const GATHER: Duration = Duration::from_millis(250);

/// What is done to a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// It is removed for good.
    Delete,
    /// It is visible again at once.
    Release,
}

impl Order {
    fn verb(self) -> &'static str {
        match self {
            Self::Delete => "delete a message from",
            Self::Release => "release a message of",
        }
    }
}

/// An order that waits for its call.
pub(super) struct Waiting {
    receipt: String,
    answer: oneshot::Sender<Result<(), PortError>>,
}

impl Shared {
    /// Gives an order together with others. It is carried out also when whoever gave it does not wait for it.
    pub(super) async fn acknowledge(
        self: &Arc<Self>,
        order: Order,
        queue: Queue,
        receipt: &str,
    ) -> Result<(), PortError> {
        let (answer, answered) = oneshot::channel();
        let gathered = {
            let mut kept = self.kept();
            let waiting = kept.orders.entry((queue, order)).or_default();
            waiting.push(Waiting { receipt: receipt.to_owned(), answer });
            let gathered = waiting.len();
            // A full call goes now, and its timer finds what was gathered since, or nothing.
            if gathered == ENTRIES { Err(std::mem::take(waiting)) } else { Ok(gathered) }
        };
        let shared = Arc::clone(self);
        match gathered {
            Err(full) => self.spawn(async move { shared.carry_out(order, queue, full).await }),
            Ok(1) => self.spawn(async move {
                match order {
                    Order::Delete => tokio::time::sleep(GATHER).await,
                    // Somebody else can have it: only what is released at the same time goes along.
                    Order::Release => tokio::task::yield_now().await,
                }
                let gathered = shared.kept().orders.remove(&(queue, order)).unwrap_or_default();
                shared.carry_out(order, queue, gathered).await;
            }),
            Ok(_) => {}
        }
        let gone = || PortError::retryable(order.verb(), Named(&self.queues.name(queue)), "the program is ending");
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn carry_out(&self, order: Order, queue: Queue, waiting: Vec<Waiting>) {
        let (receipts, answers): (Vec<String>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.receipt, waiting.answer)).unzip();
        for (outcome, answer) in self.order(order, queue, &receipts).await.into_iter().zip(answers) {
            // Whoever is gone does not want to know.
            drop(answer.send(outcome));
        }
    }

    /// Gives up to ten orders in one call; answers for each.
    pub(super) async fn order(&self, order: Order, queue: Queue, receipts: &[String]) -> Vec<Result<(), PortError>> {
        if receipts.is_empty() {
            return Vec::new();
        }
        let name = self.queues.name(queue);
        let url = match self.queues.url(&self.client, queue).await {
            Ok(url) => url,
            Err(error) => {
                let again = || PortError {
                    operation: order.verb(),
                    subject: Named(&name).to_string(),
                    retryable: error.retryable,
                    cause: describe(&error).into(),
                };
                return receipts.iter().map(|_| Err(again())).collect();
            }
        };
        let outcomes = match order {
            Order::Delete => persist(&*self.ambient, receipts, |receipts| self.delete(&url, receipts)).await,
            Order::Release => persist(&*self.ambient, receipts, |receipts| self.release(&url, receipts)).await,
        };
        let failed = |(cause, retryable): Undone| PortError {
            operation: order.verb(),
            subject: Named(&name).to_string(),
            retryable,
            cause: cause.into(),
        };
        outcomes.into_iter().map(|outcome| outcome.map_err(failed)).collect()
    }

    async fn delete(&self, url: &str, receipts: Vec<String>) -> Result<Vec<Fate>, Undone> {
        let count = receipts.len();
        let entries = receipts.into_iter().enumerate().map(|(n, receipt)| {
            built(DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(receipt).build())
        });
        let call = self.client.delete_message_batch().queue_url(url).set_entries(Some(entries.collect()));
        let answer = call.send().await.map_err(|error| read(&error))?;
        let done = answer.successful().iter().map(|done| done.id.as_str());
        let fates = fates(count, done, answer.failed(), judge_receipt);
        Ok(fates.into_iter().map(|fate| fate.of_request(answer.request_id())).collect())
    }

    async fn release(&self, url: &str, receipts: Vec<String>) -> Result<Vec<Fate>, Undone> {
        let count = receipts.len();
        let entries = receipts.into_iter().enumerate().map(|(n, receipt)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string()).receipt_handle(receipt);
            built(entry.visibility_timeout(0).build())
        });
        let call = self.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries.collect()));
        let answer = call.send().await.map_err(|error| read(&error))?;
        let done = answer.successful().iter().map(|done| done.id.as_str());
        let fates = fates(count, done, answer.failed(), judge_receipt);
        Ok(fates.into_iter().map(|fate| fate.of_request(answer.request_id())).collect())
    }
}
