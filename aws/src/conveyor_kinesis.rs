//! What runs emit, on its way in a Kinesis stream: up to 500 lines a call, those of one job under one partition key, so that
//! they come out of one shard in the order that they went in, unless a call was repeated.
//!
//! Only programs that run jobs make one: a function that starts in a hundredth of a second carries no client for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use switchyard_core::ports::{Ambient, Conveyor, PortError, backoff};
use switchyard_core::records::{BATCH_RECORDS, Emitted};
use switchyard_core::wire;

use crate::clients::Clients;
use crate::failure::failed;

/// Bytes of one call, of 5 MiB that it takes (Kinesis, `PutRecords`): the keys count, too, and what is around them.
const CALL_BYTES: usize = 4 * 1024 * 1024;
/// Tries of those that a call did not take. A shard takes 1,000 records and 1 MiB a second, and a run may emit faster: the
/// pauses, of 100 ms first and 3 s at last, let it go on at that pace for some fifteen seconds before its worker tries anew.
const TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Carries emitted lines in a stream.
#[derive(Clone)]
pub struct KinesisConveyor {
    client: Client,
    stream: String,
    ambient: Arc<dyn Ambient>,
}

impl KinesisConveyor {
    /// The conveyor that is this stream, by its name.
    pub fn new(clients: &Clients, stream: &str, ambient: Arc<dyn Ambient>) -> Self {
        Self { client: clients.kinesis(), stream: stream.to_owned(), ambient }
    }

    fn subject(&self, lines: usize) -> String {
        format!("{lines} records in stream {}", self.stream)
    }

    /// One call; answers what it did not take, and why the first of that was not.
    async fn put(&self, entries: Vec<Entry>) -> Result<(Vec<Entry>, String), PortError> {
        let subject = self.subject(entries.len());
        let built = entries.iter().map(Entry::built).collect::<Result<Vec<_>, _>>();
        let built = built.map_err(|error| PortError::permanent("put", &subject, error))?;
        let sent = self.client.put_records().stream_name(&self.stream).set_records(Some(built)).send().await;
        let sent = sent.map_err(|error| failed("put", &subject, &error))?;
        if sent.failed_record_count().unwrap_or(0) == 0 {
            return Ok((Vec::new(), String::new()));
        }
        let codes = sent.records.into_iter().map(|result| result.error_code);
        Ok(left(entries, codes))
    }
}

/// What a call did not take, and the first reason. An answer that says nothing of an entry has not taken it.
fn left(entries: Vec<Entry>, codes: impl Iterator<Item = Option<String>>) -> (Vec<Entry>, String) {
    let mut codes = codes;
    let mut why = String::new();
    let mut left = Vec::new();
    for entry in entries {
        let code = match codes.next() {
            Some(None) => continue,
            Some(Some(code)) => code,
            None => "the answer does not name it".to_owned(),
        };
        if left.is_empty() {
            why = code;
        }
        left.push(entry);
    }
    (left, why)
}

/// A line as the stream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    data: Vec<u8>,
}

impl Entry {
    fn of(line: &Emitted) -> Self {
        Self { key: line.job.to_string(), data: wire::encode_emitted(line).into_bytes() }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.data.len()
    }

    fn built(&self) -> Result<PutRecordsRequestEntry, aws_smithy_types::error::operation::BuildError> {
        PutRecordsRequestEntry::builder().partition_key(&self.key).data(Blob::new(self.data.clone())).build()
    }
}

/// What goes into the next call: at least one, and no more than it takes.
fn next_call(entries: &mut Vec<Entry>) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.bytes();
        bytes <= CALL_BYTES
    };
    let fit = entries.iter().take(BATCH_RECORDS).take_while(fits).count().max(1);
    let rest = entries.split_off(fit.min(entries.len()));
    std::mem::replace(entries, rest)
}

#[async_trait]
impl Conveyor for KinesisConveyor {
    async fn carry(&self, lines: &[Emitted]) -> Result<(), PortError> {
        let mut waiting: Vec<Entry> = lines.iter().map(Entry::of).collect();
        let mut tried = 1;
        while !waiting.is_empty() {
            let call = next_call(&mut waiting);
            let sent = call.len();
            let (left, why) = self.put(call).await?;
            if left.is_empty() {
                continue;
            }
            // A call that took some has not failed: only those that take none wear patience out.
            tried = if left.len() < sent { 1 } else { tried + 1 };
            if tried > TRIES {
                return Err(PortError::retryable("put", self.subject(left.len()), why));
            }
            // In front: a job's lines keep their order as far as that can be.
            waiting.splice(0..0, left);
            let pause = backoff(FIRST_PAUSE, tried, self.ambient.chance()).min(LONGEST_PAUSE);
            self.ambient.pause(pause).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use switchyard_core::job::{Epoch, JobId};
    use switchyard_core::records::LINE_BYTES;

    use super::*;

    fn entry(bytes: usize) -> Entry {
        Entry { key: String::new(), data: vec![b'x'; bytes] }
    }

    #[test]
    fn a_call_has_no_more_than_it_takes_and_at_least_one_entry() {
        let mut many = vec![entry(1); 501];
        assert_eq!((next_call(&mut many).len(), many.len()), (500, 1));
        let mut large = vec![entry(CALL_BYTES), entry(1)];
        assert_eq!((next_call(&mut large).len(), large.len()), (1, 1));
        let mut larger = vec![entry(CALL_BYTES + 1), entry(1)];
        assert_eq!((next_call(&mut larger).len(), larger.len()), (1, 1));
        let mut three = vec![entry(CALL_BYTES / 2), entry(CALL_BYTES / 2), entry(1)];
        assert_eq!((next_call(&mut three).len(), three.len()), (2, 1));
    }

    #[test]
    fn what_a_call_did_not_take_is_what_its_answer_names_and_what_it_does_not_name() {
        let entries: Vec<Entry> = (1..=4).map(entry).collect();
        let busy = || Some("ProvisionedThroughputExceededException".to_owned());
        let (rest, why) = left(entries.clone(), [None, busy(), None, busy()].into_iter());
        assert_eq!((rest, why.as_str()), (vec![entry(2), entry(4)], "ProvisionedThroughputExceededException"));
        let (rest, why) = left(entries.clone(), [None, None].into_iter());
        assert_eq!((rest, why.as_str()), (vec![entry(3), entry(4)], "the answer does not name it"));
        assert_eq!(left(entries, std::iter::repeat_n(None, 4)), (vec![], String::new()));
    }

    #[test]
    fn the_longest_line_fits_into_a_record_however_it_is_written_and_a_job_s_lines_have_one_key() {
        // A record takes 1 MiB, its key included.
        let line = Emitted {
            job: JobId::keyed("tests", "one"),
            epoch: Epoch(1),
            n: u64::MAX,
            at: Timestamp::MAX,
            line: "\"".repeat(LINE_BYTES),
        };
        assert!(Entry::of(&line).bytes() < 1024 * 1024);
        assert_eq!(Entry::of(&line).key, Entry::of(&Emitted { n: 1, epoch: Epoch(2), ..line.clone() }).key);
    }
}
