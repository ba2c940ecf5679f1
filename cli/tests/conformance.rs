//! The live API is held to its own description by schemathesis, which is not Rust: `api/conformance/run.sh` fetches it.
//! Where it cannot be had, this says so and is skipped.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// What the script exits with when its tools cannot be had.
const SKIPPED: i32 = 77;

#[test]
fn the_live_api_is_as_it_describes_itself() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/conformance/run.sh");
    let program = Path::new(env!("CARGO_BIN_EXE_switchyard"));
    let build = program.ancestors().nth(2).expect("a program lies in its build's folder");
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SWITCHYARD_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    let ran = command.arg(script).arg(program).env("CARGO_TARGET_DIR", build).output().expect("sh runs");
    let told = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    match ran.status.code() {
        Some(0) => {
            assert!(told.contains(" passed"), "nothing was asked: {told}");
        }
        Some(SKIPPED) => {
            // Past the test runner, which keeps what a passing test prints to itself.
            let _ = writeln!(std::io::stderr(), "skipped: the_live_api_is_as_it_describes_itself: {}", told.trim());
        }
        _ => panic!("{told}"),
    }
}
