//! What can be done to a request, whoever decided it: the script or the weather.

use std::time::Duration;

use serde_json::Value;

use crate::answer::Answer;
use crate::batch::Decided;

/// One thing done to one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answered in the service's stead; the service never hears of it.
    Answer(Answer),
    /// The connection is reset; the service never hears of it.
    ResetBefore,
    /// The service carries it out, then the connection is reset.
    ResetAfter,
    /// Never answered, the connection kept so long, then reset; the service never hears of it.
    HoldBefore(Duration),
    /// The service carries it out, and the answer is never given; the connection is kept so long, then reset.
    HoldAfter(Duration),
    /// The service takes so long before the request has effect, and so long again before it answers.
    Late { before: Duration, after: Duration },
    /// A batch of which only this body goes on (`None`: nothing does); the rest is decided.
    Part(Option<Value>, Decided),
    /// A ReceiveMessage whose first message becomes visible again at once, and so is delivered twice.
    Redeliver,
}
