//! The API over API Gateway and a load balancer: their events become requests for the one router.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use lambda_http::{Error, Request, RequestExt, service_fn};
use switchyard_api::{Api, router};
use tower::ServiceExt;

use crate::callers::Gateway;
use crate::opened::Opened;
use crate::serve::{Counted, left};

/// The longest a request may take, wherever the function's own time ends: API Gateway gives up after 30 s, and its clock
/// began before this one.
const PATIENCE: Duration = Duration::from_secs(29);
/// The list of tokens in the policies' bucket, as `switchyard token` writes it; callers behind a load balancer show them.
const TOKENS: &str = "tokens.json";

/// Serves requests one after the other, until Lambda ends the process.
///
/// # Errors
///
/// The Runtime API cannot be reached.
pub async fn serve(opened: Arc<Opened>, gateway: Arc<Gateway>) -> Result<(), Error> {
    let api: Arc<Api> = opened.api(Arc::clone(&gateway) as _);
    let router = router(api);
    let counted = Counted::default();
    lambda_http::run(service_fn(async |request: Request| {
        let left = request.lambda_context_ref().map_or(PATIENCE, left).min(PATIENCE);
        opened.begin(left).await;
        if gateway.wants_tokens(&request) {
            gateway.take_tokens(opened.policies.object(TOKENS).await);
        }
        let answered = router.clone().oneshot(inward(request)).await;
        counted.write(&opened);
        answered
    }))
    .await
}

/// The request as the router takes it: what came as base64 is bytes again, and who calls stays with it.
pub fn inward(request: Request) -> axum::extract::Request {
    request.map(|body| Body::from(body.to_vec()))
}
