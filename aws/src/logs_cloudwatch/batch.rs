//! Lines as events, and events in the batches that one PutLogEvents takes.

use serde::{Deserialize, Serialize};
use switchyard_core::ports::{LogLine, Stream};

/// Events in a batch.
pub(super) const EVENTS_MOST: usize = 10_000;
/// Bytes of a batch: its messages, and [`EVENT_BYTES`] an event.
pub(super) const BATCH_BYTES_MOST: usize = 1_048_576;
/// What each event counts beside its message.
pub(super) const EVENT_BYTES: usize = 26;
/// From a batch's first event to its last.
pub(super) const SPAN_MS_MOST: i64 = 24 * 60 * 60 * 1000;
/// The longest line, as [`LogLine::text`] has it. In JSON a byte becomes six at most, so that a message stays below the
/// 256 KiB that an event always could have.
const LINE_BYTES: usize = 16 * 1024;

/// A line as CloudWatch Logs keeps it; when it was printed is the event's own time. The text comes first because that
/// is what people look for. `b` and `i` tell a line that was stored twice, because an answer was lost, from one that
/// was printed twice.
#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    /// The line.
    pub(super) t: String,
    /// Where it came from.
    pub(super) s: Stream,
    /// Drawn for each append.
    pub(super) b: u64,
    /// Its place in that append, from 0.
    pub(super) i: u32,
}

/// An event to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at_ms: i64,
    pub(super) message: String,
}

impl Event {
    fn bytes(&self) -> usize {
        self.message.len() + EVENT_BYTES
    }
}

/// The lines as events, in the order of their times; what was printed within the same moment stays as it was.
pub(super) fn events(lines: &[LogLine], batch: u64) -> Vec<Event> {
    let mut ordered: Vec<&LogLine> = lines.iter().collect();
    ordered.sort_by_key(|line| line.at);
    let event = |(line, i): (&LogLine, u32)| {
        let text = &line.text[..line.text.floor_char_boundary(LINE_BYTES)];
        let message = Message { t: text.to_owned(), s: line.stream, b: batch, i };
        let message = serde_json::to_string(&message)
            .unwrap_or_else(|error| unreachable!("a text and numbers are always JSON: {error}"));
        // Nothing was before 1970 for CloudWatch.
        Event { at_ms: line.at.as_millisecond().max(0), message }
    };
    ordered.into_iter().zip(0..).map(event).collect()
}

/// The events, which are in order, in as few batches as the limits allow.
pub(super) fn batches(events: Vec<Event>) -> Vec<Vec<Event>> {
    let mut batches: Vec<Vec<Event>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match batches.last_mut() {
            Some(batch)
                if batch.len() < EVENTS_MOST
                    && bytes + event.bytes() <= BATCH_BYTES_MOST
                    && batch.first().is_none_or(|first| event.at_ms - first.at_ms <= SPAN_MS_MOST) =>
            {
                bytes += event.bytes();
                batch.push(event);
            }
            _ => {
                bytes = event.bytes();
                batches.push(vec![event]);
            }
        }
    }
    batches
}

/// How many events of a batch were not kept although the answer was 200: those before the last that was too old, or
/// past the group's retention, and those from the first that was too new.
pub(super) fn lost(events: usize, too_old_end: Option<i32>, expired_end: Option<i32>, too_new: Option<i32>) -> usize {
    let index = |index: i32| usize::try_from(index).unwrap_or(0).min(events);
    let head = too_old_end.into_iter().chain(expired_end).map(index).max().unwrap_or(0);
    let tail = too_new.map_or(events, index).max(head);
    head + (events - tail)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn line(at_ms: i64, text: &str) -> LogLine {
        LogLine { at: Timestamp::from_millisecond(at_ms).unwrap(), stream: Stream::Stdout, text: text.to_owned() }
    }

    fn event(at_ms: i64, bytes: usize) -> Event {
        Event { at_ms, message: "x".repeat(bytes) }
    }

    fn sizes(events: Vec<Event>) -> Vec<usize> {
        batches(events).iter().map(Vec::len).collect()
    }

    #[test]
    fn lines_are_put_in_order_of_time_and_equal_times_stay_as_they_were() {
        let lines = [line(7, "c"), line(5, "a"), line(7, "d"), line(5, "b"), line(-3, "before 1970")];
        let events = events(&lines, 9);
        let read: Vec<(i64, String, u32)> = events
            .iter()
            .map(|event| {
                let message: Message = serde_json::from_str(&event.message).unwrap();
                assert_eq!((message.b, message.s), (9, Stream::Stdout));
                (event.at_ms, message.t, message.i)
            })
            .collect();
        let expected = [(0, "before 1970"), (5, "a"), (5, "b"), (7, "c"), (7, "d")];
        assert!(read.iter().map(|(at, text, _)| (*at, text.as_str())).eq(expected), "{read:?}");
        assert!(read.iter().map(|(_, _, i)| *i).eq(0..5));
    }

    #[test]
    fn controls_and_escapes_are_kept_within_the_json() {
        let text = "\u{1b}[31mred\u{0}\u{7f}\t\"\\ Ω";
        let events = events(&[line(1, text)], 0);
        let message = &events[0].message;
        assert!(message.starts_with(r#"{"t":"\u001b[31mred\u0000"#) && !message.contains('\u{1b}'), "{message}");
        assert_eq!(serde_json::from_str::<Message>(message).unwrap().t, text);
    }

    #[test]
    fn a_line_longer_than_any_is_cut_between_characters_and_fits_an_event() {
        let events =
            events(&[line(1, &format!("x{}", "ß".repeat(LINE_BYTES))), line(2, &"\u{1}".repeat(LINE_BYTES))], 0);
        let cut: Message = serde_json::from_str(&events[0].message).unwrap();
        assert_eq!(cut.t.len(), LINE_BYTES - 1);
        assert!(events[1].message.len() > 6 * LINE_BYTES && events[1].message.len() < 256 * 1024);
    }

    #[test]
    fn a_batch_has_ten_thousand_events_and_not_one_more() {
        assert_eq!(sizes(vec![event(1, 1); EVENTS_MOST]), [EVENTS_MOST]);
        assert_eq!(sizes(vec![event(1, 1); EVENTS_MOST + 1]), [EVENTS_MOST, 1]);
        assert_eq!(sizes(vec![]), [0; 0]);
    }

    #[test]
    fn a_batch_has_a_mebibyte_with_26_bytes_an_event_and_not_one_more() {
        let half = BATCH_BYTES_MOST / 2 - EVENT_BYTES;
        assert_eq!(sizes(vec![event(1, half), event(1, half)]), [2]);
        assert_eq!(sizes(vec![event(1, half), event(1, half + 1)]), [1, 1]);
        assert_eq!(sizes(vec![event(1, half), event(1, half + 1), event(1, half - 1), event(1, 1)]), [1, 2, 1]);
    }

    #[test]
    fn a_batch_spans_a_day_and_not_a_millisecond_more() {
        assert_eq!(sizes(vec![event(5, 1), event(5 + SPAN_MS_MOST, 1)]), [2]);
        assert_eq!(sizes(vec![event(5, 1), event(6 + SPAN_MS_MOST, 1), event(7 + SPAN_MS_MOST, 1)]), [1, 2]);
    }

    #[test]
    fn batches_hold_every_event_once_in_order() {
        let lines: Vec<LogLine> = (0..25_000).map(|n| line(n / 7, &n.to_string())).collect();
        let events = events(&lines, 3);
        assert_eq!(batches(events.clone()).concat(), events);
    }

    #[test]
    fn what_a_200_rejected_is_counted() {
        assert_eq!(lost(10, None, None, None), 0);
        assert_eq!(lost(10, Some(3), None, None), 3);
        assert_eq!(lost(10, Some(3), Some(5), None), 5);
        assert_eq!(lost(10, Some(3), None, Some(8)), 5);
        assert_eq!(lost(10, None, None, Some(0)), 10);
        assert_eq!(lost(10, Some(10), None, None), 10);
        assert_eq!(lost(10, Some(99), None, Some(-1)), 10, "an index that cannot be");
    }
}
