//! What may run: the capabilities an operator lists in policies/capabilities.yaml.
//!
//! Parsing is pure: text in, a [`Catalog`] or the place and reason of what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::job::one_line;
use crate::route::{Needs, Packaging, Pin};

/// The longest a run may be allowed: 11 h. An SQS message can stay hidden 12 h in total (SQS quotas), and the last
/// hour is for getting the job back.
pub const RUN_TIMEOUT_MAX: Duration = Duration::from_secs(11 * 3600);

/// The longest a process may have between SIGTERM and SIGKILL: 30 s, as ECS gives (StopTask), and half of what the
/// reaper waits before it forces an end. Were it longer, a forced job could be retried while its first run still lived.
pub const GRACE_MAX: Duration = Duration::from_secs(30);

/// Everything that may run, by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    capabilities: BTreeMap<String, Arc<Capability>>,
}

/// One thing that may run.
#[derive(Debug)]
pub struct Capability {
    /// Its name: lower-case letters, digits and `-`, at most 64.
    pub name: String,
    /// What it does, in a line.
    pub summary: String,
    /// What runs.
    pub run: Program,
    /// What it needs of the place that runs it.
    pub needs: Needs,
    /// The longest one run may last, unless the submission says less.
    pub timeout: Duration,
    /// How long a stopped process has between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How often and how it is tried again.
    pub retry: Retry,
    /// What becomes of the needs that its runs show.
    pub learn: Learn,
    /// How many of its jobs may be dispatched or running at once; `None`: as many as there are.
    pub concurrent: Option<u16>,
    /// How soon its jobs must start unless the submission says otherwise, or they expire.
    pub start_within: Option<Duration>,
    /// The JSON Schema of the payload, as written.
    pub input: Value,
    validator: jsonschema::Validator,
}

/// What a capability runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A function compiled into Switchyard.
    Builtin(String),
    /// A program and its arguments; `{{field}}` stands for a field of the payload. No shell reads them.
    Command {
        /// The program, as `execvp` finds it.
        program: String,
        /// The arguments, as templates.
        args: Vec<String>,
        /// Fields whose value may begin with `-` where it makes up the front of an argument.
        allow_leading_dash: Vec<String>,
    },
    /// A container image.
    Image {
        /// What kind of image.
        kind: ImageKind,
        /// Its reference, such as `ghcr.io/example/nmap:7.95`.
        reference: String,
        /// The arguments of its entry point, as templates.
        args: Vec<String>,
        /// As for a command.
        allow_leading_dash: Vec<String>,
    },
}

/// What a container image has inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// The worker as its entry point.
    Task,
    /// A program that speaks the Lambda Runtime API.
    Function,
    /// Anything.
    Any,
}

/// What becomes of the needs that runs show (seconds and memory, at their 95th percentile).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learn {
    /// Nothing.
    Off,
    /// They are shown beside the declared ones.
    #[default]
    Suggest,
    /// They raise the declared ones; they never lower them.
    On,
}

/// How often and how a failed attempt is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: u32,
    /// The wait after the first failed attempt; doubled by each further one.
    pub backoff: Duration,
    /// Exit codes after which trying again is pointless.
    pub permanent_exits: Vec<i32>,
}

/// What is wrong with a catalog, or another file of policies, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", Place(*.line, *.column))]
pub struct CatalogError {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// The column, from 1; 0 when the whole line is meant.
    pub column: u64,
    /// What is wrong, naming the entry and the field.
    pub message: String,
}

struct Place(u64, u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (0, _) => Ok(()),
            (line, 0) => write!(f, ":{line}"),
            (line, column) => write!(f, ":{line}:{column}"),
        }
    }
}

/// Why a payload does not fit a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("payload{}: {message}", if .path.is_empty() { String::new() } else { format!(" at {}", .path) })]
pub struct BadPayload {
    /// Where, as a JSON Pointer (RFC 6901); empty for the whole payload.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    capabilities: Vec<serde_saphyr::Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    summary: String,
    run: RunEntry,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    needs: NeedsEntry,
    #[serde(default)]
    route: RouteEntry,
    #[serde(default)]
    retry: RetryEntry,
    #[serde(default)]
    limits: LimitsEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunEntry {
    builtin: Option<String>,
    command: Option<Vec<String>>,
    task_image: Option<String>,
    function_image: Option<String>,
    image: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    allow_leading_dash: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NeedsEntry {
    expected_seconds: Option<u64>,
    timeout_seconds: u64,
    grace_seconds: u64,
    memory_mib: u32,
    vcpu: f64,
    docker: bool,
    privileged: bool,
    network_tools: bool,
    static_ip: bool,
    interruptible: bool,
    isolate: bool,
    learn: Learn,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitsEntry {
    concurrent: Option<u16>,
    start_within_seconds: Option<u64>,
}

impl Default for NeedsEntry {
    fn default() -> Self {
        // An hour and 512 MiB are what most checks and scans need; ten seconds are ECS's habit divided by three.
        Self {
            expected_seconds: None,
            timeout_seconds: 3600,
            grace_seconds: 10,
            memory_mib: 512,
            // The smallest task there is.
            vcpu: 0.25,
            docker: false,
            privileged: false,
            network_tools: false,
            static_ip: false,
            interruptible: true,
            isolate: false,
            learn: Learn::Suggest,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RouteEntry {
    only: Vec<Pin>,
    prefer: Vec<Pin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetryEntry {
    attempts: u32,
    backoff_seconds: u64,
    permanent_exits: Vec<i32>,
}

impl Default for RetryEntry {
    fn default() -> Self {
        Self { attempts: 3, backoff_seconds: 10, permanent_exits: Vec::new() }
    }
}

impl Catalog {
    /// Reads a catalog. `file` names it in errors, `builtins` are the functions there are, and `schemas` holds the
    /// files that `input: { $ref: … }` may name, by path relative to the catalog.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] names the first thing that is wrong and where it stands.
    pub fn parse(
        file: &str,
        text: &str,
        builtins: &[&str],
        schemas: &BTreeMap<String, Value>,
    ) -> Result<Self, CatalogError> {
        let parsed: File = read_yaml(file, text)?;
        let at =
            |line: u64, column: u64, message: String| CatalogError { file: file.to_owned(), line, column, message };
        check_version(file, parsed.version)?;
        let mut capabilities = BTreeMap::new();
        for spanned in parsed.capabilities {
            let place = spanned.defined;
            let entry = spanned.value;
            let name = one_line(&entry.name, 64);
            let wrong = |what: String| at(place.line(), place.column(), format!("capability `{name}`: {what}"));
            let capability = entry.into_capability(builtins, schemas).map_err(wrong)?;
            if capabilities.insert(capability.name.clone(), Arc::new(capability)).is_some() {
                return Err(wrong("is listed twice".to_owned()));
            }
        }
        Ok(Self { capabilities })
    }

    /// The capability of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Capability>> {
        self.capabilities.get(name)
    }

    /// All capabilities, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Capability>> {
        self.capabilities.values()
    }
}

/// Reads an operator's YAML file, and names what is wrong with it as all of them are named.
pub(crate) fn read_yaml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, CatalogError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        // The place stands in front already.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        CatalogError { file: file.to_owned(), line, column, message: one_line(&message, 400) }
    })
}

/// Refuses a file of a version that this Switchyard does not read.
pub(crate) fn check_version(file: &str, version: u32) -> Result<(), CatalogError> {
    if version == 1 {
        return Ok(());
    }
    let message = format!("version: this Switchyard reads version 1, the file is version {version}");
    Err(CatalogError { file: file.to_owned(), line: 1, column: 0, message })
}

/// Whether this can be the name of a capability or a schedule.
pub(crate) fn is_name(name: &str) -> bool {
    let named_well = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(named_well)
}

impl Entry {
    fn into_capability(self, builtins: &[&str], schemas: &BTreeMap<String, Value>) -> Result<Capability, String> {
        if !is_name(&self.name) {
            return Err("name: expected 1 to 64 lower-case letters, digits and `-`".to_owned());
        }
        let run = self.run.into_program(builtins)?;
        let input = match self.input {
            None => serde_json::json!({ "type": "object" }),
            Some(schema) => match schema.get("$ref").and_then(Value::as_str) {
                None => schema,
                Some(path) => schemas.get(path).cloned().ok_or_else(|| {
                    format!("input.$ref: there is no file `{}` beside the catalog", one_line(path, 200))
                })?,
            },
        };
        let validator = jsonschema::validator_for(&input)
            .map_err(|error| format!("input: not a JSON Schema: {}", one_line(&error.to_string(), 200)))?;
        let timeout = Duration::from_secs(self.needs.timeout_seconds);
        if timeout.is_zero() || timeout > RUN_TIMEOUT_MAX {
            return Err(format!("needs.timeout_seconds: expected 1 to {}", RUN_TIMEOUT_MAX.as_secs()));
        }
        if self.needs.grace_seconds > GRACE_MAX.as_secs() {
            return Err(format!("needs.grace_seconds: expected at most {}", GRACE_MAX.as_secs()));
        }
        let vcpu = self.needs.vcpu;
        if !(0.001..=192.0).contains(&vcpu) {
            return Err("needs.vcpu: expected 0.001 to 192".to_owned());
        }
        if self.limits.concurrent == Some(0) {
            return Err("limits.concurrent: expected at least 1; to stop a capability, pause it".to_owned());
        }
        if self.limits.start_within_seconds == Some(0) {
            return Err("limits.start_within_seconds: expected at least 1".to_owned());
        }
        if !(1..=100).contains(&self.retry.attempts) {
            return Err("retry.attempts: expected 1 to 100".to_owned());
        }
        if self.retry.backoff_seconds > 3600 {
            return Err("retry.backoff_seconds: expected at most 3600".to_owned());
        }
        let packaging = match run {
            Program::Builtin(_) => Packaging::Builtin,
            Program::Command { .. } => Packaging::Command,
            Program::Image { kind: ImageKind::Task, .. } => Packaging::TaskImage,
            Program::Image { kind: ImageKind::Function, .. } => Packaging::FunctionImage,
            Program::Image { kind: ImageKind::Any, .. } => Packaging::Image,
        };
        Ok(Capability {
            name: self.name,
            summary: one_line(&self.summary, 200),
            run,
            needs: Needs {
                packaging,
                expected: self.needs.expected_seconds.map(Duration::from_secs),
                memory_mib: self.needs.memory_mib,
                milli_vcpu: (vcpu * 1000.0) as u32,
                docker: self.needs.docker,
                privileged: self.needs.privileged,
                network_tools: self.needs.network_tools,
                static_address: self.needs.static_ip,
                isolate: self.needs.isolate,
                interruptible: self.needs.interruptible,
                only: self.route.only,
                prefer: self.route.prefer,
            },
            timeout,
            grace: Duration::from_secs(self.needs.grace_seconds),
            retry: Retry {
                attempts: self.retry.attempts,
                backoff: Duration::from_secs(self.retry.backoff_seconds),
                permanent_exits: self.retry.permanent_exits,
            },
            learn: self.needs.learn,
            concurrent: self.limits.concurrent,
            start_within: self.limits.start_within_seconds.map(Duration::from_secs),
            input,
            validator,
        })
    }
}

impl RunEntry {
    fn into_program(self, builtins: &[&str]) -> Result<Program, String> {
        let Self { builtin, command, task_image, function_image, image, args, allow_leading_dash } = self;
        let one = "run: expected exactly one of `builtin`, `command`, `task_image`, `function_image` and `image`";
        let takes_args = task_image.is_some() || function_image.is_some() || image.is_some();
        if !args.is_empty() && !takes_args {
            return Err("run.args: they go with an image; a command has its arguments in `command`".to_owned());
        }
        let images = [(ImageKind::Task, task_image), (ImageKind::Function, function_image), (ImageKind::Any, image)];
        let mut images = images.into_iter().filter_map(|(kind, reference)| reference.map(|text| (kind, text)));
        match (builtin, command, images.next(), images.next()) {
            (Some(builtin), None, None, None) => {
                if !builtins.contains(&builtin.as_str()) {
                    return Err(format!(
                        "run.builtin: there is no built-in `{}`; there are: {}",
                        one_line(&builtin, 64),
                        builtins.join(", ")
                    ));
                }
                Ok(Program::Builtin(builtin))
            }
            (None, Some(command), None, None) => {
                let mut words = command.into_iter();
                let program = words.next().filter(|program| !program.is_empty());
                let program = program.ok_or("run.command: expected the program and its arguments")?;
                if program.contains("{{") {
                    return Err("run.command: the program itself cannot come from the payload".to_owned());
                }
                let args: Vec<String> = words.collect();
                check_templates("run.command", &args)?;
                Ok(Program::Command { program, args, allow_leading_dash })
            }
            (None, None, Some((kind, reference)), None) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
                if reference.is_empty() || reference.len() > 255 || !reference.chars().all(fits) {
                    return Err(format!("run: `{}` is not an image reference", one_line(&reference, 80)));
                }
                check_templates("run.args", &args)?;
                Ok(Program::Image { kind, reference, args, allow_leading_dash })
            }
            _ => Err(one.to_owned()),
        }
    }
}

fn check_templates(field: &str, args: &[String]) -> Result<(), String> {
    match args.iter().find(|arg| arg.matches("{{").count() != arg.matches("}}").count()) {
        Some(open) => Err(format!("{field}: `{}` has a {{{{ without its }}}}", one_line(open, 80))),
        None => Ok(()),
    }
}

impl Capability {
    /// Holds a payload against the schema, and against the arguments that will be made of it.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] names the first place that does not fit.
    pub fn check(&self, payload: &Value) -> Result<(), BadPayload> {
        self.validator.validate(payload).map_err(|error| BadPayload {
            path: error.instance_path().to_string(),
            // Masked: a payload may hold what must not be repeated in an error or a log.
            message: one_line(&error.masked().to_string(), 300),
        })?;
        self.arguments(payload).map(|_| ())
    }

    /// The arguments of the command for `payload`; empty for a built-in.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] when a field is missing, is not a string, number or boolean, holds a NUL byte, or would begin
    /// an argument with `-` where the catalog does not allow it: a value must not turn into an option.
    pub fn arguments(&self, payload: &Value) -> Result<Vec<String>, BadPayload> {
        match &self.run {
            Program::Builtin(_) => Ok(Vec::new()),
            Program::Command { args, allow_leading_dash, .. } | Program::Image { args, allow_leading_dash, .. } => {
                args.iter().map(|template| render(template, payload, allow_leading_dash)).collect()
            }
        }
    }
}

/// `template` with each `{{field}}` replaced by the payload's value.
fn render(template: &str, payload: &Value, allow_leading_dash: &[String]) -> Result<String, BadPayload> {
    let mut argument = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((field, after)) = after.split_once("}}") else { break };
        argument.push_str(before);
        let field = field.trim();
        let wrong = |message: String| BadPayload { path: format!("/{field}"), message };
        let value = match payload.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => {
                return Err(wrong("becomes an argument: expected a string, a number or a boolean".to_owned()));
            }
            None => return Err(wrong("becomes an argument, and is missing".to_owned())),
        };
        if value.contains('\0') {
            return Err(wrong("becomes an argument, and an argument cannot hold a NUL character".to_owned()));
        }
        if argument.is_empty() && value.starts_with('-') && !allow_leading_dash.iter().any(|name| name == field) {
            return Err(wrong("begins with `-` and would be taken for an option".to_owned()));
        }
        argument.push_str(&value);
        rest = after;
    }
    argument.push_str(rest);
    Ok(argument)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Catalog, CatalogError> {
        Catalog::parse("capabilities.yaml", text, &["finding-triage"], &BTreeMap::new())
    }

    const DIGEST: &str = r#"
version: 1
capabilities:
  - name: file-digest
    summary: SHA-256 of a file
    run: { command: [sha256sum, "--", "{{path}}"] }
    input:
      type: object
      required: [path]
      properties: { path: { type: string, maxLength: 4096 } }
      additionalProperties: false
"#;

    #[test]
    fn a_command_gets_its_arguments_from_the_payload() {
        let catalog = parse(DIGEST).unwrap();
        let digest = catalog.get("file-digest").unwrap();
        assert_eq!(digest.arguments(&json!({ "path": "/a b;c" })).unwrap(), ["--", "/a b;c"]);
        digest.check(&json!({ "path": "/etc/hosts" })).unwrap();
    }

    #[test]
    fn payloads_that_do_not_fit_are_refused_with_the_place() {
        let catalog = parse(DIGEST).unwrap();
        let digest = catalog.get("file-digest").unwrap();
        let cases = [
            json!({}),
            json!({ "path": 7 }),
            json!({ "path": "/x", "mode": "fast" }),
            json!({ "path": "-rf" }),
            json!({ "path": "a\u{0}b" }),
            json!("text"),
        ];
        let messages: Vec<String> =
            cases.iter().map(|payload| format!("{payload}  ->  {}", digest.check(payload).unwrap_err())).collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn a_leading_dash_is_allowed_where_the_catalog_says_so() {
        assert_eq!(render("{{n}}", &json!({ "n": -3 }), &["n".to_owned()]).unwrap(), "-3");
        assert_eq!(render("--count={{n}}", &json!({ "n": -3 }), &[]).unwrap(), "--count=-3");
        assert!(render("{{n}}", &json!({ "n": -3 }), &[]).is_err());
        // An empty value in front must not open the door for the next one.
        assert!(render("{{a}}{{b}}", &json!({ "a": "", "b": "-x" }), &[]).is_err());
    }

    #[test]
    fn a_broken_catalog_is_named_with_file_line_and_reason() {
        let cases = [
            "version: 2\ncapabilities: []\n",
            "version: 1\ncapabilities:\n  - name: x\n    sumary: typo\n",
            "version: 1\ncapabilities:\n  - name: X Y\n    summary: s\n    run: { builtin: finding-triage }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { builtin: nope }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [\"{{x}}\"] }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n    input: { type: nonsense }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n    input: { $ref: schemas/x.json }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n    needs: { timeout_seconds: 50000 }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n  - name: x\n    summary: s\n    run: { command: [a] }\n",
            "version: [\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a, \"{{b\"] }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a] }\n    needs: { grace_seconds: 31 }\n",
        ];
        let messages: Vec<String> = cases.iter().map(|text| parse(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(messages.join("\n"));
    }
}
