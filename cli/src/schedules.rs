//! What runs by the clock, as a table for people and JSON for programs.

use comfy_table::{ContentArrangement, Table, presets};
use switchyard_api::SchedulesAnswer;
use switchyard_core::job::one_line;

use crate::client::Client;
use crate::exit::Failure;
use crate::show::{print, print_json};

/// Lists the schedules.
pub(crate) fn list(client: &Client, json: bool) -> Result<u8, Failure> {
    let SchedulesAnswer { schedules } = client.get("/v1/schedules")?;
    if json {
        print_json(&schedules)?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAME", "WHEN", "ZONE", "NEXT TICK", "LAST TICK", "STATE", "LAST JOB", "SKIPPED"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for schedule in &schedules {
        let off = if schedule.enabled { None } else { Some("switched off".to_owned()) };
        table.add_row([
            schedule.name.clone(),
            one_line(&schedule.when, 200),
            schedule.time_zone.clone(),
            or_dash(off.or_else(|| schedule.next_tick.clone())),
            or_dash(schedule.last_tick.clone()),
            or_dash(schedule.last_job_state.map(|state| state.to_string())),
            or_dash(schedule.last_job.map(|job| job.to_string())),
            schedule.skipped.to_string(),
        ]);
    }
    print(&table.trim_fmt())?;
    for schedule in &schedules {
        if let Some(skip) = &schedule.last_skip {
            print(&format!("{} skipped at {}: {}", schedule.name, skip.at, one_line(&skip.why, 300)))?;
        }
    }
    Ok(0)
}
