//! Pause, resume, and the yard at a glance.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;
use switchyard_core::job::one_line;
use switchyard_core::wire::{ScopeView, StateCount, YardView};

use crate::args::{Pause, Scope};
use crate::client::Client;
use crate::exit::Failure;
use crate::show::{print, print_json};

impl Scope {
    /// What is meant: everything, where neither a tier nor a capability is given.
    fn view(&self) -> Result<ScopeView, Failure> {
        let tier =
            |tier: &String| serde_json::from_value(json!(tier)).map_err(|error| Failure::BadInput(error.to_string()));
        Ok(match (&self.tier, &self.capability) {
            (Some(name), _) => ScopeView::Tier(tier(name)?),
            (None, Some(capability)) => ScopeView::Capability(capability.clone()),
            (None, None) => ScopeView::All,
        })
    }
}

/// Pauses, and shows the yard.
pub(crate) fn pause(client: &Client, pause: &Pause, json: bool) -> Result<u8, Failure> {
    let body = json!({ "scope": pause.scope.view()?, "reason": pause.reason });
    show(&client.post("/v1/pause", Some(body.to_string().as_bytes()), None)?, json)
}

/// Resumes, and shows the yard.
pub(crate) fn resume(client: &Client, scope: &Scope, json: bool) -> Result<u8, Failure> {
    let body = json!({ "scope": scope.view()? });
    show(&client.post("/v1/resume", Some(body.to_string().as_bytes()), None)?, json)
}

/// Shows the yard.
pub(crate) fn yard(client: &Client, json: bool) -> Result<u8, Failure> {
    show(&client.get("/v1/yard")?, json)
}

fn show(yard: &YardView, json: bool) -> Result<u8, Failure> {
    if json {
        print_json(yard)?;
    } else {
        print(&text(yard))?;
    }
    Ok(0)
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header).add_rows(rows);
    table.trim_fmt()
}

fn counts(counts: &[StateCount]) -> String {
    let each: Vec<String> = counts.iter().map(|count| format!("{} {}", count.jobs, count.state)).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

fn text(yard: &YardView) -> String {
    let mut parts = Vec::new();
    for pause in &yard.pauses {
        let scope = match &pause.scope {
            ScopeView::All => "everything".to_owned(),
            ScopeView::Tier(tier) => format!("tier {tier}"),
            ScopeView::Capability(name) => format!("capability {}", one_line(name, 64)),
        };
        let reason =
            if pause.reason.is_empty() { String::new() } else { format!(": {}", one_line(&pause.reason, 200)) };
        parts.push(format!("PAUSED  {scope}, by {} since {}{reason}", one_line(&pause.by, 128), pause.since));
    }
    let age = |seconds: Option<u64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:?}", Duration::from_secs(seconds)))
    };
    let tier = |tier: &switchyard_core::wire::TierView| {
        vec![tier.tier.to_string(), tier.waiting.to_string(), tier.held.to_string(), age(tier.oldest_seconds)]
    };
    parts.push(table(&["TIER", "WAITING", "HELD", "OLDEST"], yard.tiers.iter().map(tier)));
    if !yard.capabilities.is_empty() {
        let row = |limit: &switchyard_core::wire::LimitView| {
            let most = limit.limit.map_or_else(|| "-".to_owned(), |most| most.to_string());
            vec![limit.capability.clone(), most, limit.used.to_string(), limit.held.to_string()]
        };
        parts.push(table(&["CAPABILITY", "LIMIT", "USED", "HELD"], yard.capabilities.iter().map(row)));
    }
    parts.push(format!("open           {}", counts(&yard.open)));
    parts.push(format!("ended (1 h)    {}", counts(&yard.ended_last_hour)));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yard_as_people_see_it() {
        let yard: YardView = serde_json::from_value(json!({
            "pauses": [{ "scope": { "tier": "standard" }, "by": "ana", "since": "2026-01-31T12:00:00.000Z", "reason": "it\u{1b}[2J is down" }],
            "tiers": [
                { "tier": "synchronous", "waiting": 0, "held": 0 },
                { "tier": "priority", "waiting": 2, "held": 0, "oldest_seconds": 3 },
                { "tier": "standard", "waiting": 0, "held": 41, "oldest_seconds": 4000 },
            ],
            "open": [{ "state": "held", "jobs": 41 }, { "state": "dispatched", "jobs": 2 }],
            "capabilities": [{ "capability": "nmap", "limit": 3, "used": 3, "held": 41 }],
            "ended_last_hour": [],
        }))
        .unwrap();
        insta::assert_snapshot!(text(&yard));
    }
}
