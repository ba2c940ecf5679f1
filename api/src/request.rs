//! Every request has an id, and is of a trace: the caller's own where they are sane, else new ones. The answer carries the
//! id, and so does every problem document; log lines carry both, and the jobs that the request makes the trace.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use switchyard_core::job::TraceId;
use tracing::{Instrument, debug, error_span, warn};

use crate::Api;
use crate::admit::Caller;
use crate::problem::{Code, Problem};

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

/// The trace that the caller says it is of; one that is invalid, or said twice, is as good as none.
fn given_trace(headers: &HeaderMap) -> Option<TraceId> {
    let mut said = headers.get_all("traceparent").iter();
    let trace = TraceId::of_traceparent(said.next()?.as_bytes())?;
    said.next().is_none().then_some(trace)
}

/// The trace of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace(pub(crate) TraceId);

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let trace = parts.extensions.get::<Self>().copied();
        trace.ok_or_else(|| Problem::new(Code::Internal, "a request was not named"))
    }
}

/// Names a request, and tells the log how it was answered.
pub(crate) async fn name(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let [random @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = api.yard.ambient.random();
    // One value is both where the caller gave neither.
    let drawn = TraceId::drawn(random);
    let id = given(request.headers()).unwrap_or_else(|| {
        HeaderValue::try_from(drawn.to_string()).unwrap_or_else(|_| HeaderValue::from_static("none"))
    });
    let trace = given_trace(request.headers()).unwrap_or(drawn);
    request.extensions_mut().insert(Trace(trace));
    let text = id.to_str().unwrap_or_default().to_owned();
    // At the highest level: a line that is logged at all is logged with its request.
    let span = error_span!("request", request.id = %text, trace.id = %trace);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // The template: a path is the caller's to choose, and may be any.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = &problem {
        api.yard.meters.refused(&problem.code);
    }
    if let Some(problem) = problem
        && method != Method::HEAD
        && let Ok(body) = serde_json::to_vec(&Problem { request_id: Some(text), ..problem })
    {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    let status = response.status().as_u16();
    let caller = response.extensions().get::<Caller>().map_or("", |caller| caller.name.as_str());
    let took = began.elapsed();
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let known = [Method::GET, Method::HEAD, Method::POST].contains(&method);
    let named = if known { method.as_str() } else { "other" };
    api.yard.meters.answered(named, route.as_ref().map_or("none", MatchedPath::as_str), status, took);
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
    fn a_trace_that_is_said_twice_or_wrongly_is_none() {
        let said = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("traceparent", HeaderValue::from_static(value));
            }
            given_trace(&headers).is_some()
        };
        let one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(said(&[one]));
        assert!(!said(&[one, one]) && !said(&[]) && !said(&["00-4bf92f3577b34da6a3ce929d0e0e4736"]));
    }

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
