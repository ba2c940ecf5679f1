//! What holders say of themselves, as it is stored: what room they have, what they run.

use serde::{Deserialize, Serialize};

use super::{Ms, WireCause, WireError, bad, from_ms, ms};
use crate::job::{Epoch, Holder, JobId};
use crate::ports::{Message, Room, Worker};
use crate::route::PoolName;

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct WorkerWire {
    v: u32,
    holder: Holder,
    pool: PoolName,
    capacity: Room,
    free: Room,
    since: Ms,
    #[serde(default)]
    leaving: bool,
}

/// What a worker says of itself, as JSON text.
pub fn encode_worker(worker: &Worker) -> String {
    let Worker { holder, pool, capacity, free, since, leaving } = worker.clone();
    let wire = WorkerWire { v: VERSION, holder, pool, capacity, free, since: ms(since), leaving };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a worker is always JSON: {error}"))
}

/// The worker that [`encode_worker`] made.
///
/// # Errors
///
/// [`WireError`]: it is none, or one of a newer version.
pub fn decode_worker(text: &str) -> Result<Worker, WireError> {
    let what = "what a worker says of itself";
    let wire: WorkerWire = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    if wire.v > VERSION {
        return Err(bad(what, WireCause::Version { found: wire.v, known: VERSION }));
    }
    let WorkerWire { v: _, holder, pool, capacity, free, since, leaving } = wire;
    let since = from_ms(since).map_err(|cause| bad(what, cause))?;
    Ok(Worker { holder, pool, capacity, free, since, leaving })
}

/// The runs that a beat names, as JSON text: pairs of job and epoch.
pub fn encode_runs(runs: &[Message]) -> String {
    let pairs: Vec<(JobId, Epoch)> = runs.iter().map(|run| (run.id, run.epoch)).collect();
    serde_json::to_string(&pairs).unwrap_or_else(|error| unreachable!("runs are always JSON: {error}"))
}

/// The runs that [`encode_runs`] wrote.
///
/// # Errors
///
/// [`WireError`]: the text names none.
pub fn decode_runs(text: &str) -> Result<Vec<Message>, WireError> {
    let pairs: Vec<(JobId, Epoch)> = serde_json::from_str(text).map_err(|error| bad("the runs of a beat", error))?;
    Ok(pairs.into_iter().map(|(id, epoch)| Message { id, epoch }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Nonce;
    use crate::route::Venue;
    use crate::testing::{a_job, at};

    #[test]
    fn a_worker_is_read_back_as_it_was_also_by_an_earlier_program() {
        let capacity = Room { slots: 2, milli_vcpu: 2000, memory_mib: 900 };
        let holder = Holder::new("i-1", Nonce(7));
        let worker =
            Worker { holder, pool: PoolName::STANDARD, capacity, free: Room::default(), since: at(3), leaving: true };
        let text = encode_worker(&worker);
        assert_eq!(decode_worker(&text).unwrap(), worker);
        let later = text.replacen('{', r#"{"zone":"b","#, 1);
        assert_eq!(decode_worker(&later).unwrap(), worker, "what is not known is ignored");
        let newer = text.replacen("\"v\":1", "\"v\":2", 1);
        assert!(decode_worker(&newer).unwrap_err().cause.to_string().contains("version 2"));
    }

    #[test]
    fn runs_are_read_back_in_their_order() {
        let run = |epoch| Message { id: a_job(Venue::Fleet).id, epoch: Epoch(epoch) };
        let runs = vec![run(2), run(1)];
        assert_eq!(decode_runs(&encode_runs(&runs)).unwrap(), runs);
        assert_eq!(decode_runs("[]").unwrap(), []);
        assert!(decode_runs("{}").is_err());
    }
}
