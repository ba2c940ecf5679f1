//! The house is as its plan says: ARCHITECTURE.md's map names every source file and nothing else, `core` builds without a
//! runtime, a database, HTTP or an SDK, and programs and tests are made of one build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, DependencyKind, MetadataCommand, PackageId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The paths that the map names: a folder at the margin, its files indented below it.
fn mapped() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the map");
    let mut folder = "";
    let mut paths = BTreeSet::new();
    for line in map.lines() {
        let name = line.split_whitespace().next().expect("no empty line in the map");
        if line.starts_with(' ') {
            paths.insert(format!("{folder}{name}"));
        } else {
            folder = name;
            paths.insert(name.to_owned());
        }
    }
    paths
}

#[test]
fn the_map_names_what_is_there_and_all_that_is_there() {
    let mapped = mapped();
    for path in &mapped {
        assert!(root().join(path).exists(), "ARCHITECTURE.md maps {path}, which is not there");
    }
    for member in [
        "core",
        "builtins",
        "vendors",
        "worker",
        "embedded",
        "aws",
        "aws/crc-fast",
        "faults",
        "api",
        "cli",
        "functions",
    ] {
        for entry in std::fs::read_dir(root().join(member).join("src")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let folder = entry.file_type().unwrap().is_dir();
            let path = format!("{member}/src/{name}{}", if folder { "/" } else { "" });
            assert!(name == "snapshots" || mapped.contains(&path), "{path} is not on the map in ARCHITECTURE.md");
        }
    }
}

/// What a package is built with on this machine, for its users and not for its tests.
fn built_with(package: &str) -> BTreeSet<String> {
    let rustc = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    // For this machine only: what other platforms need was never downloaded.
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(vec!["--offline".to_owned(), "--filter-platform".to_owned(), host])
        .exec()
        .unwrap();
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata.packages.iter().find(|found| found.name.as_str() == package).unwrap();
    let mut reached = BTreeSet::new();
    let mut next = vec![&root.id];
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            let normal =
                |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            next.extend(nodes[id].deps.iter().filter(normal).map(|dep| &dep.pkg));
        }
    }
    let names = reached.iter().map(|id| format!("{} {}", metadata[*id].name, metadata[*id].version)).collect();
    assert!(format!("{names:?}").contains("serde_json"), "the search has lost its way: {names:?}");
    names
}

#[test]
fn the_sdk_brings_one_tls_stack() {
    let built = built_with("switchyard-aws");
    let tls: Vec<&String> =
        built.iter().filter(|name| name.starts_with("rustls ") || name.starts_with("ring ")).collect();
    assert_eq!(tls.len(), 2, "rustls with ring, once each: {tls:?}");
    for name in &built {
        let others = ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "s2n-tls"];
        let name = name.split(' ').next().unwrap();
        assert!(!others.contains(&name), "the doors on AWS must not build with {name}");
    }
}

#[test]
fn core_builds_with_nothing_that_does_io() {
    for name in built_with("switchyard-core") {
        let name = name.split(' ').next().unwrap();
        let forbidden = ["tokio", "mio", "hyper", "axum", "reqwest", "ureq", "rusqlite", "libsqlite3-sys", "bollard"];
        assert!(!forbidden.contains(&name) && !name.starts_with("aws-"), "core must not build with {name}");
    }
}

#[test]
fn functions_are_built_of_no_worker() {
    for name in built_with("switchyard-functions") {
        let name = name.split(' ').next().unwrap();
        let forbidden = ["switchyard-worker", "switchyard-embedded", "bollard", "tar", "libsqlite3-sys"];
        assert!(!forbidden.contains(&name), "functions must not build with {name}: they start no program");
    }
}

/// Every package that the workspace is built of, with the features it is built with, along these edges.
fn with_features(edges: &str) -> BTreeSet<String> {
    let mut tree = std::process::Command::new(env!("CARGO"));
    tree.current_dir(root()).args(["tree", "--offline", "--workspace", "--all-features", "--prefix", "none"]);
    let told = tree.args(["--format", "{p} {f}", "--edges", edges]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8(told.stdout).unwrap();
    told.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn programs_and_their_tests_are_built_of_the_same_things() {
    let (programs, tests) = (with_features("normal,build"), with_features("normal,build,dev"));
    assert!(programs.len() > 200, "the search has lost its way: {programs:?}");
    // One feature more for the tests, and all that depends on that package is compiled twice: with the SDK, for minutes.
    let twice: Vec<&String> = programs.difference(&tests).collect();
    assert!(twice.is_empty(), "Cargo.toml has to name the features that tests turn on: {twice:#?}");
}
