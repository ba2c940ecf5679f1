//! Every request has an id: the caller's own where it is sane, else a new one. The answer carries it, and so does every
//! log line and problem document.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, debug, error_span, warn};

use crate::Api;
use crate::admit::Caller;
use crate::problem::Problem;

/// The header that carries it, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest that is taken from a caller.
const MOST: usize = 128;

/// The id that the caller gave, where it can stand in a log.
fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let sane = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    ((1..=MOST).contains(&id.len()) && id.as_bytes().iter().all(sane)).then(|| id.clone())
}

/// Names a request, and tells the log how it was answered.
pub(crate) async fn name(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| {
        let id: String = api.yard.ambient.random()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    });
    let text = id.to_str().unwrap_or_default().to_owned();
    // At the highest level: a line that is logged at all is logged with its request.
    let span = error_span!("request", request.id = %text);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>()
        && method != Method::HEAD
        && let Ok(body) = serde_json::to_vec(&Problem { request_id: Some(text), ..problem })
    {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    let status = response.status().as_u16();
    let caller = response.extensions().get::<Caller>().map_or("", |caller| caller.name.as_str());
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        if status >= 500 {
            warn!(%method, path, status, caller, duration_ms, "answered");
        } else {
            debug!(%method, path, status, caller, duration_ms, "answered");
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_callers_is_taken_when_it_is_sane() {
        let given = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            given(&headers).is_some()
        };
        assert!(given(b"a"));
        assert!(given(b"0192.Az_9-b"));
        assert!(given(&[b'x'; 128]));
        for insane in [&b""[..], b"a b", b"a\tb", b"a=b", b"\xe9", &[b'x'; 129]] {
            assert!(!given(insane), "{insane:?}");
        }
    }
}
