//! Which mapping answers: precedence as a table, the shipped file against every recorded event, what is wrong with a
//! file, and the index against a reference that shares nothing with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard_core::finding::{Finding, Reading, Resource, Severity, Standing, read};
use switchyard_core::mapping::{CONSIDERED_MAX, Mapping, Mappings};

fn here() -> BTreeSet<String> {
    ["custodian/x.yml", "custodian/deep/y.yaml"].map(str::to_owned).into()
}

fn parse(text: &str) -> Result<Mappings, String> {
    Mappings::parse("policy-mappings.json", text, &here()).map_err(|wrong| wrong.to_string())
}

/// Mappings named m0, m1, … that ask for this.
fn asking(matches: &[Value]) -> Value {
    let entry = |(at, asked): (usize, &Value)| json!({ "name": format!("m{at}"), "match": asked, "policies": ["custodian/x.yml"] });
    json!({ "version": 1, "mappings": matches.iter().enumerate().map(entry).collect::<Vec<_>>() })
}

fn mappings(matches: &[Value]) -> Mappings {
    parse(&asking(matches).to_string()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn finding(types: &[&str], severity: Option<Severity>) -> Finding {
    Finding {
        source: "aws.guardduty".to_owned(),
        detail_type: "GuardDuty Finding".to_owned(),
        finding_type: types.first().copied().unwrap_or_default().to_owned(),
        other_types: types.iter().skip(1).map(|name| (*name).to_owned()).collect(),
        title: String::new(),
        severity,
        account: "123456789012".to_owned(),
        region: "eu-west-1".to_owned(),
        resources: vec![],
        id: "one".to_owned(),
        updated_at: None,
        standing: Standing::Active,
        signals: vec![],
    }
}

fn resource(kind: &str) -> Resource {
    Resource { kind: kind.to_owned(), id: "r".to_owned() }
}

fn name(chosen: Option<&Mapping>) -> &str {
    chosen.map_or("-", |mapping| &mapping.name)
}

#[test]
fn the_most_specific_mapping_answers() {
    let cases: &[(&str, &[Value])] = &[
        ("nothing is asked", &[json!({})]),
        ("a type before none", &[json!({}), json!({"finding_type": "*"})]),
        (
            "written out before a glob",
            &[json!({"finding_type": "Recon:EC2/PortProb?"}), json!({"finding_type": "Recon:EC2/PortProbe"})],
        ),
        (
            "written out before all else",
            &[
                json!({"finding_type": "Recon:*", "resource_type": "AwsEc2Instance", "account": "123456789012", "region": "eu-west-1",
                   "severity_at_least": "high", "detail_type": "GuardDuty Finding", "source": "aws.guardduty"}),
                json!({"finding_type": "Recon:EC2/PortProbe"}),
            ],
        ),
        (
            "more text in a glob",
            &[
                json!({"finding_type": "Recon:*"}),
                json!({"finding_type": "Recon:EC2/*"}),
                json!({"finding_type": "*Probe"}),
            ],
        ),
        ("more single characters", &[json!({"finding_type": "Recon:*"}), json!({"finding_type": "Recon:????????*"})]),
        (
            "fewer stars",
            &[
                json!({"finding_type": "*EC2/P*b*"}),
                json!({"finding_type": "*EC2/P*be"}),
                json!({"finding_type": "*EC2/Pr*"}),
            ],
        ),
        (
            "a glob before the fields",
            &[
                json!({"finding_type": "Recon:*", "resource_type": "AwsEc2Instance"}),
                json!({"finding_type": "Recon:E*"}),
            ],
        ),
        (
            "resource type before account",
            &[json!({"account": "123456789012"}), json!({"resource_type": "AwsEc2Instance"})],
        ),
        (
            "resource type before account and region",
            &[json!({"account": "123456789012", "region": "eu-west-1"}), json!({"resource_type": "AwsEc2Instance"})],
        ),
        ("account before region", &[json!({"region": "eu-west-1"}), json!({"account": "123456789012"})]),
        (
            "both before one",
            &[json!({"account": "123456789012"}), json!({"account": "123456789012", "region": "eu-west-1"})],
        ),
        ("region before severity", &[json!({"severity_at_least": "high"}), json!({"region": "eu-west-1"})]),
        (
            "the higher severity",
            &[
                json!({"severity_at_least": "informational"}),
                json!({"severity_at_least": "high"}),
                json!({"severity_at_least": "medium"}),
            ],
        ),
        ("a severity before none", &[json!({}), json!({"severity_at_least": "informational"})]),
        (
            "severity before detail-type and source",
            &[
                json!({"detail_type": "GuardDuty Finding", "source": "aws.guardduty"}),
                json!({"severity_at_least": "low"}),
            ],
        ),
        (
            "detail-type before source",
            &[json!({"source": "aws.guardduty"}), json!({"detail_type": "GuardDuty Finding"})],
        ),
        ("a source before none", &[json!({}), json!({"source": "aws.guardduty"})]),
        ("the earlier one", &[json!({"region": "eu-west-1"}), json!({"region": ["us-east-1", "eu-west-1"]})]),
        (
            "the alternative that matched",
            &[json!({"finding_type": ["Recon:*", "Trojan:EC2/DropPoint"]}), json!({"finding_type": "Recon:E*"})],
        ),
        (
            "the narrowest alternative",
            &[json!({"finding_type": "Recon:E*"}), json!({"finding_type": ["*", "Recon:EC2*", "Recon:*"]})],
        ),
        ("any of a finding's types", &[json!({"finding_type": "Recon:EC2*"}), json!({"finding_type": "S3.8"})]),
        ("another resource type", &[json!({"resource_type": "AwsS3Bucket"})]),
        ("a higher severity", &[json!({"severity_at_least": "critical"})]),
        ("another case", &[json!({"finding_type": "recon:*"}), json!({"source": "AWS.guardduty"})]),
    ];
    let findings = [
        ("rated", finding(&["Recon:EC2/PortProbe", "S3.8"], Some(Severity::High)), Some(resource("AwsEc2Instance"))),
        ("unrated", finding(&["Recon:EC2/PortProbe", "S3.8"], None), Some(resource("AwsEc2Instance"))),
        ("without type and resource", finding(&[], Some(Severity::High)), None),
    ];
    let mut table = String::new();
    for (case, asked) in cases {
        let mappings = mappings(asked);
        writeln!(table, "{case}").unwrap();
        for (at, asked) in asked.iter().enumerate() {
            writeln!(table, "    m{at} {asked}").unwrap();
        }
        for (title, finding, resource) in &findings {
            writeln!(table, "  {title}: {}", name(mappings.choose(finding, resource.as_ref()))).unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn what_is_wrong_is_named_with_file_line_column_path_and_reason() {
    let one = |fields: &str| {
        format!("{{\n  \"version\": 1,\n  \"mappings\": [\n    {{ \"name\": \"a\", {fields} }}\n  ]\n}}\n")
    };
    let asks = |asked: &str| one(&format!("\"match\": {{ {asked} }}, \"policies\": [\"custodian/x.yml\"]"));
    let runs = |policies: &str| one(&format!("\"match\": {{}}, \"policies\": {policies}"));
    let many = |count: usize, asked: &Value| asking(&vec![asked.clone(); count]).to_string();
    let accounts: Vec<String> = (0..1001).map(|n| format!("{n:012}")).collect();
    let cases = [
        String::new(),
        "version: 1\nmappings: []\n".to_owned(),
        "{ \"version\": 1, \"mappings\": [], }".to_owned(),
        "{ \"version\": 1, \"mappings\": [] } // all".to_owned(),
        "{ \"version\": 2, \"mappings\": [] }".to_owned(),
        "{ \"version\": 1, \"mappings\": {} }".to_owned(),
        "{ \"version\": 1, \"mapping\": [] }".to_owned(),
        "{ \"version\": 1, \"mappings\": [], \"mappings\": [] }".to_owned(),
        one("\"match\": {}, \"match\": {}, \"policies\": [\"custodian/x.yml\"]"),
        one("\"policies\": [\"custodian/x.yml\"]"),
        one("\"match\": {}"),
        one("\"match\": [], \"policies\": [\"custodian/x.yml\"]"),
        one("\"match\": {}, \"policies\": [\"custodian/x.yml\"], \"tear\": \"standard\""),
        one("\"match\": {}, \"policies\": [\"custodian/x.yml\"], \"tier\": \"soon\""),
        asks("\"soruce\": \"a\""),
        asks("\"source\": \"\""),
        asks("\"source\": \" a\""),
        asks("\"source\": \"a\\u0007\""),
        asks("\"source\": \"\\u202eexe\""),
        asks(&format!("\"source\": \"{}\"", "a".repeat(513))),
        asks("\"source\": []"),
        asks("\"source\": [\"a\", \"\", 7, \"a\"]"),
        asks("\"source\": null"),
        asks("\"finding_type\": { \"glob\": \"*\" }"),
        asks("\"account\": 123456789012"),
        asks("\"account\": [\"123456789012\", \"12345678901x\"]"),
        asks("\"region\": \"Ireland\""),
        asks("\"severity_at_least\": \"HIGH\""),
        asks("\"severity_at_least\": [\"high\"]"),
        runs("[]"),
        runs("\"custodian/x.yml\""),
        runs("[\"custodian/x.yml\", \"custodian/x.yml\"]"),
        runs("[\"x.yml\"]"),
        runs("[\"/custodian/x.yml\"]"),
        runs("[\"custodian/../capabilities.yml\"]"),
        runs("[\"custodian//x.yml\"]"),
        runs("[\"custodian/.yml\"]"),
        runs("[\"custodian/x.json\"]"),
        runs("[\"custodian/z.yml\", \"custodian/x.yml\", \"custodian/\\u001b[2J.yml\"]"),
        runs(&json!((0..33).map(|n| format!("custodian/{n}.json")).collect::<Vec<_>>()).to_string())
            .replace(".json", ".yml"),
        many(2, &json!({})).replace("m1", "m0").replace("\"match\":{}", "\"match\":{\"region\":\"\"}"),
        many(10_001, &json!({})),
        many(100, &json!({ "account": accounts })),
    ];
    let mut told = String::new();
    for text in cases {
        let start: String = text.chars().filter(|c| !c.is_control()).take(150).collect();
        writeln!(told, "{start}\n  {}", parse(&text).unwrap_err().replace('\n', "\n  ")).unwrap();
    }
    insta::assert_snapshot!(told);
}

#[test]
fn all_json_is_taken_however_it_is_laid_out() {
    let laid_out = [
        asking(&[json!({})]).to_string(),
        serde_json::to_string_pretty(&asking(&[json!({})])).unwrap(),
        serde_json::to_string_pretty(&asking(&[json!({})])).unwrap().replace("  ", "\t").replace('\n', "\r\n"),
        asking(&[json!({"source": "a/\u{1f600}: {b} # c"})]).to_string().replace("a/\u{1f600}", "a\\/\\ud83d\\ude00"),
    ];
    for text in laid_out {
        let read = parse(&text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"));
        assert_eq!(read.iter().count(), 1, "{text}");
        if let Some(source) = read.iter().next().unwrap().matches.source.first() {
            assert_eq!(source, "a/\u{1f600}: {b} # c");
        }
    }
}

#[test]
fn what_can_never_answer_is_warned_of() {
    let asked = [
        json!({"finding_type": ["a*", "b"], "account": "123456789012"}),
        // Covered by the first, though spelt in another way.
        json!({"finding_type": ["b", "a**"], "account": ["123456789012"]}),
        // Not covered: one account, and one severity, more.
        json!({"finding_type": "b", "account": ["123456789012", "111122223333"]}),
        json!({"finding_type": "b", "account": "123456789012", "severity_at_least": "low"}),
        // Covered by two together.
        json!({"finding_type": "b", "account": ["111122223333", "123456789012"]}),
        json!({"region": "eu-west-1"}),
        json!({"region": ["eu-west-1", "eu-west-2"]}),
        json!({"region": "eu-west-2"}),
        json!({"source": "aws.config", "severity_at_least": "low"}),
        json!({"source": ["aws.config", "aws.guardduty"], "severity_at_least": "low"}),
        json!({"detail_type": ["AWS API Call via CloudTrail", "Config Custom Rule Invocation"], "severity_at_least": "high"}),
        json!({"detail_type": "Somebody Else's Finding", "severity_at_least": "high"}),
        json!({"resource_type": ["AwsS3Bucket", "AWS::S3::Bucket", "AWS_EC2_INSTANCE", "AwsEC2Instance", "AWSIAMUser", "Other", "AwsRdsDbInstance"]}),
    ];
    let text = serde_json::to_string_pretty(&asking(&asked)).unwrap();
    let mappings = parse(&text).unwrap();
    let warnings: Vec<String> = mappings.warnings().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"));
    // And they do not answer, while what is not warned of does.
    let bare = finding(&["b"], None);
    assert_eq!(name(mappings.choose(&bare, None)), "m0");
    assert_eq!(name(mappings.choose(&Finding { account: "111122223333".to_owned(), ..bare.clone() }, None)), "m2");
    assert_eq!(name(mappings.choose(&Finding { severity: Some(Severity::Low), ..bare }, None)), "m3");
}

#[test]
fn an_event_is_named_by_its_detail_type_and_a_source_that_fits() {
    let mappings = mappings(&[
        json!({"detail_type": ["Order Shipped", "Order Lost"], "source": ["shop.one", "shop.two"]}),
        json!({"detail_type": "Door Opened"}),
        json!({"source": "shop.three"}),
        json!({}),
    ]);
    let named = |source, detail_type| mappings.names_event(source, detail_type);
    assert!(named("shop.one", "Order Shipped") && named("shop.two", "Order Lost"));
    assert!(named("shop.one", "Door Opened") && named("", "Door Opened"));
    assert!(!named("shop.three", "Order Shipped") && !named("shop.four", "Order Shipped"));
    assert!(!named("shop.three", "Order Found") && !named("", ""));
    assert!(!Mappings::default().names_event("", ""));
}

#[test]
fn an_explanation_says_why_each_does_or_does_not_answer() {
    let mappings = mappings(&[
        json!({"source": "aws.guardduty"}),
        json!({"finding_type": "Recon:*", "severity_at_least": "high"}),
        json!({"finding_type": "Recon:*", "severity_at_least": "critical", "region": ["us-east-1", "us-east-2"]}),
        json!({"finding_type": "Recon:EC2*", "account": "111122223333"}),
        json!({"finding_type": "Recon:*"}),
        json!({"source": "aws.guardduty", "finding_type": ["A", "B", "C", "D", "E"]}),
        json!({"source": "aws.config", "region": "us-east-1"}),
        json!({"detail_type": "GuardDuty Finding", "resource_type": "AwsS3Bucket"}),
        json!({"source": ["aws.guardduty", "aws.macie"]}),
        json!({}),
    ]);
    let mut told = String::new();
    for (finding, resource) in [
        (finding(&["Recon:EC2/PortProbe"], Some(Severity::High)), Some(resource("AwsEc2Instance"))),
        (finding(&[], None), None),
    ] {
        let considered = mappings.explain(&finding, resource.as_ref());
        assert_eq!(considered.first().map(|one| one.mapping), mappings.choose(&finding, resource.as_ref()));
        let lines: Vec<String> = considered.iter().map(|one| one.sentence.clone()).collect();
        writeln!(told, "{}\n", lines.join("\n")).unwrap();
    }
    insta::assert_snapshot!(told);
    let all = self::mappings(&vec![json!({}); 50]);
    assert_eq!(all.explain(&finding(&[], None), None).len(), CONSIDERED_MAX);
}

/// The recorded events and those made by hand, by name.
fn events() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let mut files: Vec<PathBuf> = [folder.clone(), folder.join("made")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
    };
    files.iter().map(read).collect()
}

/// The shipped mappings.
fn shipped() -> Mappings {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let there = fs::read_dir(policies.join("custodian")).unwrap();
    let there = there.map(|entry| format!("custodian/{}", entry.unwrap().file_name().to_string_lossy())).collect();
    let text = fs::read_to_string(policies.join("policy-mappings.json")).unwrap();
    Mappings::parse("policy-mappings.json", &text, &there).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn every_recorded_event_is_answered_as_it_always_was() {
    let mappings = shipped();
    assert_eq!(mappings.warnings(), []);
    let (mut table, mut used) = (String::new(), BTreeSet::new());
    for (event, value) in events() {
        let Ok(Reading::Findings { findings, .. }) = read(&value) else {
            writeln!(table, "{event}: no finding").unwrap();
            continue;
        };
        for finding in findings {
            writeln!(table, "{event}: {}", finding.title).unwrap();
            let resources = finding.resources.iter().map(Some);
            let whole = finding.resources.is_empty().then_some(None);
            let mut last = String::new();
            for resource in resources.chain(whole) {
                let chosen = mappings.choose(&finding, resource);
                used.extend(chosen.map(|mapping| mapping.name.clone()));
                let answer = chosen
                    .map_or("-".to_owned(), |m| format!("{}: {} [{}]", m.name, m.policies.join(", "), m.tier.as_str()));
                let line = format!("    {}: {answer}", resource.map_or("(no resource)", |resource| &resource.kind));
                // Many alike are one line.
                if line != last {
                    writeln!(table, "{line}").unwrap();
                }
                last = line;
            }
        }
    }
    insta::assert_snapshot!(table);
    let unused: Vec<&str> = mappings.iter().map(|m| m.name.as_str()).filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "an event for each: {unused:?}");
}

#[test]
fn senders_that_are_said_to_rate_nothing_rate_nothing() {
    let unrated = |finding: &Finding| {
        let asked = |field: &str, value: &str| json!({field: value, "severity_at_least": "informational"});
        let by_type = mappings(&[asked("detail_type", &finding.detail_type)]);
        let by_source = mappings(&[asked("source", &finding.source)]);
        (by_type.warnings().len() == 1, by_source.warnings().len() == 1)
    };
    let mut told = BTreeSet::new();
    for (event, value) in events() {
        if let Ok(Reading::Findings { findings, .. }) = read(&value) {
            for finding in findings {
                let (by_type, by_source) = unrated(&finding);
                assert!(finding.severity.is_none() || !(by_type || by_source), "{event}");
                told.extend(by_type.then_some(finding.detail_type));
            }
        }
    }
    assert!(told.len() >= 5, "{told:?}");
}

mod reference {
    //! What the documentation says, as slowly and plainly as it can be said: it knows JSON and findings, and nothing of
    //! how mappings are read or found.

    use serde_json::Value;
    use switchyard_core::finding::{Finding, Resource};

    const WORDS: [&str; 5] = ["informational", "low", "medium", "high", "critical"];

    /// By trying everything that a star could stand for.
    pub(super) fn glob(glob: &[char], text: &[char]) -> bool {
        match glob {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skip| self::glob(rest, &text[skip..])),
            ['?', rest @ ..] => !text.is_empty() && self::glob(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && self::glob(rest, &text[1..]),
        }
    }

    fn list(asked: &Value, field: &str) -> Option<Vec<String>> {
        match &asked[field] {
            Value::Null => None,
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(all) => Some(all.iter().map(|one| one.as_str().unwrap().to_owned()).collect()),
            other => panic!("{other}"),
        }
    }

    /// How specific a pattern is: the first difference decides.
    fn specific(pattern: &str) -> (u8, i64, i64, i64) {
        let chars: Vec<char> = pattern.chars().collect();
        if !chars.iter().any(|c| "*?".contains(*c)) {
            return (2, 0, 0, 0);
        }
        let plain = chars.iter().filter(|c| !"*?".contains(**c)).count() as i64;
        let single = chars.iter().filter(|c| **c == '?').count() as i64;
        let runs: Vec<&str> = pattern.split(|c| !"*?".contains(c)).collect();
        let stars = runs.iter().filter(|run| run.contains('*')).count() as i64;
        (1, plain, single, -stars)
    }

    pub(super) fn choose<'a>(file: &'a Value, finding: &Finding, resource: Option<&Resource>) -> Option<&'a str> {
        let mut best = None;
        for (place, entry) in file["mappings"].as_array().unwrap().iter().enumerate() {
            let asked = &entry["match"];
            let fits = |field: &str, found: &str| list(asked, field).map(|list| list.iter().any(|one| one == found));
            let types = finding.types().map(|name| name.chars().collect()).collect::<Vec<Vec<char>>>();
            let kind = list(asked, "finding_type").map(|globs| {
                globs
                    .iter()
                    .filter(|one| types.iter().any(|name| glob(&one.chars().collect::<Vec<_>>(), name)))
                    .map(|one| specific(one))
                    .max()
            });
            let severity =
                asked["severity_at_least"].as_str().map(|word| WORDS.iter().position(|w| *w == word).unwrap());
            let rated = finding.severity.map(|severity| WORDS.iter().position(|w| *w == severity.as_str()).unwrap());
            let exact = [
                fits("resource_type", resource.map_or("", |resource| &resource.kind)),
                fits("account", &finding.account),
                fits("region", &finding.region),
                fits("detail_type", &finding.detail_type),
                fits("source", &finding.source),
            ];
            if kind == Some(None) || exact.contains(&Some(false)) {
                continue;
            }
            if severity.is_some_and(|least| rated.is_none_or(|rated| rated < least)) {
                continue;
            }
            let [resource_type, account, region, detail_type, source] = exact.map(|field| field.is_some());
            let key = (
                kind.flatten().unwrap_or((0, 0, 0, 0)),
                (resource_type, account, region),
                severity.map_or(-1, |severity| severity as i64),
                (detail_type, source),
                -(place as i64),
            );
            if best.as_ref().is_none_or(|(found, _)| key > *found) {
                best = Some((key, entry["name"].as_str().unwrap()));
            }
        }
        best.map(|(_, name)| name)
    }
}

const SOURCES: [&str; 3] = ["aws.a", "aws.b", "c"];
const KINDS: [&str; 3] = ["AwsS3Bucket", "AwsEc2Instance", "Other"];
const ACCOUNTS: [&str; 3] = ["000000000001", "000000000002", "000000000003"];
const REGIONS: [&str; 3] = ["r-1", "r-2", "r-3"];

fn some_of(values: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => Just(None),
        3 => prop::sample::select(values).prop_map(|one| Some(json!(one))),
        1 => prop::sample::subsequence(values, 1..=values.len()).prop_map(|some| Some(json!(some))),
    ]
}

/// Globs over few letters, so that they collide, with `é` because it is two bytes.
fn some_globs() -> impl Strategy<Value = Option<Value>> {
    let glob = || "[abé:/*?]{1,6}";
    prop_oneof![
        2 => Just(None),
        3 => glob().prop_map(|one| Some(json!(one))),
        2 => prop::collection::btree_set(glob(), 1..5).prop_map(|some| Some(json!(some))),
    ]
}

fn any_match() -> impl Strategy<Value = Value> {
    let severity =
        prop::option::of(prop::sample::select(&Severity::ALL[..])).prop_map(|s| s.map(|s| json!(s.as_str())));
    let fields = (
        some_of(&SOURCES),
        some_of(&SOURCES),
        some_of(&KINDS),
        some_of(&ACCOUNTS),
        some_of(&REGIONS),
        some_globs(),
        severity,
    );
    fields.prop_map(|(source, detail_type, resource_type, account, region, finding_type, severity_at_least)| {
        let fields = [
            ("source", source),
            ("detail_type", detail_type),
            ("resource_type", resource_type),
            ("account", account),
            ("region", region),
            ("finding_type", finding_type),
            ("severity_at_least", severity_at_least),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    })
}

fn any_finding() -> impl Strategy<Value = (Finding, Option<Resource>)> {
    let one_of = |values: &'static [&'static str]| prop::sample::select(values);
    let types = prop::collection::vec("[abé:/]{0,8}", 0..52);
    let severity = prop::option::of(prop::sample::select(&Severity::ALL[..]));
    let place = (one_of(&ACCOUNTS), one_of(&REGIONS), one_of(&SOURCES), one_of(&SOURCES));
    (types, severity, place, prop::option::of(one_of(&KINDS))).prop_map(
        |(types, severity, (account, region, source, detail_type), kind)| {
            let types: Vec<&str> = types.iter().map(String::as_str).collect();
            let finding = Finding {
                account: account.to_owned(),
                region: region.to_owned(),
                source: source.to_owned(),
                detail_type: detail_type.to_owned(),
                ..finding(&types, severity)
            };
            (finding, kind.map(resource))
        },
    )
}

/// Findings held against each file.
const FINDINGS: u32 = 10;

/// 10,000 findings, or as many as PROPTEST_CASES says.
fn cases() -> u32 {
    let findings = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000);
    u32::div_ceil(findings, FINDINGS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_chooses_as_the_reference_does(
        asked in prop::collection::vec(any_match(), 0..25),
        findings in prop::collection::vec(any_finding(), FINDINGS as usize),
    ) {
        let file = asking(&asked);
        let mappings = mappings(&asked);
        for (finding, resource) in findings {
            let chosen = mappings.choose(&finding, resource.as_ref());
            prop_assert_eq!(name(chosen), reference::choose(&file, &finding, resource.as_ref()).unwrap_or("-"));
            let explained = mappings.explain(&finding, resource.as_ref());
            prop_assert_eq!(explained.first().filter(|one| one.matches()).map(|one| one.mapping), chosen);
            // What is warned of as covered never answers.
            if let Some(chosen) = chosen {
                let never = format!("`{}` never answers", chosen.name);
                prop_assert!(!mappings.warnings().iter().any(|warning| warning.message.contains(&never)));
            }
        }
    }

    #[test]
    fn what_a_narrower_mapping_matches_is_not_left_to_a_wider_one(
        wide in any_match(),
        narrow in any_match(),
        findings in prop::collection::vec(any_finding(), FINDINGS as usize),
    ) {
        // Narrower: all that the wide one asks, and something else besides.
        let mut both = narrow;
        for (field, value) in wide.as_object().unwrap() {
            both[field] = value.clone();
        }
        let narrower = both != wide;
        let mappings = mappings(&[wide, both]);
        for (finding, resource) in findings {
            let explained = mappings.explain(&finding, resource.as_ref());
            let matching = explained.iter().filter(|one| one.matches()).count();
            if narrower && matching == 2 {
                prop_assert_eq!(name(mappings.choose(&finding, resource.as_ref())), "m1");
            }
        }
    }

    #[test]
    fn a_glob_within_a_wider_one_is_the_more_specific(
        // What stands for each character in the narrow glob and, if that is wider, in the wide one: itself, `?`, `*`.
        characters in prop::collection::vec(("[abé]", 0_usize..3, 0_usize..3, any::<bool>()), 1..7),
    ) {
        let text: String = characters.iter().map(|(c, ..)| c.as_str()).collect();
        let spell = |c: &str, level: usize| [c, "?", "*"][level].to_owned();
        let narrow: String = characters.iter().map(|(c, level, ..)| spell(c, *level)).collect();
        let wide = characters.iter().map(|(c, level, more, star)| {
            format!("{}{}", spell(c, *level.max(more)), if *star { "*" } else { "" })
        });
        let wide: String = wide.collect();
        let mappings = mappings(&[json!({"finding_type": wide}), json!({"finding_type": narrow})]);
        let same = mappings.warnings().iter().any(|warning| warning.message.contains("never answers"));
        let chosen = name(mappings.choose(&finding(&[&text], None), None)).to_owned();
        prop_assert_eq!(chosen, if same { "m0" } else { "m1" }, "{} is within {}", narrow, wide);
    }
}
