//! Emitted lines are judged, and each is kept or parked: the same for whatever brought them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use tracing::info;

use super::{Code, Emitted, Record, Refused, Said, read};
use crate::job::{Epoch, Job, JobId};
use crate::policies::Policies;
use crate::ports::{Kept, Parked, PortError, Yard, describe};

/// What became of one emitted line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is a record, and kept now.
    Stored,
    /// It was kept before; nothing was changed.
    Known,
    /// It can never be kept, and is parked with the reason.
    Refused(Refused),
    /// The home failed, for the reason told: it must come again.
    Later(String),
}

/// Decides whether an emitted line is a record of `job`.
///
/// # Errors
///
/// [`Refused`] says why it is none.
pub fn judge(emitted: &Emitted, job: Option<&Job>, policies: &Policies, now: Timestamp) -> Result<Record, Refused> {
    let Some(job) = job else {
        return Err(Refused::new(Code::UnknownJob, "there is no such job, or it was forgotten"));
    };
    if emitted.epoch == Epoch(0) || emitted.epoch > job.epoch {
        let what = format!("the job is at epoch {}, and was never at {}", job.epoch, emitted.epoch);
        return Err(Refused::new(Code::UnknownEpoch, what));
    }
    let capability = &job.work.capability;
    let Some(known) = policies.catalog.get(capability) else {
        return Err(Refused::new(Code::UnknownCapability, "what the job ran is not in the catalog"));
    };
    let Said { kind, id } = read(&emitted.line, &known.emits)?;
    // A clock that is ahead must not make a sighting the newest for as long as it is, nor one that is behind make it old: no run
    // emits before its job was there.
    let at = emitted.at.max(job.created).min(now);
    let at = Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
    let Emitted { job, epoch, n, line, .. } = emitted.clone();
    Ok(Record { job, epoch, n, at, capability: capability.clone(), kind, id, body: line })
}

/// Keeps what is a record, parks what is none, and says of each line what became of it, in their order. A line that comes
/// again after any of this failed changes nothing that was done.
pub async fn take(yard: &Yard, source: &'static str, lines: &[Emitted]) -> Vec<Became> {
    if lines.is_empty() {
        return Vec::new();
    }
    let later = |error: &PortError| Became::Later(describe(error));
    let ids: Vec<JobId> = lines.iter().map(|line| line.job).collect::<BTreeSet<_>>().into_iter().collect();
    let jobs: BTreeMap<JobId, Job> = match yard.ledger.load_all(&ids).await {
        Ok(jobs) => jobs.into_iter().map(|job| (job.id, job)).collect(),
        Err(error) => return vec![later(&error); lines.len()],
    };
    let (policies, now) = (yard.policies(), yard.ambient.now());
    let mut became: Vec<Option<Became>> = vec![None; lines.len()];
    let mut records: Vec<(usize, Record)> = Vec::with_capacity(lines.len());
    let mut first: HashMap<(JobId, Epoch, u64), usize> = HashMap::with_capacity(lines.len());
    // Lines that say again what an earlier one of the same batch says, and which.
    let mut again = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        match first.entry(line.name()) {
            Entry::Occupied(earlier) if lines[*earlier.get()].line == line.line => again.push((at, *earlier.get())),
            Entry::Occupied(_) => became[at] = Some(Became::Refused(conflict())),
            Entry::Vacant(place) => {
                place.insert(at);
                match judge(line, jobs.get(&line.job), &policies, now) {
                    Ok(record) => records.push((at, record)),
                    Err(refused) => became[at] = Some(Became::Refused(refused)),
                }
            }
        }
    }
    let (places, records): (Vec<usize>, Vec<Record>) = records.into_iter().unzip();
    let kept = if records.is_empty() { Vec::new() } else { yard.ledger.keep_records(&records).await };
    for (place, kept) in places.into_iter().zip(kept) {
        became[place] = Some(match kept {
            Ok(Kept::New) => Became::Stored,
            Ok(Kept::Known) => Became::Known,
            Ok(Kept::Conflict) => Became::Refused(conflict()),
            Err(error) => later(&error),
        });
    }
    for (at, earlier) in again {
        became[at] = Some(match &became[earlier] {
            // It waits for the other's fate, and is parked once, by the other.
            Some(Became::Later(why)) => Became::Later(why.clone()),
            Some(Became::Stored | Became::Known | Became::Refused(_)) | None => Became::Known,
        });
    }
    let unheard = || Became::Later("the ledger did not say what became of it".to_owned());
    let mut became: Vec<Became> = became.into_iter().map(|one| one.unwrap_or_else(unheard)).collect();
    park_refused(yard, source, lines, &mut became, now).await;
    tell(yard, source, &became);
    became
}

fn conflict() -> Refused {
    Refused::new(Code::Conflict, "another record of this run has the same number")
}

/// Parks what was refused. What cannot be parked comes again: it must not be lost.
async fn park_refused(yard: &Yard, source: &'static str, lines: &[Emitted], became: &mut [Became], now: Timestamp) {
    let parked: Vec<Parked> = lines
        .iter()
        .zip(&*became)
        .filter_map(|(line, became)| match became {
            Became::Refused(refused) => Some(Parked::of(line, source, refused.clone(), now)),
            Became::Stored | Became::Known | Became::Later(_) => None,
        })
        .collect();
    if parked.is_empty() {
        return;
    }
    if let Err(error) = yard.siding.park(&parked).await {
        for one in became.iter_mut() {
            if let Became::Refused(refused) = one {
                *one = Became::Later(format!("{refused}; and it cannot be parked: {}", describe(&error)));
            }
        }
    }
}

fn tell(yard: &Yard, source: &'static str, became: &[Became]) {
    let (mut stored, mut known, mut parked, mut failed) = (0_u64, 0_u64, 0_u64, 0_u64);
    for one in became {
        match one {
            Became::Stored => stored += 1,
            Became::Known => known += 1,
            Became::Refused(refused) => {
                parked += 1;
                yard.meters.record_parked(refused.code);
            }
            Became::Later(_) => failed += 1,
        }
    }
    yard.meters.records(stored, known, failed);
    info!(source, items = became.len(), stored, known, parked, failed, "records taken");
}
