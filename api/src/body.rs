//! Bodies that nobody wants any more, read to their end all the same.
//!
//! A server that answers and closes while its client still sends makes the client's kernel drop the answer with the
//! connection (RFC 9112, section 9.6): instead of "too large" or "no token" the caller would see a reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};

use crate::problem::{Code, Problem};

/// The most that is read after an answer: sixteen times what is taken. Whoever sends more is told by the reset.
const READ_ON_BYTES: usize = 16 * crate::BODY_BYTES;
/// The longest that it is waited for.
const READ_ON: Duration = Duration::from_secs(5);

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let most = crate::BODY_BYTES;
            return Self::new(Code::BodyTooLarge, format!("the body is too large: at most {most} bytes are taken"));
        }
        Self::new(Code::BodyUnreadable, "the body could not be read to its end")
    }
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
pub(crate) async fn read_on(request: Request, next: Next) -> Response {
    // Whoever asks first whether to send is told by the answer, and sends nothing.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body));
    let response = next.run(Request::from_parts(parts, Body::new(Shared(Arc::clone(&body))))).await;
    if !asks_first && !lock(&body).is_end_stream() {
        // A client that takes longer, or is gone, has lost its answer: it will ask again.
        let _ = tokio::time::timeout(READ_ON, discard(&body)).await;
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
