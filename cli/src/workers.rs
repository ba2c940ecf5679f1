//! `switchyard workers`: who works, what room they have, and what they run.

use comfy_table::{ContentArrangement, Table, presets};
use switchyard_api::WorkersAnswer;
use switchyard_core::wire::WorkerView;

use crate::client::Client;
use crate::exit::Failure;
use crate::show::{print, print_json};

pub(crate) fn list(client: &Client, json: bool) -> Result<u8, Failure> {
    let answer: WorkersAnswer = client.get("/v1/workers")?;
    if json {
        print_json(&answer)?;
    } else {
        print(&table(&answer.workers))?;
    }
    Ok(0)
}

fn table(workers: &[WorkerView]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["HOLDER", "POOL", "SLOTS", "VCPU", "MEMORY MIB", "STATE", "SINCE", "RUNS"]);
    for worker in workers {
        let WorkerView { holder, pool, capacity, used, since, leaving, runs } = worker;
        let runs: Vec<String> = runs.iter().map(|run| format!("{} {}", run.capability, run.job)).collect();
        let busy = if used.slots == 0 { "idle" } else { "works" };
        table.add_row([
            holder.to_string(),
            pool.to_string(),
            format!("{}/{}", used.slots, capacity.slots),
            format!("{}/{}", vcpu(used.milli_vcpu), vcpu(capacity.milli_vcpu)),
            format!("{}/{}", used.memory_mib, capacity.memory_mib),
            if *leaving { "leaving" } else { busy }.to_owned(),
            since.clone(),
            runs.join("\n"),
        ]);
    }
    table.trim_fmt()
}

/// Thousandths of a processor as a person reads them: 2 or 0.25.
fn vcpu(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::{Epoch, Holder, JobId};
    use switchyard_core::ports::Room;
    use switchyard_core::route::PoolName;
    use switchyard_core::wire::RunView;

    use super::*;

    #[test]
    fn workers_are_shown_with_what_they_run() {
        let run = |n: u8, capability: &str| RunView {
            job: JobId::from_bytes([n; 16]),
            epoch: Epoch(1),
            capability: capability.to_owned(),
            since: "2026-01-31T12:00:00Z".to_owned(),
        };
        let busy = WorkerView {
            holder: Holder("worker/00c0ffee".to_owned()),
            pool: PoolName::STANDARD,
            capacity: Room { slots: 2, milli_vcpu: 2000, memory_mib: 900 },
            used: Room { slots: 2, milli_vcpu: 1250, memory_mib: 528 },
            since: "2026-01-31T11:00:00Z".to_owned(),
            leaving: false,
            runs: vec![run(1, "port-scan"), run(2, "triage")],
        };
        let leaving = WorkerView {
            holder: Holder("worker/0badcafe".to_owned()),
            used: Room::default(),
            leaving: true,
            runs: vec![],
            ..busy.clone()
        };
        let shown = table(&[busy, leaving]);
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert!(lines[1].contains("2/2") && lines[1].contains("1.25/2") && lines[1].contains("528/900"), "{shown}");
        assert!(lines[1].contains("port-scan 01010101-") && lines[2].starts_with("triage 02020202-"), "{shown}");
        assert!(lines[3].contains("0/2") && lines[3].contains("leaving"), "{shown}");
    }
}
