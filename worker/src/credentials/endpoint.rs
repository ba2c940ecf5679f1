//! Where AWS's SDKs ask for credentials: an endpoint of one run, on 127.0.0.1, for whoever shows the run's token.
//!
//! It is the container credential provider of AWS's SDKs (AWS SDKs and Tools Reference Guide, "Container credential provider"):
//! they ask again before what they have ends, so that a program never has to.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq;
use switchyard_core::ports::Ambient;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{OfAws, Slot};

/// Connections at once. A program that asks from more threads waits a moment.
const CONNECTIONS: usize = 32;
/// The longest that one connection may take: SDKs wait for two seconds.
const CONNECTION: Duration = Duration::from_secs(5);
/// The largest head of a request, in bytes: what is asked has a few hundred. It is the least that hyper takes.
const HEAD_BYTES: usize = 8 * 1024;
/// More than an answer has: see [`super::files`].
const ROOM: usize = 8 * 1024;

/// An endpoint that listens; let go, it does not.
pub(super) struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    token: Arc<Zeroizing<String>>,
}

/// Temporary credentials as SDKs read them from an endpoint.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointCredentials<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: &'a str,
}

impl Endpoint {
    /// Listens, under a token of its own.
    ///
    /// # Errors
    ///
    /// This process, or the machine, has no place for it.
    pub(super) async fn open(ambient: &dyn Ambient) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let random = Zeroizing::new(ambient.random());
        let mut token = Zeroizing::new(String::with_capacity(64));
        for byte in random.iter() {
            for digit in [byte >> 4, byte & 15] {
                token.extend(char::from_digit(digit.into(), 16));
            }
        }
        Ok(Self { listener, address, token: Arc::new(token) })
    }

    /// Where a loan is asked for.
    pub(super) fn uri(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// What has to be shown.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Answers, until nobody wants that any more; whoever is being answered then is cut off.
    pub(super) async fn serve(&self, slots: &Arc<[Slot]>) -> Infallible {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = open.join_next(), if !open.is_empty() => {}
                accepted = self.listener.accept(), if open.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        open.spawn(timeout(CONNECTION, connection(stream, Arc::clone(&self.token), Arc::clone(slots))));
                    }
                    // Too many files are open: it stays so for a moment.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        }
    }
}

async fn connection(stream: TcpStream, token: Arc<Zeroizing<String>>, slots: Arc<[Slot]>) {
    let service = service_fn(|request| {
        let answer = answer(&request, &token, &slots);
        async { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever spoke no HTTP, or went away, is owed nothing.
    let _ = served.await;
}

/// The answer to a request. Without the token nothing is told, not even what there is.
fn answer<B: Body>(request: &Request<B>, token: &str, slots: &[Slot]) -> Response<Full<Bytes>> {
    let shown = request.headers().get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    if !bool::from(shown.ct_eq(token.as_bytes())) {
        return refused(StatusCode::FORBIDDEN, "Forbidden", "show the token of the file that the environment names");
    }
    if request.method() != Method::GET {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "ask with GET");
    }
    let name = request.uri().path().trim_start_matches('/');
    let Some(slot) = slots.iter().find(|slot| slot.name == name) else {
        return refused(StatusCode::NOT_FOUND, "NotFound", "this run has no such loan");
    };
    let held = slot.held();
    let Some((_, loan)) = &held.newest else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "Ended", "the loan has ended, and could not be renewed yet");
    };
    let Some(OfAws { access_key_id, secret_access_key, session_token, expiration }) = OfAws::of(loan) else {
        return refused(StatusCode::NOT_FOUND, "NotFound", "this loan is none of AWS: it is in its file");
    };
    let shape = EndpointCredentials { access_key_id, secret_access_key, token: session_token, expiration: &expiration };
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    match serde_json::to_writer(&mut *text, &shape) {
        // Wiped when it has been sent.
        Ok(()) => response(StatusCode::OK, Bytes::from_owner(text)),
        Err(error) => unreachable!("texts are always JSON: {error}"),
    }
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    response(status, Bytes::from(json!({ "code": code, "message": message }).to_string()))
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
