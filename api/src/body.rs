//! Bodies: read whole within their limits, and read to their end even when nobody wants them any more.
//!
//! A server that answers and closes while its client still sends makes the client's kernel drop the answer with the
//! connection (RFC 9112, section 9.6): instead of "too large" or "no token" the caller would see a reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::Api;
use crate::edge::Edge;
use crate::problem::{Code, Problem};

/// The most that is read after an answer: sixteen times what is taken. Whoever sends more is told by the reset.
const READ_ON_BYTES: usize = 16 * crate::BODY_BYTES;
/// The longest that it is waited for.
const READ_ON: Duration = Duration::from_secs(5);

/// A whole body of JSON, at most `MOST` bytes: what a handler takes, and the room it has while it is handled.
pub(crate) struct Whole<const MOST: usize>(pub(crate) Vec<u8>, pub(crate) Option<OwnedSemaphorePermit>);

impl<const MOST: usize> FromRequest<Arc<Api>> for Whole<MOST> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        check_type(&request)?;
        let patience = api.edge.limits.body_read;
        tokio::select! {
            read = tokio::time::timeout(patience, whole(&api.edge, request.into_body(), MOST)) => match read {
                Ok(read) => read.map(|(body, room)| Self(body, room)),
                Err(_) => {
                    let detail = format!("the body did not arrive within {} s", patience.as_secs());
                    Err(Problem::new(Code::BodyTooSlow, detail))
                }
            },
            () = api.edge.closing() => Err(Problem::new(Code::Closing, "the yard closes: send it to the next one")),
        }
    }
}

/// Refuses what says of itself that it is no JSON. A body that says nothing is taken for what it is.
fn check_type(request: &Request) -> Result<(), Problem> {
    let Some(stated) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = stated.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "send the body with `Content-Type: application/json`"))
}

async fn whole(edge: &Edge, mut body: Body, most: usize) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Problem> {
    let too_large =
        || Problem::new(Code::BodyTooLarge, format!("the body is too large: at most {most} bytes are taken"));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut read = Vec::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Problem::new(Code::BodyUnreadable, "the body could not be read to its end"))?;
        let Some(data) = frame.data_ref() else { continue };
        let bytes = read.len() + data.len();
        if bytes > most {
            return Err(too_large());
        }
        let has = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Some(wants) = bytes.div_ceil(1024).checked_sub(has).filter(|wants| *wants > 0) {
            let more = edge.room(u32::try_from(wants).unwrap_or(u32::MAX))?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        read.extend_from_slice(data);
    }
    Ok((read, room))
}

/// A body that whoever answers may leave half read.
struct Shared(Arc<Mutex<Body>>);

fn lock(body: &Mutex<Body>) -> MutexGuard<'_, Body> {
    // A panic in between leaves a body that is read or not: usable.
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *lock(&self.0)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).size_hint()
    }
}

/// Lets the request be answered, then reads what is left of its body.
pub(crate) async fn read_on(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    // Whoever asks first whether to send is told by the answer, and sends nothing.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body));
    let response = next.run(Request::from_parts(parts, Body::new(Shared(Arc::clone(&body))))).await;
    // Whoever was waited for in vain has no more coming.
    let too_slow = response.status() == Code::BodyTooSlow.status();
    if !asks_first && !too_slow && !lock(&body).is_end_stream() {
        // A client that takes longer, or is gone, has lost its answer: it will ask again.
        tokio::select! {
            _ = tokio::time::timeout(READ_ON, discard(&body)) => {}
            () = api.edge.closing() => {}
        }
    }
    response
}

async fn discard(body: &Mutex<Body>) {
    let mut left = READ_ON_BYTES;
    while left > 0 {
        match std::future::poll_fn(|cx| Pin::new(&mut *lock(body)).poll_frame(cx)).await {
            Some(Ok(frame)) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) | None => return,
        }
    }
}
