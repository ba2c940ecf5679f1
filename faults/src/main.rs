//! The fault proxy as a program.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use switchyard_faults::{Proxy, Service, Settings, Weather};
use tokio::signal::unix::{SignalKind, signal};

/// Stands between clients of AWS and an emulator: enforces the limits that AWS enforces and emulators do not, fails
/// requests as AWS fails them, and adds up what they would cost.
///
/// Set AWS_ENDPOINT_URL of the clients to the address it prints. A client is known by its access key id, so give each
/// process its own. GET /_faults/records on that address answers with what came so far, POST /_faults/reset forgets it.
#[derive(Parser)]
#[command(name = "switchyard-faults", version)]
struct Arguments {
    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Where requests go: http://127.0.0.1:4566
    #[arg(long, value_name = "URL")]
    upstream: String,

    /// Where those of one service go instead: autoscaling=http://127.0.0.1:5000. The name is the one in the credential
    /// scope: autoscaling, dynamodb, ecs, events, logs, s3, sqs, sts, ...
    #[arg(long, value_name = "SERVICE=URL", value_parser = service_and_url)]
    upstream_for: Vec<(Service, String)>,

    /// A storm: throttling, errors, resets, lost answers, partial failures by chance, the same for the same number
    #[arg(long, value_name = "NUMBER", conflicts_with = "calm")]
    seed: Option<u64>,

    /// No faults by chance, only the limits of AWS; this is the default
    #[arg(long)]
    calm: bool,

    /// Print the table each so many seconds, not only at the end
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    report: Option<u64>,
}

fn service_and_url(text: &str) -> Result<(Service, String), String> {
    let (service, url) = text.split_once('=').ok_or("write SERVICE=URL")?;
    Ok((Service::named(service), url.to_owned()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut settings = Settings { listen: arguments.listen, ..Settings::new(arguments.upstream) };
    settings.upstreams.extend(arguments.upstream_for);
    settings.weather = arguments.seed.map_or_else(Weather::calm, Weather::storm);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let proxy = Proxy::start(settings)?;
    println!("{}", proxy.endpoint());
    let pause = || async {
        match arguments.report {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    loop {
        let ends = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            () = pause() => false,
        };
        println!("{}", proxy.records().tally().table());
        if ends {
            return Ok(());
        }
    }
}
