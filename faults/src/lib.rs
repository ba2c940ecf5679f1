//! A proxy between a client of AWS and an emulator: it enforces what AWS enforces and emulators do not, fails as AWS fails,
//! and writes down every request with its price.
//!
//! A request passes four layers, each a file of plain decisions over values:
//!
//! 1. `script`: what a test has written down for it. "The second PutItem of worker-1 takes effect, and its answer is lost."
//! 2. `weather`: what happens to it by chance, the same for the same seed.
//! 3. `rules`: what AWS would refuse, with the documented limits: tokens, batches, receipts, rates, conflicts.
//! 4. `records`: who sent it, what was done to it, what it costs.
//!
//! Where no emulator can answer, the script plays the service too, behind the rules: [`Script::play`].
//!
//! Only `server` touches the network. What it forwards it leaves as it is, signature and Host included; but of a batch in
//! which some entries are refused it forwards the rest, and those are then no longer what was signed. Emulators do not
//! look.
//!
//! A client is told from another by its access key id, so give each process of a test its own.
//!
//! ```no_run
//! use switchyard_faults::{Action, Proxy, Service, Settings, Weather, When};
//!
//! # async fn test() -> std::io::Result<()> {
//! let proxy = Proxy::start(Settings::new("http://127.0.0.1:4566"))?;
//! let lost = proxy.script().on(When::call(Service::DynamoDb, "UpdateItem").client("worker-1").nth(2), Action::ResetAfter);
//! // ... start the worker with proxy.endpoint() and the access key id worker-1 ...
//! lost.reached().await;
//! proxy.script().cut("worker-1");
//! proxy.set_weather(Weather::storm(7));
//! println!("{}", proxy.records().tally().table());
//! # Ok(())
//! # }
//! ```

mod call;
mod answer;
mod batch;
mod fault;
mod script;
mod weather;
mod rules;
mod price;
mod records;
mod report;
mod server;

pub use call::Service;
pub use records::{Done, Mark, Record, Records, Row, Tally};
pub use rules::{
    AutoScalingLimits, DynamoDbLimits, EcsLimits, EventsLimits, LateChange, Limits, LogsLimits, Rate, SqsLimits,
};
pub use script::{Action, Rule, Script, When};
pub use server::{Proxy, Settings};
pub use weather::Weather;
