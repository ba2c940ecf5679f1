//! What the yard knows about itself, under one partition key: pauses, who works, who was kicked a moment ago, schedules'
//! ticks, and which capabilities may hold jobs.
//!
//! Pauses and workers are needed at every decision. They are read together, and what was read holds for a few seconds
//! of this process's own clock. Whoever pauses waits as long before it answers: from then on nobody acts on what was
//! read before, and no two machines' clocks are compared. A worker's own row is the exception: how long it is listed goes
//! by its clock, and is only a hint for routing. So is a kick's: clocks that differ make a kick too many, or leave one to
//! the next minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use jiff::Timestamp;
use switchyard_core::brake::{Pause, Pauses, Scope};
use switchyard_core::job::Holder;
use switchyard_core::ports::{PortError, Worker};
use switchyard_core::route::PoolName;
use switchyard_core::scale::KICK_WINDOW;
use switchyard_core::schedule::Ticked;
use switchyard_core::wire;

use super::DynamoLedger;
use super::item::{Expression, GONE, Item, PK, SK, key, n, number, s, text};
use super::lists::Part;
use crate::failure::failed;

/// The partition.
pub(super) const YARD: &str = "Y";
/// Sort keys of capabilities that may hold jobs begin so.
pub(super) const HELD: &str = "held#";
/// Those of pauses,
const PAUSE: &str = "live#pause#";
/// and of workers: both are read by their common beginning.
const WORKER: &str = "live#worker#";
const LIVE: &str = "live#";
/// Those of pools that were kicked, read with them.
const KICK: &str = "live#kick#";
/// Until when a kick keeps others from kicking, in milliseconds since 1970,
const UNTIL: &str = "ut";
/// and whose write it was.
const NONCE: &str = "nce";
/// Those of what is remembered of schedules.
const TICK: &str = "tick#";
/// Where a row's value lies.
const VALUE: &str = "val";

/// How long a worker that says nothing more is listed, in seconds. It says so again with its beats.
const WORKER_LISTED_SECONDS: i64 = 120;
/// How long after that it may yet be alive: its clock may be so slow, or the table may have refused it for so long.
const WORKER_PERHAPS_SECONDS: i64 = 900;

/// What decisions must know of the moment.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) pauses: Arc<Pauses>,
    pub(super) workers: Vec<Worker>,
    /// Those that may be alive, listed or not.
    pub(super) perhaps: Vec<Holder>,
    /// Until when which pools need no other kick.
    pub(super) kicked: Vec<(PoolName, Timestamp)>,
}

/// Whether a kick that holds until then keeps others from kicking now. One that holds for longer than any kick does was
/// written by a clock that is wrong.
fn holds(until: Timestamp, now: Timestamp) -> bool {
    until > now && until <= now + KICK_WINDOW
}

/// What follows a prefix in a row's sort key.
pub(super) fn name(item: &Item, prefix: &str) -> Option<String> {
    text(item, SK)?.strip_prefix(prefix).map(str::to_owned)
}

fn scope_name(scope: &Scope) -> String {
    match scope {
        Scope::All => "all".to_owned(),
        Scope::Tier(tier) => format!("tier#{tier}"),
        Scope::Capability(name) => format!("capability#{name}"),
    }
}

impl DynamoLedger {
    /// The yard's rows whose sort keys begin so, as last written.
    pub(super) async fn yard_rows(&self, prefix: &str, operation: &'static str) -> Result<Vec<Item>, PortError> {
        let range =
            Some((SK, "BETWEEN :from AND :to", vec![("from", s(prefix)), ("to", s(format!("{prefix}\u{ffff}")))]));
        let part = Part { index: None, range, ..Part::of("", PK, YARD.to_owned()) };
        self.all(&part, operation, |_| false).await
    }

    async fn put_row(
        &self,
        name: String,
        value: String,
        gone: Option<i64>,
        operation: &'static str,
    ) -> Result<(), PortError> {
        let subject = self.subject(&name);
        let mut item = key(YARD, name);
        item.insert(VALUE.to_owned(), s(value));
        item.extend(gone.map(|gone| (GONE.to_owned(), n(gone))));
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item)).send().await;
        put.map(drop).map_err(|error| failed(operation, subject, &error))
    }

    async fn delete_row(&self, name: String, operation: &'static str) -> Result<(), PortError> {
        let subject = self.subject(&name);
        let delete = self.0.client.delete_item().table_name(&self.0.table).set_key(Some(key(YARD, name)));
        delete.send().await.map(drop).map_err(|error| failed(operation, subject, &error))
    }

    /// What is paused and who works, at most [`super::LIVE`] old.
    pub(super) async fn live(&self) -> Result<Arc<Live>, PortError> {
        let mut kept = self.0.live.lock().await;
        // Counted from before the read: what it shows is at least so new.
        let asked = Instant::now();
        if let Some((read, live)) = &*kept
            && asked.duration_since(*read) < self.0.live_for
        {
            return Ok(Arc::clone(live));
        }
        let operation = "read what is paused, and who works,";
        let rows = self.yard_rows(LIVE, operation).await?;
        let now = self.0.ambient.now().as_second();
        let mut pauses = Pauses::default();
        let (mut workers, mut perhaps, mut kicked) = (Vec::new(), Vec::new(), Vec::new());
        for row in &rows {
            if let Some(holder) = name(row, WORKER)
                && number(row, GONE).is_none_or(|gone| gone + WORKER_PERHAPS_SECONDS > now)
            {
                perhaps.push(Holder(holder));
            }
            let value = text(row, VALUE).unwrap_or_default();
            let unreadable =
                |error| PortError::permanent(operation, self.subject(text(row, SK).unwrap_or_default()), error);
            if name(row, PAUSE).is_some() {
                // Better no decision than one that starts what somebody stopped.
                pauses.set(wire::decode_pause(value).map_err(unreadable)?);
            } else if let Some(pool) = name(row, KICK) {
                let until = number(row, UNTIL).and_then(|until| Timestamp::from_millisecond(until).ok());
                kicked.extend(pool.parse().ok().zip(until));
            } else if number(row, GONE).is_none_or(|gone| gone > now) {
                match wire::decode_worker(value) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => tracing::warn!(%error, "what a worker said of itself cannot be read"),
                }
            }
        }
        let live = Arc::new(Live { pauses: Arc::new(pauses), workers, perhaps, kicked });
        *kept = Some((asked, Arc::clone(&live)));
        Ok(live)
    }

    /// See [`switchyard_core::ports::Ledger::set_pause`]. A pause answers once nobody can act any more on what was read
    /// before it was written; a resumption at once.
    pub(super) async fn keep_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        let row = format!("{PAUSE}{}", scope_name(scope));
        match pause {
            Some(pause) => self.put_row(row, wire::encode_pause(pause), None, "pause").await?,
            None => self.delete_row(row, "resume").await?,
        }
        *self.0.live.lock().await = None;
        if pause.is_some() {
            tokio::time::sleep(self.0.live_for).await;
            *self.0.live.lock().await = None;
        }
        Ok(())
    }

    /// Who works, as the table has it now: for whoever decides how many there should be.
    ///
    /// # Errors
    ///
    /// The table could not be read.
    pub async fn workers_now(&self) -> Result<Vec<Worker>, PortError> {
        *self.0.live.lock().await = None;
        Ok(self.live().await?.workers.clone())
    }

    /// Whether somebody kicked the pool a moment ago, as far as is known without asking.
    ///
    /// # Errors
    ///
    /// What is known is too old, and the table could not be read.
    pub async fn was_kicked(&self, pool: PoolName) -> Result<bool, PortError> {
        let (live, now) = (self.live().await?, self.0.ambient.now());
        Ok(live.kicked.iter().any(|(kicked, until)| *kicked == pool && holds(*until, now)))
    }

    /// Takes it upon this process to kick the pool: of all who ask within [`KICK_WINDOW`] one is told to.
    ///
    /// # Errors
    ///
    /// The table could not be written.
    pub async fn take_kick(&self, pool: PoolName) -> Result<bool, PortError> {
        let (now, nonce) = (self.0.ambient.now(), self.0.ambient.nonce().to_string());
        let until = now + KICK_WINDOW;
        let subject = self.subject(format!("pool {pool}"));
        let mut item = key(YARD, format!("{KICK}{pool}"));
        item.insert(UNTIL.to_owned(), n(until.as_millisecond()));
        item.insert(NONCE.to_owned(), s(nonce.clone()));
        item.insert(GONE.to_owned(), n(until.as_second() + 1));
        let mut of = Expression::default();
        let (ut, soon) = (of.name(UNTIL), of.value("until", n(until.as_millisecond())));
        let condition = format!(
            "attribute_not_exists({}) OR {ut} <= {} OR {ut} > {soon}",
            of.name(PK),
            of.value("now", n(now.as_millisecond())),
        );
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
        let put = put.condition_expression(condition).set_expression_attribute_names(Some(of.names));
        let put = put.set_expression_attribute_values(Some(of.values));
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                // Our own nonce: the write took effect, its answer was lost on the way.
                Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(refused.item.as_ref().and_then(|item| text(item, NONCE)) == Some(&*nonce))
                }
                _ => Err(failed("take the kick of", subject, &error)),
            },
        }
    }

    /// A worker says what room it has; it is listed for two minutes unless it says so again.
    ///
    /// # Errors
    ///
    /// The table could not be written: it is listed as it last said.
    pub async fn enter(&self, worker: &Worker) -> Result<(), PortError> {
        let gone = self.0.ambient.now().as_second() + WORKER_LISTED_SECONDS;
        let row = format!("{WORKER}{}", worker.holder);
        self.put_row(row, wire::encode_worker(worker), Some(gone), "list worker").await?;
        *self.0.live.lock().await = None;
        Ok(())
    }

    /// A worker went home.
    ///
    /// # Errors
    ///
    /// The table could not be written: it is listed until its time is over.
    pub async fn leave(&self, holder: &Holder) -> Result<(), PortError> {
        self.delete_row(format!("{WORKER}{holder}"), "strike out worker").await?;
        *self.0.live.lock().await = None;
        Ok(())
    }

    /// See [`switchyard_core::ports::Ledger::last_ticks`].
    pub(super) async fn ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError> {
        let operation = "read what is remembered of schedules";
        let rows = self.yard_rows(TICK, operation).await?;
        let mut ticks = BTreeMap::new();
        for row in &rows {
            let Some(name) = name(row, TICK) else { continue };
            let ticked = wire::decode_ticked(text(row, VALUE).unwrap_or_default());
            let ticked = ticked.map_err(|error| PortError::permanent(operation, self.subject(&name), error))?;
            ticks.insert(name, ticked);
        }
        Ok(ticks)
    }

    /// See [`switchyard_core::ports::Ledger::ticked`].
    pub(super) async fn keep_tick(&self, schedule: &str, ticked: Option<&Ticked>) -> Result<(), PortError> {
        let row = format!("{TICK}{schedule}");
        match ticked {
            Some(ticked) => self.put_row(row, wire::encode_ticked(ticked), None, "remember schedule").await,
            None => self.delete_row(row, "forget schedule").await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_holds_for_its_window_and_one_from_the_future_does_not() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        assert!(holds(at(10), at(0)) && holds(at(10), at(9)));
        assert!(!holds(at(10), at(10)));
        assert!(!holds(at(11), at(0)), "no kick holds for so long: its writer's clock is wrong");
    }
}
