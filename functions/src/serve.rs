//! What every invocation goes through, whatever its function: the yard is told how long it may take, and what was counted
//! is written when it ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lambda_runtime::{Context, Error, LambdaEvent, service_fn};
use serde_json::Value;
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_core::ports::describe;
use tracing::{Instrument, error, info_span, warn};

use crate::opened::Opened;

/// Opens the yard, once for each process. Why it cannot be opened is told in one line, with all causes: Lambda logs it and
/// starts another process.
///
/// # Errors
///
/// As [`Opened::from_environment`].
pub async fn open() -> Result<Arc<Opened>, Error> {
    start_logging();
    match Opened::from_environment().await {
        Ok(opened) => Ok(Arc::new(opened)),
        Err(failed) => {
            let error = describe(&failed);
            error!(error, "the yard cannot be opened");
            Err(Error::from(error))
        }
    }
}

/// Structured logs on standard output, where Lambda takes them for CloudWatch; RUST_LOG chooses the level, `info` without
/// it.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).json();
    // A log that cannot be written is lost, and the work goes on.
    let subscriber = subscriber.flatten_event(true).with_current_span(false).log_internal_errors(false);
    // A second start in one process changes nothing.
    drop(subscriber.try_init());
}

/// What an invocation has left until Lambda ends it.
pub fn left(context: &Context) -> Duration {
    context.deadline().duration_since(SystemTime::now()).unwrap_or_default()
}

/// One invocation, as a function handles it.
#[derive(Debug)]
pub struct Invoked {
    /// Its id: Lambda repeats it where it tries an invocation again, and where it tells of one that failed.
    pub id: String,
    /// What it was invoked with.
    pub event: Value,
    /// What is left of its time.
    pub left: Duration,
}

/// What this process has counted and not written yet.
#[derive(Debug, Default)]
pub struct Counted(Mutex<EmfFlush>);

impl Counted {
    /// Writes it, one document a line, as CloudWatch reads metrics out of logs.
    pub fn write(&self, opened: &Opened) {
        let mut flush = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = opened.yard.ambient.now();
        if let Err(error) = flush.flush(&opened.yard.meters, now, &mut io::stdout().lock()) {
            warn!(%error, "what was counted is not written");
        }
    }
}

/// Serves invocations one after the other, until Lambda ends the process. What `handle` answers is the invocation's
/// answer; what it fails with is told with all its causes, in the log and to Lambda.
///
/// # Errors
///
/// The Runtime API cannot be reached.
pub async fn serve<E: std::error::Error>(
    opened: Arc<Opened>,
    handle: impl AsyncFn(&Opened, Invoked) -> Result<Value, E>,
) -> Result<(), Error> {
    let counted = Counted::default();
    let handler = service_fn(async |event: LambdaEvent<Value>| {
        let span = info_span!("invocation", request.id = %event.context.request_id);
        let invocation = async {
            let left = left(&event.context);
            opened.begin(left).await;
            let invoked = Invoked { id: event.context.request_id, event: event.payload, left };
            let answered = handle(&opened, invoked).await;
            counted.write(&opened);
            answered.map_err(|failed| {
                let error = describe(&failed);
                error!(error, "the invocation failed");
                Error::from(error)
            })
        };
        invocation.instrument(span).await
    });
    lambda_runtime::run(handler).await
}
