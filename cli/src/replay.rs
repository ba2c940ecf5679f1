//! Events by hand: what one would lead to, and its delivery.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use switchyard_api::EventAnswer;
use switchyard_core::finding::triage::triage;
use switchyard_core::finding::{self, Reading};
use switchyard_core::intake;
use switchyard_core::job::one_line;

use crate::client::Client;
use crate::exit::Failure;
use crate::show;

/// The largest event that is read. EventBridge takes 256 KiB; a file of findings exported by hand may hold more.
const EVENT_BYTES: u64 = 1024 * 1024;

fn read(path: &Path) -> Result<Value, Failure> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(EVENT_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(EVENT_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|cause| Failure::BadInput(format!("cannot read {name}: {cause}")))?;
    if bytes.len() as u64 > EVENT_BYTES {
        return Err(Failure::BadInput(format!("{name} is over {EVENT_BYTES} bytes: an event is at most 256 KiB")));
    }
    let event: Value =
        serde_json::from_slice(&bytes).map_err(|error| Failure::BadInput(format!("{name} is not JSON: {error}")))?;
    if !event.is_object() {
        return Err(Failure::BadInput(format!("{name} is not an event: expected a JSON object")));
    }
    Ok(event)
}

/// Delivers an event.
pub(crate) fn submit(client: &Client, path: &Path, json: bool) -> Result<u8, Failure> {
    let event = read(path)?;
    let answer: EventAnswer = client.post("/v1/events", Some(event.to_string().as_bytes()), None)?;
    if json {
        show::print_json(&answer)?;
        return Ok(0);
    }
    if let Some(reason) = &answer.reason {
        show::print(&format!("{}: {reason}", answer.reading))?;
    }
    for defect in &answer.defects {
        show::print(&format!("not read: {}", one_line(defect, 300)))?;
    }
    if !answer.jobs.is_empty() {
        show::print(&show::table(&answer.jobs))?;
    }
    if answer.repeated > 0 {
        show::print(&format!("{} of these were made by an earlier delivery of the same findings", answer.repeated))?;
    }
    Ok(0)
}

/// Says what an event would lead to, without a yard.
pub(crate) fn explain(path: &Path, json: bool) -> Result<u8, Failure> {
    let event = read(path)?;
    let reading = finding::read(&event).map_err(|error| Failure::BadInput(error.to_string()))?;
    let (name, reason, findings, defects) = match reading {
        Reading::Findings { findings, defects } => ("findings", None, findings, defects),
        Reading::Nothing { reason, .. } => ("nothing", Some(reason), vec![], vec![]),
        Reading::Unknown { source, detail_type } => {
            let reason = format!("no reader knows events of source `{source}` and detail-type `{detail_type}`");
            ("unknown", Some(one_line(&reason, 400)), vec![], vec![])
        }
    };
    let triages: Vec<Value> = findings.iter().map(|finding| triage(finding).to_json()).collect();
    if json {
        let findings: Vec<Value> = findings.iter().map(finding::Finding::to_json).collect();
        let defects: Vec<String> = defects.iter().map(ToString::to_string).collect();
        show::print_json(&serde_json::json!({
            "reading": name, "reason": reason, "findings": findings, "triages": triages, "defects": defects,
        }))?;
        return Ok(0);
    }
    if let Some(reason) = reason {
        show::print(&format!("{name}: {reason}"))?;
        show::print("No job would be made.")?;
    }
    for (finding, triage) in findings.iter().zip(&triages) {
        let (submission, key) = intake::of_finding(finding);
        show::print(&format!(
            "finding    {} ({})",
            one_line(&finding.title, 100),
            one_line(&finding.finding_type, 100)
        ))?;
        show::print(&format!("id         {}", one_line(&finding.id, 200)))?;
        show::print(&format!("in         account {} region {}", finding.account, finding.region))?;
        for resource in &finding.resources {
            show::print(&format!("resource   {} {}", one_line(&resource.kind, 60), one_line(&resource.id, 200)))?;
        }
        show::print(&format!("triage     {}", one_line(triage["summary"].as_str().unwrap_or_default(), 600)))?;
        show::print(&format!("job        {} in the {} tier, key {key}", submission.capability, submission.tier))?;
        show::print("")?;
    }
    for defect in &defects {
        show::print(&format!("not read: {}", one_line(&defect.to_string(), 300)))?;
    }
    Ok(0)
}
