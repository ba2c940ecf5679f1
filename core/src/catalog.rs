//! What may run: the capabilities an operator lists in policies/capabilities.yaml.
//!
//! Here is what a capability is, and how a payload becomes its arguments; `file` reads them from the operator's text.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::job::one_line;
use crate::lend::{Borrow, Grant, Scope};
use crate::records::Emits;
use crate::route::Needs;

mod file;
mod loans;

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
#[derive(Debug, PartialEq)]
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
    /// The JSON Schema of the payload.
    pub input: Schema,
    /// What each of its runs is lent, by the name it finds it under.
    pub borrows: Vec<Borrow>,
    /// What its runs may borrow, and how that is got.
    pub may_borrow: Vec<Grant>,
    /// What its runs emit as records.
    pub emits: Emits,
}

/// A JSON Schema, and what checks values by it: made when it is first needed, for that takes longer than all the rest of
/// a catalog.
#[derive(Debug)]
pub struct Schema {
    written: Value,
    validator: OnceLock<Result<jsonschema::Validator, String>>,
}

impl PartialEq for Schema {
    /// By what was written.
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Schema {
    pub(crate) fn new(written: Value) -> Self {
        Self { written, validator: OnceLock::new() }
    }

    /// It, as written.
    pub fn written(&self) -> &Value {
        &self.written
    }

    /// Holds a value against it.
    pub(crate) fn check(&self, value: &Value) -> Result<(), BadPayload> {
        let validator = self.validator().map_err(|what| BadPayload {
            path: String::new(),
            message: format!("what the capability takes is {what}"),
        })?;
        validator.validate(value).map_err(|error| BadPayload {
            path: error.instance_path().to_string(),
            // Masked: a value may hold what must not be repeated in an error or a log.
            message: one_line(&error.masked().to_string(), 300),
        })
    }

    /// What checks by it, or why it is no schema.
    fn validator(&self) -> Result<&jsonschema::Validator, String> {
        let make = || {
            let made = jsonschema::validator_for(&self.written);
            made.map_err(|error| format!("not a JSON Schema: {}", one_line(&error.to_string(), 200)))
        };
        self.validator.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

/// What a capability runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A function compiled into Switchyard.
    Builtin {
        /// Its name.
        name: String,
        /// What the operator set for it: an object that the function's [`Builtin::check`] has found good.
        settings: Value,
    },
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
        /// What its container is granted.
        container: Container,
    },
}

/// A function compiled into Switchyard, as whoever reads a catalog must know it.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What `run.builtin` calls it.
    pub name: &'static str,
    /// Whether it can work with `run.with`, an object; else what is wrong with it.
    pub check: fn(&Value) -> Result<(), BadSettings>,
}

/// What is wrong with the settings of a built-in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct BadSettings {
    /// Where in them, such as `allow[1]`; empty for all of them.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// The check of a built-in that has no settings.
///
/// # Errors
///
/// Names the first one that was given.
pub fn no_settings(settings: &Value) -> Result<(), BadSettings> {
    match settings.as_object().and_then(|settings| settings.keys().next()) {
        None => Ok(()),
        Some(path) => Err(BadSettings { path: path.clone(), message: "this built-in has no settings".to_owned() }),
    }
}

/// What a container is granted, where an engine on a worker runs the image. Without a word it is the least: no network,
/// no capability, a root file system that cannot be written, a user that is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Whom it can reach.
    pub network: Network,
    /// Linux capabilities that its program has, without `CAP_`; no other can be had in it. An engine gives none to a user
    /// that is not 0 (it sets no ambient ones, capabilities(7)): a program that is granted any runs as user 0, with these
    /// and nothing else of root's.
    pub capabilities: Vec<String>,
    /// Whether its root file system can be written; what is written goes with the container.
    pub writable_root: bool,
    /// The user and the group that its program runs as; 0 only where it is granted capabilities.
    pub user: u32,
    /// Processes and threads at once, at most.
    pub pids: u16,
    /// The size of its /tmp, in MiB. What lies there is in memory, and counts as the container's.
    pub tmp_mib: u32,
}

impl Container {
    /// The most processes and threads that a container can be granted: an eighth of the 32,768 that a Linux machine has
    /// by default (proc(5), `pid_max`).
    pub const PIDS_MAX: u16 = 4096;
    /// The largest /tmp, in MiB: 64 GiB, which few machines have as memory.
    pub const TMP_MIB_MAX: u32 = 64 * 1024;
    /// The highest user: engines take 31 bits.
    pub const USER_MAX: u32 = i32::MAX as u32;
}

impl Default for Container {
    fn default() -> Self {
        Self {
            network: Network::None,
            capabilities: Vec::new(),
            writable_root: false,
            // The user `nonroot` of the images called distroless, and nobody's on most machines.
            user: 65_532,
            // A program with its threads; a fork bomb is stopped long before it is felt outside.
            pids: 256,
            tmp_mib: 64,
        }
    }
}

/// Whom a container can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nobody: it has no network.
    #[default]
    None,
    /// Others, but neither the machine it runs on nor what only that machine can reach by a link-local address, such as
    /// the metadata and credentials of a cloud.
    Outbound,
}

/// The Linux capabilities, without `CAP_` (capabilities(7), Linux 5.9).
pub const LINUX_CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

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

/// Why a payload does not fit a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("payload{}: {message}", if .path.is_empty() { String::new() } else { format!(" at {}", .path) })]
pub struct BadPayload {
    /// Where, as a JSON Pointer (RFC 6901); empty for the whole payload.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl Catalog {
    /// The capability of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Capability>> {
        self.capabilities.get(name)
    }

    /// All capabilities, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Capability>> {
        self.capabilities.values()
    }
}

impl Capability {
    /// Holds a payload against the schema, and against the arguments that will be made of it.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] names the first place that does not fit.
    pub fn check(&self, payload: &Value) -> Result<(), BadPayload> {
        self.input.check(payload)?;
        self.arguments(payload)?;
        self.loans(payload).map(|_| ())
    }

    /// What a run with this payload is lent, by the name it finds it under.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] when a field is missing or is no part of a credential's name, or when what it makes is not what the
    /// capability may borrow.
    pub fn loans(&self, payload: &Value) -> Result<Vec<(&str, Scope)>, BadPayload> {
        let each = self.borrows.iter().map(|borrow| {
            let scope = borrow.scope(payload)?;
            if !self.may_borrow.iter().any(|grant| grant.covers(&scope)) {
                let message = format!("asks for loan `{}`, {scope}, which `{}` may not borrow", borrow.name, self.name);
                return Err(BadPayload { path: String::new(), message });
            }
            Ok((borrow.name.as_str(), scope))
        });
        each.collect()
    }

    /// The arguments of the command for `payload`; empty for a built-in.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] when a field is missing, is not a string, number or boolean, holds a NUL byte, or would begin
    /// an argument with `-` where the catalog does not allow it: a value must not turn into an option.
    pub fn arguments(&self, payload: &Value) -> Result<Vec<String>, BadPayload> {
        match &self.run {
            Program::Builtin { .. } => Ok(Vec::new()),
            Program::Command { args, allow_leading_dash, .. } | Program::Image { args, allow_leading_dash, .. } => {
                args.iter().map(|template| render(template, payload, Some(allow_leading_dash))).collect()
            }
        }
    }
}

/// `template` with each `{{field}}` replaced by the payload's value. With `dashes` it becomes an argument, which only those
/// fields may begin with a `-`.
pub(crate) fn render(template: &str, payload: &Value, dashes: Option<&[String]>) -> Result<String, BadPayload> {
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
        let may_dash = dashes.is_none_or(|fields| fields.iter().any(|name| name == field));
        if argument.is_empty() && value.starts_with('-') && !may_dash {
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

    fn parse(text: &str) -> Catalog {
        Catalog::parse("capabilities.yaml", text, &[], &BTreeMap::new()).unwrap()
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
        let catalog = parse(DIGEST);
        let digest = catalog.get("file-digest").unwrap();
        assert_eq!(digest.arguments(&json!({ "path": "/a b;c" })).unwrap(), ["--", "/a b;c"]);
        digest.check(&json!({ "path": "/etc/hosts" })).unwrap();
    }

    #[test]
    fn payloads_that_do_not_fit_are_refused_with_the_place() {
        let catalog = parse(DIGEST);
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
        assert_eq!(render("{{n}}", &json!({ "n": -3 }), Some(&["n".to_owned()])).unwrap(), "-3");
        assert_eq!(render("--count={{n}}", &json!({ "n": -3 }), Some(&[])).unwrap(), "--count=-3");
        assert!(render("{{n}}", &json!({ "n": -3 }), Some(&[])).is_err());
        // An empty value in front must not open the door for the next one.
        assert!(render("{{a}}{{b}}", &json!({ "a": "", "b": "-x" }), Some(&[])).is_err());
    }
}
