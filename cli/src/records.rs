//! What jobs emitted, and what all of them know of assets and findings.

use switchyard_api::{AssetsPage, FindingsPage, RecordsPage};
use switchyard_core::job::one_line;
use switchyard_core::records::Kind;
use switchyard_core::wire::{RecordView, RegisteredView};

use crate::args::Registered;
use crate::client::{Client, quote};
use crate::exit::Failure;
use crate::show::{plain_table, print, print_line};

/// As much of a record as one line of a table shows.
const SHOWN_CHARS: usize = 100;

/// Lists what a job emitted: of one kind, or of each.
pub(crate) fn of_job(client: &Client, id: &str, kind: Option<&str>, json: bool) -> Result<u8, Failure> {
    let all = Kind::ALL.map(Kind::as_str);
    let kinds = kind.map_or_else(|| all.to_vec(), |kind| vec![kind]);
    let mut rows = Vec::new();
    for kind in kinds {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/jobs/{}/result?kind={kind}&limit=500{cursor}", quote(id));
            let page: RecordsPage = client.get(&path)?;
            if json {
                for record in &page.records {
                    print_line(record)?;
                }
            } else {
                rows.extend(page.records);
            }
            match page.next {
                Some(next) => cursor = format!("&cursor={}", quote(&next)),
                None => break,
            }
        }
    }
    if !json {
        rows.sort_by_key(|record| (record.epoch, record.n));
        print(&records(&rows))?;
    }
    Ok(0)
}

fn records(rows: &[RecordView]) -> String {
    let mut table = plain_table();
    table.set_header(["RUN", "N", "AT", "KIND", "RECORD"]);
    for record in rows {
        table.add_row([
            record.epoch.to_string(),
            record.n.to_string(),
            one_line(&record.at, 40),
            record.kind.to_string(),
            one_line(&record.record.to_string(), SHOWN_CHARS),
        ]);
    }
    table.trim_fmt()
}

/// Lists assets.
pub(crate) fn assets(client: &Client, asked: &Registered, json: bool) -> Result<u8, Failure> {
    let page = |path: &str| client.get(path).map(|page: AssetsPage| (page.assets, page.next));
    registered("/v1/assets", page, asked, json)
}

/// Lists findings.
pub(crate) fn findings(client: &Client, asked: &Registered, json: bool) -> Result<u8, Failure> {
    let page = |path: &str| client.get(path).map(|page: FindingsPage| (page.findings, page.next));
    registered("/v1/findings", page, asked, json)
}

fn registered(
    path: &str,
    page: impl Fn(&str) -> Result<(Vec<RegisteredView>, Option<String>), Failure>,
    asked: &Registered,
    json: bool,
) -> Result<u8, Failure> {
    let mut query = String::new();
    for (name, value) in [("since", &asked.since), ("capability", &asked.capability)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", quote(value)));
        }
    }
    let (mut rows, mut cursor, mut more) = (Vec::new(), String::new(), false);
    while rows.len() < usize::from(asked.limit) {
        let left = usize::from(asked.limit) - rows.len();
        let (entries, next) = page(&format!("{path}?limit={left}{query}{cursor}"))?;
        rows.extend(entries);
        more = next.is_some();
        match next {
            Some(next) => cursor = format!("&cursor={}", quote(&next)),
            None => break,
        }
    }
    if json {
        for entry in &rows {
            print_line(entry)?;
        }
    } else {
        print(&entries(&rows, more))?;
    }
    Ok(0)
}

fn entries(rows: &[RegisteredView], more: bool) -> String {
    let mut table = plain_table();
    table.set_header(["ID", "LAST SEEN", "FIRST SEEN", "CAPABILITY", "JOB", "RECORD"]);
    for entry in rows {
        table.add_row([
            one_line(&entry.id, 120),
            one_line(&entry.last_seen, 40),
            one_line(&entry.first_seen, 40),
            one_line(&entry.capability, 64),
            entry.job.to_string(),
            one_line(&entry.record.to_string(), SHOWN_CHARS),
        ]);
    }
    let mut text = table.trim_fmt();
    if more {
        text.push_str(&format!("\n{} of more; --limit shows up to 500", rows.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_and_registers_as_people_see_them() {
        let job = "01890a5d-ac96-774b-bcce-b302099a8057";
        let record = |n: u64, id: &str| {
            serde_json::from_value::<RecordView>(json!({
                "epoch": 1, "n": n, "at": "2026-01-31T12:00:00.000Z", "kind": "asset", "id": id,
                "record": { "kind": "asset", "id": id, "of": "x".repeat(200) },
            }))
            .unwrap()
        };
        let entry = |id: &str| {
            serde_json::from_value::<RegisteredView>(json!({
                "id": id, "first_seen": "2026-01-30T12:00:00.000Z", "last_seen": "2026-01-31T12:00:00.000Z",
                "job": job, "capability": "scan", "record": { "kind": "asset", "id": id },
            }))
            .unwrap()
        };
        let tables = [
            records(&[record(1, "host:a"), record(12, "evil\u{1b}[2J\nforged\u{202e}")]),
            entries(&[entry("host:a"), entry("evil\u{1b}[2J\nforged\u{202e}")], true),
            entries(&[], false),
        ];
        insta::assert_snapshot!(tables.join("\n\n"));
    }
}
