//! The template against the code: what one of the two says twice, both say alike. What a template may not do is said here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::{Value, json};
use switchyard_api::admit::Role;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::home::{Home, Keeping, Names};
use switchyard_aws::lanes_sqs::{RECEIVES, RETENTION, VISIBILITY, dead_queue_name, queue_name};
use switchyard_core::job::Tier;
use switchyard_core::memory::Memory;
use switchyard_core::ports::Lane;
use switchyard_core::route::Limits;

/// The functions that launch.
const LAUNCHING: [&str; 4] = ["finding_listener", "http_api", "job_reaper", "task_listener"];

/// What is allowed on everything, because IAM knows nothing narrower.
const ON_EVERYTHING: [(&str, &str); 4] = [
    ("autoscaling:DescribeAutoScalingGroups", "IAM knows no resource for a description of groups"),
    ("ecr:GetAuthorizationToken", "a token is for an account's registry; there is no resource to name"),
    ("sts:GetWebIdentityToken", "a token of one's own has no resource; a condition names whom it may be shown to"),
    ("ecs:ListTasks", "IAM knows it by container instances, which Fargate has none of; a condition names the cluster"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The stacks: the root, and those below it by the file that they are in, which names others beside itself.
fn stacks() -> Vec<(String, Value)> {
    let mut found = vec![("template.yaml".to_owned(), read("template.yaml"))];
    let mut looked = 0;
    while let Some((file, stack)) = found.get(looked) {
        let folder = Path::new(file).parent().unwrap();
        let nested: BTreeSet<String> = resources(stack, "AWS::CloudFormation::Stack")
            .map(|(_, stack)| folder.join(stack["TemplateURL"].as_str().unwrap()).to_str().unwrap().to_owned())
            .collect();
        found.extend(nested.into_iter().map(|file| (file.clone(), read(&file))));
        looked += 1;
    }
    found
}

/// The resources of a type, with their properties.
fn resources<'a>(stack: &'a Value, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let all = stack["Resources"].as_object().unwrap().iter();
    all.filter(move |(_, resource)| resource["Type"] == kind)
        .map(|(id, resource)| (id.as_str(), &resource["Properties"]))
}

/// The functions, by the binary that each runs.
fn functions(template: &Value) -> BTreeMap<&str, &Value> {
    let functions = resources(template, "AWS::Serverless::Function");
    functions
        .map(|(_, function)| {
            let code = function["CodeUri"].as_str().unwrap();
            (code.strip_prefix("target/lambda/").unwrap().strip_suffix('/').unwrap(), function)
        })
        .collect()
}

/// A text, or the one inside of `Fn::Sub`.
fn text(value: &Value) -> &str {
    value.as_str().or_else(|| value["Fn::Sub"].as_str()).unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |many| many.iter().collect())
}

/// The statements of all policies of roles and managed policies, with where each stands.
fn statements(stacks: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (file, stack) in stacks {
        for (id, properties) in resources(stack, "AWS::IAM::ManagedPolicy") {
            for statement in list(&properties["PolicyDocument"]["Statement"]) {
                found.push((format!("{file} {id}"), statement.clone()));
            }
        }
        for (id, properties) in resources(stack, "AWS::IAM::Role") {
            for policy in properties["Policies"].as_array().into_iter().flatten() {
                for statement in list(&policy["PolicyDocument"]["Statement"]) {
                    found.push((format!("{file} {id}"), statement.clone()));
                }
            }
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

/// The names in aws/src/environment.rs, each with its constant.
fn names() -> BTreeMap<String, String> {
    let source = std::fs::read_to_string(root().join("aws/src/environment.rs")).unwrap();
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix("\";"));
    let names: BTreeMap<_, _> = constants
        .filter_map(|line| line.split_once(": &str = \""))
        .map(|(constant, name)| (name.to_owned(), constant.to_owned()))
        // It is the beginning of keys in a bucket, and no variable.
        .filter(|(_, constant)| constant != "POLICY_PREFIX")
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// The code that processes of a deployed yard are made of.
fn sources() -> String {
    fn below(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, all);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("environment.rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut all = String::new();
    for folder in ["aws/src", "cli/src", "functions/src", "worker/src"] {
        below(&root().join(folder), &mut all);
    }
    all
}

/// What a function finds in its environment.
fn variables<'a>(template: &'a Value, function: &'a Value) -> BTreeMap<&'a str, &'a Value> {
    let common = template["Globals"]["Function"]["Environment"]["Variables"].as_object().unwrap();
    let own = function["Environment"]["Variables"].as_object();
    common.iter().chain(own.into_iter().flatten()).map(|(name, value)| (name.as_str(), value)).collect()
}

/// What a worker of the fleet finds in its environment: the lines that user data writes into a file for it.
fn of_machines(stacks: &[(String, Value)]) -> BTreeMap<String, Value> {
    let templates = stacks.iter().flat_map(|(_, stack)| resources(stack, "AWS::EC2::LaunchTemplate"));
    let scripts = templates.map(|(_, template)| text(&template["LaunchTemplateData"]["UserData"]["Fn::Base64"]));
    let files = scripts.map(|script| script.split_once("/worker.env <<'END'\n").unwrap().1);
    let lines = files.flat_map(|file| file.split_once("\nEND\n").unwrap().0.lines());
    lines.map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// What a task finds in its environment.
fn of_tasks(stacks: &[(String, Value)]) -> BTreeMap<String, Value> {
    let definitions = stacks.iter().flat_map(|(_, stack)| resources(stack, "AWS::ECS::TaskDefinition"));
    let containers = definitions.flat_map(|(_, definition)| list(&definition["ContainerDefinitions"]));
    containers
        .flat_map(|container| list(&container["Environment"]))
        .map(|variable| (variable["Name"].as_str().unwrap().to_owned(), variable["Value"].clone()))
        .collect()
}

#[test]
fn every_variable_that_is_set_is_read_and_every_one_that_is_read_is_set() {
    let stacks = stacks();
    let template = &stacks[0].1;
    let mut set: BTreeSet<String> = of_tasks(&stacks).into_keys().collect();
    // A worker of the fleet finds what a task does, and which pool it is of.
    let machines: BTreeSet<String> = of_machines(&stacks).into_keys().collect();
    let own: BTreeSet<&str> = machines.difference(&set).map(String::as_str).collect();
    assert!(set.is_subset(&machines), "{set:?} {machines:?}");
    assert_eq!(own, BTreeSet::from(["SWITCHYARD_GROUP", "SWITCHYARD_POOL"]));
    set.extend(machines);
    for function in functions(template).values() {
        set.extend(variables(template, function).into_keys().map(str::to_owned));
    }
    // What every program reads to know how much to log, and no part of AWS's affair.
    assert!(set.remove("RUST_LOG"));
    let names = names();
    let code = sources();
    for name in &set {
        let constant = names.get(name).unwrap_or_else(|| panic!("{name} is no name of aws/src/environment.rs"));
        let read = [format!("name::{constant}"), format!("environment::{constant}"), format!("\"{name}\"")];
        assert!(read.iter().any(|reader| code.contains(reader)), "nobody reads {name}");
    }
    // What a launch sets, what Lambda and ECS set, what only whoever starts a worker by hand does.
    let otherwise = [
        "SWITCHYARD_JOB_ID",
        "SWITCHYARD_EPOCH",
        "FINDING_PAYLOAD",
        "FINDING_PAYLOAD_URI",
        "POLICY_KEY",
        "ECS_CONTAINER_METADATA_URI_V4",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "LAMBDA_TASK_ROOT",
    ];
    let all: BTreeSet<String> = set.iter().cloned().chain(otherwise.map(str::to_owned)).collect();
    // Those of credentials are the services' own.
    let known: BTreeSet<String> =
        names.into_keys().filter(|name| all.contains(name) || !name.starts_with("AWS_")).collect();
    assert_eq!(known, all);
}

#[test]
fn no_variable_holds_a_secret() {
    let stacks = stacks();
    let template = &stacks[0].1;
    let mut set: Vec<(String, Value)> = of_tasks(&stacks).into_iter().chain(of_machines(&stacks)).collect();
    for function in functions(template).values() {
        set.extend(variables(template, function).into_iter().map(|(name, value)| (name.to_owned(), value.clone())));
    }
    for (name, value) in set {
        // The broker's own name says what it lends, and is none.
        let written = format!("{name} {value}").replace("-credential_broker", "").to_uppercase();
        for word in ["SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "PRIVATE", "API_KEY", "ACCESS_KEY", "RESOLVE:"] {
            assert!(!written.contains(word), "{name}: {word}");
        }
    }
}

#[test]
fn every_binary_has_a_function_and_the_reverse() {
    let template = read("template.yaml");
    let binaries: BTreeSet<String> = std::fs::read_dir(root().join("functions/src/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let functions = functions(&template);
    assert_eq!(functions.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), binaries);
    for (binary, function) in functions {
        assert_eq!(text(&function["FunctionName"]), format!("${{Prefix}}-{binary}"));
    }
}

#[test]
fn every_function_has_a_role_and_a_log_of_its_own() {
    let template = read("template.yaml");
    let functions = functions(&template);
    let roles: BTreeSet<String> = functions.values().map(|function| function["Role"].to_string()).collect();
    let logs: BTreeSet<String> = functions.values().map(|function| function["LoggingConfig"].to_string()).collect();
    assert_eq!((roles.len(), logs.len()), (functions.len(), functions.len()));
    assert!(!roles.contains("null") && !logs.contains("null"));
}

#[test]
fn only_what_iam_knows_nothing_narrower_for_is_allowed_on_everything() {
    let mut found = BTreeSet::new();
    for (place, statement) in statements(&stacks()) {
        assert_eq!(statement["Effect"], "Allow", "{place}");
        assert!(statement.get("NotAction").is_none() && statement.get("NotResource").is_none(), "{place}");
        for action in list(&statement["Action"]) {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{place}: {action}");
            if list(&statement["Resource"]).into_iter().any(|resource| resource == "*") {
                found.insert(action.to_owned());
            }
        }
    }
    let listed: BTreeSet<String> = ON_EVERYTHING.iter().map(|(action, _)| (*action).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn only_functions_that_launch_may_launch() {
    let stacks = stacks();
    let template = &stacks[0].1;
    // One policy allows it,
    let allowing: BTreeSet<String> = statements(&stacks)
        .into_iter()
        .filter(|(_, statement)| {
            let actions = list(&statement["Action"]);
            actions
                .iter()
                .any(|action| matches!(action.as_str(), Some("ecs:RunTask" | "iam:PassRole" | "ecs:StopTask")))
        })
        .map(|(place, _)| place)
        .collect();
    assert_eq!(allowing, BTreeSet::from(["infra/cluster.yaml Launch".to_owned()]));
    // and those that launch have it, and what to launch with.
    let role =
        |function: &Value| &template["Resources"][function["Role"]["Fn::GetAtt"][0].as_str().unwrap()]["Properties"];
    for (name, function) in functions(template) {
        let launches = LAUNCHING.contains(&name);
        let policies = role(function)["ManagedPolicyArns"].to_string();
        assert_eq!(policies.contains("LaunchPolicy"), launches, "{name}");
        let set = variables(template, function);
        // Whoever launches kicks, too.
        for variable in ["ECS_CLUSTER", "ECS_TASK_DEFINITION", "SWITCHYARD_JOB_RUNNER", "SWITCHYARD_FLEET_SCALER"] {
            assert_eq!(set.contains_key(variable), launches, "{name}: {variable}");
        }
        // Lambda itself invokes what an invocation's failure is told to; that is the one other permission to invoke.
        let own = role(function)["Policies"].to_string();
        assert_eq!(own.contains("lambda:InvokeFunction"), name == "job_runner", "{name}");
    }
    let tasks = &stacks.iter().find(|(file, _)| file == "infra/cluster.yaml").unwrap().1["Resources"]["TaskRole"];
    assert!(!tasks.to_string().contains("Launch") && !tasks.to_string().contains("Drain"));
}

#[test]
fn one_function_sizes_the_pools_and_sees_no_more_than_it_must() {
    let stacks = stacks();
    let template = &stacks[0].1;
    let sizing: Vec<(String, Value)> = statements(&stacks)
        .into_iter()
        .filter(|(_, statement)| statement["Action"].to_string().contains("SetDesiredCapacity"))
        .collect();
    let [(place, grow)] = &sizing[..] else { panic!("one owner of a group's size: {sizing:?}") };
    assert_eq!(place, "template.yaml FleetScalerRole");
    assert!(text(&grow["Resource"]).ends_with(":autoScalingGroupName/${Prefix}-*"), "{grow}");
    let own = &template["Resources"]["FleetScalerRole"]["Properties"];
    assert_eq!(own["ManagedPolicyArns"].as_array().unwrap().len(), 1, "the policies of the yard");
    let actions: BTreeSet<&str> = own["Policies"][0]["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|statement| list(&statement["Action"]))
        .map(|action| action.as_str().unwrap())
        .collect();
    let wanted = [
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:SetDesiredCapacity",
        "dynamodb:Query",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
    ];
    assert_eq!(actions, BTreeSet::from(wanted), "it writes no record and rings no bell");
    for (name, function) in functions(template) {
        let set = variables(template, function);
        let sees_them = ["fleet_scaler", "job_reaper"].contains(&name);
        assert_eq!(set.contains_key("SWITCHYARD_GROUPS"), sees_them, "{name}");
    }
    // It is kicked by its name, and looks each minute.
    let launch = statements(&stacks).into_iter().filter(|(place, _)| place == "infra/cluster.yaml Launch");
    let kicks = launch.filter(|(_, statement)| statement["Resource"].to_string().contains("${Prefix}-fleet_scaler"));
    assert_eq!(kicks.map(|(_, statement)| statement["Action"].clone()).collect::<Vec<_>>(), ["lambda:InvokeFunction"]);
    let events = &stacks.iter().find(|(file, _)| file == "infra/events.yaml").unwrap().1;
    let minute = &events["Resources"]["ScalerMinute"]["Properties"];
    assert_eq!(
        (&minute["ScheduleExpression"], &minute["Target"]["Arn"]["Ref"]),
        (&json!("rate(1 minute)"), &json!("ScalerArn"))
    );
}

#[test]
fn one_function_reads_secrets_and_lends_and_only_whoever_runs_jobs_may_ask_it() {
    let stacks = stacks();
    let template = &stacks[0].1;
    let of = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<String> {
        let allowing = statements(&stacks).into_iter().filter(|(_, statement)| {
            list(&statement["Action"]).into_iter().any(|action| wanted(action.as_str().unwrap()))
        });
        allowing.map(|(place, _)| place).collect()
    };
    let secrets = of(&|action| ["secretsmanager:", "ssm:", "kms:"].iter().any(|service| action.starts_with(service)));
    assert_eq!(secrets, BTreeSet::from(["template.yaml CredentialBrokerRole".to_owned()]));
    let identities = of(&|action| action.starts_with("sts:"));
    assert_eq!(identities, ["template.yaml LendRoles", "template.yaml ShowIdentity"].map(str::to_owned).into());
    let own = &template["Resources"]["CredentialBrokerRole"]["Properties"];
    let by_sid: BTreeMap<&str, &Value> = own["Policies"][0]["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .map(|statement| (statement["Sid"].as_str().unwrap(), statement))
        .collect();
    assert_eq!(by_sid.keys().copied().collect::<Vec<_>>(), ["Log", "Look", "Note", "Parameters", "Secrets"]);
    // Of the table it sees jobs and adds records of loans; of the secrets those of this yard.
    for (sid, action, keys) in
        [("Look", "dynamodb:GetItem", json!(["J#*", "A#*"])), ("Note", "dynamodb:PutItem", json!(["A#*"]))]
    {
        assert_eq!(by_sid[sid]["Action"], action);
        let condition = json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": keys } });
        assert_eq!(by_sid[sid]["Condition"], condition, "{sid}");
    }
    assert!(text(&by_sid["Secrets"]["Resource"]).ends_with(":secret:${Prefix}/*"));
    assert!(text(&by_sid["Parameters"]["Resource"]).ends_with(":parameter/${Prefix}/*"));
    // Nobody else writes what stands there of loans.
    let writes = ["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:BatchWriteItem"];
    for (place, statement) in statements(&stacks) {
        let written = list(&statement["Action"]).into_iter().any(|action| writes.contains(&action.as_str().unwrap()));
        if written && place != "template.yaml CredentialBrokerRole" {
            let spared = json!({ "ForAllValues:StringNotLike": { "dynamodb:LeadingKeys": ["A#*"] } });
            assert_eq!(statement["Condition"], spared, "{place}: {statement}");
        }
    }
    // Each hears of the one behind it before it gives up: what is lent has a taker.
    let function = functions(template)["credential_broker"]["Timeout"].as_u64().unwrap();
    let vendor = switchyard_vendors::Patience::default().budget.as_secs();
    let (invoker, run) =
        (switchyard_aws::lender_lambda::PATIENCE.as_secs(), switchyard_worker::credentials::ANSWER.as_secs());
    assert!(vendor < function && function < invoker && invoker < run, "{vendor} {function} {invoker} {run}");
    // Other roles and identities only where the operator names them.
    for (policy, parameter, condition) in
        [("LendRoles", "LendableRoles", "LendsRoles"), ("ShowIdentity", "IdentityAudiences", "Federates")]
    {
        assert_eq!(template["Parameters"][parameter]["Default"], "");
        assert_eq!(template["Resources"][policy]["Condition"], condition);
        assert_eq!(own["ManagedPolicyArns"].to_string().matches(&format!("\"{policy}\"")).count(), 1);
        let statement = &template["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"][0];
        assert!(statement.to_string().contains(parameter), "{statement}");
    }
    assert_eq!(own["ManagedPolicyArns"].as_array().unwrap().len(), 3, "and the policies of the yard");
    // Nobody else has these.
    let all = stacks.iter().map(|(_, stack)| stack.to_string()).collect::<String>();
    assert_eq!(all.matches(r#"{"Ref":"LendRoles"}"#).count(), 1);
    assert_eq!(all.matches(r#"{"Ref":"ShowIdentity"}"#).count(), 1);
    // To invoke it is one policy, which workers have, of tasks and of the fleet, and no function.
    let asking: BTreeSet<String> = statements(&stacks)
        .into_iter()
        .filter(|(_, statement)| statement["Resource"].to_string().contains("credential_broker"))
        .map(|(place, _)| place)
        .collect();
    assert_eq!(asking, BTreeSet::from(["infra/permissions.yaml Borrow".to_owned()]));
    let holders: BTreeSet<String> = stacks
        .iter()
        .flat_map(|(file, stack)| {
            resources(stack, "AWS::IAM::Role")
                .filter(|(_, role)| role["ManagedPolicyArns"].to_string().contains("Borrow"))
                .map(move |(id, _)| format!("{file} {id}"))
        })
        .collect();
    assert_eq!(holders, ["infra/cluster.yaml TaskRole", "infra/fleet.yaml WorkerRole"].map(str::to_owned).into());
    for (name, function) in functions(template) {
        let set = variables(template, function);
        assert!(!set.contains_key("SWITCHYARD_BROKER"), "{name} runs nothing that could borrow");
        assert_eq!(set.contains_key("SWITCHYARD_VAULT"), name == "credential_broker", "{name}");
    }
}

#[test]
fn the_routes_are_those_of_the_api_and_each_role_may_call_its_own() {
    let api = read("infra/api.yaml");
    let mut found = BTreeMap::new();
    for (_, route) in resources(&api, "AWS::ApiGatewayV2::Route") {
        let open = route["AuthorizationType"] == "NONE";
        if !open {
            assert_eq!(route["AuthorizationType"], json!({ "Fn::If": ["Jwt", "JWT", "AWS_IAM"] }));
        }
        found.insert(route["RouteKey"].as_str().unwrap().to_owned(), open);
    }
    let table = switchyard_api::routes::table();
    let wanted = table.iter().map(|route| (format!("{} {}", route.method, route.path), route.least.is_none()));
    assert_eq!(found, wanted.collect::<BTreeMap<_, _>>());

    for (policy, role) in [("Viewers", Role::Viewer), ("Submitters", Role::Submitter), ("Operators", Role::Operator)] {
        let statement = &api["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"][0];
        assert_eq!(statement["Action"], "execute-api:Invoke");
        let stage = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/$default/";
        let allowed: BTreeSet<_> = list(&statement["Resource"])
            .into_iter()
            .map(|one| text(one).strip_prefix(stage).unwrap().to_owned())
            .collect();
        let its = table.iter().filter(|route| route.least.is_some_and(|least| role >= least));
        let its: BTreeSet<_> =
            its.map(|route| format!("{}{}", route.method, route.path.replace("{id}", "*"))).collect();
        assert_eq!(allowed, its, "{role}");
    }
}

#[test]
fn the_stream_has_one_name_and_who_runs_jobs_may_only_put_into_it() {
    let stacks = stacks();
    let of = |file: &str| &stacks.iter().find(|(name, _)| name == file).unwrap().1;
    let (_, stream) = resources(of("infra/stream.yaml"), "AWS::Kinesis::Stream").next().unwrap();
    assert_eq!(text(&stream["Name"]), "${Prefix}-records");
    let told = json!({ "Fn::If": ["Streamed", { "Fn::Sub": "${Prefix}-records" }, ""] });
    for stack in ["Cluster", "Fleet"] {
        assert_eq!(stacks[0].1["Resources"][stack]["Properties"]["Parameters"]["RecordStream"], told, "{stack}");
    }
    let may: BTreeMap<String, BTreeSet<String>> = statements(&stacks)
        .into_iter()
        .filter(|(_, statement)| statement["Action"].to_string().contains("kinesis:"))
        .map(|(place, statement)| {
            assert!(text(&statement["Resource"]).ends_with(":stream/${Prefix}-records"), "{place}");
            let actions = list(&statement["Action"]).into_iter().map(|action| action.as_str().unwrap().to_owned());
            (place, actions.collect())
        })
        .collect();
    assert_eq!(may["infra/permissions.yaml StreamRecords"], BTreeSet::from(["kinesis:PutRecords".to_owned()]));
    assert!(!may["template.yaml ResultListenerRole"].iter().any(|action| action.contains("Put")));
    assert_eq!(may.len(), 2);
}

#[test]
fn the_queues_are_those_that_the_lanes_know() {
    let queues = read("infra/queues.yaml");
    let by_name: BTreeMap<String, &Value> = resources(&queues, "AWS::SQS::Queue")
        .map(|(_, queue)| (text(&queue["QueueName"]).replace("${Prefix}", "yard"), queue))
        .collect();
    let mut known = BTreeSet::from(
        ["yard-findings", "yard-findings-dead", "yard-undelivered-dead", "yard-failed-dead"].map(str::to_owned),
    );
    for pool in Limits::default().pools.iter().map(|pool| pool.name) {
        for tier in Tier::ALL {
            let lane = Lane { pool, tier };
            let queue = by_name[&queue_name("yard", &lane)];
            assert_eq!(queue["VisibilityTimeout"], VISIBILITY.as_secs());
            assert_eq!(queue["MessageRetentionPeriod"], RETENTION.as_secs());
            assert_eq!(queue["RedrivePolicy"]["maxReceiveCount"], RECEIVES);
            let dead = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0].as_str().unwrap();
            assert_eq!(
                text(&queues["Resources"][dead]["Properties"]["QueueName"]).replace("${Prefix}", "yard"),
                dead_queue_name("yard", &lane)
            );
            known.extend([queue_name("yard", &lane), dead_queue_name("yard", &lane)]);
        }
    }
    assert_eq!(by_name.keys().cloned().collect::<BTreeSet<_>>(), known);
    for (name, queue) in by_name {
        assert_eq!(queue["SqsManagedSseEnabled"], true, "{name}");
        assert_eq!(queue["MessageRetentionPeriod"], RETENTION.as_secs(), "{name}");
        assert_eq!(queue.get("RedrivePolicy").is_none(), name.ends_with("-dead"), "{name}");
    }
    let inbox = &queues["Resources"]["Inbox"]["Properties"];
    let template = read("template.yaml");
    let timeout = functions(&template)["finding_listener"]["Timeout"].as_u64().unwrap();
    assert!(inbox["VisibilityTimeout"].as_u64().unwrap() >= 6 * timeout);
}

#[test]
fn nothing_that_could_not_be_delivered_is_dropped() {
    let stacks = stacks();
    let mut targets = 0;
    for (file, stack) in &stacks {
        for (id, rule) in resources(stack, "AWS::Events::Rule") {
            for target in list(&rule["Targets"]) {
                assert_eq!(target["DeadLetterConfig"]["Arn"], json!({ "Ref": "UndeliveredArn" }), "{file} {id}");
                targets += 1;
            }
        }
        for (id, subscription) in resources(stack, "AWS::SNS::Subscription") {
            assert!(subscription.get("RedrivePolicy").is_some(), "{file} {id}");
        }
        for (id, mapping) in resources(stack, "AWS::Lambda::EventSourceMapping") {
            assert_eq!(mapping["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]), "{file} {id}");
            // A queue has its own place for what fails too often; a stream has none.
            if mapping.get("StartingPosition").is_some() {
                assert!(mapping["DestinationConfig"]["OnFailure"].is_object(), "{file} {id}");
                assert_eq!(mapping["BisectBatchOnFunctionError"], true, "{file} {id}");
            }
        }
    }
    assert!(targets > 8, "{targets}");
    for (name, function) in functions(&stacks[0].1) {
        let config = &function["EventInvokeConfig"];
        match name {
            // Invoked synchronously; the next minute.
            "credential_broker" | "http_api" | "result_listener" => assert!(config.is_null()),
            "fleet_scaler" | "job_reaper" => assert_eq!(config["MaximumRetryAttempts"], 0),
            _ => assert!(config["DestinationConfig"]["OnFailure"].is_object(), "{name}"),
        }
    }
}

/// What the ledger asks DynamoDB for when it makes its table: the first request of `declare`, taken by a listener.
async fn declared() -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = Settings::new("us-east-1");
    settings.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    settings.attempts = 1;
    let taken = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        let body = loop {
            let mut some = [0; 4096];
            let n = stream.read(&mut some).unwrap();
            assert!(n > 0, "the request ends early");
            read.extend_from_slice(&some[..n]);
            let text = String::from_utf8_lossy(&read).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.unwrap().parse().unwrap() {
                break body.to_owned();
            }
        };
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").unwrap();
        serde_json::from_str(&body).unwrap()
    });
    let credentials = SharedCredentialsProvider::new(Credentials::new("nobody", "nothing", None, None, "test"));
    let clients = Clients::new(settings, credentials);
    let home = Home::new(&clients, Names::called("yard"), Keeping::default(), Arc::new(Memory::default()));
    home.ledger.declare().await.unwrap_err();
    taken.join().unwrap()
}

#[tokio::test]
async fn the_table_is_the_one_that_the_ledger_makes() {
    let declared = declared().await;
    let storage = read("infra/storage.yaml");
    let table = &storage["Resources"]["Table"]["Properties"];
    let sorted = |value: &Value, by: &str| {
        let mut all = value.as_array().unwrap().clone();
        all.sort_by_key(|one| one[by].to_string());
        all
    };
    assert_eq!(
        sorted(&table["AttributeDefinitions"], "AttributeName"),
        sorted(&declared["AttributeDefinitions"], "AttributeName")
    );
    assert_eq!(table["KeySchema"], declared["KeySchema"]);
    assert_eq!(table["BillingMode"], declared["BillingMode"]);
    assert_eq!(
        sorted(&table["GlobalSecondaryIndexes"], "IndexName"),
        sorted(&declared["GlobalSecondaryIndexes"], "IndexName")
    );
    // Declared apart from the table, and tested with it on an emulator.
    assert_eq!(table["TimeToLiveSpecification"], json!({ "AttributeName": "gone", "Enabled": true }));
}
