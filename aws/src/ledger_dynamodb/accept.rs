//! Acceptance: one conditional put; many jobs in transactions of a hundred items, of which refused ones are dropped by
//! their reason.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use futures_util::future::join_all;
use switchyard_core::job::JobId;
use switchyard_core::ports::{Acceptance, NewJob, PortError};
use switchyard_core::wire;

use super::item::{self, BESIDE, BODY, Expression, GONE, Item, PAYLOAD, PK, beside, job_pk, key, lies_beside, n, s};
use super::write::{CONFLICT, Cancelled, cancelled};
use super::{CONFLICTS, DynamoLedger};
use crate::failure::{code, failed};

/// Items in one transaction at most (TransactWriteItems).
const ITEMS: usize = 100;
/// Bytes in one transaction at most: DynamoDB takes 4 MB, and counts a little otherwise than we do.
const BYTES: usize = 3_500_000;
/// Transactions of one batch that are under way at once.
const AT_ONCE: usize = 4;

/// A new job as it will lie in the table: its record, and its payload where that is an item of its own.
struct New {
    at: usize,
    record: Item,
    payload: Option<Item>,
}

impl New {
    fn items(&self) -> usize {
        1 + usize::from(self.payload.is_some())
    }

    fn bytes(&self) -> usize {
        item::size(&self.record) + self.payload.as_ref().map_or(0, item::size)
    }
}

/// Cuts a batch into transactions, in its order.
fn pack(batch: Vec<New>) -> Vec<Vec<New>> {
    let mut packed: Vec<Vec<New>> = Vec::new();
    let (mut items, mut bytes) = (0, 0);
    for new in batch {
        let (more_items, more_bytes) = (new.items(), new.bytes());
        if packed.is_empty() || items + more_items > ITEMS || bytes + more_bytes > BYTES {
            packed.push(Vec::new());
            (items, bytes) = (0, 0);
        }
        (items, bytes) = (items + more_items, bytes + more_bytes);
        if let Some(last) = packed.last_mut() {
            last.push(new);
        }
    }
    packed
}

impl DynamoLedger {
    /// Free, or past its time to live and not removed yet.
    fn is_free(&self) -> (String, Expression) {
        let mut only = Expression::default();
        let now = only.value("now", n(self.0.ambient.now().as_second()));
        let condition = format!("attribute_not_exists({}) OR {} < {now}", only.name(PK), only.name(GONE));
        (condition, only)
    }

    fn new_item(&self, at: usize, new: &NewJob) -> New {
        let encoded = wire::encode_body(&new.payload);
        let mut record = item::new_item(&new.job);
        if lies_beside(&new.payload, &encoded) {
            record.insert(BESIDE.to_owned(), n(1));
        }
        let payload = if item::is_near(&encoded) {
            record.insert(PAYLOAD.to_owned(), s(encoded));
            None
        } else {
            let mut payload = key(job_pk(new.job.id), beside(0));
            payload.insert(BODY.to_owned(), s(encoded));
            Some(payload)
        };
        New { at, record, payload }
    }

    /// See [`switchyard_core::ports::Ledger::accept`].
    pub(super) async fn accept_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError> {
        let mut first: HashMap<JobId, usize> = HashMap::new();
        let mut batch = Vec::new();
        for (at, new) in jobs.iter().enumerate() {
            // A transaction takes no item twice: the first of two twins is taken.
            if *first.entry(new.job.id).or_insert(at) == at {
                batch.push(self.new_item(at, new));
            }
            if new.job.phase() == switchyard_core::job::Phase::Held {
                self.may_hold(&new.job.work.capability).await?;
            }
        }
        let mut answers: Vec<Option<Acceptance>> = vec![None; jobs.len()];
        let packed = pack(batch);
        for together in chunks(packed, AT_ONCE) {
            let running = together.into_iter().map(|some| self.accept_some(&jobs, some));
            for accepted in join_all(running).await {
                for (at, acceptance) in accepted? {
                    answers[at] = Some(acceptance);
                }
            }
        }
        let mut accepted = Vec::with_capacity(jobs.len());
        for (at, new) in jobs.iter().enumerate() {
            let answer = match answers[at].take() {
                Some(answer) => answer,
                // A twin: what stands there is what the first one made of it.
                None => match accepted.get(first.get(&new.job.id).copied().unwrap_or(at)) {
                    Some(Acceptance::Existing(job)) => Acceptance::Existing(Box::clone(job)),
                    Some(Acceptance::Accepted) | None => {
                        let at = first.get(&new.job.id).copied().unwrap_or(at);
                        Acceptance::Existing(Box::new(jobs[at].job.clone()))
                    }
                },
            };
            if answer == Acceptance::Accepted {
                self.0.sightings.forget(new.job.id);
                self.0.sightings.note(&new.job);
            }
            accepted.push(answer);
        }
        Ok(accepted)
    }

    /// Some jobs of a batch, in one write.
    async fn accept_some(&self, jobs: &[NewJob], some: Vec<New>) -> Result<Vec<(usize, Acceptance)>, PortError> {
        if let [New { at, payload: None, record, .. }] = &some[..] {
            let (at, record) = (*at, record.clone());
            return Ok(vec![(at, self.accept_one(&jobs[at], record).await?)]);
        }
        let subject = || self.subject(format_args!("{} jobs", some.len()));
        let mut answers = Vec::with_capacity(some.len());
        let mut left: Vec<&New> = some.iter().collect();
        for tried in 1..=CONFLICTS {
            if left.is_empty() {
                return Ok(answers);
            }
            let mut actions = Vec::with_capacity(ITEMS);
            // Which of them an action is of; a payload's is nobody's to refuse.
            let mut of = Vec::with_capacity(ITEMS);
            for new in &left {
                let (condition, only) = self.is_free();
                let put = Put::builder()
                    .table_name(&self.0.table)
                    .set_item(Some(new.record.clone()))
                    .condition_expression(condition)
                    .set_expression_attribute_names(Some(only.names))
                    .set_expression_attribute_values(Some(only.values))
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                actions.push(put);
                of.push(Some(*new));
                if let Some(payload) = &new.payload {
                    actions.push(Put::builder().table_name(&self.0.table).set_item(Some(payload.clone())));
                    of.push(None);
                }
            }
            let actions: Result<Vec<TransactWriteItem>, _> = actions
                .into_iter()
                .map(|put| put.build().map(|put| TransactWriteItem::builder().put(put).build()))
                .collect();
            let actions = actions.map_err(|error| PortError::permanent("accept", subject(), error))?;
            let sent = self.0.client.transact_write_items().set_transact_items(Some(actions)).send().await;
            let reasons = match sent {
                Ok(_) => {
                    answers.extend(left.iter().map(|new| (new.at, Acceptance::Accepted)));
                    return Ok(answers);
                }
                Err(error) => match cancelled(&error) {
                    Some(reasons) => reasons.to_vec(),
                    None => return Err(failed("accept", subject(), &error)),
                },
            };
            let refused = self.refusals(jobs, &of, &reasons)?;
            if refused.is_empty() {
                if let Some(reason) = reasons.iter().find_map(Cancelled::permanent) {
                    return Err(PortError::permanent("accept", subject(), reason));
                }
                self.wait(tried).await;
            }
            left.retain(|new| !refused.iter().any(|(at, _)| *at == new.at));
            answers.extend(refused);
        }
        if left.is_empty() {
            return Ok(answers);
        }
        Err(PortError::retryable("accept", subject(), "others wrote the same jobs, again and again"))
    }

    /// Those that were there before, by the reasons of a cancelled transaction.
    fn refusals(
        &self,
        jobs: &[NewJob],
        of: &[Option<&New>],
        reasons: &[CancellationReason],
    ) -> Result<Vec<(usize, Acceptance)>, PortError> {
        let mut refused = Vec::new();
        for (new, reason) in of.iter().zip(reasons) {
            if let (Some(new), Some(item)) = (new, Cancelled::refused(reason)) {
                refused.push((new.at, self.existing(&jobs[new.at], item)?));
            }
        }
        Ok(refused)
    }

    fn existing(&self, new: &NewJob, item: &Item) -> Result<Acceptance, PortError> {
        let existing = item::job(item, "accept")?;
        // Our own nonce: this very write took effect and its answer was lost.
        if existing.nonce == new.job.nonce {
            return Ok(Acceptance::Accepted);
        }
        self.0.sightings.note(&existing);
        Ok(Acceptance::Existing(Box::new(existing)))
    }

    async fn accept_one(&self, new: &NewJob, record: Item) -> Result<Acceptance, PortError> {
        let subject = || self.subject(format_args!("job {}", new.job.id));
        for tried in 1..=CONFLICTS {
            let (condition, only) = self.is_free();
            let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(record.clone()));
            let put = put.condition_expression(condition);
            let put = put.set_expression_attribute_names(Some(only.names));
            let put = put.set_expression_attribute_values(Some(only.values));
            let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            match put.send().await {
                Ok(_) => return Ok(Acceptance::Accepted),
                Err(error) => match error.as_service_error() {
                    Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                        if let Some(item) = &refused.item {
                            return self.existing(new, item);
                        }
                    }
                    _ if code(&error) == Some(CONFLICT) => {}
                    _ => return Err(failed("accept", subject(), &error)),
                },
            }
            self.wait(tried).await;
        }
        Err(PortError::retryable("accept", subject(), "others wrote the same job, again and again"))
    }
}

fn chunks<T>(mut all: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    while !all.is_empty() {
        let rest = all.split_off(all.len().min(size));
        chunks.push(all);
        all = rest;
    }
    chunks
}
