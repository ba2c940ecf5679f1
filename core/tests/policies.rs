//! The policies that are shipped, and the published schemas against the parsers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use switchyard_core::catalog::{Builtin, Catalog, no_settings};
use switchyard_core::mapping::Mappings;
use switchyard_core::policies::{Files, Policies, Violations, as_json, changes};
use switchyard_core::schedule::Schedules;

fn policies(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(file)).unwrap()
}

/// The functions there are, as far as a published schema can know them: with whatever settings.
const BUILTINS: [Builtin; 2] =
    [Builtin { name: "finding-triage", check: no_settings }, Builtin { name: "http-check", check: |_| Ok(()) }];

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

/// All shipped files, with these schedules.
fn shipped(schedules: String) -> Files {
    let schemas =
        ["finding-triage", "host-name", "path", "port-scan", "url"].map(|name| format!("schemas/{name}.json"));
    let custodian = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/custodian")).unwrap();
    let custodian = custodian.map(|entry| format!("custodian/{}", entry.unwrap().file_name().to_string_lossy()));
    let others = ["capabilities.yaml", "policy-mappings.json", "prices.yaml", "routing.yaml"].map(str::to_owned);
    let names = schemas.into_iter().chain(custodian).chain(others);
    let mut files: Files = names.map(|name| (name.clone(), policies(&name))).collect();
    files.insert("schedules.yaml".to_owned(), schedules);
    files
}

#[test]
fn what_was_pushed_is_read_as_what_was_written_and_only_as_json() {
    let files = shipped(schedules().1);
    let written = Policies::parse(&files, &BUILTINS, None).unwrap();
    let pushed = as_json(&files).unwrap();
    let read = Policies::parse_pushed(&pushed, &BUILTINS).unwrap();
    assert_eq!(changes(&written, &read), Vec::<String>::new());
    assert_eq!((&read.limits, &read.quotas, read.ageing), (&written.limits, &written.quotas, written.ageing));
    assert_eq!(read.mappings.iter().count(), written.mappings.iter().count());
    let told = Policies::parse_pushed(&files, &BUILTINS).unwrap_err().to_string();
    let told: Vec<&str> = told.lines().collect();
    let (files, all_same): (Vec<&str>, bool) = (
        told.iter().filter_map(|line| line.split(':').next()).collect(),
        told.iter().all(|line| line.contains("not JSON")),
    );
    // Of routing.yaml and prices.yaml, which are read together, the first that is wrong.
    assert_eq!((files, all_same), (vec!["capabilities.yaml", "prices.yaml", "schedules.yaml"], true), "{told:?}");
    // What an operator has never seen has no places.
    let broken = pushed["routing.yaml"].replace("\"unknown_seconds\":30", "\"unknown_seconds\":0");
    let broken = Files::from_iter(pushed.into_iter().chain([("routing.yaml".to_owned(), broken)]));
    let told = Policies::parse_pushed(&broken, &BUILTINS).unwrap_err().to_string();
    assert_eq!(told, "routing.yaml: unknown_seconds: expected 1 to 86400");
}

#[test]
fn the_shipped_files_and_their_examples_are_sound() {
    let shipped = |schedules: String| Policies::parse(&shipped(schedules), &BUILTINS, None).unwrap();
    let (plain, with_examples) = schedules();
    assert_eq!(shipped(plain).schedules.iter().count(), 0);
    let with_examples = shipped(with_examples);
    assert_eq!(with_examples.schedules.iter().count(), 2);
    // Each policy is there because a mapping names it, and has no mode: to run one with a mode is to set up a function.
    let named: BTreeSet<&String> = with_examples.mappings.iter().flat_map(|mapping| &mapping.policies).collect();
    assert!(named.into_iter().eq(with_examples.custodian.keys()));
    assert!(with_examples.custodian.values().all(|text| text.contains("policies:") && !text.contains("mode:")));
}

#[test]
fn the_published_schema_of_capabilities_agrees_with_the_parser() {
    let schemas = BTreeMap::from([("schemas/x.json".to_owned(), Value::Bool(true))]);
    let parse = |text: &str| Catalog::parse("capabilities.yaml", text, &BUILTINS, &schemas).map(drop);
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
    let may = |grant: &str| more(&format!("may_borrow: [{{ {grant} }}]"));
    let lent =
        |scope: &str, grant: &str| more(&format!("borrows: {{ x: {{ {scope} }} }}, may_borrow: [{{ {grant} }}]"));
    let good = [
        "version: 1\ncapabilities: []\n".to_owned(),
        run("builtin: finding-triage"),
        run("builtin: finding-triage, args: []"),
        run("builtin: http-check, with: {}"),
        run("builtin: http-check, with: { allow: [127.0.0.0/8] }"),
        run("command: [du, \"{{path}}\", \"5\"], allow_leading_dash: [path]"),
        run("task_image: ghcr.io/example/nmap:7.95, args: [-oX, \"{{target}}\"]"),
        run("function_image: example@sha256:0123"),
        run("image: a"),
        run("image: a, container: {}"),
        run("task_image: a, container: { network: none, capabilities: [], writable_root: true }"),
        run("image: a, container: { network: outbound, capabilities: [NET_RAW, SYS_PTRACE], writable_root: false, \
             pids: 4096, tmp_mib: 65536 }"),
        run("image: a, container: { capabilities: [], user: 2147483647 }"),
        run("image: a, container: { user: 1, pids: 1, tmp_mib: 1 }"),
        more("input: true"),
        more("input: { type: object }"),
        more("input: { $ref: schemas/x.json }"),
        more("emits: {}"),
        more("emits: { asset: true, finding: { type: object }, metric: { $ref: schemas/x.json }, log: {} }"),
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
        more("borrows: {}, may_borrow: []"),
        more(
            "borrows: { a-1: { kind: aws, role: \"arn:aws:iam::{{of}}:role/r\" } }, may_borrow: [{ kind: aws, role: \"arn:*\" }]",
        ),
        lent(
            "kind: gcloud, service_account: a@b, scopes: [c]",
            "kind: gcloud, service_account: \"*@b\", scopes: [c], key: k",
        ),
        lent(
            "kind: azure, tenant: t, client_id: c, resource: \"https://r/.default\"",
            "kind: azure, tenant: t, client_id: c, resources: [\"https://r/.default\"], certificate: k",
        ),
        lent(
            "kind: github, owner: o, repositories: [a], permissions: { contents: read }",
            "kind: github, owner: o, repositories: [\"*\"], permissions: { contents: admin }, app: { app_id: a, \
             installation_id: 7, key: k }",
        ),
        lent("kind: global, secret: \"{{name}}\"", "kind: global, secret: \"*\", at_most_seconds: 60"),
        may(
            "kind: aws, role: \"arn:*\", external_id: a-1, session_policy: { Version: \"2012-10-17\", Statement: [{}] }",
        ),
        may("kind: gcloud, service_account: a, scopes: [c], federation: { audience: //iam.googleapis.com/p }"),
        may("kind: azure, tenant: t, client_id: c, resources: [r], secret: s, at_most_seconds: 3600"),
        may("kind: azure, tenant: t, client_id: c, resources: [r], federation: true"),
        may("kind: github, owner: o, repositories: [a], token: t"),
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
        more("emits: { host: true }"),
        more("emits: { asset: false }"),
        more("emits: { asset: 7 }"),
        more("emits: [asset]"),
        run("command: [a]").replace("name: c", "name: C"),
        run("command: [a]").replace("name: c", "name: 7"),
        run("command: [a]").replace("name: c, ", ""),
        run("command: [a]").replace("summary: s, ", ""),
        one("needs: {}"),
        run(""),
        run("builtin: finding-triage, command: [a]"),
        run("image: a, task_image: a"),
        run("builtin: finding-triage, args: [a]"),
        run("builtin: http-check, with: "),
        run("builtin: http-check, with: [a]"),
        run("builtin: http-check, with: 5"),
        run("command: [a], with: {}"),
        run("image: a, with: {}"),
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
        run("image: a, container: { capabilities: [NET_RAW], user: 1000 }"),
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
        more("needs: [30, 60]"),
        more("retry: [3, 30]"),
        more("limits: [1]"),
        one("run: [finding-triage]"),
        more("borrows: { x: [global, a] }, may_borrow: [{ kind: global, secret: a }]"),
        more("may_borrow: [[global, a]]"),
        may("kind: gcloud, service_account: a, scopes: [c], federation: [//iam.googleapis.com/p]"),
        may("kind: github, owner: o, repositories: [a], app: [a, 7, k]"),
        more("borrows: []"),
        more("borrows: { A: { kind: global, secret: a } }, may_borrow: [{ kind: global, secret: a }]"),
        more("may_borrow: {}"),
        lent("kind: aws", "kind: aws, role: \"arn:*\""),
        lent("kind: aws, role: 7", "kind: aws, role: \"arn:*\""),
        lent("kind: global, secret: a, of: me", "kind: global, secret: a"),
        lent("kind: github, owner: o, repositories: [a], permissions: { b: own }", "kind: global, secret: a"),
        may("kind: ftp"),
        may("role: \"arn:*\""),
        may("kind: aws"),
        may("kind: aws, role: scan"),
        may("kind: aws, role: \"arn:a b\""),
        may("kind: aws, role: \"arn:*\", external_id: a"),
        may("kind: aws, role: \"arn:*\", external_id: "),
        may("kind: aws, role: \"arn:*\", session_policy: {}"),
        may("kind: aws, role: \"arn:*\", session_policy: { Version: \"2012-10-17\", Statement: [] }"),
        may("kind: aws, role: \"arn:*\", at_most_seconds: 59"),
        may("kind: aws, role: \"arn:*\", at_most_seconds: 3601"),
        may("kind: aws, role: \"arn:*\", secret: a"),
        may("kind: gcloud, service_account: a, scopes: [c]"),
        may("kind: gcloud, service_account: a, scopes: [], key: k"),
        may("kind: gcloud, service_account: a, scopes: [\"*\"], key: k"),
        may("kind: gcloud, service_account: a, scopes: [c], key: k, federation: { audience: //iam.googleapis.com/p }"),
        may("kind: gcloud, service_account: a, scopes: [c], federation: { audience: https://iam.googleapis.com/p }"),
        may("kind: azure, tenant: t/u, client_id: c, resources: [r], secret: s"),
        may("kind: azure, tenant: t, client_id: c, resources: [r]"),
        may("kind: azure, tenant: t, client_id: c, resources: [r], secret: s, certificate: s"),
        may("kind: azure, tenant: t, client_id: c, resources: [r], secret: \"*\""),
        may("kind: github, owner: o, repositories: [a]"),
        may("kind: github, owner: o, repositories: [], token: t"),
        may("kind: github, owner: \"*\", repositories: [a], token: t"),
        may("kind: github, owner: o, repositories: [a], permissions: { contents: read }, token: t"),
        may("kind: github, owner: o, repositories: [a], app: { app_id: a, installation_id: 7, key: k }"),
        may("kind: github, owner: o, repositories: [a], permissions: { b: read }, app: { app_id: a, key: k }"),
        may("kind: global, secret: \"a b\""),
        may("kind: global"),
        run("builtin: finding-triage }, borrows: { x: { kind: global, secret: a } }, may_borrow: [{ kind: global, secret: a }], needs: {"),
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

#[test]
fn the_published_schema_of_policy_mappings_agrees_with_the_parser() {
    let shipped = policies("policy-mappings.json");
    let read: Value = serde_json::from_str(&shipped).unwrap();
    let named = read["mappings"].as_array().unwrap().iter().flat_map(|one| one["policies"].as_array().unwrap());
    let mut there: BTreeSet<String> = named.map(|path| path.as_str().unwrap().to_owned()).collect();
    there.extend(["custodian/x.yml", "custodian/deep/..x.yaml", "custodian/deep/.yml"].map(str::to_owned));
    let parse = |text: &str| Mappings::parse("policy-mappings.json", text, &there).map(drop);
    let agreement = Agreement::new("schema/policy-mappings.schema.json", &parse);
    assert!(agreement.good(&shipped));
    let one = |name: &str, asked: &str, policies: &str, more: &str| {
        format!(r#"{{"version":1,"mappings":[{{"name":"{name}","match":{asked},"policies":{policies}{more}}}]}}"#)
    };
    let asks = |asked: &str| one("m", &format!("{{{asked}}}"), r#"["custodian/x.yml"]"#, "");
    let runs = |policies: &str| one("m", "{}", policies, "");
    let good = [
        r#"{"version":1,"mappings":[]}"#.to_owned(),
        asks(""),
        asks(r#""source":"a","detail_type":["a","b"],"finding_type":["*","a?[b]{c}"],"resource_type":"AwsS3Bucket""#),
        asks(r#""severity_at_least":"informational","account":"000000000001","region":["eu-west-1","aws-global"]"#),
        asks(&format!(r#""source":"{}""#, "é".repeat(512))),
        runs(r#"["custodian/x.yml","custodian/deep/..x.yaml"]"#),
        one("m", "{}", r#"["custodian/x.yml"]"#, r#","tier":"synchronous""#),
    ];
    for text in good {
        assert!(agreement.good(&text), "{text}");
    }
    agreement.all_broken([
        r#"{"version":2,"mappings":[]}"#.to_owned(),
        r#"{"version":1}"#.to_owned(),
        r#"{"version":1,"mappings":{}}"#.to_owned(),
        r#"{"version":1,"mappings":[],"extra":1}"#.to_owned(),
        r#"[]"#.to_owned(),
        one("M", "{}", r#"["custodian/x.yml"]"#, ""),
        one("", "{}", r#"["custodian/x.yml"]"#, ""),
        one("m", "[]", r#"["custodian/x.yml"]"#, ""),
        r#"{"version":1,"mappings":[["m",{},["custodian/x.yml"],"priority"]]}"#.to_owned(),
        one("m", "{}", r#"["custodian/x.yml"]"#, r#","tier":"soon""#),
        one("m", "{}", r#"["custodian/x.yml"]"#, r#","extra":1"#),
        asks(r#""soruce":"a""#),
        asks(r#""source":"""#),
        asks(r#""source":" a""#),
        asks(r#""source":"a ""#),
        asks("\"source\":\"a\\u0007\""),
        asks("\"source\":\"a\\u202e\""),
        asks(&format!(r#""source":"{}""#, "a".repeat(513))),
        asks(r#""source":[]"#),
        asks(r#""source":["a","a"]"#),
        asks(r#""source":["a",""]"#),
        asks(r#""source":7"#),
        asks(r#""source":[7]"#),
        asks(r#""source":null"#),
        asks(r#""account":"12345678901""#),
        asks(r#""account":["12345678901x"]"#),
        asks(r#""account":123456789012"#),
        asks(r#""region":"Ireland""#),
        asks(r#""region":"""#),
        asks(r#""severity_at_least":"HIGH""#),
        asks(r#""severity_at_least":["high"]"#),
        asks(r#""severity_at_least":null"#),
        runs("[]"),
        runs(r#""custodian/x.yml""#),
        runs(r#"["custodian/x.yml","custodian/x.yml"]"#),
        runs(r#"["x.yml"]"#),
        runs(r#"["/custodian/x.yml"]"#),
        runs(r#"["custodian/../x.yml"]"#),
        runs(r#"["custodian/./x.yml"]"#),
        runs(r#"["custodian//x.yml"]"#),
        runs(r#"["custodian/x.json"]"#),
        runs(r#"["custodian/deep/.yml"]"#),
        runs(r#"["custodian/a b.yml"]"#),
    ]);
}
