//! What the yard answers, as tables for people and JSON for programs.

use std::io::{Read, Write};
use std::time::Duration;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use switchyard_api::{JobAnswer, JobsPage, LogsPage, ReloadAnswer, TimelineAnswer};
use switchyard_core::cost::dollars;
use switchyard_core::job::{Phase, is_unsafe_on_screen, one_line};
use switchyard_core::ports::Stream;
use switchyard_core::wire::{JobView, LogView};

use crate::args::{Jobs, Submit};
use crate::client::{Client, WAIT_SECONDS, quote};
use crate::exit::Failure;
use crate::watch::{Page, watch};

/// Prints a value as JSON, a program's form.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json_text(value)?)
}

fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::BadInput(error.to_string()))?;
    // Between its values JSON has no control character but the line's end.
    Ok(text.lines().map(escaped).collect::<Vec<_>>().join("\n"))
}

/// `text` with what would drive a terminal written out, as JSON allows anywhere in a string.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe_on_screen(c) {
            // None of them is beyond what four digits hold.
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Prints a value as JSON in one line.
pub(crate) fn print_line(value: &impl Serialize) -> Result<(), Failure> {
    print(&escaped(&serde_json::to_string(value).map_err(|error| Failure::BadInput(error.to_string()))?))
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        // Whoever reads has seen enough: `switchyard jobs | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|cause| Failure::io("write to standard output", cause)),
    }
}

/// A table for people: no lines, and colours only where they are wanted.
pub(crate) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    // The library looks at the terminal; that colours are unwanted it does not ask (no-color.org).
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if unwanted || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        table.force_no_tty();
    }
    table
}

/// A state in the colour that says whether somebody must look.
fn state_cell(state: Phase) -> Cell {
    let cell = Cell::new(state);
    match state {
        Phase::Succeeded => cell.fg(Color::Green),
        Phase::Failed | Phase::TimedOut | Phase::Expired => cell.fg(Color::Red),
        Phase::Running => cell.fg(Color::Cyan),
        Phase::Held => cell.fg(Color::Yellow),
        Phase::Delayed | Phase::Dispatched | Phase::Cancelled => cell,
    }
}

/// Jobs as a table.
pub(crate) fn table(jobs: &[JobView]) -> String {
    let mut table = plain_table();
    table.set_header(["ID", "CAPABILITY", "STATE", "TIER", "VENUE", "ATTEMPTS", "CREATED"]);
    for job in jobs {
        table.add_row([
            Cell::new(job.id),
            Cell::new(&job.capability),
            state_cell(job.state),
            Cell::new(job.tier),
            Cell::new(job.venue),
            Cell::new(format!("{}/{}", job.attempts_spent, job.attempts_allowed)),
            Cell::new(&job.created_at),
        ]);
    }
    table.trim_fmt()
}

fn detail(job: &JobView) -> String {
    let mut lines = vec![
        format!("job         {}", job.id),
        format!("trace       {}", one_line(&job.trace_id, 32)),
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
    let (estimated, spent) = (dollars(job.estimated_nanodollars), dollars(job.spent_nanodollars));
    lines.push(format!("price       {estimated} a run there, {spent} so far, as AWS charges"));
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

pub(crate) fn payload(text: &str) -> Result<Value, Failure> {
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

/// Labels as the command line has them.
pub(crate) fn labels(given: &[String]) -> Result<serde_json::Map<String, Value>, Failure> {
    let mut labels = serde_json::Map::new();
    for label in given {
        let (name, value) =
            label.split_once('=').ok_or_else(|| Failure::BadInput(format!("--label {label}: expected NAME=VALUE")))?;
        labels.insert(name.to_owned(), value.into());
    }
    Ok(labels)
}

/// Submits a job; with --wait, follows it to its end.
pub(crate) fn submit(client: &Client, submit: &Submit, json: bool) -> Result<u8, Failure> {
    let labels = labels(&submit.labels)?;
    let tier = submit.tier.as_deref().unwrap_or("standard");
    let mut body = json!({ "capability": submit.capability, "payload": payload(&submit.payload)?, "tier": tier });
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
    let (_, page) = job_page(client, id, timeline, json)?;
    print(&page)?;
    Ok(0)
}

/// Shows one job until it has ended; exits with 1 when it did not succeed.
pub(crate) fn watch_job(client: &Client, id: &str, timeline: bool, json: bool) -> Result<u8, Failure> {
    let mut last = Phase::Delayed;
    watch(|| {
        let (state, page) = job_page(client, id, timeline, json)?;
        last = state;
        Ok(if state.is_settled() { Page::Final(page) } else { Page::Living(page) })
    })?;
    Ok(if last == Phase::Succeeded { 0 } else { 1 })
}

fn job_page(client: &Client, id: &str, timeline: bool, json: bool) -> Result<(Phase, String), Failure> {
    let answer: JobAnswer = client.get(&format!("/v1/jobs/{}", quote(id)))?;
    let state = answer.job.state;
    if !timeline {
        return Ok((state, if json { json_text(&answer.job)? } else { detail(&answer.job) }));
    }
    let history: TimelineAnswer = client.get(&format!("/v1/jobs/{}/timeline", quote(id)))?;
    if json {
        return Ok((state, json_text(&json!({ "job": answer.job, "timeline": history.timeline }))?));
    }
    let mut lines = vec![detail(&answer.job), "timeline".to_owned()];
    for entry in history.timeline {
        let entry = format!(
            "  {:<24}  {:<10}  epoch {:<3}  {}  {}",
            entry.at,
            entry.state,
            entry.epoch,
            entry.reason,
            one_line(&entry.detail, 300)
        );
        lines.push(entry.trim_end().to_owned());
    }
    Ok((state, lines.join("\n")))
}

/// Lists jobs.
pub(crate) fn jobs(client: &Client, jobs: &Jobs, json: bool) -> Result<u8, Failure> {
    if jobs.watch {
        watch(|| jobs_page(client, jobs, json).map(Page::Living))?;
    } else {
        print(&jobs_page(client, jobs, json)?)?;
    }
    Ok(0)
}

fn jobs_page(client: &Client, jobs: &Jobs, json: bool) -> Result<String, Failure> {
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
    if json { json_text(&page.jobs) } else { Ok(table(&page.jobs)) }
}

/// A line of a log that reads alone.
#[derive(Serialize)]
struct TracedLine<'a> {
    trace_id: &'a str,
    #[serde(flatten)]
    line: &'a LogView,
}

/// Shows what a job printed.
pub(crate) fn logs(client: &Client, id: &str, follow: bool, raw: bool, json: bool) -> Result<u8, Failure> {
    let wait = if follow { WAIT_SECONDS } else { 0 };
    let mut cursor = String::new();
    loop {
        let page: LogsPage =
            client.get(&format!("/v1/jobs/{}/logs?wait={wait}&cursor={}", quote(id), quote(&cursor)))?;
        if json {
            let traced = |line| TracedLine { trace_id: &page.trace_id, line };
            page.lines.iter().map(traced).try_for_each(|line| print_line(&line))?;
        } else if raw {
            page.lines.iter().try_for_each(|line| print(&line.text))?;
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

/// Makes the yard read its policies again, and says what that changes.
pub(crate) fn reload(client: &Client, json: bool) -> Result<u8, Failure> {
    let answer: ReloadAnswer = client.post("/v1/reload", None, None)?;
    if json {
        print_json(&answer)?;
        return Ok(0);
    }
    for change in &answer.changes {
        print(&one_line(change, 200))?;
    }
    if answer.changes.is_empty() {
        print("nothing changed")?;
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
    let mut table = plain_table();
    table.set_header(["NAME", "TIMEOUT", "ATTEMPTS", "SUMMARY"]);
    for capability in answer["capabilities"].as_array().into_iter().flatten() {
        let text = |name: &str| one_line(capability[name].as_str().unwrap_or_default(), 400);
        let timeout = Duration::from_secs(capability["timeout_seconds"].as_u64().unwrap_or_default());
        table.add_row([text("name"), format!("{timeout:?}"), capability["attempts"].to_string(), text("summary")]);
    }
    print(&table.trim_fmt())?;
    if let Some(at) = answer["refused"]["at"].as_str() {
        print(&format!("newer policies were refused at {}:", one_line(at, 40)))?;
        for line in answer["refused"]["violations"].as_array().into_iter().flatten() {
            print(&one_line(line.as_str().unwrap_or_default(), 600))?;
        }
    }
    Ok(0)
}
