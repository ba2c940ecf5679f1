//! policies/capabilities.yaml: text in, a [`Catalog`] or everything that is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::loans::{self, GrantEntry};
use super::{
    Builtin, Capability, Catalog, Container, GRACE_MAX, ImageKind, LINUX_CAPABILITIES, Learn, Network, Program,
    RUN_TIMEOUT_MAX, Retry, Schema,
};
use crate::intake::{AHEAD_MAX, Fields};
use crate::job::one_line;
use crate::lend::Scope;
use crate::policies::{Document, Reading, Violations, Wrong, given, is_name};
use crate::records::{Emits, Kind};
use crate::route::{Needs, Packaging, Pin};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    summary: String,
    run: RunEntry,
    #[serde(default, deserialize_with = "given")]
    input: Option<Value>,
    #[serde(default)]
    needs: NeedsEntry,
    #[serde(default)]
    route: RouteEntry,
    #[serde(default)]
    retry: RetryEntry,
    #[serde(default)]
    limits: LimitsEntry,
    #[serde(default)]
    borrows: BTreeMap<String, Fields<Scope>>,
    #[serde(default)]
    may_borrow: Vec<Fields<GrantEntry>>,
    #[serde(default)]
    emits: EmitsEntry,
}

/// What its runs emit: of each kind a JSON Schema, or `true`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EmitsEntry {
    #[serde(deserialize_with = "given")]
    asset: Option<Value>,
    #[serde(deserialize_with = "given")]
    finding: Option<Value>,
    #[serde(deserialize_with = "given")]
    metric: Option<Value>,
    #[serde(deserialize_with = "given")]
    log: Option<Value>,
}

impl EmitsEntry {
    fn into_emits(self, schemas: &BTreeMap<String, Value>, reading: Reading, wrong: &mut Vec<Wrong>) -> Emits {
        let Self { asset, finding, metric, log } = self;
        let mut emits = BTreeMap::new();
        for (kind, written) in
            [(Kind::Asset, asset), (Kind::Finding, finding), (Kind::Metric, metric), (Kind::Log, log)]
        {
            let Some(written) = written else { continue };
            let place = format!("emits.{kind}");
            if !written.is_object() && written != Value::Bool(true) {
                wrong.push((place, "expected true, or a JSON Schema".to_owned()));
                continue;
            }
            match resolve(&place, written, schemas, reading) {
                Ok(schema) => drop(emits.insert(kind, schema)),
                Err(error) => wrong.push(error),
            }
        }
        Emits::new(emits)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunEntry {
    #[serde(default, deserialize_with = "given")]
    builtin: Option<String>,
    #[serde(default, deserialize_with = "given")]
    with: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    command: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    task_image: Option<String>,
    #[serde(default, deserialize_with = "given")]
    function_image: Option<String>,
    #[serde(default, deserialize_with = "given")]
    image: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    allow_leading_dash: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    container: Option<ContainerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ContainerEntry {
    network: Network,
    capabilities: Vec<String>,
    writable_root: bool,
    #[serde(deserialize_with = "given")]
    user: Option<u32>,
    pids: u16,
    tmp_mib: u32,
}

impl Default for ContainerEntry {
    fn default() -> Self {
        let Container { network, capabilities, writable_root, user: _, pids, tmp_mib } = Container::default();
        Self { network, capabilities, writable_root, user: None, pids, tmp_mib }
    }
}

impl ContainerEntry {
    fn into_container(self) -> Result<Container, Wrong> {
        let Self { network, capabilities, writable_root, user, pids, tmp_mib } = self;
        let wrong = |field: &str, what: String| Err((format!("run.container.{field}"), what));
        for (at, name) in capabilities.iter().enumerate() {
            if !LINUX_CAPABILITIES.contains(&name.as_str()) {
                let what = format!("`{}` is no Linux capability: expected one such as NET_RAW", one_line(name, 40));
                return wrong(&format!("capabilities[{at}]"), what);
            }
            if capabilities[..at].contains(name) {
                return wrong(&format!("capabilities[{at}]"), format!("`{name}` is listed twice"));
            }
        }
        let user = match user {
            Some(_) if !capabilities.is_empty() => {
                return wrong(
                    "user",
                    "capabilities take effect for user 0 alone, which the program is then".to_owned(),
                );
            }
            None if !capabilities.is_empty() => 0,
            None => Container::default().user,
            Some(user) if (1..=Container::USER_MAX).contains(&user) => user,
            Some(_) => return wrong("user", format!("expected 1 to {}", Container::USER_MAX)),
        };
        if !(1..=Container::PIDS_MAX).contains(&pids) {
            return wrong("pids", format!("expected 1 to {}", Container::PIDS_MAX));
        }
        if !(1..=Container::TMP_MIB_MAX).contains(&tmp_mib) {
            return wrong("tmp_mib", format!("expected 1 to {}", Container::TMP_MIB_MAX));
        }
        Ok(Container { network, capabilities, writable_root, user, pids, tmp_mib })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NeedsEntry {
    #[serde(deserialize_with = "given")]
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
    #[serde(deserialize_with = "given")]
    concurrent: Option<u16>,
    #[serde(deserialize_with = "given")]
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
    /// files that `input` and `emits` may name as `{ $ref: … }`, by path relative to the catalog.
    ///
    /// # Errors
    ///
    /// [`Violations`] names everything that is wrong, and where it stands.
    pub fn parse(
        file: &str,
        text: &str,
        builtins: &[Builtin],
        schemas: &BTreeMap<String, Value>,
    ) -> Result<Self, Violations> {
        Self::read(Reading::WRITTEN, file, text, builtins, schemas)
    }

    /// Reads one that was written or pushed.
    pub(crate) fn read(
        reading: Reading,
        file: &str,
        text: &str,
        builtins: &[Builtin],
        schemas: &BTreeMap<String, Value>,
    ) -> Result<Self, Violations> {
        let mut names = BTreeMap::new();
        let read = |entry: Entry, at: usize| {
            let twice = names
                .insert(entry.name.clone(), at)
                .map(|first| ("name".to_owned(), format!("is listed twice, also as capabilities[{first}]")));
            match (entry.into_capability(builtins, schemas, reading), twice) {
                (Ok(capability), None) => Ok(capability),
                (Ok(_), Some(twice)) => Err(vec![twice]),
                (Err(mut wrong), twice) => {
                    wrong.extend(twice);
                    Err(wrong)
                }
            }
        };
        let all = Document::read(reading, file, text, "capabilities").and_then(|document| document.each(read))?;
        let capabilities = all.into_iter().map(|capability| (capability.name.clone(), Arc::new(capability)));
        Ok(Self { capabilities: capabilities.collect() })
    }
}

/// Puts down what is wrong unless it is right.
fn expect(right: bool, path: &str, what: impl Into<String>, wrong: &mut Vec<Wrong>) {
    if !right {
        wrong.push((path.to_owned(), what.into()));
    }
}

impl Entry {
    fn into_capability(
        self,
        builtins: &[Builtin],
        schemas: &BTreeMap<String, Value>,
        reading: Reading,
    ) -> Result<Capability, Vec<Wrong>> {
        let Self { name, summary, run, input, needs, route, retry, limits, borrows, may_borrow, emits } = self;
        let mut wrong = Vec::new();
        expect(is_name(&name), "name", "expected 1 to 64 lower-case letters, digits and `-`", &mut wrong);
        needs.check(&mut wrong);
        let within = |most: u64, given: Option<u64>| given.is_none_or(|given| (1..=most).contains(&given));
        let concurrent = limits.concurrent.map(u64::from);
        let what = "expected at least 1; to stop a capability, pause it";
        expect(within(u64::MAX, concurrent), "limits.concurrent", what, &mut wrong);
        let ahead = AHEAD_MAX.as_secs();
        let what = format!("expected 1 to {ahead}");
        expect(within(ahead, limits.start_within_seconds), "limits.start_within_seconds", what, &mut wrong);
        expect((1..=100).contains(&retry.attempts), "retry.attempts", "expected 1 to 100", &mut wrong);
        expect(retry.backoff_seconds <= 3600, "retry.backoff_seconds", "expected at most 3600", &mut wrong);
        let emits = emits.into_emits(schemas, reading, &mut wrong);
        let input = input.unwrap_or_else(|| serde_json::json!({ "type": "object" }));
        let input = resolve("input", input, schemas, reading).map_err(|error| wrong.push(error)).ok();
        let run = run.into_program(builtins).map_err(|error| wrong.push(error)).ok();
        let (borrows, may_borrow) = loans::read(borrows, may_borrow, &mut wrong);
        let lent_in_process = !borrows.is_empty() && matches!(run, Some(Program::Builtin { .. }));
        expect(!lent_in_process, "borrows", "a built-in runs within its yard, and is lent nothing", &mut wrong);
        let (Some(input), Some(run), true) = (input, run, wrong.is_empty()) else { return Err(wrong) };
        Ok(Capability {
            name,
            summary: one_line(&summary, 200),
            needs: Needs {
                packaging: packaging(&run),
                expected: needs.expected_seconds.map(Duration::from_secs),
                memory_mib: needs.memory_mib,
                milli_vcpu: (needs.vcpu * 1000.0) as u32,
                docker: needs.docker,
                privileged: needs.privileged,
                network_tools: needs.network_tools,
                static_address: needs.static_ip,
                isolate: needs.isolate,
                interruptible: needs.interruptible,
                only: route.only,
                prefer: route.prefer,
            },
            run,
            timeout: Duration::from_secs(needs.timeout_seconds),
            grace: Duration::from_secs(needs.grace_seconds),
            retry: Retry {
                attempts: retry.attempts,
                backoff: Duration::from_secs(retry.backoff_seconds),
                permanent_exits: retry.permanent_exits,
            },
            learn: needs.learn,
            concurrent: limits.concurrent,
            start_within: limits.start_within_seconds.map(Duration::from_secs),
            input,
            borrows,
            may_borrow,
            emits,
        })
    }
}

impl NeedsEntry {
    fn check(&self, wrong: &mut Vec<Wrong>) {
        let most = RUN_TIMEOUT_MAX.as_secs();
        let expected = self.expected_seconds.is_none_or(|expected| expected <= most);
        expect(expected, "needs.expected_seconds", format!("expected at most {most}"), wrong);
        let timeout = (1..=most).contains(&self.timeout_seconds);
        expect(timeout, "needs.timeout_seconds", format!("expected 1 to {most}"), wrong);
        let most = GRACE_MAX.as_secs();
        expect(self.grace_seconds <= most, "needs.grace_seconds", format!("expected at most {most}"), wrong);
        expect(self.memory_mib > 0, "needs.memory_mib", "expected at least 1", wrong);
        expect((0.001..=192.0).contains(&self.vcpu), "needs.vcpu", "expected 0.001 to 192", wrong);
    }
}

/// A schema that is written at `place`, or in the file that is named there.
fn resolve(place: &str, written: Value, schemas: &BTreeMap<String, Value>, reading: Reading) -> Result<Schema, Wrong> {
    let written = match written.get("$ref").and_then(Value::as_str) {
        None => written,
        Some(path) => schemas.get(path).cloned().ok_or_else(|| {
            let what = format!("there is no file `{}` beside the catalog", one_line(path, 200));
            (format!("{place}.$ref"), what)
        })?,
    };
    let schema = Schema::new(written);
    if !reading.checked {
        schema.validator().map_err(|what| (place.to_owned(), what))?;
    }
    Ok(schema)
}

fn packaging(run: &Program) -> Packaging {
    match run {
        Program::Builtin { .. } => Packaging::Builtin,
        Program::Command { .. } => Packaging::Command,
        Program::Image { kind: ImageKind::Task, .. } => Packaging::TaskImage,
        Program::Image { kind: ImageKind::Function, .. } => Packaging::FunctionImage,
        Program::Image { kind: ImageKind::Any, .. } => Packaging::Image,
    }
}

impl RunEntry {
    fn into_program(self, builtins: &[Builtin]) -> Result<Program, Wrong> {
        let Self { builtin, with, command, task_image, function_image, image, args, allow_leading_dash, container } =
            self;
        let wrong = |path: &str, what: &str| Err((path.to_owned(), what.to_owned()));
        let takes_args = task_image.is_some() || function_image.is_some() || image.is_some();
        if !args.is_empty() && !takes_args {
            return wrong("run.args", "they go with an image; a command has its arguments in `command`");
        }
        if with.is_some() && builtin.is_none() {
            return wrong("run.with", "these are the settings of a built-in; nothing else has any");
        }
        if container.is_some() && task_image.is_none() && image.is_none() {
            return wrong(
                "run.container",
                "it goes with `image` or `task_image`: nothing else runs in a container here",
            );
        }
        let container = container.map_or_else(|| Ok(Container::default()), ContainerEntry::into_container)?;
        let images = [
            (ImageKind::Task, "run.task_image", task_image),
            (ImageKind::Function, "run.function_image", function_image),
            (ImageKind::Any, "run.image", image),
        ];
        let mut images =
            images.into_iter().filter_map(|(kind, path, reference)| reference.map(|text| (kind, path, text)));
        match (builtin, command, images.next(), images.next()) {
            (Some(builtin), None, None, None) => {
                let Some(known) = builtins.iter().find(|known| known.name == builtin) else {
                    let known: Vec<&str> = builtins.iter().map(|known| known.name).collect();
                    let (builtin, known) = (one_line(&builtin, 64), known.join(", "));
                    let what = format!("there is no built-in `{builtin}`; there are: {known}");
                    return wrong("run.builtin", &what);
                };
                let settings = Value::Object(with.unwrap_or_default());
                (known.check)(&settings).map_err(|bad| {
                    let inside = if bad.path.is_empty() { String::new() } else { format!(".{}", bad.path) };
                    (format!("run.with{inside}"), bad.message)
                })?;
                Ok(Program::Builtin { name: builtin, settings })
            }
            (None, Some(command), None, None) => {
                check_templates("run.command", &command)?;
                let mut words = command.into_iter();
                let Some(program) = words.next().filter(|program| !program.is_empty()) else {
                    return wrong("run.command", "expected the program and its arguments");
                };
                if program.contains("{{") {
                    return wrong("run.command[0]", "the program itself cannot come from the payload");
                }
                Ok(Program::Command { program, args: words.collect(), allow_leading_dash })
            }
            (None, None, Some((kind, path, reference)), None) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
                if reference.is_empty() || reference.len() > 255 || !reference.chars().all(fits) {
                    return wrong(path, &format!("`{}` is not an image reference", one_line(&reference, 80)));
                }
                check_templates("run.args", &args)?;
                Ok(Program::Image { kind, reference, args, allow_leading_dash, container })
            }
            _ => {
                wrong("run", "expected exactly one of `builtin`, `command`, `task_image`, `function_image` and `image`")
            }
        }
    }
}

fn check_templates(path: &str, args: &[String]) -> Result<(), Wrong> {
    match args.iter().enumerate().find(|(_, arg)| arg.matches("{{").count() != arg.matches("}}").count()) {
        Some((at, open)) => {
            Err((format!("{path}[{at}]"), format!("`{}` has a {{{{ without its }}}}", one_line(open, 80))))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{BadSettings, no_settings};

    /// Takes a list of even numbers.
    fn evens(settings: &Value) -> Result<(), BadSettings> {
        let numbers = settings.get("evens").and_then(Value::as_array).cloned().unwrap_or_default();
        match numbers.iter().position(|number| number.as_u64().is_none_or(|number| number % 2 == 1)) {
            None => Ok(()),
            Some(at) => {
                Err(BadSettings { path: format!("evens[{at}]"), message: "expected an even number".to_owned() })
            }
        }
    }

    fn parse(text: &str) -> Result<Catalog, Violations> {
        let builtins =
            [Builtin { name: "finding-triage", check: no_settings }, Builtin { name: "evens", check: evens }];
        Catalog::parse("capabilities.yaml", text, &builtins, &BTreeMap::new())
    }

    #[test]
    fn a_builtin_has_the_settings_that_it_finds_good() {
        let one = |run: &str| format!("version: 1\ncapabilities:\n  - {{ name: x, summary: s, run: {{ {run} }} }}\n");
        let settings = |run: &str| match &parse(&one(run)).unwrap().get("x").unwrap().run {
            Program::Builtin { settings, .. } => settings.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(settings("builtin: evens"), serde_json::json!({}));
        assert_eq!(settings("builtin: evens, with: { evens: [2] }"), serde_json::json!({ "evens": [2] }));
    }

    #[test]
    fn a_broken_catalog_is_named_with_file_line_column_path_and_reason() {
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
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [sleep, 5] }\n    needs:\n      memory_mib: many\n",
            "version: 1\ncapabilities:\n  - name: x\n    run: { image: \"a b\", args: [\"{{x}}\"] }\n    summary: s\n    limits: { concurrent: 0 }\n    retry:\n      attempts: 0\n    needs: { learn: on, expected_seconds: }\n  - summary: s\n    run: { builtin: x }\n  - name: y\n    run: { image: \"a b\", builtin: x }\n    summary: s\n    limits: { concurrent: 0 }\n    retry:\n      attempts: 0\n",
            "- version: 1\n",
            "version: one\ncapabilities: []\n",
            "capabilities: []\n",
            "version: 1\ncapabilitys: []\n",
            "version: 1\ncapabilities: {}\n",
            "version: 1\nversion: 1\ncapabilities: []\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      builtin: evens\n      with:\n        evens: [2, 3]\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      builtin: finding-triage\n      with: { fast: true }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      command: [a]\n      with: { fast: true }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { builtin: evens, with: [2] }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run: { command: [a], container: {} }\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      image: a\n      container:\n        capabilities: [NET_RAW, CAP_NET_RAW]\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      image: a\n      container:\n        user: 0\n",
            "version: 1\ncapabilities:\n  - name: x\n    summary: s\n    run:\n      image: a\n      container: { network: host }\n",
        ];
        let messages: Vec<String> = cases.iter().map(|text| parse(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(messages.join("\n\n"));
    }

    #[test]
    fn what_is_wrong_is_told_up_to_a_bound() {
        let entry = "  - { name: X, summary: s, run: { command: [a] } }\n";
        let violations = parse(&format!("version: 1\ncapabilities:\n{}", entry.repeat(30))).unwrap_err();
        assert_eq!(violations.lines().len(), crate::policies::VIOLATIONS_MAX + 1);
        assert_eq!(violations.lines().last().map(String::as_str), Some("and 39 more"));
    }
}
