//! What was lent to whom: an item for each record, in a partition for each day. One partition takes a thousand of them a second
//! (DynamoDB's quota for one partition), which is more than any vendor lends.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::ports::{LOANS_KEPT, PortError};
use switchyard_core::wire;

use super::DynamoLedger;
use super::item::{GONE, PK, RECORD, SK, key, n, s, text};
use super::lists::Part;
use crate::failure::failed;

/// The partition of a day.
fn pk(at: Timestamp) -> String {
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
        let mut item = key(pk(note.at), note.id.to_string());
        item.insert(RECORD.to_owned(), s(wire::encode_loan_note(note)));
        item.insert(GONE.to_owned(), n((note.at + LOANS_KEPT).as_second()));
        // Under its own id: the same again writes the same.
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
        put.send().await.map_err(|error| failed("note", self.subject(format_args!("loan {}", note.id)), &error))?;
        Ok(())
    }

    /// See [`switchyard_core::ports::Ledger::loans`].
    pub(super) async fn list_loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        let now = self.0.ambient.now();
        let mut since = query.since.unwrap_or(now - LOANS_KEPT).max(now - LOANS_KEPT);
        if let Some(job) = query.job {
            // Nothing was lent to it before it was there; of one that was forgotten every day is looked through.
            since = self.load_now(job).await?.map_or(since, |job| job.created.max(since));
        }
        let mut notes = Vec::new();
        for day in days(since, now) {
            let range: Vec<(&str, AttributeValue)> = vec![
                ("first", s(LoanId::ordered(since, [0; 32]).to_string())),
                ("last", s(query.before.map_or("g".to_owned(), |id| id.to_string()))),
            ];
            let part = Part {
                index: None,
                key: (PK, pk(day)),
                range: Some((SK, "BETWEEN :first AND :last", range)),
                filter: None,
                newest_first: true,
                limit: None,
            };
            let wanted = query.limit - notes.len();
            let found = self.all(&part, "list loans", |items| items.len() > wanted && query.job.is_none()).await?;
            for item in found {
                let record = text(&item, RECORD).unwrap_or_default();
                let note = wire::decode_loan_note(record)
                    .map_err(|error| PortError::permanent("list", self.subject("loans"), error))?;
                if query.wants(&note) && notes.len() < query.limit {
                    notes.push(note);
                }
            }
            if notes.len() == query.limit {
                break;
            }
        }
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_question_are_each_of_them_once_and_the_newest_first() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let of = |first: &str, last: &str| days(at(first), at(last)).map(pk).collect::<Vec<_>>();
        assert_eq!(of("2026-11-27T23:00:00Z", "2026-11-27T01:00:00Z"), ["A#2026-11-27"]);
        assert_eq!(
            of("2026-02-27T23:59:59Z", "2026-03-01T00:00:00Z"),
            ["A#2026-03-01", "A#2026-02-28", "A#2026-02-27"]
        );
        assert!(of("2026-11-28T00:00:00Z", "2026-11-27T23:00:00Z").is_empty());
    }
}
