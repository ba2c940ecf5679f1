//! What an operator edits, as one value: read whole, checked together, and swapped whole while the yard runs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use event_listener::{Event, EventListener};
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::brake::{Brake, Pauses, brake};
use crate::catalog::{Builtin, Catalog};
use crate::job::Job;
use crate::mapping::Mappings;
use crate::observe::Observations;
use crate::ports::Worker;
use crate::quota::Quotas;
use crate::route::{Limits, Needs, Pin, PoolName, Routing, Venue};
use crate::schedule::Schedules;

mod document;
mod reload;

pub(crate) use self::document::{
    Document, Reading, Sheet, Stand, Wrong, fields, given, is_name, join, not_json, read_value,
};
pub use self::document::{PolicyError, VIOLATIONS_MAX, Violations};
pub use self::reload::{NotReloaded, Reload, Reloaded, changes};

/// The catalog, in the policies folder. The only file that must be there.
pub const CATALOG_FILE: &str = "capabilities.yaml";
/// The schedules; none where there is no such file.
pub const SCHEDULES_FILE: &str = "schedules.yaml";
/// Which policies answer which findings; none where there is no such file.
pub const MAPPINGS_FILE: &str = "policy-mappings.json";
/// Where jobs may run; what is built in where there is no such file.
pub const ROUTING_FILE: &str = "routing.yaml";
/// What that costs; what is built in where there is no such file.
pub const PRICES_FILE: &str = "prices.yaml";
/// Where the Cloud Custodian policies lie that a mapping may name.
pub const CUSTODIAN: &str = "custodian/";
/// Where the schemas lie that `input: { $ref: … }` may name.
pub const SCHEMAS: &str = "schemas/";

/// The texts of the policies, by path in their folder.
pub type Files = BTreeMap<String, String>;

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What may run.
    pub catalog: Catalog,
    /// What the venues can do, and what they cost.
    pub limits: Limits,
    /// What runs by the clock.
    pub schedules: Schedules,
    /// Which policies answer which findings.
    pub mappings: Mappings,
    /// The Cloud Custodian policies, by their paths in the policies folder.
    pub custodian: BTreeMap<String, String>,
    /// SHA-256 of the files they were read from, in hexadecimal: the same files, the same digest. Empty where there
    /// were none.
    pub digest: String,
    /// How much each caller may submit.
    pub quotas: Quotas,
    /// How long a job waits in a tier of the fleet before it rises one; `None`: tiers are strict for ever.
    pub ageing: Option<Duration>,
}

/// The machine that a yard has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its processors, in thousandths of one.
    pub milli_vcpu: u32,
    /// Whether a container engine answers.
    pub containers: bool,
}

impl Policies {
    /// Reads the policies and checks them together: the catalog with its schemas, and each schedule against the
    /// capability that it submits to. `builtins` are the functions there are; `machine` is where the yard runs, when
    /// it is one machine.
    ///
    /// # Errors
    ///
    /// [`Violations`] names everything that is wrong in any of the files.
    pub fn parse(files: &Files, builtins: &[Builtin], machine: Option<Machine>) -> Result<Self, Violations> {
        Self::read(files, builtins, machine, Reading::WRITTEN)
    }

    /// Reads policies that [`Self::parse`] has found good and [`as_json`] has written, from where they were pushed to. What
    /// they say is read whole; payloads' schemas are made into what checks by them when that is first needed.
    ///
    /// # Errors
    ///
    /// [`Violations`], all the same: of what is seen without the schemas. They name no places of what is JSON: nobody wrote these texts.
    pub fn parse_pushed(files: &Files, builtins: &[Builtin]) -> Result<Self, Violations> {
        Self::read(files, builtins, None, Reading::PUSHED)
    }

    fn read(
        files: &Files,
        builtins: &[Builtin],
        machine: Option<Machine>,
        reading: Reading,
    ) -> Result<Self, Violations> {
        let mut wrong = Violations::default();
        let mut keep = |violations: Violations| wrong = std::mem::take(&mut wrong).and(violations);
        let mut schemas = BTreeMap::new();
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with(SCHEMAS)) {
            let schema = serde_json::from_str(text).map_err(|error| keep(not_json(path, &error).into()));
            // A broken one is named once, here, and not by everybody who refers to it.
            schemas.insert(path.clone(), schema.unwrap_or(Value::Bool(true)));
        }
        let catalog = match files.get(CATALOG_FILE) {
            Some(text) => Catalog::read(reading, CATALOG_FILE, text, builtins, &schemas),
            None => Err(whole(CATALOG_FILE, "there is no such file, and it says what may run").into()),
        };
        let catalog = catalog.map_err(&mut keep).ok();
        let schedules = match files.get(SCHEDULES_FILE) {
            Some(text) => Schedules::read(reading, SCHEDULES_FILE, text),
            None => Ok(Schedules::default()),
        };
        let schedules = schedules.map_err(&mut keep).ok();
        if !reading.checked
            && let (Some(catalog), Some(schedules)) = (&catalog, &schedules)
            && let Err(violations) = schedules.check(catalog)
        {
            keep(violations);
        }
        let custodian: BTreeMap<String, String> = files
            .iter()
            .filter(|(path, _)| path.starts_with(CUSTODIAN))
            .map(|(p, text)| (p.clone(), text.clone()))
            .collect();
        let mappings = match files.get(MAPPINGS_FILE) {
            Some(text) => Mappings::read(reading, MAPPINGS_FILE, text, &custodian.keys().cloned().collect()),
            None => Ok(Mappings::default()),
        };
        let mappings = mappings.map_err(&mut keep).unwrap_or_default();
        let Routing { limits, quotas, ageing } = routing(reading, files).map_err(&mut keep).unwrap_or_default();
        if let (Some(catalog), Some(text), false) = (&catalog, files.get(CATALOG_FILE), limits.pools.is_empty()) {
            // Nobody looks for a word in a text that nobody wrote.
            let lost = lost_pins(catalog, &limits, if reading.checked { "" } else { text });
            if !lost.is_empty() {
                keep(lost.into());
            }
        }
        let limits = match machine {
            Some(Machine { memory_mib, milli_vcpu, containers }) => {
                limits.on_one_machine(memory_mib, milli_vcpu, containers)
            }
            None => limits,
        };
        let read = Self {
            catalog: catalog.unwrap_or_default(),
            limits,
            schedules: schedules.unwrap_or_default(),
            mappings,
            custodian,
            digest: digest(files),
            quotas,
            ageing,
        };
        wrong.or(read)
    }
}

/// The same policies, with those of their files that are YAML as the JSON that they stand for: how they are written where a
/// machine alone reads them. Cloud Custodian's, which it reads itself, stay as they are.
///
/// # Errors
///
/// One of them is no YAML.
pub fn as_json(files: &Files) -> Result<Files, Violations> {
    let mut all = files.clone();
    for name in [CATALOG_FILE, SCHEDULES_FILE, MAPPINGS_FILE, ROUTING_FILE, PRICES_FILE] {
        if let Some(text) = all.get_mut(name) {
            *text = read_value(name, text)?.to_string();
        }
    }
    Ok(all)
}

/// What the venues can do.
fn routing(reading: Reading, files: &Files) -> Result<Routing, Violations> {
    Ok(match (files.get(ROUTING_FILE), files.get(PRICES_FILE)) {
        (Some(routing), Some(prices)) => Routing::read(reading, (ROUTING_FILE, routing), (PRICES_FILE, prices))?,
        // A task decides nothing, and is given neither.
        (None, None) => Routing::default(),
        (None, Some(_)) => return Err(whole(ROUTING_FILE, "there is no such file beside prices.yaml").into()),
        (Some(_), None) => return Err(whole(PRICES_FILE, "there is no such file beside routing.yaml").into()),
    })
}

/// Pins to pools that there are not: a mistyped one would keep its capability from every place.
fn lost_pins(catalog: &Catalog, limits: &Limits, text: &str) -> Vec<PolicyError> {
    let known = |pin: &Pin| match pin {
        Pin::Venue(_) => true,
        Pin::Pool(name) => limits.pools.iter().any(|pool| pool.name == *name),
    };
    let places = || {
        let venues = Venue::ALL.iter().map(|venue| venue.as_str());
        venues.chain(limits.pools.iter().map(|pool| pool.name.as_str())).collect::<Vec<_>>().join(", ")
    };
    let mut lost = Vec::new();
    for capability in catalog.iter() {
        for (field, pins) in [("only", &capability.needs.only), ("prefer", &capability.needs.prefer)] {
            for pin in pins.iter().filter(|pin| !known(pin)) {
                let (line, column) = place_of(text, &capability.name, &pin.to_string());
                let name = &capability.name;
                let message =
                    format!("capability `{name}`: route.{field}: there is no `{pin}`; there are: {}", places());
                lost.push(PolicyError { line, column, ..whole(CATALOG_FILE, &message) });
            }
        }
    }
    lost
}

/// Where a word stands in the text, after the line that names the capability; line and column from 1.
fn place_of(text: &str, capability: &str, word: &str) -> (u64, u64) {
    let named = |line: &str| {
        line.contains("name:") && line.split([' ', '"', '\'', ',', '{', '}']).any(|part| part == capability)
    };
    let from = text.lines().position(named).unwrap_or(0);
    let found = text.lines().enumerate().skip(from).find_map(|(line, text)| Some((line, text.find(word)?)));
    found.map_or((0, 0), |(line, column)| (line as u64 + 1, column as u64 + 1))
}

fn whole(file: &str, message: &str) -> PolicyError {
    PolicyError { file: file.to_owned(), line: 0, column: 0, message: message.to_owned() }
}

fn digest(files: &Files) -> String {
    let mut hash = Sha256::new();
    for (path, text) in files {
        // With the lengths in front: what moves from one file to the next is a change.
        for part in [path, text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rules that were read and not put into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// What is wrong with them, one a line.
    pub why: Vec<String>,
}

/// The rules in force, and how they came to be.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The rules.
    pub policies: Arc<Policies>,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// The last that were to follow them and were refused.
    pub refused: Option<Refused>,
}

/// Where the rules in force lie. Whoever decides takes them once, and decides by those: a reload in the middle of a
/// decision changes nothing of it.
#[derive(Debug, Default)]
pub struct Shelf {
    in_force: RwLock<InForce>,
    changed: Event,
    observed: Arc<Observations>,
}

impl Shelf {
    /// A shelf with these rules on it.
    pub fn new(policies: Policies) -> Self {
        let in_force = InForce { policies: Arc::new(policies), since: None, refused: None };
        Self { in_force: RwLock::new(in_force), changed: Event::new(), observed: Arc::default() }
    }

    /// The rules in force now.
    pub fn policies(&self) -> Arc<Policies> {
        // A panic while the lock was held leaves one value or the other.
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner).policies)
    }

    /// The rules in force now, and how they came to be.
    pub fn in_force(&self) -> InForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What runs have shown of their needs, beside what the rules declare.
    pub fn observed(&self) -> &Arc<Observations> {
        &self.observed
    }

    /// Puts other rules into force.
    pub fn replace(&self, policies: Policies, at: Timestamp) {
        let in_force = InForce { policies: Arc::new(policies), since: Some(at), refused: None };
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        self.changed.notify(usize::MAX);
    }

    /// Keeps the rules in force, and remembers why others were refused.
    pub fn refuse(&self, refused: Refused) {
        self.in_force.write().unwrap_or_else(PoisonError::into_inner).refused = Some(refused);
    }

    /// Hears of the next replacement, if it comes after this call.
    pub fn changed(&self) -> EventListener {
        self.changed.listen()
    }
}

/// What a decision about a job must know besides the job.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// The rules in force.
    pub policies: Arc<Policies>,
    /// Who works.
    pub workers: Vec<Worker>,
    /// The pauses in force.
    pub pauses: Arc<Pauses>,
    /// What runs have shown of their needs.
    pub observed: Arc<Observations>,
}

impl Situation {
    /// What the venues can do.
    pub fn limits(&self) -> &Limits {
        &self.policies.limits
    }

    /// Whether a capability's jobs need permits.
    pub fn is_limited(&self, capability: &str) -> bool {
        self.policies.catalog.get(capability).is_some_and(|listed| listed.concurrent.is_some())
    }

    /// What keeps this job from starting now.
    pub fn brake(&self, job: &Job) -> Option<Brake<'_>> {
        brake(job, &self.pauses, &self.policies.catalog)
    }

    /// The pools with a worker that has room for such a job now.
    pub fn free(&self, needs: &Needs) -> Vec<PoolName> {
        let mut free: Vec<PoolName> =
            self.workers.iter().filter(|worker| worker.has_room_for(needs)).map(|worker| worker.pool).collect();
        free.sort_unstable();
        free.dedup();
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = "version: 1\ncapabilities:\n  - name: look\n    summary: s\n    run: { command: [du, \"{{path}}\"] }\n    input: { $ref: schemas/path.json }\n";
    const SCHEMA: &str =
        r#"{ "type": "object", "required": ["path"], "properties": { "path": { "type": "string" } } }"#;
    const SCHEDULES: &str =
        "version: 1\nschedules:\n  - { name: often, rate_minutes: 1, capability: look, payload: { path: /x } }\n";

    fn files(parts: &[(&str, &str)]) -> Files {
        parts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    fn parse(parts: &[(&str, &str)]) -> Result<Policies, Violations> {
        Policies::parse(&files(parts), &[], Some(Machine { memory_mib: 1024, milli_vcpu: 2000, containers: false }))
    }

    #[test]
    fn the_files_are_read_as_one() {
        let whole =
            parse(&[(CATALOG_FILE, CATALOG), ("schemas/path.json", SCHEMA), (SCHEDULES_FILE, SCHEDULES)]).unwrap();
        assert_eq!((whole.catalog.iter().count(), whole.schedules.iter().count()), (1, 1));
        assert_eq!(whole.limits, Limits::default().on_one_machine(1024, 2000, false));
        let without = parse(&[(CATALOG_FILE, CATALOG), ("schemas/path.json", SCHEMA)]).unwrap();
        assert_eq!(without.schedules.iter().count(), 0);
        assert_ne!(whole.digest, without.digest);
        assert_eq!(whole.digest.len(), 64);
    }

    #[test]
    fn a_pin_to_a_pool_that_is_not_there_is_named_with_its_place() {
        let shipped = |name: &str| {
            std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(name))
                .unwrap()
        };
        let (routing, prices) = (shipped(ROUTING_FILE), shipped(PRICES_FILE));
        let pinned = |pin: &str| {
            let catalog = format!(
                "version: 1\ncapabilities:\n  - name: look\n    summary: s\n    run: {{ command: [du] }}\n    route: {{ only: [{pin}] }}\n"
            );
            parse(&[(CATALOG_FILE, &catalog), (ROUTING_FILE, &routing), (PRICES_FILE, &prices)])
        };
        assert!(pinned("steady").is_ok() && pinned("fleet").is_ok());
        let told = pinned("flete").unwrap_err().to_string();
        assert_eq!(
            told,
            "capabilities.yaml:6:21: capability `look`: route.only: there is no `flete`; there are: inline, function, \
             fargate, fleet, standard, static, steady"
        );
    }

    #[test]
    fn whatever_is_wrong_in_any_file_is_told_at_once() {
        let broken =
            SCHEDULES.replace("/x", "7").replace("}\n", "}\n  - { name: late, cron: 0 2 * * *, capability: l }\n");
        let both = [(CATALOG_FILE, CATALOG), ("schemas/path.json", SCHEMA), (SCHEDULES_FILE, broken.as_str())];
        let all = [
            (CATALOG_FILE, "version: 1\ncapabilities:\n  - name: look\n"),
            ("schemas/path.json", "{\n  \"type\": object\n}"),
            (SCHEDULES_FILE, "version: 2\nschedules: []\n"),
        ];
        let told = [parse(&both), parse(&[]), parse(&all), parse(&[(CATALOG_FILE, CATALOG), all[1]])];
        let told = told.map(|read| read.unwrap_err().within("my-policies/").to_string());
        insta::assert_snapshot!(told.join("\n\n"));
    }

    #[test]
    fn rules_are_swapped_whole_and_a_refusal_is_remembered_until_better_ones_come() {
        let now = crate::testing::at(0);
        let good = || parse(&[(CATALOG_FILE, CATALOG), ("schemas/path.json", SCHEMA)]).unwrap();
        let shelf = Shelf::new(Policies::default());
        let changed = shelf.changed();
        let refused = Refused { at: now, why: vec!["no".to_owned()] };
        shelf.refuse(refused.clone());
        assert_eq!(shelf.in_force().refused, Some(refused));
        assert_eq!(shelf.policies().digest, "");
        shelf.replace(good(), now);
        assert_eq!((shelf.in_force().since, shelf.in_force().refused), (Some(now), None));
        assert_eq!(shelf.policies().digest, good().digest);
        futures_lite::future::block_on(changed);
    }
}
