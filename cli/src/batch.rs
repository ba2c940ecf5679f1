//! `submit --batch`: a file of submissions, a line each, sent in bodies of up to 500.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchyard_core::job::{Phase, one_line};

use crate::args::Submit;
use crate::client::{Client, WAIT_SECONDS};
use crate::exit::Failure;
use crate::show::{labels, print, print_line};

/// Items in one body, as the yard takes them.
const ITEMS: usize = 500;
/// Bytes in one body: the yard takes 4 MiB, and what stands around the items is little.
const BODY_BYTES: usize = 4 * 1024 * 1024 - 16 * 1024;
/// The longest line that is read: more than any submission the yard takes.
const LINE_BYTES: u64 = 2 * 1024 * 1024;
/// Lines of bad items that are shown; the count tells the rest, and --json shows all.
const SHOWN: usize = 20;

/// What became of one line.
#[derive(Serialize)]
struct Outcome {
    /// The line in the file, from 1.
    line: u64,
    #[serde(flatten)]
    item: Item,
}

#[derive(Serialize, Deserialize)]
struct Item {
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<Accepted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Accepted {
    id: String,
    state: Phase,
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
    #[serde(default)]
    repeated: u64,
}

#[derive(Default)]
struct Tally {
    accepted: Vec<Accepted>,
    repeated: u64,
    rejected: u64,
    /// The last line whose body was answered.
    through: u64,
    shown: Vec<String>,
}

impl Tally {
    fn note(&mut self, line: u64, item: Item, json: bool) -> Result<(), Failure> {
        match &item.job {
            Some(job) => self.accepted.push(job.clone()),
            None => {
                self.rejected += 1;
                if self.shown.len() < SHOWN {
                    let code = item.code.as_deref().unwrap_or("refused");
                    let detail = one_line(item.detail.as_deref().unwrap_or_default(), 300);
                    self.shown.push(format!("line {line}: {detail} ({})", one_line(code, 64)));
                }
            }
        }
        if json { print_line(&Outcome { line, item }) } else { Ok(()) }
    }
}

/// Submits every line of a file, and says what became of each.
pub(crate) fn submit(client: &Client, submit: &Submit, path: &Path, json: bool) -> Result<u8, Failure> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let (lines, total): (Box<dyn BufRead>, Option<u64>) = if path == Path::new("-") {
        (Box::new(BufReader::new(std::io::stdin())), None)
    } else {
        let open = || File::open(path).map_err(|cause| Failure::BadInput(format!("cannot read {name}: {cause}")));
        let counted = count_lines(open()?).map_err(|cause| Failure::io(format!("read {name}"), cause))?;
        (Box::new(BufReader::new(open()?)), counted)
    };
    let progress = progress(total, "submitting");
    let mut reader = Lines { lines, name, line: 0 };
    let mut tally = Tally::default();
    let sent = send_all(client, submit, &mut reader, &progress, json, &mut tally);
    progress.finish_and_clear();
    let summary =
        format!("{} accepted ({} of them before), {} rejected", tally.accepted.len(), tally.repeated, tally.rejected);
    if let Err(failure) = sent {
        let through = tally.through;
        let advice = match submit.key {
            Some(_) => "run the same command again: what was accepted is not doubled",
            None => "lines with an `idempotency_key`, or all with --key, can be submitted again without doubling",
        };
        eprintln!(
            "switchyard: the yard answered up to line {through}: {summary}; of those after it some may be taken: {advice}"
        );
        return Err(failure);
    }
    if !json {
        for line in &tally.shown {
            eprintln!("{line}");
        }
        if tally.rejected > tally.shown.len() as u64 {
            eprintln!("… and {} more: --json shows all", tally.rejected - tally.shown.len() as u64);
        }
        print(&summary)?;
    }
    let unsuccessful = if submit.wait { wait_for_all(client, &tally.accepted, json)? } else { 0 };
    Ok(match (tally.rejected, unsuccessful) {
        (0, 0) => 0,
        (0, _) => 1,
        (_, _) => 2,
    })
}

fn send_all(
    client: &Client,
    submit: &Submit,
    reader: &mut Lines,
    progress: &ProgressBar,
    json: bool,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let shared = shared(submit)?;
    let mut pending: Vec<(u64, String)> = Vec::new();
    let mut bytes = 0;
    loop {
        let next = match reader.next()? {
            None => None,
            Some(line) => match item(submit, &shared, reader.line, &line) {
                Ok(item) => Some((reader.line, item)),
                Err(detail) => {
                    // One bad line is no reason to keep the others back.
                    let (code, detail) = (Some("bad_line".to_owned()), Some(detail));
                    tally.note(reader.line, Item { status: 400, job: None, code, detail }, json)?;
                    progress.inc(1);
                    continue;
                }
            },
        };
        let full = next.as_ref().is_some_and(|(_, item)| bytes + item.len() + 1 > BODY_BYTES);
        if (next.is_none() || full || pending.len() == ITEMS) && !pending.is_empty() {
            send(client, &pending, progress, json, tally)?;
            progress.inc(pending.len() as u64);
            tally.through = pending.last().map_or(tally.through, |(line, _)| *line);
            pending.clear();
            bytes = 0;
        }
        let Some(next) = next else { return Ok(()) };
        bytes += next.1.len() + 1;
        pending.push(next);
    }
}

fn send(
    client: &Client,
    pending: &[(u64, String)],
    progress: &ProgressBar,
    json: bool,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let items: Vec<&str> = pending.iter().map(|(_, item)| item.as_str()).collect();
    let body = format!(r#"{{"jobs":[{}]}}"#, items.join(","));
    let busy = |pause: Duration, code: &str| {
        let message = format!("waiting {} s ({})", pause.as_secs(), one_line(code, 64));
        // Where nobody sees the bar, a line says why nothing happens.
        if progress.is_hidden() {
            eprintln!("switchyard: {message}");
        }
        progress.set_message(message);
    };
    let answer: Answer = client.post_patiently("/v1/jobs/batch", body.as_bytes(), busy)?;
    progress.set_message("submitting");
    if answer.items.len() != pending.len() {
        let cause = format!("{} outcomes for {} items", answer.items.len(), pending.len());
        return Err(Failure::NotAYard { url: "/v1/jobs/batch".to_owned(), cause });
    }
    tally.repeated += answer.repeated;
    for ((line, _), item) in pending.iter().zip(answer.items) {
        tally.note(*line, item, json)?;
    }
    Ok(())
}

/// One line as an item of a body: a submission, or the payload of the capability named on the command line.
///
/// # Errors
///
/// What is wrong with the line.
fn item(submit: &Submit, shared: &Map<String, Value>, number: u64, line: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let mut item = match (&submit.capability, value) {
        (Some(capability), payload) => {
            Map::from_iter([("capability".to_owned(), json!(capability)), ("payload".to_owned(), payload)])
        }
        (None, Value::Object(item)) => item,
        (None, _) => return Err("expected a JSON object such as {\"capability\":…,\"payload\":…}".to_owned()),
    };
    for (name, value) in shared {
        item.entry(name).or_insert_with(|| value.clone());
    }
    if let Some(key) = &submit.key {
        item.entry("idempotency_key").or_insert_with(|| json!(format!("{key}-{number}")));
    }
    Ok(Value::Object(item).to_string())
}

/// What the command line says for every line that does not say otherwise.
fn shared(submit: &Submit) -> Result<Map<String, Value>, Failure> {
    let mut shared = Map::new();
    let mut default = |name: &str, value: Value| {
        shared.insert(name.to_owned(), value);
    };
    if let Some(tier) = &submit.tier {
        default("tier", json!(tier));
    }
    let labels = labels(&submit.labels)?;
    if !labels.is_empty() {
        default("labels", labels.into());
    }
    let seconds = [
        ("delay_seconds", submit.delay),
        ("start_within_seconds", submit.start_within),
        ("run_timeout_seconds", submit.run_timeout),
    ];
    for (name, value) in seconds.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))) {
        default(name, json!(value));
    }
    if submit.announce {
        default("announce", json!(true));
    }
    Ok(shared)
}

/// Waits until every job has ended: how many of them did not succeed.
fn wait_for_all(client: &Client, jobs: &[Accepted], json: bool) -> Result<u64, Failure> {
    let progress = progress(Some(jobs.len() as u64), "waiting for their ends");
    let mut unsuccessful: Vec<(&str, Phase)> = Vec::new();
    for job in jobs {
        let mut state = job.state;
        while !state.is_settled() {
            let now: Accepted = client.get(&format!("/v1/jobs/{}?wait={WAIT_SECONDS}", job.id))?;
            state = now.state;
        }
        if state != Phase::Succeeded {
            unsuccessful.push((&job.id, state));
            progress.set_message(format!("{} without success", unsuccessful.len()));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    if json {
        for (id, state) in &unsuccessful {
            print_line(&json!({ "id": id, "state": state }))?;
        }
    } else {
        for (id, state) in unsuccessful.iter().take(SHOWN) {
            eprintln!("{} {state}: switchyard job {} says why", one_line(id, 64), one_line(id, 64));
        }
        print(&format!("{} of {} succeeded", jobs.len() - unsuccessful.len(), jobs.len()))?;
    }
    Ok(unsuccessful.len() as u64)
}

/// A bar on standard error with what is left and how long that takes; nothing where nobody watches.
fn progress(total: Option<u64>, message: &'static str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {human_pos}, {per_sec}"),
    };
    // Hidden by itself where standard error is no terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(message)
}

/// Lines that are not empty; `None` for what is no regular file, such as a pipe.
fn count_lines(file: File) -> std::io::Result<Option<u64>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut count = 0;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    while lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        count += u64::from(!line.trim_ascii().is_empty());
        line.clear();
    }
    Ok(Some(count))
}

struct Lines {
    lines: Box<dyn BufRead>,
    name: String,
    line: u64,
}

impl Lines {
    /// The next line that is not empty.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let mut line = Vec::new();
            let read = self.lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line);
            let read = read.map_err(|cause| Failure::io(format!("read {}", self.name), cause))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let at = |what: &str| Failure::BadInput(format!("{}:{}: {what}", self.name, self.line));
            if line.len() as u64 == LINE_BYTES {
                return Err(at("the line is longer than 2 MiB"));
            }
            let line = String::from_utf8(line).map_err(|_| at("the line is not UTF-8"))?;
            if !line.trim().is_empty() {
                return Ok(Some(line));
            }
        }
    }
}
