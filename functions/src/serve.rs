//! What every invocation goes through, whatever its function: the yard is told how long it may take, and what was counted
//! is written when it ends.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lambda_runtime::{Context, Error, LambdaEvent, service_fn};
use serde_json::Value;
use switchyard_aws::deployment::Launching;
use switchyard_aws::metrics_emf::EmfFlush;
use switchyard_aws::quiet::may_be_logged;
use switchyard_core::ports::{PortError, describe};
use tokio::sync::OnceCell;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, error, info_span, warn};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::opened::{Opened, Place};

/// Starts a function: its log, and what its environment says of the yard. What is wrong there is told in one line, with
/// all causes: Lambda logs it and starts another process.
///
/// # Errors
///
/// As [`Place::from_environment`].
pub fn start() -> Result<Place, Error> {
    start_logging();
    Place::from_environment().map_err(|failed| {
        let error = describe(&failed);
        error!(error, "the function cannot start");
        Error::from(error)
    })
}

/// Structured logs on standard output, where Lambda takes them for CloudWatch; RUST_LOG chooses the level, or one for each
/// module, `info` without it.
fn start_logging() {
    let levels = std::env::var("RUST_LOG").ok().and_then(|levels| levels.parse::<Targets>().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    let lines = lines.log_internal_errors(false).with_filter(levels).with_filter(filter_fn(may_be_logged));
    // A log that cannot be written is lost, and the work goes on. A second start in one process changes nothing.
    drop(tracing_subscriber::registry().with(lines).try_init());
}

/// The yard, opened by the first invocation, and with it what the function makes of it. What fails then fails that
/// invocation alone.
pub struct Opening<S> {
    place: Place,
    launching: Launching,
    prepare: fn(&Opened) -> S,
    opened: OnceCell<(Opened, S)>,
}

impl<S> Opening<S> {
    /// Nothing is opened yet.
    pub fn new(place: Place, launching: Launching, prepare: fn(&Opened) -> S) -> Self {
        Self { place, launching, prepare, opened: OnceCell::new() }
    }

    /// An invocation begins, and may take so long: answers the yard, and what `prepare` made of it.
    ///
    /// # Errors
    ///
    /// As [`Opened::open`].
    pub async fn begin(&self, left: Duration) -> Result<(&Opened, &S), PortError> {
        let (opened, prepared) = self.opened.get_or_try_init(|| Box::pin(self.open())).await?;
        opened.begin(left).await;
        Ok((opened, prepared))
    }

    async fn open(&self) -> Result<(Opened, S), PortError> {
        let opened = Opened::open(&self.place, self.launching).await?;
        let prepared = (self.prepare)(&opened);
        Ok((opened, prepared))
    }
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
pub async fn serve<S, E: std::error::Error>(
    opening: Opening<S>,
    handle: impl AsyncFn(&Opened, &S, Invoked) -> Result<Value, E>,
) -> Result<(), Error> {
    let counted = Counted::default();
    let handler = service_fn(async |event: LambdaEvent<Value>| {
        let span = info_span!("invocation", request.id = %event.context.request_id);
        let invocation = async {
            let left = left(&event.context);
            let (opened, prepared) =
                opening.begin(left).await.map_err(|failed| told(&failed, "the yard cannot be opened"))?;
            let invoked = Invoked { id: event.context.request_id, event: event.payload, left };
            let answered = handle(opened, prepared, invoked).await;
            counted.write(opened);
            answered.map_err(|failed| told(&failed, "the invocation failed"))
        };
        // On the heap: what a whole invocation may wait for would else be part of every type around it.
        Box::pin(invocation.instrument(span)).await
    });
    lambda_runtime::run(handler).await
}

/// A failure with all its causes, for the log and for whoever invoked.
fn told(failed: &dyn std::error::Error, what: &str) -> Error {
    let error = describe(failed);
    error!(error, "{what}");
    Error::from(error)
}
