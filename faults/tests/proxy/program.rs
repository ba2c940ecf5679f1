//! The program: what it prints and when it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::emulator::Emulator;

#[test]
fn it_prints_its_endpoint_and_at_the_end_what_came() {
    let emulator = Emulator::empty();
    let mut child = Command::new(env!("CARGO_BIN_EXE_switchyard-faults"))
        .args(["--upstream", &emulator.url, "--upstream-for", &format!("sqs={}", emulator.url), "--calm"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut endpoint = String::new();
    output.read_line(&mut endpoint).unwrap();
    let request = ureq::post(endpoint.trim()).header("x-amz-target", "AmazonSQS.ListQueues");
    assert_eq!(request.send("{}").unwrap().status(), 200);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut table = String::new();
    output.read_to_string(&mut table).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(table.contains("sqs          ListQueues"), "{table}");
    assert!(table.contains("0.000000400"), "{table}");
}

#[test]
fn a_wrong_upstream_ends_it_with_an_error() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_switchyard-faults")).args(["--upstream", "nonsense"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nonsense"));
}
