//! The edge: what a client may take of the yard's time and memory, and how everybody hears that the yard closes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::problem::{Code, Problem};
use crate::{Api, WAIT_SECONDS};

/// What a client may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeLimits {
    /// How long a connection may take for a request's head, from its opening or from its last answer on. A proxy in
    /// front that keeps idle connections open must give them up sooner than this.
    pub head_read: Duration,
    /// The largest head, in bytes. Twice what proxies commonly take: theirs is the limit that is met first.
    pub head_bytes: usize,
    /// Headers in a head.
    pub headers: usize,
    /// How long a body may take to arrive, in all.
    pub body_read: Duration,
    /// How long an answer may take, besides its body's arrival and what its request asks to wait. An inline run takes
    /// up to 29 s of it.
    pub answer: Duration,
    /// The longest that an answer is held back for whoever asks to wait; who asks for more waits so long. At most
    /// [`WAIT_SECONDS`], and less behind a gateway that gives up sooner.
    pub wait: Duration,
    /// Connections at once; more are not accepted until one ends.
    pub connections: usize,
    /// Requests under way at once; more are told to come back.
    pub in_flight: usize,
    /// Requests that ask to wait, at once. Counted apart, so that whoever waits keeps nobody else out.
    pub waiting: usize,
    /// What all bodies under way may take together, in KiB, counted as they arrive: a slow client holds what it has
    /// sent, and no more.
    pub bodies_kib: usize,
    /// How long answers that are under way are waited for when the yard closes.
    pub linger: Duration,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            head_read: Duration::from_secs(10),
            head_bytes: 32 * 1024,
            headers: 64,
            body_read: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            wait: Duration::from_secs(WAIT_SECONDS),
            connections: 1024,
            in_flight: 512,
            waiting: 256,
            bodies_kib: 128 * 1024,
            linger: Duration::from_secs(5),
        }
    }
}

/// The edge of one router: its limits, how much of them is taken, and whether it closes.
pub struct Edge {
    /// The limits.
    pub limits: EdgeLimits,
    in_flight: Semaphore,
    waiting: Semaphore,
    bodies: Arc<Semaphore>,
    closes: watch::Sender<bool>,
}

impl Edge {
    /// An edge with these limits.
    pub fn new(limits: EdgeLimits) -> Self {
        let (in_flight, waiting) = (Semaphore::new(limits.in_flight), Semaphore::new(limits.waiting));
        let bodies = Arc::new(Semaphore::new(limits.bodies_kib));
        Self { limits, in_flight, waiting, bodies, closes: watch::Sender::new(false) }
    }

    /// Closes: nobody new comes in, whoever waits is answered at once, and what is under way is finished.
    pub fn close(&self) {
        self.closes.send_replace(true);
    }

    /// Room for as much more of a body.
    pub(crate) fn room(&self, kib: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(kib);
        room.map_err(|_| Problem::new(Code::Busy, "the bodies under way take all the room there is"))
    }

    /// Waits until it closes.
    pub async fn closing(&self) {
        // The sender is this very edge: it is there as long as somebody waits here.
        let _ = self.closes.subscribe().wait_for(|closes| *closes).await;
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self::new(EdgeLimits::default())
    }
}

/// How long a request asks to wait, read as its handler reads it: written in another way it is the same wait. What is
/// wrong with it is for the handler to say.
fn asked_wait(uri: &Uri) -> Duration {
    #[derive(Deserialize)]
    struct Asked {
        wait: Option<String>,
    }
    let asked = Query::<Asked>::try_from_uri(uri).ok().and_then(|Query(asked)| asked.wait);
    Duration::from_secs(asked.and_then(|seconds| seconds.parse().ok()).unwrap_or(0).min(WAIT_SECONDS))
}

/// Gives a request its place, or sends it away; and ends its wait for an answer.
pub(crate) async fn bound(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Edge { limits, in_flight, waiting, .. } = &api.edge;
    let wait = asked_wait(request.uri()).min(limits.wait);
    let (places, doing) = if wait.is_zero() { (in_flight, "are under way") } else { (waiting, "wait") };
    let Ok(_place) = places.try_acquire() else {
        return Problem::new(Code::Busy, format!("as many requests as the yard takes {doing}")).into_response();
    };
    let body = if request.method() == Method::POST { limits.body_read } else { Duration::ZERO };
    let patience = wait + body + limits.answer;
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("no answer within {} s; look whether it was done before asking again", patience.as_secs());
            Problem::new(Code::TookTooLong, detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_asks_to_wait_is_read_from_its_query() {
        let seconds = |query: &str| asked_wait(&format!("/v1/jobs{query}").parse().unwrap()).as_secs();
        assert_eq!(seconds(""), 0);
        assert_eq!(seconds("?state=failed"), 0);
        assert_eq!(seconds("?cursor=1.0&wait=7"), 7);
        assert_eq!(seconds("?w%61it=%36"), 6, "in disguise it waits all the same");
        assert_eq!(seconds("?wait=soon"), 0);
        assert_eq!(seconds("?wait=9999"), WAIT_SECONDS);
    }

    #[tokio::test]
    async fn closing_is_heard_by_whoever_waits_for_it_before_and_after() {
        let edge = Arc::new(Edge::default());
        let before = tokio::spawn({
            let edge = Arc::clone(&edge);
            async move { edge.closing().await }
        });
        tokio::task::yield_now().await;
        edge.close();
        before.await.unwrap();
        edge.closing().await;
    }
}
