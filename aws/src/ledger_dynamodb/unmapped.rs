//! Events that no mapping answers. A text may be longer than an item may be, so that it lies in pieces beside its event.
//! One item counts them all; it changes in the very write that keeps or removes one, so that the room is kept, as
//! far as the index shows what may go.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use jiff::Timestamp;
use switchyard_core::ports::{PortError, Unmapped, UnmappedCount, UnmappedId, UnmappedSummary};

use super::item::{CREATED, Expression, Item, MAIN, PK, RECENT_KEY, SK, created_key, key, n, number, s, text, time};
use super::lists::Part;
use super::live::YARD;
use super::write::{CONFLICT, Cancelled, cancelled};
use super::{CONFLICTS, DynamoLedger};
use crate::failure::{code, failed};

/// A piece of a text: an item takes 400 KB.
const PIECE_BYTES: usize = 350_000;
/// Events that one write removes at most to make room. What is over it goes with writes of their own before.
const EVICTED: usize = 20;
/// The row that counts.
const COUNT: &str = "unmapped";
/// The partition of the index `recent` that they are listed in.
const LISTED: &str = "U";

const REVISION: &str = "rev";
const NONCE: &str = "nonce";

fn pk(id: UnmappedId) -> String {
    format!("U#{id}")
}

fn id_of(item: &Item) -> Option<UnmappedId> {
    text(item, PK)?.strip_prefix("U#")?.parse().ok()
}

fn unsigned(item: &Item, name: &str) -> u64 {
    number(item, name).unwrap_or(0).unsigned_abs()
}

fn summary(item: &Item) -> Option<UnmappedSummary> {
    let owned = |name| text(item, name).map(str::to_owned);
    Some(UnmappedSummary {
        id: id_of(item)?,
        source: owned("src")?,
        detail_type: owned("dt")?,
        why: owned("why")?,
        bytes: unsigned(item, "len"),
        first: time(item, "first")?,
        last: time(item, "last")?,
        seen: unsigned(item, "seen"),
    })
}

fn main_item(event: &Unmapped, nonce: &str) -> Item {
    let mut item = key(pk(event.id), MAIN);
    let mut put = |name: &str, value| drop(item.insert(name.to_owned(), value));
    put("src", s(&*event.source));
    put("dt", s(&*event.detail_type));
    put("why", s(&*event.why));
    put("len", n(event.event.len()));
    put("first", n(event.first.as_millisecond()));
    put("last", n(event.last.as_millisecond()));
    put("seen", n(event.seen));
    put(REVISION, n(1));
    put(NONCE, s(nonce));
    put(RECENT_KEY, s(LISTED));
    put(CREATED, s(created_key(event.last, event.id)));
    item
}

/// A text in pieces that fit into items.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut left = text;
    while left.len() > PIECE_BYTES {
        let (piece, rest) = left.split_at(left.floor_char_boundary(PIECE_BYTES));
        pieces.push(piece);
        left = rest;
    }
    pieces.push(left);
    pieces
}

fn piece_key(id: UnmappedId, n: usize) -> Item {
    key(pk(id), format!("T#{n:03}"))
}

/// How many pieces a text of this length has at most: a piece may end a few bytes early, between two characters.
fn most_pieces(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX) / (PIECE_BYTES - 4) + 1
}

impl DynamoLedger {
    fn event(&self, id: UnmappedId) -> String {
        self.subject(format_args!("unmapped event {id}"))
    }

    /// What is kept, and the revision of the row that says so.
    async fn counted(&self) -> Result<(UnmappedCount, i64), PortError> {
        let item = self.get(key(YARD, COUNT), "count unmapped events").await?.unwrap_or_default();
        let count = UnmappedCount {
            events: unsigned(&item, "events"),
            bytes: unsigned(&item, "bytes"),
            dropped: unsigned(&item, "dropped"),
        };
        Ok((count, number(&item, REVISION).unwrap_or(0)))
    }

    /// See [`switchyard_core::ports::Ledger::unmapped_count`].
    pub(super) async fn count_unmapped(&self) -> Result<UnmappedCount, PortError> {
        Ok(self.counted().await?.0)
    }

    /// See [`switchyard_core::ports::Ledger::keep_unmapped`].
    pub(super) async fn keep_unmapped_event(&self, event: Unmapped) -> Result<(), PortError> {
        let nonce = self.0.ambient.nonce().to_string();
        for tried in 1..=CONFLICTS * 2 {
            let kept = match self.get(key(pk(event.id), MAIN), "keep").await? {
                // Ours: it took effect and its answer was lost.
                Some(item) if text(&item, NONCE) == Some(&*nonce) => return Ok(()),
                Some(item) => self.keep_again(&event, &item, &nonce).await?,
                None => self.keep_new(&event, &nonce).await?,
            };
            if kept {
                return Ok(());
            }
            self.wait(tried).await;
        }
        Err(PortError::retryable("keep", self.event(event.id), "others keep events, again and again"))
    }

    /// An event that is there comes again. Answers whether it was written.
    async fn keep_again(&self, event: &Unmapped, item: &Item, nonce: &str) -> Result<bool, PortError> {
        let last = time(item, "last").unwrap_or(event.last).max(event.last);
        let revision = number(item, REVISION).unwrap_or(0);
        let mut change = Expression::default();
        change.set("last", n(last.as_millisecond()));
        change.set("seen", n(unsigned(item, "seen") + event.seen));
        change.set("why", s(&*event.why));
        change.set(NONCE, s(nonce));
        change.set(CREATED, s(created_key(last, event.id)));
        change.set(REVISION, n(revision + 1));
        let condition = format!("{} = {}", change.name(REVISION), change.value("before", n(revision)));
        let update = self.0.client.update_item().table_name(&self.0.table).set_key(Some(key(pk(event.id), MAIN)));
        let update = update.update_expression(change.update()).condition_expression(condition);
        let update = update.set_expression_attribute_names(Some(change.names));
        let update = update.set_expression_attribute_values(Some(change.values));
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
                _ if code(&error) == Some(CONFLICT) => Ok(false),
                _ => Err(failed("keep", self.event(event.id), &error)),
            },
        }
    }

    /// A new event, and in the same write whatever must go for it. Answers whether it was written.
    async fn keep_new(&self, event: &Unmapped, nonce: &str) -> Result<bool, PortError> {
        let subject = || self.event(event.id);
        let unfit = |error| PortError::permanent("keep", subject(), error);
        let (mut count, revision) = self.counted().await?;
        count.events += 1;
        count.bytes += event.event.len() as u64;
        let mut gone = Vec::new();
        if !self.0.unmapped_room.holds(&count) {
            let oldest = self.listed(None, EVICTED, false).await?;
            for old in oldest {
                if self.0.unmapped_room.holds(&count) {
                    break;
                }
                count.events = count.events.saturating_sub(1);
                count.bytes = count.bytes.saturating_sub(old.bytes);
                count.dropped += 1;
                gone.push(old);
            }
        }
        // Too many must go for one write: some of them go first, without the new one.
        let makes_room_only = !self.0.unmapped_room.holds(&count) && gone.len() == EVICTED;
        let mut actions = Vec::new();
        if makes_room_only {
            count.events = count.events.saturating_sub(1);
            count.bytes = count.bytes.saturating_sub(event.event.len() as u64);
        } else {
            let mut only = Expression::default();
            let put = Put::builder().table_name(&self.0.table).set_item(Some(main_item(event, nonce)));
            let put = put.condition_expression(format!("attribute_not_exists({})", only.name(PK)));
            let put = put.set_expression_attribute_names(Some(only.names)).build().map_err(unfit)?;
            actions.push(TransactWriteItem::builder().put(put).build());
            for (number, piece) in pieces(&event.event).into_iter().enumerate() {
                let mut item = piece_key(event.id, number);
                item.insert("text".to_owned(), s(piece));
                let put = Put::builder().table_name(&self.0.table).set_item(Some(item)).build().map_err(unfit)?;
                actions.push(TransactWriteItem::builder().put(put).build());
            }
        }
        for old in &gone {
            actions.extend(self.removal(old)?);
        }
        actions.push(self.recount(&count, revision)?);
        let done = self.all_or_nothing(actions, "keep", subject()).await?;
        Ok(done && !makes_room_only)
    }

    /// The removal of an event as it was listed: not of one that came again meanwhile.
    fn removal(&self, old: &UnmappedSummary) -> Result<Vec<TransactWriteItem>, PortError> {
        let unfit = |error| PortError::permanent("drop", self.event(old.id), error);
        let mut only = Expression::default();
        let condition = format!("{} = {}", only.name("last"), only.value("last", n(old.last.as_millisecond())));
        let main = Delete::builder().table_name(&self.0.table).set_key(Some(key(pk(old.id), MAIN)));
        let main = main.condition_expression(condition).set_expression_attribute_names(Some(only.names));
        let main = main.set_expression_attribute_values(Some(only.values)).build().map_err(unfit)?;
        let mut actions = vec![TransactWriteItem::builder().delete(main).build()];
        for number in 0..most_pieces(old.bytes) {
            let piece = Delete::builder().table_name(&self.0.table).set_key(Some(piece_key(old.id, number)));
            actions.push(TransactWriteItem::builder().delete(piece.build().map_err(unfit)?).build());
        }
        Ok(actions)
    }

    /// The row that counts, as it shall be.
    fn recount(&self, count: &UnmappedCount, revision: i64) -> Result<TransactWriteItem, PortError> {
        let mut change = Expression::default();
        change.set("events", n(count.events));
        change.set("bytes", n(count.bytes));
        change.set("dropped", n(count.dropped));
        change.set(REVISION, n(revision + 1));
        let name = change.name(REVISION);
        let condition = if revision == 0 {
            format!("attribute_not_exists({name})")
        } else {
            format!("{name} = {}", change.value("before", n(revision)))
        };
        let update = Update::builder().table_name(&self.0.table).set_key(Some(key(YARD, COUNT)));
        let update = update.update_expression(change.update()).condition_expression(condition);
        let update = update.set_expression_attribute_names(Some(change.names));
        let update = update.set_expression_attribute_values(Some(change.values));
        let update = update.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::None);
        let update = update.build();
        let update = update.map_err(|error| PortError::permanent("count", self.subject("unmapped events"), error))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// Writes all of them or none; answers whether it did. None: somebody else was faster.
    async fn all_or_nothing(
        &self,
        actions: Vec<TransactWriteItem>,
        operation: &'static str,
        subject: String,
    ) -> Result<bool, PortError> {
        let sent = self.0.client.transact_write_items().set_transact_items(Some(actions)).send().await;
        let Err(error) = sent else { return Ok(true) };
        let Some(reasons) = cancelled(&error) else { return Err(failed(operation, subject, &error)) };
        match reasons.iter().find_map(Cancelled::permanent) {
            Some(reason) => Err(PortError::permanent(operation, subject, reason)),
            None => Ok(false),
        }
    }

    /// Events by when they were last seen, as they are now.
    async fn listed(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
        newest_first: bool,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        let operation = "list unmapped events";
        let to = before.map_or_else(|| "9~".to_owned(), |(last, id)| created_key(last, id));
        let part = Part {
            range: Some((CREATED, "< :to", vec![("to", s(to))])),
            newest_first,
            limit: Some(i32::try_from(limit).unwrap_or(i32::MAX).min(1000)),
            ..Part::of("recent", RECENT_KEY, LISTED.to_owned())
        };
        let found = self.all(&part, operation, |items| items.len() >= limit).await?;
        let ids: Vec<UnmappedId> = found.iter().filter_map(id_of).take(limit).collect();
        let items = self.get_all(ids.iter().map(|id| key(pk(*id), MAIN)).collect(), None, "read for a list").await?;
        let mut events: Vec<UnmappedSummary> = items.iter().filter_map(summary).collect();
        events.sort_by_key(|event| (event.last, event.id));
        if newest_first {
            events.reverse();
        }
        Ok(events)
    }

    /// See [`switchyard_core::ports::Ledger::unmapped`].
    pub(super) async fn list_unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        self.listed(before, limit, true).await
    }

    /// See [`switchyard_core::ports::Ledger::unmapped_event`].
    pub(super) async fn load_unmapped(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        let part = Part { index: None, ..Part::of("", PK, pk(id)) };
        let items = self.all(&part, "load", |_| false).await?;
        let of = |item: &&Item| text(item, SK) == Some(MAIN);
        let Some(summary) = items.iter().find(of).and_then(summary) else { return Ok(None) };
        // The sort key of pieces is their order.
        let event: String = items.iter().filter_map(|item| text(item, "text")).collect();
        let UnmappedSummary { id, source, detail_type, why, bytes: _, first, last, seen } = summary;
        Ok(Some(Unmapped { id, source, detail_type, why, event, first, last, seen }))
    }

    /// See [`switchyard_core::ports::Ledger::forget_unmapped`].
    pub(super) async fn forget_unmapped_events(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        for id in ids {
            self.forget_unmapped_one(*id).await?;
        }
        Ok(())
    }

    async fn forget_unmapped_one(&self, id: UnmappedId) -> Result<(), PortError> {
        for tried in 1..=CONFLICTS * 2 {
            let item = self.get(key(pk(id), MAIN), "forget").await?;
            let Some(old) = item.as_ref().and_then(summary) else { return Ok(()) };
            let (mut count, revision) = self.counted().await?;
            count.events = count.events.saturating_sub(1);
            count.bytes = count.bytes.saturating_sub(old.bytes);
            let mut actions = self.removal(&old)?;
            actions.push(self.recount(&count, revision)?);
            if self.all_or_nothing(actions, "forget", self.event(id)).await? {
                return Ok(());
            }
            self.wait(tried).await;
        }
        Err(PortError::retryable("forget", self.event(id), "others keep events, again and again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_is_the_same_put_together() {
        let text = "ä🚂x".repeat(300_000);
        let pieces = pieces(&text);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        assert!(pieces.len() <= most_pieces(text.len() as u64));
        assert_eq!(super::pieces(""), [""]);
    }
}
