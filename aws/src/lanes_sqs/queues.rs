//! The queues: one a pool and tier, each with one for its dead letters. Found by name once, and remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;
use switchyard_core::job::Tier;
use switchyard_core::ports::{Lane, PortError};
use switchyard_core::route::PoolName;

use crate::failure::failed;

/// How long a received message stays hidden from others. Nobody ever extends it, so that SQS's limit of 12 hours in
/// all from its receipt is never met: a claim takes seconds, and the bell of a run that lasts longer is heard by somebody
/// else, refused because the run is somebody's, and deleted.
pub const VISIBILITY: Duration = Duration::from_secs(120);
/// How often a message may be received before it goes to the dead letters. High, because the count rises with each
/// release, and healthy jobs are released: from workers that are told to leave, by those that have no room.
pub const RECEIVES: u32 = 1000;
/// How long a message is kept: SQS's longest. A bell that is older has been rung again by the reaper.
pub const RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// The name of a lane's queue: `switchyard-standard-synchronous`.
pub fn queue_name(prefix: &str, lane: &Lane) -> String {
    format!("{prefix}-{}-{}", lane.pool, lane.tier)
}

/// The name of the queue that a lane's dead letters go to.
pub fn dead_queue_name(prefix: &str, lane: &Lane) -> String {
    format!("{}-dead", queue_name(prefix, lane))
}

/// One queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Queue {
    /// Whose.
    pub(super) lane: Lane,
    /// Whether it is the one for dead letters.
    pub(super) dead: bool,
}

/// Where the queues are.
#[derive(Debug)]
pub(super) struct Queues {
    prefix: String,
    urls: Mutex<HashMap<Queue, String>>,
}

impl Queues {
    pub(super) fn new(prefix: &str, urls: impl IntoIterator<Item = (Lane, String)>) -> Self {
        let urls = urls.into_iter().map(|(lane, url)| (Queue { lane, dead: false }, url));
        Self { prefix: prefix.to_owned(), urls: Mutex::new(urls.collect()) }
    }

    /// The queue's name, as failures tell it.
    pub(super) fn name(&self, queue: Queue) -> String {
        if queue.dead { dead_queue_name(&self.prefix, &queue.lane) } else { queue_name(&self.prefix, &queue.lane) }
    }

    /// The queue's URL.
    pub(super) async fn url(&self, client: &Client, queue: Queue) -> Result<String, PortError> {
        if let Some(url) = self.urls.lock().unwrap_or_else(PoisonError::into_inner).get(&queue) {
            return Ok(url.clone());
        }
        let name = self.name(queue);
        let found = client.get_queue_url().queue_name(&name).send().await;
        let found = found.map_err(|error| failed("find", Named(&name), &error))?;
        self.keep(queue, &name, found.queue_url)
    }

    fn keep(&self, queue: Queue, name: &str, url: Option<String>) -> Result<String, PortError> {
        let url = url.ok_or_else(|| PortError::retryable("find", Named(name), "the answer holds no URL"))?;
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).insert(queue, url.clone());
        Ok(url)
    }

    /// Creates the queues of these pools as a deployment does, for tests and laptops. Those that are there stay.
    pub(super) async fn declare(&self, client: &Client, pools: &[PoolName]) -> Result<(), PortError> {
        let seconds = |duration: Duration| duration.as_secs().to_string();
        for lane in pools.iter().flat_map(|pool| Tier::ALL.map(|tier| Lane { pool: *pool, tier })) {
            let dead = Queue { lane, dead: true };
            let kept = [(QueueAttributeName::MessageRetentionPeriod, seconds(RETENTION))];
            let url = self.create(client, dead, kept).await?;
            let name = self.name(dead);
            let arn = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn).send();
            let arn = arn.await.map_err(|error| failed("describe", Named(&name), &error))?;
            let arn = arn.attributes().and_then(|attributes| attributes.get(&QueueAttributeName::QueueArn));
            let arn = arn.ok_or_else(|| PortError::retryable("describe", Named(&name), "the answer holds no ARN"))?;
            let redrive = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES }).to_string();
            let kept = [
                (QueueAttributeName::MessageRetentionPeriod, seconds(RETENTION)),
                (QueueAttributeName::VisibilityTimeout, seconds(VISIBILITY)),
                (QueueAttributeName::RedrivePolicy, redrive),
            ];
            self.create(client, Queue { lane, dead: false }, kept).await?;
        }
        Ok(())
    }

    async fn create(
        &self,
        client: &Client,
        queue: Queue,
        attributes: impl IntoIterator<Item = (QueueAttributeName, String)>,
    ) -> Result<String, PortError> {
        let name = self.name(queue);
        let attributes = Some(attributes.into_iter().collect());
        let created = client.create_queue().queue_name(&name).set_attributes(attributes).send().await;
        let created = created.map_err(|error| failed("create", Named(&name), &error))?;
        self.keep(queue, &name, created.queue_url)
    }
}

/// A queue in a failure's message.
pub(super) struct Named<'a>(pub(super) &'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_named_by_prefix_pool_and_tier() {
        let lane = Lane { pool: PoolName::STANDARD, tier: Tier::Synchronous };
        assert_eq!(queue_name("switchyard", &lane), "switchyard-standard-synchronous");
        assert_eq!(dead_queue_name("switchyard", &lane), "switchyard-standard-synchronous-dead");
        let longest = Lane { pool: "a-pool-of-names".parse().unwrap(), ..lane };
        assert!(dead_queue_name(&"p".repeat(47), &longest).len() <= 80, "SQS's longest name");
    }
}
