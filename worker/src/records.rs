//! What a run emits: a file of lines, read on while it grows, handed over in batches, within limits.
//!
//! A batch stays until it is taken: whatever fails in between, it is handed over again under the same numbers, and is one
//! record each all the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switchyard_core::job::{Epoch, Failure, JobId};
use switchyard_core::ports::{
    Ambient, Emission, LogLine, LogSink, Message, Outcome, PortError, Stream, backoff, describe,
};
use switchyard_core::records::{BATCH_BYTES, BATCH_RECORDS, Emitted, LINE_BYTES, RUN_BYTES, RUN_RECORDS};

/// How much of the file is read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How much of it is read in all: twice what a run can emit. A file can be endless, or have nothing in it for terabytes.
const READ_BYTES: u64 = 2 * RUN_BYTES;
/// The first look at the file comes so late: what ends before is looked at when it has ended.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// The longest between two looks: so old is what a job's page shows of a run that emits.
const LOOKS_APART: Duration = Duration::from_secs(5);
/// How often a hand-over that fails is tried when the run has ended: for 13 to 25 s in all, as its report is.
const TRIES: u32 = 8;
/// The same where the run was told to end: whoever told it waits.
const TRIES_STOPPED: u32 = 2;
/// Lines that were refused and are named in the job's log, at most.
const NAMED: usize = 10;

/// What a run emits, on its way.
pub struct Emitter<'a> {
    ambient: &'a dyn Ambient,
    job: JobId,
    epoch: Epoch,
    path: PathBuf,
    file: Option<File>,
    lines: Lines,
    /// What is read and not taken yet.
    batch: Vec<Emitted>,
    batch_bytes: usize,
    /// What is counted of the run's limits.
    emitted: u64,
    emitted_bytes: u64,
    dropped: Dropped,
    refused: u64,
    named: Vec<String>,
    stale: bool,
    /// How much was read.
    read_bytes: u64,
    /// Nobody took the last batch of what somebody else reads: it is offered again at the end.
    waiting: bool,
}

/// What is not handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    /// Lines that were too long.
    long: u64,
    /// Lines over the limit of what one run can emit.
    over: u64,
    /// What lies there is no file.
    no_file: bool,
    /// There was more than is read of any.
    endless: bool,
}

impl<'a> Emitter<'a> {
    /// What this run writes to `path`, where nothing is yet.
    pub fn new(run: Message, path: &Path, ambient: &'a dyn Ambient) -> Self {
        Self {
            ambient,
            job: run.id,
            epoch: run.epoch,
            path: path.to_owned(),
            file: None,
            lines: Lines::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            emitted: 0,
            emitted_bytes: 0,
            dropped: Dropped::default(),
            refused: 0,
            named: Vec::new(),
            stale: false,
            read_bytes: 0,
            waiting: false,
        }
    }

    /// Hands over what the run emits, for as long as this is polled. Dropped at any moment, it forgets nothing.
    pub async fn follow(&mut self, log: &dyn LogSink) {
        let mut apart = FIRST_LOOK;
        let mut failures = 0;
        loop {
            tokio::time::sleep(apart).await;
            match self.pass_on(log).await {
                Ok(0) => apart = (apart * 2).min(LOOKS_APART),
                Ok(_) => (apart, failures) = (FIRST_LOOK, 0),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(
                        job.id = %self.job, job.epoch = %self.epoch, error = %describe(&error), failures,
                        "what a run emitted is not taken; it is handed over again"
                    );
                    apart = backoff(Duration::from_secs(1), failures.min(5), self.ambient.chance());
                }
            }
        }
    }

    /// Hands over all that is in the file by now; answers how many lines.
    async fn pass_on(&mut self, log: &dyn LogSink) -> Result<u64, PortError> {
        let mut passed = 0;
        loop {
            // Before more is read: what nobody takes must not grow.
            if self.is_full() {
                passed += self.hand_over(log).await?;
            }
            if !self.read()? {
                return Ok(passed + self.hand_over(log).await?);
            }
            // Whoever watches the run beside this must have its turn, however much there is to read.
            tokio::task::yield_now().await;
        }
    }

    /// The run has ended: hands over the rest, and says in the job's log what was not taken. A run that succeeded and
    /// whose records nobody takes has not done its work: it fails, and another attempt may do better.
    pub async fn finish(&mut self, outcome: Outcome, log: &dyn LogSink) -> Outcome {
        let handed = self.finish_tried(tries(&outcome), log).await;
        let no_file = self.dropped.no_file;
        self.say(log).await;
        let Err(error) = handed else {
            return match outcome {
                // Its records may be what it was run for.
                Outcome::Succeeded(_) if no_file => {
                    let message = "it succeeded, but what lies where its records should be is no file";
                    Outcome::Failed { failure: Failure::new("records_unreadable", message), permanent: true }
                }
                outcome => outcome,
            };
        };
        let why = describe(&error);
        match outcome {
            Outcome::Succeeded(_) => {
                let message = format!("it succeeded, but the records that it emitted were not taken: {why}");
                Outcome::Failed { failure: Failure::new("records_not_taken", message), permanent: false }
            }
            ended => {
                self.write(format!("records that it emitted were not taken: {why}"), log).await;
                ended
            }
        }
    }

    async fn finish_tried(&mut self, tries: u32, log: &dyn LogSink) -> Result<(), PortError> {
        let mut tried = 1;
        loop {
            let passed = async {
                self.pass_on(log).await?;
                // A last line without its end is a line.
                if let Some(line) = self.lines.rest() {
                    self.add(line);
                }
                self.hand_over(log).await
            };
            match passed.await {
                Ok(_) => return Ok(()),
                // Whatever the failure: permissions come back, too, and hours of work are worth the wait.
                Err(error) if tried >= tries => return Err(error),
                Err(_) => {
                    let pause = backoff(Duration::from_millis(200), tried, self.ambient.chance());
                    self.ambient.pause(pause).await;
                    tried += 1;
                }
            }
        }
    }

    /// Takes bytes that somebody else has read, and hands over what fills a batch. After a hand-over that failed it only takes
    /// them, which the run's limits bound: [`Self::finish`] tries again. Answers whether more is wanted.
    pub async fn feed(&mut self, bytes: &[u8], log: &dyn LogSink) -> bool {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            if self.has_read_enough() {
                return false;
            }
            self.take(chunk);
            if self.is_full() && !self.waiting {
                self.waiting = self.hand_over(log).await.is_err();
            }
        }
        true
    }

    /// Reads a part of the file. Answers whether there may be more.
    fn read(&mut self) -> Result<bool, PortError> {
        if self.dropped.no_file || self.has_read_enough() {
            return Ok(false);
        }
        match self.read_chunk() {
            Ok(Some(chunk)) => {
                self.take(&chunk);
                Ok(true)
            }
            Ok(None) => Ok(false),
            // A link, a folder, a pipe: the program chose what lies there, and it will not become a file.
            Err(error) if is_no_file(&error) => {
                self.dropped.no_file = true;
                Ok(false)
            }
            Err(error) => Err(PortError::retryable("read", format!("the records of job {}", self.job), error)),
        }
    }

    /// Whether as much was read as is of any run; said once.
    fn has_read_enough(&mut self) -> bool {
        self.dropped.endless |= self.read_bytes >= READ_BYTES;
        self.read_bytes >= READ_BYTES
    }

    fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.file.is_none() {
            // No link is followed and nothing is waited for: the program chose what lies at this path.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            let mut options = OpenOptions::new();
            let options = options.read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
            let file = match options.open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            if !file.metadata()?.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn take(&mut self, bytes: &[u8]) {
        self.read_bytes += bytes.len() as u64;
        for line in self.lines.cut(bytes) {
            self.add(line);
        }
    }

    fn add(&mut self, line: Line) {
        let Line::Whole(n, line) = line else {
            self.dropped.long += 1;
            return;
        };
        let bytes = line.len() as u64;
        // Once over, over: a shorter line that would still fit must not pass for what came next.
        if self.dropped.over > 0 || self.emitted >= RUN_RECORDS || self.emitted_bytes + bytes > RUN_BYTES {
            self.dropped.over += 1;
            return;
        }
        self.emitted += 1;
        self.emitted_bytes += bytes;
        self.batch_bytes += line.len();
        self.batch.push(Emitted { job: self.job, epoch: self.epoch, n, at: self.ambient.now(), line });
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= BATCH_RECORDS || self.batch_bytes >= BATCH_BYTES
    }

    /// Hands over what is read; answers how many lines. What fails is kept for the next time.
    async fn hand_over(&mut self, log: &dyn LogSink) -> Result<u64, PortError> {
        let mut passed = 0;
        while !self.batch.is_empty() {
            let part = first_part(&self.batch);
            if !self.stale {
                match log.emit(&self.batch[..part]).await? {
                    Emission::Stale => self.stale = true,
                    Emission::Taken(refused) => {
                        self.refused += refused.len() as u64;
                        let room = NAMED - self.named.len();
                        self.named.extend(refused.iter().take(room).map(|(n, why)| format!("line {n}: {why}")));
                    }
                }
            }
            passed += part as u64;
            self.batch_bytes -= self.batch.drain(..part).map(|line| line.line.len()).sum::<usize>();
        }
        Ok(passed)
    }

    /// Says in the job's log what is no record of it.
    async fn say(&mut self, log: &dyn LogSink) {
        let Dropped { long, over, no_file, endless } = mem::take(&mut self.dropped);
        let mut texts = Vec::new();
        if no_file {
            texts.push("its records cannot be read: they are not in a file".to_owned());
        }
        if endless {
            let mib = READ_BYTES / 1024 / 1024;
            texts.push(format!("of its records {mib} MiB were read, and no more"));
        }
        if long > 0 {
            texts.push(format!("{long} records were left out: a line has {LINE_BYTES} bytes at most"));
        }
        if over > 0 {
            let mib = RUN_BYTES / 1024 / 1024;
            texts.push(format!("{over} records were left out: a run emits {RUN_RECORDS} and {mib} MiB at most"));
        }
        let refused = mem::take(&mut self.refused);
        if refused > 0 {
            texts.push(format!("{refused} lines are no records, and are parked; the first of them:"));
            texts.append(&mut self.named);
        }
        for text in texts {
            self.write(text, log).await;
        }
    }

    async fn write(&self, text: String, log: &dyn LogSink) {
        log.write(vec![LogLine { at: self.ambient.now(), stream: Stream::Yard, text }]).await;
    }
}

/// Whether what lies at a path is no file, or a link, which is not followed.
fn is_no_file(error: &io::Error) -> bool {
    let link = rustix::io::Errno::LOOP.raw_os_error();
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(link)
}

fn tries(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Succeeded(_) | Outcome::Failed { .. } | Outcome::OutOfMemory(_) => TRIES,
        Outcome::TimedOut | Outcome::Stopped(_) | Outcome::Interrupted(_) => TRIES_STOPPED,
    }
}

/// How many of these are handed over at once: at least one.
fn first_part(batch: &[Emitted]) -> usize {
    let mut bytes = 0;
    let fits = |line: &&Emitted| {
        bytes += line.line.len();
        bytes <= BATCH_BYTES
    };
    batch.iter().take(BATCH_RECORDS).take_while(fits).count().max(1)
}

/// A line that was cut from the file.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// With its number: its place among all lines, so that one that is left out shows as a gap.
    Whole(u64, String),
    /// One that is too long to be kept.
    Long,
}

/// Bytes, cut into lines. Empty ones are none.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// In the middle of a line that is too long: the rest of it is let go.
    skipping: bool,
    /// Lines so far.
    count: u64,
}

impl Lines {
    fn cut(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end], &mut lines);
            rest = &rest[end + 1..];
            self.skipping = false;
            lines.extend(self.rest());
        }
        self.extend(rest, &mut lines);
        lines
    }

    fn extend(&mut self, bytes: &[u8], lines: &mut Vec<Line>) {
        if self.skipping {
            return;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > LINE_BYTES {
            self.pending = Vec::new();
            self.skipping = true;
            self.count += 1;
            lines.push(Line::Long);
        }
    }

    /// What has no end yet, as a line.
    fn rest(&mut self) -> Option<Line> {
        let bytes = mem::take(&mut self.pending);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        self.count += 1;
        let text = String::from_utf8_lossy(&bytes);
        // What is no UTF-8 becomes longer, and what JSON must escape will: it is no record, and must not be too long to be
        // told.
        let escaped = text.chars().filter(|c| c.is_control() && *c != '\t').count() * 5;
        if text.len() + escaped > LINE_BYTES {
            return Some(Line::Long);
        }
        Some(Line::Whole(self.count, text.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use switchyard_core::records::{Code, Refused};

    use super::*;
    use switchyard_builtins::system::System;

    /// Takes what it is given unless it is told to fail, and refuses what begins with `!`.
    #[derive(Default)]
    struct Taker {
        fails: Mutex<u32>,
        taken: Mutex<Vec<Vec<Emitted>>>,
        said: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl LogSink for Taker {
        async fn write(&self, lines: Vec<LogLine>) {
            self.said.lock().unwrap().extend(lines.into_iter().map(|line| line.text));
        }

        async fn emit(&self, lines: &[Emitted]) -> Result<Emission, PortError> {
            let mut fails = self.fails.lock().unwrap();
            if *fails > 0 {
                *fails -= 1;
                return Err(PortError::retryable("emit at", "the desk", "it is away"));
            }
            self.taken.lock().unwrap().push(lines.to_vec());
            let refused = lines.iter().filter(|line| line.line.starts_with('!'));
            Ok(Emission::Taken(refused.map(|line| (line.n, Refused::new(Code::NotJson, "no JSON"))).collect()))
        }
    }

    impl Taker {
        fn lines(&self) -> Vec<(u64, String)> {
            self.taken.lock().unwrap().iter().flatten().map(|line| (line.n, line.line.clone())).collect()
        }
    }

    fn emitter(path: &Path) -> Emitter<'static> {
        Emitter::new(Message { id: JobId::keyed("tests", "one"), epoch: Epoch(1) }, path, &System)
    }

    fn text(n: u64, text: &str) -> (u64, String) {
        (n, text.to_owned())
    }

    const DONE: Outcome = Outcome::Succeeded(None);

    #[tokio::test]
    async fn lines_are_numbered_as_they_come_and_the_last_one_needs_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let (mut emitter, taker) = (emitter(&path), Taker::default());
        assert_eq!(emitter.pass_on(&taker).await.unwrap(), 0, "there is no file yet");
        std::fs::write(&path, "a\n\n  \nb\nha").unwrap();
        assert_eq!(emitter.pass_on(&taker).await.unwrap(), 2);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"lf\nlast").unwrap();
        assert_eq!(emitter.finish(DONE, &taker).await, DONE);
        assert_eq!(taker.lines(), [text(1, "a"), text(2, "b"), text(3, "half"), text(4, "last")]);
        assert_eq!(*taker.said.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_batch_that_is_not_taken_is_handed_over_again_under_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        std::fs::write(&path, "a\n!b\n").unwrap();
        let (mut emitter, taker) = (emitter(&path), Taker::default());
        *taker.fails.lock().unwrap() = 3;
        assert!(emitter.pass_on(&taker).await.is_err());
        assert_eq!(emitter.finish(DONE, &taker).await, DONE);
        assert_eq!(taker.lines(), [text(1, "a"), text(2, "!b")]);
        let said = taker.said.lock().unwrap().join("\n");
        assert_eq!(said, "1 lines are no records, and are parked; the first of them:\nline 2: not_json: no JSON");
    }

    #[tokio::test]
    async fn a_run_whose_records_nobody_takes_has_not_succeeded_and_a_failed_one_keeps_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        std::fs::write(&path, "a\n").unwrap();
        let taker = Taker::default();
        *taker.fails.lock().unwrap() = u32::MAX;
        let stopped = emitter(&path).finish(Outcome::TimedOut, &taker).await;
        assert_eq!(stopped, Outcome::TimedOut);
        assert!(taker.said.lock().unwrap().concat().contains("were not taken: cannot emit at the desk: it is away"));
        let Outcome::Failed { failure, permanent: false } = not_taken(&path, &taker).await else { panic!() };
        assert_eq!(failure.code, "records_not_taken");
    }

    /// Its end, without the pauses between its tries.
    async fn not_taken(path: &Path, taker: &Taker) -> Outcome {
        struct Hasty;
        #[async_trait]
        impl Ambient for Hasty {
            fn now(&self) -> jiff::Timestamp {
                jiff::Timestamp::UNIX_EPOCH
            }
            fn random(&self) -> [u8; 32] {
                [0; 32]
            }
            async fn pause(&self, _: Duration) {}
        }
        Emitter { ambient: &Hasty, ..emitter(path) }.finish(DONE, taker).await
    }

    #[tokio::test]
    async fn what_is_too_long_or_too_much_is_counted_and_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let long = "x".repeat(LINE_BYTES + 1);
        let most = "y".repeat(LINE_BYTES);
        let zeros = "\0".repeat(LINE_BYTES);
        std::fs::write(&path, format!("a\n{long}\n{most}\n{zeros}\nb\n{long}")).unwrap();
        let (mut long_lines, taker) = (emitter(&path), Taker::default());
        assert_eq!(long_lines.finish(DONE, &taker).await, DONE);
        assert_eq!(taker.lines(), [text(1, "a"), text(3, &most), text(5, "b")], "numbers are places");
        let mut many = Emitter { emitted: RUN_RECORDS - 1, ..emitter(&path) };
        many.finish(DONE, &taker).await;
        let mut large = Emitter { emitted_bytes: RUN_BYTES - 2, ..emitter(&path) };
        large.finish(DONE, &taker).await;
        let said = taker.said.lock().unwrap().clone();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[tokio::test]
    async fn a_batch_has_no_more_than_one_call_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let line = "z".repeat(LINE_BYTES / 2);
        std::fs::write(&path, "a\n".repeat(1_234) + &format!("{line}\n").repeat(20)).unwrap();
        let (mut emitter, taker) = (emitter(&path), Taker::default());
        emitter.finish(DONE, &taker).await;
        assert_eq!(taker.lines().len(), 1_254);
        assert!(taker.lines().windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
        for batch in taker.taken.lock().unwrap().iter() {
            let bytes: usize = batch.iter().map(|line| line.line.len()).sum();
            assert!(batch.len() <= BATCH_RECORDS && bytes <= BATCH_BYTES, "{} lines, {bytes} bytes", batch.len());
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_not_read_and_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let taker = Taker::default();
        let Outcome::Failed { failure, permanent: true } = emitter(&path).finish(DONE, &taker).await else { panic!() };
        assert_eq!((&*failure.code, taker.lines()), ("records_unreadable", vec![]));
        assert_eq!(*taker.said.lock().unwrap(), ["its records cannot be read: they are not in a file"]);
    }

    #[tokio::test]
    async fn a_file_of_terabytes_of_nothing_is_read_so_far_and_holds_up_nobody_who_waits_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        std::fs::write(&path, "{\"a\":1}\n").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        let taker = Taker::default();
        let mut emitter = emitter(&path);
        // Whoever is beside it has a turn after each part that is read.
        let turns = std::cell::Cell::new(0);
        let beside = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::select! {
            biased;
            () = beside => unreachable!("it has no end"),
            ended = emitter.finish(DONE, &taker) => ended,
        };
        assert_eq!(ended, DONE);
        assert!(turns.get() > 100, "{}", turns.get());
        assert_eq!(taker.lines(), [text(1, "{\"a\":1}")]);
        let said = taker.said.lock().unwrap().join("; ");
        assert!(said.contains("128 MiB were read, and no more"), "{said}");
    }

    #[tokio::test]
    async fn what_nobody_takes_while_it_is_fetched_is_offered_once_and_again_at_the_end_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let taker = Taker { fails: Mutex::new(1), ..Taker::default() };
        let mut emitter = emitter(&folder.path().join("nowhere"));
        let line = format!("{}\n", "x".repeat(100_000));
        for _ in 0..50 {
            assert!(emitter.feed(line.as_bytes(), &taker).await);
        }
        assert_eq!(taker.lines(), [], "it was asked once, and would be asked in vain");
        assert_eq!(emitter.finish(DONE, &taker).await, DONE);
        let numbers: Vec<u64> = taker.lines().into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
    }
}
