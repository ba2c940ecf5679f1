//! What a process of a deployed yard is told in its environment, read whole and checked at its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use switchyard_core::catalog::Builtin;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ambient, Launcher, Yard};
use switchyard_core::route::PoolName;

use crate::clients::{Clients, Service, Settings};
use crate::environment as name;
use crate::home::{Home, Keeping, Names};
use crate::inventory::{self, AwsInventory};
use crate::kicks_lambda::LambdaKicks;
use crate::launcher_ecs::{self, Definitions, Doors, EcsLauncher, Network, PolicyStore};
use crate::launcher_function::FunctionLauncher;
use crate::launcher_none::NoLauncher;
use crate::lender_lambda::LambdaLender;
use crate::policies_s3::Parse;
use crate::rate::LaunchRates;

/// The container of the task definitions that is the worker.
pub const CONTAINER: &str = "worker";

/// A deployed yard, as one of its processes knows it.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// What it stands on.
    pub names: Names,
    /// How it keeps what it is given.
    pub keeping: Keeping,
    /// The bucket of its policies.
    pub policies: String,
    /// How it launches tasks; `None`: this process launches nothing, and the reaper does it.
    pub tasks: Option<launcher_ecs::Settings>,
    /// The function that runs jobs, for whoever launches; `None`: there is none.
    pub job_runner: Option<String>,
    /// The memory that function has, in MiB; `None`: as routing.yaml says.
    pub job_runner_memory_mib: Option<u32>,
    /// The function that is kicked where a bell rings and nobody works; `None`: this process kicks nobody.
    pub fleet_scaler: Option<String>,
    /// The function that lends credentials.
    pub broker: Option<String>,
    /// What the names of secrets begin with, for the broker itself.
    pub vault: Option<String>,
    /// The stream that carries what runs emit, for whoever runs them; `None`: there is none.
    pub record_stream: Option<String>,
    /// The pool that a worker serves.
    pub pool: PoolName,
    /// What the names of the pools' groups begin with; `None`: this process knows of none.
    pub groups: Option<String>,
    /// The Auto Scaling group that a worker's instance is of; `None`: it is of none.
    pub group: Option<String>,
}

/// A variable that is missing or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name}: {what}")]
pub struct EnvironmentError {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with it. Never its value.
    pub what: String,
}

/// Reads one process's environment.
struct Reader<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Reader<'_> {
    /// A value that is set and not empty.
    fn maybe(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn must(&self, name: &'static str) -> Result<String, EnvironmentError> {
        self.maybe(name).ok_or_else(|| EnvironmentError { name, what: "it is not set".to_owned() })
    }

    fn flag(&self, name: &'static str) -> Result<bool, EnvironmentError> {
        match self.maybe(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(EnvironmentError { name, what: "expected true or false".to_owned() }),
        }
    }

    fn list(&self, name: &'static str) -> Result<Vec<String>, EnvironmentError> {
        let list: Vec<String> =
            self.must(name)?.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        if list.is_empty() {
            Err(EnvironmentError { name, what: "expected names, by commas".to_owned() })
        } else {
            Ok(list)
        }
    }
}

impl Deployment {
    /// Reads it from an environment: `get` answers a variable's value.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let read = Reader(get);
        let names = Names {
            table: read.must(name::TABLE)?,
            queues: read.must(name::QUEUES)?,
            bucket: read.must(name::BUCKET)?,
            log_group: read.must(name::LOG_GROUP)?,
            bus: read.must(name::BUS)?,
        };
        let mut keeping = Keeping::default();
        if let Some(days) = read.maybe(name::RETENTION_DAYS) {
            let days = days.parse().ok().filter(|days| (1..=3660).contains(days));
            let days: u64 = days.ok_or_else(|| EnvironmentError {
                name: name::RETENTION_DAYS,
                what: "expected 1 to 3660 days".to_owned(),
            })?;
            keeping.retention = Duration::from_secs(days * 24 * 3600);
        }
        let policies = read.must(name::POLICY_BUCKET)?;
        let tasks = match read.maybe(name::ECS_CLUSTER) {
            Some(cluster) => Some(read.tasks(cluster, &names, &policies)?),
            None => None,
        };
        let pool = match read.maybe(name::POOL) {
            Some(pool) => {
                pool.parse().map_err(|error| EnvironmentError { name: name::POOL, what: format!("{error}") })?
            }
            None => PoolName::STANDARD,
        };
        let memory = read.maybe(name::JOB_RUNNER_MEMORY_MIB).map(|mib| {
            let what = "expected 128 to 10240 MiB".to_owned();
            let mib = mib.parse().ok().filter(|mib| (128..=10_240).contains(mib));
            mib.ok_or(EnvironmentError { name: name::JOB_RUNNER_MEMORY_MIB, what })
        });
        Ok(Self {
            names,
            keeping,
            policies,
            tasks,
            job_runner: read.maybe(name::JOB_RUNNER),
            job_runner_memory_mib: memory.transpose()?,
            fleet_scaler: read.maybe(name::FLEET_SCALER),
            broker: read.maybe(name::BROKER),
            vault: read.maybe(name::VAULT),
            record_stream: read.maybe(name::RECORD_STREAM),
            pool,
            groups: read.maybe(name::GROUPS),
            group: read.maybe(name::GROUP),
        })
    }
}

impl Deployment {
    /// Makes rules of policy files, for a yard that has these built-ins and is deployed so. Whoever put them into the bucket
    /// has checked them.
    pub fn parser(&self, builtins: &'static [Builtin]) -> Parse {
        let memory_mib = self.job_runner_memory_mib.unwrap_or(u32::MAX);
        Arc::new(move |files| {
            let mut policies = Policies::parse_pushed(files, builtins)?;
            let limits = &mut policies.limits;
            limits.function_memory_mib = limits.function_memory_mib.min(memory_mib);
            Ok(policies)
        })
    }

    /// The yard, with its doors, which launches by whatever `launching` makes. Nothing is asked of AWS yet.
    pub fn open(
        &self,
        clients: &Clients,
        shelf: Arc<Shelf>,
        ambient: Arc<dyn Ambient>,
        launching: Launching,
    ) -> (Home, Yard) {
        let home = Home::new(clients, self.names.clone(), self.keeping.clone(), ambient);
        let mut yard = home.yard(launching(self, clients, &home), shelf);
        if let Some(function) = &self.fleet_scaler {
            yard.fleet = Arc::new(LambdaKicks::new(clients, function, home.ledger.clone()));
        }
        if let Some(function) = &self.broker {
            yard.lender = Arc::new(LambdaLender::new(clients, function));
        }
        (home, yard)
    }
}

/// Makes what a process launches tasks by. A program that never launches names [`nothing`], and carries no client for it.
pub type Launching = fn(&Deployment, &Clients, &Home) -> Arc<dyn Launcher>;

/// Launches nothing: what is to be launched is left for a process that does.
pub fn nothing(_: &Deployment, _: &Clients, _: &Home) -> Arc<dyn Launcher> {
    Arc::new(NoLauncher)
}

/// Launches tasks and invokes the function that runs jobs, where the environment names them.
pub fn tasks(deployment: &Deployment, clients: &Clients, home: &Home) -> Arc<dyn Launcher> {
    let Some(settings) = &deployment.tasks else { return Arc::new(NoLauncher) };
    let blobs = home.blobs.clone();
    let function = deployment.job_runner.as_ref().map(|name| FunctionLauncher::new(clients, name));
    let doors = Doors {
        ecs: clients.ecs(),
        ledger: Arc::new(home.ledger.clone()),
        blobs: Arc::new(home.blobs.clone()),
        locate: Arc::new(move |blob| blobs.place(blob)),
        ambient: Arc::clone(home.ambient()),
        functions: function.map(|function| Arc::new(function) as Arc<dyn Launcher>),
    };
    Arc::new(EcsLauncher::new(doors, settings.clone()))
}

impl Deployment {
    /// What runs for this yard, as AWS has it.
    pub fn inventory(&self, clients: &Clients, home: &Home, yard: &Yard) -> AwsInventory {
        AwsInventory::new(inventory::Doors {
            autoscaling: clients.autoscaling(),
            groups: self.groups.clone(),
            ecs: clients.ecs(),
            cluster: self.tasks.as_ref().map(|tasks| tasks.cluster.clone()),
            ledger: home.ledger.clone(),
            table: self.names.table.clone(),
            shelf: Arc::clone(&yard.shelf),
            ambient: Arc::clone(&yard.ambient),
        })
    }
}

impl Reader<'_> {
    fn tasks(
        &self,
        cluster: String,
        names: &Names,
        policies: &str,
    ) -> Result<launcher_ecs::Settings, EnvironmentError> {
        Ok(launcher_ecs::Settings {
            cluster,
            definitions: Definitions {
                by_capability: BTreeMap::new(),
                worker: self.must(name::ECS_TASK_DEFINITION)?,
                prefix: self.must(name::TASK_PREFIX)?,
            },
            container: CONTAINER.to_owned(),
            network: Network {
                subnets: self.list(name::ECS_SUBNETS)?,
                security_groups: self.list(name::ECS_SECURITY_GROUP)?,
                public_address: self.flag(name::TASK_PUBLIC_ADDRESS)?,
            },
            platform: None,
            spot: self.flag(name::TASK_SPOT)?,
            table: names.table.clone(),
            environment: Vec::new(),
            policies: Some(PolicyStore { bucket: policies.to_owned(), prefix: name::POLICY_PREFIX.to_owned() }),
            tags: true,
            rates: LaunchRates::default(),
        })
    }
}

impl Settings {
    /// How the clients of this process reach AWS, from its environment.
    ///
    /// # Errors
    ///
    /// No region is set.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let read = Reader(get);
        let region = read.maybe(name::REGION).or_else(|| read.maybe("AWS_DEFAULT_REGION"));
        let region = region.ok_or_else(|| EnvironmentError { name: name::REGION, what: "it is not set".to_owned() })?;
        let mut settings = Self::new(&region);
        settings.endpoint = read.maybe(name::ENDPOINT_URL);
        for service in Service::ALL {
            if let Some(endpoint) = read.maybe(&format!("{}_{}", name::ENDPOINT_URL, service.in_environment())) {
                settings.endpoints.insert(service, endpoint);
            }
        }
        settings.ca_bundle = read.maybe(name::CA_BUNDLE).map(|path| {
            // In a function a path may begin where its code lies.
            PathBuf::from(read.maybe(name::TASK_ROOT).unwrap_or_default()).join(path)
        });
        Ok(settings)
    }

    /// Reads the certificates that are to be trusted instead of the system's, when there are any, before clients are made.
    ///
    /// # Errors
    ///
    /// They cannot be read, or one of them is broken.
    pub fn trust(mut self) -> Result<Self, EnvironmentError> {
        if let Some(path) = &self.ca_bundle {
            let wrong = |what: String| EnvironmentError { name: name::CA_BUNDLE, what };
            let pem = std::fs::read(path).map_err(|error| wrong(format!("the file cannot be read: {error}")))?;
            self.trusted = Some(certificates(pem).map_err(wrong)?);
        }
        Ok(self)
    }
}

/// The PEM text, when every certificate in it can be one that is trusted.
fn certificates(pem: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("the file is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("certificate {} of the file: {error}", roots.len() + 1))?;
    }
    if roots.is_empty() { Err("the file has no certificate".to_owned()) } else { Ok(pem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(&'static str, &'static str)> {
        vec![
            (name::TABLE, "yard"),
            (name::QUEUES, "yard"),
            (name::BUCKET, "yard-blobs"),
            (name::LOG_GROUP, "/switchyard/yard"),
            (name::BUS, "yard"),
            (name::POLICY_BUCKET, "yard-policies"),
            (name::ECS_CLUSTER, "yard"),
            (name::ECS_TASK_DEFINITION, "yard-worker"),
            (name::TASK_PREFIX, "yard-"),
            (name::ECS_SUBNETS, "subnet-a, subnet-b"),
            (name::ECS_SECURITY_GROUP, "sg-a"),
        ]
    }

    fn read(set: &[(&str, &str)]) -> Result<Deployment, EnvironmentError> {
        Deployment::read(&|asked| set.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn everything_that_is_needed_is_asked_for_by_name() {
        let found = read(&all()).unwrap();
        let tasks = found.tasks.unwrap();
        assert_eq!(tasks.network.subnets, ["subnet-a", "subnet-b"]);
        assert_eq!((tasks.spot, tasks.network.public_address, found.job_runner), (false, false, None));
        for (missing, _) in all() {
            let rest: Vec<_> = all().into_iter().filter(|(name, _)| *name != missing).collect();
            if missing == name::ECS_CLUSTER {
                assert_eq!(read(&rest).unwrap().tasks, None, "without a cluster no task is launched");
            } else {
                assert_eq!(read(&rest).unwrap_err().name, missing);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_its_value_is_not_repeated() {
        for (name, value) in [
            (name::RETENTION_DAYS, "0"),
            (name::RETENTION_DAYS, "s3cret"),
            (name::TASK_SPOT, "s3cret"),
            (name::ECS_SUBNETS, " , "),
            (name::POOL, "No Pool"),
            (name::JOB_RUNNER_MEMORY_MIB, "64"),
        ] {
            let set: Vec<_> = all().into_iter().filter(|(other, _)| *other != name).chain([(name, value)]).collect();
            let error = read(&set).unwrap_err();
            assert_eq!(error.name, name);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn certificates_are_read_from_a_file_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trusted.pem");
        let amazon =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/amazon-roots.pem")).unwrap();
        // Another length in its first bytes.
        let broken = amazon.replacen("MIIDQTCC", "MIIDQTCA", 1);
        assert_ne!(broken, amazon);
        for (text, wrong) in [
            (amazon.as_str(), None),
            ("", Some("the file has no certificate")),
            ("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", Some("the file is no PEM")),
            (broken.as_str(), Some("certificate 1 of the file")),
        ] {
            std::fs::write(&path, text).unwrap();
            let get = |asked: &str| match asked {
                name::REGION => Some("eu-central-1".to_owned()),
                name::CA_BUNDLE => Some("trusted.pem".to_owned()),
                name::TASK_ROOT => Some(folder.path().display().to_string()),
                _ => None,
            };
            match (Settings::read(&get).and_then(Settings::trust), wrong) {
                (Ok(settings), None) => assert_eq!(settings.trusted.as_deref(), Some(text.as_bytes())),
                (Err(error), Some(wrong)) => {
                    assert_eq!(error.name, name::CA_BUNDLE);
                    assert!(error.what.starts_with(wrong), "{}", error.what);
                }
                (read, _) => panic!("{:?} of {text:.60}", read.map(drop)),
            }
        }
    }

    #[test]
    fn a_service_has_an_endpoint_of_its_own_where_one_is_set() {
        let set = [
            (name::REGION, "eu-central-1"),
            (name::ENDPOINT_URL, "http://a"),
            ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "http://b"),
        ];
        let get = |asked: &str| set.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned());
        let settings = Settings::read(&get).unwrap();
        assert_eq!((settings.region.as_str(), settings.endpoint.as_deref()), ("eu-central-1", Some("http://a")));
        assert_eq!(settings.endpoints.get(&Service::Logs).map(String::as_str), Some("http://b"));
        assert_eq!(settings.endpoints.len(), 1);
        assert_eq!(Settings::read(&|_| None).unwrap_err().name, name::REGION);
    }
}
