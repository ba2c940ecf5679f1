//! Writes of one record: saved, claimed, forgotten. Each is conditional on the record's revision.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use futures_util::future::join_all;
use jiff::Timestamp;
use switchyard_core::execute;
use switchyard_core::job::{Job, JobId, Phase};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Body, Claim, Claimed, PortError, Refusal, Saved};
use switchyard_core::wire;

use super::item::{
    self, BESIDE, BODY, DUE_KEY, Expression, GONE, Item, MAIN, PERMIT, PK, RECORD, REVISION, SK, beside, job_pk, key,
    lies_beside, main_key, n, near, near_body, permit_key, s, text,
};
use super::{CONFLICTS, DynamoLedger};
use crate::failure::{code, failed};

/// DynamoDB's word for a write whose condition did not hold.
pub(super) const REFUSED: &str = "ConditionalCheckFailedException";
/// Its word for a write that met a transaction under way.
pub(super) const CONFLICT: &str = "TransactionConflictException";

/// What the reasons of a cancelled transaction say.
pub(super) struct Cancelled;

impl Cancelled {
    /// The item as it is, where an action was refused by its condition.
    pub(super) fn refused(reason: &CancellationReason) -> Option<&Item> {
        if Self::is_refused(reason) { reason.item.as_ref() } else { None }
    }

    /// Whether an action was refused by its condition.
    pub(super) fn is_refused(reason: &CancellationReason) -> bool {
        reason.code() == Some("ConditionalCheckFailed")
    }

    /// A reason that another try meets again.
    pub(super) fn permanent(reason: &CancellationReason) -> Option<String> {
        match reason.code() {
            Some(code @ ("ValidationError" | "ItemCollectionSizeLimitExceeded")) => {
                Some(format!("{code}: {}", reason.message().unwrap_or_default()))
            }
            // TransactionConflict, ThrottlingError, ProvisionedThroughputExceeded, and what is not known yet.
            _ => None,
        }
    }
}

/// The reasons why a transaction was cancelled, one for each of its actions; `None`: it was not, it failed.
pub(super) fn cancelled(error: &SdkError<TransactWriteItemsError>) -> Option<&[CancellationReason]> {
    match error.as_service_error()? {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => Some(cancelled.cancellation_reasons()),
        _ => None,
    }
}

/// What became of one try to write a record.
enum Tried {
    /// It is written; the item as it is now, where it was asked for.
    Written(Option<Item>),
    /// Somebody else wrote first, or the record holds another permit than was thought; the item as it is.
    Refused(Option<Item>),
    /// Another job has the permit.
    PermitTaken,
    /// Others are in the way just now.
    Conflict,
}

/// What is taken to be so of the item that a write changes, beside its revision; the write's condition asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Thought {
    /// The permit it holds.
    permit: Option<u16>,
    /// Whether something of the job lies outside the item: then the reaper removes it all, and no time to live.
    beside: bool,
    /// The record itself, where it was decided upon as it came by another way than the table's: whoever can put a
    /// message into a queue must not be able to change a record.
    record: Option<String>,
}

impl DynamoLedger {
    /// The update of a record, and its condition: that its revision is the one before, and the item as it is thought.
    fn change(&self, job: &Job, thought: &Thought, leaves_beside: bool) -> (Expression, String) {
        let mut change = Expression::default();
        change.write(item::columns(job));
        let before = change.value("before", n(job.revision.saturating_sub(1)));
        let mut condition = format!("{} = {before}", change.name(REVISION));
        let permit = change.name(PERMIT);
        match thought.permit {
            Some(had) => {
                let had = change.value("had", n(had));
                condition.push_str(&format!(" AND {permit} = {had}"));
            }
            None => condition.push_str(&format!(" AND attribute_not_exists({permit})")),
        }
        if let Some(record) = &thought.record {
            let record = change.value("seen", s(&**record));
            condition.push_str(&format!(" AND {} = {record}", change.name(RECORD)));
        }
        match item::gone(job, self.0.forgetting) {
            Some(gone) if !leaves_beside && !thought.beside => {
                change.set(GONE, gone);
                condition.push_str(&format!(" AND attribute_not_exists({})", change.name(BESIDE)));
            }
            Some(_) | None => change.remove(GONE),
        }
        if leaves_beside {
            change.set(BESIDE, n(1));
        }
        (change, condition)
    }

    /// See [`switchyard_core::ports::Ledger::save`].
    pub(super) async fn save_one(&self, job: &Job, result: Option<Body>) -> Result<Saved, PortError> {
        if job.phase() == Phase::Held {
            self.may_hold(&job.work.capability).await?;
        }
        let seen = self.0.sightings.seen(job.id).filter(|seen| seen.revision + 1 == job.revision);
        // What is not known is read off the refusal.
        let permit = seen.map_or(job.permit, |seen| seen.permit);
        let mut thought = Thought { permit, beside: false, record: None };
        for tried in 1..=CONFLICTS {
            match self.try_save(job, result.as_ref(), &thought).await? {
                Tried::Written(_) => {
                    self.0.sightings.note(job);
                    return Ok(Saved::Saved);
                }
                Tried::PermitTaken => return Ok(Saved::PermitTaken),
                Tried::Conflict => {
                    // Where many are after one permit it is most often that: whoever has it by now keeps it for a run.
                    if thought.permit != job.permit && self.is_anothers(job).await? {
                        return Ok(Saved::PermitTaken);
                    }
                    self.wait(tried).await;
                }
                Tried::Refused(None) => {
                    self.0.sightings.forget(job.id);
                    return Ok(Saved::Refused(None));
                }
                Tried::Refused(Some(item)) => {
                    let current = item::job(&item, "save")?;
                    self.0.sightings.forget(job.id);
                    self.0.sightings.note(&current);
                    if current.revision + 1 != job.revision {
                        // Our own nonce: the write took effect and its answer was lost.
                        let ours = current.revision == job.revision && current.nonce == job.nonce;
                        return Ok(if ours { Saved::Saved } else { Saved::Refused(Some(Box::new(current))) });
                    }
                    // The revision is as it should be: the item is otherwise than it was thought.
                    thought = Thought { permit: current.permit, beside: item.contains_key(BESIDE), record: None };
                }
            }
        }
        Err(PortError::retryable(
            "save",
            self.subject(format_args!("job {}", job.id)),
            "others write it, or its permit",
        ))
    }

    /// Whether another job holds the permit that this record names.
    async fn is_anothers(&self, job: &Job) -> Result<bool, PortError> {
        let Some(permit) = job.permit else { return Ok(false) };
        let item = self.get(permit_key(&job.work.capability, permit), "look at the permit of").await?;
        Ok(item.is_some_and(|item| text(&item, "job") != Some(&*job.id.to_string())))
    }

    async fn try_save(&self, job: &Job, result: Option<&Body>, thought: &Thought) -> Result<Tried, PortError> {
        let encoded = result.map(wire::encode_body);
        let leaves_beside = result.zip(encoded.as_deref()).is_some_and(|(body, encoded)| lies_beside(body, encoded));
        let (mut change, condition) = self.change(job, thought, leaves_beside);
        let mut own_item = None;
        if let Some(encoded) = encoded {
            if item::is_near(&encoded) {
                change.set(&near(job.epoch.0), s(encoded));
            } else {
                let mut item = key(job_pk(job.id), beside(job.epoch.0));
                item.insert(BODY.to_owned(), s(encoded));
                own_item = Some(item);
            }
        }
        if thought.permit == job.permit && own_item.is_none() {
            return self.update(job.id, change, condition, false, "save").await;
        }
        self.transact(job, change, condition, thought.permit, own_item).await
    }

    /// One conditional update of a record's item.
    async fn update(
        &self,
        id: JobId,
        change: Expression,
        condition: String,
        answer: bool,
        operation: &'static str,
    ) -> Result<Tried, PortError> {
        let update = self.0.client.update_item().table_name(&self.0.table).set_key(Some(main_key(id)));
        let update = update.update_expression(change.update()).condition_expression(condition);
        let update = update.set_expression_attribute_names(Some(change.names));
        let update = update.set_expression_attribute_values(Some(change.values));
        let update = update.set_return_values(answer.then_some(ReturnValue::AllNew));
        let update = update.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let error = match update.send().await {
            Ok(written) => return Ok(Tried::Written(written.attributes)),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                Ok(Tried::Refused(refused.item.clone().filter(|item| !item.is_empty())))
            }
            _ if code(&error) == Some(CONFLICT) => Ok(Tried::Conflict),
            _ => Err(failed(operation, self.subject(format_args!("job {id}")), &error)),
        }
    }

    /// A record with what must change in the same write: the permit it takes or gives up, a large result.
    async fn transact(
        &self,
        job: &Job,
        change: Expression,
        condition: String,
        had: Option<u16>,
        own_item: Option<Item>,
    ) -> Result<Tried, PortError> {
        let subject = || self.subject(format_args!("job {}", job.id));
        let table = &self.0.table;
        let unfit = |error| PortError::permanent("save", subject(), error);
        let update = Update::builder()
            .table_name(table)
            .set_key(Some(main_key(job.id)))
            .update_expression(change.update())
            .condition_expression(condition)
            .set_expression_attribute_names(Some(change.names))
            .set_expression_attribute_values(Some(change.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut actions = vec![TransactWriteItem::builder().update(update.build().map_err(unfit)?).build()];
        let capability = &job.work.capability;
        let mut takes = false;
        if had != job.permit {
            // Free, or this job's own: the same write again.
            let own = || {
                let mut only = Expression::default();
                let own = format!("{} = {}", only.name("job"), only.value("job", s(job.id.to_string())));
                (format!("attribute_not_exists({}) OR {own}", only.name(PK)), only)
            };
            if let Some(has) = job.permit {
                takes = true;
                let (condition, only) = own();
                let mut item = permit_key(capability, has);
                item.insert("job".to_owned(), s(job.id.to_string()));
                let put = Put::builder().table_name(table).set_item(Some(item)).condition_expression(condition);
                let put = put.set_expression_attribute_names(Some(only.names));
                let put = put.set_expression_attribute_values(Some(only.values));
                actions.push(TransactWriteItem::builder().put(put.build().map_err(unfit)?).build());
            }
            if let Some(had) = had {
                let (condition, only) = own();
                let delete = Delete::builder().table_name(table).set_key(Some(permit_key(capability, had)));
                let delete = delete.condition_expression(condition);
                let delete = delete.set_expression_attribute_names(Some(only.names));
                let delete = delete.set_expression_attribute_values(Some(only.values));
                actions.push(TransactWriteItem::builder().delete(delete.build().map_err(unfit)?).build());
            }
        }
        if let Some(item) = own_item {
            let put = Put::builder().table_name(table).set_item(Some(item));
            actions.push(TransactWriteItem::builder().put(put.build().map_err(unfit)?).build());
        }
        let sent = self.0.client.transact_write_items().set_transact_items(Some(actions)).send().await;
        let Err(error) = sent else { return Ok(Tried::Written(None)) };
        let Some(reasons) = cancelled(&error) else { return Err(failed("save", subject(), &error)) };
        match reasons.first() {
            Some(reason) if Cancelled::is_refused(reason) => {
                return Ok(Tried::Refused(reason.item.clone().filter(|item| !item.is_empty())));
            }
            Some(_) | None => {}
        }
        if takes && reasons.get(1).is_some_and(Cancelled::is_refused) {
            return Ok(Tried::PermitTaken);
        }
        match reasons.iter().find_map(Cancelled::permanent) {
            Some(reason) => Err(PortError::permanent("save", subject(), reason)),
            None => Ok(Tried::Conflict),
        }
    }

    /// See [`switchyard_core::ports::Ledger::claim`]: decided on the record as the doorbell brought it, where it did, and
    /// written on condition that it is still so. The write's answer brings the payload.
    pub(super) async fn claim_one(
        &self,
        claim: &Claim,
        situation: &Situation,
        now: Timestamp,
    ) -> Result<Claimed, PortError> {
        let id = claim.id;
        let mut seen = self.0.sightings.seen(id).or_else(|| self.0.hints.seen(id));
        let mut fresh: Option<Item> = None;
        for tried in 1..=CONFLICTS * 2 {
            let (job, item) = match (seen.take(), fresh.take()) {
                (Some(job), _) => (job, None),
                (None, Some(item)) => (item::job(&item, "claim")?, Some(item)),
                (None, None) => match self.get(main_key(id), "claim").await? {
                    Some(item) => (item::job(&item, "claim")?, Some(item)),
                    None => return Ok(Claimed::Lost(Refusal::Unknown)),
                },
            };
            let claimed = match execute::claim(&job, claim, situation, now) {
                Ok(claimed) if claimed != job => claimed.stamped(self.0.ambient.nonce()),
                decided => match (decided, item) {
                    // What is refused, or won already, is so only if the record says it now.
                    (_, None) => continue,
                    (Err(refusal), Some(_)) => return Ok(Claimed::Lost(refusal)),
                    (Ok(job), Some(item)) => return self.won(job, &item).await,
                },
            };
            let record = item.is_none().then(|| wire::encode(&job));
            let thought = Thought { permit: job.permit, beside: false, record };
            let (change, condition) = self.change(&claimed, &thought, false);
            match self.update(id, change, condition, true, "claim").await? {
                Tried::Written(item) => return self.won(claimed, &item.unwrap_or_default()).await,
                Tried::Refused(Some(item)) => {
                    let current = item::job(&item, "claim")?;
                    if current.nonce == claimed.nonce && current.revision == claimed.revision {
                        return self.won(current, &item).await;
                    }
                    fresh = Some(item);
                }
                Tried::Refused(None) => return Ok(Claimed::Lost(Refusal::Unknown)),
                Tried::Conflict | Tried::PermitTaken => self.wait(tried).await,
            }
        }
        Err(PortError::retryable("claim", self.subject(format_args!("job {id}")), "others write it, again and again"))
    }

    /// A claim that was won, with the payload off the record's item or beside it.
    async fn won(&self, job: Job, item: &Item) -> Result<Claimed, PortError> {
        self.0.hints.forget(job.id);
        self.0.sightings.forget(job.id);
        self.0.sightings.note(&job);
        if job.permit.is_none() {
            super::lock(&self.0.numbered).remove(&job.work.capability);
        }
        let payload = match near_body(item, 0, "claim")? {
            Some(payload) => Some(payload),
            None => {
                let own = self.get(key(job_pk(job.id), beside(0)), "claim").await?;
                own.as_ref()
                    .and_then(|item| text(item, BODY))
                    .map(|encoded| item::body(item, encoded, "claim"))
                    .transpose()?
            }
        };
        let payload = payload.ok_or_else(|| {
            PortError::permanent(
                "claim",
                self.subject(format_args!("job {}", job.id)),
                "its payload is not in the table",
            )
        })?;
        Ok(Claimed::Won(Box::new(job), payload))
    }

    /// See [`switchyard_core::ports::Ledger::forget`].
    pub(super) async fn forget_all(&self, ids: &[JobId]) -> Result<(), PortError> {
        for some in ids.chunks(16) {
            for forgotten in join_all(some.iter().map(|id| self.forget_one(*id))).await {
                forgotten?;
            }
        }
        Ok(())
    }

    /// Removes a record and all that lies beside it, in one write; nothing, where it has not ended or owes something.
    async fn forget_one(&self, id: JobId) -> Result<(), PortError> {
        // Before the record: what a crash in between leaves of it, the next round finds.
        self.forget_records(id).await?;
        let subject = || self.subject(format_args!("job {id}"));
        let unfit = |error| PortError::permanent("forget", subject(), error);
        let mut of = Expression::default();
        let condition = format!("{} = {}", of.name(PK), of.value("pk", s(job_pk(id))));
        let shown = of.name(SK);
        let query = self.0.client.query().table_name(&self.0.table).key_condition_expression(condition);
        let query = query.projection_expression(shown).set_expression_attribute_names(Some(of.names));
        let query = query.set_expression_attribute_values(Some(of.values)).consistent_read(true);
        let found = query.send().await.map_err(|error| failed("forget", subject(), &error))?;
        let mut actions = Vec::new();
        for item in found.items() {
            let Some(sk) = text(item, SK) else { continue };
            let mut delete = Delete::builder().table_name(&self.0.table).set_key(Some(key(job_pk(id), sk)));
            if sk == MAIN {
                let mut only = Expression::default();
                let ended = format!("begins_with({}, {})", only.name(DUE_KEY), only.value("ended", s("E#")));
                delete = delete.condition_expression(ended);
                delete = delete.set_expression_attribute_names(Some(only.names));
                delete = delete.set_expression_attribute_values(Some(only.values));
            }
            actions.push(TransactWriteItem::builder().delete(delete.build().map_err(unfit)?).build());
        }
        if actions.is_empty() {
            return Ok(());
        }
        for tried in 1..=CONFLICTS {
            let sent = self.0.client.transact_write_items().set_transact_items(Some(actions.clone())).send().await;
            let Err(error) = sent else {
                self.0.sightings.forget(id);
                return Ok(());
            };
            match cancelled(&error) {
                None => return Err(failed("forget", subject(), &error)),
                // It goes on after all, or went before.
                Some(reasons) if reasons.iter().any(Cancelled::is_refused) => {
                    self.0.sightings.forget(id);
                    return Ok(());
                }
                Some(_) => self.wait(tried).await,
            }
        }
        Err(PortError::retryable("forget", subject(), "others write it, again and again"))
    }
}

#[cfg(test)]
mod tests;
