//! One HTTP router for every home: it reads a request, calls a room, and shows what came of it.

mod body;
mod brakes;
mod events;
mod jobs;
pub mod problem;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::Holder;
use switchyard_core::ports::{Desk, Executor, Message, PortError, Yard};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use events::EventAnswer;
pub use jobs::{JobAnswer, JobsPage, LogsPage, TimelineAnswer};
pub use problem::Problem;

/// The largest request body: a payload of 1 MiB and what stands around it.
pub const BODY_BYTES: usize = 1024 * 1024 + 64 * 1024;
/// The longest that an answer is held back for `?wait`, in seconds.
pub const WAIT_SECONDS: u64 = 60;

/// What the router serves, and with what.
pub struct Api {
    /// The control side of the home.
    pub yard: Yard,
    /// Runs inline jobs.
    pub inline: Inline,
    /// Who may call.
    pub token: TokenDigest,
    /// Where this router runs: `local`, `lambda` or `fargate`; shown by /health.
    pub compute: &'static str,
}

/// SHA-256 of the bearer token: what the router keeps of it.
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    fn admits(&self, token: &str) -> bool {
        self.0.ct_eq(&Sha256::digest(token)).into()
    }
}

/// Runs jobs inline: in the process, and while the request, that took them.
pub struct Inline {
    /// Where claims and reports go.
    pub desk: Arc<dyn Desk>,
    /// What runs the work.
    pub executor: Arc<dyn Executor>,
    /// In whose name.
    pub holder: Holder,
    /// How many at once; beyond that there is no invocation with room.
    pub places: Arc<Semaphore>,
    /// What one request may take.
    pub budget: Duration,
}

impl Inline {
    /// What is left of the invocation for a job it takes now.
    fn left(&self) -> Option<Duration> {
        (self.places.available_permits() > 0).then_some(self.budget)
    }

    async fn run(&self, yard: &Yard, message: Message) -> Result<Ran, PortError> {
        // Whoever was routed here while there was room waits for it: the record is due in a minute if it takes longer.
        let _place = self.places.acquire().await;
        let runs = Runs::default();
        let holding = Holding {
            desk: self.desk.as_ref(),
            executor: self.executor.as_ref(),
            blobs: yard.blobs.as_ref(),
            ambient: yard.ambient.as_ref(),
            holder: &self.holder,
            runs: &runs,
        };
        execute::run(&holding, message, Some(self.budget)).await
    }
}

/// The router.
pub fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/jobs", post(jobs::submit).get(jobs::list))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/timeline", get(jobs::timeline))
        .route("/v1/jobs/{id}/logs", get(jobs::logs))
        .route("/v1/jobs/{id}/result", get(jobs::result))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/v1/events", post(events::deliver))
        .route("/v1/capabilities", get(jobs::capabilities))
        .route("/v1/yard", get(brakes::yard))
        .route("/v1/pause", post(brakes::pause))
        .route("/v1/resume", post(brakes::resume))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), admit));
    Router::new()
        .route("/health", get(health))
        .merge(guarded)
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no_such_route", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn(body::read_on))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a defect; the log says more").into_response()
        }))
        .with_state(api)
}

async fn health(State(api): State<Arc<Api>>) -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({
        "status": "ok",
        "compute": api.compute,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// Lets in who shows the token.
async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        shown.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if token.is_some_and(|(_, token)| api.token.admits(token.trim())) {
        return next.run(request).await;
    }
    let detail = if shown.is_none() { "send `Authorization: Bearer TOKEN`" } else { "this token is not the yard's" };
    let mut refused = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    refused
}
