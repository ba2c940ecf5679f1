//! What runs emitted, and the register of what they saw.
//!
//! A run's records lie in a partition of their own, `O#job`, and not beside the job's record: a partition takes 1,000 writes
//! a second (DynamoDB's quota), and a run that emits must not keep its own settlement waiting. A stream brings one job's
//! records no faster than that: they have one partition key, and a shard takes 1,000 a second.
//!
//! Which records are new is read first, a hundred keys a call, and those are put 25 a call: five calls for a hundred records.
//! A put on condition would be one call each, and a transaction costs twice; a batch knows no conditions. What is lost is a
//! race: two takers of one record at the same moment, with different bodies, would both put it, and the last stays. A stream
//! gives a job's records to one taker at a time, and a desk those of a run to its one holder, so that only a taker that was
//! given up for dead could race; what it would put has the same body.
//!
//! The register's entry is written before its record: a record that is known has its entry, and one that comes again because
//! either write failed is written again, which changes nothing that was done. Entries lie in eight partitions, by a hash of
//! their ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hasher;

use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, ReturnValue, WriteRequest};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{Kept, PortError, RecordQuery, describe};
use switchyard_core::records::{REGISTER_KEPT, Record, Register, RegisterPage, RegisterQuery, Registered};

use super::item::{CAPABILITY, Expression, GONE, Item, PK, SHARDS, SK, key, n, number, s, text, time};
use super::lists::Part;
use super::write::REFUSED;
use super::{CONFLICTS, DynamoLedger};
use crate::failure::{code, failed};

/// Puts of one call, at most: BatchWriteItem's limit.
const PUTS: usize = 25;
/// Calls that are under way at once: their connections are made once and used again.
const AT_ONCE: usize = 8;
/// Pages that one list reads of each partition, at most: 4 MB each. What is not found by then is on the next page.
const PAGES: usize = 4;

const KIND: &str = "kd";
const AT: &str = "at";
const ID: &str = "id";
const BODY: &str = "body";
const FIRST: &str = "first";
const LAST: &str = "last";
/// What decides which of two sightings is the newer, as a text that sorts so.
const ORDER: &str = "ord";
/// The run that saw it last: `job/epoch/n`.
const BY: &str = "run";

/// What names a record.
type Name = (JobId, Epoch, u64);

fn records_pk(job: JobId) -> String {
    format!("O#{job}")
}

/// Padded, so that texts sort as numbers.
fn record_sk(epoch: Epoch, n: u64) -> String {
    format!("{:010}#{n:020}", epoch.0)
}

fn read_sk(sk: &str) -> Option<(Epoch, u64)> {
    let (epoch, n) = sk.split_once('#')?;
    Some((Epoch(epoch.parse().ok()?), n.parse().ok()?))
}

fn register_pk(register: Register, shard: u8) -> String {
    format!("G#{}#{shard}", register.kind())
}

/// Which partition an entry lies in: by FNV-1a (Fowler, Noll, Vo), which is the same in every program there will be.
fn shard(id: &str) -> u8 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(id.as_bytes());
    u8::try_from(hash.finish() % u64::from(SHARDS)).unwrap_or(0)
}

fn order(entry: &Registered) -> String {
    let (at, job, epoch, n) = entry.order();
    format!("{:015}#{job}#{}", at.max(0), record_sk(epoch, n))
}

fn record_item(record: &Record, gone: Option<Timestamp>) -> Item {
    let mut item = key(records_pk(record.job), record_sk(record.epoch, record.n));
    let mut put = |name: &str, value| drop(item.insert(name.to_owned(), value));
    put(KIND, s(record.kind.as_str()));
    put(AT, n(record.at.as_millisecond()));
    put(CAPABILITY, s(&*record.capability));
    put(BODY, s(&*record.body));
    if let Some(id) = &record.id {
        put(ID, s(&**id));
    }
    if let Some(gone) = gone {
        put(GONE, n(gone.as_second()));
    }
    item
}

fn record(item: &Item) -> Option<Record> {
    let (epoch, n) = read_sk(text(item, SK)?)?;
    Some(Record {
        job: text(item, PK)?.strip_prefix("O#")?.parse().ok()?,
        epoch,
        n,
        at: time(item, AT)?,
        capability: text(item, CAPABILITY)?.to_owned(),
        kind: text(item, KIND)?.parse().ok()?,
        id: text(item, ID).map(str::to_owned),
        body: text(item, BODY)?.to_owned(),
    })
}

fn entry(item: &Item) -> Option<Registered> {
    let mut run = text(item, BY)?.split('/');
    Some(Registered {
        id: text(item, SK)?.to_owned(),
        first_seen: time(item, FIRST)?,
        last_seen: time(item, LAST)?,
        job: run.next()?.parse().ok()?,
        epoch: Epoch(run.next()?.parse().ok()?),
        n: run.next()?.parse().ok()?,
        capability: text(item, CAPABILITY)?.to_owned(),
        body: text(item, BODY)?.to_owned(),
    })
}

/// Of several sightings of one thing, what they say together; and which records they are of.
fn together(records: &[&Record]) -> Vec<(Register, Registered, Vec<Name>)> {
    let mut entries: BTreeMap<(Register, String), (Registered, Vec<_>)> = BTreeMap::new();
    for record in records {
        let Some((register, seen)) = Registered::of(record) else { continue };
        let at = (register, seen.id.clone());
        match entries.remove(&at) {
            Some((known, mut of)) => {
                of.push(record.name());
                entries.insert(at, (known.with(seen), of));
            }
            None => drop(entries.insert(at, (seen, vec![record.name()]))),
        }
    }
    entries.into_iter().map(|((register, _), (entry, of))| (register, entry, of)).collect()
}

/// One of the answers to many records: an error of a call is told of each record in it.
fn again(why: &str, subject: &str) -> PortError {
    PortError::retryable("keep", subject, why)
}

impl DynamoLedger {
    /// See [`switchyard_core::ports::Ledger::keep_records`].
    pub(super) async fn keep_all_records(&self, records: &[Record]) -> Vec<Result<Kept, PortError>> {
        let subject = self.subject(format_args!("{} records", records.len()));
        let known = match self.known(records).await {
            Ok(known) => known,
            Err(error) => {
                let why = describe(&error);
                return records.iter().map(|_| Err(again(&why, &subject))).collect();
            }
        };
        let new: Vec<&Record> = records.iter().filter(|record| !known.contains_key(&record.name())).collect();
        let mut failed: HashMap<Name, String> = HashMap::new();
        let seen = together(&new);
        let writes: Vec<_> = seen
            .iter()
            .map(|(register, entry, of)| async move { (self.keep_entry(*register, entry).await, of) })
            .collect();
        let mut written = stream::iter(writes).buffer_unordered(AT_ONCE);
        while let Some((kept, of)) = written.next().await {
            if let Err(error) = kept {
                let why = describe(&error);
                failed.extend(of.iter().map(|name| (*name, why.clone())));
            }
        }
        let fit: Vec<&Record> = new.into_iter().filter(|record| !failed.contains_key(&record.name())).collect();
        let puts: Vec<_> = fit.chunks(PUTS).map(|some| async move { (self.put_some(some).await, some) }).collect();
        let mut written = stream::iter(puts).buffer_unordered(AT_ONCE);
        while let Some((put, some)) = written.next().await {
            if let Err(error) = put {
                let why = describe(&error);
                failed.extend(some.iter().map(|record| (record.name(), why.clone())));
            }
        }
        let became = |record: &Record| match (failed.get(&record.name()), known.get(&record.name())) {
            (Some(why), _) => Err(again(why, &subject)),
            (None, Some(body)) if *body == record.body => Ok(Kept::Known),
            (None, Some(_)) => Ok(Kept::Conflict),
            (None, None) => Ok(Kept::New),
        };
        records.iter().map(became).collect()
    }

    /// Which of these records are there, with their bodies.
    async fn known(&self, records: &[Record]) -> Result<HashMap<Name, String>, PortError> {
        let keys: Vec<Item> =
            records.iter().map(|record| key(records_pk(record.job), record_sk(record.epoch, record.n))).collect();
        let show = [PK, SK, KIND, AT, CAPABILITY, ID, BODY, GONE];
        let asked: Vec<_> =
            keys.chunks(100).map(|some| self.get_all(some.to_vec(), Some(&show), "look for records")).collect();
        let mut known = HashMap::new();
        let mut found = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(items) = found.next().await {
            let there = items?.into_iter().filter(|item| !self.is_over(item));
            known.extend(there.filter_map(|item| record(&item)).map(|record| (record.name(), record.body)));
        }
        Ok(known)
    }

    /// Puts records, 25 at most; all of them, or it is an error.
    async fn put_some(&self, records: &[&Record]) -> Result<(), PortError> {
        let subject = self.subject(format_args!("{} records", records.len()));
        let gone = |record: &Record| self.0.forgetting.retention.map(|retention| record.at + retention);
        let put = |record: &&Record| {
            let put = PutRequest::builder().set_item(Some(record_item(record, gone(record)))).build();
            put.map(|put| WriteRequest::builder().put_request(put).build())
        };
        let requests = records.iter().map(put).collect::<Result<Vec<_>, _>>();
        self.write_all(requests.map_err(|error| PortError::permanent("keep", &subject, error))?, "keep", &subject).await
    }

    /// Writes all of these, 25 at most, and what a call left unprocessed once more.
    async fn write_all(
        &self,
        requests: Vec<WriteRequest>,
        operation: &'static str,
        subject: &str,
    ) -> Result<(), PortError> {
        let mut left = requests;
        for tried in 1..=CONFLICTS {
            let sent = self.0.client.batch_write_item().request_items(&self.0.table, left).send().await;
            let sent = sent.map_err(|error| failed(operation, subject, &error))?;
            left = sent.unprocessed_items.into_iter().flatten().flat_map(|(_, requests)| requests).collect();
            if left.is_empty() {
                return Ok(());
            }
            // DynamoDB says so when it is given more than it may take just now.
            self.wait(tried).await;
        }
        Err(PortError::retryable(operation, subject, "DynamoDB left some of them unprocessed"))
    }

    /// Adds sightings to the register: the newest stays, the first is remembered.
    async fn keep_entry(&self, register: Register, entry: &Registered) -> Result<(), PortError> {
        let subject = || self.subject(format_args!("an entry of the register of {}s", register.kind()));
        let Registered { id, first_seen, last_seen, job, epoch, n: place, capability, body } = entry;
        let at = key(register_pk(register, shard(id)), &**id);
        let gone = *last_seen + REGISTER_KEPT;
        let mut change = Expression::default();
        for (name, value) in [
            (LAST, n(last_seen.as_millisecond())),
            (ORDER, s(order(entry))),
            (BY, s(format!("{job}/{epoch}/{place}"))),
            (CAPABILITY, s(&**capability)),
            (BODY, s(&**body)),
            (GONE, n(gone.as_second())),
        ] {
            change.set(name, value);
        }
        let first = change.name(FIRST);
        let update = format!(
            "{}, {first} = if_not_exists({first}, {})",
            change.update(),
            change.value("f", n(first_seen.as_millisecond()))
        );
        let newer = change.name(ORDER);
        let condition = format!("attribute_not_exists({newer}) OR {newer} < :{ORDER}");
        let sent = self.0.client.update_item().table_name(&self.0.table).set_key(Some(at.clone()));
        let sent =
            sent.update_expression(update).condition_expression(condition).return_values(ReturnValue::UpdatedOld);
        let sent = sent.set_expression_attribute_names(Some(change.names));
        let sent = sent.set_expression_attribute_values(Some(change.values)).send().await;
        let before = match sent {
            Ok(sent) => sent.attributes.as_ref().map(|old| number(old, FIRST)),
            Err(error) if code(&error) == Some(REFUSED) => Some(None),
            Err(error) => return Err(failed("keep", subject(), &error)),
        };
        let first_seen = first_seen.as_millisecond();
        match before {
            // It is new, or it had been seen before this.
            None => return Ok(()),
            Some(Some(before)) if before <= first_seen => return Ok(()),
            Some(_) => {}
        }
        // Older than the newest, it may still be the first.
        let mut change = Expression::default();
        change.set(FIRST, n(first_seen));
        let condition = format!("{} > :{FIRST}", change.name(FIRST));
        let sent = self.0.client.update_item().table_name(&self.0.table).set_key(Some(at));
        let sent = sent.update_expression(change.update()).condition_expression(condition);
        let sent = sent.set_expression_attribute_names(Some(change.names));
        match sent.set_expression_attribute_values(Some(change.values)).send().await {
            Err(error) if code(&error) == Some(REFUSED) => Ok(()),
            sent => sent.map(drop).map_err(|error| failed("keep", subject(), &error)),
        }
    }

    /// See [`switchyard_core::ports::Ledger::records`].
    pub(super) async fn list_records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError> {
        let (epoch, place) = query.after.unwrap_or((Epoch(0), 0));
        let mut of = Expression::default();
        let only = query.kind.map(|kind| format!("{} = {}", of.name(KIND), of.value("kind", s(kind.as_str()))));
        let part = Part {
            index: None,
            range: Some((SK, "> :after", vec![("after", s(record_sk(epoch, place)))])),
            filter: only.map(|only| (only, of)),
            ..Part::of("", PK, records_pk(query.job))
        };
        // What is over and still there is not shown, and fills no page.
        let shown = |items: &[Item]| items.iter().filter(|item| !self.is_over(item)).count();
        let items = self.all(&part, "list records", |items| shown(items) >= query.limit).await?;
        let there = items.iter().filter(|item| !self.is_over(item));
        Ok(there.filter_map(record).take(query.limit).collect())
    }

    /// See [`switchyard_core::ports::Ledger::registered`]: the partitions are read side by side, and a page ends where the
    /// first of them ends that has more.
    pub(super) async fn list_registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError> {
        let mut of = Expression::default();
        let mut conditions = Vec::new();
        if let Some(capability) = &query.capability {
            conditions.push(format!("{} = {}", of.name(CAPABILITY), of.value("cap", s(&**capability))));
        }
        if let Some(since) = query.since {
            conditions.push(format!("{} >= {}", of.name(LAST), of.value("since", n(since.as_millisecond()))));
        }
        let filter = (!conditions.is_empty()).then(|| (conditions.join(" AND "), of));
        let parts: Vec<Part<'_>> = (0..SHARDS)
            .map(|shard| Part {
                index: None,
                range: query.after.as_ref().map(|after| (SK, "> :after", vec![("after", s(&**after))])),
                filter: filter.clone(),
                // One more than is wanted, so that a part that is at its end shows it.
                limit: filter.is_none().then(|| i32::try_from(query.limit + 1).unwrap_or(i32::MAX)),
                ..Part::of("", PK, register_pk(query.register, shard))
            })
            .collect();
        let walk = |part| async move {
            let (mut found, mut from) = (Vec::new(), None);
            for _ in 0..PAGES {
                let (some, last) = self.page(part, from, "list the register").await?;
                found.extend(some);
                let Some(last) = last else { return Ok((found, None)) };
                let read_to = text(&last, SK).map(str::to_owned);
                if found.len() > query.limit {
                    return Ok((found, read_to));
                }
                from = Some(last);
            }
            let read_to = from.as_ref().and_then(|last| text(last, SK)).map(str::to_owned);
            Ok::<_, PortError>((found, read_to))
        };
        let walks: Vec<_> = parts.iter().map(walk).collect();
        let (mut entries, mut to): (Vec<Registered>, Option<String>) = (Vec::new(), None);
        for walked in futures_util::future::join_all(walks).await {
            let (found, read_to) = walked?;
            entries.extend(found.iter().filter(|item| !self.is_over(item)).filter_map(entry));
            to = match (to, read_to) {
                (Some(to), Some(read_to)) => Some(to.min(read_to)),
                (to, read_to) => to.or(read_to),
            };
        }
        entries.sort_by(|one, other| one.id.cmp(&other.id));
        if let Some(to) = &to {
            entries.retain(|entry| entry.id <= *to);
        }
        if entries.len() > query.limit {
            entries.truncate(query.limit);
            to = entries.last().map(|last| last.id.clone());
        }
        Ok(RegisterPage { entries, next: to })
    }

    /// Removes what a job's runs emitted, where the table does not forget by itself.
    pub(super) async fn forget_records(&self, job: JobId) -> Result<(), PortError> {
        if self.0.forgetting.retention.is_some() {
            return Ok(());
        }
        // Retried since it was listed: it stays, with what it emitted.
        if self.load_now(job).await?.is_some_and(|job| !job.is_settled() || job.due.is_some()) {
            return Ok(());
        }
        let subject = self.subject(format_args!("records of job {job}"));
        let part = Part { index: None, ..Part::of("", PK, records_pk(job)) };
        let mut gone: HashSet<String> = HashSet::new();
        let mut from = None;
        loop {
            let (items, last) = self.page(&part, from, "forget records").await?;
            gone.extend(items.iter().filter_map(|item| text(item, SK)).map(str::to_owned));
            if last.is_none() {
                break;
            }
            from = last;
        }
        let unfit = |error| PortError::permanent("forget", &subject, error);
        let sort_keys: Vec<String> = gone.into_iter().collect();
        for some in sort_keys.chunks(PUTS) {
            let delete = |sk: &String| {
                let delete = DeleteRequest::builder().set_key(Some(key(records_pk(job), &**sk))).build();
                delete.map(|delete| WriteRequest::builder().delete_request(delete).build())
            };
            let requests = some.iter().map(delete).collect::<Result<Vec<_>, _>>().map_err(unfit)?;
            self.write_all(requests, "forget", &subject).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::records::Kind;

    use super::*;

    fn seen(n: u64, at: i64, id: &str) -> Record {
        Record {
            job: JobId::keyed("tests", "one"),
            epoch: Epoch(2),
            n,
            at: Timestamp::from_millisecond(at).unwrap(),
            capability: "scan".to_owned(),
            kind: Kind::Asset,
            id: Some(id.to_owned()),
            body: format!("{{\"n\":{n}}}"),
        }
    }

    #[test]
    fn a_record_is_read_back_from_its_item_and_items_sort_as_records_do() {
        let one = seen(7, 5, "host:a");
        let item = record_item(&one, Some(one.at));
        assert_eq!(record(&item), Some(one.clone()));
        assert_eq!(number(&item, GONE), Some(0));
        let metric = Record { kind: Kind::Metric, id: None, ..one };
        assert_eq!(record(&record_item(&metric, None)), Some(metric));
        let mut names = vec![(Epoch(10), 1), (Epoch(9), 100_000), (Epoch(9), 99_999), (Epoch(10), u64::MAX)];
        names.sort();
        let mut keys: Vec<String> = names.iter().map(|(epoch, n)| record_sk(*epoch, *n)).collect();
        let sorted = keys.clone();
        keys.sort();
        assert_eq!(keys, sorted);
        assert!(keys.iter().map(|sk| read_sk(sk).unwrap()).eq(names));
    }

    #[test]
    fn the_order_of_sightings_is_the_same_as_a_text() {
        let entries: Vec<Registered> = [(1, 5), (2, 5), (10, 5), (1, 60_000), (3, 7)]
            .iter()
            .map(|(n, at)| Registered::of(&seen(*n, *at, "a")).unwrap().1)
            .collect();
        for one in &entries {
            for other in &entries {
                assert_eq!(one.order().cmp(&other.order()), order(one).cmp(&order(other)));
            }
        }
    }

    #[test]
    fn sightings_of_one_batch_are_one_write_and_partitions_share_the_ids() {
        let records = [seen(1, 9, "a"), seen(2, 3, "a"), seen(3, 4, "b")];
        let refs: Vec<&Record> = records.iter().collect();
        let entries = together(&refs);
        assert_eq!(entries.len(), 2);
        let (_, a, of) = &entries[0];
        assert_eq!((a.n, a.first_seen.as_millisecond(), of.len()), (1, 3, 2));
        let mut counts = [0; SHARDS as usize];
        for n in 0..8000 {
            counts[usize::from(shard(&format!("host:10.0.{}.{}", n / 256, n % 256)))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!((shard(""), shard("host:a")), (shard(""), shard("host:a")));
    }
}
