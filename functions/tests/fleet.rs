//! The fleet as the template makes it, against the rules by which jobs are sent there and the worker that it starts. What the
//! user data writes is taken apart and asked for by the programs that will read it: the shell, systemd.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use switchyard_core::ports::Lane;
use switchyard_core::route::Limits;

/// What of an instance's memory the system, Docker and the worker take (policies/routing.yaml).
const TAKEN_MIB: u64 = 1024;
const IMAGE: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/switchyard-worker@sha256:0123";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn read(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pool's group, with the stack of its machine.
fn group_of(fleet: &Value, pool: &str) -> (Value, Value) {
    let resources = fleet["Resources"].as_object().unwrap();
    let named = json!({ "Fn::Sub": format!("${{Prefix}}-{pool}") });
    let group = resources.values().find(|one| one["Properties"]["AutoScalingGroupName"] == named);
    let group = group.unwrap_or_else(|| panic!("the pool {pool} has no group"))["Properties"].clone();
    let launched = &group["MixedInstancesPolicy"]["LaunchTemplate"]["LaunchTemplateSpecification"];
    let machine = launched["LaunchTemplateId"]["Fn::GetAtt"][0].as_str().unwrap();
    assert_eq!(launched["Version"]["Fn::GetAtt"][0], machine);
    let machine = resources[machine]["Properties"]["Parameters"].clone();
    (group, machine)
}

/// The launch template's data.
fn machine() -> Value {
    read("infra/machine.yaml")["Resources"]["Machine"]["Properties"]["LaunchTemplateData"].clone()
}

/// The user data with what CloudFormation puts into it.
fn user_data() -> String {
    let mut script = machine()["UserData"]["Fn::Base64"]["Fn::Sub"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("AWS::Region", "eu-central-1"),
        ("WorkerImage", IMAGE),
        ("Prefix", "yard"),
        ("Pool", "standard"),
        ("FleetLogs", "/switchyard/yard/fleet"),
        ("Table", "yard"),
        ("Blobs", "yard-blobs"),
        ("RunLogs", "/switchyard/yard/runs"),
        ("Bus", "yard"),
        ("Policies", "yard-policies"),
        ("RecordStream", "yard-records"),
        ("RetentionDays", "7"),
        ("LogLevel", "info"),
    ] {
        let placeholder = format!("${{{name}}}");
        assert!(script.contains(&placeholder), "{name} is not in the user data");
        script = script.replace(&placeholder, value);
    }
    assert!(!script.contains("${"), "{script}");
    script
}

/// A file that the user data writes; with its shell's own variables where it lets the shell put them in.
fn written(script: &str, path: &str) -> String {
    let (_, rest) = script.split_once(&format!("cat >{path} <<")).unwrap_or_else(|| panic!("{path} is not written"));
    let (mark, rest) = rest.split_once('\n').unwrap();
    let body = rest.split_once("\nEND\n").unwrap().0;
    if mark.starts_with('\'') {
        return body.to_owned();
    }
    let body = body.replace("\\\n", "");
    let set = [("$region", "eu-central-1"), ("$image", IMAGE), ("$group", "993"), ("$instance", "i-0123")];
    set.into_iter().fold(body, |body, (name, value)| body.replace(name, value))
}

/// Whether the shell can read it.
fn is_shell(script: &str) {
    let mut sh = Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sh.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = sh.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_pool_of_the_rules_has_a_group_bought_as_they_say_and_no_smaller_than_they_say() {
    let fleet = read("infra/fleet.yaml");
    let queues = text("infra/queues.yaml");
    let routing = read("policies/routing.yaml");
    let pools = routing["pools"].as_array().unwrap();
    assert_eq!(pools.len(), Limits::default().pools.len());
    for pool in pools {
        let name = pool["name"].as_str().unwrap();
        let (group, machine) = group_of(&fleet, name);
        assert_eq!(machine["Pool"], name);
        let (bought, wanted) =
            (&group["MixedInstancesPolicy"]["InstancesDistribution"], &group["MixedInstancesPolicy"]["LaunchTemplate"]);
        assert_eq!(bought["OnDemandPercentageAboveBaseCapacity"], pool["on_demand_percent"], "{name}");
        assert_eq!(bought["OnDemandBaseCapacity"], 0, "{name}");
        let spot = pool["on_demand_percent"] != 100;
        assert_eq!(bought.get("SpotAllocationStrategy").is_some(), spot, "{name}");
        if spot {
            assert_eq!(bought["SpotAllocationStrategy"], "price-capacity-optimized", "{name}");
        }
        // What the router takes for granted of a worker, the smallest instance has.
        let least = &wanted["Overrides"][0]["InstanceRequirements"];
        assert!(least["VCpuCount"]["Min"].as_u64() >= pool["vcpu"].as_u64(), "{name}");
        assert!(least["VCpuCount"]["Max"].as_u64().unwrap() <= 6, "{name}");
        let memory = least["MemoryMiB"]["Min"].as_u64().unwrap();
        assert!(memory >= pool["memory_mib"].as_u64().unwrap() + TAKEN_MIB, "{name}");
        assert_eq!(least["InstanceGenerations"], json!(["current"]));
        assert_eq!(
            least["CpuManufacturers"],
            json!({ "Fn::If": ["Arm", ["amazon-web-services"], ["intel", "amd"]] }),
            "an image runs on one architecture"
        );
        // From nothing to a parameter, and how many there are now is nobody's but the scaler's and the workers'.
        assert_eq!(group["MinSize"], "0", "{name}");
        assert!(group["MaxSize"]["Ref"].is_string(), "{name}");
        assert!(group.get("DesiredCapacity").is_none(), "an update of the stack must leave a group as large as it is");
        assert_eq!((&group["CapacityRebalance"], &group["HealthCheckType"]), (&json!(false), &json!("EC2")), "{name}");
        assert_eq!(group["NewInstancesProtectedFromScaleIn"], true, "{name}");
        let hook = &group["LifecycleHookSpecificationList"][0];
        assert_eq!(hook["LifecycleTransition"], "autoscaling:EC2_INSTANCE_TERMINATING", "{name}");
        assert_eq!(hook["DefaultResult"], "CONTINUE", "{name}");
        let static_address = pool["static_address"] == true;
        assert_eq!(group["VPCZoneIdentifier"].to_string().contains("StaticSubnets"), static_address, "{name}");
        assert_eq!(machine["PublicAddress"] == "false", static_address, "an address of its own is not the known one");
        let lane = Lane { pool: name.parse().unwrap(), tier: switchyard_core::job::Tier::Standard };
        let queue = switchyard_aws::lanes_sqs::queue_name("${Prefix}", &lane);
        assert!(queues.contains(&format!("\"{queue}\"")), "{queue}");
    }
    let groups = fleet["Resources"].as_object().unwrap().values();
    let groups = groups.filter(|one| one["Type"] == "AWS::AutoScaling::AutoScalingGroup").count();
    assert_eq!(groups, pools.len(), "a group that nothing is sent to");
}

#[test]
fn what_costs_standing_still_is_made_for_the_static_pool_alone_and_that_only_where_it_is_asked_for() {
    let template = read("template.yaml");
    assert_eq!(template["Parameters"]["StaticPool"]["Default"], "false");
    let fleet = read("infra/fleet.yaml");
    for name in ["Static", "StaticMachine"] {
        assert_eq!(fleet["Resources"][name]["Condition"], "Static");
    }
    let network = read("infra/network.yaml");
    for (name, resource) in network["Resources"].as_object().unwrap() {
        let condition = resource["Condition"].as_str().unwrap();
        let costs = ["AWS::EC2::NatGateway", "AWS::EC2::EIP"].contains(&resource["Type"].as_str().unwrap());
        if costs || name.starts_with("Static") {
            assert!(["Nat", "Static"].contains(&condition), "{name}: {condition}");
        }
    }
}

#[test]
fn a_machine_tells_its_credentials_to_nobody_with_an_address_of_its_own() {
    let machine = machine();
    let metadata = &machine["MetadataOptions"];
    assert_eq!((&metadata["HttpTokens"], &metadata["HttpPutResponseHopLimit"]), (&json!("required"), &json!(1)));
    assert_eq!(machine["BlockDeviceMappings"][0]["Ebs"]["Encrypted"], true);
    assert_eq!(machine["BlockDeviceMappings"][0]["Ebs"]["VolumeType"], "gp3");
    let guard = written(&user_data(), "/usr/local/sbin/switchyard-guard");
    is_shell(&guard);
    // What comes out of any bridge passes DOCKER-USER; what the worker asks, from the machine's own network, does not.
    assert!(guard.contains("rule iptables DOCKER-USER -d 169.254.169.254/32 -j DROP\n"), "{guard}");
    // The guarded network is the one that the worker looks for, by the same rules.
    let source = text("worker/src/network.rs").replace("BRIDGE", "\"switchyard0\"");
    let rules = source.split_once("const RULES").unwrap().1.split_once("];").unwrap().0;
    let mut found = 0;
    for rule in rules.lines().filter(|line| line.trim_start().starts_with("(\"ip")) {
        let words: Vec<&str> = rule.split('"').skip(1).step_by(2).collect();
        assert!(guard.contains(&format!("rule {}\n", words.join(" "))), "{words:?}");
        found += 1;
    }
    assert_eq!(found, 7);
    for said in ["switchyard.guarded", "com.docker.network.bridge.enable_icc"] {
        assert!(source.contains(said) && guard.contains(said), "{said}");
    }
}

#[test]
fn the_user_data_can_be_read_by_the_shell_and_fits() {
    let script = user_data();
    is_shell(&script);
    is_shell(&written(&script, "/usr/local/sbin/switchyard-leave"));
    // EC2, "Run commands on your Linux instance at launch": 16 KB before it is encoded.
    assert!(script.len() < 15 * 1024, "{}", script.len());
}

#[test]
fn the_worker_is_started_from_the_image_of_tasks_by_its_digest() {
    let script = user_data();
    let refused =
        "case $image in *@sha256:*) ;; *) echo \"the image $image is not named by its digest\"; exit 78 ;; esac";
    let (before, after) = script.split_once(refused).unwrap();
    assert!(!before.contains("docker pull") && after.contains("docker pull --quiet \"$image\""));
    let unit = written(&script, "/etc/systemd/system/switchyard-worker.service");
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert!(start.ends_with(&format!("--entrypoint /usr/bin/switchyard {IMAGE} worker")), "{start}");
    for said in [
        "--network host",
        "--user 65532:65532",
        "--group-add 993",
        "--cap-drop ALL",
        "--pull never",
        "--volume /var/run/docker.sock:/var/run/docker.sock",
        "--volume /var/lib/switchyard:/var/lib/switchyard",
        "--env TMPDIR=/var/lib/switchyard",
        "--volume /run/switchyard:/run/switchyard --env XDG_RUNTIME_DIR=/run/switchyard",
        "--env-file /etc/switchyard/worker.env",
    ] {
        assert!(start.contains(said), "{said}");
    }
    // The image that tasks have, whose own words are those of a task.
    let cluster = read("infra/cluster.yaml");
    let task = &cluster["Resources"]["Worker"]["Properties"]["ContainerDefinitions"][0];
    assert_eq!(task["Image"], json!({ "Ref": "WorkerImage" }));
    let image = text("infra/Dockerfile");
    assert!(image.contains("ENTRYPOINT [\"/usr/bin/switchyard\", \"worker\", \"--once\"]"));
    assert!(image.contains("USER 65532:65532"));
}

#[test]
fn however_a_worker_ends_for_good_its_machine_ends_and_the_group_gets_smaller_once() {
    assert_eq!(machine()["InstanceInitiatedShutdownBehavior"], "terminate");
    let script = user_data();
    let unit = written(&script, "/etc/systemd/system/switchyard-worker.service");
    for said in [
        "SuccessAction=poweroff",
        "OnFailure=switchyard-leave.service",
        "Restart=on-failure",
        "StartLimitBurst=5",
        "RestartPreventExitStatus=9",
    ] {
        assert!(unit.lines().any(|line| line == said), "{said}");
    }
    // Carried out, with programs that only say that they were called.
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    for (name, status) in [("aws", 0), ("systemctl", 0)] {
        let program = format!("#!/bin/sh\necho {name} \"$@\" >>{}\nexit {status}\n", calls.display());
        let path = folder.path().join(name);
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(folder.path().join("instance"), "i-0123\n").unwrap();
    let instance = folder.path().join("instance").display().to_string();
    let leave = written(&script, "/usr/local/sbin/switchyard-leave").replace("/etc/switchyard/instance", &instance);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let left = |status: &str| {
        std::fs::write(&calls, "").unwrap();
        let done =
            Command::new("sh").args(["-c", &leave]).env("PATH", &path).env("MONITOR_EXIT_STATUS", status).status();
        assert!(done.unwrap().success());
        std::fs::read_to_string(&calls).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let smaller = "aws autoscaling terminate-instance-in-auto-scaling-group --region eu-central-1 --instance-id i-0123 \
                   --should-decrement-desired-capacity";
    assert_eq!(left("1"), [smaller, "systemctl poweroff"]);
    // The worker tried, and may have made it smaller.
    assert_eq!(left("9"), ["systemctl poweroff"]);
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let script = user_data();
    let folder = tempfile::tempdir().unwrap();
    for name in ["switchyard-leave.service", "switchyard-worker.service"] {
        let unit = written(&script, &format!("/etc/systemd/system/{name}"));
        // The programs that it starts are not on this machine.
        let unit = unit.replace("/usr/local/sbin/switchyard-leave", "/bin/true");
        let unit =
            unit.replace("/usr/local/sbin/switchyard-guard", "/bin/true").replace("/usr/bin/docker", "/bin/true");
        std::fs::write(folder.path().join(name), unit).unwrap();
    }
    std::fs::write(folder.path().join("docker.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    let mut verify = Command::new("systemd-analyze");
    // Of the units that others bring only what is said of these.
    verify.arg("verify").arg("--man=no").env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()));
    let output = verify.arg(folder.path().join("switchyard-worker.service")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wrong: Vec<&str> = said.lines().filter(|line| line.contains("switchyard-")).collect();
    assert!(wrong.is_empty() && output.status.success(), "{said}");
}
