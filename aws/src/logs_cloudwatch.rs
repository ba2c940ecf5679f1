//! What jobs print, in one log group of CloudWatch Logs: a stream a run, `{job}/{epoch}`, one JSON text a line.
//!
//! **Storing** is at least once: a put whose answer was lost is sent again and stored again. Every line says which
//! append it is of and its place there, so that reading leaves the repeat out. A line older than 14 days or two hours
//! ahead of AWS's clock is not kept; the answer is 200 all the same, and a warning says how many were lost.
//!
//! **Reading** walks the job's streams by epoch. CloudWatch orders a stream by the lines' times, then by when they
//! came. It may show a line, and a stream, seconds after it took it: what a follower has not seen yet comes on a later
//! page. What comes for a moment that the follower has passed, because a clock was set back or an earlier run still
//! printed when a later one had begun, is seen only by who reads from the start. An emulator lags nothing.

mod batch;
mod cursor;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::error::SdkError;
use aws_sdk_cloudwatchlogs::operation::get_log_events::{GetLogEventsError, GetLogEventsOutput};
use aws_sdk_cloudwatchlogs::types::{InputLogEvent, OutputLogEvent};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{Ambient, LogLine, LogPage, Logs, PortError};

use self::batch::Event;
use self::cursor::{Cursor, Read};
use crate::clients::Clients;
use crate::failure::{code, failed, read};

/// About as much of a log as one answer carries.
const PAGE_BYTES: usize = 256 * 1024;
/// Lines asked for at once. A page of lines of 256 bytes is full with so many; of longer ones it is asked again for as
/// many as fit.
const PAGE_LINES: usize = 1000;
/// Answers in a row without a line of ours before a read gives up. CloudWatch answers empty pages between full ones,
/// and a page that says nothing would be taken for the end.
const EMPTY_PAGES_MOST: usize = 100;
/// Streams of one job that are looked at, in pages of fifty. A run makes one.
const STREAM_PAGES_MOST: usize = 100;

const NOT_FOUND: Option<&str> = Some("ResourceNotFoundException");

/// Logs in a group of CloudWatch Logs.
#[derive(Clone)]
pub struct CloudWatchLogs {
    client: Client,
    group: String,
    ambient: Arc<dyn Ambient>,
}

impl CloudWatchLogs {
    /// The logs in `group`. By chance of `ambient` one append is told from another.
    pub fn new(clients: &Clients, group: &str, ambient: Arc<dyn Ambient>) -> Self {
        Self { client: clients.logs(), group: group.to_owned(), ambient }
    }

    fn subject(&self, job: JobId) -> String {
        format!("the log of job {job} in log group {}", self.group)
    }

    /// A call on a group that is not there; nothing but a person makes one.
    fn no_group(&self, operation: &'static str, job: JobId) -> PortError {
        PortError::permanent(operation, self.subject(job), format!("there is no log group {}", self.group))
    }

    async fn put(&self, job: JobId, epoch: Epoch, batch: &[Event]) -> Result<(), PortError> {
        let (operation, stream) = ("append to", stream(job, epoch));
        let mut made = false;
        let put = loop {
            let put = self.client.put_log_events().log_group_name(&self.group).log_stream_name(&stream);
            match put.set_log_events(Some(inputs(batch))).send().await {
                Ok(put) => break put,
                Err(error) if code(&error) == NOT_FOUND && !made => {
                    self.make(job, &stream).await?;
                    made = true;
                }
                // It was just made: not every part of CloudWatch knows of it yet.
                Err(error) if code(&error) == NOT_FOUND => {
                    return Err(PortError::retryable(operation, self.subject(job), read(&error).0));
                }
                Err(error) => return Err(failed(operation, self.subject(job), &error)),
            }
        };
        let rejected = put.rejected_log_events_info();
        let lost = batch::lost(
            batch.len(),
            rejected.and_then(|info| info.too_old_log_event_end_index()),
            rejected.and_then(|info| info.expired_log_event_end_index()),
            rejected.and_then(|info| info.too_new_log_event_start_index()),
        );
        if lost > 0 {
            tracing::warn!(job.id = %job, job.epoch = %epoch, lines = lost, "log lines lost: too old, or too new");
        }
        Ok(())
    }

    async fn make(&self, job: JobId, stream: &str) -> Result<(), PortError> {
        match self.client.create_log_stream().log_group_name(&self.group).log_stream_name(stream).send().await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some("ResourceAlreadyExistsException") => Ok(()),
            Err(error) if code(&error) == NOT_FOUND => Err(self.no_group("append to", job)),
            Err(error) => Err(failed("make a stream for", self.subject(job), &error)),
        }
    }

    /// The epochs of the runs that have a stream, in order.
    async fn epochs(&self, operation: &'static str, job: JobId) -> Result<Vec<u32>, PortError> {
        let (prefix, mut token, mut epochs) = (prefix(job), None, Vec::new());
        for _ in 0..STREAM_PAGES_MOST {
            let page = self.client.describe_log_streams().log_group_name(&self.group).log_stream_name_prefix(&prefix);
            let page = page.set_next_token(token).send().await.map_err(|error| {
                if code(&error) == NOT_FOUND {
                    self.no_group(operation, job)
                } else {
                    failed(operation, self.subject(job), &error)
                }
            })?;
            let names = page.log_streams().iter().filter_map(|stream| stream.log_stream_name());
            epochs.extend(names.filter_map(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok()));
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The next page of the stream that the cursor is in; `None` when there is no such stream.
    async fn page(&self, job: JobId, here: &Cursor) -> Result<Option<GetLogEventsOutput>, PortError> {
        let page = match self.ask(job, here, PAGE_LINES).await {
            Ok(page) => page,
            Err(error) if code(&error) == NOT_FOUND => return Ok(None),
            Err(error) => return Err(failed("read", self.subject(job), &error)),
        };
        let fitting = cursor::fitting(page.events().iter().map(bytes), PAGE_BYTES);
        if fitting >= page.events().len() {
            return Ok(Some(page));
        }
        // A token stands behind the page it came with: a shorter page has its own.
        let shorter = self.ask(job, here, fitting).await;
        shorter.map(Some).map_err(|error| failed("read", self.subject(job), &error))
    }

    async fn ask(
        &self,
        job: JobId,
        here: &Cursor,
        lines: usize,
    ) -> Result<GetLogEventsOutput, SdkError<GetLogEventsError>> {
        let ask = self.client.get_log_events().log_group_name(&self.group);
        let ask = ask.log_stream_name(stream(job, Epoch(here.epoch))).start_from_head(true);
        let ask = ask.limit(i32::try_from(lines).unwrap_or(i32::MAX));
        if let Some(token) = &here.token {
            match ask.clone().next_token(token).send().await {
                // A day old, or no token of AWS's: the time of the last line is as good, but for the lines of that
                // moment of which nobody remembers that they were read.
                Err(error) if code(&error) == Some("InvalidParameterException") => {}
                answer => return answer,
            }
        }
        ask.set_start_time(Some(here.at_ms).filter(|at_ms| *at_ms > 0)).send().await
    }
}

#[async_trait]
impl Logs for CloudWatchLogs {
    async fn append(&self, job: JobId, epoch: Epoch, lines: &[LogLine]) -> Result<(), PortError> {
        for batch in batch::batches(batch::events(lines, self.ambient.chance())) {
            self.put(job, epoch, &batch).await?;
        }
        Ok(())
    }

    async fn read(&self, job: JobId, cursor: &str) -> Result<LogPage, PortError> {
        let mut here = Cursor::parse(cursor);
        let mut later = None;
        for _ in 0..EMPTY_PAGES_MOST {
            if here.epoch > 0
                && let Some(page) = self.page(job, &here).await?
            {
                let read = |event: &'_ OutputLogEvent| event.timestamp().zip(event.message().map(str::to_owned));
                let events: Vec<(i64, String)> = page.events().iter().filter_map(read).collect();
                let lines = here.take(events.iter().map(|(at_ms, message)| Read { at_ms: *at_ms, message }));
                let token = page.next_forward_token().map(str::to_owned);
                // Only the token says where a stream ends for now: when it is the one that was asked with.
                let is_end = token.is_none() || token == here.token;
                here.token = token.or(here.token);
                if !lines.is_empty() {
                    return Ok(LogPage { lines, next: here.to_string() });
                }
                if !is_end {
                    continue;
                }
            }
            let later = match &mut later {
                Some(later) => later,
                unknown => {
                    let epochs = self.epochs("read", job).await?;
                    let after = here.epoch;
                    unknown.insert(epochs.into_iter().filter(move |epoch| *epoch > after))
                }
            };
            match later.next() {
                Some(epoch) => here = Cursor::start_of(epoch),
                None => return Ok(LogPage { lines: vec![], next: here.to_string() }),
            }
        }
        let message = format!("{EMPTY_PAGES_MOST} pages in a row were empty");
        Err(PortError::retryable("read", self.subject(job), message))
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        for epoch in self.epochs("forget", job).await? {
            let delete = self.client.delete_log_stream().log_group_name(&self.group);
            match delete.log_stream_name(stream(job, Epoch(epoch))).send().await {
                Err(error) if code(&error) != NOT_FOUND => return Err(failed("forget", self.subject(job), &error)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// What the names of all of a job's streams start with. A stream's name has no `:` and no `*`, and an id neither.
fn prefix(job: JobId) -> String {
    format!("{job}/")
}

/// The stream of a run.
fn stream(job: JobId, epoch: Epoch) -> String {
    format!("{}{epoch}", prefix(job))
}

/// What an event counts of a page.
fn bytes(event: &OutputLogEvent) -> usize {
    event.message().map_or(0, str::len)
}

fn inputs(batch: &[Event]) -> Vec<InputLogEvent> {
    let input = |event: &Event| {
        let built = InputLogEvent::builder().timestamp(event.at_ms).message(&event.message).build();
        built.unwrap_or_else(|error| unreachable!("an event with its time and message is whole: {error}"))
    };
    batch.iter().map(input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_job_and_epoch_without_what_cloudwatch_forbids() {
        let job = JobId::keyed("tests", "logs");
        let name = stream(job, Epoch(12));
        assert_eq!(name, format!("{job}/12"));
        assert!(!name.contains([':', '*']) && name.len() <= 512);
        assert!(!name.starts_with(&prefix(JobId::keyed("tests", "other"))));
    }
}
