//! The API over API Gateway and a load balancer: their events become requests for the one router.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use lambda_http::{Error, Request, RequestExt, service_fn};
use switchyard_api::{Problem, router};
use switchyard_aws::deployment::tasks;
use tower::ServiceExt;

use crate::callers::Gateway;
use crate::opened::Place;
use crate::serve::{Counted, Opening, left};

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
pub async fn serve(place: Place, gateway: Arc<Gateway>) -> Result<(), Error> {
    let opening = Opening::new(place, tasks, |_| OnceLock::new());
    let counted = Counted::default();
    lambda_http::run(service_fn(async |request: Request| {
        let left = request.lambda_context_ref().map_or(PATIENCE, left).min(PATIENCE);
        let (opened, routes) = match opening.begin(left).await {
            Ok(begun) => begun,
            // The next request opens it, if it can be opened then.
            Err(failed) => return Ok::<_, Infallible>(Problem::from(failed).into_response()),
        };
        if gateway.wants_tokens(&request) {
            gateway.take_tokens(opened.policies.object(TOKENS).await);
        }
        let routes: &Router = routes.get_or_init(|| router(opened.api(Arc::clone(&gateway) as _)));
        let answered = routes.clone().oneshot(inward(request)).await;
        counted.write(opened);
        answered
    }))
    .await
}

/// The request as the router takes it: what came as base64 is bytes again, and who calls stays with it.
pub fn inward(request: Request) -> axum::extract::Request {
    request.map(|body| Body::from(body.to_vec()))
}
