//! What is counted, over HTTP: for Prometheus, or as CloudWatch takes it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use switchyard_core::metrics::{TEXT_TYPE, emf, text};

use crate::Api;
use crate::params::{Params, invalid};
use crate::problem::Problem;

/// The formats there are.
pub(crate) const FORMATS: [&str; 2] = ["prometheus", "emf"];

/// The query of GET /metrics.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsQuery {
    format: Option<String>,
}

/// GET /metrics
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Params(MetricsQuery { format }): Params<MetricsQuery>,
) -> Result<Response, Problem> {
    let [prometheus, embedded] = FORMATS;
    let format = format.as_deref().unwrap_or(prometheus);
    if !FORMATS.contains(&format) {
        return Err(invalid("format", format!("expected {prometheus} or {embedded}")));
    }
    let yard = &api.yard;
    let now = yard.ambient.now();
    // What ended is counted as it ends: none of it is asked for here.
    let (depths, workers) = (yard.ledger.depths(now).await?, yard.workers.list().await?);
    let families = yard.meters.gather(&depths, &workers, now);
    Ok(if format == embedded {
        ([(header::CONTENT_TYPE, "application/x-ndjson")], emf(&families, now)).into_response()
    } else {
        ([(header::CONTENT_TYPE, TEXT_TYPE)], text(&families)).into_response()
    })
}
