//! What was lent to whom: an item for each record, in a partition for each job, and listed in the index `recent` by its day. One
//! partition of an index takes a thousand of them a second (DynamoDB's quota for one partition), which is more than any vendor
//! lends.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use switchyard_core::job::JobId;
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::ports::{LOANS_KEPT, PortError};
use switchyard_core::wire;

use super::DynamoLedger;
use super::item::{CREATED, GONE, Item, PK, RECENT_KEY, RECORD, SK, key, n, s, text};
use super::lists::Part;
use crate::failure::failed;

/// Behind every id.
const LAST: &str = "g";

/// The partition of a job's records.
fn pk(job: JobId) -> String {
    format!("A#{job}")
}

/// Where a day's are listed.
fn day_key(at: Timestamp) -> String {
    format!("A#{}", at.strftime("%Y-%m-%d"))
}

/// Days from `last` back to `first`, by a moment of each.
fn days(first: Timestamp, last: Timestamp) -> impl Iterator<Item = Timestamp> {
    let at = |day: Timestamp| day.to_zoned(TimeZone::UTC).date();
    let first = at(first);
    std::iter::successors(Some(last), |day| day.checked_sub(24.hours()).ok()).take_while(move |day| at(*day) >= first)
}

impl DynamoLedger {
    /// See [`switchyard_core::ports::Ledger::note_loan`].
    pub(super) async fn note_one_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        let id = note.id.to_string();
        let mut item = key(pk(note.job), &*id);
        item.insert(RECORD.to_owned(), s(wire::encode_loan_note(note)));
        item.insert(GONE.to_owned(), n((note.at + LOANS_KEPT).as_second()));
        item.insert(RECENT_KEY.to_owned(), s(day_key(note.at)));
        item.insert(CREATED.to_owned(), s(id));
        // Under its own id: the same again writes the same.
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
        put.send().await.map_err(|error| failed("note", self.subject(format_args!("loan {}", note.id)), &error))?;
        Ok(())
    }

    fn note_of(&self, item: &Item) -> Result<LoanNote, PortError> {
        let note = wire::decode_loan_note(text(item, RECORD).unwrap_or_default());
        note.map_err(|error| PortError::permanent("read", self.subject("a loan"), error))
    }

    /// See [`switchyard_core::ports::Ledger::loan`].
    pub(super) async fn load_loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        let item = self.get(key(pk(job), id.to_string()), "load loan").await?;
        item.map(|item| self.note_of(&item)).transpose()
    }

    /// See [`switchyard_core::ports::Ledger::loans`].
    pub(super) async fn list_loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        let now = self.0.ambient.now();
        let since = query.since.unwrap_or(now - LOANS_KEPT).max(now - LOANS_KEPT);
        let first = LoanId::ordered(since, [0; 32]).to_string();
        let before = query.before.map_or(LAST.to_owned(), |id| id.to_string());
        let range: Vec<(&str, AttributeValue)> = vec![("first", s(first)), ("last", s(before))];
        let mut found = Vec::new();
        match query.job {
            Some(job) => {
                let part = Part {
                    index: None,
                    range: Some((SK, "BETWEEN :first AND :last", range)),
                    newest_first: true,
                    ..Part::of("", PK, pk(job))
                };
                // One more than is wanted: the record that the last page ended with is within the range, too.
                found = self.all(&part, "list loans", |items| items.len() > query.limit).await?;
            }
            None => {
                for day in days(since, now) {
                    let wanted = query.limit.saturating_sub(found.len());
                    let part = Part {
                        range: Some((CREATED, "BETWEEN :first AND :last", range.clone())),
                        newest_first: true,
                        ..Part::of("recent", RECENT_KEY, day_key(day))
                    };
                    let listed = self.all(&part, "list loans", |items| items.len() > wanted).await?;
                    let keys = listed.iter().filter_map(|item| Some(key(text(item, PK)?, text(item, SK)?)));
                    found.extend(self.get_all(keys.take(wanted + 1).collect(), None, "read for a list").await?);
                    if found.len() > query.limit {
                        break;
                    }
                }
            }
        }
        let notes = found.iter().map(|item| self.note_of(item));
        let mut notes = notes.collect::<Result<Vec<_>, PortError>>()?;
        notes.retain(|note| query.wants(note));
        notes.sort_by_key(|note| std::cmp::Reverse(note.id));
        notes.truncate(query.limit);
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_question_are_each_of_them_once_and_the_newest_first() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let of = |first: &str, last: &str| days(at(first), at(last)).map(day_key).collect::<Vec<_>>();
        assert_eq!(of("2026-11-27T23:00:00Z", "2026-11-27T01:00:00Z"), ["A#2026-11-27"]);
        assert_eq!(
            of("2026-02-27T23:59:59Z", "2026-03-01T00:00:00Z"),
            ["A#2026-03-01", "A#2026-02-28", "A#2026-02-27"]
        );
        assert!(of("2026-11-28T00:00:00Z", "2026-11-27T23:00:00Z").is_empty());
    }
}
