//! Events that no mapping answers: as a table, and one of them as it came.

use switchyard_api::{ReplayAnswer, UnmappedAnswer, UnmappedPage};
use switchyard_core::job::one_line;

use crate::client::{Client, quote};
use crate::exit::Failure;
use crate::show::{plain_table, print, print_json};

/// Lists those seen last.
pub(crate) fn list(client: &Client, limit: u16, json: bool) -> Result<u8, Failure> {
    let page: UnmappedPage = client.get(&format!("/v1/events/unmapped?limit={limit}"))?;
    if json {
        print_json(&page)?;
    } else {
        print(&text(&page))?;
    }
    Ok(0)
}

/// Prints one event's JSON: as a file that `switchyard replay` takes.
pub(crate) fn show(client: &Client, id: &str) -> Result<u8, Failure> {
    let answer: UnmappedAnswer = client.get(&format!("/v1/events/unmapped/{}", quote(id)))?;
    print_json(&answer.event)?;
    Ok(0)
}

/// Has the yard deliver again what its rules answer now, all that is kept.
pub(crate) fn replay(client: &Client, json: bool) -> Result<u8, Failure> {
    let mut all = ReplayAnswer::default();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/events/unmapped/replay?limit=500{cursor}");
        let some: ReplayAnswer = client.post(&path, None, None)?;
        all.tried += some.tried;
        all.answered += some.answered;
        all.jobs += some.jobs;
        all.refused.extend(some.refused);
        match some.next {
            Some(next) => cursor = format!("&cursor={}", quote(&next)),
            None => break,
        }
    }
    if json {
        print_json(&all)?;
        return Ok(0);
    }
    let ReplayAnswer { tried, answered, jobs, refused, .. } = &all;
    print(&format!("{tried} events were tried; the rules in force answer {answered} of them, with {jobs} jobs"))?;
    for refused in refused {
        print(&format!("stays: {}", one_line(refused, 300)))?;
    }
    Ok(0)
}

fn text(page: &UnmappedPage) -> String {
    let mut table = plain_table();
    table.set_header(["ID", "LAST SEEN", "SEEN", "SOURCE", "DETAIL-TYPE", "WHY"]);
    for event in &page.events {
        table.add_row([
            event.id.to_string(),
            one_line(&event.last_seen, 40),
            event.seen.to_string(),
            one_line(&event.source, 60),
            one_line(&event.detail_type, 60),
            one_line(&event.why, 300),
        ]);
    }
    let mut parts = vec![table.trim_fmt()];
    let shown = page.events.len() as u64;
    if shown < page.kept {
        parts.push(format!("{shown} of {} that are kept; --limit shows up to 500", page.kept));
    }
    if page.dropped > 0 {
        parts.push(format!("{} were dropped for want of room since the yard was made", page.dropped));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unmapped_events_as_people_see_them() {
        let event = |n: u8, source: &str| {
            json!({
                "id": format!("{n:032x}"), "source": source, "detail_type": "Order Placed", "bytes": 231,
                "why": "no reader knows events of source `my.app`\u{202e}", "seen": n,
                "first_seen": "2026-01-31T12:00:00.000Z", "last_seen": "2026-01-31T12:05:00.000Z",
            })
        };
        let page: UnmappedPage = serde_json::from_value(json!({
            "events": [event(1, "my.app"), event(12, "evil\u{1b}[2J\nforged")], "kept": 17, "dropped": 3,
        }))
        .unwrap();
        insta::assert_snapshot!(text(&page));
    }
}
