//! `switchyard`: the yard on one machine, its worker, and the tool that talks to it.

mod args;
mod brakes;
mod catalog;
mod client;
mod exit;
mod local;
mod replay;
mod show;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::client::Client;
use crate::exit::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("switchyard: {}", failure.describe());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: Args) -> Result<u8, Failure> {
    let Args { json, connection, command } = args;
    let client = || Client::find(&connection);
    match command {
        Command::Local(local) => local::run(&connection.data_folder(), &local),
        Command::Worker(worker) => worker::run(&worker),
        Command::Submit(submit) => show::submit(&client()?, &submit, json),
        Command::Job { id, timeline } => show::job(&client()?, &id, timeline, json),
        Command::Jobs(jobs) => show::jobs(&client()?, &jobs, json),
        Command::Logs { id, follow } => show::logs(&client()?, &id, follow, json),
        Command::Result { id } => show::result(&client()?, &id),
        Command::Cancel { id } => show::change(&client()?, &id, "cancel", json),
        Command::Retry { id } => show::change(&client()?, &id, "retry", json),
        Command::Pause(pause) => brakes::pause(&client()?, &pause, json),
        Command::Resume(scope) => brakes::resume(&client()?, &scope, json),
        Command::Yard => brakes::yard(&client()?, json),
        Command::Capabilities { check: None } => show::capabilities(&client()?, json),
        Command::Capabilities { check: Some(folder) } => catalog::check(&folder),
        Command::Replay { event, submit } => {
            if submit {
                replay::submit(&client()?, &event, json)
            } else {
                replay::explain(&event, json)
            }
        }
    }
}
