//! Events that no mapping answers: kept once each, listed by pages, forgotten, bounded.

use super::*;
use crate::ports::{Unmapped, UnmappedCount, UnmappedId, UnmappedRoom, UnmappedSummary};

/// The room for unmapped events that a home must have while the suite runs on it, so that a case can fill it.
pub const UNMAPPED_ROOM: UnmappedRoom = UnmappedRoom { events: 6, bytes: 4096 };

/// An event with so much text, as it comes `ago` seconds before `now`.
fn event(now: Timestamp, name: &str, bytes: usize, ago: u64) -> Unmapped {
    let event = json!({ "source": "my.app", "detail": { "name": name, "of": "x".repeat(bytes) } });
    Unmapped::new(&event, "my.app", "Order", "no mapping answers it", now - seconds(ago))
}

async fn keep(yard: &Yard, event: &Unmapped) {
    yard.ledger.keep_unmapped(event.clone()).await.expect("keep");
}

async fn page(yard: &Yard, before: Option<(Timestamp, UnmappedId)>, limit: usize) -> Vec<UnmappedSummary> {
    yard.ledger.unmapped(before, limit).await.expect("list")
}

async fn kept(yard: &Yard) -> Vec<UnmappedId> {
    page(yard, None, 100).await.iter().map(|event| event.id).collect()
}

async fn find(yard: &Yard, id: UnmappedId) -> Option<Unmapped> {
    yard.ledger.unmapped_event(id).await.expect("load")
}

async fn count(yard: &Yard) -> UnmappedCount {
    yard.ledger.unmapped_count().await.expect("count")
}

fn texts(events: &[&Unmapped]) -> u64 {
    events.iter().map(|event| event.event.len() as u64).sum()
}

pub(super) async fn an_unmapped_event_is_kept_whole_and_once_however_often_it_comes(yard: &Yard) {
    let now = today(yard);
    let first = event(now, "a", 10, 60);
    assert_eq!((find(yard, first.id).await, count(yard).await), (None, UnmappedCount::default()));
    keep(yard, &first).await;
    assert_eq!(find(yard, first.id).await, Some(first.clone()));
    let again = Unmapped { why: "its mapping is switched off".to_owned(), ..event(now, "a", 10, 5) };
    assert_eq!(again.id, first.id, "the same event");
    keep(yard, &again).await;
    let changed = Unmapped { why: again.why, last: again.last, seen: 2, ..first.clone() };
    assert_eq!(find(yard, changed.id).await, Some(changed));
    // Two deliveries at once may be written in any order.
    keep(yard, &event(now, "a", 10, 30)).await;
    let thrice = Unmapped { last: again.last, seen: 3, ..first };
    assert_eq!(find(yard, thrice.id).await, Some(thrice.clone()), "the last moment never goes back");
    assert_eq!(page(yard, None, 10).await, [thrice.summary()]);
    assert_eq!(count(yard).await, UnmappedCount { events: 1, bytes: texts(&[&thrice]), dropped: 0 });
}

pub(super) async fn unmapped_events_are_listed_last_seen_first_and_page_by_page(yard: &Yard) {
    let now = today(yard);
    let events = [("a", 40), ("b", 30), ("c", 20), ("d", 20), ("e", 10)].map(|(name, ago)| event(now, name, 10, ago));
    for event in &events {
        keep(yard, event).await;
    }
    keep(yard, &event(now, "a", 10, 5)).await;
    let [a, b, c, d, e] = events.map(|event| event.id);
    let expected = [a, e, c.max(d), c.min(d), b];
    assert_eq!(kept(yard).await, expected, "what came again is in front; of the same moment, by id");
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = page(yard, before, 3).await;
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3, "no more than asked for");
        before = Some((last.last, last.id));
        paged.extend(page.iter().map(|event| event.id));
    }
    assert_eq!(paged, expected, "no gap and no repeat, also between two of the same moment");
}

pub(super) async fn a_forgotten_unmapped_event_leaves_nothing_and_is_new_when_it_comes_again(yard: &Yard) {
    let now = today(yard);
    let events = ["a", "b", "c"].map(|name| event(now, name, 10, 10));
    for event in &events {
        keep(yard, event).await;
    }
    let [a, b, c] = &events;
    let unknown = event(now, "never came", 10, 10).id;
    yard.ledger.forget_unmapped(&[]).await.expect("forgetting none is no error");
    yard.ledger.forget_unmapped(&[a.id, c.id, unknown]).await.expect("forget");
    yard.ledger.forget_unmapped(&[a.id]).await.expect("forgetting twice is no error");
    assert_eq!((kept(yard).await, find(yard, a.id).await), (vec![b.id], None));
    let left = UnmappedCount { events: 1, bytes: texts(&[b]), dropped: 0 };
    assert_eq!(count(yard).await, left, "what is forgotten was not dropped");
    keep(yard, a).await;
    assert_eq!(find(yard, a.id).await, Some(a.clone()));
}

pub(super) async fn the_longest_unseen_events_make_room_and_are_counted(yard: &Yard) {
    let now = today(yard);
    let events: Vec<Unmapped> = (0..6).map(|n| event(now, &n.to_string(), 10, 60 - n)).collect();
    for event in &events {
        keep(yard, event).await;
    }
    let before = count(yard).await;
    assert_eq!((before.events, before.dropped), (UNMAPPED_ROOM.events, 0), "is there UNMAPPED_ROOM in this home?");
    // The oldest comes again: now the second is the longest unseen.
    keep(yard, &event(now, "0", 10, 20)).await;
    let newer = event(now, "6", 10, 15);
    keep(yard, &newer).await;
    let ids = [&newer, &events[0], &events[5], &events[4], &events[3], &events[2]].map(|event| event.id);
    assert_eq!((kept(yard).await, count(yard).await.dropped), (ids.to_vec(), 1), "by count");
    assert_eq!(find(yard, events[1].id).await, None, "what was dropped is gone");
    // Beside this one there is room for three of the others, to the byte.
    let small = texts(&[&newer]);
    let around = texts(&[&event(now, "large", 0, 0)]);
    let filler = usize::try_from(UNMAPPED_ROOM.bytes - 3 * small - around).expect("a few kilobytes");
    let large = event(now, "large", filler, 10);
    keep(yard, &large).await;
    assert_eq!(kept(yard).await, [large.id, ids[0], ids[1], ids[2]], "by bytes, and no more go than must");
    let full = UnmappedCount { events: 4, bytes: UNMAPPED_ROOM.bytes, dropped: 4 };
    assert_eq!(count(yard).await, full);
}
