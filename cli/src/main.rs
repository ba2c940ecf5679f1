//! `switchyard`: the yard on one machine, its worker, and the tool that talks to it.

mod apply;
mod args;
mod batch;
mod brakes;
mod client;
mod cloud;
mod containers;
mod cost;
mod exit;
mod explain;
mod local;
mod policies;
mod records;
mod replay;
mod schedules;
mod show;
mod sign;
mod tokens;
mod tool;
mod lenders;
mod loans;
mod unmapped;
mod watch;
mod worker;
mod workers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Capabilities, Command, Policies};
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
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "switchyard", &mut script);
            show::print(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
        Command::Tool(tool) => tool::run(tool, json),
        Command::Worker(worker) => worker::run(&worker),
        Command::Submit(submit) => {
            let client = client()?.traced(submit.traceparent.as_deref())?;
            match &submit.batch {
                Some(file) => batch::submit(&client, &submit, file, json),
                None => show::submit(&client, &submit, json),
            }
        }
        Command::Job { id, timeline, watch: false } => show::job(&client()?, &id, timeline, json),
        Command::Job { id, timeline, watch: true } => show::watch_job(&client()?, &id, timeline, json),
        Command::Jobs(jobs) => show::jobs(&client()?, &jobs, json),
        Command::Logs { id, follow, raw } => show::logs(&client()?, &id, follow, raw, json),
        Command::Result { id } => show::result(&client()?, &id),
        Command::Records { id, kind } => records::of_job(&client()?, &id, kind.as_deref(), json),
        Command::Assets(asked) => records::assets(&client()?, &asked, json),
        Command::Findings(asked) => records::findings(&client()?, &asked, json),
        Command::Cancel { id } => show::change(&client()?, &id, "cancel", json),
        Command::Retry { id } => show::change(&client()?, &id, "retry", json),
        Command::Pause(pause) => brakes::pause(&client()?, &pause, json),
        Command::Resume(scope) => brakes::resume(&client()?, &scope, json),
        Command::Yard => brakes::yard(&client()?, json),
        Command::Capabilities { command: Some(Capabilities::Apply(asked)), .. } => apply::run(&asked, json),
        Command::Capabilities { check: None, .. } => show::capabilities(&client()?, json),
        Command::Capabilities { check: Some(folder), .. } | Command::Policies(Policies::Check { folder }) => {
            policies::check(&folder)
        }
        Command::Policies(Policies::Push { bucket, folder }) => policies::push(&bucket, folder.as_deref(), json),
        Command::Reload => show::reload(&client()?, json),
        Command::Schedules => schedules::list(&client()?, json),
        Command::Guard(guard) => containers::guard(&guard),
        Command::Workers => workers::list(&client()?, json),
        Command::Token(token) => tokens::run(&connection.data_folder(), &token, json),
        Command::Loans { job, since, limit } => loans::list(&client()?, job.as_deref(), since.as_deref(), limit, json),
        Command::Unmapped { id: Some(id), .. } => unmapped::show(&client()?, &id),
        Command::Unmapped { replay: true, .. } => unmapped::replay(&client()?, json),
        Command::Unmapped { id: None, limit, .. } => unmapped::list(&client()?, limit, json),
        Command::Explain(asked) if asked.aws => explain::decide(&asked, json),
        Command::Explain(asked) => explain::ask(&client()?, &asked, json),
        Command::Cost { since } => cost::show(&client()?, since.as_deref(), json),
        Command::Replay(asked) if asked.submit => replay::submit(&client()?, &asked.event, json),
        Command::Replay(asked) if asked.yard => replay::ask(&client()?, &asked.event, json),
        Command::Replay(asked) => replay::decide(&asked, json),
    }
}
