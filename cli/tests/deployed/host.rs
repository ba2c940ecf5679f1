//! A small host that plays EC2: for each instance that moto's groups have, a metadata service and a real worker; for each
//! that they have no more, an end.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchyard_core::route::PoolName;

use crate::ec2::{Metadata, OfMoto};
use crate::engine::Engine;
use crate::tell;

/// What an operating system gives its services when it shuts down; a worker that has no more to do needs less.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// The worker of an instance: by its id, of a pool's group, with its metadata service and its engine.
pub(crate) type Worker<'a> = dyn Fn(&str, PoolName, &OfMoto, &Metadata, Option<&Engine>) -> Command + 'a;

/// An instance that runs.
struct Machine {
    pool: PoolName,
    child: Child,
    metadata: Metadata,
    engine: Option<Engine>,
    /// When EC2 takes it, whatever it does.
    taken_at: Option<Instant>,
    /// Since when it shuts down.
    ends_since: Option<Instant>,
}

/// The groups, and what runs for them.
pub(crate) struct Host {
    groups: Vec<(PoolName, OfMoto)>,
    machines: BTreeMap<String, Machine>,
    /// Where the workers' logs go.
    logs: PathBuf,
    /// Instances that were started so far.
    pub(crate) started: usize,
    /// The most that ran at once.
    pub(crate) most: usize,
}

impl Host {
    /// Nothing runs yet.
    pub(crate) fn new(groups: Vec<(PoolName, OfMoto)>, logs: PathBuf) -> Self {
        Self { groups, machines: BTreeMap::new(), logs, started: 0, most: 0 }
    }

    /// Does what EC2 does meanwhile: starts what the groups have and nobody runs, ends what they have no more, takes what
    /// is due to be taken, and has a group replace what went without asking it.
    pub(crate) async fn look(&mut self, worker: &Worker<'_>) {
        for (pool, group) in &self.groups {
            let there = group.instances().await;
            for id in &there {
                if !self.machines.contains_key(id) {
                    let metadata = Metadata::of(id);
                    let log = File::create(self.logs.join(format!("{id}.log"))).unwrap();
                    let engine = Engine::is_here().then(|| Engine::of(id, &self.logs));
                    let mut command = worker(id, *pool, group, &metadata, engine.as_ref());
                    command.stdout(Stdio::null()).stderr(log);
                    let child = command.spawn().unwrap();
                    let machine = Machine { pool: *pool, child, metadata, engine, taken_at: None, ends_since: None };
                    self.machines.insert(id.clone(), machine);
                    self.started += 1;
                }
            }
            let mut gone = Vec::new();
            for (id, machine) in self.machines.iter_mut().filter(|(_, machine)| machine.pool == *pool) {
                if machine.taken_at.is_some_and(|at| at <= Instant::now()) {
                    kill(&mut machine.child);
                }
                let over = machine.child.try_wait().unwrap().is_some();
                match (there.contains(id), over) {
                    (true, false) => {}
                    // It powered off, crashed or was taken: its group finds out, and starts another.
                    (true, true) => {
                        group.lose(id).await;
                        gone.push(id.clone());
                    }
                    (false, true) => gone.push(id.clone()),
                    (false, false) => match machine.ends_since {
                        None => {
                            tell(&machine.child, Signal::TERM);
                            machine.ends_since = Some(Instant::now());
                        }
                        Some(since) if since.elapsed() > SHUTDOWN => kill(&mut machine.child),
                        Some(_) => {}
                    },
                }
            }
            for id in gone {
                self.machines.remove(&id);
            }
        }
        self.most = self.most.max(self.machines.len());
    }

    /// Those that run and nobody ends, of the pool that spot takes from; the oldest first by their ids' order.
    pub(crate) fn well(&self) -> Vec<String> {
        let well = self.machines.iter().filter(|(_, machine)| {
            machine.pool == PoolName::STANDARD && machine.taken_at.is_none() && machine.ends_since.is_none()
        });
        well.map(|(id, _)| id.clone()).collect()
    }

    /// EC2 says that it takes this one in so many seconds, and then does.
    pub(crate) fn interrupt(&mut self, id: &str, seconds: u16) {
        let machine = self.machines.get_mut(id).unwrap();
        machine.metadata.interrupts("terminate", i64::from(seconds));
        machine.taken_at = Some(Instant::now() + Duration::from_secs(u64::from(seconds)));
    }

    /// It is gone, without a word.
    pub(crate) fn take(&mut self, id: &str) {
        kill(&mut self.machines.get_mut(id).unwrap().child);
    }

    /// It does nothing any more, though it is there; later it goes on as if nothing had been, or is taken.
    pub(crate) fn hang(&mut self, id: &str, hangs: bool) {
        if let Some(machine) = self.machines.get_mut(id) {
            tell(&machine.child, if hangs { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Its container engine stops; nothing to do where there is none.
    pub(crate) fn stop_engine(&self, id: &str) -> bool {
        let engine = self.machines.get(id).and_then(|machine| machine.engine.as_ref());
        engine.map(Engine::stop).is_some()
    }

    /// Whether nothing runs, and no group has anything or wants it.
    pub(crate) async fn is_empty(&self) -> bool {
        for (_, group) in &self.groups {
            let now = group.now().await;
            if now.desired > 0 || !now.instances.is_empty() {
                return false;
            }
        }
        self.machines.is_empty()
    }

    /// What the workers said that ran, for whoever asks why a test failed.
    pub(crate) fn logs(&self) -> &PathBuf {
        &self.logs
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for machine in self.machines.values_mut() {
            kill(&mut machine.child);
        }
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
