//! Records: every request, what was done to it, and what it would have cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::call::Service;

/// What was done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The service answered, or the script that plays it.
    Forwarded,
    /// A rule answered: what AWS enforces and the emulator does not.
    Ruled,
    /// The script did this.
    Scripted(&'static str),
    /// The weather did this.
    Weathered(&'static str),
    /// The service could not be reached, or its answer could not be read.
    Unreachable,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place among all requests of this proxy, from 1.
    pub ordinal: u64,
    /// The access key id that signed it.
    pub client: String,
    /// The service it was for.
    pub service: Service,
    /// The operation, as the service names it.
    pub operation: String,
    /// When it came, since the proxy started.
    pub at: Duration,
    /// From its coming to its answer.
    pub took: Duration,
    /// The size of its body.
    pub bytes_in: u64,
    /// The size of the answer's body.
    pub bytes_out: u64,
    /// The status of the answer; none where none was given.
    pub status: Option<u16>,
    /// The error code of AWS in the answer.
    pub error: Option<String>,
    /// What was done to it.
    pub done: Done,
    /// Whether the service heard of it.
    pub forwarded: bool,
    /// What AWS charges for it, in billionths of a dollar.
    pub nanodollars: u64,
    /// Its parameters, where the proxy keeps them: JSON, or the fields of a form.
    pub request: Option<Value>,
}

/// What requests of one kind add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// How many.
    pub requests: u64,
    /// Of them, how many the script or the weather did something to.
    pub faulted: u64,
    /// Of them, how many were answered with an error.
    pub errors: u64,
    /// Bytes of their bodies.
    pub bytes_in: u64,
    /// Bytes of their answers' bodies.
    pub bytes_out: u64,
    /// What AWS charges, in billionths of a dollar.
    pub nanodollars: u64,
}

impl Row {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.faulted += other.faulted;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.nanodollars += other.nanodollars;
    }
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Self {
        Self {
            requests: 1,
            faulted: matches!(record.done, Done::Scripted(_) | Done::Weathered(_)).into(),
            errors: record.error.is_some().into(),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            nanodollars: record.nanodollars,
        }
    }
}

/// Client, service, operation.
type Kind = (String, Service, String);

/// Requests added up by client, service and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Kind, Row>);

impl Tally {
    /// Every kind with its sum, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Service, &str, Row)> {
        self.0.iter().map(|((client, service, operation), row)| (client.as_str(), service, operation.as_str(), *row))
    }

    /// Only what this client sent.
    pub fn of_client(&self, client: &str) -> Self {
        Self(self.0.iter().filter(|((of, _, _), _)| of == client).map(|(kind, row)| (kind.clone(), *row)).collect())
    }

    /// The sum for one operation of a service, over all clients.
    pub fn of(&self, service: &Service, operation: &str) -> Row {
        self.sum(|(_, of, name)| of == service && name == operation)
    }

    /// The sum for one service, over all clients.
    pub fn of_service(&self, service: &Service) -> Row {
        self.sum(|(_, of, _)| of == service)
    }

    /// The sum of all.
    pub fn total(&self) -> Row {
        self.sum(|_| true)
    }

    fn sum(&self, of: impl Fn(&Kind) -> bool) -> Row {
        let mut sum = Row::default();
        self.0.iter().filter(|(kind, _)| of(kind)).for_each(|(_, row)| sum.add(*row));
        sum
    }

    fn add(&mut self, record: &Record) {
        let kind = (record.client.clone(), record.service.clone(), record.operation.clone());
        self.0.entry(kind).or_default().add(Row::from(record));
    }
}

impl<'a> FromIterator<&'a Record> for Tally {
    fn from_iter<T: IntoIterator<Item = &'a Record>>(records: T) -> Self {
        let mut tally = Self::default();
        records.into_iter().for_each(|record| tally.add(record));
        tally
    }
}

/// A moment among the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// The records of a proxy. Clones are the same records.
#[derive(Clone, Debug)]
pub struct Records(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    room: usize,
    records: Vec<Record>,
    beyond: u64,
    tally: Tally,
}

impl Records {
    /// None yet, with room for so many.
    pub(crate) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept { room, records: Vec::new(), beyond: 0, tally: Tally::default() })))
    }

    pub(crate) fn push(&self, record: Record) {
        let mut kept = self.kept();
        kept.tally.add(&record);
        if kept.records.len() < kept.room {
            kept.records.push(record);
        } else {
            kept.beyond += 1;
        }
    }

    /// This moment: what comes from now on is [`Records::since`] it.
    pub fn mark(&self) -> Mark {
        Mark(self.kept().records.len())
    }

    /// Every record that was kept, in the order in which the requests were done with.
    pub fn all(&self) -> Vec<Record> {
        self.since(Mark(0))
    }

    /// Every record that was kept since this moment.
    pub fn since(&self, mark: Mark) -> Vec<Record> {
        self.kept().records.iter().skip(mark.0).cloned().collect()
    }

    /// The parameters of the requests for this operation, where they are kept.
    pub fn requests(&self, operation: &str) -> Vec<Value> {
        let kept = self.kept();
        let of = kept.records.iter().filter(|record| record.operation == operation);
        of.filter_map(|record| record.request.clone()).collect()
    }

    /// All requests added up, those too for which there was no room.
    pub fn tally(&self) -> Tally {
        self.kept().tally.clone()
    }

    /// What was kept since this moment, added up.
    pub fn tally_since(&self, mark: Mark) -> Tally {
        self.kept().records.iter().skip(mark.0).collect()
    }

    /// How many requests are in no record but in the tally, for want of room.
    pub fn beyond(&self) -> u64 {
        self.kept().beyond
    }

    /// Forgets everything; a mark made before means nothing any more.
    pub fn clear(&self) {
        let mut kept = self.kept();
        kept.records.clear();
        kept.beyond = 0;
        kept.tally = Tally::default();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record of a plain success.
    pub(crate) fn record(client: &str, service: Service, operation: &str, nanodollars: u64) -> Record {
        Record {
            ordinal: 1,
            client: client.to_owned(),
            service,
            operation: operation.to_owned(),
            at: Duration::ZERO,
            took: Duration::ZERO,
            bytes_in: 100,
            bytes_out: 10,
            status: Some(200),
            error: None,
            done: Done::Forwarded,
            forwarded: true,
            nanodollars,
            request: None,
        }
    }

    #[test]
    fn records_add_up_by_client_service_and_operation() {
        let records = Records::new(10);
        records.push(record("a", Service::Sqs, "SendMessage", 400));
        records.push(record("b", Service::Sqs, "SendMessage", 400));
        records.push(Record { error: Some("X".to_owned()), ..record("a", Service::S3, "GetObject", 0) });
        let tally = records.tally();
        assert_eq!(tally.of(&Service::Sqs, "SendMessage").nanodollars, 800);
        assert_eq!(tally.of_client("a").total().requests, 2);
        assert_eq!(tally.of_service(&Service::S3).errors, 1);
        assert_eq!(tally.total().bytes_in, 300);
    }

    #[test]
    fn what_came_after_a_mark_is_told_apart() {
        let records = Records::new(10);
        records.push(record("a", Service::Sqs, "SendMessage", 400));
        let mark = records.mark();
        records.push(record("b", Service::Sqs, "SendMessage", 400));
        assert_eq!(records.since(mark).len(), 1);
        assert_eq!(records.tally_since(mark).total().requests, 1);
    }

    #[test]
    fn beyond_the_room_requests_are_only_counted() {
        let records = Records::new(1);
        (0..3).for_each(|_| records.push(record("a", Service::Sqs, "SendMessage", 400)));
        assert_eq!((records.all().len(), records.beyond(), records.tally().total().requests), (1, 2, 3));
    }
}
