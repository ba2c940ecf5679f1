//! What runs print, on its way into their logs: cut into lines, within limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchyard_core::ports::{Ambient, LogLine, LogSink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Output kept of one run, both streams together, as a log stores it: 10 MiB. More is read and dropped, so that the
/// program goes on.
pub const OUTPUT_BYTES: usize = 10 * 1024 * 1024;
/// What a log stores with every line beside its text: the time, the stream and the JSON around them, 41 bytes and a
/// few to spare. Without it ten million empty lines would count as nothing.
const LINE_COST: usize = 48;
/// The longest line kept in one piece: 16 KiB. Longer ones are cut into several.
pub const LINE_BYTES: usize = 16 * 1024;

/// Output on its way from a run to its log.
pub struct Capture<'a> {
    ambient: &'a dyn Ambient,
    stdout: Lines,
    stderr: Lines,
    kept: usize,
    cut: bool,
    dropped_bytes: u64,
    last_error_line: String,
    writing: Arc<AtomicBool>,
}

impl<'a> Capture<'a> {
    /// A capture that has seen nothing yet.
    pub fn new(ambient: &'a dyn Ambient) -> Self {
        let (stdout, stderr) = (Lines::default(), Lines::default());
        Self {
            ambient,
            stdout,
            stderr,
            kept: 0,
            cut: false,
            dropped_bytes: 0,
            last_error_line: String::new(),
            writing: Arc::default(),
        }
    }

    /// Whether lines that are read are on their way into the log.
    pub fn writing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.writing)
    }

    /// The last line of standard error that says anything; empty where there was none.
    pub fn last_error_line(&self) -> &str {
        &self.last_error_line
    }

    /// How much of what it read is in no log, in bytes.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Reads both pipes until both are closed.
    pub async fn pump(
        &mut self,
        mut stdout: Option<&mut (impl AsyncRead + Unpin)>,
        mut stderr: Option<&mut (impl AsyncRead + Unpin)>,
        log: &dyn LogSink,
    ) {
        while stdout.is_some() || stderr.is_some() {
            let (stream, read) = tokio::select! {
                read = self.stdout.fill(stdout.as_deref_mut()), if stdout.is_some() => (Stream::Stdout, read),
                read = self.stderr.fill(stderr.as_deref_mut()), if stderr.is_some() => (Stream::Stderr, read),
            };
            let open = matches!(read, Ok(1..));
            self.pass_on(stream, !open, log).await;
            if !open && stream == Stream::Stdout {
                stdout = None;
            } else if !open {
                stderr = None;
            }
        }
    }

    /// Takes what somebody else has read of one stream.
    pub async fn add(&mut self, stream: Stream, bytes: &[u8], log: &dyn LogSink) {
        self.lines(stream).pending.extend_from_slice(bytes);
        self.pass_on(stream, false, log).await;
    }

    /// Passes on what has no end of its line: no more comes.
    pub async fn finish(&mut self, log: &dyn LogSink) {
        self.pass_on(Stream::Stdout, true, log).await;
        self.pass_on(Stream::Stderr, true, log).await;
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        if stream == Stream::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    /// Writes the lines that are complete; with `all`, the rest too.
    async fn pass_on(&mut self, stream: Stream, all: bool, log: &dyn LogSink) {
        let texts = self.lines(stream).take(all);
        if stream == Stream::Stderr
            && let Some(last) = texts.iter().rev().find(|line| !line.trim().is_empty())
        {
            self.last_error_line.clone_from(last);
        }
        self.write(stream, texts, log).await;
    }

    async fn write(&mut self, stream: Stream, texts: Vec<String>, log: &dyn LogSink) {
        let at = self.ambient.now();
        let mut lines = Vec::with_capacity(texts.len());
        for text in texts {
            // Once cut, cut: a shorter line that would still fit must not pass for what came next.
            if self.cut {
                self.dropped_bytes += text.len() as u64;
                continue;
            }
            let bytes = stored_bytes(&text);
            if self.kept + bytes > OUTPUT_BYTES {
                self.cut = true;
                self.dropped_bytes += text.len() as u64;
                let text = format!("output cut: a run's log keeps {} MiB", OUTPUT_BYTES / 1024 / 1024);
                lines.push(LogLine { at, stream: Stream::Yard, text });
                continue;
            }
            self.kept += bytes;
            lines.push(LogLine { at, stream, text });
        }
        if !lines.is_empty() {
            self.writing.store(true, Ordering::Relaxed);
            log.write(lines).await;
            self.writing.store(false, Ordering::Relaxed);
        }
    }
}

/// Bytes of one stream, cut into lines.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    async fn fill(&mut self, from: Option<&mut (impl AsyncRead + Unpin)>) -> io::Result<usize> {
        match from {
            Some(from) => {
                self.pending.reserve(LINE_BYTES);
                from.read_buf(&mut self.pending).await
            }
            None => std::future::pending().await,
        }
    }

    /// The lines that are complete; with `all`, the rest too.
    fn take(&mut self, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut start = 0;
        while start < self.pending.len() {
            let rest = &self.pending[start..];
            // One more than a line: an end right behind the longest line is that line's own.
            let end = rest.iter().take(LINE_BYTES + 1).position(|byte| *byte == b'\n');
            let (length, skip) = match end {
                Some(end) => (end, 1),
                None if rest.len() > LINE_BYTES => (whole_characters(&rest[..=LINE_BYTES]), 0),
                None if all => (rest.len(), 0),
                None => break,
            };
            lines.push(String::from_utf8_lossy(&rest[..length]).into_owned());
            start += length + skip;
        }
        self.pending.drain(..start);
        lines
    }
}

/// Where to cut `bytes`, at most one before its end, so that no character of UTF-8 is cut in two. What is no UTF-8 is
/// cut anywhere.
fn whole_characters(bytes: &[u8]) -> usize {
    let most = bytes.len() - 1;
    // A character has at most three bytes after its first, and each of these begins with the bits 10 (RFC 3629).
    (most.saturating_sub(3)..=most).rev().find(|at| bytes[*at] & 0xc0 != 0x80).unwrap_or(most)
}

/// What a line takes in a log: its text as JSON writes it, and what stands around it.
fn stored_bytes(text: &str) -> usize {
    let written = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    LINE_COST + text.bytes().map(written).sum::<usize>()
}
