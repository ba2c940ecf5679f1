//! Where a reader of a log stands, and what becomes of a page of it.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use switchyard_core::job::Epoch;
use switchyard_core::ports::LogLine;

use super::batch::Message;

/// Appends whose repeats are known: one writes at a time, and a repeat that comes late comes after few others.
const MARKS_MOST: usize = 4;
/// The longest token that is handed on; AWS's have some 60 characters.
const TOKEN_MOST: usize = 512;
const VERSION: &str = "1";

/// How far an append was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    batch: u64,
    index: u32,
}

/// Where a reader stands. It goes out as text and comes back from outside: what is no cursor of ours is the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The run whose stream is read; 0 before the first.
    pub(super) epoch: u32,
    /// The time of the last line read of that stream. AWS forgets a token after a day; then this is where to go on.
    pub(super) at_ms: i64,
    /// AWS's own place in the stream.
    pub(super) token: Option<String>,
    /// How far the newest appends were read, the newest last.
    marks: Vec<Mark>,
}

/// An event as it was read.
pub(super) struct Read<'a> {
    pub(super) at_ms: i64,
    pub(super) message: &'a str,
}

impl Cursor {
    /// The start of a run's stream.
    pub(super) fn start_of(epoch: u32) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// The cursor that [`fmt::Display`] wrote; else the start.
    pub(super) fn parse(text: &str) -> Self {
        Self::known(text).unwrap_or_default()
    }

    fn known(text: &str) -> Option<Self> {
        // The token is last: it may hold a full stop.
        let mut parts = text.splitn(5, '.');
        let mut next = || parts.next();
        (next()? == VERSION).then_some(())?;
        let (epoch, at_ms) = (next()?.parse().ok()?, next()?.parse().ok().filter(|at_ms| *at_ms >= 0)?);
        let marks: Vec<Mark> =
            next()?.split('_').filter(|mark| !mark.is_empty()).map(Mark::parse).collect::<Option<_>>()?;
        let token = next()?;
        let sound =
            marks.len() <= MARKS_MOST && token.len() <= TOKEN_MOST && token.chars().all(|c| c.is_ascii_graphic());
        let token = Some(token.to_owned()).filter(|token| !token.is_empty());
        sound.then_some(Self { epoch, at_ms, token, marks })
    }

    /// Takes a page of the stream: its lines without those that were read before. What is no line of ours is left out,
    /// and hides no other.
    ///
    /// Of earlier pages it is known how far each append was read, for an append's lines come in their order. Within the
    /// page every line is known by itself.
    pub(super) fn take<'a>(&mut self, page: impl IntoIterator<Item = Read<'a>>) -> Vec<(Epoch, LogLine)> {
        let (mut lines, mut order, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for Read { at_ms, message } in page {
            self.at_ms = self.at_ms.max(at_ms);
            let Ok(Message { t, s, b, i }) = serde_json::from_str(message) else { continue };
            let Ok(at) = Timestamp::from_millisecond(at_ms) else { continue };
            order.push(Mark { batch: b, index: i });
            if seen.insert((b, i)) && !self.marks.iter().any(|mark| mark.batch == b && i <= mark.index) {
                lines.push((Epoch(self.epoch), LogLine { at, stream: s, text: t }));
            }
        }
        order.into_iter().for_each(|line| self.mark(line));
        lines
    }

    /// Remembers that an append was read so far.
    fn mark(&mut self, mut line: Mark) {
        if let Some(known) = self.marks.iter().position(|mark| mark.batch == line.batch) {
            line.index = line.index.max(self.marks.remove(known).index);
        } else if self.marks.len() == MARKS_MOST {
            self.marks.remove(0);
        }
        self.marks.push(line);
    }
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let (batch, index) = text.split_once('-')?;
        Some(Self { batch: u64::from_str_radix(batch, 16).ok()?, index: index.parse().ok()? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.", self.epoch, self.at_ms)?;
        for (n, Mark { batch, index }) in self.marks.iter().enumerate() {
            write!(f, "{}{batch:x}-{index}", if n > 0 { "_" } else { "" })?;
        }
        write!(f, ".{}", self.token.as_deref().unwrap_or_default())
    }
}

/// How many of a page's first events have at most so many bytes together; at least one.
pub(super) fn fitting(bytes: impl IntoIterator<Item = usize>, most: usize) -> usize {
    let mut sum = 0;
    let fits = |bytes: &usize| {
        sum += *bytes;
        sum <= most
    };
    bytes.into_iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use switchyard_core::ports::Stream;

    use super::*;

    fn messages(lines: &[(u64, u32)]) -> Vec<String> {
        let message = |&(b, i): &(u64, u32)| Message { t: format!("{b}.{i}"), s: Stream::Stderr, b, i };
        lines.iter().map(|line| serde_json::to_string(&message(line)).unwrap()).collect()
    }

    /// Reads these lines of appends in pages of so many, each from the text of the cursor before.
    fn read(lines: &[(u64, u32)], page: usize) -> Vec<String> {
        let mut cursor = Cursor::start_of(3).to_string();
        let mut read = Vec::new();
        for page in messages(lines).chunks(page) {
            let mut here = Cursor::parse(&cursor);
            let page = page.iter().map(|message| Read { at_ms: 5, message });
            read.extend(here.take(page).into_iter().map(|(epoch, line)| {
                assert_eq!((epoch, line.stream, line.at.as_millisecond()), (Epoch(3), Stream::Stderr, 5));
                line.text
            }));
            cursor = here.to_string();
        }
        read
    }

    #[test]
    fn a_cursor_is_read_back_as_it_was() {
        let mut cursor = Cursor::start_of(7);
        assert_eq!(cursor.to_string(), "1.7.0..");
        assert_eq!(Cursor::parse("1.7.0.."), cursor);
        cursor.token = Some("f/0001.2/s".to_owned());
        cursor.at_ms = 1_700_000_000_000;
        for batch in [u64::MAX, 1, 2, 3, 4] {
            cursor.mark(Mark { batch, index: u32::MAX });
        }
        let mark = "4294967295";
        let text = format!("1.7.1700000000000.1-{mark}_2-{mark}_3-{mark}_4-{mark}.f/0001.2/s");
        assert_eq!(cursor.to_string(), text);
        assert_eq!(Cursor::parse(&text), cursor);
    }

    #[test]
    fn what_is_no_cursor_is_the_start() {
        let long = format!("1.1.0..{}", "x".repeat(TOKEN_MOST + 1));
        for text in [
            "",
            ".",
            "1",
            "2.1.0..",
            "1.1.0.",
            "1.-1.0..",
            "1.4294967296.0..",
            "1.1.-5..",
            "1.1.x..",
            "1.1.0.zz.",
            "1.1.0.1-.",
            "1.1.0.1-1_2-1_3-1_4-1_5-1.",
            "1.1.0..a b",
            "1.1.0..\u{0}",
            "1.1.0..ü",
            &long,
        ] {
            assert_eq!(Cursor::parse(text), Cursor::default(), "{text:?}");
        }
        assert_eq!(Cursor::parse("1.9.0..x").epoch, 9);
    }

    #[test]
    fn an_append_that_was_stored_twice_is_read_once_wherever_a_page_ends() {
        let once = ["1.0", "1.1", "1.2", "2.0", "2.1"];
        // Equal times: the repeat follows as a whole; rising times: each line is followed by its repeat.
        let whole = [(1, 0), (1, 1), (1, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 0), (2, 1)];
        let each = [(1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (2, 0), (2, 0), (2, 1), (2, 1)];
        // The repeat was stored later than what was written after it.
        let late = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (1, 0), (1, 1), (1, 2)];
        for page in 1..11 {
            assert_eq!(read(&whole, page), once, "pages of {page}");
            assert_eq!(read(&each, page), once, "pages of {page}");
            assert_eq!(read(&late, page), once, "pages of {page}");
        }
    }

    #[test]
    fn within_a_page_no_order_loses_a_line() {
        assert_eq!(read(&[(1, 1), (1, 0), (1, 1), (1, 2), (1, 0)], 5), ["1.1", "1.0", "1.2"]);
    }

    #[test]
    fn the_same_text_appended_twice_is_read_twice() {
        assert_eq!(read(&[(1, 0), (2, 0), (3, 0)], 2), ["1.0", "2.0", "3.0"]);
    }

    #[test]
    fn two_writers_at_once_hide_nothing_of_each_other() {
        let woven = [(1, 0), (2, 0), (1, 1), (2, 1), (1, 0), (2, 1)];
        assert_eq!(read(&woven, 2), ["1.0", "2.0", "1.1", "2.1"]);
    }

    #[test]
    fn a_line_of_somebody_else_hides_itself_and_no_other() {
        let mut cursor = Cursor::start_of(1);
        let ours = messages(&[(1, 0), (1, 1)]);
        let page = [ours[0].as_str(), "START RequestId: 1", "{}", "", r#"{"t":"x","s":"other","b":1,"i":1}"#, &ours[1]];
        let lines = cursor.take(page.into_iter().zip(1..).map(|(message, at_ms)| Read { at_ms, message }));
        assert_eq!(lines.len(), 2);
        assert_eq!(cursor.at_ms, 6);
    }

    #[test]
    fn a_page_is_cut_where_it_is_full_and_has_one_line_at_least() {
        assert_eq!(fitting([10, 10, 10], 30), 3);
        assert_eq!(fitting([10, 10, 10], 29), 2);
        assert_eq!(fitting([10, 10, 10], 5), 1);
        assert_eq!(fitting([], 5), 1);
    }
}
