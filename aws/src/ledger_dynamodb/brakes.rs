//! What the brakes need of the ledger: permits, held jobs, quotas.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use futures_util::future::join_all;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use switchyard_core::job::{Job, JobId, Phase, Tier};
use switchyard_core::ports::{Permits, PortError};
use switchyard_core::quota::{self, Bucket, Drawn, Rate};

use super::item::{
    self, Expression, GONE, HELD_AT, HELD_KEY, PK, RECORD, SK, held_pk, job_of_pk, key, main_key, n, permits_pk, s,
    text, time,
};
use super::lists::Part;
use super::write::CONFLICT;
use super::{CONFLICTS, DynamoLedger, lock};
use crate::failure::{code, failed};

/// Entries of the index of held jobs that are read beyond what is wanted: some may be of jobs that went on.
const LATE: usize = 5;
/// How long a bucket that is full again is kept.
const BUCKET_KEPT_SECONDS: i64 = 24 * 3600;

impl DynamoLedger {
    /// See [`switchyard_core::ports::Ledger::permits`]. What is held is asked of the table itself, in one consistent
    /// query: a permit's item is written and removed in the very write that gives it to a record or takes it.
    pub(super) async fn permits_of(&self, capability: &str) -> Result<Permits, PortError> {
        let part = Part { index: None, ..Part::of("", PK, permits_pk(capability)) };
        let items = self.all(&part, "list the permits of", |_| false).await?;
        let held = items.iter().filter_map(|item| text(item, SK)?.parse().ok()).collect();
        Ok(Permits { held, without: self.unnumbered(capability).await? })
    }

    /// See [`switchyard_core::ports::Ledger::held`].
    pub(super) async fn held_of(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        let mut ranks: Vec<u8> = tiers.iter().map(|tier| tier.rank()).collect();
        ranks.sort_unstable();
        let mut held = Vec::new();
        for rank in ranks {
            if held.len() >= limit {
                break;
            }
            let range = ("BETWEEN :from AND :to", vec![("from", s(format!("{rank}#"))), ("to", s(format!("{rank}$")))]);
            let wanted = limit - held.len();
            let part = Part {
                range: Some((HELD_AT, range.0, range.1)),
                limit: Some(i32::try_from(wanted + LATE).unwrap_or(i32::MAX).min(100)),
                ..Part::of("held", HELD_KEY, held_pk(capability))
            };
            // The index may show what is held no longer: it is read on until there are as many as wanted.
            let mut from = None;
            while held.len() < limit {
                let (found, last) = self.page(&part, from, "list the held jobs of").await?;
                let ids: Vec<JobId> = found.iter().filter_map(job_of_pk).collect();
                held.extend(self.still_held(&ids).await?);
                from = last;
                if from.is_none() {
                    break;
                }
            }
            held.truncate(limit);
        }
        Ok(held)
    }

    /// The records of these jobs in their order, without those that the index showed too late.
    async fn still_held(&self, ids: &[JobId]) -> Result<Vec<Job>, PortError> {
        let keys = ids.iter().map(|id| main_key(*id)).collect();
        let items = self.get_all(keys, Some(&[PK, RECORD]), "read for a list").await?;
        let mut jobs = std::collections::HashMap::new();
        for item in &items {
            match item::job(item, "list") {
                Ok(job) => {
                    self.0.sightings.note(&job);
                    jobs.insert(job.id, job);
                }
                // One that cannot be read must not stand in the way of the others.
                Err(error) => {
                    let error = switchyard_core::ports::describe(&error);
                    tracing::error!(%error, "a held job's record cannot be read; it stays held");
                }
            }
        }
        Ok(ids.iter().filter_map(|id| jobs.remove(id)).filter(|job| job.phase() == Phase::Held).collect())
    }

    /// Notes that jobs of the capability may be held, once a process: before the first one is, so that no crash hides
    /// one from [`DynamoLedger::capabilities_held`].
    pub(super) async fn may_hold(&self, capability: &str) -> Result<(), PortError> {
        if lock(&self.0.held).contains(capability) {
            return Ok(());
        }
        let item = key(super::live::YARD, format!("{}{capability}", super::live::HELD));
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item)).send().await;
        put.map_err(|error| failed("note held jobs of", self.subject(capability), &error))?;
        lock(&self.0.held).insert(capability.to_owned());
        Ok(())
    }

    /// See [`switchyard_core::ports::Ledger::holding`]: of the capabilities that may hold jobs, those that do.
    pub(super) async fn capabilities_held(&self) -> Result<Vec<String>, PortError> {
        let operation = "list capabilities with held jobs";
        let names = self.yard_rows(super::live::HELD, operation).await?;
        let names: Vec<String> = names.iter().filter_map(|item| super::live::name(item, super::live::HELD)).collect();
        let parts: Vec<Part<'_>> =
            names.iter().map(|name| Part { limit: Some(1), ..Part::of("held", HELD_KEY, held_pk(name)) }).collect();
        let asked = parts.iter().map(|part| self.page(part, None, operation));
        let mut holding = Vec::new();
        for (name, found) in names.iter().zip(join_all(asked).await) {
            if !found?.0.is_empty() {
                holding.push(name.clone());
            }
        }
        Ok(holding)
    }

    /// See [`switchyard_core::ports::Ledger::draw`].
    pub(super) async fn draw_from(
        &self,
        caller: &str,
        jobs: u32,
        rate: Rate,
        now: Timestamp,
    ) -> Result<Drawn, PortError> {
        // A caller's name may be longer than a key; and no two have one hash.
        let hash: String = Sha256::digest(caller.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let bucket_key = key(format!("Q#{hash}"), "B");
        let operation = "draw from the quota of";
        let nonce = self.0.ambient.nonce().to_string();
        for tried in 1..=CONFLICTS {
            let found = self.get(bucket_key.clone(), operation).await?;
            // Ours: this draw took effect and its answer was lost.
            if found.as_ref().and_then(|item| text(item, "nonce")) == Some(&*nonce) {
                return Ok(Ok(()));
            }
            let full_at = found.as_ref().and_then(|item| time(item, "full"));
            let drawn = match quota::draw(full_at.map(Bucket::full_at), rate, now, jobs) {
                Ok(drawn) => drawn,
                Err(later) => return Ok(Err(later)),
            };
            let mut item = bucket_key.clone();
            let full = drawn.is_full_at();
            item.insert("full".to_owned(), n(full.as_millisecond()));
            item.insert("nonce".to_owned(), s(&*nonce));
            item.insert(GONE.to_owned(), n(full.as_second().saturating_add(BUCKET_KEPT_SECONDS)));
            let mut only = Expression::default();
            let condition = match full_at {
                Some(full_at) => {
                    format!("{} = {}", only.name("full"), only.value("full", n(full_at.as_millisecond())))
                }
                None => format!("attribute_not_exists({})", only.name(PK)),
            };
            let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
            let put = put.condition_expression(condition).set_expression_attribute_names(Some(only.names));
            let values = Some(only.values).filter(|values| !values.is_empty());
            let put = put.set_expression_attribute_values(values);
            let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            match put.send().await {
                Ok(_) => return Ok(Ok(())),
                Err(error) => match error.as_service_error() {
                    Some(PutItemError::ConditionalCheckFailedException(_)) => {}
                    _ if code(&error) == Some(CONFLICT) => {}
                    _ => return Err(failed(operation, self.subject(caller), &error)),
                },
            }
            self.wait(tried).await;
        }
        Err(PortError::retryable(operation, self.subject(caller), "others draw from it, again and again"))
    }
}
