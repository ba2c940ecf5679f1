//! The policies that are shipped, and the published schemas against the parsers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use switchyard_core::catalog::Catalog;
use switchyard_core::policies::{Files, Policies, Violations};
use switchyard_core::schedule::Schedules;

fn policies(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(file)).unwrap()
}

/// The shipped schedules, and the same with their examples switched on.
fn schedules() -> (String, String) {
    let text = policies("schedules.yaml");
    let examples: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let with_examples = text.replace("schedules: []", &format!("schedules:\n  {}", examples.join("\n  ")));
    (text, with_examples)
}

/// A published schema beside the parser of the same file.
struct Agreement<'a> {
    schema: jsonschema::Validator,
    parse: &'a dyn Fn(&str) -> Result<(), Violations>,
}

impl<'a> Agreement<'a> {
    fn new(schema: &str, parse: &'a dyn Fn(&str) -> Result<(), Violations>) -> Self {
        let schema: Value = serde_json::from_str(&policies(schema)).unwrap();
        Self { schema: jsonschema::draft202012::new(&schema).unwrap(), parse }
    }

    /// Whether the text is good, as both say.
    fn good(&self, text: &str) -> bool {
        let options = serde_saphyr::options! { strict_booleans: true };
        let value: Value = serde_saphyr::from_str_with_options(text, options).unwrap();
        let (published, parsed) = (self.schema.is_valid(&value), (self.parse)(text));
        assert_eq!(published, parsed.is_ok(), "{text}\n{parsed:?}");
        published
    }

    fn all_broken(&self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            assert!(!self.good(&text), "{text}");
        }
    }
}

#[test]
fn the_shipped_files_and_their_examples_are_sound() {
    let schemas = ["schemas/finding-triage.json", "schemas/host-name.json", "schemas/path.json"];
    let shipped = |schedules: String| {
        let mut files: Files = schemas.map(|name| (name.to_owned(), policies(name))).into();
        files.insert("capabilities.yaml".to_owned(), policies("capabilities.yaml"));
        files.insert("schedules.yaml".to_owned(), schedules);
        Policies::parse(&files, &["finding-triage"], None).unwrap()
    };
    let (plain, with_examples) = schedules();
    assert_eq!(shipped(plain).schedules.iter().count(), 0);
    assert_eq!(shipped(with_examples).schedules.iter().count(), 2);
}

#[test]
fn the_published_schema_of_capabilities_agrees_with_the_parser() {
    let schemas = BTreeMap::from([("schemas/x.json".to_owned(), Value::Bool(true))]);
    let parse = |text: &str| Catalog::parse("capabilities.yaml", text, &["finding-triage"], &schemas).map(drop);
    let agreement = Agreement::new("schema/capabilities.schema.json", &parse);
    // Every schema it refers to is the one that is there.
    let shipped = policies("capabilities.yaml");
    let line = |line: &str| match line.split_once("{ $ref") {
        Some((front, _)) => format!("{front}{{ $ref: schemas/x.json }}\n"),
        None => format!("{line}\n"),
    };
    let shipped: String = shipped.lines().map(line).collect();
    assert!(agreement.good(&shipped));
    let one = |fields: &str| format!("version: 1\ncapabilities:\n  - {{ name: c, summary: s, {fields} }}\n");
    let run = |run: &str| one(&format!("run: {{ {run} }}"));
    let more = |fields: &str| one(&format!("run: {{ command: [a] }}, {fields}"));
    let good = [
        "version: 1\ncapabilities: []\n".to_owned(),
        run("builtin: finding-triage"),
        run("builtin: finding-triage, args: []"),
        run("command: [du, \"{{path}}\", \"5\"], allow_leading_dash: [path]"),
        run("task_image: ghcr.io/example/nmap:7.95, args: [-oX, \"{{target}}\"]"),
        run("function_image: example@sha256:0123"),
        run("image: a"),
        run("image: a, container: {}"),
        run("task_image: a, container: { network: none, capabilities: [], writable_root: true }"),
        run("image: a, container: { network: outbound, capabilities: [NET_RAW, SYS_PTRACE], writable_root: false, \
             user: 2147483647, pids: 4096, tmp_mib: 65536 }"),
        run("image: a, container: { user: 1, pids: 1, tmp_mib: 1 }"),
        more("input: true"),
        more("input: { type: object }"),
        more("input: { $ref: schemas/x.json }"),
        more("needs: {}, route: {}, retry: {}, limits: {}"),
        more(
            "needs: { expected_seconds: 0, timeout_seconds: 39600, grace_seconds: 0, memory_mib: 4294967295, vcpu: 2, \
             docker: true, privileged: false, network_tools: true, static_ip: true, interruptible: false, isolate: \
             true, learn: on }",
        ),
        more("needs: { expected_seconds: 39600, timeout_seconds: 1, grace_seconds: 30, vcpu: 0.001, learn: off }"),
        more("route: { only: [fargate, standard], prefer: [a-pool-of-mine] }"),
        more("retry: { attempts: 100, backoff_seconds: 3600, permanent_exits: [-1, 2] }"),
        more("limits: { concurrent: 65535, start_within_seconds: 31622400 }"),
    ];
    for text in good {
        assert!(agreement.good(&text), "{text}");
    }
    agreement.all_broken([
        "version: 2\ncapabilities: []\n".to_owned(),
        "version: \"1\"\ncapabilities: []\n".to_owned(),
        "version: 1\n".to_owned(),
        "capabilities: []\n".to_owned(),
        "[]\n".to_owned(),
        "version: 1\ncapabilities: {}\n".to_owned(),
        "version: 1\ncapabilities: []\nextra: 1\n".to_owned(),
        more("learn: on"),
        run("command: [a]").replace("name: c", "name: C"),
        run("command: [a]").replace("name: c", "name: 7"),
        run("command: [a]").replace("name: c, ", ""),
        run("command: [a]").replace("summary: s, ", ""),
        one("needs: {}"),
        run(""),
        run("builtin: finding-triage, command: [a]"),
        run("image: a, task_image: a"),
        run("builtin: finding-triage, args: [a]"),
        run("command: [a], args: [a]"),
        run("command: []"),
        run("command: [\"\"]"),
        run("command: [\"{{x}}\"]"),
        run("command: [sleep, 5]"),
        run("command: a"),
        run("command: [a], shell: true"),
        run("image: a b"),
        run("image: \"\""),
        run("image: a, builtin: "),
        run("command: [a], container: {}"),
        run("builtin: finding-triage, container: {}"),
        run("function_image: a, container: {}"),
        run("image: a, container: "),
        run("image: a, container: { network: host }"),
        run("image: a, container: { capabilities: [CAP_NET_RAW] }"),
        run("image: a, container: { capabilities: [net_raw] }"),
        run("image: a, container: { capabilities: [ALL] }"),
        run("image: a, container: { capabilities: [NET_RAW, NET_RAW] }"),
        run("image: a, container: { user: 0 }"),
        run("image: a, container: { user: 2147483648 }"),
        run("image: a, container: { user: nobody }"),
        run("image: a, container: { pids: 0 }"),
        run("image: a, container: { pids: 4097 }"),
        run("image: a, container: { tmp_mib: 0 }"),
        run("image: a, container: { tmp_mib: 65537 }"),
        run("image: a, container: { volumes: [/] }"),
        more("input: 7"),
        more("input: "),
        more("needs: "),
        more("needs: { expected_seconds: }"),
        more("needs: { expected_seconds: -1 }"),
        more("needs: { expected_seconds: 39601 }"),
        more("needs: { timeout_seconds: 0 }"),
        more("needs: { timeout_seconds: 39601 }"),
        more("needs: { timeout_seconds: 1.5 }"),
        more("needs: { grace_seconds: 31 }"),
        more("needs: { memory_mib: 0 }"),
        more("needs: { memory_mib: 4294967296 }"),
        more("needs: { vcpu: 0 }"),
        more("needs: { vcpu: 193 }"),
        more("needs: { docker: yes }"),
        more("needs: { learn: always }"),
        more("needs: { gpu: 1 }"),
        more("route: { only: fargate }"),
        more("route: { only: [a-pool-of-my-own] }"),
        more("route: { only: [Fargate] }"),
        more("retry: { attempts: 0 }"),
        more("retry: { attempts: 101 }"),
        more("retry: { backoff_seconds: 3601 }"),
        more("retry: { permanent_exits: [2147483648] }"),
        more("limits: { concurrent: 0 }"),
        more("limits: { concurrent: 65536 }"),
        more("limits: { start_within_seconds: 0 }"),
        more("limits: { start_within_seconds: 31622401 }"),
    ]);
}

#[test]
fn the_published_schema_of_schedules_agrees_with_the_parser() {
    let parse = |text: &str| Schedules::parse("schedules.yaml", text).map(drop);
    let agreement = Agreement::new("schema/schedules.schema.json", &parse);
    let (plain, with_examples) = schedules();
    assert!(agreement.good(&plain) && agreement.good(&with_examples));
    let one = |fields: &str| format!("version: 1\nschedules:\n  - {{ name: s, capability: c, {fields} }}\n");
    let all = "rate_minutes: 527040, labels: { a: b }, payload: [1], tier: synchronous, overlap: skip";
    assert!(agreement.good(&one(all)));
    agreement.all_broken([
        "version: 2\nschedules: []\n".to_owned(),
        "version: 1\n".to_owned(),
        "version: 1\nschedules: []\nextra: 1\n".to_owned(),
        one("rate_minutes: 5").replace("name: s", "name: S"),
        one("rate_minutes: 5").replace("name: s, ", ""),
        one("rate_minutes: 5").replace("capability: c, ", ""),
        one("missed: all"),
        one("rate_minutes: 5, cron: 0 2 * * *"),
        one("rate_minutes: 5, time_zone: UTC"),
        one("rate_minutes: 0"),
        one("rate_minutes: 1.5"),
        one("rate_minutes: 527041"),
        one("cron: 0 2 * *"),
        one("cron: 0 0 2 * * *"),
        one("rate_minutes: 5, corn: x"),
        one("rate_minutes: 5, tier: fast"),
        one("rate_minutes: 5, missed: some"),
        one("rate_minutes: 5, overlap: queue"),
        one("rate_minutes: 5, enabled: maybe"),
        one("rate_minutes: 5, labels: { schedule: s }"),
        one("rate_minutes: 5, labels: { a=b: c }"),
        one("rate_minutes: 5, labels: { a: \"\" }"),
    ]);
}
