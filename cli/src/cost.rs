//! `switchyard cost`: what jobs have cost, by capability and venue.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use switchyard_api::CostAnswer;
use switchyard_core::cost::dollars;

use crate::client::{Client, quote};
use crate::exit::Failure;
use crate::show;

/// Shows what the settled jobs that are still kept have cost.
pub(crate) fn show(client: &Client, since: Option<&str>, json: bool) -> Result<u8, Failure> {
    let query = since.map(|since| format!("?since={}", quote(since))).unwrap_or_default();
    let answer: CostAnswer = client.get(&format!("/v1/cost{query}"))?;
    if json {
        show::print_json(&answer)?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["CAPABILITY", "VENUE", "JOBS", "COST", "A JOB"]);
    for spend in &answer.spend {
        table.add_row([
            spend.capability.clone(),
            spend.venue.to_string(),
            spend.jobs.to_string(),
            dollars(spend.nanodollars),
            dollars(spend.nanodollars / spend.jobs.max(1)),
        ]);
    }
    let jobs: u64 = answer.spend.iter().map(|spend| spend.jobs).sum();
    let total = dollars(answer.nanodollars);
    table.add_row([
        "all".to_owned(),
        String::new(),
        jobs.to_string(),
        total,
        dollars(answer.nanodollars / jobs.max(1)),
    ]);
    for column in [2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    show::print(&table.trim_fmt())?;
    show::print("")?;
    show::print(&format!("{}; prices of {}, {}", answer.note, answer.region, answer.as_of))?;
    Ok(0)
}
