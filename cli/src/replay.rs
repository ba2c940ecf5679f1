//! Events by hand: what one would lead to, and its delivery.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use switchyard_api::EventAnswer;
use switchyard_core::cost::dollars;
use switchyard_core::intake::{self, EVENT_JOBS, Taking};
use switchyard_core::job::one_line;
use switchyard_core::policies::Situation;
use switchyard_core::wire::{AnswerView, EventPlanView, Explanation, FindingPlanView, ResourceView};

use crate::args::Replay;
use crate::client::Client;
use crate::exit::Failure;
use crate::local::INLINE_BUDGET;
use crate::{policies, show};

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
    for skipped in &answer.skipped {
        show::print(&format!("skipped: {}", one_line(skipped, 300)))?;
    }
    for defect in &answer.defects {
        show::print(&format!("not read: {}", one_line(defect, 300)))?;
    }
    if let Some(id) = &answer.unmapped {
        show::print(&format!("kept for replay as {id}"))?;
    }
    if !answer.jobs.is_empty() {
        show::print(&show::table(&answer.jobs))?;
    }
    if answer.repeated > 0 {
        show::print(&format!("{} of these were made by an earlier delivery of the same findings", answer.repeated))?;
    }
    Ok(0)
}

/// Says what an event would lead to under the rules of an open yard.
pub(crate) fn ask(client: &Client, path: &Path, json: bool) -> Result<u8, Failure> {
    let event = read(path)?;
    let plan: EventPlanView = client.post("/v1/events/plan", Some(event.to_string().as_bytes()), None)?;
    print(&plan, "those in force in the yard", json)
}

/// Says what an event would lead to, without a yard.
pub(crate) fn decide(asked: &Replay, json: bool) -> Result<u8, Failure> {
    let event = read(&asked.event)?;
    let folder = asked.policies.as_deref();
    let policies = if asked.aws { policies::as_on_aws(folder)? } else { policies::as_here(folder)? };
    let situation = Situation { policies: policies.into(), ..Situation::default() };
    let plan = intake::plan_event(&event, &situation.policies.mappings);
    let plan = plan.map_err(|error| Failure::BadInput(error.to_string()))?;
    // As if a request had taken it.
    let taking = Taking { invocation_left: Some(INLINE_BUDGET), companions: 0 };
    let rules = folder.map_or_else(|| "those built in".to_owned(), |folder| folder.display().to_string());
    print(&EventPlanView::of(&plan, &situation, taking, &BTreeSet::new()), &rules, json)
}

/// Mappings shown of those that were considered for a resource.
const CONSIDERED: usize = 4;

/// A plan, step by step.
fn print(plan: &EventPlanView, rules: &str, json: bool) -> Result<u8, Failure> {
    if json {
        show::print_json(plan)?;
        return Ok(0);
    }
    let line = |text: &str| show::print(&one_line(text, 400));
    line(&format!("rules      {rules}"))?;
    line(&format!("event      {} from {}", quoted(&plan.detail_type), quoted(&plan.source)))?;
    match &plan.reason {
        Some(reason) => line(&format!("read as    {}: {reason}", plan.reading))?,
        None if plan.reading == "plainly" => line("read as    a finding, because a mapping names this detail-type")?,
        None => line(&format!("read as    {} finding{}", plan.findings.len(), plural(plan.findings.len())))?,
    }
    for FindingPlanView { finding, skipped, answers } in &plan.findings {
        let field = |name: &str| finding[name].as_str().unwrap_or("none").to_owned();
        show::print("")?;
        line(&format!("finding    {}", field("title")))?;
        line(&format!("type       {}", quoted(finding["finding_type"].as_str().unwrap_or_default())))?;
        line(&format!("id         {}", field("id")))?;
        line(&format!("updated    {}", field("updated_at")))?;
        line(&format!("standing   {}, severity {}", field("standing"), field("severity")))?;
        line(&format!("where      account {}, region {}", quoted(&field("account")), quoted(&field("region"))))?;
        if let Some(why) = skipped {
            line(&format!("skipped    {why}"))?;
        }
        for answer in answers {
            print_answer(answer)?;
        }
    }
    if !plan.defects.is_empty() || plan.unmapped.is_some() || plan.left_out > 0 {
        show::print("")?;
    }
    for defect in &plan.defects {
        line(&format!("not read   {defect}"))?;
    }
    if plan.left_out > 0 {
        line(&format!("left out   {} jobs over the {EVENT_JOBS} that one event makes", plan.left_out))?;
    }
    if let Some(why) = &plan.unmapped {
        line(&format!("kept       for replay: {why}"))?;
    }
    let jobs = plan.findings.iter().flat_map(|finding| &finding.answers).flat_map(|answer| &answer.jobs);
    let (known, all) = jobs.fold((0, 0), |(known, all), job| (known + usize::from(job.known), all + 1));
    show::print("")?;
    let known = if known > 0 { format!(", {known} of which there are already") } else { String::new() };
    line(&format!("in all     {all} job{}{known}; nothing was submitted", plural(all)))?;
    Ok(0)
}

fn print_answer(answer: &AnswerView) -> Result<(), Failure> {
    let line = |text: &str| show::print(&one_line(text, 400));
    show::print("")?;
    match &answer.resource {
        Some(ResourceView { kind, id }) => line(&format!("resource   {kind} {id}"))?,
        None => line("resource   none, the finding itself")?,
    }
    for (at, sentence) in answer.considered.iter().take(CONSIDERED).enumerate() {
        let label = if at == 0 { "mapping" } else { "" };
        show::print(&format!("{label:<10} {}", one_line(sentence, 400)))?;
    }
    if answer.considered.len() > CONSIDERED {
        show::print(&format!("{:<10} and {} more; --json has all", "", answer.considered.len() - CONSIDERED))?;
    }
    if answer.mapping.is_none() && answer.jobs.is_empty() {
        line("unmapped   no mapping answers for it")?;
    }
    for job in &answer.jobs {
        let policy = job.policy.as_deref().unwrap_or("none: there are no mappings, and a finding is triaged");
        line(&format!("policy     {policy}"))?;
        let known = if job.known { ", and there is already" } else { "" };
        line(&format!("job        {} {} in the {} tier{known}", job.capability, job.id, job.tier))?;
        line(&format!("key        {}", job.key))?;
        if let Some(refused) = &job.refused {
            line(&format!("refused    {refused}"))?;
        }
        if let Some(explanation) = &job.explanation {
            print_place(explanation)?;
        }
    }
    Ok(())
}

/// Where a job would go, and why not elsewhere.
fn print_place(explanation: &Explanation) -> Result<(), Failure> {
    for verdict in &explanation.verdicts {
        let pool = verdict.pool.map(|pool| format!("/{pool}")).unwrap_or_default();
        let place = format!("{}{pool}", verdict.venue);
        let word = if verdict.chosen { "goes to" } else { "" };
        let costs = if verdict.rule.is_none() { format!(", {}", dollars(verdict.nanodollars)) } else { String::new() };
        show::print(&format!("{word:<10} {place:<15} {}{costs}", verdict.reason))?;
    }
    if explanation.venue.is_none() {
        show::print("refused    no place can run it")?;
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
