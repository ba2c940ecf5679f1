//! Findings that come in become jobs. What can never be taken is parked, what may be taken later comes again, and no item
//! takes the others along.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use switchyard_api::{Api, Problem, deliver};
use switchyard_core::job::TraceId;
use switchyard_core::ports::{PortError, describe};
use tracing::{info, warn};

use crate::doors::{Answer, Brought, Item, Object, Source, read, too_long};
use crate::objects::{self, NotRead};
use crate::parked::Parking;

/// Nothing new begins when less than this is left of the invocation: it comes again whole.
const LAST_START: Duration = Duration::from_secs(5);
/// Events of one object that are under way at once.
const AT_ONCE: usize = 8;

/// What finding_listener works with.
pub struct Listener {
    /// Where events go.
    pub api: Arc<Api>,
    /// Where objects with events are read.
    pub objects: Client,
    /// Where goes what can never be taken.
    pub parking: Parking,
}

/// Some of what came in was not taken, and must come again. What was taken makes no second job then.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {items} items must come again; the first: {first}")]
pub struct ComeAgain {
    /// How many.
    pub failed: usize,
    /// Of how many.
    pub items: usize,
    /// Why the first of them was not taken.
    pub first: String,
}

/// What became of items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Became {
    /// Events that were taken.
    events: usize,
    /// Jobs they made.
    jobs: usize,
    /// Jobs that earlier deliveries had made.
    repeated: usize,
    /// Events that no mapping answers, kept for replay.
    unmapped: usize,
    /// What is parked.
    parked: usize,
    /// Why something must come again.
    passing: Vec<String>,
}

impl Became {
    fn and(mut self, other: Self) -> Self {
        self.events += other.events;
        self.jobs += other.jobs;
        self.repeated += other.repeated;
        self.unmapped += other.unmapped;
        self.parked += other.parked;
        self.passing.extend(other.passing);
        self
    }

    fn passing(why: String) -> Self {
        Self { passing: vec![why], ..Self::default() }
    }
}

impl Listener {
    /// Takes what an invocation brings, and answers as its source wants to hear it.
    ///
    /// # Errors
    ///
    /// [`ComeAgain`]: the source of the invocation, or Lambda in its place, brings all of it again.
    pub async fn listen(&self, event: Value, left: Duration) -> Result<Value, ComeAgain> {
        let until = Instant::now() + left.saturating_sub(LAST_START);
        let (answer, items) = read(event);
        let count = items.len();
        let mut all = Became::default();
        // By SQS's ids; what has none fails the whole.
        let (mut failed, mut whole) = (Vec::new(), 0);
        for item in items {
            let source = item.source.clone();
            let became = self.take(item, until).await;
            if let Some(why) = became.passing.first() {
                warn!(source = source.as_str(), reason = %why, "not taken: it comes again");
                match source {
                    Source::Sqs(id) if !failed.contains(&id) => failed.push(id),
                    Source::Sqs(_) => {}
                    Source::Invocation | Source::Sns(_) | Source::S3 => whole += 1,
                }
            }
            all = all.and(became);
        }
        let Became { events, jobs, repeated, unmapped, parked, passing } = all;
        info!(items = count, events, jobs, repeated, unmapped, parked, failed = passing.len(), "heard");
        match answer {
            Answer::Batch if whole == 0 => {
                let failed: Vec<Value> = failed.into_iter().map(|id| json!({ "itemIdentifier": id })).collect();
                Ok(json!({ "batchItemFailures": failed }))
            }
            Answer::Batch | Answer::Whole => match passing.into_iter().next() {
                Some(first) => Err(ComeAgain { failed: failed.len() + whole, items: count, first }),
                None => Ok(json!({
                    "events": events, "jobs": jobs, "repeated": repeated, "unmapped": unmapped, "parked": parked,
                })),
            },
        }
    }

    async fn take(&self, Item { source, brought }: Item, until: Instant) -> Became {
        if Instant::now() >= until {
            return Became::passing("the invocation's time is over".to_owned());
        }
        match brought {
            Brought::Nothing(why) => {
                info!(source = source.as_str(), reason = why, "nothing to do");
                Became::default()
            }
            Brought::Event(event) => self.deliver(source.as_str(), &event).await,
            Brought::Unreadable { reason, body } => self.park(source.as_str(), &reason, &body).await,
            Brought::Object(object) => self.take_object(&object, until).await,
        }
    }

    /// Takes the events in an object. One that must come again has the whole object come again.
    async fn take_object(&self, object: &Object, until: Instant) -> Became {
        let source = "object";
        let place = format!("s3://{}/{}", object.bucket, object.key);
        let texts = match objects::texts(&self.objects, object).await {
            Ok(texts) => texts,
            Err(NotRead::Passing(error)) => return Became::passing(describe(&error)),
            // By its place: it lies where it lay.
            Err(NotRead::Never(why)) => return self.park(source, &why, &place).await,
        };
        let taken = stream::iter(texts).map(|text| async move {
            if Instant::now() >= until {
                return Became::passing("the invocation's time is over".to_owned());
            }
            if let Some(reason) = too_long(&text) {
                return self.park(source, &reason, &text).await;
            }
            match serde_json::from_str(&text) {
                Ok(event) => self.deliver(source, &event).await,
                Err(error) => self.park(source, &format!("not JSON: {error}"), &text).await,
            }
        });
        taken.buffer_unordered(AT_ONCE).fold(Became::default(), async |all, one| all.and(one)).await
    }

    async fn deliver(&self, source: &str, event: &Value) -> Became {
        let [random @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.api.yard.ambient.random();
        match deliver(&self.api, TraceId::drawn(random), event).await {
            Ok(answer) => Became {
                events: 1,
                jobs: answer.jobs.len() - answer.repeated.min(answer.jobs.len()),
                repeated: answer.repeated,
                unmapped: usize::from(answer.unmapped.is_some()),
                ..Became::default()
            },
            Err(problem) if passes(&problem) => Became::passing(format!("{}: {}", problem.code, problem.detail)),
            Err(problem) => {
                let reason = format!("{}: {}", problem.code, problem.detail);
                self.park(source, &reason, &event.to_string()).await
            }
        }
    }

    async fn park(&self, source: &str, reason: &str, body: &str) -> Became {
        let parked: Result<(), PortError> = self.parking.park(source, reason, body, self.api.yard.ambient.now()).await;
        match parked {
            Ok(()) => Became { parked: 1, ..Became::default() },
            Err(error) => Became::passing(format!("{reason}; and it cannot be parked: {}", describe(&error))),
        }
    }
}

/// Whether an event that was refused for this may be taken later: what the yard could not do, or had no room for.
fn passes(problem: &Problem) -> bool {
    problem.status >= 500 || matches!(problem.status, 408 | 429)
}
