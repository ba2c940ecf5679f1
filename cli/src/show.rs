//! What the yard answers, as tables for people and JSON for programs.

use std::io::{Read, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use switchyard_api::{JobAnswer, JobsPage, LogsPage, TimelineAnswer};
use switchyard_core::job::{Phase, one_line};
use switchyard_core::ports::Stream;
use switchyard_core::wire::JobView;

use crate::args::{Jobs, Submit};
use crate::client::{Client, quote};
use crate::exit::Failure;

/// How long one answer is waited for before asking again.
const WAIT_SECONDS: u64 = 30;

/// Prints a value as JSON, a program's form.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::BadInput(error.to_string()))?;
    // Escaped as JSON allows anywhere in a string: what a job made must not drive the reader's terminal.
    let escaped = |text: &mut String, c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
        c => text.push(c),
    };
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|c| escaped(&mut safe, c));
    print(&safe)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        // Whoever reads has seen enough: `switchyard jobs | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|cause| Failure::io("write to standard output", cause)),
    }
}

/// Prints jobs as a table.
pub(crate) fn table(jobs: &[JobView]) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ID", "CAPABILITY", "STATE", "TIER", "VENUE", "ATTEMPTS", "CREATED"]);
    for job in jobs {
        table.add_row([
            job.id.to_string(),
            job.capability.clone(),
            job.state.to_string(),
            job.tier.to_string(),
            job.venue.to_string(),
            format!("{}/{}", job.attempts_spent, job.attempts_allowed),
            job.created_at.clone(),
        ]);
    }
    print(&table.trim_fmt())
}

fn detail(job: &JobView) -> String {
    let mut lines = vec![
        format!("job         {}", job.id),
        format!("capability  {}", job.capability),
        format!("state       {}", job.state),
    ];
    if let Some(why) = &job.why {
        lines.push(format!("why         {}", one_line(why, 600)));
    }
    lines.push(format!("venue       {} (epoch {})", job.venue, job.epoch));
    for verdict in &job.verdicts {
        let pool = verdict.pool.map(|pool| format!("/{pool}")).unwrap_or_default();
        lines.push(format!("            {}{pool}: {}", verdict.venue, verdict.reason));
    }
    lines.push(format!("tier        {}", job.tier));
    lines.push(format!(
        "attempts    {} of {} spent; {} interruptions, {} lost holders",
        job.attempts_spent, job.attempts_allowed, job.interruptions, job.losses
    ));
    lines.push(format!("created     {}", job.created_at));
    if let Some(settled) = &job.settled_at {
        lines.push(format!("settled     {settled}"));
    }
    if let Some(error) = &job.error {
        lines.push(format!("error       {}: {}", error.code, one_line(&error.message, 400)));
    }
    for (name, value) in &job.labels {
        lines.push(format!("label       {}={}", one_line(name, 63), one_line(value, 255)));
    }
    if let Some(bytes) = job.result_bytes {
        lines.push(format!("result      {bytes} bytes: switchyard result {}", job.id));
    }
    lines.join("\n")
}

fn payload(text: &str) -> Result<Value, Failure> {
    let (name, text) = match text.strip_prefix('@') {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            (path.to_owned(), read.map_err(|cause| Failure::BadInput(format!("cannot read {path}: {cause}")))?)
        }
        None if text == "-" => {
            let mut read = String::new();
            let done = std::io::stdin().take(2 * 1024 * 1024).read_to_string(&mut read);
            done.map_err(|cause| Failure::BadInput(format!("cannot read standard input: {cause}")))?;
            ("standard input".to_owned(), read)
        }
        None => ("the payload".to_owned(), text.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| Failure::BadInput(format!("{name} is not JSON: {error}")))
}

/// Submits a job; with --wait, follows it to its end.
pub(crate) fn submit(client: &Client, submit: &Submit, json: bool) -> Result<u8, Failure> {
    let mut labels = serde_json::Map::new();
    for label in &submit.labels {
        let (name, value) =
            label.split_once('=').ok_or_else(|| Failure::BadInput(format!("--label {label}: expected NAME=VALUE")))?;
        labels.insert(name.to_owned(), value.into());
    }
    let mut body =
        json!({ "capability": submit.capability, "payload": payload(&submit.payload)?, "tier": submit.tier });
    if !labels.is_empty() {
        body["labels"] = labels.into();
    }
    let optional = [
        ("delay_seconds", submit.delay),
        ("start_within_seconds", submit.start_within),
        ("run_timeout_seconds", submit.run_timeout),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    if submit.announce {
        body["announce"] = true.into();
    }
    let wait = if submit.wait { WAIT_SECONDS } else { 0 };
    let path = format!("/v1/jobs?wait={wait}");
    let mut answer: JobAnswer = client.post(&path, Some(body.to_string().as_bytes()), submit.key.as_deref())?;
    while submit.wait && !answer.job.state.is_settled() {
        answer = client.get(&format!("/v1/jobs/{}?wait={WAIT_SECONDS}", answer.job.id))?;
    }
    if json {
        print_json(&answer)?;
    } else {
        print(&detail(&answer.job))?;
        if submit.wait {
            print_output(client, &answer)?;
        }
    }
    Ok(if submit.wait && answer.job.state != Phase::Succeeded { 1 } else { 0 })
}

fn print_output(client: &Client, answer: &JobAnswer) -> Result<(), Failure> {
    let mut cursor = String::new();
    loop {
        let page: LogsPage = client.get(&format!("/v1/jobs/{}/logs?cursor={}", answer.job.id, quote(&cursor)))?;
        if page.lines.is_empty() {
            break;
        }
        if cursor.is_empty() {
            print("output")?;
        }
        print_lines(&page)?;
        cursor = page.next;
    }
    if let Some(result) = &answer.result {
        print("result")?;
        print_json(result)?;
    }
    Ok(())
}

fn print_lines(page: &LogsPage) -> Result<(), Failure> {
    for line in &page.lines {
        let mark = match line.stream {
            Stream::Stdout => ' ',
            Stream::Stderr => '!',
            Stream::Yard => '*',
        };
        // What a job prints must not drive the reader's terminal.
        print(&format!("{mark} {}", one_line(&line.text, usize::MAX)))?;
    }
    Ok(())
}

/// Shows one job.
pub(crate) fn job(client: &Client, id: &str, timeline: bool, json: bool) -> Result<u8, Failure> {
    let answer: JobAnswer = client.get(&format!("/v1/jobs/{}", quote(id)))?;
    if !timeline {
        if json {
            print_json(&answer.job)?
        } else {
            print(&detail(&answer.job))?
        }
        return Ok(0);
    }
    let history: TimelineAnswer = client.get(&format!("/v1/jobs/{}/timeline", quote(id)))?;
    if json {
        print_json(&json!({ "job": answer.job, "timeline": history.timeline }))?;
        return Ok(0);
    }
    print(&detail(&answer.job))?;
    print("timeline")?;
    for entry in history.timeline {
        let entry = format!(
            "  {:<24}  {:<10}  epoch {:<3}  {}  {}",
            entry.at,
            entry.state,
            entry.epoch,
            entry.reason,
            one_line(&entry.detail, 300)
        );
        print(entry.trim_end())?;
    }
    Ok(0)
}

/// Lists jobs.
pub(crate) fn jobs(client: &Client, jobs: &Jobs, json: bool) -> Result<u8, Failure> {
    let mut query = format!("limit={}", jobs.limit.min(500));
    let filters =
        [("state", &jobs.state), ("capability", &jobs.capability), ("label", &jobs.label), ("since", &jobs.since)];
    for (name, value) in filters {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", quote(value)));
        }
    }
    let mut page: JobsPage = client.get(&format!("/v1/jobs?{query}"))?;
    while let Some(next) = page.next.take().filter(|_| page.jobs.len() < jobs.limit) {
        let more: JobsPage = client.get(&format!("/v1/jobs?{query}&cursor={}", quote(&next)))?;
        page.jobs.extend(more.jobs);
        page.next = more.next;
    }
    page.jobs.truncate(jobs.limit);
    if json {
        print_json(&page.jobs)?
    } else {
        table(&page.jobs)?;
    }
    Ok(0)
}

/// Shows what a job printed.
pub(crate) fn logs(client: &Client, id: &str, follow: bool, json: bool) -> Result<u8, Failure> {
    let wait = if follow { WAIT_SECONDS } else { 0 };
    let mut cursor = String::new();
    loop {
        let page: LogsPage =
            client.get(&format!("/v1/jobs/{}/logs?wait={wait}&cursor={}", quote(id), quote(&cursor)))?;
        if json {
            for line in &page.lines {
                let line = serde_json::to_string(line).map_err(|error| Failure::BadInput(error.to_string()))?;
                print(&line)?;
            }
        } else {
            print_lines(&page)?;
        }
        if page.done || (!follow && page.lines.is_empty()) {
            return Ok(0);
        }
        cursor = page.next;
    }
}

/// Prints what a job made.
pub(crate) fn result(client: &Client, id: &str) -> Result<u8, Failure> {
    let result: Value = client.get(&format!("/v1/jobs/{}/result", quote(id)))?;
    print_json(&result)?;
    Ok(0)
}

/// Cancels or retries a job.
pub(crate) fn change(client: &Client, id: &str, verb: &str, json: bool) -> Result<u8, Failure> {
    let job: JobView = client.post(&format!("/v1/jobs/{}/{verb}", quote(id)), None, None)?;
    if json {
        print_json(&job)?
    } else {
        print(&detail(&job))?
    }
    Ok(0)
}

/// Lists what the yard can run.
pub(crate) fn capabilities(client: &Client, json: bool) -> Result<u8, Failure> {
    let answer: Value = client.get("/v1/capabilities")?;
    if json {
        print_json(&answer)?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAME", "TIMEOUT", "ATTEMPTS", "SUMMARY"]);
    for capability in answer["capabilities"].as_array().into_iter().flatten() {
        let text = |name: &str| capability[name].as_str().unwrap_or_default().to_owned();
        let timeout = Duration::from_secs(capability["timeout_seconds"].as_u64().unwrap_or_default());
        table.add_row([text("name"), format!("{timeout:?}"), capability["attempts"].to_string(), text("summary")]);
    }
    print(&table.trim_fmt())?;
    Ok(0)
}
