//! Where the policies come from: a folder, or what this program was built with; and how they are read again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use switchyard_aws::policies_s3::{self, Pushed};
use switchyard_builtins::builtin;
use switchyard_core::job::Nonce;
use switchyard_core::policies::{
    CATALOG_FILE, CUSTODIAN, Files, MAPPINGS_FILE, Machine, NotReloaded, PRICES_FILE, Policies, PolicyError,
    ROUTING_FILE, Refused, Reload, Reloaded, SCHEDULES_FILE, SCHEMAS, Shelf, Violations, as_json, changes,
};
use switchyard_core::ports::Ambient;
use switchyard_embedded::folder::{read_policies, write_policies};
use switchyard_worker::engine::Engine;
use switchyard_worker::policies::{BUILT_IN, built_in};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::cloud::{clients, refused};
use crate::containers;
use crate::exit::Failure;
use crate::show;

/// The largest file: a thousand capabilities with their schemas written out, several times over.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most schemas, and the most Cloud Custodian policies: one a capability or a mapping, and then some.
const LISTED_MAX: usize = 2000;
/// All files together. A yard keeps their texts, and hands them to each of its tasks.
const FOLDER_BYTES: usize = 64 * 1024 * 1024;

/// The policies in a folder, or those built in, and the files that a folder's were read from.
pub(crate) fn load(folder: Option<&Path>, machine: Machine) -> Result<(Policies, Option<Files>), Violations> {
    match folder {
        None => Ok((parse(&built_in(), machine)?, None)),
        Some(folder) => {
            let files = read(folder)?;
            let policies = parse(&files, machine).map_err(|wrong| wrong.within(&folder.display().to_string()))?;
            Ok((policies, Some(files)))
        }
    }
}

/// The policies in a folder, or those built in, as the yard on AWS would have them.
pub(crate) fn as_on_aws(folder: Option<&Path>) -> Result<Policies, Failure> {
    let read = |folder: Option<&Path>| {
        let files = folder.map_or_else(|| Ok(built_in()), read)?;
        Policies::parse(&files, builtin::ALL, None)
    };
    read(folder).map_err(|wrong| Failure::Policies { wrong, exit: 2 })
}

/// The same, as a yard on this machine would have them, with a container engine.
pub(crate) fn as_here(folder: Option<&Path>) -> Result<Policies, Failure> {
    let machine = crate::local::machine(None, true);
    load(folder, machine).map(|(policies, _)| policies).map_err(|wrong| Failure::Policies { wrong, exit: 2 })
}

/// The policies that a yard handed to its tasks, or those built in.
pub(crate) fn of_task(file: Option<&Path>) -> Result<Policies, Failure> {
    let files = match file {
        None => built_in(),
        Some(file) => read_policies(file)
            .map_err(|cause| Failure::io(format!("read the policies in {}", file.display()), cause))?,
    };
    Policies::parse(&files, builtin::ALL, None).map_err(|wrong| Failure::Policies { wrong, exit: 8 })
}

/// What tasks need of the files: nothing of the clock, and nothing of where jobs run.
pub(crate) fn for_tasks(mut files: Files) -> Files {
    for file in [SCHEDULES_FILE, ROUTING_FILE, PRICES_FILE] {
        files.remove(file);
    }
    files
}

fn parse(files: &Files, machine: Machine) -> Result<Policies, Violations> {
    Policies::parse(files, builtin::ALL, Some(machine))
}

/// The texts in a policies folder. A file that is missing is left out, and judged by whoever needs it.
fn read(folder: &Path) -> Result<Files, Violations> {
    let unreadable = |path: &Path, cause: &io::Error| PolicyError {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        message: format!("cannot be read: {cause}"),
    };
    fs::read_dir(folder).map_err(|cause| unreadable(folder, &cause))?;
    let single = [CATALOG_FILE, SCHEDULES_FILE, MAPPINGS_FILE, ROUTING_FILE, PRICES_FILE];
    let mut names: Vec<String> = single.map(str::to_owned).to_vec();
    for (below, ends) in [(SCHEMAS, [".json"].as_slice()), (CUSTODIAN, &[".yml", ".yaml"])] {
        names.extend(list(folder, below, ends).map_err(|cause| unreadable(&folder.join(below), &cause))?);
    }
    let (mut files, mut wrong, mut bytes) = (Files::new(), Vec::new(), 0);
    for name in names {
        let path = folder.join(&name);
        match read_text(&path) {
            Ok(text) => {
                bytes += text.len();
                if bytes > FOLDER_BYTES {
                    let cause = io::Error::other(format!("its files are over {FOLDER_BYTES} bytes together"));
                    return Err(unreadable(folder, &cause).into());
                }
                files.insert(name, text);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => wrong.push(unreadable(&path, &error)),
        }
    }
    for (name, text) in BUILT_IN.iter().filter(|(name, _)| [ROUTING_FILE, PRICES_FILE].contains(name)) {
        files.entry((*name).to_owned()).or_insert_with(|| (*text).to_owned());
    }
    if wrong.is_empty() { Ok(files) } else { Err(wrong.into()) }
}

/// The files with such ends in a folder of the policies, by their paths in these.
fn list(folder: &Path, below: &str, ends: &[&str]) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder.join(below)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str().filter(|name| ends.iter().any(|end| name.ends_with(end))) {
            names.push(format!("{below}{name}"));
        }
        if names.len() > LISTED_MAX {
            return Err(io::Error::other(format!("expected at most {LISTED_MAX} files")));
        }
    }
    // Folders are listed in no order; which of two faults is told first must not depend on it.
    names.sort_unstable();
    Ok(names)
}

/// What is allowed in the policies and surely not meant, one a line.
fn warnings(policies: &Policies, folder: Option<&Path>) -> Vec<String> {
    let warnings = Violations::from(policies.mappings.warnings().to_vec());
    match folder {
        Some(folder) => warnings.within(&folder.display().to_string()).lines(),
        None => warnings.lines(),
    }
}

/// Logs what is allowed in the policies and surely not meant.
pub(crate) fn log_warnings(policies: &Policies, folder: Option<&Path>) {
    for warning in warnings(policies, folder) {
        warn!(warning, "a policy is surely not meant as it is written");
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    // Before it is opened: to open a pipe is to wait for whoever writes into it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(io::Error::other(format!("it is over {FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Reads a yard's policies again. Clones do the same.
#[derive(Clone)]
pub(crate) struct Rules {
    /// Where they lie; `None`: they are built in.
    pub(crate) folder: Option<PathBuf>,
    /// What they are read for.
    pub(crate) machine: Machine,
    /// Where tasks find them.
    pub(crate) for_tasks: PathBuf,
    /// Where they come into force.
    pub(crate) shelf: Arc<Shelf>,
    /// Time.
    pub(crate) ambient: Arc<dyn Ambient>,
    /// One reload at a time: else tasks might be left with the older of two.
    pub(crate) turn: Arc<Mutex<()>>,
    /// The container engine, where one is used.
    pub(crate) engine: Option<Engine>,
    /// The yard's id.
    pub(crate) yard: String,
    /// This start of the yard.
    pub(crate) boot: Nonce,
}

impl Rules {
    async fn reload_in_turn(self) -> Result<Reloaded, NotReloaded> {
        let Some(folder) = self.folder else { return Err(NotReloaded::BuiltIn) };
        let within = folder.clone();
        let _turn = self.turn.lock().await;
        let containers = ready(self.engine.as_ref(), &self.yard, self.boot).await;
        let (for_tasks, machine) = (self.for_tasks, Machine { containers, ..self.machine });
        let reading = tokio::task::spawn_blocking(move || {
            let (policies, files) = load(Some(&folder), machine).map_err(NotReloaded::Broken)?;
            let written = files.map_or(Ok(()), |files| write_policies(&for_tasks, &self::for_tasks(files)));
            written.map_err(|cause| NotReloaded::Failed(format!("cannot write {}: {cause}", for_tasks.display())))?;
            Ok(policies)
        });
        let read = reading.await.unwrap_or_else(|error| Err(NotReloaded::Failed(error.to_string())));
        let at = self.ambient.now();
        let policies = read.inspect_err(|error| {
            let why = match error {
                NotReloaded::Broken(violations) => violations.lines(),
                NotReloaded::BuiltIn | NotReloaded::Failed(_) => vec![error.to_string()],
            };
            self.shelf.refuse(Refused { at, why });
        })?;
        log_warnings(&policies, Some(&within));
        let changes = changes(&self.shelf.policies(), &policies);
        let digest = policies.digest.clone();
        self.shelf.replace(policies, at);
        Ok(Reloaded { at, digest, changes })
    }
}

/// Whether images can be run from now on: the engine answers, and nothing runs there of another start of this yard.
async fn ready(engine: Option<&Engine>, yard: &str, boot: Nonce) -> bool {
    let (true, Some(engine)) = (containers::answers(engine).await, engine) else { return false };
    match engine.sweep_other_boots(yard, boot).await {
        Ok(swept) => {
            info!(swept, "the container engine answers");
            true
        }
        Err(error) => {
            warn!(%error, "no images are run: containers of earlier runs cannot be removed");
            false
        }
    }
}

#[async_trait]
impl Reload for Rules {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        // A task of its own: once begun it is done, for the yard and for its tasks, whoever asked and hung up.
        let reloading = tokio::spawn(self.clone().reload_in_turn());
        let reloaded = reloading.await.unwrap_or_else(|error| Err(NotReloaded::Failed(error.to_string())));
        match &reloaded {
            Ok(Reloaded { digest, changes, .. }) => info!(digest, ?changes, "the policies are loaded again"),
            Err(error) => warn!(%error, "the policies are not loaded again"),
        }
        reloaded
    }
}

/// Whether policies are sound does not depend on the machine.
const ANY: Machine = Machine { memory_mib: u32::MAX, milli_vcpu: u32::MAX, containers: true };

/// Says whether the policies in a folder are sound.
pub(crate) fn check(folder: &Path) -> Result<u8, Failure> {
    let (policies, _) = load(Some(folder), ANY).map_err(|wrong| Failure::Policies { wrong, exit: 2 })?;
    for warning in warnings(&policies, Some(folder)) {
        eprintln!("warning: {warning}");
    }
    let (capabilities, schedules) = (policies.catalog.iter().count(), policies.schedules.iter().count());
    let (mappings, folder) = (policies.mappings.iter().count(), folder.display());
    let found = format!("{capabilities} capabilities, {schedules} schedules and {mappings} mappings");
    show::print(&format!("{folder}: {found}, all sound"))?;
    Ok(0)
}

/// Puts the policies in a folder, or those built in, into force for the yard on AWS whose policies are in `bucket`.
pub(crate) fn push(bucket: &str, folder: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let broken = |wrong| Failure::Policies { wrong, exit: 2 };
    let files = folder.map_or_else(|| Ok(built_in()), read).map_err(broken)?;
    let within = |wrong: Violations| folder.map_or(wrong.clone(), |folder| wrong.within(&folder.display().to_string()));
    let checked = Policies::parse(&files, builtin::ALL, None).map_err(|wrong| broken(within(wrong)))?;
    for warning in warnings(&checked, folder) {
        eprintln!("warning: {warning}");
    }
    // A function reads JSON for a tenth of what YAML costs.
    let files = as_json(&files).map_err(broken)?;
    // By whoever will read them.
    let policies = Policies::parse_pushed(&files, builtin::ALL).map_err(broken)?;
    let clients = clients()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    let Pushed { written, removed } = runtime.block_on(policies_s3::push(&clients, bucket, &files)).map_err(refused)?;
    let (digest, capabilities) = (&policies.digest, policies.catalog.iter().count());
    if json {
        let told = json!({ "bucket": bucket, "digest": digest, "written": written, "removed": removed });
        show::print_json(&told)?;
    } else {
        show::print(&format!(
            "{capabilities} capabilities in force within a minute: {written} objects written to bucket {bucket}, {removed} \
             removed (digest {digest})"
        ))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_policies_are_those_in_the_folder_and_are_sound() {
        let (built_in, files) = load(None, ANY).unwrap();
        assert_eq!(files, None);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let (on_disk, _) = load(Some(&folder), ANY).unwrap();
        assert_eq!(changes(&built_in, &on_disk), Vec::<String>::new());
        assert_eq!(on_disk.schedules.iter().count(), 0);
        assert_eq!(warnings(&on_disk, Some(&folder)), Vec::<String>::new());
        assert!(on_disk.mappings.iter().count() > 5 && built_in.custodian == on_disk.custodian);
    }

    #[test]
    fn tasks_have_the_mappings_and_their_policies() {
        let files = for_tasks(built_in());
        let policies = Policies::parse(&files, builtin::ALL, None).unwrap();
        assert!(
            policies.mappings.iter().all(|one| one.policies.iter().all(|path| policies.custodian.contains_key(path)))
        );
        assert!(policies.mappings.iter().count() > 5);
    }

    #[test]
    fn only_policies_by_their_endings_are_read_and_their_mappings_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(CATALOG_FILE, "version: 1\ncapabilities: []\n");
        write("custodian/b.yaml", "policies: []\n");
        write("custodian/a.yml", "policies: []\n");
        write("custodian/notes.txt", "no policy");
        let without = load(Some(folder.path()), ANY).unwrap().0;
        assert_eq!((without.mappings.iter().count(), without.custodian.len()), (0, 2));
        let mapping = |policy: &str| {
            let asked = r#"{ "source": "aws.config", "severity_at_least": "low" }"#;
            let entry = format!(r#"{{ "name": "m", "match": {asked}, "policies": ["custodian/{policy}"] }}"#);
            write(MAPPINGS_FILE, &format!("{{ \"version\": 1, \"mappings\": [\n{entry}\n] }}\n"));
            load(Some(folder.path()), ANY).map(|(policies, _)| policies)
        };
        let with = mapping("b.yaml").unwrap();
        assert_eq!(changes(&without, &with), ["mapping m: added"]);
        let place = folder.path().join(MAPPINGS_FILE).display().to_string();
        let warned = warnings(&with, Some(folder.path()));
        assert!(warned.len() == 1 && warned[0].starts_with(&format!("{place}:2:")), "{warned:?}");
        let refused = mapping("notes.txt").unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{place}:2:")) && refused.contains("policies[0]"), "{refused}");
        let refused = mapping("c.yml").unwrap_err().to_string();
        assert!(
            refused.ends_with("there is no `custodian/c.yml`; there are: custodian/a.yml, custodian/b.yaml"),
            "{refused}"
        );
    }
}
